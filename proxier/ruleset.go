package proxier

import (
	"iter"
	"net/netip"
	"slices"

	"github.com/weir-project/weir/dataplane"
	"github.com/weir-project/weir/endpoints"
)

// ruleset is what we believe the kernel holds. Only commit changes it.
type ruleset struct {
	services   map[endpoints.Name]*entry
	claims     claims
	clusterIPs map[netip.Addr]int // how many services have it
	hairpin    map[netip.Addr]int // how many service ports have an endpoint there on this node
	around     surroundings
	cidrs      []netip.Prefix // ServiceCIDRs
	totals     totals

	scratch  differ
	resolved endpoints.Resolved
}

func newRuleset() *ruleset {
	return &ruleset{
		services:   make(map[endpoints.Name]*entry),
		claims:     newClaims(),
		clusterIPs: make(map[netip.Addr]int),
		hairpin:    make(map[netip.Addr]int),
	}
}

// commit makes the plan what we believe.
func (r *ruleset) commit(p *plan) {
	for _, s := range p.steps {
		r.totals.add(s.entry.state, -1)
		for i := range s.edits {
			s.edits[i].cluster.commit()
			s.edits[i].local.commit()
		}
		r.totals.add(s.next, +1)
		s.entry.state = s.next
		if s.next == nil {
			delete(r.services, s.entry.name)
		} else {
			r.services[s.entry.name] = s.entry
		}
	}
	for f, c := range p.claims {
		r.claims.set(f, c)
	}
	p.ips.commit()
	p.hairpin.commit()
	r.around, r.cidrs = p.want.around, p.want.cidrs
}

// full returns all that the ruleset holds as additions: what a node cannot do without, then the
// rest, and the services of the owner numbers from 1. The sequences read the ruleset, so they are
// valid until it changes.
func (r *ruleset) full(urgent func(*endpoints.Service) bool) (
	first, rest iter.Seq[dataplane.Op], owners []endpoints.Name,
) {
	names := make([]endpoints.Name, 0, len(r.services))
	for n := range r.services {
		names = append(names, n)
	}
	slices.SortFunc(names, endpoints.Name.Compare)
	services := func(which bool) func(*batch) {
		return func(b *batch) {
			for i, n := range names {
				s := r.services[n].state
				if b.stopped {
					return
				}
				if urgent(s.object) == which {
					b.owner = uint32(i + 1)
					s.emitAll(b)
				}
			}
		}
	}
	first = stream(func(b *batch) {
		b.prefixes(dataplane.ServiceCIDRs, dataplane.Frontend{}, nil, r.cidrs)
		for _, a := range sortedKeys(r.hairpin) {
			b.member(dataplane.Hairpin, address(a), false, !has(r.around.node, a))
		}
		b.flush()
		services(true)(b)
	})
	return first, stream(services(false)), names
}

func sortedKeys(m map[netip.Addr]int) []netip.Addr {
	out := make([]netip.Addr, 0, len(m))
	for a := range m {
		out = append(out, a)
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}
