package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
)

// maxLogged is how many lines of the log are remembered, and maxLogLine how long they may be, in bytes.
const (
	maxLogged  = 2000
	maxLogLine = 2000
)

// logRing remembers the latest lines of the log, for weir support-dump.
type logRing struct {
	mu    sync.Mutex
	lines []string
	next  int // the oldest, once it is full
}

func (r *logRing) add(line string) {
	line = line[:min(len(line), maxLogLine)]
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.lines) < maxLogged {
		r.lines = append(r.lines, line)
		return
	}
	r.lines[r.next] = line
	r.next = (r.next + 1) % maxLogged
}

// write writes the lines, oldest first.
func (r *logRing) write(w io.Writer) error {
	r.mu.Lock()
	lines := append(append([]string{}, r.lines[r.next:]...), r.lines[:r.next]...)
	r.mu.Unlock()
	_, err := io.WriteString(w, strings.Join(lines, "\n")+"\n")
	return err
}

// tee returns a logger that logs to another and remembers.
func (r *logRing) tee(l logr.Logger) logr.Logger {
	sink := l.GetSink()
	if deeper, ok := sink.(logr.CallDepthLogSink); ok {
		sink = deeper.WithCallDepth(1) // the line that logs is one call further away
	}
	return logr.New(&teeSink{LogSink: sink, ring: r})
}

type teeSink struct {
	logr.LogSink
	ring   *logRing
	name   string
	values []any
}

func (s *teeSink) Init(logr.RuntimeInfo) {} // the other sink has been told

func (s *teeSink) Info(level int, msg string, kv ...any) {
	s.ring.add(s.text("I", msg, kv))
	s.LogSink.Info(level, msg, kv...)
}

func (s *teeSink) Error(err error, msg string, kv ...any) {
	s.ring.add(s.text("E", msg, append([]any{"err", err}, kv...)))
	s.LogSink.Error(err, msg, kv...)
}

func (s *teeSink) text(severity, msg string, kv []any) string {
	b := &strings.Builder{}
	fmt.Fprintf(b, "%s%s %s%q", severity, time.Now().Format("0102 15:04:05.000000"), s.name, msg)
	for _, list := range [][]any{s.values, kv} {
		for k := 0; k+1 < len(list); k += 2 {
			fmt.Fprintf(b, " %v=%q", list[k], fmt.Sprint(list[k+1]))
		}
	}
	return b.String()
}

func (s *teeSink) WithValues(kv ...any) logr.LogSink {
	return &teeSink{s.LogSink.WithValues(kv...), s.ring, s.name, append(append([]any{}, s.values...), kv...)}
}

func (s *teeSink) WithName(name string) logr.LogSink {
	return &teeSink{s.LogSink.WithName(name), s.ring, s.name + name + ": ", s.values}
}

// WithCallDepth implements logr.CallDepthLogSink.
func (s *teeSink) WithCallDepth(depth int) logr.LogSink {
	if deeper, ok := s.LogSink.(logr.CallDepthLogSink); ok {
		return &teeSink{deeper.WithCallDepth(depth), s.ring, s.name, s.values}
	}
	return s
}
