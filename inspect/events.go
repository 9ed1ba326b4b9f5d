package inspect

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/weir-project/weir/inspect/api"
	"github.com/weir-project/weir/proxier"
)

// remembered is how many syncs are remembered.
const remembered = 1024

// ring holds the latest events.
type ring struct {
	mu      sync.Mutex
	list    []api.Event // in order; the oldest is at next once it is full
	next    int
	last    uint64 // ID
	failed  uint64
	success time.Time     // when the last sync that succeeded ended
	more    chan struct{} // closed when an event comes
}

func newRing() ring { return ring{more: make(chan struct{})} }

func (r *ring) add(e api.Event, failed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last++
	e.ID = r.last
	if failed {
		r.failed++
	} else {
		r.success = e.Time.Add(e.Duration.Duration())
	}
	if len(r.list) < remembered {
		r.list = append(r.list, e)
	} else {
		r.list[r.next] = e
		r.next = (r.next + 1) % remembered
	}
	close(r.more)
	r.more = make(chan struct{})
}

// after returns the remembered events after an ID, oldest first, and what is closed when there are more.
func (r *ring) after(id uint64) ([]api.Event, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := min(uint64(len(r.list)), r.last-min(id, r.last))
	out := make([]api.Event, 0, n)
	for k := len(r.list) - int(n); k < len(r.list); k++ {
		out = append(out, r.list[(r.next+k)%len(r.list)])
	}
	return out, r.more
}

// syncs sums up.
func (r *ring) syncs() api.Syncs {
	all, _ := r.after(0)
	r.mu.Lock()
	s := api.Syncs{Count: r.last, Failed: r.failed, LastSuccess: r.success}
	r.mu.Unlock()
	var durations, delays []api.Seconds
	for k := range all {
		durations = append(durations, all[k].Duration)
		if all[k].Delay > 0 {
			delays = append(delays, all[k].Delay)
		}
	}
	if len(all) > 0 {
		s.Last = &all[len(all)-1]
	}
	s.Duration, s.Delay = latency(durations), latency(delays)
	return s
}

func latency(list []api.Seconds) api.Latency {
	if len(list) == 0 {
		return api.Latency{}
	}
	slices.Sort(list)
	at := func(q float64) api.Seconds { return list[int(math.Ceil(q*float64(len(list))))-1] }
	return api.Latency{Count: len(list), P50: at(0.5), P99: at(0.99), Max: list[len(list)-1]}
}

// eventOf puts a report into Service names.
func eventOf(r proxier.SyncReport) api.Event {
	e := api.Event{
		Time: r.Start, Duration: api.SecondsOf(r.Duration), Full: r.Full, Revision: r.Revision,
		Operations: r.Ops, Transactions: r.Transactions, Services: len(r.Changed),
	}
	if !r.Since.IsZero() {
		e.Delay = api.SecondsOf(r.Start.Add(r.Duration).Sub(r.Since))
	}
	if r.Err != nil {
		e.Error = r.Err.Error()
	}
	for _, d := range r.Details {
		c := api.ServiceChange{Service: d.Service.String(), Action: "Changed", Added: d.Added, Removed: d.Gone, Endpoints: d.Endpoints}
		if d.Came {
			c.Action = "Added"
		}
		if d.Went {
			c.Action = "Removed"
		}
		e.Changes = append(e.Changes, c)
	}
	return e
}

// Events returns the remembered syncs after the one with an ID, oldest first; 0: all of them.
func (i *Inspector) Events(after uint64) api.EventList {
	list, _ := i.events.after(after)
	return api.EventList{Meta: meta("EventList"), Items: list}
}

// Follow calls each with the remembered syncs after the one with an ID and then with every further
// one, until ctx ends or each returns an error, which it then returns. Who is slower than 1,024 syncs
// misses some; the IDs tell.
func (i *Inspector) Follow(ctx context.Context, after uint64, each func(api.Event) error) error {
	for {
		list, more := i.events.after(after)
		for _, e := range list {
			if err := each(e); err != nil {
				return err
			}
			after = e.ID
		}
		select {
		case <-ctx.Done():
			return nil
		case <-more:
		}
	}
}
