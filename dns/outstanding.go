package dns

import (
	"sync/atomic"
	"time"
)

// outstanding bounds how many queries somebody else is being asked for. A place that was never given
// back is free again after patience.
type outstanding struct {
	places []atomic.Int64 // when it was taken, in nanoseconds since epoch; 0: it is free
	next   atomic.Uint32
}

// patience is how long a forwarder may take. Clients have given up by then.
const patience = 15 * time.Second

var epoch = time.Now().Add(-time.Second)

// ticket is a place that was taken.
type ticket struct {
	at   *atomic.Int64
	when int64
}

func newOutstanding(most int) *outstanding { return &outstanding{places: make([]atomic.Int64, most)} }

// take takes a place; false if there seems to be none.
func (o *outstanding) take() (ticket, bool) {
	now := int64(time.Since(epoch))
	for range min(16, len(o.places)) {
		at := &o.places[int(o.next.Add(1))%len(o.places)]
		when := at.Load()
		if (when == 0 || now-when > int64(patience)) && at.CompareAndSwap(when, now) {
			return ticket{at, now}, true
		}
	}
	return ticket{}, false
}

// release gives a place back, unless it has been taken away.
func (p ticket) release() { p.at.CompareAndSwap(p.when, 0) }

// count returns how many places are taken.
func (o *outstanding) count() (n int) {
	now := int64(time.Since(epoch))
	for i := range o.places {
		if when := o.places[i].Load(); when != 0 && now-when <= int64(patience) {
			n++
		}
	}
	return n
}
