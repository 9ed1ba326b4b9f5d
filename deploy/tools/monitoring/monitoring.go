// Package monitoring reads the alerts and the dashboard in deploy/monitoring, so that tests can hold
// them against what Weir exports.
package monitoring

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/weir-project/weir/deploy/tools/manifests"
)

// Rules is a file of Prometheus rules, as far as it matters here.
type Rules struct {
	Groups []struct {
		Name  string `json:"name"`
		Rules []Rule `json:"rules"`
	} `json:"groups"`
}

// Rule is one alert.
type Rule struct {
	Alert       string            `json:"alert"`
	Expr        string            `json:"expr"`
	For         string            `json:"for,omitempty"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

// Dir finds deploy/monitoring.
func Dir() (string, error) {
	dir, err := manifests.Dir()
	return filepath.Join(dir, "../monitoring"), err
}

// read reads a file, by its path from deploy/monitoring.
func read(name string) ([]byte, error) {
	dir, err := Dir()
	if err != nil {
		return nil, err
	}
	return os.ReadFile(filepath.Join(dir, name))
}

// Alerts returns the alerts.
func Alerts() ([]Rule, error) {
	b, err := read("rules.yaml")
	if err != nil {
		return nil, err
	}
	var rules Rules
	if err := yaml.UnmarshalStrict(b, &rules); err != nil {
		return nil, fmt.Errorf("rules.yaml: %w", err)
	}
	var alerts []Rule
	for _, g := range rules.Groups {
		alerts = append(alerts, g.Rules...)
	}
	return alerts, nil
}

// Panel is a panel of the dashboard, as far as it matters here.
type Panel struct {
	ID      int    `json:"id"`
	Type    string `json:"type"`
	Title   string `json:"title"`
	GridPos struct {
		H, W, X, Y int
	} `json:"gridPos"`
	Targets []struct {
		RefID string `json:"refId"`
		Expr  string `json:"expr"`
	} `json:"targets"`
}

// Panels returns the panels of the dashboard.
func Panels() ([]Panel, error) {
	b, err := read("dashboard.json")
	if err != nil {
		return nil, err
	}
	var dashboard struct{ Panels []Panel }
	if err := json.Unmarshal(b, &dashboard); err != nil {
		return nil, fmt.Errorf("dashboard.json: %w", err)
	}
	return dashboard.Panels, nil
}

// variables are Grafana's, and something of their kind in their place.
var variables = strings.NewReplacer("$__rate_interval", "5m", "$instance", ".*")

// Expressions returns all PromQL of the alerts and the dashboard, by where it is.
func Expressions() (map[string]string, error) {
	alerts, err := Alerts()
	if err != nil {
		return nil, err
	}
	panels, err := Panels()
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	for _, a := range alerts {
		all["alert "+a.Alert] = a.Expr
	}
	for _, p := range panels {
		for _, t := range p.Targets {
			all[fmt.Sprintf("panel %d %s: %s", p.ID, p.Title, t.RefID)] = variables.Replace(t.Expr)
		}
	}
	return all, nil
}

// documented is a row of a table in docs/metrics.md, which another test holds against the program.
var documented = regexp.MustCompile("(?m)^\\| `(\\w+)` \\|")

// Documented returns the metrics that docs/metrics.md lists.
func Documented() ([]string, error) {
	page, err := read("../../docs/metrics.md")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, m := range documented.FindAllStringSubmatch(string(page), -1) {
		names = append(names, m[1])
	}
	return names, nil
}

// The parts of an expression that name no metric.
var (
	text      = regexp.MustCompile(`"[^"]*"`)
	selectors = regexp.MustCompile(`\{[^}]*\}|\[[^\]]*\]`)
	grouping  = regexp.MustCompile(`\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)`)
	word      = regexp.MustCompile(`[a-zA-Z_:][a-zA-Z0-9_:]*\s*\(?`)
	keyword   = regexp.MustCompile(`^(and|or|unless|bool|offset)$`)
)

// Metrics returns the names of the metrics in an expression that is known to parse.
func Metrics(expr string) []string {
	for _, part := range []*regexp.Regexp{text, selectors, grouping} {
		expr = part.ReplaceAllString(expr, " ")
	}
	names := map[string]bool{}
	for _, w := range word.FindAllString(expr, -1) {
		w = strings.TrimSpace(w)
		if !strings.HasSuffix(w, "(") && !keyword.MatchString(w) {
			names[w] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// FromPrometheus are metrics that Prometheus makes of each target.
var FromPrometheus = []string{"up"}
