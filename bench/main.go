package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-project/weir/bench/internal/report"
	"github.com/weir-project/weir/internal/netlab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out, log io.Writer) error {
	o, err := parse(args, log)
	if err != nil {
		return err
	}
	if o.report {
		return writeReport(o.results, o.readme, out)
	}
	if err := netlab.Available(); err != nil {
		return err
	}
	if _, err := netlab.Sweep(); err != nil {
		return err
	}
	b := &bench{options: o, out: out, log: log}
	if err := b.prepare(ctx); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	b.forecast()
	for _, name := range o.sections {
		if err := b.section(ctx, name); err != nil {
			return err
		}
	}
	if b.partial() {
		return nil
	}
	return writeReport(o.results, o.readme, out)
}

// forecast says how long it will take.
func (b *bench) forecast() {
	var all time.Duration
	var each []string
	for _, name := range b.sections {
		takes := b.takes(name)
		all += takes
		each = append(each, fmt.Sprintf("%s %s", name, takes))
	}
	b.say("this will take about %s, until %s, on a quiet machine: %s", all, time.Now().Add(all).Format("15:04"), strings.Join(each, ", "))
}

// takes is how long a section took the last time, or else should take.
func (b *bench) takes(name string) time.Duration {
	if last, err := report.ReadOne(b.path(name)); err == nil {
		if d, err := time.ParseDuration(last.Took); err == nil {
			return d
		}
	}
	if b.quick {
		return sections[name].little
	}
	return sections[name].takes
}

// section measures what one section is about and writes it down.
func (b *bench) section(ctx context.Context, name string) error {
	b.say("section %s", name)
	started := time.Now()
	b.run = &report.Run{Started: started.UTC().Truncate(time.Second), Command: os.Args[1:], Machine: report.ThisMachine(), Versions: b.versions}
	b.run.Failures = append(b.run.Failures, b.unbuilt...)
	b.run.Load[0] = report.Load()
	err := sections[name].measure(b, ctx)
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	if err != nil {
		b.failed(name, "", err)
	}
	b.run.Load[1] = report.Load()
	b.run.Took = time.Since(started).Round(time.Second).String()
	if err := os.MkdirAll(b.results, 0o755); err != nil {
		return err
	}
	if err := b.run.Write(b.path(name)); err != nil {
		return err
	}
	fmt.Fprintf(b.out, "\n%s: %s; %s, %d cores, kernel %s; load before %s, after %s\n\n",
		name, b.run.Took, b.run.Machine.CPU, b.run.Machine.Cores, b.run.Machine.Kernel, b.run.Load[0], b.run.Load[1])
	if err := sections[name].table(b.run.Results).Write(b.out); err != nil {
		return err
	}
	for _, n := range b.run.Notes {
		fmt.Fprintf(b.out, "\n%s\n", n)
	}
	for _, f := range b.run.Failures {
		fmt.Fprintf(b.out, "\nFAILED %s %s: %s\n", f.Section, f.Proxy, f.Error)
	}
	return nil
}

// path is the file for what a section finds. Small runs are kept apart from those at full size, and
// those of a part, or without some of the proxies, from both: they are in no report.
func (b *bench) path(section string) string {
	suffix := ""
	if b.quick {
		suffix = "-quick"
	}
	if b.partial() {
		suffix = "-partial"
	}
	return filepath.Join(b.results, section+suffix+".json")
}

// partial reports whether less is measured than the sections have, or of fewer proxies.
func (b *bench) partial() bool { return b.only != nil || len(b.parts) < len(allParts) }

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.log, "%s bench: %s\n", time.Now().Format("15:04:05"), fmt.Sprintf(format, args...))
}

// note notes what a reader of the results has to know.
func (b *bench) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	b.say("%s", text)
	b.run.Notes = append(b.run.Notes, text)
}

// failed notes what could not be measured. The rest goes on.
func (b *bench) failed(section, proxy string, err error) {
	b.say("FAILED %s %s: %v", section, proxy, err)
	b.run.Failures = append(b.run.Failures, report.Failure{Section: section, Proxy: proxy, Error: err.Error()})
}

func names[T any](m map[string]T) string {
	var list []string
	for name := range m {
		list = append(list, name)
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}
