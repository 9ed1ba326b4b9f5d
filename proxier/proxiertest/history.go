// Package proxiertest makes up histories: what an API server might say, event by event. Whatever
// the history, a kernel that has followed it must end where one ends that is told only the last
// state.
package proxiertest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/weir-project/weir/endpoints"
)

// NodeName is the name of the node whose histories these are.
const NodeName = "node-a"

// History makes events up and remembers what it has said. Its services draw from a few names,
// addresses and ports, so that they often claim the same frontend.
type History struct {
	// SetNodeAddrs, if set, is called when the node's addresses change.
	SetNodeAddrs func(all, nodePort []netip.Addr)

	rand     *rand.Rand
	sink     endpoints.Sink
	services map[endpoints.Name]*endpoints.Service
	slices   map[endpoints.Name]*endpoints.Slice
	node     *endpoints.Node
	cidrs    []netip.Prefix
	all      []netip.Addr
	nodePort []netip.Addr
}

// New returns a history whose events come from src and go to sink. It has said nothing yet.
func New(src rand.Source, sink endpoints.Sink) *History {
	h := &History{
		rand:     rand.New(src),
		sink:     sink,
		services: make(map[endpoints.Name]*endpoints.Service),
		slices:   make(map[endpoints.Name]*endpoints.Slice),
	}
	h.newNode()
	h.newAddrs()
	return h
}

// Replay tells a sink all there is.
func (h *History) Replay(sink endpoints.Sink) {
	sink.ReplaceServices(sorted(h.services))
	sink.ReplaceSlices(sorted(h.slices))
	sink.SetNode(h.node)
	sink.SetServiceCIDRs(h.cidrs)
}

// Start tells the sink that there is nothing yet.
func (h *History) Start() { h.Replay(h.sink) }

// NodeAddrs returns the node's addresses, and those on which it serves node ports.
func (h *History) NodeAddrs() (all, nodePort []netip.Addr) { return h.all, h.nodePort }

func sorted[T any](m map[endpoints.Name]T) []T {
	var out []T
	for _, n := range slices.SortedFunc(maps.Keys(m), endpoints.Name.Compare) {
		out = append(out, m[n])
	}
	return out
}

// Step tells the sink one event and returns it in words.
func (h *History) Step() string {
	switch n := h.rand.IntN(20); {
	case n < 10:
		return h.stepSlice()
	case n < 16:
		return h.stepService()
	case n == 16:
		h.newNode()
		h.sink.SetNode(h.node)
		return fmt.Sprintf("node in zone %q", h.node.Zone)
	case n == 17:
		h.cidrs = pick(h.rand, 3, cidrs)
		h.sink.SetServiceCIDRs(h.cidrs)
		return fmt.Sprintf("service CIDRs %v", h.cidrs)
	case n == 18:
		h.newAddrs()
		if h.SetNodeAddrs != nil {
			h.SetNodeAddrs(h.all, h.nodePort)
		}
		return fmt.Sprintf("node addresses %v, node ports on %v", h.all, h.nodePort)
	default:
		h.Replay(h.sink) // a source that has lost its connection lists everything anew
		return "everything listed anew"
	}
}

func (h *History) stepService() string {
	name := serviceNames[h.rand.IntN(len(serviceNames))]
	if h.services[name] != nil && h.rand.IntN(4) == 0 {
		delete(h.services, name)
		h.sink.DeleteService(name)
		return fmt.Sprintf("delete service %s", name)
	}
	s := h.newService(name)
	if old := h.services[name]; old != nil && h.rand.IntN(3) > 0 {
		s = h.change(old, s)
	}
	h.services[name] = s
	h.sink.SetService(s)
	return fmt.Sprintf("service %+v", *s)
}

func (h *History) stepSlice() string {
	name := endpoints.Name{Namespace: "default", Name: fmt.Sprintf("slice-%d", h.rand.IntN(12))}
	old := h.slices[name]
	if old != nil && h.rand.IntN(5) == 0 {
		delete(h.slices, name)
		h.sink.DeleteSlice(name)
		return fmt.Sprintf("delete slice %s", name)
	}
	s := h.newSlice(name, old)
	h.slices[name] = s
	h.sink.SetSlice(s)
	return fmt.Sprintf("slice %s of %s: %d endpoints", name, s.Service, len(s.Endpoints))
}

// The world is small on purpose.
var (
	serviceNames = []endpoints.Name{
		{Namespace: "default", Name: "a"}, {Namespace: "default", Name: "b"}, {Namespace: "default", Name: "c"},
		{Namespace: "default", Name: "kubernetes"}, {Namespace: "kube-system", Name: "kube-dns"}, {Namespace: "other", Name: "a"},
	}
	clusterIPs4   = parse("10.96.0.1", "10.96.0.10", "10.96.0.11", "10.96.0.12", "10.96.0.13", "10.96.0.14")
	clusterIPs6   = parse("fd00:96::1", "fd00:96::a", "fd00:96::b", "fd00:96::c")
	externalIPs   = parse("203.0.113.1", "203.0.113.2", "10.96.0.12", "2001:db8:1::1", "192.168.1.1")
	balancerIPs   = parse("203.0.113.2", "203.0.113.3", "2001:db8:1::1", "2001:db8:1::2")
	nodeAddrs     = parse("192.168.1.1", "192.168.1.2", "172.17.0.1", "fd00:1::1", "fd00:1::2")
	cidrs         = prefixes("10.96.0.0/16", "10.96.0.0/20", "10.97.0.0/16", "fd00:96::/108", "fd00:96::/112")
	sourceRanges  = prefixes("198.51.100.0/24", "198.51.100.128/25", "192.168.0.0/16", "203.0.113.0/24", "0.0.0.0/0", "2001:db8::/32", "fd00::/8", "2001:db8:1::/48")
	zones         = []string{"", "zone-1", "zone-2"}
	portNames     = []string{"", "http", "dns"}
	portNumbers   = []uint16{53, 80, 443, 30080}
	nodePorts     = []uint16{0, 0, 30080, 30081, 30443}
	timeouts      = []time.Duration{0, 0, 10 * time.Second, 3 * time.Hour}
	theProtocols  = []endpoints.Protocol{endpoints.TCP, endpoints.UDP, endpoints.SCTP}
	endpointPorts = []uint16{8080, 9090}
	begin         = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
)

func parse(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// pick returns up to most of the elements of from, in their order or not.
func pick[T any](r *rand.Rand, most int, from []T) []T {
	var out []T
	for _, i := range r.Perm(len(from))[:r.IntN(min(most, len(from))+1)] {
		out = append(out, from[i])
	}
	return out
}

func oneOf[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

func (h *History) newNode() {
	h.node = &endpoints.Node{Name: NodeName, Zone: oneOf(h.rand, zones)}
}

func (h *History) newAddrs() {
	h.all = append(parse("192.168.1.1"), pick(h.rand, 4, nodeAddrs)...)
	h.nodePort = pick(h.rand, 3, h.all)
}

func (h *History) newService(name endpoints.Name) *endpoints.Service {
	r := h.rand
	s := &endpoints.Service{
		Name:            name,
		UID:             fmt.Sprint(name, r.IntN(3)),
		Created:         begin.Add(time.Duration(r.IntN(3)) * time.Second),
		Headless:        r.IntN(15) == 0,
		ExternalIPs:     pick(r, 2, externalIPs),
		LoadBalancerIPs: pick(r, 2, balancerIPs),
		InternalLocal:   r.IntN(4) == 0,
		ExternalLocal:   r.IntN(3) == 0,
		Affinity:        oneOf(r, timeouts),
	}
	if r.IntN(8) > 0 && !s.Headless {
		s.ClusterIPs = append(s.ClusterIPs, oneOf(r, clusterIPs4))
	}
	if r.IntN(2) > 0 && !s.Headless {
		s.ClusterIPs = append(s.ClusterIPs, oneOf(r, clusterIPs6))
	}
	if r.IntN(3) == 0 {
		s.Restricted, s.SourceRanges = true, pick(r, 4, sourceRanges)
	}
	for range r.IntN(4) {
		s.Ports = append(s.Ports, endpoints.Port{Name: oneOf(r, portNames), Protocol: oneOf(r, theProtocols),
			Port: oneOf(r, portNumbers), NodePort: oneOf(r, nodePorts)})
	}
	return s
}

// change returns a service with one thing of another.
func (h *History) change(s, other *endpoints.Service) *endpoints.Service {
	c := *s
	switch h.rand.IntN(9) {
	case 0:
		c.ClusterIPs, c.Headless = other.ClusterIPs, other.Headless
	case 1:
		c.ExternalIPs = other.ExternalIPs
	case 2:
		c.LoadBalancerIPs = other.LoadBalancerIPs
	case 3:
		c.Restricted, c.SourceRanges = other.Restricted, other.SourceRanges
	case 4:
		c.InternalLocal = !s.InternalLocal
	case 5:
		c.ExternalLocal = !s.ExternalLocal
	case 6:
		c.Affinity = other.Affinity
	case 7:
		c.Ports = other.Ports
	case 8:
		c.Created, c.UID = other.Created, other.UID // deleted and made anew, as seen by one who looked away
	}
	return &c
}

// newSlice returns a slice, or what has become of an old one: endpoints come, go and change.
func (h *History) newSlice(name endpoints.Name, old *endpoints.Slice) *endpoints.Slice {
	r := h.rand
	s := &endpoints.Slice{Name: name, Service: oneOf(r, serviceNames), Family: endpoints.Families[r.IntN(2)]}
	if old != nil && r.IntN(8) > 0 {
		*s = *old
	} else {
		for _, p := range pick(r, 3, portNames) {
			s.Ports = append(s.Ports, endpoints.SlicePort{Name: p, Protocol: oneOf(r, theProtocols), Port: oneOf(r, endpointPorts)})
		}
	}
	if old != nil {
		s.Endpoints = slices.Clone(old.Endpoints)
	}
	if s.Endpoints != nil && r.IntN(10) == 0 || old != nil && old.Family != s.Family {
		s.Endpoints = nil
	}
	for i := range s.Endpoints {
		if r.IntN(10) == 0 {
			s.Endpoints[i].Conditions = h.conditions()
		}
	}
	s.Endpoints = slices.DeleteFunc(s.Endpoints, func(endpoints.Endpoint) bool { return r.IntN(8) == 0 })
	for range r.IntN(6) {
		s.Endpoints = append(s.Endpoints, h.newEndpoint(s.Family))
	}
	return s
}

func (h *History) conditions() endpoints.Conditions {
	if h.rand.IntN(3) > 0 {
		return endpoints.Ready | endpoints.Serving
	}
	return endpoints.Conditions(h.rand.IntN(8))
}

// newEndpoint returns one of some fifty endpoints, a third of them on this node.
func (h *History) newEndpoint(f endpoints.Family) endpoints.Endpoint {
	r := h.rand
	n := r.IntN(50)
	e := endpoints.Endpoint{Conditions: h.conditions()}
	if e.Addr = netip.AddrFrom4([4]byte{10, 244, byte(n % 3), byte(n + 1)}); f == endpoints.IPv6 {
		e.Addr = netip.AddrFrom16([16]byte{0xfd, 0, 2, 0x44, 13: byte(n % 3), 15: byte(n + 1)})
	}
	w := &endpoints.Where{Node: []string{NodeName, "node-b", "node-c"}[n%3], Zone: oneOf(r, zones)}
	if n%17 == 0 { // a host-network pod
		e.Addr = map[endpoints.Family]netip.Addr{endpoints.IPv4: nodeAddrs[1], endpoints.IPv6: nodeAddrs[3]}[f]
		w.Node = NodeName
	}
	if r.IntN(5) > 0 {
		w.ZoneHints = pick(r, 2, zones)
	}
	e.Where = w
	return e
}
