package proxier

import (
	"cmp"
	"slices"

	"github.com/weir-project/weir/dataplane"
	"github.com/weir-project/weir/endpoints"
)

// entry is a service's place in the ruleset, the same as long as the service is there.
type entry struct {
	name  endpoints.Name
	state *state // nil: not in the kernel
}

// claim says who wants a frontend. The zero value: nobody.
type claim struct {
	winner *entry
	losers []*entry // in the order in which they would take over; not changed in place
}

// claims holds the claims of all services. Hardly any frontend is contested, so what is costs a
// second entry and the others none.
type claims struct {
	winners map[dataplane.Frontend]*entry
	losers  map[dataplane.Frontend][]*entry
}

func newClaims() claims {
	return claims{make(map[dataplane.Frontend]*entry), make(map[dataplane.Frontend][]*entry)}
}

func (c *claims) get(f dataplane.Frontend) claim {
	w := c.winners[f]
	if w == nil || len(c.losers) == 0 {
		return claim{winner: w}
	}
	return claim{w, c.losers[f]}
}

func (c *claims) set(f dataplane.Frontend, to claim) {
	if to.winner == nil {
		delete(c.winners, f)
	} else {
		c.winners[f] = to.winner
	}
	if len(to.losers) == 0 {
		delete(c.losers, f)
	} else {
		c.losers[f] = to.losers
	}
}

// all returns everybody who claims.
func (c claim) all() []*entry {
	if c.winner == nil {
		return nil
	}
	return append([]*entry{c.winner}, c.losers...)
}

// claim returns who claims f once the plan is committed, as far as the plan is made.
func (p *plan) claim(f dataplane.Frontend) claim {
	if c, ok := p.claims[f]; ok {
		return c
	}
	return p.rules.claims.get(f)
}

// join adds e to those who claim f, and leave removes it. settle orders them again.
func (p *plan) join(f dataplane.Frontend, e *entry) {
	c := p.claim(f)
	if c.winner == nil {
		p.setClaim(f, claim{winner: e})
		return
	}
	p.settle(f, append(c.all(), e))
}

func (p *plan) leave(f dataplane.Frontend, e *entry) {
	all := p.claim(f).all()
	p.settle(f, slices.DeleteFunc(all, func(o *entry) bool { return o == e }))
}

func (p *plan) settle(f dataplane.Frontend, all []*entry) {
	if len(all) == 0 {
		p.setClaim(f, claim{})
		return
	}
	slices.SortFunc(all, p.precedence)
	p.setClaim(f, claim{all[0], all[1:]})
}

// setClaim notes a claim. Who has the frontend now and who shall have it are both planned, though
// nothing may have happened to either of them.
func (p *plan) setClaim(f dataplane.Frontend, c claim) {
	p.claims[f] = c
	if had := p.rules.claims.winners[f]; had != c.winner {
		p.require(had)
		p.require(c.winner)
	}
}

// precedence orders claimants: the older service first, then by name. The state is the planned
// one, because a service may have been deleted and created anew.
func (p *plan) precedence(a, b *entry) int {
	x, y := p.state(a), p.state(b)
	switch {
	case x == nil || y == nil: // is about to leave
		return a.name.Compare(b.name)
	}
	return cmp.Or(x.object.Created.Compare(y.object.Created), a.name.Compare(b.name))
}

// state returns what e will be once the plan is committed, as far as the plan is made.
func (p *plan) state(e *entry) *state {
	if i, ok := p.planned[e]; ok {
		return p.steps[i].next
	}
	return e.state
}

// Conflict is a frontend that several services claim.
type Conflict struct {
	Frontend dataplane.Frontend
	Winner   endpoints.Name
	Losers   []endpoints.Name // in the order in which they would take over
}

// conflicts lists what is contested, by frontend.
func (c *claims) conflicts() []Conflict {
	var out []Conflict
	for f, losers := range c.losers {
		x := Conflict{Frontend: f, Winner: c.winners[f].name}
		for _, l := range losers {
			x.Losers = append(x.Losers, l.name)
		}
		out = append(out, x)
	}
	slices.SortFunc(out, func(a, b Conflict) int { return compareFrontends(a.Frontend, b.Frontend) })
	return out
}

func compareFrontends(a, b dataplane.Frontend) int {
	return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
}
