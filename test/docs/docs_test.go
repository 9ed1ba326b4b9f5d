package docs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"k8s.io/apimachinery/pkg/runtime"
	kjson "k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"github.com/weir-project/weir/internal/docs"
)

func documents(t *testing.T) []docs.Document {
	t.Helper()
	list, err := docs.Documents()
	if err != nil {
		t.Fatal(err)
	}
	if len(list) < 10 {
		t.Fatalf("only %d documents", len(list))
	}
	return list
}

func TestBlocksParse(t *testing.T) {
	for _, d := range documents(t) {
		for _, b := range d.Blocks {
			if err := parse(b); err != nil {
				t.Errorf("%s:%d: %v", d.Path, b.Line, err)
			}
		}
	}
}

// parse reports what is wrong with a block.
func parse(b docs.Block) error {
	switch b.Language {
	case "sh":
		cmd := exec.Command("bash", "-n")
		cmd.Stdin = strings.NewReader(b.Text)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("bash: %s", bytes.TrimSpace(out))
		}
	case "yaml":
		return parseYAML(b.Text)
	case "json":
		var v any
		return json.Unmarshal([]byte(b.Text), &v)
	case "go":
		return parseGo(b.Text)
	}
	return nil
}

// parseGo takes a file, declarations or statements.
func parseGo(text string) (err error) {
	for _, around := range []string{"%s", "package p\n%s", "package p\nfunc f() {\n%s\n}"} {
		if _, err = parser.ParseFile(token.NewFileSet(), "", fmt.Sprintf(around, text), parser.SkipObjectResolution); err == nil {
			return nil
		}
	}
	return err
}

// parseYAML decodes documents; objects of kinds that Kubernetes has, strictly.
func parseYAML(text string) error {
	strict := kjson.NewSerializerWithOptions(kjson.DefaultMetaFactory, scheme.Scheme, scheme.Scheme, kjson.SerializerOptions{Yaml: true, Strict: true})
	for doc := range strings.SplitSeq(text, "\n---\n") {
		var head any
		if err := yaml.UnmarshalStrict([]byte(doc), &head); err != nil {
			return err
		}
		object, ok := head.(map[string]any)
		if !ok || object["kind"] == nil || object["apiVersion"] == nil {
			continue
		}
		if _, _, err := strict.Decode([]byte(doc), nil, nil); err != nil && !runtime.IsNotRegisteredError(err) {
			return err
		}
	}
	return nil
}

func TestWrongBlocksAreFound(t *testing.T) {
	for _, b := range []docs.Block{
		{Language: "sh", Text: "if true; then\n"},
		{Language: "sh", Text: "cat 'x\n"},
		{Language: "json", Text: "{"},
		{Language: "go", Text: "func ("},
		{Language: "yaml", Text: "a: 1\na: 2\n"},
		{Language: "yaml", Text: "apiVersion: v1\nkind: Service\nspec: {clusterIps: [10.96.0.1]}\n"},
	} {
		if parse(b) == nil {
			t.Errorf("%s block %q is taken", b.Language, b.Text)
		}
	}
}

var linkPattern = regexp.MustCompile(`\[[^\]]*\]\(([^)\s]+)\)`)

// Links lead to files that are there and to headings in them. Those to elsewhere cannot be followed here.
func TestLinks(t *testing.T) {
	seen := 0
	for _, d := range documents(t) {
		for _, link := range linkPattern.FindAllStringSubmatch(prose(d), -1) {
			if strings.Contains(link[1], "://") {
				continue
			}
			seen++
			if err := follow(d.Path, link[1]); err != nil {
				t.Errorf("%s: %s: %v", d.Path, link[1], err)
			}
		}
	}
	if seen < 20 {
		t.Errorf("only %d links found", seen)
	}
	for _, wrong := range []string{"nowhere.md", "dns.md#nothing", "../../outside"} {
		if follow("docs/README.md", wrong) == nil {
			t.Errorf("the link %s is taken", wrong)
		}
	}
}

// prose is a document without its blocks.
func prose(d docs.Document) string {
	text := d.Text
	for _, b := range d.Blocks {
		text = strings.ReplaceAll(text, b.Text, "")
	}
	return text
}

// follow reports why a link in a document leads nowhere.
func follow(from, link string) error {
	file, anchor, _ := strings.Cut(link, "#")
	target := from
	if file != "" {
		target = path.Join(path.Dir(from), file)
	}
	if strings.HasPrefix(target, "..") {
		return errors.New("leads out of the repository")
	}
	info, err := os.Stat(filepath.Join(docs.Top(), target))
	if err != nil || anchor == "" || info.IsDir() {
		return err
	}
	text, err := os.ReadFile(filepath.Join(docs.Top(), target))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		if heading := strings.TrimLeft(line, "#"); heading != line && slug(heading) == anchor {
			return nil
		}
	}
	return fmt.Errorf("there is no such heading in %s", target)
}

// slug returns the anchor that a heading has where Markdown is shown: lower case, words with hyphens between
// them, and no other signs.
func slug(heading string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(strings.TrimSpace(heading)) {
		switch {
		case r == ' ':
			b.WriteRune('-')
		case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
			b.WriteRune(r)
		}
	}
	return b.String()
}

// Every page of docs/ is in its index.
func TestIndex(t *testing.T) {
	index, err := os.ReadFile(filepath.Join(docs.Dir(), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range documents(t) {
		if dir, name := path.Split(d.Path); dir == "docs/" && name != "README.md" && !strings.Contains(string(index), "("+name) {
			t.Errorf("docs/README.md does not mention %s", name)
		}
	}
}

func TestNetnsRunnableBlocks(t *testing.T) {
	if os.Geteuid() != 0 || missing("unshare", "mount", "ip", "nft", "curl") {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root and the commands unshare, mount, ip, nft and curl")
		}
		t.Skip("needs root and the commands unshare, mount, ip, nft and curl")
	}
	bin := t.TempDir()
	if err := provide(filepath.Join(bin, "weir")); err != nil {
		t.Fatal(err)
	}
	runnable := 0
	for _, d := range documents(t) {
		script := ""
		for _, b := range d.Blocks {
			if b.Run {
				runnable++
				script += fmt.Sprintf("echo '%s:%d' >&3\n%s", d.Path, b.Line, b.Text)
			}
		}
		if script == "" {
			continue
		}
		t.Run(d.Path, func(t *testing.T) {
			if at, err := execute(t, bin, script); err != nil {
				t.Errorf("the block at %s: %v", at, err)
			}
		})
	}
	if runnable < 3 {
		t.Errorf("only %d runnable blocks", runnable)
	}
	if at, err := execute(t, bin, "echo one >&3\ntrue\necho two >&3\nfalse\necho three >&3\n"); err == nil || at != "two" {
		t.Errorf("a block that fails is taken: %q, %v", at, err)
	}
}

// provide puts a weir at a path: that of WEIR_BINARY, or a new build.
func provide(path string) error {
	if binary := os.Getenv("WEIR_BINARY"); binary != "" {
		return os.Symlink(binary, path)
	}
	build := exec.Command("go", "build", "-o", path, "./cmd/weir")
	build.Dir = docs.Top()
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build weir: %w\n%s", err, out)
	}
	return nil
}

func missing(commands ...string) bool {
	for _, c := range commands {
		if _, err := exec.LookPath(c); err != nil {
			return true
		}
	}
	return false
}

// execute runs a script in namespaces of its own, which end with it and with everything in them. It returns
// the last line that was written to descriptor 3.
func execute(t *testing.T, bin, script string) (at string, err error) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	const around = "mount -t tmpfs tmpfs /run\nip link set lo up\nset -eu -o pipefail\n"
	cmd := exec.Command("timeout", "120", "unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "bash", "-c", around+script)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = &out, &out, []*os.File{w}
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "DIR="+t.TempDir())
	err = cmd.Start()
	_ = w.Close()
	if err != nil {
		t.Fatal(err)
	}
	lines, _ := io.ReadAll(r)
	if err = cmd.Wait(); err != nil {
		err = fmt.Errorf("%w\n%s", err, out.String())
	}
	all := strings.Fields(string(lines))
	if len(all) > 0 {
		at = all[len(all)-1]
	}
	return at, err
}
