package main

import (
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weir-project/weir/inspect"
	"github.com/weir-project/weir/inspect/api"
)

func newServices() *cobra.Command {
	l := &look{}
	var namespace string
	cmd := l.command(&cobra.Command{
		Use:     "services [name]",
		Aliases: []string{"service", "svc"},
		Short:   "List the Services as the kernel has them, or tell all about one",
		Long: `List the Services as the kernel has them, or tell all about one.

A list has a line for each port and family, with its frontends (what clients dial), the policy, the
affinity and how many endpoints are ready. With a name, which may be namespace/name, every frontend is
shown with its class (slots are drawn below that number) and every endpoint with its node, zone,
readiness and slot. With -o json or yaml, lists have the endpoints as well.`,
		Example: `  weir services
  weir services -n kube-system
  weir services web
  weir services default/web -o yaml`,
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
		if l.output != "table" {
			query.Set("endpoints", "true")
		}
		var list api.ServiceList
		if err := client.Get(cmd.Context(), "/v1/services", query, &list); err != nil {
			return err
		}
		if len(list.Items) == 0 && namespace != "" {
			return fmt.Errorf("no Services in namespace %s", namespace)
		}
		return l.show(cmd, list, func(out *screen) {
			if len(args) == 0 {
				printServices(out, list.Items)
				return
			}
			for k := range list.Items {
				printService(out, &list.Items[k])
			}
		})
	})
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "`namespace` to look at; all of them without it")
	return cmd
}

// nameQuery adds a Service to a query: its name, or namespace/name.
func nameQuery(q url.Values, text string) error {
	namespace, name, both := strings.Cut(text, "/")
	if !both {
		q.Set("name", text)
		return nil
	}
	if namespace == "" || name == "" || strings.Contains(name, "/") {
		return fmt.Errorf("%q: neither a name nor namespace/name", text)
	}
	if n := q.Get("namespace"); n != "" && n != namespace {
		return fmt.Errorf("%q is not in namespace %s", text, n)
	}
	q.Set("namespace", namespace)
	q.Set("name", name)
	return nil
}

func joinHostPort(a netip.Addr, port uint16) string { return netip.AddrPortFrom(a, port).String() }

func joinText[T fmt.Stringer](list []T) string {
	texts := make([]string, len(list))
	for k, v := range list {
		texts[k] = v.String()
	}
	return strings.Join(texts, ", ")
}

func printServices(out *screen, list []api.Service) {
	rows := [][]string{{"NAMESPACE", "NAME", "PORT", "READY", "POLICY", "AFFINITY", "FRONTENDS"}}
	for k := range list {
		s := &list[k]
		if len(s.Ports) == 0 {
			rows = append(rows, []string{s.Namespace, s.Name, "-", "-", "-", "-", "not served: " + notServed(s)})
		}
		for j := range s.Ports {
			p := &s.Ports[j]
			rows = append(rows, []string{s.Namespace, s.Name, portText(p), fmt.Sprintf("%d/%d", p.Ready, p.Total), policies(s), affinity(s), frontendsText(s, p)})
		}
	}
	out.table("", rows)
}

func notServed(s *api.Service) string {
	if s.NotProxied == "" {
		return "it has no ports"
	}
	return s.NotProxied
}

func portText(p *api.ServicePort) string {
	text := fmt.Sprintf("%d/%s %s", p.Port, p.Protocol, p.Family)
	if p.Name != "" {
		text = p.Name + " " + text
	}
	return text
}

func policies(s *api.Service) string {
	if s.InternalTrafficPolicy == s.ExternalTrafficPolicy {
		return s.InternalTrafficPolicy
	}
	return fmt.Sprintf("internal %s, external %s", s.InternalTrafficPolicy, s.ExternalTrafficPolicy)
}

func affinity(s *api.Service) string {
	if s.AffinityTimeout == 0 {
		return s.SessionAffinity
	}
	return s.SessionAffinity + " " + s.AffinityTimeout.Duration().String()
}

func frontendsText(s *api.Service, p *api.ServicePort) string {
	if s.SetAside != nil {
		return "set aside: " + s.SetAside.Reason
	}
	var texts []string
	for _, f := range p.Frontends {
		text := f.Kind + " " + joinHostPort(f.Address, f.Port)
		switch {
		case f.TakenBy != "":
			text += " (taken by " + f.TakenBy + ")"
		case f.Class == 0 && f.LocalClass == 0:
			text += " (" + f.Verdict + ")"
		}
		texts = append(texts, text)
	}
	if p.NoFamily {
		return "not in the kernel: this node has no " + p.Family
	}
	if len(texts) == 0 {
		return "not in the kernel yet"
	}
	return strings.Join(texts, ", ")
}

func printService(out *screen, s *api.Service) {
	out.line("%s/%s", s.Namespace, s.Name)
	if s.NotProxied != "" {
		out.line("  not served: %s %s", s.NotProxied, s.ExternalName)
	}
	if s.SetAside != nil {
		out.line("  set aside: %s", s.SetAside.Reason)
	}
	out.line("  internalTrafficPolicy %s, externalTrafficPolicy %s, sessionAffinity %s", s.InternalTrafficPolicy, s.ExternalTrafficPolicy, affinity(s))
	if s.HealthCheckPort != 0 {
		out.line("  health check on port %d", s.HealthCheckPort)
	}
	for k := range s.Ports {
		printPort(out, &s.Ports[k])
	}
}

func printPort(out *screen, p *api.ServicePort) {
	out.line("  port %s: %d of %d endpoints are ready, topology %s", portText(p), p.Ready, p.Total, p.Topology)
	if p.Terminating {
		out.line("    none is ready: those that still serve while they terminate stand in")
	}
	if p.NoFamily {
		out.line("    not in the kernel: this node has no %s", p.Family)
		return
	}
	rows := [][]string{{"FRONTEND", "KIND", "VERDICT", "CLASS", "FROM OUTSIDE", "MASQUERADE", "SOURCES"}}
	for _, f := range p.Frontends {
		verdict, outside := f.Verdict, "-"
		if f.TakenBy != "" {
			verdict = "taken by " + f.TakenBy
		}
		if f.LocalVerdict != "" {
			outside = f.LocalVerdict
		}
		sources := "all"
		if f.SourceRanges != nil {
			sources = joinText(f.SourceRanges)
		}
		rows = append(rows, []string{joinHostPort(f.Address, f.Port), f.Kind, verdict, number(f.Class), outside, dash(f.Masquerade), sources})
	}
	out.table("    ", rows)
	if len(p.Endpoints) == 0 {
		return
	}
	rows = [][]string{{"ENDPOINT", "NODE", "ZONE", "STATE", "SLOT", "LOCAL SLOT", "HINTS"}}
	for _, e := range p.Endpoints {
		node := dash(e.Node)
		if e.OnNode {
			node += " (this)"
		}
		rows = append(rows, []string{joinHostPort(e.Address, e.Port), node, dash(e.Zone), state(e), slotText(e.Slot), slotText(e.LocalSlot),
			strings.Join(append(e.ZoneHints, e.NodeHints...), " ")})
	}
	out.table("    ", rows)
}

func state(e api.Endpoint) string {
	switch {
	case e.Ready && !e.Terminating:
		return "ready"
	case e.Ready:
		return "ready, terminating"
	case e.Serving && e.Terminating:
		return "serving, terminating"
	case e.Terminating:
		return "terminating"
	}
	return "not ready"
}

func dash(s string) string { return choose2(s != "", s, "-") }

func number(n int) string { return dash(strings.TrimPrefix(strconv.Itoa(n), "0")) }

func slotText(n *uint32) string {
	if n == nil {
		return "-"
	}
	return strconv.FormatUint(uint64(*n), 10)
}
