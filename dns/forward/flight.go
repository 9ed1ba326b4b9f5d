package forward

import (
	"context"
	"time"
)

// flight is a question that upstreams are asked, once for all who wait for it.
type flight struct {
	q       *question
	group   *group
	waiters []waiter // guarded by the shard's lock
	stale   bool     // there is a stale answer to fall back on
}

// takeOffLocked begins to ask for q; it is nil beyond the bound.
func (f *Forwarder) takeOffLocked(s *shard, q *question, stale *entry) *flight {
	if f.outstanding.Add(1) > int64(f.opts.MaxOutstanding) {
		f.outstanding.Add(-1)
		return nil
	}
	own := *q
	fl := &flight{q: &own, group: f.routes.Load().find(own.lower()), stale: stale != nil}
	if !f.goRun(func() { f.fly(s, fl) }) {
		f.outstanding.Add(-1)
		return nil
	}
	s.flights[string(q.bytes())] = fl
	return fl
}

func (f *Forwarder) fly(s *shard, fl *flight) {
	e := f.resolve(s, fl)
	f.outstanding.Add(-1)
	f.land(s, fl, e)
}

// land keeps e and tells it to all who wait.
func (f *Forwarder) land(s *shard, fl *flight, e *entry) {
	s.mu.Lock()
	now := f.now()
	if s.flights[e.key] == fl {
		delete(s.flights, e.key)
	}
	ttl := e.ttl
	if f.routes.Load().find(fl.q.lower()).same(fl.group) {
		f.cache.putLocked(s, e, now, f.opts.StaleTTL)
	}
	if e.kind == failure {
		if before := s.entries[e.key]; before != nil && before.kind != failure {
			if e, ttl = before, before.remaining(max(now, before.stored)); now >= before.expires {
				ttl = f.staleLocked(s, len(fl.waiters))
			}
		}
	}
	waiters := fl.waiters
	fl.waiters = nil
	s.mu.Unlock()
	f.tell(waiters, e, ttl)
}

func (f *Forwarder) tell(waiters []waiter, e *entry, ttl uint32) {
	for _, w := range waiters {
		var q question
		q.parse(w.query)
		w.reply(appendAnswer(make([]byte, 0, answerLen(&q, e)), w.query, &q, e, ttl))
	}
	f.waiting.Add(-int64(len(waiters)))
}

// tellStale gives those who have waited long enough what there is. Who comes from now on does not
// wait.
func (f *Forwarder) tellStale(s *shard, fl *flight) {
	s.mu.Lock()
	now := f.now()
	e := s.entries[string(fl.q.bytes())]
	if e == nil || e.kind == failure || now >= e.expires+f.cache.maxStale {
		s.mu.Unlock()
		return
	}
	e.recheck = now + f.opts.StaleTTL
	waiters := fl.waiters
	ttl := f.staleLocked(s, len(waiters))
	fl.waiters = nil
	s.mu.Unlock()
	f.tell(waiters, e, ttl)
}

// outcome is how one try ended.
type outcome struct {
	u *upstream
	e *entry // nil: none came
}

// flown is one question on its way through the upstreams.
type flown struct {
	*Forwarder
	ctx     context.Context
	q       *question
	order   []*member
	tries   int
	pending int
	done    chan outcome
	settled map[*upstream]bool // has answered that it does not know
}

// resolve asks upstreams until one knows. One that is slow is not given up while the next is asked
// as well: the first good answer counts.
func (f *Forwarder) resolve(s *shard, fl *flight) *entry {
	ctx, cancel := context.WithTimeout(f.ctx, f.opts.Deadline)
	defer cancel()
	order, allDown := fl.group.order()
	if allDown {
		f.allDown.Add(1)
	}
	worst := failed(fl.q, rcodeServFail, f.limits)
	if len(order) == 0 {
		return worst
	}
	var staleC <-chan time.Time
	if fl.stale {
		t := time.NewTimer(f.opts.StaleAfter)
		defer t.Stop()
		staleC = t.C
	}
	t := &flown{Forwarder: f, ctx: ctx, q: fl.q, order: order, done: make(chan outcome, maxTries), settled: map[*upstream]bool{}}
	patience := time.NewTimer(f.opts.TryTimeout)
	defer patience.Stop()
	for asked := t.launch(); ; {
		select {
		case r := <-t.done:
			t.pending--
			switch {
			case r.e != nil && r.e.kind != failure && !r.e.truncated:
				return r.e
			case r.e != nil:
				if !worst.truncated { // to know that there is something is better than a failure
					worst = r.e
				}
				t.settled[r.u] = true
			}
			if next := t.launch(); next != nil {
				asked = next
				patience.Reset(f.opts.TryTimeout)
			} else if t.pending == 0 {
				return worst
			}
		case <-patience.C:
			if !t.settled[asked] {
				f.failed(asked, context.DeadlineExceeded)
			}
			if next := t.launch(); next != nil {
				asked = next
				patience.Reset(f.opts.TryTimeout)
			}
		case <-staleC:
			f.tellStale(s, fl)
		case <-ctx.Done():
			return worst
		}
	}
}

// maxTries is how often upstreams are asked one question, all taken together.
const maxTries = 6

// launch asks the next upstream, each at most twice, and none again that has answered. It returns
// nil if there is none.
func (t *flown) launch() *upstream {
	for t.ctx.Err() == nil && t.tries < min(2*len(t.order), maxTries) {
		u := t.order[t.tries%len(t.order)].upstream
		t.tries++
		if t.settled[u] {
			continue
		}
		t.pending++
		go t.try(u)
		return u
	}
	return nil
}

func (t *flown) try(u *upstream) {
	e, err := t.ask(t.ctx, u, t.q)
	switch {
	case err == nil:
		t.worked(u)
	case t.ctx.Err() == nil:
		t.failed(u, err)
	}
	t.done <- outcome{u, e}
}
