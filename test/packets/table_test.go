//go:build linux

package packets

import (
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// procedures are the directories of tests that take more than lines.
var procedures = []string{"affinity", "flows", "health-check", "neighbours"}

// Every line can be read, names what there is, and has a name of its own. What a line means depends on
// the lab, so there is a word for each of its hosts only.
func TestTable(t *testing.T) {
	known := map[string]bool{}
	worldNames := map[string]bool{}
	used := map[string]bool{"testdata/common": true}
	for _, w := range worlds {
		if worldNames[w.name] {
			t.Errorf("two worlds are called %s", w.name)
		}
		worldNames[w.name] = true
		used[w.directory()] = true
		for _, st := range w.steps {
			used[filepath.Join(w.directory(), st.over)] = true
			files, err := w.files(st)
			if err != nil {
				t.Error(err)
			}
			if _, err := read(files); err != nil {
				t.Errorf("%s %s: %v", w.name, label(st), err)
			}
			here := map[string]bool{}
			for _, p := range st.packets {
				if here[p.name] {
					t.Errorf("two lines are called %s", id(&w, st, p))
				}
				here[p.name] = true
				known[id(&w, st, p)] = true
				if p.name == "" || p.from == "" || p.to == "" || p.want == "" || strings.Contains(p.name, "/") {
					t.Errorf("%s: %+v", w.name, p)
				}
			}
		}
	}
	for id := range pending {
		if !known[id] {
			t.Errorf("%q is pending and there is no such line", id)
		}
	}
	for name := range pendingWorlds {
		if !worldNames[name] {
			t.Errorf("%q is pending and there is no such world", name)
		}
	}
	err := filepath.WalkDir("testdata", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && path != "testdata" && !used[path] && !slices.Contains(procedures, strings.Split(path, "/")[1]) {
			t.Errorf("%s belongs to no world", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestTries(t *testing.T) {
	for n, want := range map[int]int{1: 4, 2: 30, 3: 50, 5: 91} {
		if got := tries(n); got < want-4 || got > want+4 {
			t.Errorf("tries(%d) = %d, want about %d", n, got, want)
		}
	}
}
