package report

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// Table is text in columns. The first row is the head.
type Table [][]string

// Write writes the table as Markdown whose columns are aligned, so that it reads well as it is.
func (t Table) Write(w io.Writer) error {
	width := make([]int, len(t[0]))
	for _, row := range t {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	line := func(row []string, pad string) {
		for i := range width {
			cell := ""
			if i < len(row) {
				cell = row[i]
			}
			fmt.Fprintf(&b, "| %s%s ", cell, strings.Repeat(pad, width[i]-utf8.RuneCountInString(cell)))
		}
		b.WriteString("|\n")
	}
	line(t[0], " ")
	line(make([]string, len(width)), "-")
	for _, row := range t[1:] {
		line(row, " ")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Figure writes a number with three significant digits, without exponent.
func Figure(v float64) string {
	switch a := math.Abs(v); {
	case v == 0:
		return "0"
	case a >= 100:
		return group(fmt.Sprintf("%.0f", v))
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	case a >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

// group separates thousands.
func group(digits string) string {
	sign := ""
	if strings.HasPrefix(digits, "-") {
		sign, digits = "-", digits[1:]
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return sign + digits
}

// Short writes what was found in one cell: a single value, or median, p99 and how many.
func (r *Result) Short() string {
	unit := strings.TrimRight(" "+r.Unit, " ")
	switch {
	case r.N == 1:
		return Figure(r.P50) + unit
	case r.N < 20:
		return fmt.Sprintf("%s%s (%s–%s, n=%d)", Figure(r.P50), unit, Figure(r.Min), Figure(r.Max), r.N)
	}
	return fmt.Sprintf("p50 %s, p99 %s%s (n=%d)", Figure(r.P50), Figure(r.P99), unit, r.N)
}

// Verdict says whether the goal is met.
func (r *Result) Verdict() string {
	if r.Goal == nil {
		return ""
	}
	if missed := r.Goal.Missed(r.Summary); missed != "" {
		return "missed: " + missed
	}
	return "met"
}

// One returns the table of results of one proxy, with goals.
func One(results []Result) Table {
	t := Table{{"measured", "services × endpoints", "result", "goal", ""}}
	for i := range results {
		r := &results[i]
		goal := ""
		if r.Goal != nil {
			goal = strings.TrimSpace(r.Goal.String() + " " + r.Unit)
		}
		t = append(t, []string{r.Metric, Size(r.Services, r.Endpoints), r.Short(), goal, r.Verdict()})
	}
	return t
}

// Size writes a cluster's size.
func Size(services, endpoints int) string {
	return group(fmt.Sprint(services)) + " × " + group(fmt.Sprint(endpoints))
}

// Side returns the table of results of several proxies, side by side: one row for each thing
// measured in a cluster of some size.
func Side(results []Result) Table {
	var proxies []string
	type row struct {
		section, metric     string
		services, endpoints int
	}
	var rows []row
	cells := map[row]map[string]*Result{}
	for i := range results {
		r := &results[i]
		if !slices.Contains(proxies, r.Proxy) {
			proxies = append(proxies, r.Proxy)
		}
		k := row{r.Section, r.Metric, r.Services, r.Endpoints}
		if cells[k] == nil {
			rows = append(rows, k)
			cells[k] = map[string]*Result{}
		}
		cells[k][r.Proxy] = r
	}
	order(proxies, rank)
	head := []string{"measured", "services × endpoints"}
	head = append(head, proxies...)
	t := Table{append(head, "goal", "")}
	for _, k := range rows {
		line := []string{k.metric, Size(k.services, k.endpoints)}
		goal, verdict := "", ""
		for _, p := range proxies {
			r := cells[k][p]
			if r == nil {
				line = append(line, "–")
				continue
			}
			line = append(line, r.Short())
			if r.Goal != nil {
				goal, verdict = strings.TrimSpace(r.Goal.String()+" "+r.Unit), r.Verdict()
			}
		}
		t = append(t, append(line, goal, verdict))
	}
	return t
}

// rank puts Weir first, then kube-proxy, then the others by name, and no proxy last.
func rank(proxy string) string {
	switch proxy {
	case "weir":
		return "0"
	case "kube-proxy":
		return "1"
	case "none":
		return "3"
	}
	return "2" + proxy
}

// Notes lists the notes to results, "" if there are none.
func Notes(results []Result) string {
	var b strings.Builder
	for _, r := range results {
		if r.Note != "" {
			fmt.Fprintf(&b, "- %s, %s, %s: %s.\n", r.Proxy, r.Metric, Size(r.Services, r.Endpoints), r.Note)
		}
	}
	return b.String()
}

// Failures lists what could not be measured.
func Failures(runs []*Run) string {
	var b strings.Builder
	for _, r := range runs {
		for _, f := range r.Failures {
			fmt.Fprintf(&b, "- %s, %s:\n\n      %s\n", f.Section, f.Proxy, strings.ReplaceAll(f.Error, "\n", "\n      "))
		}
	}
	return b.String()
}
