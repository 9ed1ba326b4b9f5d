// Package stat reduces measured values to what is printed of them.
package stat

import (
	"slices"
	"time"
)

// Series is a number of measured values, all in one unit, in the order in which they were measured.
type Series []float64

// AddMillis and AddSeconds add a duration in that unit.
func (s *Series) AddMillis(d time.Duration)  { *s = append(*s, float64(d)/1e6) }
func (s *Series) AddSeconds(d time.Duration) { *s = append(*s, d.Seconds()) }

// Summary is what is printed of a series. The zero value is that of an empty one.
type Summary struct {
	N    int     `json:"n"`
	Min  float64 `json:"min"`
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	Max  float64 `json:"max"`
	Mean float64 `json:"mean"`
}

// Summarize returns the summary of a series.
func (s Series) Summarize() Summary {
	if len(s) == 0 {
		return Summary{}
	}
	sorted := slices.Sorted(slices.Values(s))
	sum := 0.0
	for _, v := range sorted {
		sum += v
	}
	return Summary{
		N: len(sorted), Min: sorted[0], Max: sorted[len(sorted)-1], Mean: sum / float64(len(sorted)),
		P50: quantile(sorted, 0.50), P99: quantile(sorted, 0.99),
	}
}

// quantile returns the smallest value that a fraction q of the values does not exceed. So a p99 of few
// values is their maximum. Of two values in the middle, the median is the mean.
func quantile(sorted []float64, q float64) float64 {
	n := len(sorted)
	if q == 0.5 && n%2 == 0 {
		return (sorted[n/2-1] + sorted[n/2]) / 2
	}
	i := int(q * float64(n))
	return sorted[min(i, n-1)]
}

// Thin returns the series as it is if it has at most n values, else n of them, sorted, that stand for its
// distribution, the smallest and the largest among them.
func (s Series) Thin(n int) Series {
	if len(s) <= n {
		return s
	}
	sorted := slices.Sorted(slices.Values(s))
	thin := make(Series, n)
	for i := range thin {
		thin[i] = sorted[i*(len(sorted)-1)/(n-1)]
	}
	return thin
}
