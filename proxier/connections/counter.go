// Package connections keeps the number of new connections of each service, as metrics.
//
// The kernel counts by frontend: one element of a set for each frontend that somebody dials, made and
// raised by the rule that a new connection passes anyway. Nothing is told for a connection, so nothing
// can be lost, and what counting costs does not depend on who reads. A Counter reads the set whenever
// the metrics are asked for, and from time to time so that no element expires unread, and adds what
// is new to the service that has the frontend.
package connections

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/klog/v2"

	"github.com/weir-project/weir/dataplane"
	"github.com/weir-project/weir/endpoints"
)

// interval is how often the counts are read although nobody asks: what a frontend has counted when its
// service goes is lost, if it is younger.
const interval = 10 * time.Second

// Config says what to count. All fields are required.
type Config struct {
	// Read returns the kernel's counts, which only rise unless a table is made anew.
	Read func() (map[dataplane.Counter]uint64, error)
	// Owner returns the service that has a frontend.
	Owner func(dataplane.Frontend) (endpoints.Name, bool)
	// Exists reports whether there is such a service.
	Exists func(endpoints.Name) bool
	// Limit is how many services have a series of their own: the first that have a connection, as long
	// as they are there. The connections of the others are counted together.
	Limit int
}

// Counter is a collector of the connections of services.
type Counter struct {
	cfg Config

	// mu guards everything below.
	mu     sync.Mutex
	last   map[dataplane.Counter]uint64 // as read; nil: not yet
	counts map[endpoints.Name]uint64    // of at most Limit services
	others map[endpoints.Name]bool      // services beyond the limit
	rest   uint64                       // connections of theirs
	err    error                        // of the last reading
}

// New returns a Counter. What the kernel has counted before the first reading is left out: how much of it
// an earlier process has shown already, nobody knows.
func New(cfg Config) *Counter {
	return &Counter{cfg: cfg, counts: map[endpoints.Name]uint64{}, others: map[endpoints.Name]bool{}}
}

// Run reads the counts from time to time until ctx ends, and then returns nil.
func (c *Counter) Run(ctx context.Context) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	failing := false
	for {
		err := c.Update()
		if err != nil && !failing {
			klog.FromContext(ctx).Error(err, "Reading the connections of services", "retry", interval)
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Update reads the kernel's counts. After an error it is as before.
func (c *Counter) Update() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var counts map[dataplane.Counter]uint64
	if counts, c.err = c.cfg.Read(); c.err != nil {
		return c.err
	}
	if c.last != nil {
		c.add(c.gains(counts))
	}
	c.last = counts
	c.forget()
	return nil
}

// gains returns how many connections each service has had since the last reading.
func (c *Counter) gains(counts map[dataplane.Counter]uint64) map[endpoints.Name]uint64 {
	gains := map[endpoints.Name]uint64{}
	for counter, n := range counts {
		was := c.last[counter]
		if n < was {
			was = 0 // of another counter than this one: the table was made anew
		}
		if n == was {
			continue
		}
		if owner, ok := c.cfg.Owner(counter.Frontend); ok {
			gains[owner] += n - was
		}
	}
	return gains
}

// add adds gains, in the order of names so that it does not depend on chance who comes first.
func (c *Counter) add(gains map[endpoints.Name]uint64) {
	names := make([]endpoints.Name, 0, len(gains))
	for name := range gains {
		names = append(names, name)
	}
	slices.SortFunc(names, endpoints.Name.Compare)
	for _, name := range names {
		if _, counted := c.counts[name]; counted || len(c.counts) < c.cfg.Limit && !c.others[name] {
			c.counts[name] += gains[name]
			continue
		}
		c.others[name] = true
		c.rest += gains[name]
	}
}

// forget drops services that are gone. One that was beyond the limit is not promoted: its series would
// begin in the middle, with a jump.
func (c *Counter) forget() {
	for name := range c.counts {
		if !c.cfg.Exists(name) {
			delete(c.counts, name)
		}
	}
	for name := range c.others {
		if !c.cfg.Exists(name) {
			delete(c.others, name)
		}
	}
}

var (
	total = prometheus.NewDesc("weir_service_connections_total",
		"New connections that were given an endpoint of a service, from or through this node, since Weir started. With --service-metrics.",
		[]string{"namespace", "name"}, nil)
	rest = prometheus.NewDesc("weir_service_connections_other_total",
		"New connections of the services that have no series of their own, because there are more than --service-metrics.", nil, nil)
	beyond = prometheus.NewDesc("weir_service_connections_other_services",
		"Services that have no series of their own, because there are more than --service-metrics.", nil, nil)
	frontends = prometheus.NewDesc("weir_service_connections_frontends",
		"Frontends that the kernel counts at the moment: those dialled within the last hour. Of those beyond 65536 per family no connection is counted.", nil, nil)
)

// Describe implements prometheus.Collector.
func (c *Counter) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{total, rest, beyond, frontends} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. It reads the counts first; if that fails there are none, and
// Run tells why.
func (c *Counter) Collect(ch chan<- prometheus.Metric) {
	if c.Update() != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, n := range c.counts {
		ch <- prometheus.MustNewConstMetric(total, prometheus.CounterValue, float64(n), name.Namespace, name.Name)
	}
	ch <- prometheus.MustNewConstMetric(rest, prometheus.CounterValue, float64(c.rest))
	ch <- prometheus.MustNewConstMetric(beyond, prometheus.GaugeValue, float64(len(c.others)))
	ch <- prometheus.MustNewConstMetric(frontends, prometheus.GaugeValue, float64(len(c.last)))
}

// Count is how many connections a service has had.
type Count struct {
	Service endpoints.Name
	N       uint64
}

// Counts returns what was counted as of the last reading: the services with the most connections first.
func (c *Counter) Counts() []Count {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]Count, 0, len(c.counts))
	for name, n := range c.counts {
		out = append(out, Count{name, n})
	}
	slices.SortFunc(out, func(a, b Count) int { return cmp.Or(cmp.Compare(b.N, a.N), a.Service.Compare(b.Service)) })
	return out
}
