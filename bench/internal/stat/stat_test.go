package stat

import (
	"slices"
	"testing"
)

func upTo(n int) Series {
	var s Series
	for i := n; i > 0; i-- {
		s = append(s, float64(i))
	}
	return s
}

func TestSummarize(t *testing.T) {
	for _, test := range []struct {
		name   string
		series Series
		want   Summary
	}{
		{"empty", nil, Summary{}},
		{"one", upTo(1), Summary{N: 1, Min: 1, P50: 1, P99: 1, Max: 1, Mean: 1}},
		{"even", upTo(4), Summary{N: 4, Min: 1, P50: 2.5, P99: 4, Max: 4, Mean: 2.5}},
		{"odd", upTo(5), Summary{N: 5, Min: 1, P50: 3, P99: 5, Max: 5, Mean: 3}},
		{"two hundred", upTo(200), Summary{N: 200, Min: 1, P50: 100.5, P99: 199, Max: 200, Mean: 100.5}},
	} {
		if got := test.series.Summarize(); got != test.want {
			t.Errorf("%s: %+v, want %+v", test.name, got, test.want)
		}
	}
}

func TestThin(t *testing.T) {
	if got := upTo(3).Thin(3); !slices.Equal(got, Series{3, 2, 1}) {
		t.Errorf("a short series became %v", got)
	}
	if got := upTo(1001).Thin(5); !slices.Equal(got, Series{1, 251, 501, 751, 1001}) {
		t.Errorf("a long series became %v", got)
	}
}
