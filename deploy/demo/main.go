// Command demo shows weir at work on this machine, in network namespaces of its own: it starts
// weir on a few manifests, sends requests, edits, kills and restarts, and tells what came of it.
// What it says is checked: it ends with 1 if something is not so. It needs root and Linux, takes
// some ten seconds and leaves nothing behind.
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
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/weir-project/weir/internal/netlab"
)

func main() {
	os.Exit(execute(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// options are the demo's flags.
type options struct {
	weir     string
	pause    bool
	ipv4Only bool
}

// execute runs the command line and returns the exit code: 0 everything shown is so, 1 it is not or could
// not be shown, 2 wrong usage, 128 and the number of the signal that stopped it.
func execute(args []string, stdin, stdout, stderr *os.File) int {
	var o options
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.weir, "weir", filepath.Join("bin", "weir"), "the `binary` to show")
	flags.BoolVar(&o.pause, "pause", truth(os.Getenv("DEMO_PAUSE")), "keep everything up at the end, to look inside; also DEMO_PAUSE=1")
	flags.BoolVar(&o.ipv4Only, "ipv4-only", !hasIPv6(), "leave IPv6 out; default where the machine has none")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case flags.NArg() > 0:
		fmt.Fprintf(stderr, "demo: takes no arguments, not %q\n", flags.Arg(0))
		return 2
	}
	if err := o.ready(os.Geteuid()); err != nil {
		fmt.Fprintln(stderr, "demo:", err)
		return 1
	}
	ctx, stop := interruptible()
	s := &screen{w: stdout, color: wantsColor(stdout), broken: stop}
	d := &demo{options: o, screen: s, stdin: stdin}
	err := d.run(ctx)
	return d.verdict(context.Cause(ctx), err, stderr)
}

func truth(s string) bool {
	v, err := strconv.ParseBool(s)
	return err == nil && v
}

func hasIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}

// ready returns what has to be done before the demo can run.
func (o *options) ready(euid int) error {
	if euid != 0 {
		return fmt.Errorf("network namespaces need root, and this is uid %d: try sudo make demo", euid)
	}
	info, err := os.Stat(o.weir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("there is no %s: run make build first", o.weir)
	case err != nil:
		return err
	case !info.Mode().IsRegular() || info.Mode()&0o111 == 0:
		return fmt.Errorf("%s is not a program: run make build", o.weir)
	}
	if o.weir, err = filepath.Abs(o.weir); err != nil {
		return err
	}
	return netlab.Available()
}

// stopped says which signal ended the demo.
type stopped struct{ signal syscall.Signal }

func (s stopped) Error() string { return "signal: " + s.signal.String() + "." }

// interruptible returns a context that ends with the first signal that asks for it, or with stop. Signals after
// that do nothing: what is left to do is to clean up, which takes a moment and must not be cut
// short.
func interruptible() (ctx context.Context, stop context.CancelCauseFunc) {
	ctx, stop = context.WithCancelCause(context.Background())
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	// Not ignored, which the programs started from here would inherit: caught, so that a write to a
	// closed pipe is an error like others.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	go func() { stop(stopped{(<-asked).(syscall.Signal)}) }()
	return ctx, stop
}

func wantsColor(out *os.File) bool {
	if os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	_, err := unix.IoctlGetTermios(int(out.Fd()), unix.TCGETS)
	return err == nil
}

// verdict tells how it ended and returns the exit code. cause is what ended the context, err why the
// demo could not go on.
func (d *demo) verdict(cause, err error, stderr io.Writer) int {
	if d.leftover != nil {
		fmt.Fprintln(stderr, "demo: clean up:", d.leftover)
	}
	s := d.screen
	if s.err != nil {
		fmt.Fprintln(stderr, "demo:", s.err)
		return 1
	}
	s.line("")
	var sig stopped
	if errors.As(cause, &sig) && !d.shown {
		s.line("Stopped: " + sig.Error() + d.gone())
		return 128 + int(sig.signal)
	}
	if err != nil {
		fmt.Fprintln(stderr, "demo:", err)
	}
	if s.failed == 0 && err == nil && d.leftover == nil {
		s.line(s.paint(green, fmt.Sprintf("All %d claims hold.", s.claims)) + d.gone())
		return 0
	}
	if s.failed > 0 {
		s.line(s.paint(red, fmt.Sprintf("%d of %d claims do not hold.", s.failed, s.claims)) + d.gone())
	}
	if d.log != nil {
		fmt.Fprintln(stderr, "The end of weir's log:")
		for _, line := range d.log.last() {
			fmt.Fprintln(stderr, "  "+line)
		}
	}
	return 1
}

// gone says that nothing is left, if that is so.
func (d *demo) gone() string {
	if d.leftover != nil {
		return ""
	}
	return " Nothing is left behind."
}
