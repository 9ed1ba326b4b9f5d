package manifests

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/weir-project/weir/endpoints"
)

// file is one manifest as we know it.
type file struct {
	name    string
	info    fs.FileInfo // when it was read; nil: it was not, or could not be
	read    time.Time
	sum     [sha256.Size]byte
	content content   // the last that could be parsed
	broken  bool      // what stands in the file now could not be read
	gone    time.Time // when it was first found missing. Zero: it is there
}

// racy is how long after its last change a file is read again although it looks the same: some
// file systems keep no finer time stamps.
const racy = 2 * time.Second

// wanted reports whether a file by its name is a manifest, and not what an editor or a ConfigMap
// volume keeps beside it.
func wanted(name string) bool {
	if strings.HasPrefix(name, ".") || strings.HasPrefix(name, "~") || strings.HasPrefix(name, "#") {
		return false
	}
	switch filepath.Ext(name) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

// scan brings files up to date with the directory. It reports whether anything changed, and after
// which time to look again at what is still being written; 0: nothing is. It fails if the directory
// cannot be listed; everything then stays as it is.
func (s *Source) scan() (changed bool, again time.Duration, err error) {
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		return false, 0, fmt.Errorf("manifests: %w", err)
	}
	there := map[string]bool{}
	for _, entry := range entries {
		if wanted(entry.Name()) {
			there[entry.Name()] = s.look(entry.Name(), &changed, &again)
		}
	}
	s.files = slices.DeleteFunc(s.files, func(f *file) bool {
		if there[f.name] {
			f.gone = time.Time{}
			return false
		}
		if f.gone.IsZero() {
			f.gone = time.Now()
		}
		if wait := quiet - time.Since(f.gone); wait > 0 {
			// A program may write a file anew by removing it first.
			again = max(again, wait)
			return false
		}
		changed = changed || len(f.content.objects) > 0
		return true
	})
	return changed, again, nil
}

// look reads a file if it may have changed, and reports whether there is one.
func (s *Source) look(name string, changed *bool, again *time.Duration) bool {
	path := filepath.Join(s.Dir, name)
	info, err := os.Stat(path) // of what a link points to
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
		return false
	}
	f := s.file(name)
	if err == nil && f.same(info) {
		return true
	}
	if err == nil {
		if wait := quiet - time.Since(info.ModTime()); wait > 0 && wait <= quiet {
			*again = max(*again, wait)
			return true
		}
	}
	now := time.Now()
	var data []byte
	if err == nil {
		data, err = os.ReadFile(path)
	}
	if err != nil {
		s.unreadable(f, path, err)
		return true
	}
	f.info, f.read = info, now
	if s.parse(f, path, data) {
		*changed = true
	}
	return true
}

// file returns what we know of a file, and makes it known.
func (s *Source) file(name string) *file {
	byName := func(f *file, name string) int { return strings.Compare(f.name, name) }
	at, found := slices.BinarySearchFunc(s.files, name, byName)
	if !found {
		s.files = slices.Insert(s.files, at, &file{name: name})
	}
	return s.files[at]
}

// same reports whether a file looks as it did when it was read, and that can be relied on.
func (f *file) same(info fs.FileInfo) bool {
	return f.info != nil && os.SameFile(f.info, info) && f.info.Size() == info.Size() &&
		f.info.ModTime().Equal(info.ModTime()) && f.read.Sub(info.ModTime()) > racy
}

// unreadable reports a file that is there but cannot be read, once.
func (s *Source) unreadable(f *file, path string, err error) {
	if !f.broken {
		f.broken = true
		f.sum = [sha256.Size]byte{}
		s.Reporter.Report(endpoints.Problem{Kind: "Manifest", Object: endpoints.Name{Name: f.name}, Reason: err.Error(), Source: path})
	}
	f.info = nil
}

// parse takes in what stands in a file, and reports whether it is new. If it cannot be parsed, what
// the file said before stays in force.
func (s *Source) parse(f *file, path string, data []byte) bool {
	sum := sha256.Sum256(data)
	if bytes.Equal(sum[:], f.sum[:]) {
		return false
	}
	f.sum = sum
	c, err := decode(path, data, s.DNS, s.podsOf())
	if err != nil {
		f.broken = true
		source := path
		if at := (*syntaxError)(nil); errors.As(err, &at) {
			source = fmt.Sprintf("%s:%d", path, at.line)
		}
		s.Reporter.Report(endpoints.Problem{
			Kind: "Manifest", Object: endpoints.Name{Name: f.name}, Source: source,
			Reason: err.Error() + "; what the file said before stays in force",
		})
		return false
	}
	anew := len(f.content.objects)+len(c.objects) > 0
	f.broken, f.content = false, c
	for _, p := range c.problems {
		s.Reporter.Report(p)
	}
	for _, kind := range c.ignored {
		s.log.V(2).Info("Kind of object is ignored", "file", path, "kind", kind)
	}
	return anew
}
