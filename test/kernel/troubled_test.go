//go:build linux

package kernel

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"

	"github.com/weir-project/weir/dataplane"
	"github.com/weir-project/weir/dataplane/dataplanetest"
)

// troubled is a real kernel on the way to which things go wrong. A model is told what it took.
type troubled struct {
	conn  *dataplane.Conn
	model *dataplanetest.Kernel

	mu     sync.Mutex // guards the following
	rand   *rand.Rand
	budget int // how many more calls go wrong
	counts *counts
	faults []error // where kernel and model disagree
}

// counts says what the histories have been through.
type counts struct {
	applied, replaced               int // transactions
	refusedBefore, refusedByKernel  int
	lost, unheard, stranger, others int
}

var errLost = errors.New("lost on the way")

// trouble chooses what goes wrong with a call: 0 is nothing.
func (k *troubled) trouble(kinds int) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.budget == 0 {
		return 0
	}
	k.budget--
	return 1 + k.rand.IntN(kinds)
}

// allow says how many of the following calls go wrong.
func (k *troubled) allow(n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.budget = n
}

func (k *troubled) count(f func(*counts)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f(k.counts)
}

// Apply has the kernel take ops, or not.
func (k *troubled) Apply(ctx context.Context, ops []dataplane.Op) error {
	switch k.trouble(6) {
	case 1, 2: // as if the kernel blamed one or two owners
		if blamed := k.pick(ops); len(blamed) > 0 {
			k.count(func(c *counts) { c.refusedBefore++ })
			return &dataplane.RefusedError{Err: syscall.EINVAL, Refusals: blamed}
		}
	case 3: // the kernel blames an owner, and means it
		if bad, ok := k.spoil(ops); ok {
			return k.mustRefuse(ctx, bad)
		}
	case 4: // nobody is blamed
		k.count(func(c *counts) { c.others++ })
		return &dataplane.RefusedError{Err: syscall.ENOMEM}
	case 5:
		k.count(func(c *counts) { c.lost++ })
		return errLost
	case 6: // it happens, but nobody hears of it
		k.count(func(c *counts) { c.unheard++ })
		if err := k.apply(ctx, ops); err != nil {
			return err
		}
		return errLost
	}
	return k.apply(ctx, ops)
}

// apply tells the kernel and the model.
func (k *troubled) apply(ctx context.Context, ops []dataplane.Op) error {
	if err := k.conn.Apply(ctx, ops); err != nil {
		return err
	}
	k.count(func(c *counts) { c.applied++ })
	k.agree("Apply", k.model.Apply(context.Background(), ops))
	return nil
}

func (k *troubled) agree(what string, err error) {
	if err == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.faults = append(k.faults, fmt.Errorf("the kernel took what the model refuses: %s: %w", what, err))
}

// pick blames one or two owners of ops.
func (k *troubled) pick(ops []dataplane.Op) (blamed []dataplane.Refusal) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for range 1 + k.rand.IntN(2) {
		op := ops[k.rand.IntN(len(ops))]
		known := slices.ContainsFunc(blamed, func(r dataplane.Refusal) bool { return r.Owner == op.Owner })
		if op.Owner > 0 && !known {
			blamed = append(blamed, dataplane.Refusal{Owner: op.Owner, Op: "some operation", Err: syscall.EINVAL})
		}
	}
	return blamed
}

// spoil returns ops with one among them that the kernel cannot but refuse: it deletes what is not
// there.
func (k *troubled) spoil(ops []dataplane.Op) ([]dataplane.Op, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	victim := ops[k.rand.IntN(len(ops))]
	if victim.Owner == 0 || !victim.Elem.Frontend.Addr.IsValid() || victim.Elem.Frontend.Port == 0 {
		return nil, false
	}
	bad := dataplane.Op{Delete: true, Set: dataplane.Endpoints, Owner: victim.Owner,
		Elem: dataplane.Element{Frontend: victim.Elem.Frontend, Slot: 1<<dataplane.MaxClass - 1}}
	bad.Elem.Endpoint = endpointLike(victim.Elem.Frontend)
	return slices.Insert(slices.Clone(ops), 0, bad), true
}

// mustRefuse sends what the kernel has to refuse whole.
func (k *troubled) mustRefuse(ctx context.Context, ops []dataplane.Op) error {
	err := k.conn.Apply(ctx, ops)
	var refused *dataplane.RefusedError
	if ctx.Err() == nil && !errors.As(err, &refused) {
		k.mu.Lock()
		k.faults = append(k.faults, fmt.Errorf("the deletion of what is not there: %v, want a refusal", err))
		k.mu.Unlock()
	}
	k.count(func(c *counts) { c.refusedByKernel++ })
	return err
}

// Replace has the kernel take everything anew, or not.
func (k *troubled) Replace(ctx context.Context, first, rest iter.Seq[dataplane.Op]) error {
	switch k.trouble(3) {
	case 1:
		k.count(func(c *counts) { c.lost++ })
		return errLost
	case 2: // part of it happens, and the rest is refused, unless no frontend has endpoints
		rest = contradict(rest)
	}
	if err := k.conn.Replace(ctx, first, rest); err != nil {
		k.count(func(c *counts) { c.refusedByKernel++ })
		return err
	}
	k.count(func(c *counts) { c.replaced++ })
	k.agree("Replace", k.model.Replace(context.Background(), first, rest))
	return nil
}

// contradict adds to ops the claim that the first frontend with an endpoint in slot 0 has another
// one there.
func contradict(ops iter.Seq[dataplane.Op]) iter.Seq[dataplane.Op] {
	return func(yield func(dataplane.Op) bool) {
		done := false
		for op := range ops {
			if !yield(op) {
				return
			}
			if op.Set != dataplane.Endpoints || done {
				continue
			}
			done = true
			op.Elem.Endpoint = endpointLike(op.Elem.Frontend)
			if !yield(op) {
				return
			}
		}
	}
}

// steal takes elements out of the maps, as a stranger might.
func (k *troubled) steal(ctx context.Context, most int) error {
	held, err := k.conn.ReadBack()
	if err != nil {
		return err
	}
	var ops []dataplane.Op
	for _, set := range []dataplane.Set{dataplane.Services, dataplane.Endpoints, dataplane.ClusterIPs, dataplane.SnatAlways} {
		for _, e := range held[set] {
			k.mu.Lock()
			taken := len(ops) < most && k.rand.IntN(4) == 0
			k.mu.Unlock()
			if taken {
				ops = append(ops, dataplane.Op{Delete: true, Set: set, Elem: e})
			}
		}
	}
	if len(ops) == 0 {
		return nil
	}
	k.count(func(c *counts) { c.stranger++ })
	return k.apply(ctx, ops)
}
