package netlab

import (
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// LoadConfig describes a load of new connections.
//
// Every connection comes from another source port, in turn through the some 50,000 that a host has, and
// is closed with RST, so that no port waits in TIME_WAIT at either end. At 2,500 connections a second
// a port comes back after 20 s, when conntrack (10 s for a connection that was reset) has forgotten it.
// At higher rates, and with UDP (30 s, 120 s for a flow that went on), give several Sources: for the
// rest of its time an entry sends its port to the endpoint of before.
type LoadConfig struct {
	Proto    Protocol // default TCP; not SCTP
	Dst      netip.AddrPort
	Rate     int           // new connections a second; default 2,000
	Duration time.Duration // 0: until Stop
	Max      int           // attempts; 0: no bound
	Timeout  time.Duration // of one exchange; default 3 s, which leaves TCP one retransmission of its SYN
	MaxOpen  int           // exchanges at once; default 4,096. Few make a load that gives way on a busy machine

	Sources []netip.Addr // to connect from, in turn; default: what the kernel chooses

	// WantSources are the sources that endpoints may see. Empty: only the one connected from.
	WantSources []netip.Addr
	// WantBy are the endpoints that may answer. Empty: any.
	WantBy []netip.AddrPort
}

// LoadReport is what became of a load. Attempts = OK + Failed + BadSource + BadEndpoint.
type LoadReport struct {
	Attempts, OK int
	Failed       int
	BadSource    int // answered, but the endpoint saw a source that it should not
	BadEndpoint  int // answered by an endpoint that should not

	// Held counts attempts that were due but never made, because this machine had no time for them or
	// MaxOpen exchanges were waiting already.
	Held int

	By       map[netip.AddrPort]int // how often each endpoint answered
	Failures []Failure              // the first of everything that was not OK

	Elapsed       time.Duration
	P50, P99, Max time.Duration // latency of a whole exchange, within 3 %
}

// Failure is one attempt that went wrong.
type Failure struct {
	After  time.Duration // since the start of the load
	Took   time.Duration
	Source netip.AddrPort // as connected from; the address may be unspecified
	Err    error
}

func (f Failure) String() string {
	return fmt.Sprintf("at %s from %s, after %s: %v", f.After.Round(time.Millisecond), f.Source, f.Took.Round(time.Millisecond), f.Err)
}

// Rate is the number of attempts a second.
func (r LoadReport) Rate() float64 { return float64(r.Attempts) / r.Elapsed.Seconds() }

func (r LoadReport) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d attempts in %s (%.0f/s): %d OK, %d failed, %d with a wrong source, %d by a wrong endpoint, %d held; latency p50 %s p99 %s max %s",
		r.Attempts, r.Elapsed.Round(time.Millisecond), r.Rate(), r.OK, r.Failed, r.BadSource, r.BadEndpoint, r.Held, r.P50, r.P99, r.Max)
	for _, f := range r.Failures {
		fmt.Fprintf(&b, "\n\t%s", f)
	}
	return b.String()
}

const (
	maxFailures = 20 // that a report quotes
	maxBehind   = time.Second
)

// Load is a load that is running.
type Load struct {
	cfg    LoadConfig
	host   *Host
	start  time.Time
	stop   chan struct{}
	once   sync.Once
	done   chan struct{}
	open   atomic.Int64
	latest atomic.Int64 // attempts so far

	mu     sync.Mutex // guards the following
	report LoadReport
	hist   histogram
}

// StartLoad begins to make new connections at a steady rate.
func (h *Host) StartLoad(cfg LoadConfig) (*Load, error) {
	if cfg.Proto == 0 {
		cfg.Proto = TCP
	}
	if cfg.Proto != TCP && cfg.Proto != UDP {
		return nil, fmt.Errorf("no load for protocol %s", cfg.Proto)
	}
	if cfg.Rate == 0 {
		cfg.Rate = 2000
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 3 * time.Second
	}
	if cfg.MaxOpen == 0 {
		cfg.MaxOpen = 4096
	}
	l := &Load{cfg: cfg, host: h, start: time.Now(), stop: make(chan struct{}), done: make(chan struct{})}
	l.report.By = make(map[netip.AddrPort]int)
	entered := make(chan error, 1)
	// The pacer stands in the host, so that it makes the sockets without asking anybody.
	spawn(func() {
		defer close(l.done)
		err := h.ns.enter()
		entered <- err
		if err == nil {
			l.pace()
		}
	})
	if err := <-entered; err != nil {
		return nil, err
	}
	if !h.own(l) {
		_ = l.Close()
		return nil, os.ErrClosed
	}
	return l, nil
}

// Load makes new connections at a steady rate for cfg.Duration or cfg.Max attempts.
func (h *Host) Load(cfg LoadConfig) (LoadReport, error) {
	if cfg.Duration == 0 && cfg.Max == 0 {
		return LoadReport{}, errors.New("load without an end")
	}
	l, err := h.StartLoad(cfg)
	if err != nil {
		return LoadReport{}, err
	}
	return l.Wait(), nil
}

// Attempts is the number of attempts so far.
func (l *Load) Attempts() int { return int(l.latest.Load()) }

// Stop ends the load, waits for the exchanges under way, and reports.
func (l *Load) Stop() LoadReport {
	l.once.Do(func() { close(l.stop) })
	return l.Wait()
}

// Close is Stop for those who do not care about the report.
func (l *Load) Close() error {
	l.Stop()
	return nil
}

// Wait waits until the load has come to its end, and reports.
func (l *Load) Wait() LoadReport {
	<-l.done
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.report
	r.P50, r.P99, r.Max = l.hist.quantile(0.50), l.hist.quantile(0.99), l.hist.max
	return r
}

// pace makes what is due, every millisecond.
func (l *Load) pace() {
	var exchanges sync.WaitGroup
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	made, held := 0, 0
	for !l.ended(made) {
		select {
		case <-tick.C:
		case <-l.stop:
		}
		due := int(time.Since(l.start).Seconds()*float64(l.cfg.Rate)) - made - held
		// After a pause of this machine, catching up without bound would be a flood, not a rate.
		if bound := int(maxBehind.Seconds() * float64(l.cfg.Rate)); due > bound {
			held += due - bound
			due = bound
		}
		for ; due > 0 && !l.ended(made); due-- {
			if l.open.Load() >= int64(l.cfg.MaxOpen) {
				held += due
				break
			}
			l.attempt(made, &exchanges)
			made++
			l.latest.Store(int64(made))
		}
	}
	elapsed := time.Since(l.start)
	if l.cfg.Max == 0 || made < l.cfg.Max {
		held = max(0, int(elapsed.Seconds()*float64(l.cfg.Rate))-made)
	}
	exchanges.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.report.Attempts, l.report.Held, l.report.Elapsed = made, held, elapsed
}

func (l *Load) ended(made int) bool {
	select {
	case <-l.stop:
		return true
	default:
	}
	return l.cfg.Max > 0 && made >= l.cfg.Max || l.cfg.Duration > 0 && time.Since(l.start) >= l.cfg.Duration
}

// attempt begins one exchange. It runs on the pacer's thread, within the host.
func (l *Load) attempt(n int, exchanges *sync.WaitGroup) {
	var source netip.Addr
	if len(l.cfg.Sources) > 0 {
		source = l.cfg.Sources[n%len(l.cfg.Sources)]
	}
	began := time.Now()
	s, err := l.host.openHere(l.cfg.Proto, l.cfg.Dst, source, 0)
	if err != nil {
		l.count(began, netip.AddrPort{}, Reply{}, err)
		return
	}
	l.open.Add(1)
	exchanges.Go(func() {
		defer l.open.Add(-1)
		reply, err := s.ask(began.Add(l.cfg.Timeout))
		local := s.local()
		s.close()
		l.count(began, local, reply, err)
	})
}

var (
	errBadSource   = errors.New("wrong source")
	errBadEndpoint = errors.New("wrong endpoint")
)

// count enters one attempt into the report.
func (l *Load) count(began time.Time, local netip.AddrPort, reply Reply, err error) {
	took := time.Since(began)
	l.mu.Lock()
	defer l.mu.Unlock()
	r := &l.report
	if err != nil {
		r.Failed++
	} else {
		l.hist.add(took)
		r.By[reply.By]++
		switch err = l.judge(local, reply); {
		case err == nil:
			r.OK++
			return
		case errors.Is(err, errBadSource):
			r.BadSource++
		default:
			r.BadEndpoint++
		}
	}
	if len(r.Failures) < maxFailures {
		r.Failures = append(r.Failures, Failure{After: began.Sub(l.start), Took: took, Source: local, Err: err})
	}
}

func (l *Load) judge(local netip.AddrPort, reply Reply) error {
	if len(l.cfg.WantBy) > 0 && !slices.Contains(l.cfg.WantBy, reply.By) {
		return fmt.Errorf("%w: %s", errBadEndpoint, reply.By)
	}
	seen := reply.Source.Addr()
	if len(l.cfg.WantSources) == 0 && seen != local.Addr() || len(l.cfg.WantSources) > 0 && !slices.Contains(l.cfg.WantSources, seen) {
		return fmt.Errorf("%w: %s saw %s", errBadSource, reply.By, reply.Source)
	}
	return nil
}

// histogram counts durations in buckets of 1/32 of a power of two of nanoseconds: within 3 %.
type histogram struct {
	counts [64 * 32]uint32
	n      int
	max    time.Duration
}

func (h *histogram) add(d time.Duration) {
	h.counts[bucket(uint64(max(d, 1)))]++
	h.n++
	h.max = max(h.max, d)
}

func bucket(ns uint64) int {
	exp := bits.Len64(ns) - 1
	if exp < 5 {
		return int(ns)
	}
	return (exp-4)*32 + int(ns>>(exp-5)&31)
}

func (h *histogram) quantile(q float64) time.Duration {
	rank := int(q * float64(h.n))
	for i, c := range h.counts {
		if rank -= int(c); rank < 0 {
			if i < 32 {
				return time.Duration(i)
			}
			return time.Duration((32 + uint64(i%32)) << (i/32 - 1))
		}
	}
	return h.max
}
