// Package docs keeps the generated parts of the documents as the code says. It is for tests: each
// writes down what it finds, and compares that with the document.
//
// A generated part stands between two comments that nobody sees in the rendered page:
//
//	<!-- generated: flags -->
//	…
//	<!-- end: flags -->
//
// With UPDATE_DOCS set (make docs) the part is written anew instead.
package docs

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Dir returns the directory of the documents.
func Dir() string {
	_, here, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(here), "..", "..", "docs")
}

// Check fails the test unless the part of a document, such as metrics.md, is what it should be.
func Check(t testing.TB, document, part, want string) {
	t.Helper()
	path := filepath.Join(Dir(), document)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, old, after, err := split(string(text), part)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	want = "\n" + strings.TrimSpace(want) + "\n"
	switch {
	case old == want:
	case os.Getenv("UPDATE_DOCS") != "":
		if err := os.WriteFile(path, []byte(before+want+after), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("docs/%s is not what the code says: run make docs (-document +code):\n%s", document, cmp.Diff(old, want))
	}
}

// split takes the part out of a document.
func split(text, part string) (before, old, after string, err error) {
	begin, end := fmt.Sprintf("<!-- generated: %s -->", part), fmt.Sprintf("<!-- end: %s -->", part)
	i, j := strings.Index(text, begin), strings.Index(text, end)
	if i < 0 || j < i {
		return "", "", "", fmt.Errorf("there is no %s followed by %s", begin, end)
	}
	i += len(begin)
	return text[:i], text[i:j], text[j:], nil
}

// Cell returns text as it stands in a cell of a table.
func Cell(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	return strings.NewReplacer("|", `\|`, "<", "&lt;", ">", "&gt;").Replace(s)
}
