package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/weir-project/weir/bench/internal/report"
)

// writeReport makes tables and pictures from all runs in a directory.
func writeReport(dir string, out io.Writer) error {
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
		full = quick // better than none
	}
	var b strings.Builder
	if err := document(&b, full, dir); err != nil {
		return err
	}
	path := filepath.Join(dir, "README.md")
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		return err
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
			if len(r.Results) > 0 && r.Results[0].Section == section {
				fmt.Fprintln(w, provenance(r))
			}
		}
		fmt.Fprintln(w)
		if err := sections[section].table(of).Write(w); err != nil {
			return err
		}
		if notes := report.Notes(of); notes != "" {
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

// provenance says where a run's figures come from.
func provenance(r *report.Run) string {
	return fmt.Sprintf("%s, %s on %s, %d cores, %s, kernel %s, %s; Weir %s, Kubernetes %s; load %s before, %s after.\n",
		r.Started.Format("2006-01-02 15:04"), r.Took, r.Machine.CPU, r.Machine.Cores, r.Machine.Memory, r.Machine.Kernel, r.Machine.Go,
		r.Versions["weir"], r.Versions["kubernetes"], r.Load[0], r.Load[1])
}
