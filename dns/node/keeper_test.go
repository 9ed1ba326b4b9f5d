package node

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var testAddrs = []netip.AddrPort{netip.MustParseAddrPort("10.96.0.10:53"), netip.MustParseAddrPort("[fd00:10:96::a]:53")}

// kernel holds leases as the kernel does.
type kernel struct {
	mu     sync.Mutex
	until  map[Socket]time.Time
	refuse error
	writes int
}

func (k *kernel) Renew(_ context.Context, sockets []Socket, d time.Duration) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.writes++
	if k.refuse != nil {
		return k.refuse
	}
	for _, s := range sockets {
		k.until[s] = time.Now().Add(d)
	}
	return nil
}

func (k *kernel) Release(_ context.Context, sockets []Socket) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.refuse != nil {
		return k.refuse
	}
	for _, s := range sockets {
		delete(k.until, s)
	}
	return nil
}

func (k *kernel) held() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := 0
	for _, until := range k.until {
		if time.Now().Before(until) {
			n++
		}
	}
	return n
}

// server is what a keeper probes.
type server struct {
	mu      sync.Mutex
	serving bool
	hung    map[Socket]bool // does not answer
	missing error           // why the address is not there
}

func (s *server) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *server) probe(ctx context.Context, at Socket) error {
	s.mu.Lock()
	hung := s.hung[at]
	s.mu.Unlock()
	if !hung {
		time.Sleep(time.Millisecond)
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

// keep runs a keeper in a bubble.
func keep(t *testing.T, f func(t *testing.T, k *Keeper, kern *kernel, s *server, stop func() error)) {
	synctest.Test(t, func(t *testing.T) {
		kern, s := &kernel{until: map[Socket]time.Time{}}, &server{hung: map[Socket]bool{}}
		k := NewKeeper(Config{Addrs: testAddrs, Leases: kern, Probe: s.probe,
			Serving: func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.serving },
			Address: func(netip.Addr) error { s.mu.Lock(); defer s.mu.Unlock(); return s.missing }})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- k.Run(ctx) }()
		stopped := false
		stop := func() error { stopped = true; cancel(); return <-done }
		f(t, k, kern, s, stop)
		if !stopped {
			_ = stop()
		}
	})
}

func TestKeeperWaitsForTheServer(t *testing.T) {
	keep(t, func(t *testing.T, k *Keeper, kern *kernel, s *server, _ func() error) {
		time.Sleep(10 * time.Second)
		if kern.writes > 0 || k.Err() == nil {
			t.Errorf("%d writes, %v, before there is a server", kern.writes, k.Err())
		}
		s.set(func() { s.serving = true })
		k.Wake()
		time.Sleep(10 * time.Millisecond)
		if kern.held() != 4 || k.Err() != nil {
			t.Errorf("%d leases right after the server began, %v", kern.held(), k.Err())
		}
		for range 100 {
			time.Sleep(100 * time.Millisecond)
			if kern.held() != 4 {
				t.Fatalf("%d leases", kern.held())
			}
		}
		if got := kern.writes; got < 19 || got > 22 {
			t.Errorf("%d renewals in 10 s, want one every 0.5 s", got)
		}
	})
}

func TestKeeperLetsGo(t *testing.T) {
	udp := Socket{Addr: testAddrs[0]}
	refused := errors.New("refused")
	for _, test := range []struct {
		name  string
		wrong func(*kernel, *server)
		right func(*kernel, *server)
		left  int // leases
	}{
		{"one socket does not answer", func(_ *kernel, s *server) { s.hung[udp] = true }, func(_ *kernel, s *server) { delete(s.hung, udp) }, 3},
		{"the address is gone", func(_ *kernel, s *server) { s.missing = refused }, func(_ *kernel, s *server) { s.missing = nil }, 0},
		{"the server ended", func(_ *kernel, s *server) { s.serving = false }, func(_ *kernel, s *server) { s.serving = true }, 0},
		{"the kernel refuses", func(k *kernel, _ *server) { k.refuse = refused }, func(k *kernel, _ *server) { k.refuse = nil }, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			keep(t, func(t *testing.T, k *Keeper, kern *kernel, s *server, _ func() error) {
				s.set(func() { s.serving = true })
				time.Sleep(time.Second)
				s.set(func() { kern.mu.Lock(); defer kern.mu.Unlock(); test.wrong(kern, s) })
				time.Sleep(2500 * time.Millisecond)
				if kern.held() != test.left || k.Err() == nil {
					t.Errorf("%d leases, %v; want %d and an error", kern.held(), k.Err(), test.left)
				}
				if st := k.Status()[udp]; st.Err == nil || st.Failures == 0 && test.name != "the server ended" {
					t.Errorf("status %+v", st)
				}
				s.set(func() { kern.mu.Lock(); defer kern.mu.Unlock(); test.right(kern, s) })
				time.Sleep(1600 * time.Millisecond) // a probe's patience, and a look
				if kern.held() != 4 || k.Err() != nil {
					t.Errorf("%d leases afterwards, %v", kern.held(), k.Err())
				}
			})
		})
	}
}

// TestKeeperStops ends the leases before Run returns, or waits until they have ended by themselves.
func TestKeeperStops(t *testing.T) {
	for name, refuse := range map[string]error{"released": nil, "run out": errors.New("refused")} {
		t.Run(name, func(t *testing.T) {
			keep(t, func(t *testing.T, k *Keeper, kern *kernel, s *server, stop func() error) {
				s.set(func() { s.serving = true })
				time.Sleep(time.Second)
				kern.mu.Lock()
				kern.refuse = refuse
				kern.mu.Unlock()
				began := time.Now()
				if err := stop(); !errors.Is(err, refuse) {
					t.Errorf("Run = %v, want %v", err, refuse)
				}
				if kern.held() != 0 || k.Err() == nil {
					t.Errorf("%d leases after Run, %v", kern.held(), k.Err())
				}
				if took := time.Since(began); (took > time.Second) != (refuse != nil) {
					t.Errorf("Run took %v to return", took)
				}
			})
		})
	}
}
