package proxier

import (
	"iter"
	"net/netip"
	"slices"

	"github.com/weir-project/weir/dataplane"
	"github.com/weir-project/weir/endpoints"
)

// resolver is what a plan reads of the engine.
type resolver interface {
	Resolve(endpoints.Name, *endpoints.Resolved)
}

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

// step is one service's part of a plan. Its owner number is its index plus one.
type step struct {
	entry *entry
	next  *state // nil: leaves the kernel
	edits []portEdit
}

// portEdit is what happens to the tables of one port of step.next.
type portEdit struct {
	was            int // index into entry.state.ports, -1: the port is new
	cluster, local edit
}

// cost returns about how many slots change in the kernel when a port goes from a number of
// frontends to another.
func (e *portEdit) cost(was, is int) int {
	if is > was {
		return was*(e.cluster.size()+e.local.size()) + (is-was)*(e.cluster.n+e.local.n)
	}
	return is * (e.cluster.size() + e.local.size())
}

func (e *portEdit) edit(l list) *edit {
	switch l {
	case clusterList:
		return &e.cluster
	case localList:
		return &e.local
	}
	return nil
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

func label(service endpoints.Name, p endpoints.Port) string {
	if p.Name == "" {
		return service.String()
	}
	return service.String() + ":" + p.Name
}

// matching returns the index of the port in the present state that continues as rp, or -1. None
// continues as two.
func (s *step) matching(rp *endpoints.ResolvedPort) int {
	if s.entry.state == nil {
		return -1
	}
	for i := range s.entry.state.ports {
		o := &s.entry.state.ports[i]
		if o.family == rp.Family && o.protocol == rp.Protocol && o.number == rp.Port.Port && s.successor(i) < 0 {
			return i
		}
	}
	return -1
}

// successor returns the index of the next state's port that continues port i, or -1.
func (s *step) successor(i int) int {
	return slices.IndexFunc(s.edits, func(e portEdit) bool { return e.was == i })
}

// changes yields what happens to each frontend: those that go, then those that stay or come.
func (s *step) changes(yield func(change) bool) {
	if s.entry.state != nil && !s.departures(yield) || s.next == nil {
		return
	}
	for i := range s.next.ports {
		n, e := &s.next.ports[i], &s.edits[i]
		var o *port
		if e.was >= 0 {
			o = &s.entry.state.ports[e.was]
		}
		for k := range n.frontends {
			f := &n.frontends[k]
			if !f.lost && !yield(change{old: o.find(f.key, k), new: f, was: o, is: n, edit: e}) {
				return
			}
		}
	}
}

// departures yields the frontends that go or move to another port, and reports whether to go on.
func (s *step) departures(yield func(change) bool) bool {
	for i := range s.entry.state.ports {
		o := &s.entry.state.ports[i]
		var n *port
		if j := s.successor(i); j >= 0 {
			n = &s.next.ports[j]
		}
		for k := range o.frontends {
			f := &o.frontends[k]
			if f.lost || n.find(f.key, k) != &none {
				continue
			}
			if !yield(change{old: f, new: &none, was: o}) {
				return false
			}
		}
	}
	return true
}

// emitAll writes a service as additions.
func (s *state) emitAll(b *batch) {
	for a := range s.clusterIPs {
		b.add(dataplane.ClusterIPs, address(a))
	}
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

// tally counts holders of addresses beside a committed count.
type tally struct {
	base  map[netip.Addr]int
	delta map[netip.Addr]int
	order []touched
}

// touched is an address and the first owner that touched it.
type touched struct {
	addr  netip.Addr
	owner uint32
}

func newTally(base map[netip.Addr]int) tally {
	return tally{base: base, delta: make(map[netip.Addr]int)}
}

func (t *tally) add(a netip.Addr, by int, owner uint32) {
	if _, ok := t.delta[a]; !ok {
		t.order = append(t.order, touched{a, owner})
	}
	t.delta[a] += by
}

func (t *tally) commit() {
	for a, d := range t.delta {
		if t.base[a] += d; t.base[a] == 0 {
			delete(t.base, a)
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
func (r *ruleset) full(urgent func(*endpoints.Service) bool) (first, rest iter.Seq[dataplane.Op], owners []endpoints.Name) {
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
