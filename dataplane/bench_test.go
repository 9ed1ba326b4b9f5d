package dataplane

import (
	"context"
	"fmt"
	"iter"
	"net/netip"
	"testing"
)

// cluster yields n services with m endpoints each.
func cluster(n, m int) iter.Seq[Op] {
	return func(yield func(Op) bool) {
		for i := range n {
			f := Frontend{Addr: netip.AddrFrom4([4]byte{10, 96 + byte(i>>16), byte(i >> 8), byte(i)}), Port: 80, Protocol: 6}
			for j := range m {
				a := netip.AddrFrom4([4]byte{10, 128 + byte(i>>12), byte(i >> 4), byte(i<<4) + byte(j)})
				op := Op{Set: Endpoints, Elem: Element{Frontend: f, Slot: uint32(j), Endpoint: netip.AddrPortFrom(a, 8080)}, Owner: uint32(i + 1)}
				if !yield(op) {
					return
				}
			}
			if !yield(Op{Set: ClusterIPs, Elem: Element{Frontend: Frontend{Addr: f.Addr}}, Owner: uint32(i + 1)}) ||
				!yield(Op{Set: Services, Elem: Element{Frontend: f, Verdict: Balance(m), Comment: fmt.Sprintf("namespace-%d/service-%d:http", i%50, i)}, Owner: uint32(i + 1)}) {
				return
			}
		}
	}
}

// BenchmarkColdStart fills an empty network namespace.
func BenchmarkColdStart(b *testing.B) {
	for _, services := range []int{100, 1000, 5000} {
		b.Run(fmt.Sprintf("services=%d/endpoints=50", services), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				c := open(b, Config{NetNS: namespace(b), Layout: testLayout})
				b.StartTimer()
				if err := c.Replace(context.Background(), seq(), cluster(services, 50)); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				c.Close()
				b.StartTimer()
			}
		})
	}
}

// BenchmarkWarmStart refills the table of an earlier process in one transaction.
func BenchmarkWarmStart(b *testing.B) {
	for _, services := range []int{100, 5000} {
		b.Run(fmt.Sprintf("services=%d/endpoints=50", services), func(b *testing.B) {
			c := open(b, Config{NetNS: namespace(b), Layout: testLayout})
			for b.Loop() {
				if err := c.Replace(context.Background(), seq(), cluster(services, 50)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkEndpointChange replaces one endpoint by another: one deletion, one addition.
func BenchmarkEndpointChange(b *testing.B) {
	for _, services := range []int{10, 1000, 10000} {
		b.Run(fmt.Sprintf("services=%d", services), func(b *testing.B) {
			c := open(b, Config{NetNS: namespace(b), Layout: testLayout})
			if err := c.Replace(context.Background(), seq(), cluster(services, 10)); err != nil {
				b.Fatal(err)
			}
			f := Frontend{Addr: netip.AddrFrom4([4]byte{10, 96, 0, 5}), Port: 80, Protocol: 6}
			ops := []Op{
				{Delete: true, Set: Endpoints, Elem: Element{Frontend: f, Slot: 3}, Owner: 1},
				{Set: Endpoints, Elem: Element{Frontend: f, Slot: 3, Endpoint: netip.MustParseAddrPort("10.1.2.3:80")}, Owner: 1},
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := c.Apply(context.Background(), ops); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkVerdictChange moves a frontend to another class: the kernel validates the table.
func BenchmarkVerdictChange(b *testing.B) {
	for _, services := range []int{10, 1000, 10000} {
		b.Run(fmt.Sprintf("services=%d", services), func(b *testing.B) {
			c := open(b, Config{NetNS: namespace(b), Layout: testLayout})
			if err := c.Replace(context.Background(), seq(), cluster(services, 4)); err != nil {
				b.Fatal(err)
			}
			f := Frontend{Addr: netip.AddrFrom4([4]byte{10, 96, 0, 5}), Port: 80, Protocol: 6}
			ops := []Op{
				{Delete: true, Set: Services, Elem: Element{Frontend: f}, Owner: 1},
				{Set: Services, Elem: Element{Frontend: f, Verdict: Balance(4)}, Owner: 1},
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := c.Apply(context.Background(), ops); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
