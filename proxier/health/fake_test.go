package health

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// fakeListener takes no connections. It can be made to fail.
type fakeListener struct {
	once sync.Once
	end  chan struct{}
	err  error
}

func newFakeListener() *fakeListener { return &fakeListener{end: make(chan struct{})} }

func (l *fakeListener) Accept() (net.Conn, error) { <-l.end; return nil, l.err }
func (l *fakeListener) Addr() net.Addr            { return &net.TCPAddr{} }
func (l *fakeListener) Close() error              { return l.fail(net.ErrClosed) }
func (l *fakeListener) fail(err error) error {
	l.once.Do(func() { l.err = err; close(l.end) })
	return nil
}

var errTaken = errors.New("address already in use")

// fakePorts is a host on which ports can be taken by others. Like the kernel's, a port is free as soon
// as its listener is closed.
type fakePorts struct {
	mu       sync.Mutex
	taken    map[uint16]bool
	attempts []time.Duration // since began
	began    time.Time
	open     map[netip.AddrPort]*fakeListener
}

func newFakePorts() *fakePorts {
	return &fakePorts{taken: map[uint16]bool{}, began: time.Now(), open: map[netip.AddrPort]*fakeListener{}}
}

func (f *fakePorts) listen(_ context.Context, a netip.Addr, port uint16) (net.Listener, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.attempts = append(f.attempts, time.Since(f.began))
	if f.taken[port] {
		return nil, errTaken
	}
	for held, l := range f.open {
		select {
		case <-l.end:
			delete(f.open, held)
			continue
		default:
		}
		if held.Port() == port && (held.Addr() == a || held.Addr() == all || a == all) {
			return nil, errTaken
		}
	}
	l := newFakeListener()
	f.open[netip.AddrPortFrom(a, port)] = l
	return l, nil
}

func (f *fakePorts) take(port uint16, taken bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.taken[port] = taken
}

// listener returns who listens, nil: nobody.
func (f *fakePorts) listener(a netip.Addr, port uint16) *fakeListener {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.open[netip.AddrPortFrom(a, port)]
	if l == nil {
		return nil
	}
	select {
	case <-l.end:
		return nil
	default:
		return l
	}
}

// start runs something until the end of a test, or until the function that it returns is called.
func start(t *testing.T, run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}
