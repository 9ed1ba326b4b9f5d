package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/weir-project/weir/inspect"
	"github.com/weir-project/weir/internal/config"
)

// look is what the commands that look inside a running weir have in common.
type look struct {
	socket string
	output string // table, json or yaml
}

// errNotFine makes the exit code 1 where everything has been said already.
var errNotFine = errors.New("not fine")

var outputs = []string{"table", "json", "yaml"}

// command returns a command that asks a running weir.
func (l *look) command(c *cobra.Command, run func(cmd *cobra.Command, args []string, client *inspect.Client) error) *cobra.Command {
	l.addOutput(c)
	c.Flags().StringVar(&l.socket, "socket", config.DefaultSocket, "`path` of the running weir's control socket")
	_ = c.MarkFlagFilename("socket")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := l.check(cmd); err != nil {
			return err
		}
		if l.socket == "" {
			return usageError{cmd.CommandPath(), errors.New(`--socket "": a running weir can be asked at a socket only`)}
		}
		client := inspect.NewClient(l.socket)
		defer client.Close()
		return run(cmd, args, client)
	}
	return c
}

func (l *look) addOutput(c *cobra.Command) {
	c.Flags().StringVarP(&l.output, "output", "o", "table", "`form` of the answer: table, json or yaml")
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(outputs, cobra.ShellCompDirectiveNoFileComp))
}

// check refuses forms that there are not.
func (l *look) check(cmd *cobra.Command) error {
	switch l.output {
	case "table", "json", "yaml":
		return nil
	}
	return usageError{cmd.CommandPath(), fmt.Errorf("-o %q: not one of %s", l.output, strings.Join(outputs, ", "))}
}

// show writes an object in the form that was asked for.
func (l *look) show(cmd *cobra.Command, object any, table func(*screen)) error {
	out := cmd.OutOrStdout()
	switch l.output {
	case "json":
		return printJSON(out, object)
	case "yaml":
		b, err := yaml.Marshal(object)
		if err == nil {
			_, err = out.Write(b)
		}
		return err
	}
	s := &screen{out: out}
	table(s)
	return s.err
}

func printJSON(out io.Writer, object any) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(object)
}

// screen writes for people. Its first error stays.
type screen struct {
	out io.Writer
	err error
}

func (s *screen) line(format string, args ...any) {
	if s.err == nil {
		_, s.err = fmt.Fprintf(s.out, format+"\n", args...)
	}
}

// table aligns rows, each indented. The first is the head.
func (s *screen) table(indent string, rows [][]string) {
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		if s.err == nil {
			_, s.err = fmt.Fprintln(w, indent+strings.TrimRight(strings.Join(r, "\t"), "\t"))
		}
	}
	s.err = errors.Join(s.err, w.Flush())
}

// maxArgs refuses more arguments than that, as a matter of usage; exactArgs any other number.
func maxArgs(n int) cobra.PositionalArgs { return asUsage(cobra.MaximumNArgs(n)) }

func exactArgs(n int) cobra.PositionalArgs { return asUsage(cobra.ExactArgs(n)) }

func asUsage(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError{cmd.CommandPath(), err}
		}
		return nil
	}
}
