package metrics

import (
	"net/netip"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-project/weir/dns/forward"
)

// Forwarding is a collector of a forwarder's numbers, and an observer of its upstreams.
type Forwarding struct {
	name      string // of the server
	stats     func() forward.Stats
	exchanges *prometheus.HistogramVec
}

// NewForwarding returns a collector for the forwarder of a server that listens at an address. Until
// Of says which forwarder that is, it shows nothing but upstreams.
func NewForwarding(address string) *Forwarding {
	return &Forwarding{name: "dns://" + address, exchanges: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "coredns_proxy_request_duration_seconds",
		Help:    "Time that an upstream took to answer.",
		Buckets: []float64{0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192},
	}, []string{"proxy_name", "to", "rcode"})}
}

// Of says whose numbers these are. It is called before the first Collect.
func (m *Forwarding) Of(f *forward.Forwarder) { m.stats = f.Stats }

// UpstreamDone implements forward.Observer.
func (m *Forwarding) UpstreamDone(to netip.AddrPort, _ bool, took time.Duration, rcode int, err error) {
	code := dns.RcodeToString[rcode]
	if err != nil {
		code = "error"
	}
	m.exchanges.WithLabelValues("forward", to.String(), code).Observe(took.Seconds())
}

// UpstreamDown implements forward.Observer.
func (*Forwarding) UpstreamDown(netip.AddrPort, bool) {}

var (
	cacheEntries   = prometheus.NewDesc("coredns_cache_entries", "Answers in the cache.", []string{"server", "type", "zones", "view"}, nil)
	cacheHits      = prometheus.NewDesc("coredns_cache_hits_total", "Answers from the cache.", []string{"server", "type", "zones", "view"}, nil)
	cacheMisses    = prometheus.NewDesc("coredns_cache_misses_total", "Queries that the cache had no answer to.", []string{"server", "zones", "view"}, nil)
	cachePrefetch  = prometheus.NewDesc("coredns_cache_prefetch_total", "Answers that were asked for again before their time was over.", []string{"server", "zones", "view"}, nil)
	cacheStale     = prometheus.NewDesc("coredns_cache_served_stale_total", "Answers whose time was over, given because no upstream helped.", []string{"server", "zones", "view"}, nil)
	cacheEvictions = prometheus.NewDesc("coredns_cache_evictions_total", "Answers given up for lack of room.", []string{"server", "type", "zones", "view"}, nil)
	cacheBytes     = prometheus.NewDesc("weir_dns_cache_bytes", "Size of the cache.", []string{"server"}, nil)
	joined         = prometheus.NewDesc("weir_dns_forward_joined_total", "Queries that waited for the answer to somebody else's.", []string{"server"}, nil)
	rejected       = prometheus.NewDesc("coredns_forward_max_concurrent_rejects_total", "Queries that were not forwarded because too many were under way.", nil, nil)
	allDown        = prometheus.NewDesc("coredns_forward_healthcheck_broken_total", "Queries for which all upstreams were down.", nil, nil)
	probesFailed   = prometheus.NewDesc("coredns_proxy_healthcheck_failures_total", "Failed probes of upstreams that were down.", []string{"proxy_name"}, nil)
	mismatched     = prometheus.NewDesc("weir_dns_forward_mismatched_total", "Packets from upstreams that answered another question than ours.", []string{"server"}, nil)
	upstreams      = prometheus.NewDesc("weir_dns_upstreams", "Upstreams, by state: known, down, loop (leads back to us).", []string{"server", "state"}, nil)
)

// Describe implements prometheus.Collector.
func (m *Forwarding) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{cacheEntries, cacheHits, cacheMisses, cachePrefetch, cacheStale, cacheEvictions, cacheBytes,
		joined, rejected, allDown, probesFailed, mismatched, upstreams} {
		ch <- d
	}
	m.exchanges.Describe(ch)
}

// Collect implements prometheus.Collector.
func (m *Forwarding) Collect(ch chan<- prometheus.Metric) {
	m.exchanges.Collect(ch)
	if m.stats == nil {
		return
	}
	s := m.stats()
	send := func(d *prometheus.Desc, t prometheus.ValueType, n float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, t, n, labels...)
	}
	const zones, view = ".", ""
	counter, gauge := prometheus.CounterValue, prometheus.GaugeValue
	c := s.Cache
	send(cacheEntries, gauge, float64(c.EntriesSuccess), m.name, "success", zones, view)
	send(cacheEntries, gauge, float64(c.EntriesDenial), m.name, "denial", zones, view)
	send(cacheHits, counter, float64(c.HitsSuccess), m.name, "success", zones, view)
	send(cacheHits, counter, float64(c.HitsDenial), m.name, "denial", zones, view)
	send(cacheMisses, counter, float64(c.Misses), m.name, zones, view)
	send(cachePrefetch, counter, float64(c.Prefetches), m.name, zones, view)
	send(cacheStale, counter, float64(c.ServedStale), m.name, zones, view)
	send(cacheEvictions, counter, float64(c.EvictionsSuccess), m.name, "success", zones, view)
	send(cacheEvictions, counter, float64(c.EvictionsDenial), m.name, "denial", zones, view)
	send(cacheBytes, gauge, float64(c.Bytes), m.name)
	send(joined, counter, float64(c.Joined), m.name)
	send(rejected, counter, float64(s.Rejected))
	send(allDown, counter, float64(s.AllDown))
	send(probesFailed, counter, float64(s.ProbesFailed), "forward")
	send(mismatched, counter, float64(s.Mismatched), m.name)
	send(upstreams, gauge, float64(s.UpstreamsKnown), m.name, "known")
	send(upstreams, gauge, float64(s.UpstreamsDown), m.name, "down")
	send(upstreams, gauge, float64(s.UpstreamsLoop), m.name, "loop")
}
