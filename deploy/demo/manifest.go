package main

import (
	"embed"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

//go:embed manifests/*.yaml
var manifests embed.FS

// copyManifests writes the manifests to a new directory.
func copyManifests(dir string) error {
	from, err := fs.Sub(manifests, "manifests")
	if err != nil {
		return err
	}
	return os.CopyFS(dir, from)
}

// replaceFile puts text in place of what a file says, at once, as editors do.
func replaceFile(path, text string) error {
	draft := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".draft")
	if err := os.WriteFile(draft, []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(draft, path)
}

// without returns text without the lines that have word in them, and these lines.
func without(text, word string) (rest string, cut []string) {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.Contains(line, word) {
			cut = append(cut, strings.TrimSpace(line))
			continue
		}
		b.WriteString(line)
	}
	return b.String(), cut
}
