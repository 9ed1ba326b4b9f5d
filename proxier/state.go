package proxier

import (
	"net/netip"
	"slices"

	"github.com/weir-project/weir/dataplane"
	"github.com/weir-project/weir/endpoints"
)

// state is a service as the kernel holds it.
type state struct {
	object *endpoints.Service
	ports  []port
	over   bool // some list has more endpoints than there are slots
}

// port is one port of a service in one family.
type port struct {
	family    endpoints.Family
	protocol  endpoints.Protocol
	number    uint16
	nodePort  uint16
	label     string // namespace/name:port, for people who read the ruleset
	cluster   *table // nil: empty
	local     *table
	frontends []frontend
	onNode    []netip.Addr // for hairpin
	any       bool         // there is an endpoint anywhere
}

// table returns the table of one of the port's lists.
func (p *port) table(l list) *table {
	switch l {
	case clusterList:
		return p.cluster
	case localList:
		return p.local
	}
	return nil
}

// comment returns what nft shows beside the port's verdicts. A nil port has none.
func (p *port) comment() string {
	if p == nil {
		return ""
	}
	return p.label
}

// find returns the frontend with a key, if it is ours, else none. i is where to look first. A nil
// port has no frontends.
func (p *port) find(key dataplane.Frontend, i int) *frontend {
	if p == nil {
		return &none
	}
	if i >= len(p.frontends) || p.frontends[i].key != key {
		i = slices.IndexFunc(p.frontends, func(f frontend) bool { return f.key == key })
	}
	if i < 0 || p.frontends[i].lost {
		return &none
	}
	return &p.frontends[i]
}

// claims yields every frontend that the service wants.
func (s *state) claims(yield func(dataplane.Frontend) bool) {
	for i := range s.ports {
		for j := range s.ports[i].frontends {
			if !yield(s.ports[i].frontends[j].key) {
				return
			}
		}
	}
}

// sameClaims reports whether two states want the same frontends in the same order.
func sameClaims(a, b *state) bool {
	return slices.EqualFunc(a.ports, b.ports, func(x, y port) bool {
		return slices.EqualFunc(x.frontends, y.frontends, func(f, g frontend) bool { return f.key == g.key })
	})
}

// clusterIPs yields the addresses that lead to the service's ports and to nothing else.
func (s *state) clusterIPs(yield func(netip.Addr) bool) {
	if s.object.Headless {
		return
	}
	for _, a := range s.object.ClusterIPs {
		if a.IsValid() && !yield(a) {
			return
		}
	}
}

// emitAll writes a service as additions.
func (s *state) emitAll(b *batch) {
	for a := range s.clusterIPs {
		b.add(dataplane.ClusterIPs, address(a))
	}
	s.emitPorts(b)
}

// emitPorts leaves out what services share.
func (s *state) emitPorts(b *batch) {
	for i := range s.ports {
		p := &s.ports[i]
		e := portEdit{cluster: p.cluster.asIs(), local: p.local.asIs()}
		for k := range p.frontends {
			if f := &p.frontends[k]; !f.lost {
				b.frontend(change{old: &none, new: f, is: p, edit: &e})
			}
		}
	}
}

func label(service endpoints.Name, p endpoints.Port) string {
	if p.Name == "" {
		return service.String()
	}
	return service.String() + ":" + p.Name
}
