package main

import (
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/weir-project/weir/inspect"
	"github.com/weir-project/weir/inspect/api"
)

func newConnections() *cobra.Command {
	l := &look{}
	var namespace string
	cmd := l.command(&cobra.Command{
		Use:   "connections [service]",
		Short: "Count the connections of each frontend and endpoint, from conntrack",
		Long: `Count the connections of each frontend and endpoint, from conntrack.

Live connections are those that conntrack does not take for over; closing ones are TCP connections that
are, and whose entries wait for stragglers. An endpoint that is marked gone gets no new connections.`,
		Example: `  weir connections
  weir connections default/web
  weir connections -n kube-system kube-dns -o json`,
		Args: maxArgs(1),
	}, func(cmd *cobra.Command, args []string, client *inspect.Client) error {
		query := url.Values{}
		if namespace != "" {
			query.Set("namespace", namespace)
		}
		if len(args) == 1 {
			if err := nameQuery(query, args[0]); err != nil {
				return usageError{cmd.CommandPath(), err}
			}
		}
		done := progress(cmd.ErrOrStderr(), "reading the conntrack table")
		var list api.ConnectionList
		err := client.Get(cmd.Context(), "/v1/connections", query, &list)
		done()
		if err != nil {
			return err
		}
		return l.show(cmd, list, func(out *screen) { printConnections(out, list.Items) })
	})
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "`namespace` to look at; all of them without it")
	return cmd
}

func printConnections(out *screen, list []api.FrontendConnections) {
	if len(list) == 0 {
		out.line("no connections")
		return
	}
	rows := [][]string{{"SERVICE", "FRONTEND", "ENDPOINT", "LIVE", "CLOSING", ""}}
	for _, f := range list {
		for _, e := range f.Endpoints {
			rows = append(rows, []string{f.Service, joinHostPort(f.Frontend.Address, f.Frontend.Port) + "/" + f.Frontend.Protocol,
				joinHostPort(e.Address, e.Port), strconv.Itoa(e.Live), strconv.Itoa(e.Closing), choose2(e.Gone, "gone", "")})
		}
	}
	out.table("", rows)
}
