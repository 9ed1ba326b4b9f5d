package node

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"
)

// Socket is an address at which queries are answered over one protocol.
type Socket struct {
	Addr netip.AddrPort
	TCP  bool
}

// Protocol returns "udp" or "tcp".
func (s Socket) Protocol() string {
	if s.TCP {
		return "tcp"
	}
	return "udp"
}

// Leases is what sends packets to a socket of ours. Its calls may wait for one another.
type Leases interface {
	// Renew has the leases of sockets last for d from now.
	Renew(ctx context.Context, sockets []Socket, d time.Duration) error
	// Release ends the leases of sockets, of which there need be none.
	Release(ctx context.Context, sockets []Socket) error
}

// Config says what a Keeper works with.
type Config struct {
	Addrs  []netip.AddrPort
	Leases Leases
	// Serving reports whether there is anybody to answer.
	Serving func() bool
	// Probe asks a socket a question, and returns why there was no answer. It returns when ctx ends.
	Probe func(ctx context.Context, s Socket) error
	// Address sees to it that an address is on this node.
	Address func(netip.Addr) error

	Interval time.Duration // from one look to the next. 0: 0.5 s
	Lease    time.Duration // 0: 2 s
}

// Keeper keeps the leases of a server's sockets. Its methods may be called from any goroutine.
type Keeper struct {
	cfg     Config
	sockets []Socket
	wake    chan struct{}

	mu     sync.Mutex
	status map[Socket]Status
}

// Status is how a socket is doing.
type Status struct {
	Until    time.Time // when the lease ends; zero: there is none
	Renewals uint64
	Failures uint64 // looks after which there was no renewal, once there had been somebody to answer
	Err      error  // of the last look; nil: the lease was renewed
}

// errNotServing says that the server does not listen yet.
var errNotServing = problem("names are not served yet")

type problem string

func (p problem) Error() string { return string(p) }

// NewKeeper returns a keeper of the sockets of a server at addresses.
func NewKeeper(c Config) *Keeper {
	if c.Interval <= 0 {
		c.Interval = 500 * time.Millisecond
	}
	if c.Lease <= 0 {
		c.Lease = 2 * time.Second
	}
	k := &Keeper{cfg: c, wake: make(chan struct{}, 1), status: map[Socket]Status{}}
	for _, a := range c.Addrs {
		k.sockets = append(k.sockets, Socket{Addr: a}, Socket{Addr: a, TCP: true})
	}
	for _, s := range k.sockets {
		k.status[s] = Status{Err: errNotServing}
	}
	return k
}

// Wake has the keeper look at once: the server may have begun, or an address have gone.
func (k *Keeper) Wake() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// Status returns how each socket is doing.
func (k *Keeper) Status() map[Socket]Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := make(map[Socket]Status, len(k.status))
	for s, st := range k.status {
		all[s] = st
	}
	return all
}

// Err returns nil if every socket has its lease, and otherwise why one has none.
func (k *Keeper) Err() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range k.sockets {
		st := k.status[s]
		switch {
		case st.Err != nil && time.Until(st.Until) <= 0:
			return st.Err
		case time.Until(st.Until) <= 0:
			return problem("the lease has ended")
		}
	}
	return nil
}

// Run keeps the leases until ctx ends, and then ends them: when it returns, new packets go elsewhere.
// It fails if it could not end them, and then returns only when they have run out.
func (k *Keeper) Run(ctx context.Context) error {
	tick := time.NewTicker(k.cfg.Interval)
	defer tick.Stop()
	for {
		k.look(ctx)
		select {
		case <-tick.C:
		case <-k.wake:
		case <-ctx.Done():
			return k.release(context.WithoutCancel(ctx))
		}
	}
}

// release ends all leases.
func (k *Keeper) release(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, k.cfg.Lease)
	defer cancel()
	err := k.cfg.Leases.Release(ctx, k.sockets)
	var last time.Time
	k.mu.Lock()
	for s, st := range k.status {
		if st.Until.After(last) {
			last = st.Until
		}
		k.status[s] = Status{Renewals: st.Renewals, Failures: st.Failures, Err: errNotServing}
	}
	k.mu.Unlock()
	if err != nil && !last.IsZero() {
		time.Sleep(time.Until(last))
	}
	return err
}

// look probes every socket, and renews the leases of those that answer.
func (k *Keeper) look(ctx context.Context) {
	if !k.cfg.Serving() {
		k.note(ctx, k.sockets, func(Socket) error { return errNotServing }, time.Time{})
		return
	}
	errs := k.probe(ctx)
	var answer []Socket
	for i, s := range k.sockets {
		if errs[i] == nil {
			answer = append(answer, s)
		}
	}
	if ctx.Err() != nil {
		return
	}
	until := time.Now().Add(k.cfg.Lease)
	if len(answer) > 0 {
		if err := k.cfg.Leases.Renew(ctx, answer, k.cfg.Lease); err != nil {
			for i := range errs {
				if errs[i] == nil {
					errs[i] = err
				}
			}
		}
	}
	k.note(ctx, k.sockets, func(s Socket) error { return errs[slices.Index(k.sockets, s)] }, until)
}

// probe asks every socket at the same time, for as long as may be without letting a lease end.
func (k *Keeper) probe(ctx context.Context) []error {
	ctx, cancel := context.WithTimeout(ctx, k.cfg.Lease/2)
	defer cancel()
	errs := make([]error, len(k.sockets))
	var asked sync.WaitGroup
	for i, s := range k.sockets {
		asked.Go(func() {
			if errs[i] = k.cfg.Address(s.Addr.Addr()); errs[i] == nil {
				errs[i] = k.cfg.Probe(ctx, s)
			}
		})
	}
	asked.Wait()
	return errs
}

// note remembers how a look went, and logs where that is news.
func (k *Keeper) note(ctx context.Context, sockets []Socket, errOf func(Socket) error, until time.Time) {
	logger := klog.FromContext(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range sockets {
		st, err := k.status[s], errOf(s)
		began := err == nil && st.Err != nil
		failed := err != nil && (st.Err == nil || st.Err == errNotServing && err != errNotServing)
		switch st.Err = err; {
		case err == nil:
			st.Until = until
			st.Renewals++
		case err != errNotServing || failed:
			st.Failures++
		}
		k.status[s] = st
		switch {
		case began:
			logger.Info("Clients of this node are answered here", "address", s.Addr, "protocol", s.Protocol())
		case failed:
			logger.Error(err, "Clients of this node are sent elsewhere", "address", s.Addr, "protocol", s.Protocol())
		}
	}
}
