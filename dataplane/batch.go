package dataplane

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// batch is a transaction in the making: messages, and on whose behalf each of them is.
type batch struct {
	messages
	state    *[2]tableState // what the tables are called and what they have, by family
	added    [2]added       // what this batch brings besides elements
	refs     []ref
	elements int
	destroy  bool // deletions are of elements that need not be there

	// The open list of elements, if open.
	open      bool
	list      int
	set       Set
	timeout   time.Duration
	fam       *family
	del       bool
	owner     uint32
	listStart int
}

// ref ties a message to the operation that began it.
type ref struct {
	seq uint32
	op  Op
}

// maxSpare is how large a buffer is kept from one batch to the next, in bytes.
const maxSpare = 4 << 20

// newBatch begins a transaction. One at a time: commit takes its buffer back.
func (c *Conn) newBatch() *batch {
	b := &batch{state: &c.state}
	b.b, c.spare = c.spare[:0], nil
	b.batchBegin()
	return b
}

// recycle keeps a batch's buffers for the next one.
func (c *Conn) recycle(b *batch) {
	if cap(b.b) <= maxSpare {
		c.spare = b.b
	}
}

// number is a family's place in arrays of two.
func (f *family) number() int {
	if f == ipv4 {
		return 0
	}
	return 1
}

// add appends one operation. Operations of the same kind, set and owner that follow each other
// share a message. The error is of an element that makes no sense; b is then as before.
func (b *batch) add(op *Op) error {
	if err := op.check(); err != nil {
		return err
	}
	fam := op.family()
	st := &b.state[fam.number()]
	switch {
	case op.Delete:
	case op.Set == AffinityOf:
		b.needAffinity(fam, st, op.Elem.Timeout)
	case op.Set == Services || op.Set == LocalServices:
		b.needClass(fam, st, op.Elem.Verdict)
	}
	full := b.open && len(b.b)-b.listStart > maxAttr-2*maxElement
	if !b.open || full || b.set != op.Set || b.fam != fam || b.del != op.Delete || b.owner != op.Owner || b.timeout != op.Elem.Timeout {
		b.closeList()
		b.listStart = len(b.b)
		b.list = beginElements(&b.messages, fam, st.name, setName(op.Set, op.Elem.Timeout), b.verb(op))
		b.open, b.set, b.fam, b.del, b.owner, b.timeout = true, op.Set, fam, op.Delete, op.Owner, op.Elem.Timeout
		b.refs = append(b.refs, ref{b.seq, *op})
	}
	appendElement(&b.messages, fam, op.Set, &op.Elem, op.Delete)
	b.elements++
	return nil
}

// verb returns the message type of an operation.
func (b *batch) verb(op *Op) uint8 {
	switch {
	case op.Delete && b.destroy:
		return nftMsgDestroySetElem
	case op.Delete:
		return unix.NFT_MSG_DELSETELEM
	}
	return unix.NFT_MSG_NEWSETELEM
}

// wants reports whether the operation belongs to a family. One that makes no sense belongs to
// every family, so that add reports it.
func (b *batch) wants(op *Op, fam *family) bool {
	return op.Set >= numSets || op.family() == fam || !op.address().IsValid()
}

// added is what a table has besides what it was made with.
type added struct {
	timeouts map[time.Duration]bool // those with a set and a rule for affinity
	classes  map[Verdict]bool       // those with a chain
}

// with returns what a table has after a batch.
func (a added) with(b added) added {
	if len(b.timeouts)+len(b.classes) == 0 {
		return a
	}
	sum := added{map[time.Duration]bool{}, map[Verdict]bool{}}
	for _, part := range []added{a, b} {
		maps.Copy(sum.timeouts, part.timeouts)
		maps.Copy(sum.classes, part.classes)
	}
	return sum
}

// needAffinity brings the set and the rule for a timeout that nobody used before.
func (b *batch) needAffinity(fam *family, st *tableState, timeout time.Duration) {
	more := &b.added[fam.number()]
	if st.added.timeouts[timeout] || more.timeouts[timeout] {
		return
	}
	b.closeList()
	if more.timeouts == nil {
		more.timeouts = map[time.Duration]bool{}
	}
	more.timeouts[timeout] = true
	const firstFreeID = 1000 // above those of the static sets
	appendAffinity(&b.messages, fam, st.name, timeout, firstFreeID+uint32(len(more.timeouts)))
}

// needClass brings the chain of a verdict that nobody used before, and reports whether it did.
func (b *batch) needClass(fam *family, st *tableState, v Verdict) bool {
	more := &b.added[fam.number()]
	if v.Class() <= 1 || st.added.classes[v] || more.classes[v] {
		return false
	}
	b.closeList()
	if more.classes == nil {
		more.classes = map[Verdict]bool{}
	}
	more.classes[v] = true
	appendClass(&b.messages, fam, st.name, v)
	return true
}

func (b *batch) closeList() {
	if b.open {
		endElements(&b.messages, b.list)
		b.open = false
	}
}

// finish closes the transaction. The last message before its end is the one to be acknowledged:
// kernel 6.1 does not acknowledge the end itself.
func (b *batch) finish() {
	b.closeList()
	b.requestAck()
	b.batchEnd()
}

// empty reports whether there is nothing to send.
func (b *batch) empty() bool { return b.seq == 1 && !b.open }

// nack is the kernel's refusal of one message.
type nack struct {
	seq   uint32
	errno syscall.Errno
}

// refused builds the error for a transaction that the kernel refused.
func (b *batch) refused(nacks []nack) error {
	e := &RefusedError{Err: nacks[0].errno, expired: true}
	seen := map[uint32]bool{}
	for _, n := range nacks {
		i, ok := slices.BinarySearchFunc(b.refs, n.seq, func(r ref, seq uint32) int { return cmp.Compare(r.seq, seq) })
		if !ok || b.refs[i].op.Set != Affinity || n.errno != unix.ENOENT {
			e.expired = false
		}
		if !ok || seen[b.refs[i].op.Owner] {
			continue
		}
		op := &b.refs[i].op
		seen[op.Owner] = true
		e.Refusals = append(e.Refusals, Refusal{Owner: op.Owner, Op: op.String(), Err: n.errno})
	}
	return e
}

// invalid builds the error for an operation that could not even be encoded.
func invalid(op *Op, err error) error {
	return &RefusedError{Err: unix.EINVAL, Refusals: []Refusal{{Owner: op.Owner, Op: op.String(), Err: err}}}
}

// outcome turns the kernel's answers into an error.
func (b *batch) outcome(acked bool, nacks []nack) error {
	switch {
	case len(nacks) > 0:
		return b.refused(nacks)
	case !acked:
		return fmt.Errorf("the kernel's answer to a transaction was lost: %w", ErrStale)
	}
	return nil
}
