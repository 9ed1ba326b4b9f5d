package proxier

import (
	"slices"

	"github.com/weir-project/weir/endpoints"
)

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
