package proxier

import (
	"context"
	"fmt"
	"iter"
	"net/netip"
	"runtime"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/weir-project/weir/dataplane"
	"github.com/weir-project/weir/dataplane/dataplanetest"
	"github.com/weir-project/weir/endpoints"
)

func tabSlots(t *table) []netip.AddrPort {
	if t == nil {
		return nil
	}
	return t.slots
}

func compareAddrPort(a, b netip.AddrPort) int { return a.Compare(b) }

// yes is a kernel that takes everything.
type yes struct{ ops int }

func (y *yes) Apply(_ context.Context, ops []dataplane.Op) error {
	y.ops += len(ops)
	return nil
}

func (y *yes) Replace(_ context.Context, first, rest iter.Seq[dataplane.Op]) error {
	for range first {
	}
	for range rest {
	}
	return nil
}

// cluster is a Proxier over a number of services, each with a cluster IP and a node port.
type cluster struct {
	*Proxier
	engine *endpoints.Engine
	slices []*endpoints.Slice
}

func newCluster(t testing.TB, k kernel, services, eps int) *cluster {
	t.Helper()
	c := &cluster{engine: endpoints.New(endpoints.Config{NodeName: "node"})}
	var all []*endpoints.Service
	where := &endpoints.Where{Node: "elsewhere"}
	for i := range services {
		s := &endpoints.Service{Name: name(fmt.Sprintf("svc-%d", i)), UID: "uid",
			ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)})},
			Ports:      []endpoints.Port{{Protocol: endpoints.TCP, Port: 80, NodePort: uint16(20000 + i)}}}
		all = append(all, s)
		for first := 0; first < eps; first += 100 {
			sl := &endpoints.Slice{Name: name(fmt.Sprintf("svc-%d-%d", i, first)), Service: s.Name, Family: endpoints.IPv4,
				Ports: []endpoints.SlicePort{{Protocol: endpoints.TCP, Port: 8080}}}
			for j := first; j < min(first+100, eps); j++ {
				n := i*eps + j
				sl.Endpoints = append(sl.Endpoints, endpoints.Endpoint{Where: where, Conditions: endpoints.Ready | endpoints.Serving,
					Addr: netip.AddrFrom4([4]byte{10, byte(128 + n>>16), byte(n >> 8), byte(n)})})
			}
			c.slices = append(c.slices, sl)
		}
	}
	c.engine.ReplaceServices(all)
	c.engine.ReplaceSlices(c.slices)
	c.engine.SetNode(&endpoints.Node{Name: "node"})
	c.engine.SetServiceCIDRs(nil)
	var err error
	c.Proxier, err = New(Config{Source: c.engine, Kernel: k, NodeAddrs: addrs("192.168.1.1", "192.168.1.2"), NodePortAddrs: addrs("192.168.1.1", "192.168.1.2")})
	if err != nil {
		t.Fatal(err)
	}
	c.sync()
	return c
}

func (c *cluster) sync() {
	c.gather()
	c.Proxier.sync(quiet())
}

// move gives one endpoint of the slice in the middle another address.
func (c *cluster) move(to netip.Addr) {
	i := len(c.slices) / 2
	s := *c.slices[i]
	s.Endpoints = slices.Clone(s.Endpoints)
	s.Endpoints[len(s.Endpoints)/2].Addr = to
	c.slices[i] = &s
	c.engine.SetSlice(&s)
}

// drop removes the first endpoint of the slice in the middle, and add puts one back.
func (c *cluster) drop() endpoints.Endpoint {
	i := len(c.slices) / 2
	s := *c.slices[i]
	gone := s.Endpoints[0]
	s.Endpoints = slices.Clone(s.Endpoints[1:])
	c.slices[i] = &s
	c.engine.SetSlice(&s)
	return gone
}

func (c *cluster) add(e endpoints.Endpoint) {
	i := len(c.slices) / 2
	s := *c.slices[i]
	s.Endpoints = append(slices.Clone(s.Endpoints), e)
	c.slices[i] = &s
	c.engine.SetSlice(&s)
}

func TestCostFollowsTheChange(t *testing.T) {
	type cost map[dataplane.Set]int
	measure := func(services, eps int, change func(*cluster)) cost {
		k := &dataplanetest.Kernel{}
		c := newCluster(t, k, services, eps)
		k.Batches()
		change(c)
		c.sync()
		got := cost{}
		batches := k.Batches()
		if len(batches) != 1 {
			t.Fatalf("%d transactions for one change", len(batches))
		}
		for _, op := range batches[0].Ops {
			if got[op.Set]++; got[op.Set] > 5*3 { // three frontends
				t.Errorf("%d services: more than 5 elements per frontend in one map: %v", services, got)
			}
		}
		return got
	}
	for _, change := range []struct {
		name string
		eps  int
		do   func(*cluster)
		want cost // for three frontends
	}{
		{"moved", 9, func(c *cluster) { c.move(addrs("10.1.2.3")[0]) }, cost{dataplane.Endpoints: 6}},
		{"removed", 7, func(c *cluster) { c.drop() }, cost{dataplane.Endpoints: 9}},
		{"removed, lower class", 9, func(c *cluster) { c.drop() }, cost{dataplane.Endpoints: 9, dataplane.Services: 6}},
		{"added", 7, func(c *cluster) {
			c.add(endpoints.Endpoint{Addr: addrs("10.1.2.3")[0], Where: &endpoints.Where{}, Conditions: endpoints.Ready})
		},
			cost{dataplane.Endpoints: 3}},
		{"added, higher class", 8, func(c *cluster) {
			c.add(endpoints.Endpoint{Addr: addrs("10.1.2.3")[0], Where: &endpoints.Where{}, Conditions: endpoints.Ready})
		},
			cost{dataplane.Endpoints: 3, dataplane.Services: 6}},
	} {
		for _, services := range []int{10, 1_000, 10_000} {
			if testing.Short() && services > 1_000 {
				continue
			}
			if diff := gocmp.Diff(change.want, measure(services, change.eps, change.do)); diff != "" {
				t.Errorf("%s with %d services (-want +got):\n%s", change.name, services, diff)
			}
		}
	}
}

// bench measures the way from an endpoint that changes in the engine to a plan that is applied and
// committed, without the kernel's part.
func bench(b *testing.B, services, eps int) {
	c := newCluster(b, &yes{}, services, eps)
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		c.move(netip.AddrFrom4([4]byte{10, 3, byte(n >> 8), byte(n)}))
		c.sync()
	}
}

func BenchmarkOneEndpointChange(b *testing.B) {
	for _, services := range []int{100, 1_000, 10_000} {
		b.Run(fmt.Sprintf("services=%d", services), func(b *testing.B) { bench(b, services, 50) })
	}
}

func BenchmarkOneEndpointChangeLargeService(b *testing.B) {
	for _, eps := range []int{1_000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("endpoints=%d", eps), func(b *testing.B) { bench(b, 1, eps) })
	}
}

// BenchmarkPlanLargeService is the planner's part alone.
func BenchmarkPlanLargeService(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("endpoints=%d", n), func(b *testing.B) {
			list := manyEps(n)
			w := world{name("web"): one(endpoints.Service{ClusterIPs: addrs("10.96.0.1")}, endpoints.ResolvedPort{Cluster: list, Any: true})}
			r := newRuleset()
			want := wanted{services: w, dirty: w.names()}
			r.commit(r.prepare(want))
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				list[n/2] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 3, byte(i >> 8), byte(i)}), 8080)
				p := r.plan(want)
				if len(p.ops()) != 2 {
					b.Fatalf("%d operations", len(p.ops()))
				}
				r.commit(p)
			}
		})
	}
}

// BenchmarkFullWrite plans everything and walks through what a Replace is given.
func BenchmarkFullWrite(b *testing.B) {
	c := newCluster(b, &yes{}, 5_000, 50)
	before := held()
	b.ReportAllocs()
	var p *Proxier
	for b.Loop() {
		var err error
		p, err = New(Config{Source: c.engine, Kernel: &yes{}, NodePortAddrs: addrs("192.168.1.1")})
		if err != nil {
			b.Fatal(err)
		}
		p.gather()
		p.sync(quiet())
		if p.Frontends() != 10_000 {
			b.Fatalf("%d frontends", p.Frontends())
		}
	}
	b.ReportMetric(float64(held()-before), "B-held")
	runtime.KeepAlive(c)
	runtime.KeepAlive(p)
}

// held returns the bytes in use after a collection.
func held() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
