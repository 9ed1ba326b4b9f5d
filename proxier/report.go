package proxier

import (
	"fmt"
	"slices"

	"github.com/weir-project/weir/dataplane"
	"github.com/weir-project/weir/endpoints"
)

// Problems are found while planning and reported when the plan is committed, once for each
// version of a service.

func (p *plan) problem(s *step, field, reason string) {
	o := s.next.object
	p.problems = append(p.problems, endpoints.Problem{
		Kind: "Service", Object: o.Name, UID: o.UID, Field: field, Reason: reason,
	})
}

// sameVersion reports whether the service's object is the one that the kernel has.
func (s *step) sameVersion() bool {
	return s.entry.state != nil && s.entry.state.object == s.next.object
}

// reportLost tells that an older service has a frontend.
func (p *plan) reportLost(s *step, port *port, f *frontend, winner *entry) {
	if s.sameVersion() && s.entry.state.hasLost(f.key) {
		return
	}
	p.problem(s, f.field(s.next.object, port),
		fmt.Sprintf("%s is taken by the older service %s", f.key, winner.name))
}

func (s *state) hasLost(key dataplane.Frontend) bool {
	return slices.ContainsFunc(s.ports, func(p port) bool {
		return slices.ContainsFunc(p.frontends, func(f frontend) bool { return f.lost && f.key == key })
	})
}

// reportTwice tells that two ports of a service claim the same frontends. The first has them.
func (p *plan) reportTwice(s *step, rp *endpoints.ResolvedPort, twice []dataplane.Frontend) {
	if len(twice) == 0 || s.sameVersion() {
		return
	}
	i := slices.Index(s.next.object.Ports, rp.Port)
	p.problem(s, fmt.Sprintf("spec.ports[%d]", i),
		fmt.Sprintf("%s is taken by an earlier port of the same service", twice[0]))
}

// reportOver tells that a list of endpoints was cut.
func (p *plan) reportOver(s *step) {
	if !s.next.over || s.entry.state != nil && s.entry.state.over {
		return
	}
	p.problem(s, "spec.ports", fmt.Sprintf("more than %d endpoints for one port: the first %d are used",
		maxSlots, maxSlots))
}
