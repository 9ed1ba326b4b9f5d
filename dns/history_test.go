package dns

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/weir-project/weir/endpoints"
)

// dump writes everything that a zone says.
func (z *Zone) dump() string {
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	for key, a := range z.services.all() {
		add("%q alias %q bare %v", key, a.alias, a.bare)
		for i := range a.v4.n {
			add("%q A %v", key, a.v4.at(i))
		}
		for i := range a.v6.n {
			add("%q AAAA %v", key, a.v6.at(i))
		}
		for i := range a.all.n {
			add("%q SRV %v", key, a.all.at(i))
		}
		for i := range a.ports {
			g := &a.ports[i]
			for j := range g.targets.n {
				add("%q %s.%s %v", key, g.port, g.protocol, g.targets.at(j))
			}
		}
		for label, h := range a.hosts.all() {
			add("%q host %s %v %v", key, label, sorted(h.v4), sorted(h.v6))
		}
	}
	for key, r := range z.addresses.all() {
		for i, s := range r.services {
			add("address %x %d %s", key, i, s.key)
		}
		for _, h := range r.hosts {
			add("address %x %s of %s", key, h.label, h.service.key)
		}
	}
	for key := range z.namespaces.all() {
		add("namespace %s", key)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

func sorted[A [4]byte | [16]byte](list []A) []A {
	return slices.SortedFunc(slices.Values(list), func(a, b A) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
}

// world makes up events from random bytes.
type world struct {
	bytes  []byte
	engine *endpoints.Engine
	log    []string
}

func (w *world) n(most int) int {
	if len(w.bytes) == 0 {
		return 0
	}
	b := w.bytes[0]
	w.bytes = w.bytes[1:]
	return int(b) % most
}

var worldNames = []endpoints.Name{{Namespace: "a", Name: "x"}, {Namespace: "a", Name: "y"}, {Namespace: "b", Name: "x"}}

func (w *world) service() *endpoints.Service {
	s := &endpoints.Service{Name: worldNames[w.n(3)]}
	switch w.n(8) {
	case 0, 1, 2, 3:
		s.Headless = true
	case 4:
		s.NoProxy, s.ExternalName = true, []string{"example.org", "x.b.svc.cluster.local", "192.0.2.1", "a..b"}[w.n(4)]
	default:
		s.ClusterIPs = append(s.ClusterIPs, netip.AddrFrom4([4]byte{10, 96, 0, byte(w.n(3))}))
		if w.n(2) == 1 {
			s.ClusterIPs = append(s.ClusterIPs, netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(w.n(3))}))
		}
		s.NoProxy = w.n(4) == 3
	}
	for range w.n(3) {
		s.Ports = append(s.Ports, endpoints.Port{Name: []string{"", "http", "dns"}[w.n(3)], Protocol: endpoints.TCP, Port: uint16(1 + w.n(2))})
	}
	return s
}

func (w *world) slice() *endpoints.Slice {
	s := &endpoints.Slice{Name: endpoints.Name{Namespace: "a", Name: fmt.Sprint("slice-", w.n(4))}, Service: worldNames[w.n(3)], Family: endpoints.IPv4}
	v6 := w.n(2) == 1
	if v6 {
		s.Family = endpoints.IPv6
	}
	for range w.n(3) {
		s.Ports = append(s.Ports, endpoints.SlicePort{Name: []string{"", "http", "dns"}[w.n(3)], Protocol: endpoints.TCP, Port: uint16(1 + w.n(2))})
	}
	hostnames := w.n(2) == 1
	for range w.n(7) {
		a := netip.AddrFrom4([4]byte{10, 0, 0, byte(w.n(6))})
		if v6 {
			a = netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(w.n(6))})
		}
		s.Endpoints = append(s.Endpoints, endpoints.Endpoint{Addr: a, Where: &endpoints.Where{}, Conditions: endpoints.Conditions(w.n(4))})
		if hostnames {
			s.Hostnames = append(s.Hostnames, []string{"", "h0", "h1", "10-0-0-1", "not.valid"}[w.n(5)])
		}
	}
	return s
}

func (w *world) step() {
	e := w.engine
	note := func(format string, args ...any) { w.log = append(w.log, fmt.Sprintf(format, args...)) }
	switch w.n(8) {
	case 0, 1:
		s := w.service()
		note("set %+v", *s)
		e.SetService(s)
	case 2, 3, 4:
		s := w.slice()
		note("set %+v", *s)
		e.SetSlice(s)
	case 5:
		name := worldNames[w.n(3)]
		note("delete %v", name)
		e.DeleteService(name)
	case 6:
		name := endpoints.Name{Namespace: "a", Name: fmt.Sprint("slice-", w.n(4))}
		note("delete %v", name)
		e.DeleteSlice(name)
	case 7:
		ns := []string{"a", "b", "c"}[w.n(3)]
		if w.n(2) == 0 {
			note("namespace %v", ns)
			e.SetNamespace(ns)
		} else {
			note("no namespace %v", ns)
			e.DeleteNamespace(ns)
		}
	}
}

func runHistory(t *testing.T, b []byte) {
	w := &world{bytes: b, engine: endpoints.New(endpoints.Config{})}
	names := w.engine.Subscribe()
	zone := newTestZone(t, Config{})
	for len(w.bytes) > 0 {
		if w.n(4) == 3 {
			zone.Update(names)
		}
		w.step()
	}
	zone.Update(names)
	fresh := newTestZone(t, Config{})
	fresh.Update(w.engine.Subscribe())
	if got, want := zone.dump(), fresh.dump(); got != want {
		t.Fatalf("after its history the zone is\n%sfrom a fresh start\n%s%s", got, want, strings.Join(w.log, "\n"))
	}
	for _, s := range zone.known {
		if !s.object.Headless && s.v4.vec.n+s.v6.vec.n+len(s.ports) > 0 {
			t.Fatalf("%v is not headless but has endpoints", s.name)
		}
	}
}

// TestAnyHistory holds that any order of events ends where a fresh start ends.
func TestAnyHistory(t *testing.T) {
	histories := 1_000
	if testing.Short() {
		histories = 300
	}
	for seed := range histories {
		runHistory(t, randomBytes(uint64(seed), 1_000))
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func randomBytes(seed uint64, most int) []byte {
	r := rand.New(rand.NewPCG(seed, 0))
	b := make([]byte, 50+r.IntN(most))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func FuzzHistory(f *testing.F) {
	for seed := range uint64(5) {
		f.Add(randomBytes(seed, 300))
	}
	f.Fuzz(func(t *testing.T, b []byte) { runHistory(t, b) })
}

// TestSet holds that what was published does not change.
func TestSet(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var s set[int]
	counts := map[int]int{}
	type published struct {
		vec  vec[int]
		want []int
	}
	var all []published
	for step := range 5_000 {
		v := r.IntN(300)
		if r.IntN(1+step/2_500) == 0 {
			if isNew := s.add(v); isNew != (counts[v] == 0) {
				t.Fatalf("step %d: add says %v", step, isNew)
			}
			counts[v]++
		} else if counts[v] > 0 {
			counts[v]--
			if gone := s.remove(v); gone != (counts[v] == 0) {
				t.Fatalf("step %d: remove says %v", step, gone)
			}
		}
		if r.IntN(20) == 0 {
			p := published{vec: s.publish()}
			for v, n := range counts {
				if n > 0 {
					p.want = append(p.want, v)
				}
			}
			slices.Sort(p.want)
			all = append(all, p)
		}
	}
	for i, p := range all {
		var got []int
		for j := range p.vec.n {
			got = append(got, p.vec.at(j))
		}
		slices.Sort(got)
		if !slices.Equal(got, p.want) {
			t.Fatalf("%d: %v, when it was published %v", i, got, p.want)
		}
	}
}

// TestTable lets readers look while a table is written. What is always there is always found.
func TestTable(t *testing.T) {
	var table table[int]
	one := 1
	for i := range 100 {
		table.set(fmt.Sprint("stays", i), &one)
	}
	done := make(chan struct{})
	for range 2 {
		go func() {
			defer func() { done <- struct{}{} }()
			for i := range 200_000 {
				if table.get(fmt.Appendf(nil, "stays%d", i%100)) == nil {
					t.Errorf("stays%d is not found", i%100)
					return
				}
			}
		}()
	}
	for running, i := 2, 0; running > 0; i++ {
		select {
		case <-done:
			running--
		default:
			if key := fmt.Sprint("comes", i%3_000); i/3_000%2 == 0 {
				table.set(key, &one)
			} else {
				table.remove(key)
			}
		}
	}
}
