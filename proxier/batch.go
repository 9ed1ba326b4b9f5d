package proxier

import (
	"iter"
	"net/netip"
	"slices"
	"time"

	"github.com/weir-project/weir/dataplane"
)

// batch gathers operations. Deletions are kept apart, because all of them go first.
type batch struct {
	owner      uint32
	dels, adds []dataplane.Op

	yield   func(dataplane.Op) bool // where full batches of additions go; nil: nowhere
	stopped bool
}

// streamed is the number of operations that a stream holds at a time.
const streamed = 512

// stream returns the additions that walk makes, without ever holding them all.
func stream(walk func(*batch)) iter.Seq[dataplane.Op] {
	return func(yield func(dataplane.Op) bool) {
		b := &batch{yield: yield, adds: make([]dataplane.Op, 0, streamed)}
		walk(b)
		b.flush()
	}
}

func (b *batch) flush() {
	for _, op := range b.adds {
		if b.stopped {
			break
		}
		b.stopped = !b.yield(op)
	}
	b.adds = b.adds[:0]
}

func (b *batch) ops() []dataplane.Op { return append(b.dels, b.adds...) }

// forgets returns those operations by which affinity forgets, on nobody's behalf.
func (b *batch) forgets() []dataplane.Op {
	var out []dataplane.Op
	for _, op := range b.dels {
		if op.Set == dataplane.Affinity {
			op.Owner = 0
			out = append(out, op)
		}
	}
	return out
}

func (b *batch) del(set dataplane.Set, e dataplane.Element) {
	b.dels = append(b.dels, dataplane.Op{Delete: true, Set: set, Elem: e, Owner: b.owner})
}

func (b *batch) add(set dataplane.Set, e dataplane.Element) {
	if b.yield != nil && len(b.adds) == streamed {
		b.flush()
	}
	b.adds = append(b.adds, dataplane.Op{Set: set, Elem: e, Owner: b.owner})
}

// member adds or deletes an element that is in a set or is not.
func (b *batch) member(set dataplane.Set, e dataplane.Element, was, is bool) {
	switch {
	case was && !is:
		b.del(set, e)
	case is && !was:
		b.add(set, e)
	}
}

// verdict replaces an element of a verdict map by another; one with verdict 0 is none.
func (b *batch) verdict(set dataplane.Set, was, is dataplane.Element) {
	if was != is {
		b.member(set, was, was.Verdict != 0, false)
		b.member(set, is, false, is.Verdict != 0)
	}
}

// prefixes replaces a list of prefixes, each without overlaps, by another.
func (b *batch) prefixes(set dataplane.Set, key dataplane.Frontend, was, is []netip.Prefix) {
	for _, p := range was {
		if !slices.Contains(is, p) {
			b.del(set, dataplane.Element{Frontend: key, Source: p})
		}
	}
	for _, p := range is {
		if !slices.Contains(was, p) {
			b.add(set, dataplane.Element{Frontend: key, Source: p})
		}
	}
}

// timeout replaces one affinity timeout by another; 0 is none.
func (b *batch) timeout(key dataplane.Frontend, was, is time.Duration) {
	if was == is {
		return
	}
	b.member(dataplane.AffinityOf, dataplane.Element{Frontend: key, Timeout: was}, was != 0, false)
	b.member(dataplane.AffinityOf, dataplane.Element{Frontend: key, Timeout: is}, false, is != 0)
}

// slots brings the slots of a frontend from the table t to what e makes of its table. Either may
// be nil.
func (b *batch) slots(set dataplane.Set, key dataplane.Frontend, t *table, e *edit) {
	slot := func(i uint32, ap netip.AddrPort) dataplane.Element {
		return dataplane.Element{Frontend: key, Slot: i, Endpoint: ap}
	}
	if e != nil && t != nil && e.table == t && e.fresh == nil {
		for _, p := range e.puts {
			if int(p.slot) < t.len() {
				b.del(set, slot(p.slot, t.slots[p.slot]))
			}
			b.add(set, slot(p.slot, p.endpoint))
		}
		for i := e.n; i < t.len(); i++ {
			b.del(set, slot(uint32(i), t.slots[i]))
		}
		return
	}
	for i := range t.len() {
		b.del(set, slot(uint32(i), t.slots[i]))
	}
	if e != nil {
		for i, ap := range e.each {
			b.add(set, slot(i, ap))
		}
	}
}

// none stands for a frontend that is not there.
var none frontend

// change is what happens to one frontend.
type change struct {
	old, new *frontend // none: it is not there
	was, is  *port     // theirs; nil: none
	edit     *portEdit // what happens to the tables of is; nil: none
}

// frontend writes everything that changes for one frontend, except what affinity shall forget.
func (b *batch) frontend(c change) {
	key := c.new.key
	if c.new == &none {
		key = c.old.key
	}
	in := dataplane.Element{Frontend: key}
	b.slots(dataplane.Endpoints, key, c.was.table(c.old.endpoints), c.edit.edit(c.new.endpoints))
	b.slots(dataplane.LocalEndpoints, key, c.was.table(c.old.localEndpoints),
		c.edit.edit(c.new.localEndpoints))
	b.member(dataplane.SnatAlways, in, c.old.snatAlways, c.new.snatAlways)
	b.member(dataplane.SnatNode, in, c.old.snatNode, c.new.snatNode)
	b.prefixes(dataplane.AllowedSources, key, c.old.sources, c.new.sources)
	b.member(dataplane.Restricted, in, c.old.restricted, c.new.restricted)
	b.timeout(key, c.old.affinity, c.new.affinity)
	with := func(p *port, v dataplane.Verdict) dataplane.Element {
		return dataplane.Element{Frontend: key, Verdict: v, Comment: p.comment()}
	}
	b.verdict(dataplane.LocalServices, with(c.was, c.old.localServices), with(c.is, c.new.localServices))
	b.verdict(dataplane.Services, with(c.was, c.old.services), with(c.is, c.new.services))
}

// forget writes which affinity entries go: an entry is obeyed before the service's verdict, so
// one that should not be there would send its client to the wrong place.
func (b *batch) forget(c change) {
	key := c.old.key
	switch {
	case c.old.affinity == 0:
	case c.new.affinity == 0, c.old.endpoints != c.new.endpoints, c.old.snatAlways != c.new.snatAlways:
		b.del(dataplane.Affinity, dataplane.Element{Frontend: key})
	default:
		for _, l := range [...]list{c.old.endpoints, c.old.localEndpoints} {
			b.forgetGone(key, c.edit.edit(l))
		}
	}
}

func (b *batch) forgetGone(key dataplane.Frontend, e *edit) {
	if e == nil {
		return
	}
	for _, ap := range e.gone {
		b.del(dataplane.Affinity, dataplane.Element{Frontend: key, Endpoint: ap})
	}
}
