package dataplanetest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/weir-project/weir/dataplane"
)

// Kernel holds the maps as nftables would. The zero value is a kernel without tables, where only
// Replace works, as with a fresh Conn. Its methods may be called concurrently.
type Kernel struct {
	// Chunk is the number of operations in a transaction that fills a new table. 0: 5000. It is
	// set beforehand.
	Chunk int

	// mu guards everything below.
	mu       sync.Mutex
	refuse   func(dataplane.Op) error
	before   func([]dataplane.Op) error
	watched  bool
	here     bool // the tables exist and hold what was written
	sets     [lastSet + 1]map[dataplane.Element]dataplane.Element
	undo     []undo
	batches  []Batch
	faults   []string
	replaces int
}

// Refuse has f asked about every operation; what it returns is the kernel's reason to refuse it.
// Nil: nothing is refused without cause.
func (k *Kernel) Refuse(f func(dataplane.Op) error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refuse = f
}

// Before has f called before each transaction with what it holds, nil for a Replace. It may
// sleep. An error is returned as it is, and nothing changes.
func (k *Kernel) Before(f func([]dataplane.Op) error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.before = f
}

// Watch has the invariants checked after every transaction; Err tells. It costs a walk over the
// maps each time.
func (k *Kernel) Watch() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.watched = true
}

// check notes what may not be: after a transaction of several, only what may never be.
func (k *Kernel) check(complete bool) {
	check := Dump.CheckSlots
	if complete {
		check = Dump.Check
	}
	if err := check(k.dumpLocked()); err != nil {
		k.fault("after a transaction: %v", err)
	}
}

// Batch is what one call of Apply, or one transaction of Replace, was asked to do.
type Batch struct {
	At      time.Time
	Ops     []dataplane.Op // nil for a Replace
	Count   int
	Replace bool
	Err     error
}

// undo restores what stood under a key.
type undo struct {
	set      dataplane.Set
	key, old dataplane.Element
	had      bool
}

// key returns the part of an element by which the kernel finds it.
func key(set dataplane.Set, e dataplane.Element) dataplane.Element {
	e.Verdict, e.Comment = 0, ""
	if set != dataplane.Affinity {
		e.Endpoint = netip.AddrPort{}
	}
	return e
}

// Apply takes ops as one transaction, whole or not at all.
func (k *Kernel) Apply(ctx context.Context, ops []dataplane.Op) error {
	if err := k.enter(ctx, ops, false); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	err := k.applyLocked(ops)
	k.batches = append(k.batches, Batch{At: time.Now(), Ops: slices.Clone(ops), Count: len(ops), Err: err})
	return err
}

// enter is what happens before a transaction, without the lock, because the hook may take long.
func (k *Kernel) enter(ctx context.Context, ops []dataplane.Op, replace bool) error {
	k.mu.Lock()
	before := k.before
	k.mu.Unlock()
	if before != nil {
		if err := before(ops); err != nil {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.batches = append(k.batches, Batch{At: time.Now(), Ops: slices.Clone(ops), Count: len(ops), Replace: replace, Err: err})
			return err
		}
	}
	return ctx.Err()
}

func (k *Kernel) applyLocked(ops []dataplane.Op) error {
	if !k.here {
		return dataplane.ErrStale
	}
	if i := slices.IndexFunc(ops, func(o dataplane.Op) bool { return !o.Delete }); i >= 0 {
		if slices.ContainsFunc(ops[i:], func(o dataplane.Op) bool { return o.Delete }) {
			k.fault("a deletion after an addition")
		}
	}
	return k.transactLocked(slices.Values(ops), true)
}

// fault notes a breach of the contract for which there is no error.
func (k *Kernel) fault(format string, args ...any) {
	k.faults = append(k.faults, fmt.Sprintf(format, args...))
}

// transactLocked does all of ops or, if any of them is refused, none.
func (k *Kernel) transactLocked(ops iter.Seq[dataplane.Op], complete bool) error {
	k.undo = k.undo[:0]
	var refused dataplane.RefusedError
	for op := range ops {
		err := k.do(op)
		if err == nil {
			continue
		}
		if refused.Err == nil {
			refused.Err = err
		}
		if !slices.ContainsFunc(refused.Refusals, func(r dataplane.Refusal) bool { return r.Owner == op.Owner }) {
			refused.Refusals = append(refused.Refusals, dataplane.Refusal{Owner: op.Owner, Op: words(op), Err: err})
		}
	}
	if refused.Err != nil {
		k.rollBack()
		return &refused
	}
	if k.watched {
		k.check(complete)
	}
	return nil
}

// words says what an operation is, for messages.
func words(op dataplane.Op) string {
	if op.Delete {
		return "delete element " + Line(op.Set, op.Elem) + " from " + names[op.Set]
	}
	return "add element " + Line(op.Set, op.Elem) + " to " + names[op.Set]
}

func (k *Kernel) rollBack() {
	for _, u := range slices.Backward(k.undo) {
		if u.had {
			k.set(u.set)[u.key] = u.old
		} else {
			delete(k.set(u.set), u.key)
		}
	}
}

func (k *Kernel) set(s dataplane.Set) map[dataplane.Element]dataplane.Element {
	if k.sets[s] == nil {
		k.sets[s] = make(map[dataplane.Element]dataplane.Element)
	}
	return k.sets[s]
}

// do does one operation, or returns an errno.
func (k *Kernel) do(op dataplane.Op) error {
	if k.refuse != nil {
		if err := k.refuse(op); err != nil {
			return err
		}
	}
	if op.Set == dataplane.Affinity {
		return k.forget(op)
	}
	if !valid(op) {
		return syscall.EINVAL
	}
	id := key(op.Set, op.Elem)
	old, had := k.set(op.Set)[id]
	switch {
	case op.Delete && !had:
		return syscall.ENOENT
	case op.Delete:
		delete(k.set(op.Set), id)
	case had:
		if old.Endpoint != op.Elem.Endpoint || old.Verdict != op.Elem.Verdict {
			return syscall.EEXIST
		}
		return nil
	case k.overlaps(op):
		return syscall.EEXIST
	default:
		k.set(op.Set)[id] = op.Elem
	}
	k.undo = append(k.undo, undo{op.Set, id, old, had})
	return nil
}

// forget deletes affinity entries by frontend and, if it is given, endpoint.
func (k *Kernel) forget(op dataplane.Op) error {
	e := op.Elem
	if !op.Delete || !validFrontend(e.Frontend) || e.Client.IsValid() {
		return syscall.EINVAL
	}
	for id, old := range k.set(op.Set) {
		if old.Frontend == e.Frontend && (!e.Endpoint.IsValid() || old.Endpoint == e.Endpoint) {
			delete(k.set(op.Set), id)
			k.undo = append(k.undo, undo{op.Set, id, old, true})
		}
	}
	return nil
}

// overlaps reports whether an interval set has an element that shares an address with a new one.
func (k *Kernel) overlaps(op dataplane.Op) bool {
	if op.Set != dataplane.AllowedSources && op.Set != dataplane.ServiceCIDRs {
		return false
	}
	for _, old := range k.set(op.Set) {
		if old.Frontend == op.Elem.Frontend && old.Source.Overlaps(op.Elem.Source) {
			return true
		}
	}
	return false
}

// valid reports whether an element has the fields that its set needs, and no others.
func valid(op dataplane.Op) bool {
	e := op.Elem
	need := dataplane.Element{Frontend: e.Frontend}
	ok := validFrontend(e.Frontend)
	switch op.Set {
	case dataplane.Services, dataplane.LocalServices:
		need.Verdict, need.Comment = e.Verdict, e.Comment
		ok = ok && e.Verdict.Chain() != "invalid" && validBase(op.Set, e.Verdict)
	case dataplane.Endpoints, dataplane.LocalEndpoints:
		need.Slot, need.Endpoint = e.Slot, e.Endpoint
		ok = ok && e.Slot < 1<<dataplane.MaxClass && validAddr(e.Endpoint.Addr()) && e.Endpoint.Port() != 0 &&
			e.Endpoint.Addr().Is4() == e.Frontend.Addr.Is4()
	case dataplane.ClusterIPs, dataplane.Hairpin:
		need.Frontend = dataplane.Frontend{Addr: e.Frontend.Addr}
		ok = validAddr(e.Frontend.Addr)
	case dataplane.AllowedSources:
		need.Source = e.Source
		ok = ok && validPrefix(e.Source) && e.Source.Addr().Is4() == e.Frontend.Addr.Is4()
	case dataplane.AffinityOf:
		need.Timeout = e.Timeout
		ok = ok && e.Timeout > 0 && e.Timeout%time.Second == 0
	case dataplane.ServiceCIDRs:
		need = dataplane.Element{Source: e.Source}
		ok = validPrefix(e.Source)
	}
	return ok && need == e
}

// validBase reports whether a verdict belongs into one of the two verdict maps.
func validBase(set dataplane.Set, v dataplane.Verdict) bool {
	if v == dataplane.Refuse || v == dataplane.Drop {
		return true
	}
	return (v >= dataplane.BalanceLocal(1)) == (set == dataplane.LocalServices)
}

func validAddr(a netip.Addr) bool {
	return a.IsValid() && !a.Is4In6() && a.Zone() == ""
}

func validPrefix(p netip.Prefix) bool { return p.IsValid() && validAddr(p.Addr()) && p.Masked() == p }

func validFrontend(f dataplane.Frontend) bool {
	return validAddr(f.Addr) && f.Port != 0 && (f.Protocol == 6 || f.Protocol == 17 || f.Protocol == 132)
}

// Replace makes the maps hold what first and rest add; affinity entries stay. Without tables it
// fills new ones: first in one transaction, rest in chunks with verdicts in the last. Otherwise
// all is one transaction. An error part-way leaves new tables half filled.
func (k *Kernel) Replace(ctx context.Context, first, rest iter.Seq[dataplane.Op]) (err error) {
	if err := k.enter(ctx, nil, true); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.replaces++
	count := 0
	counted := func(yield func(dataplane.Op) bool) {
		count = 0
		for _, seq := range []iter.Seq[dataplane.Op]{first, rest} {
			for op := range seq {
				if op.Delete {
					k.fault("a deletion in a Replace")
				}
				if count++; !yield(op) {
					return
				}
			}
		}
	}
	defer func() {
		k.batches = append(k.batches, Batch{At: time.Now(), Count: count, Replace: true, Err: err})
	}()
	if k.here {
		return k.refill(counted)
	}
	for range counted {
	}
	return k.fill(first, rest)
}

// refill empties the maps and fills them in one transaction.
func (k *Kernel) refill(all iter.Seq[dataplane.Op]) error {
	old := k.sets
	k.sets = [lastSet + 1]map[dataplane.Element]dataplane.Element{dataplane.Affinity: old[dataplane.Affinity]}
	err := k.transactLocked(all, true)
	if err != nil {
		k.sets = old
	}
	return err
}

// fill fills empty maps in several transactions.
func (k *Kernel) fill(first, rest iter.Seq[dataplane.Op]) error {
	k.sets = [lastSet + 1]map[dataplane.Element]dataplane.Element{}
	if err := k.transactLocked(first, false); err != nil {
		return err
	}
	k.here = true
	isVerdict := func(op dataplane.Op) bool {
		return op.Set == dataplane.Services || op.Set == dataplane.LocalServices || op.Set == dataplane.ClusterIPs
	}
	var chunk []dataplane.Op
	for op := range rest {
		if isVerdict(op) {
			continue
		}
		if chunk = append(chunk, op); len(chunk) >= k.chunk() {
			if err := k.transactLocked(slices.Values(chunk), false); err != nil {
				return err
			}
			chunk = chunk[:0]
		}
	}
	for op := range rest {
		if isVerdict(op) {
			chunk = append(chunk, op)
		}
	}
	return k.transactLocked(slices.Values(chunk), true)
}

func (k *Kernel) chunk() int {
	if k.Chunk > 0 {
		return k.Chunk
	}
	return 5000
}

// Flush is what a stranger does with nft flush ruleset: everything is gone, and Apply says so.
func (k *Kernel) Flush() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.here = false
	k.sets = [lastSet + 1]map[dataplane.Element]dataplane.Element{}
}

// Remember adds an affinity entry, as a connection does.
func (k *Kernel) Remember(f dataplane.Frontend, client netip.Addr, ep netip.AddrPort) {
	k.mu.Lock()
	defer k.mu.Unlock()
	e := dataplane.Element{Frontend: f, Client: client, Endpoint: ep}
	k.set(dataplane.Affinity)[key(dataplane.Affinity, e)] = e
}

// Dump returns what the maps hold.
func (k *Kernel) Dump() Dump {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.dumpLocked()
}

func (k *Kernel) dumpLocked() Dump {
	d := Dump{}
	for set := range lastSet + 1 {
		for _, e := range k.sets[set] {
			d[set] = append(d[set], e)
		}
	}
	d.Sort()
	return d
}

// String prints the maps as nft lists them.
func (k *Kernel) String() string { return k.Dump().String() }

// Batches returns what was asked so far, oldest first, and forgets it.
func (k *Kernel) Batches() []Batch {
	k.mu.Lock()
	defer k.mu.Unlock()
	b := k.batches
	k.batches = nil
	return b
}

// Replaces returns how often Replace was called.
func (k *Kernel) Replaces() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.replaces
}

// Err returns every breach of the contract so far: deletions after additions, and what Watch saw.
func (k *Kernel) Err() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	var errs []error
	for _, f := range k.faults {
		errs = append(errs, errors.New(f))
	}
	return errors.Join(errs...)
}
