package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/weir-project/weir/inspect"
	"github.com/weir-project/weir/inspect/api"
)

func newEvents() *cobra.Command {
	l := &look{}
	var follow bool
	cmd := l.command(&cobra.Command{
		Use:   "events",
		Short: "Tell what changed in the kernel, when, and how long it took",
		Long: `Tell what changed in the kernel, when, and how long it took, in Service names.

Each line is a sync: what it brought into the kernel, how long the kernel and we worked on it, and how
long after the API server's word that was (delay). The last 1,024 are remembered. With -f, new ones
follow as they come; with -o json then one object a line.`,
		Example: `  weir events
  weir events -f
  weir events -f -o json | jq -r '.changes[].service'`,
		Args: noArgs,
	}, func(cmd *cobra.Command, _ []string, client *inspect.Client) error {
		if follow {
			return followEvents(cmd, l, client)
		}
		var list api.EventList
		if err := client.Get(cmd.Context(), "/v1/events", nil, &list); err != nil {
			return err
		}
		return l.show(cmd, list, func(out *screen) {
			for k := range list.Items {
				printEvent(out, &list.Items[k])
			}
		})
	})
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on telling until interrupted")
	return cmd
}

// followEvents prints events as they come, until it is interrupted, which is no error.
func followEvents(cmd *cobra.Command, l *look, client *inspect.Client) error {
	body, err := client.Open(cmd.Context(), http.MethodGet, "/v1/events", url.Values{"follow": {"true"}})
	if err != nil {
		return err
	}
	defer body.Close()
	out := &screen{out: cmd.OutOrStdout()}
	for in := json.NewDecoder(body); out.err == nil; {
		var e api.Event
		if err := in.Decode(&e); err != nil {
			return ended(cmd.Context(), err)
		}
		switch l.output {
		case "json":
			out.err = json.NewEncoder(out.out).Encode(e)
		case "yaml":
			b, err := yaml.Marshal(e)
			out.err = err
			out.line("---\n%s", strings.TrimSpace(string(b)))
		default:
			printEvent(out, &e)
		}
	}
	return out.err
}

func ended(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("weir has stopped")
	}
	return err
}

func printEvent(out *screen, e *api.Event) {
	what := changesText(e)
	if e.Full {
		what = "everything written: " + what
	}
	if e.Error != "" {
		what = "FAILED: " + e.Error
	}
	took := "took " + short(e.Duration)
	if e.Delay > 0 {
		took += ", delay " + short(e.Delay)
	}
	out.line("%s  #%d  %s (%s, %s)", e.Time.Local().Format("2006-01-02 15:04:05.000"), e.ID, what, plural(e.Operations, "operation", "operations"), took)
}

// maxNamed is how many Services a line names.
const maxNamed = 5

func changesText(e *api.Event) string {
	var parts []string
	for _, c := range e.Changes[:min(len(e.Changes), maxNamed)] {
		parts = append(parts, changeText(c))
	}
	if more := e.Services - len(parts); more > 0 {
		parts = append(parts, fmt.Sprintf("and %d more", more))
	}
	if len(parts) == 0 {
		return "no Service"
	}
	return strings.Join(parts, ", ")
}

func changeText(c api.ServiceChange) string {
	switch c.Action {
	case "Added":
		return fmt.Sprintf("%s came with %s", c.Service, plural(c.Endpoints, "endpoint", "endpoints"))
	case "Removed":
		return c.Service + " went"
	}
	if c.Added == 0 && c.Removed == 0 {
		return c.Service + " changed"
	}
	return fmt.Sprintf("%s endpoints +%d -%d = %d", c.Service, c.Added, c.Removed, c.Endpoints)
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprint(n) + " " + many
}
