package dataplane

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// Config says where the tables are and what their rules depend on.
type Config struct {
	Layout Layout
	// NetNS is a file descriptor of the network namespace; 0 is the caller's own.
	NetNS int
	// NoIPv6 leaves the IPv6 table out.
	NoIPv6 bool
	// Shared leaves the tables without an owner, as on kernels before 6.9. Who has the right may
	// then change them; Watch notices.
	Shared bool
	// Sent is told of every transaction that the kernel took and that added or deleted elements: how long
	// that was, and how many. It is called with the Conn locked, and must not use it. Nil: nobody.
	Sent func(took time.Duration, elements int)
}

// Conn writes the tables of one network namespace. It is their only writer, and its methods may
// be called from any goroutine.
type Conn struct {
	cfg      Config
	families []*family
	leases   leases
	flags    uint32 // of tables: owner and persist, where the kernel has them
	destroy  bool   // the kernel can delete elements that need not be there (6.3)

	mu    sync.Mutex
	sock  *socket
	lock  int // file descriptor, see lockNamespace
	state [2]tableState
	gen   uint32 // generation of the ruleset that our last write made
	stats Stats
	spare []byte // the buffer for the next batch
}

// tableState is what we know of a family's table.
type tableState struct {
	name   string // "": not looked for yet, or lost
	handle uint64
	use    uint32 // chains, sets and the like, as the kernel counts them
	added  added  // since the table was made
}

// Stats counts what has been sent since Open.
type Stats struct {
	Transactions uint64
	Elements     uint64 // added or deleted
	Bytes        uint64
	Refused      uint64 // transactions
	Rebuilt      uint64 // tables built although there had been ours before: someone removed them
}

// Open takes the lock of the network namespace and finds out which families the kernel has. It writes
// nothing that stays. Its errors say what to do. What else the kernel may lack, the first Replace says.
func Open(ctx context.Context, cfg Config) (*Conn, error) {
	sock, err := dial(cfg.NetNS)
	if err != nil {
		return nil, err
	}
	c := &Conn{cfg: cfg, sock: sock, lock: -1}
	if err := c.open(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Conn) open(ctx context.Context) (err error) {
	if c.lock, err = lockNamespace(c.cfg.NetNS); err != nil {
		return err
	}
	if err := c.probe(ctx); err != nil {
		return err
	}
	c.gen, err = c.generation()
	return err
}

// Close lets the tables go; they stay in the kernel. Where tables have owners, anybody may change
// them from now on.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.sock.close()
	if c.lock >= 0 {
		err = errors.Join(err, unix.Close(c.lock))
		c.lock = -1
	}
	return err
}

// Families returns which of "ip" and "ip6" the kernel has.
func (c *Conn) Families() []string {
	var names []string
	for _, f := range c.families {
		names = append(names, f.name)
	}
	return names
}

// Owned reports whether the kernel protects the tables from other writers.
func (c *Conn) Owned() bool { return c.flags != 0 }

// forgetUnbacked adds the deletion of the affinity entries whose endpoint will be in no slot of
// their frontend, or whose frontend will have no affinity: it went while nobody looked.
func (c *Conn) forgetUnbacked(b *batch, fam *family, first, rest iter.Seq[Op]) error {
	entries, err := c.elements(fam, c.state[fam.number()].name, Affinity, 0)
	if err != nil || len(entries) == 0 {
		return err
	}
	type backing struct {
		affine bool
		slots  map[netip.AddrPort]bool
	}
	frontends := map[Frontend]*backing{}
	for _, e := range entries {
		frontends[e.Frontend] = &backing{slots: map[netip.AddrPort]bool{}}
	}
	for _, seq := range []iter.Seq[Op]{first, rest} {
		for op := range seq {
			switch f := frontends[op.Elem.Frontend]; {
			case f == nil:
			case op.Set == AffinityOf:
				f.affine = true
			case op.Set == Endpoints || op.Set == LocalEndpoints:
				f.slots[op.Elem.Endpoint] = true
			}
		}
	}
	b.destroy = c.destroy
	defer func() { b.closeList(); b.destroy = false }()
	for _, e := range entries {
		if f := frontends[e.Frontend]; !f.affine || !f.slots[e.Endpoint] {
			if err := b.add(&Op{Delete: true, Set: Affinity, Elem: e}); err != nil {
				return err
			}
		}
	}
	return nil
}

// SetLayout says what the rules shall be from now on, and reports whether that differs. If so, a
// Replace is due: it hands over from the old rules to the new.
func (c *Conn) SetLayout(l Layout) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed := false
	for _, f := range c.families {
		changed = changed || l.fingerprint(f) != c.cfg.Layout.fingerprint(f)
	}
	c.cfg.Layout = l
	return changed
}

// Layout returns what the rules are, or are about to be.
func (c *Conn) Layout() Layout {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cfg.Layout
}

// Stats returns the counts so far.
func (c *Conn) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}

func (c *Conn) has(f *family) bool {
	for _, g := range c.families {
		if f == g {
			return true
		}
	}
	return false
}

// Apply sends ops as one transaction: the kernel takes all of it or none. Within ops, deletions
// come before additions. Elements of a family that the kernel does not have are left out.
//
// A *RefusedError says that nothing has changed, and on whose account. ErrStale, or any other
// error, says that only a Replace can put things right.
func (c *Conn) Apply(ctx context.Context, ops []Op) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, f := range c.families {
		if c.state[f.number()].name == "" {
			return ErrStale
		}
	}
	var err error
	for range forgetTries {
		var b *batch
		if b, err = c.encode(ops, true); err == nil {
			err = c.commit(b)
		}
		if !c.forgotten(err) {
			return err
		}
	}
	// Entries expire faster than we can name them. The others must not wait for that.
	b, err := c.encode(ops, false)
	if err != nil {
		return err
	}
	return c.commit(b)
}

// encode makes a transaction of ops, with or without the deletion of affinity entries.
func (c *Conn) encode(ops []Op, forget bool) (*batch, error) {
	b := c.newBatch()
	for _, fam := range c.families {
		if err := c.forget(b, fam, ops, forget); err != nil {
			return nil, err
		}
	}
	for i := range ops {
		op := &ops[i]
		if op.Set == Affinity || op.check() == nil && !c.has(op.family()) {
			continue
		}
		if err := b.add(op); err != nil {
			return nil, invalid(op, err)
		}
	}
	return b, nil
}

// commit sends a batch and, if the kernel takes it, remembers what it brought.
func (c *Conn) commit(b *batch) error {
	defer c.recycle(b)
	if b.empty() {
		return nil
	}
	b.finish()
	c.stats.Transactions++
	c.stats.Bytes += uint64(len(b.b))
	start := time.Now()
	err := c.transact(b)
	if err != nil {
		c.stats.Refused++
		return err
	}
	if c.cfg.Sent != nil && b.elements > 0 {
		c.cfg.Sent(time.Since(start), b.elements)
	}
	c.gen = nextGeneration(c.gen)
	c.stats.Elements += uint64(b.elements)
	for i := range c.state {
		st, more := &c.state[i], b.added[i]
		st.added = st.added.with(more)
		st.use += uint32(len(more.timeouts) + len(more.classes)) // a set for each, or a chain
	}
	return nil
}

func (c *Conn) transact(b *batch) error {
	if len(b.b) > c.sock.maxSend {
		return c.transactParts(b)
	}
	acked, nacks, err := c.sock.transact(b.b, b.seq-1) // the message before the batch's end
	if err != nil {
		return err
	}
	return b.outcome(acked, nacks)
}

// transactParts sends a batch that is larger than the socket's buffer as several transactions.
// That happens only where the buffer cannot be forced: in a user namespace, without CAP_NET_ADMIN
// in the first one.
func (c *Conn) transactParts(b *batch) error {
	begin, rest := b.b[:nlmsgHeader+nfgenHeader], b.b[nlmsgHeader+nfgenHeader:]
	for len(rest) > nlmsgHeader+nfgenHeader { // the batch end stays over
		var part messages
		part.b = append(part.b, begin...)
		part.seq = b.seq
		n, lastAt := 0, 0
		for n < len(rest)-(nlmsgHeader+nfgenHeader) {
			size := int(uint32At(rest[n:]))
			if n > 0 && len(begin)+n+size > c.sock.maxSend-1024 {
				break
			}
			lastAt, n = len(begin)+n, n+size
		}
		part.b = append(part.b, rest[:n]...)
		part.start = lastAt
		part.requestAck()
		last := uint32At(part.b[lastAt+8:])
		part.batchEnd()
		acked, nacks, err := c.sock.transact(part.b, last)
		if err == nil {
			err = b.outcome(acked, nacks)
		}
		if err != nil {
			return err
		}
		c.gen = nextGeneration(c.gen)
		rest = rest[n:]
	}
	c.gen-- // commit counts the last part
	return nil
}

// forgetTries is how often a transaction is sent again because an affinity entry expired between
// its being listed and being deleted. From kernel 6.3 on that is no error.
const forgetTries = 3

// forgotten reports whether a transaction was refused for nothing but an affinity entry that was
// gone already.
func (c *Conn) forgotten(err error) bool {
	var refused *RefusedError
	return errors.As(err, &refused) && refused.expired
}

// forget adds the deletion of the affinity entries of a family that ops describe. All of them are
// listed to find those, which costs about 10 µs per entry of the family.
func (c *Conn) forget(b *batch, fam *family, ops []Op, really bool) error {
	type wish struct {
		endpoint netip.AddrPort // zero: any
		owner    uint32
	}
	wishes := map[Frontend][]wish{}
	for i := range ops {
		if op := &ops[i]; op.Set == Affinity && op.address().IsValid() && op.family() == fam {
			wishes[op.Elem.Frontend] = append(wishes[op.Elem.Frontend], wish{op.Elem.Endpoint, op.Owner})
		}
	}
	if len(wishes) == 0 || !really {
		return nil
	}
	entries, err := c.elements(fam, c.state[fam.number()].name, Affinity, 0)
	if err != nil {
		return fmt.Errorf("list the affinity entries: %w", err)
	}
	b.destroy = c.destroy
	defer func() { b.closeList(); b.destroy = false }()
	for _, e := range entries {
		for _, w := range wishes[e.Frontend] {
			if w.endpoint.IsValid() && w.endpoint != e.Endpoint {
				continue
			}
			if err := b.add(&Op{Delete: true, Set: Affinity, Elem: e, Owner: w.owner}); err != nil {
				return err
			}
			break
		}
	}
	return nil
}

// Replace makes the maps hold exactly what first and rest add, and nothing else; affinity entries
// stay. The sequences hold additions only, may be iterated more than once and must give the same
// each time.
//
// Without tables of ours it builds them: first, which is what must be served before everything
// else, comes with them in one transaction; rest follows in chunks, endpoints before verdicts. A
// table of the same layout is adopted and filled anew in one transaction. A table of another
// layout serves on until its successor under a second name is complete.
//
// After an error, Replace must be called again before anything else.
func (c *Conn) Replace(ctx context.Context, first, rest iter.Seq[Op]) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.families {
		if err := c.replaceFamily(ctx, f, first, rest); err != nil {
			return err
		}
	}
	return nil
}

func (c *Conn) replaceFamily(ctx context.Context, fam *family, first, rest iter.Seq[Op]) error {
	logger := klog.FromContext(ctx)
	st := &c.state[fam.number()]
	had := st.name != ""
	current, old, err := c.findTables(fam)
	if err != nil {
		return err
	}
	*st = tableState{}
	switch {
	case current != nil:
		logger.V(2).Info("Adopting the table of an earlier process", "family", fam.name, "table", current.name)
		if err = c.adopt(fam, current); err == nil {
			err = c.refill(fam, first, rest)
		}
		if err == nil {
			err = c.carryLeases(fam, true)
		}
	default:
		name := Table
		if len(old) > 0 && old[0].name == Table {
			name = otherTable
			logger.Info("The table's layout changes: building the new one beside the old", "family", fam.name, "table", name)
		}
		if had {
			c.stats.Rebuilt++
			logger.Info("The table is gone: somebody removed it. Building it anew", "family", fam.name, "table", name)
		}
		err = c.build(ctx, fam, name, first, rest)
	}
	if err != nil {
		st.name = "" // what it holds is not known
		return fmt.Errorf("fill table %s %s: %w", fam.name, Table, err)
	}
	for _, t := range old {
		if err := c.retire(fam, t); err != nil {
			return err
		}
	}
	return nil
}

// chunk is about how many elements a transaction holds while a new table is filled.
const chunk = 5000

// build makes a new table and fills it. No frontend is visible without its endpoints: verdicts
// come last, in one transaction, since the kernel validates the table for each transaction that
// has any.
func (c *Conn) build(ctx context.Context, fam *family, name string, first, rest iter.Seq[Op]) error {
	st := &c.state[fam.number()]
	st.name = name
	b := c.newBatch()
	chains := c.cfg.Layout.firstChains(fam)
	appendTable(&b.messages, fam, &c.cfg.Layout, name, c.flags, chains)
	if err := b.addAll(fam, first); err != nil {
		return err
	}
	b.closeList()
	appendRules(&b.messages, fam, name, chains)
	if err := c.commit(b); err != nil {
		return c.findMissing(fam, err)
	}
	if err := errors.Join(c.refreshTable(fam), c.carryLeases(fam, true)); err != nil {
		return err
	}
	b = c.newBatch()
	verdicts := &batch{state: &c.state} // and what else makes a frontend visible
	verdicts.batchBegin()
	var op Op // outside the loop, or each would be allocated
	for op = range rest {
		if !b.wants(&op, fam) {
			continue
		}
		full, visible := b.elements >= chunk, false
		switch op.Set {
		case Services, LocalServices:
			// Its chain comes before the endpoints of most others: what looks into a map later makes the
			// kernel look at every element that is there.
			full = b.needClass(fam, st, op.Elem.Verdict) || full
			visible = true
		case ClusterIPs, ServiceCIDRs:
			visible = true
		}
		if full {
			if err := errors.Join(ctx.Err(), c.commit(b), c.carryLeases(fam, false)); err != nil {
				return err
			}
			b = c.newBatch()
		}
		to := b
		if visible {
			to = verdicts
		}
		if err := to.add(&op); err != nil {
			return invalid(&op, err)
		}
	}
	if err := c.commit(b); err != nil {
		return err
	}
	return c.commit(verdicts)
}

// addAll adds those of ops that are of a family.
func (b *batch) addAll(fam *family, ops iter.Seq[Op]) error {
	var op Op
	for op = range ops {
		if !b.wants(&op, fam) {
			continue
		}
		if err := b.add(&op); err != nil {
			return invalid(&op, err)
		}
	}
	return nil
}

// refill fills the adopted table anew, in one transaction. Maps are flushed and filled; interval
// sets are changed by difference, since a lookup in them can miss in the middle of a transaction.
// Affinity entries stay if their endpoints do.
func (c *Conn) refill(fam *family, first, rest iter.Seq[Op]) error {
	var err error
	for try := range forgetTries + 1 {
		if err = c.refillOnce(fam, first, rest, try < forgetTries); !c.forgotten(err) {
			break
		}
	}
	return err
}

func (c *Conn) refillOnce(fam *family, first, rest iter.Seq[Op], forget bool) error {
	st := &c.state[fam.number()]
	intervals := map[Set]map[Element]bool{}
	b := c.newBatch()
	for s := range numSets {
		switch {
		case s == Affinity:
		case s == AffinityOf:
			for timeout := range st.added.timeouts {
				appendFlush(&b.messages, fam, st.name, setName(s, timeout))
			}
		case schemas[s].interval():
			elements, err := c.elements(fam, st.name, s, 0)
			if err != nil {
				return err
			}
			intervals[s] = map[Element]bool{}
			for _, e := range elements {
				intervals[s][e] = true
			}
		default:
			appendFlush(&b.messages, fam, st.name, s.String())
		}
	}
	if c.cfg.Layout.has(fam, dnsAlive) && !c.leases.any() {
		appendFlush(&b.messages, fam, st.name, dnsAlive.String()) // of a process that was killed
	}
	stays := staying(intervals, first, rest)
	if forget {
		if err := c.forgetUnbacked(b, fam, first, rest); err != nil {
			return err
		}
	}
	for s, held := range intervals {
		for e := range held {
			if !stays[s][e] {
				if err := b.add(&Op{Delete: true, Set: s, Elem: e}); err != nil {
					return err
				}
			}
		}
	}
	for _, seq := range []iter.Seq[Op]{first, rest} {
		var op Op
		for op = range seq {
			if !b.wants(&op, fam) || schemas[op.Set].interval() && stays[op.Set][op.Elem] {
				continue
			}
			if err := b.add(&op); err != nil {
				return invalid(&op, err)
			}
		}
	}
	return c.commit(b)
}

// staying finds which of the elements of interval sets are among ops, so that the others can be deleted before
// anything is added. It looks no further than to the last of them: usually there are service CIDRs
// only, and they come first.
func staying(held map[Set]map[Element]bool, ops ...iter.Seq[Op]) map[Set]map[Element]bool {
	stays, missing := map[Set]map[Element]bool{}, 0
	for s, elements := range held {
		stays[s] = map[Element]bool{}
		missing += len(elements)
	}
	for _, seq := range ops {
		if missing == 0 {
			break
		}
		for op := range seq {
			if held[op.Set][op.Elem] && !stays[op.Set][op.Elem] {
				stays[op.Set][op.Elem] = true
				missing--
			}
			if missing == 0 {
				break
			}
		}
	}
	return stays
}
