package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-project/weir/inspect"
	"github.com/weir-project/weir/inspect/api"
)

func newStatus() *cobra.Command {
	l := &look{}
	return l.command(&cobra.Command{
		Use:   "status",
		Short: "Tell whether the weir on this node is healthy, and why not",
		Long: `Tell whether the weir on this node is healthy, and why not.

Healthy means that everything Kubernetes says is in the kernel. The exit code is 0 if so, 1 if not or
if no weir runs.`,
		Example: `  weir status
  weir status -o json | jq .syncs.delay
  weir status >/dev/null || echo "look at this node"`,
		Args: noArgs,
	}, func(cmd *cobra.Command, _ []string, client *inspect.Client) error {
		var s api.Status
		if err := client.Get(cmd.Context(), "/v1/status", nil, &s); err != nil {
			return err
		}
		if err := l.show(cmd, s, func(out *screen) { printStatus(out, &s, time.Now()) }); err != nil {
			return err
		}
		if !s.Healthy {
			return errNotFine
		}
		return nil
	})
}

func printStatus(out *screen, s *api.Status, now time.Time) {
	if s.Healthy {
		out.line("healthy")
	} else {
		out.line("NOT HEALTHY")
	}
	for _, r := range s.Reasons {
		out.line("  because %s", r)
	}
	for _, w := range s.Warnings {
		out.line("  note: %s", w)
	}
	rows := [][]string{
		{"weir", fmt.Sprintf("%s, process %d, up %s, %s of memory", s.Weir.Version, s.PID, age(now, s.Started), megabytes(s.Memory.Resident))},
		{"node", strings.TrimSuffix(s.Node+", zone "+s.Zone, ", zone ")},
		{"source", fmt.Sprintf("%s, %s, revision %d", s.Source.From, choose2(s.Source.Synced, "synced", "not read completely yet"), s.Source.Revision)},
		{"sizes", fmt.Sprintf("%d Services, %d EndpointSlices, %d endpoints", s.Sizes.Services, s.Sizes.Slices, s.Sizes.Endpoints)},
		{"kernel", fmt.Sprintf("tables %s, %s; %d frontends, %d slots; %d transactions, %d refused", strings.Join(s.Kernel.Families, " and "),
			choose2(s.Kernel.Owned, "protected from other writers", "open to other writers"), s.Sizes.Frontends, s.Sizes.Slots, s.Kernel.Transactions, s.Kernel.Refused)},
		{"syncs", fmt.Sprintf("%d, %d failed, last success %s", s.Syncs.Count, s.Syncs.Failed, ago(now, s.Syncs.LastSuccess))},
		{"sync took", latencyText(s.Syncs.Duration)},
		{"change to kernel", latencyText(s.Syncs.Delay)},
	}
	if d := s.DNS; d != nil {
		rows = append(rows, []string{"DNS", fmt.Sprintf("%s at %s, %s, %s", d.Domain, joinText(d.Addresses),
			choose2(d.Serving, "answers", "does not answer"), choose2(d.Alive, "queries come here", "queries go the Service's way"))})
	}
	out.table("", rows)
	if len(s.SetAside) > 0 {
		rows := [][]string{{"SET ASIDE", "SINCE", "NEXT TRY", "REASON"}}
		for _, a := range s.SetAside {
			rows = append(rows, []string{choose2(a.Service != "", a.Service, "(service CIDRs)"), ago(now, a.Since), "in " + age(a.Retry, now), a.Reason})
		}
		out.table("", rows)
	}
	if len(s.Conflicts) > 0 {
		rows := [][]string{{"CONFLICT", "HAS IT", "WANT IT TOO"}}
		for _, c := range s.Conflicts {
			rows = append(rows, []string{fmt.Sprintf("%s/%s", joinHostPort(c.Frontend.Address, c.Frontend.Port), c.Frontend.Protocol), c.Winner, strings.Join(c.Losers, ", ")})
		}
		out.table("", rows)
	}
}

func choose2(which bool, yes, no string) string {
	if which {
		return yes
	}
	return no
}

func latencyText(l api.Latency) string {
	if l.Count == 0 {
		return "nothing measured yet"
	}
	return fmt.Sprintf("p50 %s, p99 %s, at most %s (last %d)", short(l.P50), short(l.P99), short(l.Max), l.Count)
}

// short writes a duration with three digits.
func short(s api.Seconds) string {
	d := s.Duration()
	for unit := time.Nanosecond; unit < time.Hour; unit *= 10 {
		if d < 1000*unit {
			return d.Round(unit).String()
		}
	}
	return d.Round(time.Minute).String()
}

// age is how long t is before now, for people.
func age(now, t time.Time) string {
	d := now.Sub(t)
	if d < time.Minute {
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

func ago(now, t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return age(now, t) + " ago"
}

func megabytes(n uint64) string { return strconv.FormatUint((n+1<<19)>>20, 10) + " MB" }
