package main

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/weir-project/weir/internal/docs"
)

// Every command line in the documents and in the help is one that weir takes: the command, its flags and
// the number of its arguments. Nothing is run.
func TestDocumentedCommandLines(t *testing.T) {
	documents, err := docs.Documents()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, d := range documents {
		for _, b := range d.Blocks {
			for _, line := range b.Commands("weir") {
				seen++
				if err := takes(line); err != nil {
					t.Errorf("%s:%d: %s: %v", d.Path, b.Line, line, err)
				}
			}
		}
	}
	if seen < 10 {
		t.Errorf("only %d command lines found", seen)
	}
	var examples func(*cobra.Command)
	examples = func(cmd *cobra.Command) {
		for _, line := range (docs.Block{Text: cmd.Example}).Commands("weir") {
			if err := takes(line); err != nil {
				t.Errorf("example of %s: %s: %v", cmd.CommandPath(), line, err)
			}
		}
		for _, c := range cmd.Commands() {
			examples(c)
		}
	}
	examples(newRoot())
}

// optional is what a synopsis has in brackets, or leaves out.
var optional = regexp.MustCompile(`\[[^\]]*\]|…`)

// takes reports what is wrong with a command line.
func takes(line string) error {
	line = optional.ReplaceAllString(line, "")
	args := strings.Fields(strings.NewReplacer(`"`, "", `'`, "").Replace(line))[1:]
	root := newRoot()
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd(args...)
	cmd, rest, err := root.Find(args)
	if err != nil {
		return err
	}
	if err := cmd.ParseFlags(rest); err != nil && !errors.Is(err, pflag.ErrHelp) {
		return err
	}
	return cmd.ValidateArgs(cmd.Flags().Args())
}

func TestWrongCommandLinesAreFound(t *testing.T) {
	for _, line := range []string{"weir walk", "weir run --no-such-flag", "weir run --service-metrics many", "weir cleanup now"} {
		if takes(line) == nil {
			t.Errorf("%q is taken", line)
		}
	}
}
