package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/weir-project/weir/bench/internal/report"
)

// writeReport makes tables and pictures from all runs in a directory, and puts a summary of those at full
// size into a file beside them, if one is named.
func writeReport(dir, readme string, out io.Writer) error {
	runs, err := report.Read(dir)
	if err != nil {
		return err
	}
	var quick, full []*report.Run
	for _, r := range runs {
		if slices.ContainsFunc(r.Command, func(s string) bool { return strings.TrimLeft(s, "-") == "quick" }) {
			quick = append(quick, r)
		} else {
			full = append(full, r)
		}
	}
	if len(full) == 0 {
		full, readme = quick, "" // better than none
	}
	var b strings.Builder
	if err := document(&b, full, dir); err != nil {
		return err
	}
	path := filepath.Join(dir, "README.md")
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		return err
	}
	if readme != "" {
		if err := summarize(full, dir, readme); err != nil {
			return fmt.Errorf("summary in %s: %w", readme, err)
		}
	}
	_, err = fmt.Fprintf(out, "\nreport in %s\n", path)
	return err
}

var titles = map[string]string{
	"dataplane": "Weir's own parts",
	"control":   "Changes",
	"sweep":     "One change, in clusters of growing size",
	"large":     "One service with very many endpoints",
	"packets":   "Packets",
	"dns":       "Names",
}

// document writes the tables, and draws the pictures beside them.
func document(w io.Writer, runs []*report.Run, dir string) error {
	fmt.Fprint(w, `# Results

Made by `+"`make bench`"+`; how it measures is told in [../doc.go](../doc.go). Everything runs on one machine: the proxy,
the API server, etcd, the clients and the endpoints. n is the number of measurements; what was measured fewer than twenty
times is given as median (lowest–highest).
`)
	results := report.Latest(runs)
	for _, section := range append(slices.Clone(inOrder), "dataplane") {
		of := slices.DeleteFunc(slices.Clone(results), func(r report.Result) bool { return r.Section != section })
		if len(of) == 0 {
			continue
		}
		fmt.Fprintf(w, "\n## %s\n\n", titles[section])
		for _, r := range runs {
			if isOf(r, section) {
				fmt.Fprintln(w, provenance(r))
			}
		}
		fmt.Fprintln(w)
		if err := sections[section].table(of).Write(w); err != nil {
			return err
		}
		if notes := report.Notes(of) + notesOf(runs, section); notes != "" {
			fmt.Fprintf(w, "\n%s", notes)
		}
	}
	pictures, err := report.Draw(results, dir)
	for _, p := range pictures {
		fmt.Fprintf(w, "\n![%s](%s)\n", p.Title, p.File)
	}
	failures := report.Failures(runs)
	if failures != "" {
		fmt.Fprintf(w, "\n## What failed\n\n%s", failures)
	}
	return errors.Join(err)
}

func isOf(r *report.Run, section string) bool {
	return len(r.Results) > 0 && r.Results[0].Section == section
}

// notesOf lists the notes to a section's runs.
func notesOf(runs []*report.Run, section string) string {
	var b strings.Builder
	for _, r := range runs {
		if !isOf(r, section) {
			continue
		}
		for _, n := range r.Notes {
			fmt.Fprintf(&b, "- %s.\n", n)
		}
	}
	return b.String()
}

// provenance says where a run's figures come from.
func provenance(r *report.Run) string {
	var versions []string
	for _, of := range slices.Sorted(maps.Keys(r.Versions)) {
		versions = append(versions, of+" "+r.Versions[of])
	}
	return fmt.Sprintf("%s, %s on %s, %d cores, %s, kernel %s, %s; %s; load %s before, %s after.\n",
		r.Started.Format("2006-01-02 15:04"), r.Took, r.Machine.CPU, r.Machine.Cores, r.Machine.Memory, r.Machine.Kernel, r.Machine.Go,
		strings.Join(versions, ", "), r.Load[0], r.Load[1])
}

// headlines are the tables of the summary, and what they show of each section: metrics that begin so, but those of
// connections without a Service; with largest, of the largest cluster alone.
var headlines = [][]struct {
	section string
	metrics []string
	largest bool
}{
	{
		{"control", []string{startMetric, changeMetric, responseMetric, serviceMetric, "rolling update", busyMetric, changeCPU, busyCPU,
			"restart: process start", "restart: connections", "connections begun", "memory, peak of the process"}, false},
		{"large", []string{"one endpoint change in it"}, false},
		{"packets", []string{"connect latency", rateMetric, ratioMetric}, true},
	},
	{
		{"dns", []string{"process start", "headless endpoint changes", "new Service", "name in the zone, CPU", "name that does not exist, CPU",
			"search walk, per query, CPU", "cached name from elsewhere, CPU", "headless, 1000 endpoints, EDNS over UDP, CPU",
			"memory after load", "memory that names"}, false},
	},
}

// Marks in a file between which the summary stands.
const (
	summaryBegins = "<!-- benchmark: made by make bench -->\n"
	summaryEnds   = "<!-- /benchmark -->\n"
)

// summarize writes the headlines and the pictures into a file.
func summarize(runs []*report.Run, dir, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(text), summaryBegins)
	_, after, ok2 := strings.Cut(rest, summaryEnds)
	if !ok || !ok2 {
		return fmt.Errorf("no lines %q and %q", strings.TrimSpace(summaryBegins), strings.TrimSpace(summaryEnds))
	}
	var b strings.Builder
	if err := headline(&b, runs, dir, filepath.Dir(file)); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(before+summaryBegins+b.String()+summaryEnds+after), 0o644)
}

func headline(w io.Writer, runs []*report.Run, dir, from string) error {
	results, shown := report.Latest(runs), false
	for _, table := range headlines {
		var chosen []report.Result
		for _, h := range table {
			of := slices.DeleteFunc(slices.Clone(results), func(r report.Result) bool {
				return r.Section != h.section || strings.HasSuffix(r.Metric, directly) ||
					!slices.ContainsFunc(h.metrics, func(m string) bool { return strings.HasPrefix(r.Metric, m) })
			})
			if h.largest && len(of) > 0 {
				most := slices.MaxFunc(of, func(a, b report.Result) int { return a.Services - b.Services }).Services
				of = slices.DeleteFunc(of, func(r report.Result) bool { return r.Services != most })
			}
			chosen = append(chosen, of...)
		}
		if len(chosen) == 0 {
			continue
		}
		if err := report.Side(chosen).Write(w); err != nil {
			return err
		}
		fmt.Fprintln(w)
		shown = true
	}
	if !shown {
		return errors.New("nothing to show")
	}
	path, err := relative(from, dir)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%s\n[All results](%s/README.md).\n", provenance(runs[len(runs)-1]), path)
	pictures, err := report.Draw(results, dir)
	for _, p := range pictures {
		fmt.Fprintf(w, "\n![%s](%s/%s)\n", p.Title, path, p.File)
	}
	return err
}

// relative returns the path of a directory as seen from another.
func relative(from, to string) (string, error) {
	from, err := filepath.Abs(from)
	if err != nil {
		return "", err
	}
	if to, err = filepath.Abs(to); err != nil {
		return "", err
	}
	return filepath.Rel(from, to)
}
