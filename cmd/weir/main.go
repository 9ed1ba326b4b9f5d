// Command weir keeps the Services of a Kubernetes node: it programs the kernel's nftables maps
// from what the API server, or a directory of manifests, says.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"k8s.io/component-base/logs"
)

func main() {
	os.Exit(execute(os.Args[1:]))
}

// execute runs the command line and returns the exit code: 0 fine, 1 not fine, 2 wrong usage.
func execute(args []string) int {
	// A second signal ends the process at once: stop gives signals their default meaning back.
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	defer logs.FlushLogs()

	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if errors.Is(err, errNotFine) {
		return 1
	}
	fmt.Fprintln(os.Stderr, "weir:", err)
	var usage usageError
	if errors.As(err, &usage) {
		fmt.Fprintf(os.Stderr, "Try '%s --help'.\n", usage.command)
		return 2
	}
	return 1
}

// usageError is a command line that makes no sense.
type usageError struct {
	command string
	err     error
}

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "weir",
		Short:         "Kubernetes Services on this node, in nftables",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usageError{cmd.CommandPath(), err} })
	root.AddCommand(newRun(), newDNS(), newCleanup(), newVersion(), newStatus(), newServices(), newTrace(), newVerify(), newConnections(), newEvents(), newSupportDump())
	return root
}

// noArgs refuses arguments, as a matter of usage.
func noArgs(cmd *cobra.Command, args []string) error {
	if err := cobra.NoArgs(cmd, args); err != nil {
		return usageError{cmd.CommandPath(), err}
	}
	return nil
}
