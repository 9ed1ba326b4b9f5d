package monitoring

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write operator/prometheusrule.yaml")

func TestMetrics(t *testing.T) {
	tests := []struct {
		name, expr string
		want       []string
	}{
		{"a selector", `up{job="weir"} == 0`, []string{"up"}},
		{"a function", `absent(up{job="weir"})`, []string{"up"}},
		{"grouping on both sides", `sum by (instance, le) (rate(a_bucket{x="b_total"}[5m])) / on (instance) sum(b) by (instance)`, []string{"a_bucket", "b"}},
		{"and", "max(a > b and (time() - c > 60))", []string{"a", "b", "c"}},
		{"a recorded name", "instance:a:rate5m", []string{"instance:a:rate5m"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, Metrics(tt.expr)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// promtool runs promtool in deploy/monitoring, where it is installed.
func promtool(t *testing.T, args ...string) (string, error) {
	t.Helper()
	dir, err := Dir()
	if err != nil {
		t.Fatal(err)
	}
	program, err := exec.Command(filepath.Join(dir, "../../hack/promtool.sh")).Output()
	if err != nil {
		t.Fatalf("hack/promtool.sh: %v", err)
	}
	cmd := exec.Command(strings.TrimSpace(string(program)), args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestRules has promtool run the rules against made-up series.
func TestRules(t *testing.T) {
	if out, err := promtool(t, "test", "rules", "rules_test.yaml"); err != nil {
		t.Error(out)
	}
	dir, err := Dir()
	if err != nil {
		t.Fatal(err)
	}
	tests, err := os.ReadFile(filepath.Join(dir, "rules_test.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	alerts, err := Alerts()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range alerts {
		if !strings.Contains(string(tests), fmt.Sprintf(`{alertname="%s"}`, a.Alert)) {
			t.Errorf("%s is never seen to fire in rules_test.yaml", a.Alert)
		}
	}
}

// TestExpressions has promtool parse everything, the dashboard's as recording rules.
func TestExpressions(t *testing.T) {
	expressions, err := Expressions()
	if err != nil {
		t.Fatal(err)
	}
	type rule struct {
		Record string `json:"record"`
		Expr   string `json:"expr"`
	}
	var rules []rule
	for _, expr := range expressions {
		rules = append(rules, rule{fmt.Sprintf("x:%d", len(rules)), expr})
	}
	check := func(rules []rule) (string, error) {
		b, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "all", "rules": rules}}})
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "rules.yaml")
		if err := os.WriteFile(file, b, 0o644); err != nil {
			t.Fatal(err)
		}
		return promtool(t, "check", "rules", file)
	}
	if out, err := check(rules); err != nil || !strings.Contains(out, fmt.Sprintf("%d rules found", len(expressions))) {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := check([]rule{{"x:y", "sum by (instance (up)"}}); err == nil {
		t.Errorf("promtool takes what is no PromQL: %s", out)
	}
}

// TestRunbooks looks up what the alerts link to.
func TestRunbooks(t *testing.T) {
	dir, err := Dir()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "../../docs/runbooks.md"))
	if err != nil {
		t.Fatal(err)
	}
	var anchors []string
	for _, m := range regexp.MustCompile(`(?m)^### (\w+)$`).FindAllStringSubmatch(string(b), -1) {
		anchors = append(anchors, strings.ToLower(m[1]))
	}
	alerts, err := Alerts()
	if err != nil {
		t.Fatal(err)
	}
	var wanted []string
	for _, a := range alerts {
		page, anchor, _ := strings.Cut(a.Annotations["runbook_url"], "#")
		if !strings.HasSuffix(page, "/docs/runbooks.md") || anchor != strings.ToLower(a.Alert) {
			t.Errorf("%s: runbook_url %s", a.Alert, a.Annotations["runbook_url"])
		}
		for _, key := range []string{"summary", "description"} {
			if a.Annotations[key] == "" {
				t.Errorf("%s has no %s", a.Alert, key)
			}
		}
		if !slices.Contains([]string{"critical", "warning", "info"}, a.Labels["severity"]) {
			t.Errorf("%s: severity %q", a.Alert, a.Labels["severity"])
		}
		wanted = append(wanted, anchor)
	}
	slices.Sort(anchors)
	slices.Sort(wanted)
	if diff := cmp.Diff(wanted, anchors); diff != "" {
		t.Errorf("alerts and entries of docs/runbooks.md (-alerts +entries):\n%s", diff)
	}
}

// TestOperator compares the operator's form of the rules. -update writes it.
func TestOperator(t *testing.T) {
	dir, err := Dir()
	if err != nil {
		t.Fatal(err)
	}
	rules, err := os.ReadFile(filepath.Join(dir, "rules.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	const head = `# Made from ../rules.yaml: change that, and then go test -C deploy/tools ./monitoring -run Operator -update
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: weir
  namespace: kube-system
  labels:
    app.kubernetes.io/name: weir
spec:
`
	_, body, _ := strings.Cut(string(rules), "groups:\n")
	want := head + "  groups:\n"
	for line := range strings.Lines(body) {
		want += "  " + line
	}
	file := filepath.Join(dir, "operator/prometheusrule.yaml")
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestDashboard looks at what Grafana would only show crooked.
func TestDashboard(t *testing.T) {
	panels, err := Panels()
	if err != nil {
		t.Fatal(err)
	}
	ids, taken := map[int]bool{}, map[[2]int]string{}
	for _, p := range panels {
		if ids[p.ID] || p.ID == 0 || p.Title == "" || p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %+v: wants an id of its own, a title, and queries", p)
		}
		ids[p.ID] = true
		g := p.GridPos
		if g.X < 0 || g.W <= 0 || g.H <= 0 || g.X+g.W > 24 {
			t.Errorf("panel %s is at %+v: there are 24 columns", p.Title, g)
		}
		for x := g.X; x < g.X+g.W; x++ {
			for y := g.Y; y < g.Y+g.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" {
					t.Fatalf("panels %s and %s overlap", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
	}
}
