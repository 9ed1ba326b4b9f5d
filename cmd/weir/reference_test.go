package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/component-base/metrics"

	"github.com/weir-project/weir/dns"
	"github.com/weir-project/weir/dns/forward"
	dnsmetrics "github.com/weir-project/weir/dns/metrics"
	"github.com/weir-project/weir/endpoints"
	"github.com/weir-project/weir/internal/config"
	"github.com/weir-project/weir/internal/docs"
	"github.com/weir-project/weir/proxier/connections"
	proxymetrics "github.com/weir-project/weir/proxier/metrics"
)

// TestConfigurationReference holds docs/configuration.md against the commands and their flags.
func TestConfigurationReference(t *testing.T) {
	var b strings.Builder
	root := newRoot()
	for _, cmd := range root.Commands() {
		if !cmd.IsAvailableCommand() || cmd.Name() == "run" {
			continue
		}
		fmt.Fprintf(&b, "\n### %s\n\n%s.\n\n", cmd.CommandPath(), cmd.Short)
		fmt.Fprintf(&b, "    %s\n\n", cmd.UseLine())
		b.WriteString(flagTable(cmd.NonInheritedFlags()))
	}
	docs.Check(t, "configuration.md", "commands", b.String())

	titles := map[string]string{
		"weir":       "Weir's own. They hold beside `--config` as well.",
		"kube-proxy": "kube-proxy's, as it has them. With `--config` they are ignored: the file says it.",
		"logging":    "Logging, as all components of Kubernetes have it.",
	}
	sets := config.New().FlagSets()
	b.Reset()
	for _, group := range sets.Order {
		fmt.Fprintf(&b, "\n### Flags of weir run: %s\n\n%s\n\n%s", group, titles[group], flagTable(sets.FlagSets[group]))
	}
	docs.Check(t, "configuration.md", "run", b.String())
}

// flagTable lists flags by name, "" if there are none.
func flagTable(flags *pflag.FlagSet) string {
	var b strings.Builder
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden && f.Deprecated == "" || f.Name == "help" {
			return
		}
		name, usage := pflag.UnquoteUsage(f)
		if f.Deprecated != "" {
			usage += " Deprecated: " + f.Deprecated + "."
		}
		flag := "--" + f.Name
		if name != "" {
			flag += " " + strings.Join(strings.Fields(name), "-")
		}
		if f.Shorthand != "" {
			flag = "-" + f.Shorthand + ", " + flag
		}
		byDefault := ""
		if v := f.DefValue; v != "" && v != "[]" && v != "false" && v != "0" && v != "0s" {
			byDefault = "`" + strings.Trim(v, "[]") + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", flag, byDefault, docs.Cell(withoutDefault.ReplaceAllString(usage, "")))
	})
	if b.Len() == 0 {
		return ""
	}
	return "| flag | default | what it does |\n|---|---|---|\n" + b.String()
}

// withoutDefault is what some usages say that the table has a column for.
var withoutDefault = regexp.MustCompile(` Default: (none|false|0s|do not)\.$`)

// TestMetricsReference holds docs/metrics.md against the metrics that there are.
func TestMetricsReference(t *testing.T) {
	groups := map[string][]metric{}
	for _, m := range allMetrics(t) {
		group := "names"
		switch {
		case strings.HasPrefix(m.name, "kubeproxy_"):
			group = "kube-proxy"
		case strings.HasPrefix(m.name, "weir_service_connections_"):
			group = "services"
		case strings.HasPrefix(m.name, "weir_") && !strings.HasPrefix(m.name, "weir_dns_"):
			group = "weir"
		}
		groups[group] = append(groups[group], m)
	}
	for group, list := range groups {
		slices.SortFunc(list, func(a, b metric) int { return strings.Compare(a.name, b.name) })
		var b strings.Builder
		b.WriteString("| metric | kind | labels | what it says |\n|---|---|---|---|\n")
		for _, m := range list {
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", m.name, m.kind, m.labels, docs.Cell(m.help))
		}
		docs.Check(t, "metrics.md", group, b.String())
	}
}

// metric is what can be told of a metric without one being there.
type metric struct{ name, kind, labels, help string }

// allMetrics returns all metrics that Weir registers itself.
func allMetrics(t *testing.T) []metric {
	t.Helper()
	var out []metric
	add := func(kind string, c prometheus.Collector) {
		descs := make(chan *prometheus.Desc, 100)
		c.Describe(descs)
		close(descs)
		for d := range descs {
			out = append(out, described(t, kind, d))
		}
	}
	kube := func(list ...metrics.Registerable) {
		metrics.NewKubeRegistry().MustRegister(list...) // or they describe nothing
		for _, r := range list {
			add(strings.ToLower(strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%T", r), "*metrics."), "Vec")), r)
		}
	}
	proxymetrics.NewRecorder(endpoints.Families[:], kube)
	kube(takeOverErrors)
	add("", connections.New(connections.Config{}))
	zone, err := dns.NewZone(dns.Config{})
	if err != nil {
		t.Fatal(err)
	}
	add("", dnsmetrics.NewRecorder(dns.NewServer(dns.ServerConfig{Zone: zone}), ":53"))
	forwarding := dnsmetrics.NewForwarding(":53")
	forwarding.Of(forward.New(forward.Options{}, forward.Config{}))
	add("", forwarding)
	add("", dnsmetrics.NewLeases(nil))
	return out
}

var descPattern = regexp.MustCompile(`^Desc\{fqName: "(.*?)", help: "(.*)", unit: ".*", constLabels: \{.*\}, variableLabels: \{(.*)\}\}$`)

// described reads a description. Where its collector does not say of what kind the metric is, the
// name does: Prometheus' own rules are that counters, and nothing else, end in _total.
func described(t *testing.T, kind string, d *prometheus.Desc) metric {
	t.Helper()
	part := descPattern.FindStringSubmatch(d.String())
	if part == nil {
		t.Fatalf("a description of another form: %s", d)
	}
	m := metric{name: part[1], kind: kind, help: strings.ReplaceAll(strings.ReplaceAll(part[2], `\"`, `"`), "[ALPHA] ", "")}
	for label := range strings.SplitSeq(part[3], ",") {
		if label != "" {
			m.labels += ", `" + label + "`"
		}
	}
	m.labels = strings.TrimPrefix(m.labels, ", ")
	switch {
	case m.kind != "":
	case strings.HasSuffix(m.name, "_total"):
		m.kind = "counter"
	case strings.HasSuffix(m.name, "_duration_seconds"):
		m.kind = "histogram"
	default:
		m.kind = "gauge"
	}
	if strings.TrimSpace(m.help) == "" {
		t.Errorf("%s says nothing about itself", m.name)
	}
	return m
}

// Every command says what it is for, and its example is a command line.
func TestCommandsExplainThemselves(t *testing.T) {
	var check func(*cobra.Command)
	check = func(cmd *cobra.Command) {
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: Short is %q", cmd.CommandPath(), cmd.Short)
		}
		for line := range strings.Lines(cmd.Example) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "weir ") && !strings.HasPrefix(line, "#") {
				t.Errorf("%s: example %q", cmd.CommandPath(), line)
			}
		}
		for _, c := range cmd.Commands() {
			check(c)
		}
	}
	check(newRoot())
}
