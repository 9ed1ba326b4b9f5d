package proxier

import (
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/weir-project/weir/dataplane"
	"github.com/weir-project/weir/endpoints"
)

// refused deals with a plan that the kernel did not take. It returns nil if there is something to
// go on with.
func (p *Proxier) refused(r run, plan *plan, err error) error {
	var refused *dataplane.RefusedError
	if !errors.As(err, &refused) || anyDrifted(refused) {
		if r.Err() == nil {
			r.log.Info("The kernel does not hold what was written; writing everything", "reason", err)
		}
		p.known = false
		return nil
	}
	if blamed := culprits(refused); len(blamed) > 0 {
		p.blame(r, plan, blamed)
		return nil
	}
	return p.bisect(r, plan.settled(), err)
}

func anyDrifted(r *dataplane.RefusedError) bool {
	return drifted(r.Err) ||
		slices.ContainsFunc(r.Refusals, func(x dataplane.Refusal) bool { return drifted(x.Err) })
}

// blame sets those aside whom the kernel named.
func (p *Proxier) blame(r run, plan *plan, blamed []dataplane.Refusal) {
	for _, b := range blamed {
		if n := plan.owner(b.Owner); !p.setAside(r, n, reason(b)) {
			r.log.Info("The kernel refused to let a service go; writing everything", "service", n,
				"reason", reason(b))
			p.known = false
		}
	}
}

func reason(r dataplane.Refusal) error { return fmt.Errorf("%s: %w", r.Op, r.Err) }

// bisect finds the service for which the kernel refuses a plan without saying so, in transactions
// of half as many services each, and sets it aside. The others get through meanwhile or stay
// dirty. If the reason says nothing about what was written and nothing gets through, it is no
// service's fault, and bisect returns the reason.
func (p *Proxier) bisect(r run, all []endpoints.Name, err error) error {
	names, through := all, false
	for alone := len(all) == 1; !alone; {
		half := names[:(len(names)+1)/2]
		plan := p.plan(half)
		switch e := p.apply(r, plan); {
		case e == nil && len(names) == 1:
			return nil
		case e == nil:
			names, through = names[len(half):], true
		case !ownerless(e):
			return p.refused(r, plan, e)
		default:
			alone = len(half) == 1
			names, err = half, e
		}
	}
	if !through && nobodysFault(err) && !p.goesWithout(r, all, names[0]) {
		return err
	}
	if !p.setAside(r, names[0], err) {
		p.known = false
	}
	return nil
}

// goesWithout reports whether the kernel takes all but one of some services.
func (p *Proxier) goesWithout(r run, all []endpoints.Name, one endpoints.Name) bool {
	others := slices.DeleteFunc(slices.Clone(all), func(n endpoints.Name) bool { return n == one })
	return len(others) > 0 && p.apply(r, p.plan(others)) == nil
}

// ownerless reports whether an error is a refusal that blames nobody.
func ownerless(err error) bool {
	var refused *dataplane.RefusedError
	return errors.As(err, &refused) && !anyDrifted(refused) && len(culprits(refused)) == 0
}

// blameFull sets those aside whom the kernel named in a Replace, and reports whether trying again
// will be different.
func (p *Proxier) blameFull(r run, owners []endpoints.Name, blamed []dataplane.Refusal) bool {
	again := false
	for _, b := range blamed {
		n := serviceCIDRs
		if b.Owner > 0 && int(b.Owner) <= len(owners) {
			n = owners[b.Owner-1]
		}
		again = p.setAside(r, n, reason(b)) || again
		if n == serviceCIDRs {
			p.mu.Lock()
			p.rules.cidrs = nil
			p.mu.Unlock()
		}
	}
	return again
}

// culprits returns whom a refusal blames, in order. A reason that says nothing about what was
// written blames nobody.
func culprits(refused *dataplane.RefusedError) []dataplane.Refusal {
	return slices.DeleteFunc(slices.Clone(refused.Refusals),
		func(r dataplane.Refusal) bool { return nobodysFault(r.Err) })
}

// nobodysFault reports whether an error tells of the kernel's or our own condition.
func nobodysFault(err error) bool {
	return slices.ContainsFunc([]error{syscall.EPERM, syscall.EACCES, syscall.ENOMEM, syscall.ENOBUFS,
		syscall.EAGAIN, syscall.EINTR}, func(e error) bool { return errors.Is(err, e) })
}

// drifted reports whether an error tells that the kernel does not hold what we believe.
func drifted(err error) bool {
	return slices.ContainsFunc([]error{syscall.ENOENT, syscall.EEXIST, syscall.EBUSY},
		func(e error) bool { return errors.Is(err, e) })
}
