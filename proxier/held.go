package proxier

import (
	"net/netip"
	"slices"
	"time"

	"github.com/weir-project/weir/dataplane"
	"github.com/weir-project/weir/endpoints"
)

// Held is one service as the kernel is believed to hold it: a copy, so that who looks holds up
// nobody.
type Held struct {
	Name  endpoints.Name
	Ports []HeldPort
}

// HeldPort is one port of a service in one family.
type HeldPort struct {
	Family   endpoints.Family
	Protocol endpoints.Protocol
	Port     uint16
	// Cluster and Local are the endpoints by slot, of the maps that HeldFrontend names.
	Cluster, Local []netip.AddrPort
	Frontends      []HeldFrontend
	Any            bool // some usable endpoint exists anywhere
}

// List says which of a port's lists of endpoints a map holds.
type List uint8

// The lists.
const (
	NoList List = iota
	ClusterList
	LocalList
)

// HeldFrontend is all that the maps hold for one frontend, except the slots.
type HeldFrontend struct {
	Key    dataplane.Frontend
	Kind   string         // ClusterIP, ExternalIP, LoadBalancerIP or NodePort
	LostTo endpoints.Name // an older service that has it; then nothing of this one is in the kernel

	Services, LocalServices   dataplane.Verdict // 0: no element
	Endpoints, LocalEndpoints List

	SnatAlways, SnatNode bool
	Restricted           bool
	Sources              []netip.Prefix // AllowedSources
	Affinity             time.Duration  // 0: none
}

// String returns the kind as the Kubernetes API calls it, more or less.
func (k kind) String() string {
	return [...]string{clusterIP: "ClusterIP", externalIP: "ExternalIP", loadBalancerIP: "LoadBalancerIP", nodePort: "NodePort"}[k]
}

// Held returns what the kernel is believed to hold for a service, and whether there is any such.
func (p *Proxier) Held(name endpoints.Name) (Held, bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	e := p.rules.services[name]
	if e == nil {
		return Held{}, false
	}
	h := Held{Name: name, Ports: make([]HeldPort, 0, len(e.state.ports))}
	for i := range e.state.ports {
		h.Ports = append(h.Ports, p.rules.held(&e.state.ports[i]))
	}
	return h, true
}

func (r *ruleset) held(port *port) HeldPort {
	h := HeldPort{
		Family: port.family, Protocol: port.protocol, Port: port.number, Any: port.any,
		Cluster: port.cluster.copy(), Local: port.local.copy(),
	}
	for i := range port.frontends {
		f := &port.frontends[i]
		hf := HeldFrontend{
			Key: f.key, Kind: f.kind.String(), Services: f.services, LocalServices: f.localServices,
			Endpoints: List(f.endpoints), LocalEndpoints: List(f.localEndpoints), SnatAlways: f.snatAlways, SnatNode: f.snatNode,
			Restricted: f.restricted, Sources: f.sources, Affinity: f.affinity,
		}
		if w := r.claims.winners[f.key]; f.lost && w != nil {
			hf.LostTo = w.name
		}
		h.Frontends = append(h.Frontends, hf)
	}
	return h
}

// copy returns the endpoints by slot. A nil table has none.
func (t *table) copy() []netip.AddrPort {
	if t.len() == 0 {
		return nil
	}
	return slices.Clone(t.slots)
}

// HeldNames returns the names of all services in the ruleset, in order.
func (p *Proxier) HeldNames() []endpoints.Name {
	p.mu.RLock()
	names := make([]endpoints.Name, 0, len(p.rules.services))
	for n := range p.rules.services {
		names = append(names, n)
	}
	p.mu.RUnlock()
	slices.SortFunc(names, endpoints.Name.Compare)
	return names
}

// Owner returns the service that has a frontend, and whether one does.
func (p *Proxier) Owner(f dataplane.Frontend) (endpoints.Name, bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	w := p.rules.claims.winners[f]
	if w == nil {
		return endpoints.Name{}, false
	}
	return w.name, true
}

// View returns what the kernel is believed to hold that matters for packets of one source to one
// frontend: a copy, so that walking the rules with it holds up nobody.
func (p *Proxier) View(f dataplane.Frontend, source netip.Addr) dataplane.Elements {
	p.mu.RLock()
	defer p.mu.RUnlock()
	view := newRuleset()
	view.around, view.cidrs = p.rules.around, p.rules.cidrs
	view.clusterIPs[f.Addr] = p.rules.clusterIPs[f.Addr]
	view.hairpin[source] = p.rules.hairpin[source]
	if held, _ := p.rules.find(f); held != nil {
		copied := *held // its frontends are never changed in place, but its slots are
		copied.cluster, copied.local = &table{slots: held.cluster.copy()}, &table{slots: held.local.copy()}
		view.claims.winners[f] = &entry{state: &state{ports: []port{copied}}}
	}
	return view
}

// Element implements dataplane.Elements. What the kernel itself writes (Affinity) is not held.
func (r *ruleset) Element(set dataplane.Set, key dataplane.Element) (dataplane.Element, bool) {
	switch set {
	case dataplane.ClusterIPs:
		return key, r.clusterIPs[key.Frontend.Addr] > 0
	case dataplane.Hairpin:
		return key, r.hairpin[key.Frontend.Addr] > 0 && !has(r.around.node, key.Frontend.Addr)
	case dataplane.ServiceCIDRs:
		return key, within(r.cidrs, key.Source.Addr())
	case dataplane.Affinity:
		return key, false
	}
	port, f := r.find(key.Frontend)
	if f == nil {
		return key, false
	}
	return f.element(port, set, key)
}

// find returns the frontend with a key and the port that it belongs to; nil: nobody has it.
func (r *ruleset) find(key dataplane.Frontend) (*port, *frontend) {
	w := r.claims.winners[key]
	if w == nil || w.state == nil {
		return nil, nil
	}
	for i := range w.state.ports {
		port := &w.state.ports[i]
		if f := port.find(key, 0); f != &none {
			return port, f
		}
	}
	return nil, nil
}

// element looks up what the frontend has in one of the sets.
func (f *frontend) element(port *port, set dataplane.Set, key dataplane.Element) (dataplane.Element, bool) {
	switch set {
	case dataplane.Services:
		key.Verdict, key.Comment = f.services, port.comment()
		return key, f.services != 0
	case dataplane.LocalServices:
		key.Verdict, key.Comment = f.localServices, port.comment()
		return key, f.localServices != 0
	case dataplane.Endpoints:
		return slot(port.table(f.endpoints), key)
	case dataplane.LocalEndpoints:
		return slot(port.table(f.localEndpoints), key)
	case dataplane.SnatAlways:
		return key, f.snatAlways
	case dataplane.SnatNode:
		return key, f.snatNode
	case dataplane.Restricted:
		return key, f.restricted
	case dataplane.AllowedSources:
		return key, within(f.sources, key.Source.Addr())
	case dataplane.AffinityOf:
		return key, f.affinity != 0 && f.affinity == key.Timeout
	}
	return key, false
}

func slot(t *table, key dataplane.Element) (dataplane.Element, bool) {
	if int64(key.Slot) >= int64(t.len()) {
		return key, false
	}
	key.Endpoint = t.slots[key.Slot]
	return key, true
}

func within(list []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
}

// Timeout implements dataplane.Elements: the affinity of a frontend, 0 if it has none.
func (r *ruleset) Timeout(key dataplane.Frontend) time.Duration {
	if _, f := r.find(key); f != nil {
		return f.affinity
	}
	return 0
}

// ServiceChange says what a sync did to one service.
type ServiceChange struct {
	Service     endpoints.Name
	Came, Went  bool // it was not in the kernel before; it is no longer
	Added, Gone int  // endpoints: the most of any of its ports
	Endpoints   int  // the most of any of its ports, afterwards
}

// maxDetails is of how many services a SyncReport tells what became of them.
const maxDetails = 32

// change says what a step does. It must be called before the plan is committed.
func (s *step) change() ServiceChange {
	c := ServiceChange{Service: s.entry.name, Came: s.entry.state == nil, Went: s.next == nil}
	for i := range s.edits {
		for _, e := range []*edit{&s.edits[i].cluster, &s.edits[i].local} {
			gone := len(e.gone)
			c.Gone = max(c.Gone, gone)
			c.Added = max(c.Added, e.n-(e.table.len()-gone))
			c.Endpoints = max(c.Endpoints, e.n)
		}
	}
	if c.Went {
		for i := range s.entry.state.ports {
			p := &s.entry.state.ports[i]
			c.Gone = max(c.Gone, p.cluster.len(), p.local.len())
		}
	}
	return c
}

// Slots returns the number of slots in the kernel.
func (p *Proxier) Slots() int {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.rules.totals.slots
}

// Each calls f with everything that the kernel is believed to hold, as additions, some at a time. No
// lock is held while f runs, so what f sees of one service is true to one moment, and of all of them is
// not.
func (p *Proxier) Each(f func([]dataplane.Op)) {
	b := &batch{}
	tell := func(gather func()) {
		p.mu.RLock()
		gather()
		p.mu.RUnlock()
		f(slices.DeleteFunc(b.adds, p.unserved))
		b.adds = b.adds[:0]
	}
	tell(func() {
		b.prefixes(dataplane.ServiceCIDRs, dataplane.Frontend{}, nil, p.rules.cidrs)
		for a := range p.rules.hairpin {
			b.member(dataplane.Hairpin, address(a), false, !has(p.rules.around.node, a))
		}
		for a := range p.rules.clusterIPs {
			b.add(dataplane.ClusterIPs, address(a))
		}
	})
	for _, n := range p.HeldNames() {
		tell(func() {
			if e := p.rules.services[n]; e != nil {
				e.state.emitPorts(b)
			}
		})
	}
}

// Backs reports whether the kernel may remember that a client of a frontend with affinity was given
// an endpoint.
func (p *Proxier) Backs(f dataplane.Frontend, endpoint netip.AddrPort) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	port, fe := p.rules.find(f)
	if fe == nil || fe.affinity == 0 {
		return false
	}
	for _, l := range []list{fe.endpoints, fe.localEndpoints} {
		if t := port.table(l); t != nil && slices.Contains(t.slots, endpoint) {
			return true
		}
	}
	return false
}

// EachRange calls f with the ranges that a set of ranges is believed to hold: those of a frontend in
// AllowedSources, or all of ServiceCIDRs.
func (p *Proxier) EachRange(set dataplane.Set, of dataplane.Frontend, f func(netip.Prefix)) {
	p.mu.RLock()
	list := p.rules.cidrs
	if set == dataplane.AllowedSources {
		list = nil
		if _, fe := p.rules.find(of); fe != nil {
			list = fe.sources
		}
	}
	p.mu.RUnlock()
	for _, r := range list {
		f(r)
	}
}
