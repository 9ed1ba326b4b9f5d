package main

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weir-project/weir/inspect"
	"github.com/weir-project/weir/inspect/api"
)

func newTrace() *cobra.Command {
	l := &look{}
	return l.command(&cobra.Command{
		Use:   "trace FROM PROTO DST:PORT",
		Short: "Tell what would become of a new connection, step by step",
		Long: `Tell what would become of a new connection, step by step as the kernel decides.

FROM is the address of a pod, a node or a client, or the word node for this node itself. PROTO is tcp,
udp or sctp. DST is an address or a name of the cluster: then the DNS answer comes first.

The rules themselves are walked, with what their maps hold. The answer is one of: translated, with every
endpoint that the connection may get, how likely that is, and whether the endpoint sees another source
(masqueraded); refused; dropped; untracked: this node's own DNS answers; or unserved: then Weir does nothing about it. A connection that has
begun stays where it is, whatever this says.

The exit code is 0 if the connection gets an endpoint or this node's DNS, 1 otherwise.`,
		Example: `  weir trace 10.244.1.10 tcp 10.96.0.10:80
  weir trace node tcp kubernetes.default:443
  weir trace 203.0.113.7 udp 192.0.2.1:30053 -o json
  weir trace fd00:10:244:1::10 tcp '[fd00:10:96::10]:80'`,
		Args: exactArgs(3),
	}, func(cmd *cobra.Command, args []string, client *inspect.Client) error {
		if _, err := inspect.ParseQuestion(args[0], args[1], args[2]); err != nil {
			return usageError{cmd.CommandPath(), err}
		}
		var t api.Trace
		query := url.Values{"from": {args[0]}, "protocol": {args[1]}, "to": {args[2]}}
		if err := client.Get(cmd.Context(), "/v1/trace", query, &t); err != nil {
			return err
		}
		if err := l.show(cmd, t, func(out *screen) { printTrace(out, &t) }); err != nil {
			return err
		}
		if t.Outcome != "translated" && t.Outcome != "untracked" {
			return errNotFine
		}
		return nil
	})
}

func printTrace(out *screen, t *api.Trace) {
	if a := t.Answer; a != nil {
		out.line("%s is %s: %s", t.Name, a.Name, joinText(a.Addresses))
	}
	from := t.From.Address.String() + " (" + t.From.Kind
	if t.From.Interface != "" {
		from += ", comes in by " + t.From.Interface
	}
	out.line("%s) to %s %s: %s", from, strings.ToLower(t.To.Protocol), joinHostPort(t.To.Address, t.To.Port), strings.ToUpper(t.Outcome))
	for _, w := range t.Why {
		out.line("  %s", w)
	}
	if len(t.Endpoints) > 0 {
		rows := [][]string{{"ENDPOINT", "SHARE", "NODE", "ZONE", "SEES"}}
		for _, e := range t.Endpoints {
			sees := e.Source.String()
			if e.Masqueraded {
				sees += " (masqueraded)"
			}
			rows = append(rows, []string{joinHostPort(e.Address, e.Port), share(e), dash(e.Node), dash(e.Zone), sees})
		}
		out.table("  ", rows)
	}
	rows := [][]string{{"CHAIN", "ASKED", "RESULT"}}
	for k := 0; k < len(t.Steps); {
		s, alike := t.Steps[k], 1
		for k+alike < len(t.Steps) && t.Steps[k+alike] == s { // draws that follow each other
			alike++
		}
		if k += alike; alike > 1 {
			s.Result += fmt.Sprintf(" (%d times)", alike)
		}
		rows = append(rows, []string{s.Chain, dash(s.Asked), s.Result})
	}
	out.table("  ", rows)
}

// share writes a fraction if it is short, and percent otherwise.
func share(e api.TraceEndpoint) string {
	if len(e.Share) <= 5 {
		return e.Share
	}
	return fmt.Sprintf("%.2f %%", e.Percent)
}
