package proxier

import (
	"net/netip"
	"slices"

	"github.com/weir-project/weir/dataplane"
	"github.com/weir-project/weir/endpoints"
)

// resolver is what a plan reads of the engine.
type resolver interface {
	Resolve(endpoints.Name, *endpoints.Resolved)
}

// wanted is what a plan shall lead to.
type wanted struct {
	services resolver
	dirty    []endpoints.Name          // which services may have changed, distinct
	absent   func(endpoints.Name) bool // services that shall not be in the kernel, though they exist
	around   surroundings
	cidrs    []netip.Prefix
	// budget bounds the number of slot operations after which no more dirty services are taken;
	// 0: no bound.
	budget int
}

// plan is the way from what the kernel holds to what it shall hold. It is valid until the ruleset
// changes.
type plan struct {
	rules *ruleset
	want  wanted

	steps   []*step
	planned map[*entry]int // index into steps
	queue   []*entry       // services to plan because of somebody else's claim
	claims  map[dataplane.Frontend]claim
	ips     tally
	hairpin tally

	taken    int // how many of want.dirty it covers
	problems []endpoints.Problem
	batch    batch
}

// plan computes the way to what is wanted. It changes nothing.
func (r *ruleset) plan(want wanted) *plan {
	p := r.prepare(want)
	p.emit()
	return p
}

// prepare does everything but the operations.
func (r *ruleset) prepare(want wanted) *plan {
	p := &plan{
		rules:   r,
		want:    want,
		planned: make(map[*entry]int, len(want.dirty)),
		claims:  make(map[dataplane.Frontend]claim),
		ips:     newTally(r.clusterIPs),
		hairpin: newTally(r.hairpin),
	}
	cost := 0
	for _, name := range want.dirty {
		if want.budget > 0 && cost > want.budget {
			break
		}
		cost += p.service(name)
		p.taken++
	}
	for len(p.queue) > 0 {
		e := p.queue[0]
		p.queue = p.queue[1:]
		p.service(e.name)
	}
	for i, s := range p.steps {
		p.decide(s)
		p.count(s, uint32(i+1))
	}
	return p
}

// require has e planned as well.
func (p *plan) require(e *entry) {
	if e == nil {
		return
	}
	if _, ok := p.planned[e]; !ok {
		p.queue = append(p.queue, e)
	}
}

// service plans one service, unless it is planned already, and returns about how many slots
// change in the kernel. A name of no service, as serviceCIDRs is, plans nothing.
func (p *plan) service(name endpoints.Name) (cost int) {
	e := p.rules.services[name]
	if e == nil {
		e = &entry{name: name}
	}
	if _, done := p.planned[e]; done {
		return 0
	}
	s := &step{entry: e}
	if r := p.resolve(name); r.Service != nil {
		cost = p.next(s, r)
	}
	if s.next == nil && e.state == nil {
		return 0
	}
	p.planned[e] = len(p.steps)
	p.steps = append(p.steps, s)
	p.claimAll(s)
	return cost
}

// resolve returns what the source says of a service. The result is valid until the next call.
func (p *plan) resolve(name endpoints.Name) *endpoints.Resolved {
	r := &p.rules.resolved
	r.Service = nil
	if p.want.absent == nil || !p.want.absent(name) {
		p.want.services.Resolve(name, r)
	}
	return r
}

// next computes what a service becomes.
func (p *plan) next(s *step, r *endpoints.Resolved) (cost int) {
	s.next = &state{object: r.Service, ports: make([]port, 0, len(r.Ports))}
	s.edits = make([]portEdit, 0, len(r.Ports))
	for i := range r.Ports {
		rp := &r.Ports[i]
		e := portEdit{was: s.matching(rp)}
		var old port
		if e.was >= 0 {
			old = s.entry.state.ports[e.was]
		}
		e.cluster = p.rules.scratch.diff(old.cluster, rp.Cluster)
		e.local = p.rules.scratch.diff(old.local, rp.Local)
		s.next.over = s.next.over || len(rp.Cluster) > maxSlots || len(rp.Local) > maxSlots
		nw := port{
			family: rp.Family, protocol: rp.Protocol, number: rp.Port.Port, nodePort: rp.NodePort,
			cluster: e.cluster.table, local: e.local.table, onNode: old.onNode, label: old.label, any: rp.Any,
		}
		if e.was < 0 || !s.sameVersion() {
			nw.label = label(r.Service.Name, rp.Port)
		}
		if !slices.Equal(old.onNode, rp.OnNode) {
			nw.onNode = slices.Clone(rp.OnNode)
		}
		nw.frontends = p.frontends(s, rp, counts{e.cluster.n, e.local.n})
		s.next.ports = append(s.next.ports, nw)
		s.edits = append(s.edits, e)
		cost += e.cost(len(old.frontends), len(nw.frontends))
	}
	p.reportOver(s)
	return cost
}

// frontends returns the frontends of one of the service's ports.
func (p *plan) frontends(s *step, rp *endpoints.ResolvedPort, n counts) []frontend {
	earlier := s.next.ports
	b := builder{service: s.next.object, port: rp, around: &p.want.around, counts: n}
	b.taken = func(key dataplane.Frontend) bool {
		return slices.ContainsFunc(earlier, func(o port) bool {
			return o.protocol == rp.Protocol && (o.number == key.Port || o.nodePort == key.Port) &&
				slices.ContainsFunc(o.frontends, func(f frontend) bool { return f.key == key })
		})
	}
	out := b.build()
	p.reportTwice(s, rp, b.twice)
	return out
}

// claimAll brings the claims up to date with one step.
func (p *plan) claimAll(s *step) {
	was, is := s.entry.state, s.next
	anew := was != nil && is != nil && !was.object.Created.Equal(is.object.Created)
	if was != nil && is != nil && !anew && sameClaims(was, is) {
		return
	}
	after := make(map[dataplane.Frontend]bool) // whether it is new
	if is != nil {
		for f := range is.claims {
			after[f] = true
		}
	}
	if was != nil {
		for f := range was.claims {
			if _, stays := after[f]; !stays {
				p.leave(f, s.entry)
				continue
			}
			after[f] = false
			if anew {
				p.settle(f, p.claim(f).all())
			}
		}
	}
	if is != nil {
		for f := range is.claims {
			if after[f] {
				p.join(f, s.entry)
			}
		}
	}
}

// decide strikes out what an older service has.
func (p *plan) decide(s *step) {
	if s.next == nil {
		return
	}
	for i := range s.next.ports {
		port := &s.next.ports[i]
		for j := range port.frontends {
			f := &port.frontends[j]
			if w := p.claim(f.key).winner; w != s.entry {
				f.lose()
				p.reportLost(s, port, f, w)
			}
		}
	}
}

// count takes the addresses that a service shares with others out of its present state and into
// the next.
func (p *plan) count(s *step, owner uint32) {
	for _, x := range []struct {
		state *state
		by    int
	}{{s.entry.state, -1}, {s.next, +1}} {
		if x.state == nil {
			continue
		}
		for a := range x.state.clusterIPs {
			p.ips.add(a, x.by, owner)
		}
		for i := range x.state.ports {
			for _, a := range x.state.ports[i].onNode {
				p.hairpin.add(a, x.by, owner)
			}
		}
	}
}

// emit turns the plan into operations: deletions first, each service's together.
func (p *plan) emit() {
	b := &p.batch
	for i, s := range p.steps {
		b.owner = uint32(i + 1)
		for c := range s.changes {
			b.frontend(c)
			b.forget(c)
		}
	}
	for _, t := range p.ips.order {
		b.owner = t.owner
		b.member(dataplane.ClusterIPs, address(t.addr), p.rules.clusterIPs[t.addr] > 0,
			p.rules.clusterIPs[t.addr]+p.ips.delta[t.addr] > 0)
	}
	p.emitHairpin()
	b.owner = 0
	b.prefixes(dataplane.ServiceCIDRs, dataplane.Frontend{}, p.rules.cidrs, p.want.cidrs)
}

// emitHairpin follows endpoints on this node, and the node's own addresses, which stay out.
func (p *plan) emitHairpin() {
	was, is := p.rules.around.node, p.want.around.node
	b := &p.batch
	emit := func(a netip.Addr) {
		n := p.rules.hairpin[a]
		b.member(dataplane.Hairpin, address(a), n > 0 && !has(was, a), n+p.hairpin.delta[a] > 0 && !has(is, a))
	}
	for _, t := range p.hairpin.order {
		b.owner = t.owner
		emit(t.addr)
	}
	if slices.Equal(was, is) {
		return
	}
	b.owner = 0
	for _, a := range plainAddrs(slices.Concat(was, is)) {
		if _, done := p.hairpin.delta[a]; !done && has(was, a) != has(is, a) {
			emit(a)
		}
	}
}

func address(a netip.Addr) dataplane.Element {
	return dataplane.Element{Frontend: dataplane.Frontend{Addr: a}}
}

// forgets returns what affinity shall forget: all that a Replace leaves to be done.
func (p *plan) forgets() []dataplane.Op {
	var b batch
	for _, s := range p.steps {
		for c := range s.changes {
			b.forget(c)
		}
	}
	return b.forgets()
}

// settled returns the names that are no longer dirty once the plan is committed: the dirty ones
// that it covers, and those that it had to plan besides.
func (p *plan) settled() []endpoints.Name {
	covered := make(map[endpoints.Name]bool, len(p.want.dirty))
	var out []endpoints.Name
	for _, n := range p.want.dirty[:p.taken] {
		covered[n] = true
		out = append(out, n)
	}
	for _, s := range p.steps {
		if !covered[s.entry.name] {
			out = append(out, s.entry.name)
		}
	}
	return out
}

// ops returns the plan's operations in the order in which the kernel shall see them.
func (p *plan) ops() []dataplane.Op { return p.batch.ops() }

// owner returns the service of an owner number; the zero Name for 0.
func (p *plan) owner(number uint32) endpoints.Name {
	if number == 0 || int(number) > len(p.steps) {
		return endpoints.Name{}
	}
	return p.steps[number-1].entry.name
}
