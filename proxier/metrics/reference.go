package metrics

import (
	"slices"

	"k8s.io/component-base/metrics"
)

// The types of metrics, as /metrics spells them.
const (
	counterType   = "counter"
	gaugeType     = "gauge"
	histogramType = "histogram"
)

// Metric describes a metric of ours for its readers.
type Metric struct {
	Name    string
	Type    string // counter, gauge or histogram
	Labels  []string
	Help    string
	Buckets []float64 // upper bounds, of a histogram
}

// Reference describes all metrics of ours, in the order of their names.
func Reference() []Metric {
	var d definer
	newRecorder(&d)
	slices.SortFunc(d.metrics, func(a, b Metric) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return d.metrics
}

// definer makes metrics, and remembers what they are and how to register them: each is described in one place.
type definer struct {
	metrics    []Metric
	collectors []metrics.Registerable
}

func (d *definer) add(m Metric, c metrics.Registerable) {
	d.metrics = append(d.metrics, m)
	d.collectors = append(d.collectors, c)
}

func (d *definer) counter(name, help string, labels ...string) *metrics.CounterVec {
	v := metrics.NewCounterVec(&metrics.CounterOpts{
		Name: name, Help: help, StabilityLevel: metrics.ALPHA,
	}, labels)
	d.add(Metric{Name: name, Type: counterType, Labels: labels, Help: help}, v)
	return v
}

func (d *definer) gauge(name, help string, labels ...string) *metrics.GaugeVec {
	v := metrics.NewGaugeVec(&metrics.GaugeOpts{
		Name: name, Help: help, StabilityLevel: metrics.ALPHA,
	}, labels)
	d.add(Metric{Name: name, Type: gaugeType, Labels: labels, Help: help}, v)
	return v
}

func (d *definer) histogram(name, help string, buckets []float64, labels ...string) *metrics.HistogramVec {
	v := metrics.NewHistogramVec(&metrics.HistogramOpts{
		Name: name, Help: help, Buckets: buckets, StabilityLevel: metrics.ALPHA,
	}, labels)
	d.add(Metric{Name: name, Type: histogramType, Labels: labels, Help: help, Buckets: buckets}, v)
	return v
}
