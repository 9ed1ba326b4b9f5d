package main

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// columns is how wide the demo writes at most. Commands with long paths stand on a line of their own.
const columns = 100

// screen is where the demo tells its story.
type screen struct {
	w      io.Writer
	color  bool
	broken func(error) // called once when w takes no more

	err            error
	claims, failed int
}

const (
	bold  = "1"
	dim   = "2"
	red   = "31"
	green = "32"
)

func (s *screen) paint(style, text string) string {
	if !s.color {
		return text
	}
	return "\x1b[" + style + "m" + text + "\x1b[0m"
}

// line writes one line as it is.
func (s *screen) line(text string) {
	if s.err != nil {
		return
	}
	if _, s.err = fmt.Fprintln(s.w, text); s.err != nil && s.broken != nil {
		s.broken(s.err)
	}
}

// title begins a step.
func (s *screen) title(text string) {
	s.line("")
	s.line(s.paint(bold, text))
}

// say tells what is being done.
func (s *screen) say(format string, args ...any) {
	s.wrapped("   ", "   ", "", fmt.Sprintf(format, args...))
}

// note explains, in the background.
func (s *screen) note(format string, args ...any) {
	s.wrapped("   ", "   ", dim, fmt.Sprintf(format, args...))
}

// row writes a line of a table, or of a file.
func (s *screen) row(format string, args ...any) {
	s.line(strings.TrimRight("   "+fmt.Sprintf(format, args...), " "))
}

// claim says that something is so, unless err tells what is so instead.
func (s *screen) claim(err error, format string, args ...any) {
	s.claims++
	text := fmt.Sprintf(format, args...)
	if err == nil {
		s.wrapped(" "+s.paint(green, "✓")+" ", "   ", "", text)
		return
	}
	s.failed++
	s.wrapped(" "+s.paint(red, "✗")+" ", "   ", red, text)
	for _, line := range strings.Split(err.Error(), "\n") {
		s.wrapped("     ", "       ", red, line)
	}
}

// wrapped writes text in as many lines as it takes.
func (s *screen) wrapped(first, next, style, text string) {
	indent := first
	for _, line := range wrap(text, columns-utf8.RuneCountInString(next)) {
		if style != "" {
			line = s.paint(style, line)
		}
		s.line(indent + line)
		indent = next
	}
}

// wrap breaks text at spaces into lines of width characters at most; a longer word is not broken. What fits
// is left as it is.
func wrap(text string, width int) []string {
	if utf8.RuneCountInString(text) <= width {
		return []string{text}
	}
	var lines []string
	var line string
	for _, word := range strings.Fields(text) {
		switch {
		case line == "":
			line = word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) <= width:
			line += " " + word
		default:
			lines = append(lines, line)
			line = word
		}
	}
	return append(lines, line)
}
