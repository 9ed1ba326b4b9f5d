package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/weir-project/weir/bench/internal/report"
	"github.com/weir-project/weir/bench/internal/stat"
	"github.com/weir-project/weir/bench/internal/wire"
	"github.com/weir-project/weir/bench/internal/world"
)

// packetEndpoints is how many endpoints a service has in the section packets.
const packetEndpoints = 10

// packets measures what proxies make of packets: new connections to frontends and directly to
// endpoints, and established ones.
func (b *bench) packets(ctx context.Context) (err error) {
	w, err := b.world(ctx, 0, packetEndpoints)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	own, err := w.NewSinkService(ctx, 0)
	if err != nil {
		return err
	}
	broken := map[string]bool{}
	for _, size := range b.packetSizes {
		if err := w.Grow(ctx, size, packetEndpoints); err != nil {
			return err
		}
		if err := b.packetsAt(ctx, w, own, size, broken); err != nil {
			return err
		}
	}
	return nil
}

// packetsAt has every proxy, and no proxy, in turn, but those that failed before.
func (b *bench) packetsAt(ctx context.Context, w *world.World, own *world.Service, size int, broken map[string]bool) error {
	all := map[string]*found{"none": {}}
	for round := range b.rounds {
		b.say("packets, %d services, round %d of %d", size, round+1, b.rounds)
		if err := w.Clean(b.rest); err != nil {
			return err
		}
		bare := flow{b, w, all["none"], "none", size}
		if err := bare.direct(own); err != nil {
			return err
		}
		for _, p := range b.proxies {
			if broken[p.Name] {
				continue
			}
			if all[p.Name] == nil {
				all[p.Name] = &found{}
			}
			err := b.packetsOf(ctx, p, flow{b, w, all[p.Name], p.Name, size}, own)
			if ctx.Err() != nil {
				return err
			}
			if err != nil {
				b.failed("packets", p.Name, err)
				broken[p.Name] = true
			}
		}
	}
	for _, name := range append(proxyNames(b.proxies), "none") {
		b.record("packets", name, size, packetEndpoints, all[name])
	}
	b.compareRates(size)
	return nil
}

func proxyNames(proxies []world.Proxy) (names []string) {
	for _, p := range proxies {
		names = append(names, p.Name)
	}
	return names
}

func (b *bench) packetsOf(ctx context.Context, p world.Proxy, f flow, own *world.Service) (err error) {
	if err := f.w.Clean(b.rest); err != nil {
		return err
	}
	r, err := f.w.Start(p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Stop()) }()
	alive, cancel := r.While(ctx)
	defer cancel()
	err = f.visit(alive, r, own)
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w%s", err, r.LogTail())
	}
	return err
}

func (f *flow) visit(ctx context.Context, r *world.Running, own *world.Service) error {
	if _, err := f.serving(ctx, f.w, own.Frontend()); err != nil {
		return err
	}
	if err := r.Settle(ctx, 20*time.Second); err != nil {
		return err
	}
	if err := f.w.Forget(); err != nil {
		return err
	}
	if err := f.direct(own); err != nil {
		return err
	}
	return f.proxied(own)
}

// flow measures packets in a cluster of some size.
type flow struct {
	*bench
	w    *world.World
	f    *found
	name string // of the proxy
	size int
}

// What of a new connection is compared.
const (
	rateMetric   = "new connections a second"
	directly     = ", directly to endpoints"
	directMetric = rateMetric + directly
	ratioMetric  = "new connections, through a Service ÷ directly"
)

// direct measures what leaves Services out: connections to endpoints.
func (f *flow) direct(own *world.Service) error {
	return f.measure(directly, f.w.Backends(f.size, packetEndpoints), own.SinkBackend())
}

func (f *flow) proxied(own *world.Service) error {
	return f.measure("", f.w.Frontends(f.size), own.SinkFrontend())
}

func (f *flow) measure(where string, dsts []netip.AddrPort, sink netip.AddrPort) error {
	alone, err := wire.Connect(f.w.Client, dsts, 1, f.packetTime)
	if err != nil {
		return err
	}
	f.f.of("connect latency"+where, "µs", nil).addAll(alone.Latency)
	several, err := wire.Connect(f.w.Client, dsts, 4, f.packetTime)
	if err != nil {
		return err
	}
	f.f.of(rateMetric+where, "1/s", nil).add(several.PerSecond)
	if n := alone.Failed + several.Failed; n > 0 {
		f.failed("packets", f.name, fmt.Errorf("%d of %d connections failed%s: %w", n, n+len(alone.Latency)+len(several.Latency), where, cmp.Or(alone.Err, several.Err)))
	}
	if f.size < slices.Max(f.packetSizes) {
		return nil // what is established does not ask how many services there are; once is enough
	}
	if err := f.established(where, sink); err != nil {
		return err
	}
	return f.connections(where, sink)
}

// established measures what connections carry once they are made.
func (f *flow) established(where string, sink netip.AddrPort) error {
	for _, m := range []struct {
		what, unit string
		measure    func() (float64, error)
	}{
		{"TCP stream", "Gbit/s", func() (float64, error) { return f.w.Sink.Stream(f.w.Client, sink, f.packetTime) }},
		{"TCP request and response, 1 byte", "1/s", func() (float64, error) { return f.w.Sink.PingPong(f.w.Client, sink, f.packetTime) }},
		{"UDP packets received", "1/s", func() (float64, error) { return f.w.Sink.Datagrams(f.w.Client, sink, f.packetTime) }},
	} {
		v, err := m.measure()
		if err != nil {
			return fmt.Errorf("%s%s: %w", m.what, where, err)
		}
		f.f.of(m.what+where, m.unit, nil).add(v)
	}
	return nil
}

// connections measures what the kernel keeps of a connection, by many that have just been made.
func (f *flow) connections(where string, sink netip.AddrPort) error {
	if err := f.w.Forget(); err != nil {
		return err
	}
	if err := wire.Flows(f.w.Client, sink, f.flows); err != nil {
		return err
	}
	entries, err := f.w.Connections()
	if err != nil {
		return err
	}
	f.f.of("conntrack entries of a UDP flow"+where, "", nil).add(float64(entries) / float64(f.flows))
	if entries == 0 {
		return nil // without rules that ask, the kernel does not track
	}
	before, err := world.ActiveSlabs()
	if err != nil {
		return err
	}
	if err := f.w.Forget(); err != nil {
		return err
	}
	time.Sleep(f.rest) // the kernel frees them after a grace period
	after, err := world.ActiveSlabs()
	if err != nil {
		return err
	}
	f.f.of("kernel memory of a conntrack entry"+where, "B", nil).add((before - after) / float64(entries))
	return nil
}

func (m *measured) addAll(s stat.Series) { m.values = append(m.values, s...) }

// compareRates puts rates in relation, proxy by proxy, round by round: to connections past the proxy's
// rules to endpoints, and to such where there is no proxy.
func (b *bench) compareRates(size int) {
	for _, p := range b.proxies {
		through := b.lookUp(rateMetric, p.Name, size)
		r := report.Result{Section: "packets", Metric: ratioMetric, Proxy: p.Name, Services: size, Endpoints: packetEndpoints, Unit: "%"}
		if p.Name == "weir" {
			r.Goal = &report.Goal{AtLeast: 90}
		}
		b.run.Add(r, ratio(through, b.lookUp(directMetric, p.Name, size)))
		r.Metric, r.Goal = ratioMetric+", no proxy", nil
		b.run.Add(r, ratio(through, b.lookUp(directMetric, "none", size)))
	}
}

// ratio returns the values of one result in percent of those of another.
func ratio(of, to *report.Result) (percent stat.Series) {
	if of == nil || to == nil {
		return nil
	}
	for i := range min(len(of.Values), len(to.Values)) {
		percent = append(percent, 100*of.Values[i]/to.Values[i])
	}
	return percent
}

func (b *bench) lookUp(metric, proxy string, size int) *report.Result {
	for i := range b.run.Results {
		if r := &b.run.Results[i]; r.Metric == metric && r.Proxy == proxy && r.Services == size {
			return r
		}
	}
	return nil
}
