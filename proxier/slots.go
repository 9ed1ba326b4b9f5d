package proxier

import (
	"math/bits"
	"net/netip"
	"slices"

	"github.com/weir-project/weir/dataplane"
	"github.com/weir-project/weir/internal/addrset"
)

// maxSlots is the largest number of endpoints that one frontend balances over.
const maxSlots = 1 << dataplane.MaxClass

// indexedFrom is the number of slots from which a table keeps an index. Below it one is built
// when a difference is looked for: that costs about a microsecond and no memory in between.
const indexedFrom = 256

// table says which endpoint is in which slot. It serves every frontend of a service port and
// family that balances over the same list of endpoints.
type table struct {
	slots []netip.AddrPort
	index *addrset.Index // nil for a short table
}

// len returns the number of slots. A nil table has none.
func (t *table) len() int {
	if t == nil {
		return 0
	}
	return len(t.slots)
}

// put fills one slot.
type put struct {
	slot     uint32
	endpoint netip.AddrPort
}

// edit is the way from what a table holds to what it shall hold. Until it is committed the table
// is as it was.
type edit struct {
	table *table
	n     int              // slots afterwards
	fresh []netip.AddrPort // all slots, of a table that was empty
	puts  []put            // by slot
	gone  []netip.AddrPort // endpoints that are in no slot afterwards
}

// asIs returns the edit that changes nothing.
func (t *table) asIs() edit { return edit{table: t, n: t.len()} }

// size returns how many slots the edit touches.
func (e *edit) size() int {
	return len(e.fresh) + len(e.puts) + max(0, e.table.len()-e.n)
}

// each yields what every slot holds afterwards.
func (e *edit) each(yield func(uint32, netip.AddrPort) bool) {
	puts := e.puts
	for i := range e.n {
		slot := uint32(i)
		var ap netip.AddrPort
		switch {
		case e.fresh != nil:
			ap = e.fresh[i]
		case len(puts) > 0 && puts[0].slot == slot:
			ap, puts = puts[0].endpoint, puts[1:]
		default:
			ap = e.table.slots[i]
		}
		if !yield(slot, ap) {
			return
		}
	}
}

// commit brings the table to where the edit leads.
func (e *edit) commit() {
	t := e.table
	switch {
	case t == nil:
	case e.fresh != nil:
		t.slots = e.fresh
	default:
		e.commitPuts()
	}
	t.reindex()
}

func (e *edit) commitPuts() {
	t := e.table
	for _, ap := range e.gone {
		if t.index != nil {
			t.index.Delete(t.slots, ap)
		}
	}
	for _, p := range e.puts {
		if t.index != nil && !t.index.Move(t.slots, p.endpoint, int32(p.slot)) {
			t.index.Insert(t.slots, p.endpoint, int32(p.slot))
		}
		if int(p.slot) < len(t.slots) {
			t.slots[p.slot] = p.endpoint
		} else {
			t.slots = append(t.slots, p.endpoint)
		}
	}
	t.slots = t.slots[:e.n]
	if cap(t.slots) > 64 && len(t.slots) < cap(t.slots)/4 {
		t.slots = slices.Clone(t.slots)
	}
}

// reindex makes the index that a long table has and drops that of a short one.
func (t *table) reindex() {
	switch {
	case t.len() >= indexedFrom && t.index == nil:
		t.index = new(addrset.Index)
		buildIndex(t.index, t.slots)
	case t.len() < indexedFrom/2:
		if t != nil {
			t.index = nil
		}
	}
}

func buildIndex(x *addrset.Index, list []netip.AddrPort) {
	x.Reset(len(list))
	for i, ap := range list {
		x.Insert(list, ap, int32(i))
	}
}

// differ finds edits. It holds scratch space, so that the cost of a small change in a large table
// is one look at each endpoint and nothing allocated for it.
type differ struct {
	index addrset.Index
	kept  []uint64 // a bit for each slot
	added []netip.AddrPort
}

// diff returns the edit that makes t hold the endpoints of want, which are distinct. An endpoint
// that stays keeps its slot unless it is the last and moves into a gap. want is not kept.
func (d *differ) diff(t *table, want []netip.AddrPort) edit {
	want = want[:min(len(want), maxSlots)]
	switch {
	case t.len() == 0 && len(want) == 0:
		return edit{table: t}
	case t.len() == 0:
		if t == nil {
			t = new(table)
		}
		return edit{table: t, n: len(want), fresh: slices.Clone(want)}
	case slices.Equal(t.slots, want):
		return edit{table: t, n: len(want)}
	}
	d.mark(t, want)
	return d.edit(t, len(want))
}

// mark notes which slots stay and which endpoints are new. Both lists tend to be in the same order,
// so the slot after the last one found is looked at before the index.
func (d *differ) mark(t *table, want []netip.AddrPort) {
	d.added = d.added[:0]
	words := (len(t.slots) + 63) / 64
	d.kept = slices.Grow(d.kept[:0], words)[:words]
	clear(d.kept)
	index := t.index
	next := 0
	for _, ap := range want {
		at, ok := next, next < len(t.slots) && t.slots[next] == ap
		if !ok {
			if index == nil {
				index = &d.index
				buildIndex(index, t.slots)
			}
			var i int32
			if i, ok = index.Lookup(t.slots, ap); ok {
				at = int(i)
			} else {
				d.added = append(d.added, ap) // probably in the place of one that is gone
			}
		}
		if ok {
			d.kept[at/64] |= 1 << (at % 64)
		}
		next = at + 1
	}
}

// edit fills the gaps from the lowest: with new endpoints while there are any, then with the last
// slots' endpoints. n is the number of slots afterwards.
func (d *differ) edit(t *table, n int) edit {
	e := edit{table: t, n: n}
	added, last := d.added, len(t.slots)
	for slot := range d.gaps(len(t.slots)) {
		e.gone = append(e.gone, t.slots[slot])
		switch {
		case len(added) > 0:
			e.puts = append(e.puts, put{uint32(slot), added[0]})
			added = added[1:]
		case slot < n:
			for last--; d.kept[last/64]&(1<<(last%64)) == 0; last-- {
			}
			e.puts = append(e.puts, put{uint32(slot), t.slots[last]})
		}
	}
	for i, ap := range added {
		e.puts = append(e.puts, put{uint32(len(t.slots) + i), ap})
	}
	return e
}

// gaps yields the slots below n that do not stay, ascending.
func (d *differ) gaps(n int) func(func(int) bool) {
	return func(yield func(int) bool) {
		for w, word := range d.kept {
			for free := ^word; free != 0; free &= free - 1 {
				slot := w*64 + bits.TrailingZeros64(free)
				if slot >= n || !yield(slot) {
					return
				}
			}
		}
	}
}
