package conntrack

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/weir-project/weir/dataplane"
)

// batchSize is how many deletions are sent at once. The refusals of all of them fit into the
// receive buffer even where it cannot be made larger.
const batchSize = 128

// maxTries is how often a dump is begun that the kernel says is incomplete.
const maxTries = 5

// Config says where the table is and what is done with it. The zero value serves the caller's own
// network namespace and UDP.
type Config struct {
	NetNS int // file descriptor of the network namespace; 0 is the caller's own
	// ResetTCP admits jobs for TCP frontends: connections to endpoints that are gone are reset.
	// It needs CAP_NET_RAW.
	ResetTCP bool
}

// Conn removes entries from the conntrack table of one network namespace. Its methods may be
// called from any goroutine; one Clean runs at a time.
type Conn struct {
	cfg Config

	mu    sync.Mutex // guards what follows
	table *socket    // for dumps
	write *socket    // for deletions, which go on while a dump is being heard
	poke  *poker     // nil without ResetTCP
	doom  batch
}

// Count counts entries by family.
type Count struct{ IPv4, IPv6 int }

func (c *Count) add(family uint8) {
	if family == unix.AF_INET {
		c.IPv4++
	} else {
		c.IPv6++
	}
}

// Result says what one Clean has done.
type Result struct {
	Dumps   int   // of the table, repetitions included
	Read    int   // entries that the kernel brought
	Deleted Count // entries removed
	Reset   Count // those of them that were TCP connections, whose clients were told
	Odd     int   // entries that could not be read and were left alone
}

// Open opens the sockets. It changes nothing.
func Open(cfg Config) (*Conn, error) {
	c := &Conn{cfg: cfg}
	var err error
	if c.table, err = dial(cfg.NetNS); err == nil {
		c.write, err = dial(cfg.NetNS)
	}
	if err == nil && cfg.ResetTCP {
		c.poke, err = openPoker(cfg.NetNS)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open conntrack: %w", err), c.Close())
	}
	return c, nil
}

// Close closes the sockets.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, s := range []*socket{c.table, c.write} {
		if s != nil {
			errs = append(errs, s.close())
		}
	}
	if c.poke != nil {
		errs = append(errs, c.poke.close())
	}
	return errors.Join(errs...)
}

// Wants reports whether jobs for frontends of this protocol are acted on.
func (c *Conn) Wants(p dataplane.Protocol) bool { return wanted(p, c.cfg.ResetTCP) }

// Clean removes the stale flows of the frontends in jobs, and no others. The rules must have
// changed before: what is removed is made anew by the flow's next packet, by the rules of then.
// The result is true also beside an error.
func (c *Conn) Clean(ctx context.Context, jobs []Job) (Result, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var r Result
	p := newPlan(jobs, c.cfg.ResetTCP)
	if len(p.targets) == 0 {
		return r, nil
	}
	size, err := c.write.size(ctx)
	if err != nil {
		return r, fmt.Errorf("ask conntrack how many flows there are: %w", err)
	}
	for _, s := range p.scans(size) {
		if err := c.scan(ctx, p, s, &r); err != nil {
			return r, fmt.Errorf("clean conntrack of %s: %w", s, err)
		}
	}
	return r, nil
}

// scan does one dump and removes what is stale in it.
func (c *Conn) scan(ctx context.Context, p *plan, s scan, r *Result) error {
	for try := 1; ; try++ {
		r.Dumps++
		err := c.pass(ctx, p, s, r)
		if try == maxTries || !again(err) {
			return err
		}
	}
}

// again reports whether a dump that ended so is worth another try.
func again(err error) bool {
	for _, e := range []error{errAgain, unix.EINTR, unix.EAGAIN, unix.EBUSY, unix.ENOBUFS} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func (c *Conn) pass(ctx context.Context, p *plan, s scan, r *Result) error {
	c.table.out.reset()
	c.table.out.dump(s)
	err := c.walk(ctx, p, r)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		// Not the filter this kernel knows. What comes is judged in full anyway.
		r.Dumps++
		c.table.out.reset()
		c.table.out.dump(scan{})
		err = c.walk(ctx, p, r)
	}
	return err
}

// walk hears the dump that has been requested. Stale entries are removed in the midst of it, a
// batch at a time, so that what is held does not grow with the table.
func (c *Conn) walk(ctx context.Context, p *plan, r *Result) error {
	var e entry
	var failed error
	c.doom.n = 0
	err := c.table.list(ctx, func(body []byte) {
		r.Read++
		switch {
		case e.decode(body) != nil:
			r.Odd++
		case p.stale(&e):
			if c.doom.add(&e); c.doom.full() {
				failed = errors.Join(failed, c.remove(ctx, p, r))
			}
		}
	})
	return errors.Join(failed, c.remove(ctx, p, r), err)
}

// remove deletes the entries of the batch. One that is gone already, or that is now another flow's, is
// no error and is not counted.
func (c *Conn) remove(ctx context.Context, p *plan, r *Result) error {
	b := &c.doom
	defer func() { b.n = 0 }()
	p.spare(b)
	out := &c.write.out
	out.reset()
	first := out.seq + 1
	for i := range b.n {
		var flags uint16
		if i == b.n-1 {
			flags = unix.NLM_F_ACK
		}
		if err := out.remove(&b.doomed[i].key, flags); err != nil {
			return err
		}
		b.gone[i] = true
	}
	if b.n == 0 {
		return nil
	}
	var failed error
	err := c.write.batch(ctx, first, func(i int, errno syscall.Errno) {
		b.gone[i] = false
		if errno != unix.ENOENT && failed == nil {
			failed = fmt.Errorf("delete the conntrack entry from %v to %v: %w", b.doomed[i].src, b.doomed[i].dst, errno)
		}
	})
	if err != nil {
		return fmt.Errorf("delete conntrack entries: %w", err)
	}
	for i := range b.n {
		if d := &b.doomed[i]; b.gone[i] {
			r.Deleted.add(d.key.family)
			if d.waiting && c.poke != nil && c.poke.poke(d.src, d.dst) == nil {
				r.Reset.add(d.key.family)
			}
		}
	}
	return failed
}

// batch holds entries that are to be removed.
type batch struct {
	n      int
	doomed [batchSize]doomed
	gone   [batchSize]bool // whether the kernel has removed it
}

func (b *batch) full() bool { return b.n == batchSize }

func (b *batch) add(e *entry) {
	b.doomed[b.n] = doomed{key: e.key, tuple: e.orig, endpoint: e.reply.src, waiting: e.orig.proto == protoTCP && tcpWaits(e.tcpState)}
	b.n++
}

// doomed is an entry that is to be removed.
type doomed struct {
	key
	tuple
	endpoint netip.AddrPort
	waiting  bool // a TCP connection whose client must be told
}
