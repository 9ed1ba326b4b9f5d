package proxier

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/weir-project/weir/endpoints"
)

// How soon a service that was set aside is tried again, though nothing about it has changed.
const (
	asideMin = time.Minute
	asideMax = 30 * time.Minute
)

// serviceCIDRs stands among names for what belongs to no service.
var serviceCIDRs endpoints.Name

// aside is a service that the kernel refused. It is kept out of the kernel until it changes or
// its time comes; then it is on trial, and aside again if it is refused.
type aside struct {
	err     error
	object  *endpoints.Service // the version that was refused; nil: there was none
	since   time.Time          // when it was first refused
	retry   time.Time
	delay   time.Duration
	onTrial bool
	changed bool // on trial because something about it has changed, not because its time had come
}

// SetAside is a service that the kernel refused and that is kept out of it.
type SetAside struct {
	Service endpoints.Name // the zero Name: the service CIDRs
	Err     error
	Since   time.Time
	Retry   time.Time // when it is tried again if it does not change before
}

// absent reports whether a service shall not be in the kernel, though it exists.
func (p *Proxier) absent(n endpoints.Name) bool {
	a := p.aside[n]
	return a != nil && !a.onTrial
}

// trial lets services back in that have changed or whose time has come.
func (p *Proxier) trial(names []endpoints.Name) {
	for _, n := range names {
		if a := p.aside[n]; a != nil {
			a.onTrial, a.changed = true, true
		}
	}
}

// retryAside makes those dirty whose time has come, and returns when the next one's comes.
func (p *Proxier) retryAside(now time.Time) (next time.Time) {
	for n, a := range p.aside {
		switch {
		case a.onTrial:
		case !a.retry.After(now):
			a.onTrial = true
			p.dirty[n] = struct{}{}
		default:
			next = earliest(next, a.retry)
		}
	}
	return next
}

// setAside takes a service out. It reports whether that is new: if the service had been out
// already, nothing but its removal can have been refused.
func (p *Proxier) setAside(r run, n endpoints.Name, err error) bool {
	object := p.cfg.Source.Service(n)
	a := p.aside[n]
	if a != nil && !a.onTrial {
		return false
	}
	next := &aside{err: err, object: object, since: time.Now(), delay: asideMin}
	again := a != nil && a.object == object
	if again {
		next.since, next.delay = a.since, a.delay
	}
	if again && !a.changed {
		next.delay = min(2*a.delay, asideMax)
	}
	next.retry = time.Now().Add(next.delay)
	p.mu.Lock()
	p.aside[n] = next
	p.mu.Unlock()
	p.dirty[n] = struct{}{}
	if !again {
		p.reportAside(r, n, next)
	}
	return true
}

func (p *Proxier) reportAside(r run, n endpoints.Name, a *aside) {
	if n == serviceCIDRs {
		r.log.Error(a.err, "The kernel refused the service CIDRs; they stay as they were", "retry", a.delay)
		return
	}
	uid := ""
	if a.object != nil {
		uid = a.object.UID
	}
	p.report(r.log, endpoints.Problem{Kind: "Service", Object: n, UID: uid, Field: "spec",
		Reason: fmt.Sprintf("the kernel refused it, so it is not served, and tried again in %s: %v", a.delay, a.err)})
}

// acquit ends the trials of services that the kernel has taken.
func (p *Proxier) acquit(names []endpoints.Name) {
	if len(p.aside) == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, n := range names {
		if a := p.aside[n]; a != nil && a.onTrial {
			delete(p.aside, n)
		}
	}
}

// SetAside lists the services that are kept out of the kernel, by name.
func (p *Proxier) SetAside() []SetAside {
	p.mu.RLock()
	defer p.mu.RUnlock()
	var out []SetAside
	for n, a := range p.aside {
		out = append(out, SetAside{n, a.err, a.since, a.retry})
	}
	slices.SortFunc(out, func(a, b SetAside) int { return a.Service.Compare(b.Service) })
	return out
}

// earliest returns the earlier of two times; zero is never.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || b.IsZero() {
		return cmp.Or(a, b)
	}
	if b.Before(a) {
		return b
	}
	return a
}
