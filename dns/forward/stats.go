package forward

import (
	"net/netip"
	"time"
)

// Observer is told of what happens with upstreams. Its methods are called from any goroutine and
// must not block.
type Observer interface {
	// UpstreamDone is told of every exchange with an upstream: how long it took and, if err is nil,
	// the rcode of the answer. It is coredns_proxy_request_duration_seconds{to, rcode}.
	UpstreamDone(to netip.AddrPort, tcp bool, took time.Duration, rcode int, err error)
	// UpstreamDown is told that an upstream no longer answers, or does so again.
	UpstreamDown(to netip.AddrPort, down bool)
}

// CacheStats are the counters of the cache. They only grow, except for the entries and bytes.
type CacheStats struct {
	EntriesSuccess, EntriesDenial     int    // coredns_cache_entries{type}
	Bytes                             int    // what they take
	HitsSuccess, HitsDenial           uint64 // coredns_cache_hits_total{type}
	Misses                            uint64 // coredns_cache_misses_total
	Prefetches                        uint64 // coredns_cache_prefetch_total
	ServedStale                       uint64 // coredns_cache_served_stale_total
	EvictionsSuccess, EvictionsDenial uint64 // coredns_cache_evictions_total{type}
	Joined                            uint64 // misses that waited for somebody else's upstream query
}

func (c *CacheStats) add(o CacheStats) {
	c.EntriesSuccess += o.EntriesSuccess
	c.EntriesDenial += o.EntriesDenial
	c.HitsSuccess += o.HitsSuccess
	c.HitsDenial += o.HitsDenial
	c.Misses += o.Misses
	c.Prefetches += o.Prefetches
	c.ServedStale += o.ServedStale
	c.EvictionsSuccess += o.EvictionsSuccess
	c.EvictionsDenial += o.EvictionsDenial
	c.Joined += o.Joined
}

// Stats are the counters of a Forwarder.
type Stats struct {
	Cache          CacheStats
	Rejected       uint64 // questions beyond the bound: coredns_forward_max_concurrent_rejects_total
	AllDown        uint64 // no upstream was healthy: coredns_forward_healthcheck_broken_total
	ProbesFailed   uint64 // coredns_proxy_healthcheck_failures_total
	Mismatched     uint64 // packets that answered another question than ours
	Outstanding    int    // questions that upstreams are asked now
	UpstreamsDown  int
	UpstreamsLoop  int // left out because they lead back to us
	UpstreamsKnown int
}

type nobody struct{}

func (nobody) UpstreamDone(netip.AddrPort, bool, time.Duration, int, error) {}
func (nobody) UpstreamDown(netip.AddrPort, bool)                            {}
