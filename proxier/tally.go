package proxier

import (
	"net/netip"
)

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
