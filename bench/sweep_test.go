package main

import (
	"io"
	"testing"

	"github.com/weir-project/weir/bench/internal/report"
)

func TestUnbearable(t *testing.T) {
	b := &bench{log: io.Discard, run: &report.Run{}}
	earlier := map[string]point{}
	for _, test := range []struct {
		size, next    int
		change, start float64 // ms, s
		want          bool
	}{
		{100, 1000, 900, 1, false}, // one point tells no slope
		{1000, 5000, 1000, 2, false},
		{5000, 10_000, 3000, 8, false},
		{10_000, 50_000, 5500, 16, true}, // 25.5 s for a change
	} {
		f := &found{}
		f.of(changeMetric, "ms", nil).add(test.change)
		f.of(startMetric, "s", nil).add(test.start)
		if got := b.unbearable("slow", earlier, f, test.size, test.next); got != test.want {
			t.Errorf("from %d to %d services: %v, want %v", test.size, test.next, got, test.want)
		}
	}
	if len(b.run.Notes) != 1 {
		t.Errorf("notes %q, want one", b.run.Notes)
	}
}
