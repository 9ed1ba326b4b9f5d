package report

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weir-project/weir/bench/internal/stat"
)

func TestFigure(t *testing.T) {
	for _, test := range []struct {
		v    float64
		want string
	}{
		{0, "0"}, {0.01234, "0.0123"}, {1.234, "1.23"}, {12.34, "12.3"}, {123.4, "123"}, {999.6, "1,000"},
		{1234567, "1,234,567"}, {-0.5, "-0.5"}, {-1234, "-1,234"},
	} {
		if got := Figure(test.v); got != test.want {
			t.Errorf("Figure(%v) = %s, want %s", test.v, got, test.want)
		}
	}
}

func TestGoal(t *testing.T) {
	s := stat.Summary{N: 3, P50: 4, P99: 9, Max: 9}
	for _, test := range []struct {
		goal         Goal
		text, missed string
	}{
		{Goal{P50: 4, P99: 8}, "p50 ≤ 4, p99 ≤ 8", "p99"},
		{Goal{P50: 3}, "p50 ≤ 3", "p50"},
		{Goal{Max: 9}, "max ≤ 9", ""},
		{Goal{None: true}, "none", "p50"},
		{Goal{AtLeast: 5}, "p50 ≥ 5", "p50"},
		{Goal{AtLeast: 4}, "p50 ≥ 4", ""},
	} {
		if got := test.goal.String(); got != test.text {
			t.Errorf("%+v reads %q, want %q", test.goal, got, test.text)
		}
		if got := test.goal.Missed(s); got != test.missed {
			t.Errorf("goal %s: missed %q, want %q", test.text, got, test.missed)
		}
	}
}

// sample is a run of a sweep over two sizes.
func sample(t *testing.T) *Run {
	t.Helper()
	r := &Run{Load: [2]string{"0.10 0.20 0.30", ""}}
	for services, ms := range map[int]float64{100: 60, 1000: 600} {
		for proxy, v := range map[string]float64{"weir": 2, "kube-proxy": ms} {
			r.Add(Result{Section: "sweep", Metric: "one endpoint change, API write → packets", Proxy: proxy, Services: services, Endpoints: 10, Unit: "ms"},
				stat.Series{v, v + 1, v - 1})
		}
	}
	r.Add(Result{Metric: "nothing"}, nil)
	return r
}

func TestWriteAndRead(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "sweep.json")
	if err := sample(t).Write(path); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), `"values": [2,3,1]`) {
		t.Errorf("values are not on one line:\n%s", text)
	}
	runs, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := Latest(append(runs, sample(t))); len(got) != 4 {
		t.Errorf("%d results of the same four things measured twice", len(got))
	}
}

func TestSide(t *testing.T) {
	run := sample(t)
	for i := range run.Results {
		if run.Results[i].Proxy == "weir" {
			run.Results[i].Goal = &Goal{P50: 1}
		}
	}
	var b strings.Builder
	if err := Side(run.Results).Write(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| weir ", "| 100 × 10 ", "| 2.00 ms (1.00–3.00, n=3) ", "| 600 ms (599–601, n=3) ", "| p50 ≤ 1 ms ", "| missed: p50 |"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

func TestDraw(t *testing.T) {
	dir := t.TempDir()
	drawn, err := Draw(sample(t).Results, dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(drawn) != 1 {
		t.Fatalf("%d pictures, want one", len(drawn))
	}
	svg, err := os.ReadFile(filepath.Join(dir, drawn[0].File))
	if err != nil || !strings.Contains(string(svg), "kube-proxy") {
		t.Errorf("the picture does not name a proxy: %v", err)
	}
}
