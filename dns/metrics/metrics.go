// Package metrics shows what a DNS server counts. What CoreDNS counts too has its name there
// (coredns_*), so that dashboards and alerts go on working; the rest is called weir_dns_*.
package metrics

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-project/weir/dns"
	"github.com/weir-project/weir/endpoints"
)

// Recorder is a collector of a server's numbers.
type Recorder struct {
	server *dns.Server
	name   string // of the server, as CoreDNS writes it: dns://:53

	programming prometheus.Histogram
}

// NewRecorder returns a collector for a server that listens at an address, for the label server.
func NewRecorder(server *dns.Server, address string) *Recorder {
	return &Recorder{server: server, name: "dns://" + address, programming: prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "coredns_kubernetes_dns_programming_duration_seconds",
		Help: "Time from a change of the endpoints of a service until the zone has it.",
		// From 1 ms on.
		Buckets: prometheus.ExponentialBuckets(0.001, 2, 20),
	})}
}

// Updated is to be told of each update of the zone.
func (r *Recorder) Updated(c endpoints.Changes) {
	for _, at := range c.Triggers {
		r.programming.Observe(time.Since(at).Seconds())
	}
}

var (
	requests = prometheus.NewDesc("coredns_dns_requests_total", "Queries, by where their names are.",
		[]string{"server", "zone", "view", "proto", "family", "type"}, nil)
	responses = prometheus.NewDesc("coredns_dns_responses_total", "Answers, by response code.",
		[]string{"server", "zone", "view", "rcode", "plugin"}, nil)
	durations = prometheus.NewDesc("coredns_dns_request_duration_seconds", "Time from a query's arrival until its answer is there. Within the zone it is the mean of those that arrived together.",
		[]string{"server", "zone", "view"}, nil)
	dropped     = prometheus.NewDesc("weir_dns_dropped_total", "Packets that are not queries, and were not answered.", []string{"server"}, nil)
	outstanding = prometheus.NewDesc("weir_dns_forwards_outstanding", "Queries that wait for an upstream.", []string{"server"}, nil)
	walks       = prometheus.NewDesc("coredns_autopath_success_total", "Queries through a search list that were answered at its first name.", []string{"server"}, nil)
	connections = prometheus.NewDesc("weir_dns_connections", "Open TCP connections.", []string{"server"}, nil)
)

// Describe implements prometheus.Collector.
func (r *Recorder) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{requests, responses, durations, dropped, outstanding, walks, connections} {
		ch <- d
	}
	r.programming.Describe(ch)
}

// Collect implements prometheus.Collector.
func (r *Recorder) Collect(ch chan<- prometheus.Metric) {
	s := r.server.Stats()
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), append([]string{r.name}, labels...)...)
	}
	gauge := func(d *prometheus.Desc, n int) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), r.name)
	}
	for _, c := range s.Requests {
		proto, family := "udp", "1"
		if c.TCP {
			proto = "tcp"
		}
		if c.IPv6 {
			family = "2"
		}
		counter(requests, c.N, c.Zone, "", proto, family, c.Label)
	}
	byCode := map[[2]string]uint64{}
	for _, c := range s.Responses {
		byCode[[2]string{c.Zone, c.Label}] += c.N
	}
	for key, n := range byCode {
		plugin := "kubernetes"
		if key[0] == "." {
			plugin = "forward"
		}
		counter(responses, n, key[0], "", key[1], plugin)
	}
	for _, h := range s.Durations {
		buckets, sum := map[float64]uint64{}, uint64(0)
		for i, n := range h.Counts {
			if sum += n; i < len(dns.Buckets) {
				buckets[dns.Buckets[i]] = sum
			}
		}
		ch <- prometheus.MustNewConstHistogram(durations, sum, h.Seconds, buckets, r.name, h.Zone, "")
	}
	counter(dropped, s.Dropped)
	counter(walks, s.Walks)
	gauge(outstanding, s.Outstanding)
	gauge(connections, s.Connections)
	r.programming.Collect(ch)
}

// Ready returns what serves /ready: 200 once the server answers with a zone that is complete.
func Ready(server *dns.Server) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !server.Serving() {
			http.Error(w, "the zone is not complete", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("OK"))
	})
}
