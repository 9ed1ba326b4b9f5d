package forward

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// Forwarder answers questions from its cache and from upstreams. It implements dns.Forwarder.
type Forwarder struct {
	opts   Options
	limits limits
	net    transport
	start  time.Time
	cache  *cache
	routes atomic.Pointer[routes]

	outstanding  atomic.Int64
	waiting      atomic.Int64
	rejected     atomic.Uint64
	allDown      atomic.Uint64
	probesFailed atomic.Uint64
	mismatched   atomic.Uint64

	ctx    context.Context // ends with Run
	cancel context.CancelFunc
	wake   chan struct{} // the routes have changed

	mu      sync.Mutex // guards what follows
	closed  bool
	running sync.WaitGroup // not added to once closed

	setMu  sync.Mutex // guards what follows, and changes of routes
	config Config
	resolv []netip.AddrPort
	said   string          // what ResolvConf said last
	told   map[string]bool // problems of the configuration that have been logged
}

// New makes a Forwarder, which answers at once. Run keeps it up to date.
func New(o Options, c Config) *Forwarder {
	o.setDefaults()
	f := &Forwarder{
		opts: o, limits: o.limits(), net: sockets{}, start: time.Now(),
		cache: newCache(o.CacheBytes, uint32(o.PrefetchHits), o.MaxStale),
		wake:  make(chan struct{}, 1), told: map[string]bool{},
	}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	f.routes.Store(newRoutes(nil, nil))
	f.config = c
	if !f.reload() {
		f.setMu.Lock()
		f.applyLocked()
		f.setMu.Unlock()
	}
	return f
}

// Run follows ResolvConf and looks for loops until ctx is done, then ends whatever is under way.
func (f *Forwarder) Run(ctx context.Context) error {
	var keepers sync.WaitGroup
	keepers.Go(func() { f.watchResolvConf(ctx) })
	keepers.Go(func() { f.watchLoops(ctx) })
	keepers.Wait()
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.cancel()
	f.running.Wait()
	return nil
}

// goRun runs do, unless Run has ended.
func (f *Forwarder) goRun(do func()) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.running.Go(do)
	return true
}

func (f *Forwarder) now() time.Duration { return time.Since(f.start) }

// sleep waits, and is false if Run ended meanwhile.
func (f *Forwarder) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-f.ctx.Done():
		return false
	}
}

// waiter is a client that waits for an answer.
type waiter struct {
	query []byte
	reply func([]byte)
}

// Forward answers query, from the cache before it returns, or else from an upstream. ctx, client
// and tcp make no difference: a question is asked once for all clients, and answered in full.
func (f *Forwarder) Forward(_ context.Context, query []byte, _ netip.AddrPort, _ bool, reply func(response []byte)) {
	var q question
	if !q.parse(query) {
		return
	}
	if rcode := f.refuses(&q); rcode != rcodeSuccess {
		reply(appendError(make([]byte, 0, q.end+optLen), query, &q, rcode))
		return
	}
	s := f.cache.shard(q.bytes())
	s.mu.Lock()
	e, ttl := f.useLocked(s, &q)
	if e == nil {
		e, ttl = f.joinLocked(s, &q, waiter{query, reply})
		if e == nil {
			s.mu.Unlock()
			return
		}
	}
	s.mu.Unlock()
	reply(appendAnswer(make([]byte, 0, answerLen(&q, e)), query, &q, e, ttl))
}

// AppendCached appends the answer to query to dst if the cache has it, and else reports false:
// then Forward will ask. It allocates nothing but room in dst. The answer is not cut to any size.
func (f *Forwarder) AppendCached(dst, query []byte) (answer []byte, ok bool) {
	var q question
	if !q.parse(query) {
		return dst, false
	}
	s := f.cache.shard(q.bytes())
	s.mu.Lock()
	e, ttl := f.useLocked(s, &q)
	s.mu.Unlock()
	if e == nil {
		return dst, false
	}
	return appendAnswer(dst, query, &q, e, ttl), true
}

// refuses returns the rcode for what is not forwarded: zone transfers and other questions that are
// not for data, and the question by which we look for loops, come back.
func (f *Forwarder) refuses(q *question) byte {
	if t := q.qtype(); t == typeOPT || t >= 249 && t < typeANY {
		return rcodeRefused
	}
	if nonce := nonceOf(q.lower()); nonce != nil {
		if m := f.routes.Load().nonces[string(nonce)]; m != nil {
			f.loops(m)
			return rcodeRefused
		}
	}
	return rcodeSuccess
}

// useLocked returns what the cache has for q and the TTL to say, or nil.
func (f *Forwarder) useLocked(s *shard, q *question) (*entry, uint32) {
	now := f.now()
	e, state := f.cache.findLocked(s, q.bytes(), now)
	switch state {
	case fresh:
		s.hitLocked(e)
		return e, e.remaining(now)
	case ageing:
		s.hitLocked(e)
		f.prefetchLocked(s, q, e)
		return e, e.remaining(now)
	case old:
		s.hitLocked(e)
		return e, f.staleLocked(s, 1)
	}
	return nil, 0
}

// remaining is what is left of e's time, in whole seconds begun.
func (e *entry) remaining(now time.Duration) uint32 {
	return uint32((e.expires - now + time.Second - 1) / time.Second)
}

// staleLocked counts n clients that are given what is stale, and returns the TTL to say.
func (f *Forwarder) staleLocked(s *shard, n int) uint32 {
	s.stats.ServedStale += uint64(n)
	return uint32(f.opts.StaleTTL / time.Second)
}

// prefetchLocked asks again for e, for which nobody waits, unless upstreams are busy.
func (f *Forwarder) prefetchLocked(s *shard, q *question, e *entry) {
	e.refreshing = true
	if s.flights[e.key] == nil && f.outstanding.Load() < int64(f.opts.MaxOutstanding/2) && f.takeOffLocked(s, q, e) != nil {
		s.stats.Prefetches++
	}
}

// joinLocked lets w wait for the upstream's answer to q. If that is not possible, or what is stale
// will do, it returns what to tell w at once.
func (f *Forwarder) joinLocked(s *shard, q *question, w waiter) (*entry, uint32) {
	s.stats.Misses++
	stale, _ := f.cache.findLocked(s, q.bytes(), f.now())
	fl := s.flights[string(q.bytes())]
	if fl != nil {
		s.stats.Joined++
	}
	if f.waiting.Add(1) <= int64(f.opts.MaxWaiting) {
		if fl == nil {
			fl = f.takeOffLocked(s, q, stale)
		}
		if fl != nil {
			fl.waiters = append(fl.waiters, w)
			return nil, 0
		}
	}
	f.waiting.Add(-1)
	f.rejected.Add(1)
	if stale != nil {
		return stale, f.staleLocked(s, 1)
	}
	return failed(q, rcodeServFail, f.limits), 0
}

// Lookup asks for a name, from the cache or an upstream, and returns the whole answer.
func (f *Forwarder) Lookup(ctx context.Context, name string, qtype uint16) ([]byte, error) {
	m := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
	query, err := m.Pack()
	if err != nil {
		return nil, fmt.Errorf("look up %q: %w", name, err)
	}
	answer := make(chan []byte, 1)
	f.Forward(ctx, query, netip.AddrPort{}, true, func(response []byte) { answer <- response })
	select {
	case response := <-answer:
		return response, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("look up %q: %w", name, ctx.Err())
	}
}

// Set replaces the configuration. Answers of names that have other upstreams now are forgotten.
func (f *Forwarder) Set(c Config) {
	f.setMu.Lock()
	defer f.setMu.Unlock()
	f.config = c
	f.applyLocked()
}

func (f *Forwarder) applyLocked() {
	byDomain := map[string][]netip.AddrPort{}
	upstreams := f.config.Upstreams
	if len(upstreams) == 0 {
		upstreams = f.resolv
	}
	byDomain["\x00"] = f.othersLocked(upstreams)
	for domain, addrs := range f.config.StubDomains {
		wire, err := wireDomain(domain)
		if err != nil {
			f.tellLocked("A stub domain is left out", "domain", domain, "err", err.Error())
			continue
		}
		byDomain[string(wire)] = f.othersLocked(addrs)
	}
	if len(byDomain["\x00"]) == 0 {
		f.tellLocked("There is no upstream: names outside the cluster are answered with SERVFAIL", "file", f.opts.ResolvConf)
	}
	before := f.routes.Load()
	r := newRoutes(before, byDomain)
	f.routes.Store(r)
	for a, u := range before.servers {
		if r.servers[a] == nil {
			u.retire()
		}
	}
	f.cache.purge(func(key string) bool { return r.moved(before, []byte(key[:len(key)-5])) })
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// othersLocked returns addrs without those at which we listen ourselves.
func (f *Forwarder) othersLocked(addrs []netip.AddrPort) []netip.AddrPort {
	var others []netip.AddrPort
	for _, a := range addrs {
		if isOurs(a, f.opts.Listen) {
			f.tellLocked("An upstream is left out: we listen there ourselves", "upstream", a.String())
			continue
		}
		others = append(others, a)
	}
	return others
}

// tellLocked logs a problem of the configuration, once.
func (f *Forwarder) tellLocked(msg string, keysAndValues ...any) {
	id := fmt.Sprint(msg, keysAndValues)
	if !f.told[id] {
		f.told[id] = true
		f.opts.Logger.Info(msg, keysAndValues...)
	}
}

// Stats returns the counters. It takes some microseconds.
func (f *Forwarder) Stats() Stats {
	st := Stats{
		Cache: f.cache.stats(), Rejected: f.rejected.Load(), AllDown: f.allDown.Load(),
		ProbesFailed: f.probesFailed.Load(), Mismatched: f.mismatched.Load(), Outstanding: int(f.outstanding.Load()),
	}
	r := f.routes.Load()
	st.UpstreamsKnown = len(r.servers)
	for _, u := range r.servers {
		if u.isDown() {
			st.UpstreamsDown++
		}
	}
	for _, m := range r.nonces {
		if m.loops.Load() {
			st.UpstreamsLoop++
		}
	}
	return st
}

// Healthy returns nil if some upstream can be asked for names outside all stub domains.
func (f *Forwarder) Healthy() error {
	var why []string
	for _, m := range f.routes.Load().groups["\x00"].members {
		switch {
		case m.loops.Load():
			why = append(why, m.addr.String()+" leads back to us")
		case m.isDown():
			why = append(why, m.addr.String()+" does not answer")
		default:
			return nil
		}
	}
	if len(why) == 0 {
		return errors.New("no upstream")
	}
	return errors.New("no upstream answers: " + strings.Join(why, ", "))
}
