package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestScreen(t *testing.T) {
	var out strings.Builder
	s := &screen{w: &out}
	s.title("1. A step")
	s.say("What is done.")
	s.claim(nil, "it is so")
	s.claim(unlike("this", "that"), "it is  not so")
	want := "\n1. A step\n   What is done.\n ✓ it is so\n ✗ it is  not so\n     wanted: this\n     saw: that\n"
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
	if s.claims != 2 || s.failed != 1 {
		t.Errorf("%d claims, %d failed; want 2, 1", s.claims, s.failed)
	}
}

func TestScreenColor(t *testing.T) {
	var out strings.Builder
	s := &screen{w: &out, color: true}
	s.claim(errors.New("oh"), "it is so")
	if want := " \x1b[31m✗\x1b[0m \x1b[31mit is so\x1b[0m\n     \x1b[31moh\x1b[0m\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestScreenBroken(t *testing.T) {
	calls := 0
	s := &screen{w: brokenWriter{}, broken: func(error) { calls++ }}
	s.say("one")
	s.say("two")
	if calls != 1 || !errors.Is(s.err, io.ErrClosedPipe) {
		t.Errorf("%d calls, %v; want one, and %v", calls, s.err, io.ErrClosedPipe)
	}
}

func TestWrap(t *testing.T) {
	for _, tc := range []struct{ text, want string }{
		{"", ""},
		{"a  b", "a  b"},
		{"µµ µµ µµ", "µµ µµ|µµ"},
		{"aaaaaaaa b", "aaaaaaaa|b"},
		{"a bbb cc", "a bbb|cc"},
	} {
		if got := strings.Join(wrap(tc.text, 5), "|"); got != tc.want {
			t.Errorf("wrap(%q): %q, want %q", tc.text, got, tc.want)
		}
	}
}

func TestShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		700:                     "0 µs",
		312400:                  "312 µs",
		1234567:                 "1.23 ms",
		21 * time.Millisecond:   "21 ms",
		1700 * time.Millisecond: "1.7 s",
	} {
		if got := short(d); got != want {
			t.Errorf("short(%d): %q, want %q", d, got, want)
		}
	}
}

const syncedLine = `I0130 12:00:00.000000   17 sync.go:238] "Synced" revision=7 full=false services=1 ops=22 duration="312.4µs"`

func TestParseSync(t *testing.T) {
	got, ok := parseSync(syncedLine)
	if want := (syncLine{services: 1, ops: 22, duration: 312400}); !ok || got != want {
		t.Errorf("got %+v, %t; want %+v", got, ok, want)
	}
	for _, line := range []string{
		"",
		strings.Replace(syncedLine, `"Synced"`, `"Sync failed"`, 1),
		strings.Replace(syncedLine, "ops=22", "ops=many", 1),
		strings.Replace(syncedLine, " ops=22", "", 1),
		strings.Replace(syncedLine, `"312.4µs"`, "312", 1),
		strings.Replace(syncedLine, `full=false`, `full=perhaps`, 1),
	} {
		if got, ok := parseSync(line); ok {
			t.Errorf("%s is read as %+v", line, got)
		}
	}
}

func TestJournal(t *testing.T) {
	var copied strings.Builder
	j := newJournal(&copied)
	mark := j.mark()
	got := make(chan syncLine)
	go func() {
		s, _ := j.wait(t.Context(), mark)
		got <- s
	}()
	for _, part := range []string{"first\n" + syncedLine[:50], syncedLine[50:], "\nlast\nunfinished"} {
		if _, err := io.WriteString(j, part); err != nil {
			t.Fatal(err)
		}
	}
	if s := <-got; s.ops != 22 || s.at.IsZero() {
		t.Errorf("got %+v", s)
	}
	if n := len(j.since(mark)); n != 1 {
		t.Errorf("%d syncs, want 1", n)
	}
	if want := []string{"first", syncedLine, "last"}; strings.Join(j.last(), "\n") != strings.Join(want, "\n") {
		t.Errorf("last lines %q, want %q", j.last(), want)
	}
	if want := "first\n" + syncedLine + "\nlast\nunfinished"; copied.String() != want {
		t.Errorf("copied %q, want %q", copied.String(), want)
	}
	over, cancel := context.WithCancelCause(t.Context())
	cancel(io.EOF)
	if _, err := j.wait(over, j.mark()); !errors.Is(err, io.EOF) {
		t.Errorf("error %v, want %v", err, io.EOF)
	}
}

func TestWithout(t *testing.T) {
	rest, cut := without("a\n  - b 1\n  - c 1", "b 1")
	if rest != "a\n  - c 1" || len(cut) != 1 || cut[0] != "- b 1" {
		t.Errorf("rest %q, cut %q", rest, cut)
	}
}

// The edits of the demo find their lines in the manifest.
func TestEditsFindTheirLines(t *testing.T) {
	web, err := manifests.ReadFile("manifests/web.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if _, cut := without(string(web), endpointLine); len(cut) != 2 {
		t.Errorf("%q cuts %q, want one line of each family", endpointLine, cut)
	}
}

func TestReady(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		weir   string
		euid   int
		wanted string
	}{
		{"not root", text, 1000, "need root"},
		{"not built", filepath.Join(dir, "weir"), 0, "run make build first"},
		{"a directory", dir, 0, "is not a program"},
		{"not a program", text, 0, "is not a program"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := options{weir: tc.weir}
			verdictOf(t, o.ready(tc.euid), tc.wanted)
		})
	}
}
