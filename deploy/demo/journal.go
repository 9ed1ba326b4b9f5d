package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// syncLine is what weir logs at -v=2 when the kernel has what it should have.
type syncLine struct {
	at       time.Time // when the line reached us
	full     bool      // everything was written, as after a start
	services int       // looked at
	ops      int       // elements added and deleted
	duration time.Duration
}

// journal takes weir's log, keeps a copy in a file and reads what it says about syncs.
type journal struct {
	file io.Writer

	mu      sync.Mutex // guards the following
	partial []byte     // a line that has no end yet
	tail    []string   // the last lines
	syncs   []syncLine
	news    chan struct{} // closed and replaced with every sync
}

const tailLines = 12

func newJournal(file io.Writer) *journal {
	return &journal{file: file, news: make(chan struct{})}
}

// Write implements io.Writer.
func (j *journal) Write(b []byte) (int, error) {
	now := time.Now()
	j.mu.Lock()
	defer j.mu.Unlock()
	j.partial = append(j.partial, b...)
	for {
		line, rest, found := bytes.Cut(j.partial, []byte("\n"))
		if !found {
			break
		}
		j.lineLocked(now, string(line))
		j.partial = rest
	}
	return j.file.Write(b)
}

func (j *journal) lineLocked(now time.Time, line string) {
	j.tail = append(j.tail, line)
	j.tail = j.tail[max(0, len(j.tail)-tailLines):]
	if s, ok := parseSync(line); ok {
		s.at = now
		j.syncs = append(j.syncs, s)
		close(j.news)
		j.news = make(chan struct{})
	}
}

// last returns the last lines of the log.
func (j *journal) last() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.tail)
}

// mark returns a place in the log: what comes after it is given by since and wait.
func (j *journal) mark() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.syncs)
}

func (j *journal) since(mark int) []syncLine {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.syncs[mark:])
}

// wait returns the first sync after mark.
func (j *journal) wait(ctx context.Context, mark int) (syncLine, error) {
	for {
		j.mu.Lock()
		news, syncs := j.news, j.syncs
		j.mu.Unlock()
		if len(syncs) > mark {
			return syncs[mark], nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return syncLine{}, context.Cause(ctx)
		}
	}
}

// keyValue matches a key of a structured log line; values with spaces are quoted.
var keyValue = regexp.MustCompile(`(\w+)=("(?:[^"\\]|\\.)*"|\S+)`)

// parseSync reads a line like
//
//	I0130 12:00:00.000000       1 sync.go:1] "Synced" revision=7 full=false services=1 ops=22 duration="312.4µs"
//
// and reports whether it is one.
func parseSync(line string) (s syncLine, ok bool) {
	_, fields, ok := strings.Cut(line, `] "Synced" `)
	if !ok {
		return s, false
	}
	seen := map[string]bool{}
	var err error
	for _, m := range keyValue.FindAllStringSubmatch(fields, -1) {
		key, value := m[1], m[2]
		if unquoted, err := strconv.Unquote(value); err == nil {
			value = unquoted
		}
		seen[key] = true
		switch key {
		case "full":
			s.full, err = strconv.ParseBool(value)
		case "services":
			s.services, err = strconv.Atoi(value)
		case "ops":
			s.ops, err = strconv.Atoi(value)
		case "duration":
			s.duration, err = time.ParseDuration(value)
		}
		if err != nil {
			return s, false
		}
	}
	return s, seen["full"] && seen["services"] && seen["ops"] && seen["duration"]
}

// short writes a duration with the digits that matter.
func short(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%d µs", d.Microseconds())
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.2f ms", d.Seconds()*1e3)
	case d < time.Second:
		return fmt.Sprintf("%.0f ms", d.Seconds()*1e3)
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}
