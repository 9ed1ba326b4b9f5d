package endpoints

import (
	"fmt"
	"net/netip"
	"testing"
)

// largeService fills an engine with one service and its endpoints, perSlice in a slice, spread over
// 1,000 nodes.
func largeService(e *Engine, name Name, endpoints, perSlice int) {
	e.SetService(&Service{
		Name: name, ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1")},
		Ports: []Port{{Name: "http", Protocol: TCP, Port: 80}},
	})
	wheres := make([]*Where, 1000)
	for i := range wheres {
		wheres[i] = &Where{Node: fmt.Sprintf("node-%04d", i), Zone: fmt.Sprintf("zone-%d", i%3)}
	}
	for first := 0; first < endpoints; first += perSlice {
		s := &Slice{
			Name: Name{name.Namespace, fmt.Sprintf("%s-%05d", name.Name, first/perSlice)}, Service: name, Family: IPv4,
			Ports: []SlicePort{{Name: "http", Protocol: TCP, Port: 8080}},
		}
		for i := first; i < min(endpoints, first+perSlice); i++ {
			s.Endpoints = append(s.Endpoints, Endpoint{
				Addr:       netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}),
				Where:      wheres[i*7919%len(wheres)],
				Conditions: Ready | Serving,
			})
		}
		e.SetSlice(s)
	}
}

func BenchmarkResolve(b *testing.B) {
	for _, n := range []int{50, 1_000, 100_000} {
		b.Run(fmt.Sprintf("endpoints=%d", n), func(b *testing.B) {
			e := New(Config{NodeName: "node-0001"})
			name := Name{"default", "web"}
			largeService(e, name, n, 100)
			var r Resolved
			b.ReportAllocs()
			for b.Loop() {
				e.Resolve(name, &r)
			}
			if len(r.Ports) != 1 || len(r.Ports[0].Cluster) != n {
				b.Fatalf("%d endpoints, want %d", len(r.Ports[0].Cluster), n)
			}
		})
	}
}

// BenchmarkSetSlice is one endpoint's readiness changing back and forth, from the event to the
// resolved service.
func BenchmarkSetSlice(b *testing.B) {
	for _, services := range []int{100, 5_000} {
		b.Run(fmt.Sprintf("services=%d", services), func(b *testing.B) {
			e := New(Config{NodeName: "node-0001"})
			for i := range services {
				largeService(e, Name{"default", fmt.Sprintf("web-%05d", i)}, 50, 100)
			}
			name := Name{"default", "web-00007"}
			up := e.Slices(name)[0]
			down := *up
			down.Endpoints = append([]Endpoint(nil), up.Endpoints...)
			down.Endpoints[3].Conditions = 0
			versions := [2]*Slice{&down, up}
			e.Take()
			var r Resolved
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				e.SetSlice(versions[i%2])
				for _, name := range e.Take().Services {
					e.Resolve(name, &r)
				}
			}
		})
	}
}
