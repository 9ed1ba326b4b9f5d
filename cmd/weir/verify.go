package main

import (
	"encoding/json"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/weir-project/weir/inspect"
	"github.com/weir-project/weir/inspect/api"
)

func newVerify() *cobra.Command {
	l := &look{}
	var repair bool
	cmd := l.command(&cobra.Command{
		Use:   "verify",
		Short: "Read the kernel's maps and tell whether they are what they should be",
		Long: `Read the kernel's maps and tell whether they are what they should be.

Every element is read and compared. With --repair, the daemon writes everything anew if something is
wrong, in one transaction that no connection notices, and the maps are read once more.

The exit code is 0 if the kernel holds what it should (with --repair: in the end), 1 otherwise.`,
		Example: `  weir verify
  weir verify --repair
  weir verify -o json | jq '.differences[] | .service'`,
		Args: noArgs,
	}, func(cmd *cobra.Command, _ []string, client *inspect.Client) error {
		method := http.MethodGet
		if repair {
			method = http.MethodPost
		}
		done := progress(cmd.ErrOrStderr(), "reading the kernel's maps")
		var v api.Verification
		body, err := client.Open(cmd.Context(), method, "/v1/verify", nil)
		if err == nil {
			err = json.NewDecoder(body).Decode(&v)
			_ = body.Close()
		}
		done()
		if err != nil {
			return err
		}
		if err := l.show(cmd, v, func(out *screen) { printVerification(out, &v) }); err != nil {
			return err
		}
		if !v.Fine {
			return errNotFine
		}
		return nil
	})
	cmd.Flags().BoolVar(&repair, "repair", false, "have the daemon repair what is wrong")
	return cmd
}

func printVerification(out *screen, v *api.Verification) {
	read := plural(v.Elements, "element", "elements") + " read in " + short(v.Duration)
	switch {
	case v.Count == 0:
		out.line("fine: the kernel holds what it should; %s", read)
	case v.Fine:
		out.line("repaired: %s found, and none is left; %s", plural(v.Count, "difference", "differences"), read)
	default:
		out.line("NOT FINE: %s; %s", plural(v.Count, "difference", "differences"), read)
	}
	if !v.Complete {
		out.line("the maps changed while they were read: something unexpected may have been overlooked")
	}
	printDifferences(out, "", v.Differences)
	if len(v.Remaining) > 0 {
		printDifferences(out, "still ", v.Remaining)
	}
	switch {
	case v.Count > 0 && !v.Repaired:
		out.line("weir verify --repair has them repaired")
	case !v.Fine:
		out.line("weir status says whether syncs fail; weir support-dump collects what a maintainer needs")
	}
}

func printDifferences(out *screen, prefix string, list []api.Difference) {
	if len(list) == 0 {
		return
	}
	rows := [][]string{{"WHAT", "MAP", "ELEMENT", "FOUND", "SERVICE"}}
	for _, d := range list {
		rows = append(rows, []string{prefix + d.Kind, dash(d.Set), dash(d.Element), dash(d.Found), dash(d.Service)})
	}
	out.table("  ", rows)
}
