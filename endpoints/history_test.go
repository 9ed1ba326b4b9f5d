package endpoints

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// history reads events from bytes, applies them to an engine, and knows what there is in the end.
type history struct {
	bytes    []byte
	engine   *Engine
	services map[Name]*Service
	slices   map[Name]*Slice
	node     *Node
	taken    map[Name]string // each service as it was resolved at the last Take
	log      []string
}

func newHistory(b []byte) *history {
	return &history{
		bytes: b, engine: New(Config{NodeName: "n0"}),
		services: map[Name]*Service{}, slices: map[Name]*Slice{}, taken: map[Name]string{},
	}
}

// n takes a number below most from the bytes; 0 when there are none left.
func (h *history) n(most int) int {
	if len(h.bytes) == 0 {
		return 0
	}
	b := h.bytes[0]
	h.bytes = h.bytes[1:]
	return int(b) % most
}

func (h *history) flag() bool { return h.n(2) == 1 }

var (
	historyServices = []Name{{"a", "x"}, {"a", "y"}, {"b", "x"}}
	historyPorts    = []Port{
		{Name: "http", Protocol: TCP, Port: 80}, {Name: "dns", Protocol: UDP, Port: 53}, {Name: "dns", Protocol: TCP, Port: 53},
		{Protocol: TCP, Port: 1}, {Name: "np", Protocol: TCP, Port: 2, NodePort: 30000},
	}
)

func (h *history) service() *Service {
	s := &Service{Name: historyServices[h.n(len(historyServices))]}
	if h.flag() {
		s.ClusterIPs = append(s.ClusterIPs, netip.MustParseAddr("10.96.0.1"))
	}
	if h.flag() {
		s.ClusterIPs = append(s.ClusterIPs, netip.MustParseAddr("fd00::1"))
	}
	if h.flag() {
		s.ExternalIPs = append(s.ExternalIPs, netip.MustParseAddr("192.0.2.1"))
	}
	kind := h.n(16)
	s.Headless, s.NoProxy = kind == 14, kind == 15
	s.InternalLocal, s.ExternalLocal = h.flag(), h.flag()
	first := h.n(len(historyPorts))
	s.Ports = historyPorts[first:min(len(historyPorts), first+h.n(3))]
	return s
}

// slice makes a slice with a few addresses of either family, which are sometimes too far from each
// other to have a bit each.
func (h *history) slice() *Slice {
	s := &Slice{Name: Name{"a", fmt.Sprintf("slice-%d", h.n(4))}, Family: IPv4}
	s.Service = historyServices[h.n(len(historyServices))]
	s.Headless = h.n(8) == 0
	for range h.n(3) {
		p := historyPorts[h.n(len(historyPorts))]
		s.Ports = append(s.Ports, SlicePort{p.Name, p.Protocol, uint16(8000 + h.n(2))})
	}
	v6 := h.flag()
	far := byte(h.n(4)) / 3
	if v6 {
		s.Family = IPv6
	}
	for range h.n(6) {
		last := byte(h.n(6))
		addr := netip.AddrFrom4([4]byte{10, last % 2 * far * 7, 0, last})
		if v6 {
			addr = netip.AddrFrom16([16]byte{0: 0xfd, 3: last % 2 * far, 15: last})
		}
		s.Endpoints = append(s.Endpoints, Endpoint{Addr: addr, Where: h.where(), Conditions: h.conditions()})
	}
	return s
}

func (h *history) conditions() Conditions {
	return []Conditions{Ready | Serving, Ready | Serving, 0, Serving | Terminating, Terminating, Ready, Ready | Serving | Terminating, Serving}[h.n(8)]
}

func (h *history) where() *Where {
	w := &Where{Node: []string{"", "n0", "n1"}[h.n(3)]}
	hints := h.n(8)
	if hints&1 != 0 {
		w.ZoneHints = []string{fmt.Sprint("z", h.n(2))}
	}
	if hints&6 == 6 {
		w.NodeHints = []string{fmt.Sprint("n", h.n(2))}
	}
	return w
}

func (h *history) step() {
	e := h.engine
	switch h.n(10) {
	case 0, 1:
		s := h.service()
		h.log = append(h.log, fmt.Sprintf("set service %+v", *s))
		h.services[s.Name] = s
		e.SetService(s)
	case 2, 3, 4:
		s := h.slice()
		h.log = append(h.log, fmt.Sprintf("set slice %+v", *s))
		h.slices[s.Name] = s
		e.SetSlice(s)
	case 5:
		name := historyServices[h.n(len(historyServices))]
		h.log = append(h.log, "delete service "+name.String())
		delete(h.services, name)
		e.DeleteService(name)
	case 6:
		name := Name{"a", fmt.Sprintf("slice-%d", h.n(4))}
		h.log = append(h.log, "delete slice "+name.String())
		delete(h.slices, name)
		e.DeleteSlice(name)
	case 7:
		h.node = nil
		if zone := h.n(4); zone < 3 {
			h.node = &Node{Name: "n0", Zone: []string{"", "z0", "z1"}[zone]}
		}
		h.log = append(h.log, fmt.Sprintf("set node %+v", h.node))
		e.SetNode(h.node)
	case 8:
		h.replace()
	}
}

// replace is a relist in which some objects are missing, one may be new, and the rest is the same
// in other values.
func (h *history) replace() {
	switch h.n(2) {
	case 0:
		for name := range h.services {
			if h.n(4) == 3 {
				delete(h.services, name)
			}
		}
		if h.flag() {
			s := h.service()
			h.services[s.Name] = s
		}
		var list []*Service
		for _, s := range h.services {
			again := *s
			list = append(list, &again)
		}
		h.log = append(h.log, fmt.Sprintf("replace services by %d", len(list)))
		h.engine.ReplaceServices(list)
	case 1:
		for name := range h.slices {
			if h.n(4) == 3 {
				delete(h.slices, name)
			}
		}
		if h.flag() {
			s := h.slice()
			h.slices[s.Name] = s
		}
		var list []*Slice
		for _, s := range h.slices {
			again := *s
			again.Endpoints = slices.Clone(s.Endpoints)
			list = append(list, &again)
		}
		h.log = append(h.log, fmt.Sprintf("replace slices by %d", len(list)))
		h.engine.ReplaceSlices(list)
	}
}

// take checks that whatever resolves to something new is dirty.
func (h *history) take(t *testing.T) {
	h.log = append(h.log, "take")
	dirty := h.engine.Take().Services
	if once := slices.Compact(slices.SortedFunc(slices.Values(dirty), Name.Compare)); len(once) != len(dirty) {
		t.Fatalf("dirty more than once: %v\n%s", dirty, strings.Join(h.log, "\n"))
	}
	for _, name := range historyServices {
		now := resolve(h.engine, name)
		if now != h.taken[name] && !slices.Contains(dirty, name) {
			t.Fatalf("%v is not dirty (%v are), but changed from\n%sto\n%s%s", name, dirty, h.taken[name], now, strings.Join(h.log, "\n"))
		}
		h.taken[name] = now
	}
}

// check compares with an engine that starts from what there is, and with rules written down another
// way.
func (h *history) check(t *testing.T) {
	fresh := New(Config{NodeName: "n0"})
	var services []*Service
	var list []*Slice
	for _, s := range h.services {
		services = append(services, s)
	}
	for _, s := range h.slices {
		list = append(list, s)
	}
	fresh.SetNode(h.node)
	fresh.ReplaceSlices(list)
	fresh.ReplaceServices(services)
	for _, name := range historyServices {
		got, want := resolve(h.engine, name), resolve(fresh, name)
		if got != want {
			t.Fatalf("%v is\n%safter its history, and from a fresh start\n%s%s", name, got, want, strings.Join(h.log, "\n"))
		}
		if want := h.naive(name); got != want {
			t.Fatalf("%v is\n%sby the rules it is\n%s%s", name, got, want, strings.Join(h.log, "\n"))
		}
	}
	if got, want := h.engine.Sizes(), fresh.Sizes(); got != want {
		t.Fatalf("sizes %+v, from a fresh start %+v\n%s", got, want, strings.Join(h.log, "\n"))
	}
}

// naive resolves a service without regard to cost, condition by condition.
func (h *history) naive(name Name) string {
	svc := h.services[name]
	r := Resolved{Service: svc}
	if svc == nil || svc.Headless || svc.NoProxy {
		return ""
	}
	for _, port := range svc.Ports {
		for _, family := range Families {
			if !svc.Serves(family) {
				continue
			}
			r.Ports = append(r.Ports, h.naivePort(svc, port, family))
		}
	}
	return dump(&r)
}

func (h *history) naivePort(svc *Service, port Port, family Family) ResolvedPort {
	var order []netip.AddrPort
	all := map[netip.AddrPort]Endpoint{}
	var names []Name
	for name := range h.slices {
		names = append(names, name)
	}
	slices.SortFunc(names, Name.Compare)
	for _, name := range names {
		s := h.slices[name]
		for _, p := range s.Ports {
			if s.Headless || s.Service != svc.Name || s.Family != family || p.Name != port.Name || p.Protocol != port.Protocol {
				continue
			}
			for _, ep := range s.Endpoints {
				key := netip.AddrPortFrom(ep.Addr, p.Port)
				old, known := all[key]
				if !known {
					order = append(order, key)
				}
				if !known || betterThan(ep, old) {
					all[key] = ep
				}
			}
		}
	}
	is := func(c Conditions) func(Endpoint) bool {
		return func(ep Endpoint) bool { return ep.Conditions&c == c }
	}
	pick := func(tests ...func(Endpoint) bool) (list []netip.AddrPort) {
	next:
		for _, key := range order {
			for _, test := range tests {
				if !test(all[key]) {
					continue next
				}
			}
			list = append(list, key)
		}
		return list
	}
	here := func(ep Endpoint) bool { return ep.Where.Node == "n0" }
	forNode := func(ep Endpoint) bool { return slices.Contains(ep.Where.NodeHints, "n0") }
	forZone := func(ep Endpoint) bool {
		return h.node != nil && h.node.Zone != "" && slices.Contains(ep.Where.ZoneHints, h.node.Zone)
	}
	noNodeHint := func(ep Endpoint) bool { return ep.Where.NodeHints == nil }
	noZoneHint := func(ep Endpoint) bool { return ep.Where.ZoneHints == nil }

	ready := is(Ready)
	rp := ResolvedPort{Port: port, Family: family}
	rp.Any = len(pick(ready))+len(pick(is(Serving|Terminating))) > 0
	if !svc.InternalLocal || svc.External() {
		switch {
		case len(pick(ready)) == 0:
			rp.Cluster = pick(is(Serving | Terminating))
		case len(pick(ready, noNodeHint)) == 0 && len(pick(ready, forNode)) > 0:
			rp.Cluster = pick(ready, forNode)
		case len(pick(ready, noZoneHint)) == 0 && len(pick(ready, forZone)) > 0:
			rp.Cluster = pick(ready, forZone)
		default:
			rp.Cluster = pick(ready)
		}
	}
	if svc.InternalLocal || svc.ExternalLocal && svc.External() {
		if rp.Local = pick(ready, here); len(rp.Local) == 0 {
			rp.Local = pick(is(Serving|Terminating), here)
		}
	}
	for _, key := range pick(here) {
		if (slices.Contains(rp.Cluster, key) || slices.Contains(rp.Local, key)) && !slices.Contains(rp.OnNode, key.Addr()) {
			rp.OnNode = append(rp.OnNode, key.Addr())
		}
	}
	return rp
}

func betterThan(a, b Endpoint) bool {
	for _, c := range []Conditions{Terminating, Ready, Serving} {
		if has, had := a.Conditions&c != 0, b.Conditions&c != 0; has != had {
			return has == (c != Terminating)
		}
	}
	return false
}

func runHistory(t *testing.T, b []byte) {
	h := newHistory(b)
	for len(h.bytes) > 0 {
		if h.n(6) == 5 {
			h.take(t)
		} else {
			h.step()
		}
	}
	h.take(t)
	h.check(t)
}

// TestAnyHistory holds that any order of events ends where a fresh start ends, and that nothing
// changes unnoticed on the way.
func TestAnyHistory(t *testing.T) {
	histories := 3_000
	if testing.Short() || raceDetector { // they are of one goroutine, and make test has all of them without it
		histories = 500
	}
	for seed := range histories {
		r := rand.New(rand.NewPCG(uint64(seed), 0))
		b := make([]byte, 50+r.IntN(1_000))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		runHistory(t, b)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func FuzzHistory(f *testing.F) {
	for seed := range uint64(5) {
		r := rand.New(rand.NewPCG(seed, 1))
		b := make([]byte, 300)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) { runHistory(t, b) })
}

// TestConcurrent lets sources, and readers, work at once.
func TestConcurrent(t *testing.T) {
	e := New(Config{NodeName: "n0"})
	done := make(chan struct{})
	for seed := range uint64(3) {
		go func() {
			defer func() { done <- struct{}{} }()
			r := rand.New(rand.NewPCG(seed, 2))
			b := make([]byte, 20_000)
			for i := range b {
				b[i] = byte(r.Uint32())
			}
			h := newHistory(b)
			h.engine = e
			for len(h.bytes) > 0 {
				h.step()
			}
		}()
	}
	var r Resolved
	for running := 3; running > 0; {
		select {
		case <-done:
			running--
		case <-e.Wake():
			for _, name := range e.Take().Services {
				e.Resolve(name, &r)
				e.LocalReady(name)
				e.Slices(name)
			}
			e.Services()
		}
	}
}
