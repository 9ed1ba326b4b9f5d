package forward

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// fakeNet is a network whose upstreams answer after a delay, for tests under a fake clock.
type fakeNet struct {
	mu     sync.Mutex
	answer func(to netip.AddrPort, m *dns.Msg) ([]string, int, error) // records, rcode
	delay  time.Duration
	asked  atomic.Int64 // without probes
	probed atomic.Int64
	begun  []time.Time
}

func (n *fakeNet) set(delay time.Duration, answer func(netip.AddrPort, *dns.Msg) ([]string, int, error)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.delay, n.answer = delay, answer
}

func (n *fakeNet) udp(ctx context.Context, to netip.AddrPort, query []byte, accept func([]byte) error) ([]byte, error) {
	b, err := n.tcp(ctx, to, query)
	if err == nil {
		err = accept(b)
	}
	return b, err
}

func (n *fakeNet) tcp(ctx context.Context, to netip.AddrPort, query []byte) ([]byte, error) {
	var m dns.Msg
	if err := m.Unpack(query); err != nil {
		return nil, err
	}
	n.mu.Lock()
	answer, delay := n.answer, n.delay
	switch name := m.Question[0].Name; {
	case name == ".":
		n.probed.Add(1)
	case strings.Contains(strings.ToLower(name), noncePrefix):
		answer, delay = nx, 0
	default:
		n.asked.Add(1)
		n.begun = append(n.begun, time.Now())
	}
	n.mu.Unlock()
	select {
	case <-time.After(delay):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	records, rcode, err := answer(to, &m)
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			<-ctx.Done()
		}
		return nil, err
	}
	r := new(dns.Msg).SetRcode(&m, rcode)
	for _, s := range records {
		rr := mustRR(s)
		if rr.Header().Rrtype == dns.TypeSOA {
			r.Ns = append(r.Ns, rr)
		} else {
			rr.Header().Name = m.Question[0].Name
			r.Answer = append(r.Answer, rr)
		}
	}
	return r.Pack()
}

func fixed(rcode int, records ...string) func(netip.AddrPort, *dns.Msg) ([]string, int, error) {
	return func(netip.AddrPort, *dns.Msg) ([]string, int, error) { return records, rcode, nil }
}

func broken(err error) func(netip.AddrPort, *dns.Msg) ([]string, int, error) {
	return func(netip.AddrPort, *dns.Msg) ([]string, int, error) { return nil, 0, err }
}

var (
	nx   = fixed(3)
	lost = broken(context.DeadlineExceeded)
	gone = broken(errors.New("connection refused"))
)

func up(n int) (c Config) {
	for i := range n {
		c.Upstreams = append(c.Upstreams, netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), 53))
	}
	return c
}

// inTime runs a test under a fake clock and network.
func inTime(t *testing.T, o Options, c Config, test func(t *testing.T, f *Forwarder, n *fakeNet)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := &fakeNet{answer: fixed(0, "x. 60 A 192.0.2.1"), delay: 10 * time.Millisecond}
		f := New(o, c)
		f.net = n
		runs(t, f)
		test(t, f, n)
	})
}

const name = "www.example.org."

func ask(t *testing.T, f *Forwarder) string {
	t.Helper()
	return lookup(t, f, name, dns.TypeA)
}

func TestTTLCountsDown(t *testing.T) {
	inTime(t, Options{}, up(1), func(t *testing.T, f *Forwarder, n *fakeNet) {
		for _, s := range []struct {
			wait time.Duration
			want string
		}{
			{0, "NOERROR, 60 A 192.0.2.1"},
			{500 * time.Millisecond, "NOERROR, 60 A 192.0.2.1"},
			{29500 * time.Millisecond, "NOERROR, 30 A 192.0.2.1"},
			{29 * time.Second, "NOERROR, 1 A 192.0.2.1"},
		} {
			time.Sleep(s.wait)
			want(t, ask(t, f), s.want)
		}
		time.Sleep(time.Second)
		want(t, ask(t, f), "NOERROR, 60 A 192.0.2.1")
	})
}

func TestNegativeTTL(t *testing.T) {
	for _, tc := range []struct {
		name string
		soa  string
		kept time.Duration
	}{
		{"minimum", "org. 300 SOA a. b. 1 2 3 4 20", 20 * time.Second},
		{"TTL of the SOA", "org. 10 SOA a. b. 1 2 3 4 20", 10 * time.Second},
		{"bounded", "org. 3000 SOA a. b. 1 2 3 4 3000", 30 * time.Second},
	} {
		for _, rcode := range []int{0, 3} {
			t.Run(fmt.Sprint(tc.name, "/", dns.RcodeToString[rcode]), func(t *testing.T) {
				inTime(t, Options{PrefetchHits: -1}, up(1), func(t *testing.T, f *Forwarder, n *fakeNet) {
					n.set(0, fixed(rcode, tc.soa))
					ask(t, f)
					time.Sleep(tc.kept - time.Millisecond)
					ask(t, f)
					if got := n.asked.Load(); got != 1 {
						t.Errorf("asked %d times before the end", got)
					}
					time.Sleep(2 * time.Millisecond)
					ask(t, f)
					if got := n.asked.Load(); got != 2 {
						t.Errorf("asked %d times after the end", got)
					}
				})
			})
		}
	}
}

// A popular answer is fetched before its end, once, and nobody waits for it. Another is not.
func TestPrefetch(t *testing.T) {
	inTime(t, Options{}, up(1), func(t *testing.T, f *Forwarder, n *fakeNet) {
		n.set(time.Second, fixed(0, "x. 60 A 192.0.2.1"))
		ask(t, f)
		for range 3 {
			ask(t, f)
		}
		n.set(time.Second, fixed(0, "x. 60 A 192.0.2.2"))
		time.Sleep(55 * time.Second)
		begin := time.Now()
		for range 10 {
			want(t, ask(t, f), "NOERROR, 5 A 192.0.2.1")
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("clients waited %v", took)
		}
		time.Sleep(1100 * time.Millisecond)
		want(t, ask(t, f), "NOERROR, 60 A 192.0.2.2")
		if got := n.asked.Load(); got != 2 {
			t.Errorf("asked %d times, want 2", got)
		}
		if st := f.Stats().Cache; st.Prefetches != 1 {
			t.Errorf("%+v", st)
		}
		time.Sleep(58 * time.Second)
		want(t, ask(t, f), "NOERROR, 2 A 192.0.2.2")
		time.Sleep(time.Second)
		if got := n.asked.Load(); got != 2 {
			t.Errorf("an answer that few have used was fetched early")
		}
	})
}

// A prefetch that fails takes nothing away.
func TestPrefetchFails(t *testing.T) {
	inTime(t, Options{}, up(1), func(t *testing.T, f *Forwarder, n *fakeNet) {
		for range 4 {
			ask(t, f)
		}
		n.set(0, fixed(2))
		time.Sleep(56 * time.Second)
		want(t, ask(t, f), "NOERROR, 4 A 192.0.2.1")
		time.Sleep(time.Second)
		want(t, ask(t, f), "NOERROR, 3 A 192.0.2.1")
	})
}

func TestServeStale(t *testing.T) {
	for _, tc := range []struct {
		name    string
		delay   time.Duration
		failing func(netip.AddrPort, *dns.Msg) ([]string, int, error)
		waits   time.Duration // at most
	}{
		{"SERVFAIL", 0, fixed(2), 0},
		{"REFUSED", 0, fixed(5), 0},
		{"gone", 0, gone, 0},
		{"silent", 0, lost, 1800 * time.Millisecond},
		{"slow", time.Minute, fixed(0), 1800 * time.Millisecond},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inTime(t, Options{}, up(2), func(t *testing.T, f *Forwarder, n *fakeNet) {
				ask(t, f)
				n.set(tc.delay, tc.failing)
				time.Sleep(2 * time.Minute)
				begin := time.Now()
				want(t, ask(t, f), "NOERROR, 5 A 192.0.2.1")
				if took := time.Since(begin); took != tc.waits {
					t.Errorf("waited %v, want %v", took, tc.waits)
				}
				before, begin := n.asked.Load(), time.Now()
				for range 10 {
					want(t, ask(t, f), "NOERROR, 5 A 192.0.2.1")
				}
				if n.asked.Load() != before || time.Since(begin) != 0 {
					t.Error("upstreams are asked again at once")
				}
				n.set(0, fixed(0, "x. 60 A 192.0.2.9"))
				time.Sleep(10 * time.Second)
				if got := ask(t, f); !strings.HasSuffix(got, " A 192.0.2.9") {
					t.Errorf("answer is %q after upstreams have recovered", got)
				}
			})
		})
	}
}

// A stale answer is used for so long and no longer; nor is a failure stuck then.
func TestStaleEnds(t *testing.T) {
	inTime(t, Options{MaxStale: 10 * time.Minute}, up(1), func(t *testing.T, f *Forwarder, n *fakeNet) {
		ask(t, f)
		n.set(0, fixed(2))
		time.Sleep(time.Minute + 9*time.Minute)
		want(t, ask(t, f), "NOERROR, 5 A 192.0.2.1")
		time.Sleep(2 * time.Minute)
		want(t, ask(t, f), "SERVFAIL")
		n.set(0, fixed(0, "x. 60 A 192.0.2.9"))
		time.Sleep(1001 * time.Millisecond)
		want(t, ask(t, f), "NOERROR, 60 A 192.0.2.9")
	})
}

// A failure is remembered for a second: any number of clients are one question, and the first
// question after it brings the answer.
func TestFailureIsBrief(t *testing.T) {
	for _, failing := range []func(netip.AddrPort, *dns.Msg) ([]string, int, error){fixed(2), fixed(5), gone} {
		inTime(t, Options{}, up(1), func(t *testing.T, f *Forwarder, n *fakeNet) {
			n.set(0, failing)
			first := ask(t, f)
			before := n.asked.Load()
			time.Sleep(999 * time.Millisecond)
			want(t, ask(t, f), first)
			if n.asked.Load() != before {
				t.Error("asked again within the second")
			}
			n.set(0, fixed(0, "x. 60 A 192.0.2.9"))
			time.Sleep(2 * time.Millisecond)
			want(t, ask(t, f), "NOERROR, 60 A 192.0.2.9")
		})
	}
}

// Without any answer the client hears SERVFAIL before it gives up itself.
func TestDeadline(t *testing.T) {
	for _, count := range []int{1, 2, 5} {
		inTime(t, Options{}, up(count), func(t *testing.T, f *Forwarder, n *fakeNet) {
			n.set(0, lost)
			begin := time.Now()
			want(t, ask(t, f), "SERVFAIL")
			if took := time.Since(begin); took != 4500*time.Millisecond {
				t.Errorf("%d upstreams: took %v", count, took)
			}
			// 4: at the very end another may begin.
			if got, want := n.asked.Load(), int64(min(3, 2*count)); got != want && got != 4 {
				t.Errorf("%d upstreams: %d questions, want %d", count, got, want)
			}
		})
	}
}

// One silent upstream of two costs one wait for the first questions, then nothing.
func TestSilentUpstreamIsLearnt(t *testing.T) {
	inTime(t, Options{}, up(2), func(t *testing.T, f *Forwarder, n *fakeNet) {
		dead := up(1).Upstreams[0]
		n.set(0, func(to netip.AddrPort, m *dns.Msg) ([]string, int, error) {
			if to == dead {
				return nil, 0, context.DeadlineExceeded
			}
			return []string{"x. 60 A 192.0.2.1"}, 0, nil
		})
		var waited time.Duration
		for i := range 100 {
			begin := time.Now()
			want(t, lookup(t, f, fmt.Sprintf("n%d.example.", i), dns.TypeA), "NOERROR, 60 A 192.0.2.1")
			waited += time.Since(begin)
		}
		if waited != 2*1500*time.Millisecond {
			t.Errorf("100 questions waited %v, want twice 1.5 s", waited)
		}
		time.Sleep(time.Minute)
		if p := n.probed.Load(); p < 8 || p > 20 {
			t.Errorf("%d probes in a minute", p)
		}
		n.set(0, fixed(0, "x. 60 A 192.0.2.2"))
		time.Sleep(6100 * time.Millisecond)
		if st := f.Stats(); st.UpstreamsDown != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// While everything is down each question is still tried: recovery needs no probe.
func TestAllDown(t *testing.T) {
	inTime(t, Options{}, up(2), func(t *testing.T, f *Forwarder, n *fakeNet) {
		n.set(0, gone)
		ask(t, f)
		if st := f.Stats(); st.UpstreamsDown != 2 {
			t.Fatalf("%+v", st)
		}
		if f.Healthy() == nil {
			t.Error("healthy")
		}
		n.set(0, fixed(0, "x. 60 A 192.0.2.2"))
		want(t, lookup(t, f, "other.example.", dns.TypeA), "NOERROR, 60 A 192.0.2.2")
		if st := f.Stats(); st.AllDown == 0 || st.UpstreamsDown != 1 {
			t.Errorf("%+v", st)
		}
		if err := f.Healthy(); err != nil {
			t.Error(err)
		}
	})
}

// An answer that comes while the upstreams change is given, and not kept.
func TestAnswerOfFormerUpstream(t *testing.T) {
	inTime(t, Options{}, up(1), func(t *testing.T, f *Forwarder, n *fakeNet) {
		n.set(time.Second, fixed(0, "x. 60 A 192.0.2.1"))
		var wg sync.WaitGroup
		wg.Go(func() { want(t, ask(t, f), "NOERROR, 60 A 192.0.2.1") })
		synctest.Wait()
		f.Set(Config{Upstreams: up(2).Upstreams[1:]})
		n.set(time.Second, fixed(0, "x. 60 A 192.0.2.2"))
		want(t, ask(t, f), "NOERROR, 60 A 192.0.2.2")
		wg.Wait()
		want(t, ask(t, f), "NOERROR, 60 A 192.0.2.2")
	})
}

func TestWaitingIsBounded(t *testing.T) {
	inTime(t, Options{MaxWaiting: 5}, up(1), func(t *testing.T, f *Forwarder, n *fakeNet) {
		n.set(time.Second, fixed(0, "x. 60 A 192.0.2.1"))
		var wg sync.WaitGroup
		var ok, failed atomic.Int64
		for range 8 {
			wg.Go(func() {
				if strings.HasPrefix(ask(t, f), "NOERROR") {
					ok.Add(1)
				} else {
					failed.Add(1)
				}
			})
		}
		wg.Wait()
		if ok.Load() != 5 || failed.Load() != 3 {
			t.Errorf("%d answered and %d refused, want 5 and 3", ok.Load(), failed.Load())
		}
	})
}

// While nobody more can be asked for, what is stale is better than nothing.
func TestStaleBeyondTheBound(t *testing.T) {
	inTime(t, Options{MaxOutstanding: 1}, up(1), func(t *testing.T, f *Forwarder, n *fakeNet) {
		ask(t, f)
		time.Sleep(2 * time.Minute)
		n.set(time.Second, fixed(0, "x. 60 A 192.0.2.2"))
		var wg sync.WaitGroup
		wg.Go(func() { lookup(t, f, "other.example.", dns.TypeA) })
		synctest.Wait()
		want(t, ask(t, f), "NOERROR, 5 A 192.0.2.1")
		wg.Wait()
		want(t, ask(t, f), "NOERROR, 60 A 192.0.2.2")
	})
}

// A popular answer whose refresh hangs at its end is still given, stale, without waiting for long.
func TestPrefetchHangs(t *testing.T) {
	inTime(t, Options{}, up(1), func(t *testing.T, f *Forwarder, n *fakeNet) {
		for range 5 {
			ask(t, f)
		}
		n.set(0, lost)
		time.Sleep(59 * time.Second)
		ask(t, f) // begins the refresh
		time.Sleep(1100 * time.Millisecond)
		begin := time.Now()
		want(t, ask(t, f), "NOERROR, 5 A 192.0.2.1")
		if took := time.Since(begin); took > 700*time.Millisecond {
			t.Errorf("waited %v", took)
		}
	})
}

// watcher is an Observer that counts.
type watcher struct {
	mu          sync.Mutex
	done        map[string]int
	downs, back int
}

func (w *watcher) UpstreamDone(to netip.AddrPort, tcp bool, took time.Duration, rcode int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done[fmt.Sprint(to, " ", tcp, " ", took, " ", rcode, " ", err != nil)]++
}

func (w *watcher) UpstreamDown(_ netip.AddrPort, down bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if down {
		w.downs++
	} else {
		w.back++
	}
}

func TestObserver(t *testing.T) {
	w := &watcher{done: map[string]int{}}
	inTime(t, Options{Observer: w}, up(1), func(t *testing.T, f *Forwarder, n *fakeNet) {
		ask(t, f)
		ask(t, f)
		n.set(0, gone)
		lookup(t, f, "other.example.", dns.TypeA)
		n.set(0, nx)
		time.Sleep(time.Second)
		lookup(t, f, "third.example.", dns.TypeA)
		synctest.Wait()
		want(t, fmt.Sprint(w.done), "map[192.0.2.1:53 false 0s -1 true:2 192.0.2.1:53 false 0s 3 false:1 192.0.2.1:53 false 10ms 0 false:1]")
		if w.downs != 1 || w.back != 1 {
			t.Errorf("%d times down, %d times back", w.downs, w.back)
		}
		if st := f.Stats().Cache; st.Misses != 3 || st.HitsSuccess != 1 || st.EntriesSuccess != 1 || st.EntriesDenial != 1 || st.Bytes == 0 {
			t.Errorf("%+v", st)
		}
	})
}
