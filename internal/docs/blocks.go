package docs

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Document is a page of the documentation.
type Document struct {
	Path   string // from the top of the repository
	Text   string
	Blocks []Block
}

// Block is a piece of code in a document.
type Block struct {
	Line int // of its first line, from 1
	// Language is the first word after the fence, "" if there is none or the block is indented.
	Language string
	Run      bool // the word run follows the language: a test runs it
	Text     string
}

// Top returns the top of the repository.
func Top() string { return filepath.Dir(Dir()) }

// Documents reads every document: README.md, docs/ and those beside what they are about.
func Documents() ([]Document, error) {
	var out []Document
	for _, pattern := range []string{"*.md", "docs/*.md", "deploy/*.md", "deploy/*/*.md"} {
		paths, err := filepath.Glob(filepath.Join(Top(), pattern))
		if err != nil {
			return nil, err
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				return nil, err
			}
			name, err := filepath.Rel(Top(), path)
			if err != nil {
				return nil, err
			}
			blocks, err := Blocks(string(text))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			out = append(out, Document{name, string(text), blocks})
		}
	}
	return out, nil
}

// languages are those that a block may be in: others nobody checks.
var languages = []string{"", "sh", "yaml", "json", "go", "text"}

// Blocks returns the fenced and the indented blocks of a document.
func Blocks(text string) ([]Block, error) {
	var out []Block
	var open *Block
	fenced, blank := false, true
	for i, line := range strings.Split(text, "\n") {
		info, fence := strings.CutPrefix(line, "```")
		switch {
		case fenced && fence:
			out, open, fenced = append(out, *open), nil, false
		case fenced:
			open.Text += line + "\n"
		case fence:
			words := strings.Fields(info)
			open, fenced = &Block{Line: i + 2}, true
			if len(words) > 0 {
				open.Language, open.Run = words[0], slices.Contains(words[1:], "run")
			}
			if !slices.Contains(languages, open.Language) || open.Run && open.Language != "sh" {
				return nil, fmt.Errorf("line %d: a block in %q: not one of %q, of which sh can be run", i+1, info, languages)
			}
		case strings.HasPrefix(line, "    ") && (open != nil || blank):
			if open == nil {
				open = &Block{Line: i + 1}
			}
			open.Text += line[4:] + "\n"
		case open != nil:
			out, open = append(out, *open), nil
		}
		blank = strings.TrimSpace(line) == ""
	}
	if fenced {
		return nil, fmt.Errorf("line %d: a block that does not end", open.Line)
	}
	if open != nil {
		out = append(out, *open)
	}
	return out, nil
}

// Commands returns the command lines in a block that begin with a program's name, with lines that go on
// after a backslash joined, and without prompts, comments and what follows in a pipe or list.
func (b Block) Commands(program string) []string {
	if b.Language != "" && b.Language != "sh" {
		return nil
	}
	var out []string
	for line := range strings.Lines(strings.ReplaceAll(b.Text, "\\\n", " ")) {
		line = strings.TrimPrefix(strings.TrimPrefix(strings.TrimSpace(line), "# "), "$ ")
		if !strings.HasPrefix(line, program+" ") {
			continue
		}
		for _, end := range []string{" #", " |", " &", ";", " >", " <"} {
			line, _, _ = strings.Cut(line, end)
		}
		if strings.Contains(line, "──") {
			continue // a drawing
		}
		out = append(out, strings.TrimSpace(line))
	}
	return out
}
