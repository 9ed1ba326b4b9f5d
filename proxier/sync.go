package proxier

import (
	"context"
	"errors"
	"iter"
	"maps"
	"slices"
	"time"

	"k8s.io/klog/v2"

	"github.com/weir-project/weir/dataplane"
	"github.com/weir-project/weir/endpoints"
)

var errNoConfig = errors.New("proxier: Config needs a Source and a Kernel")

const (
	// batchBudget is the number of slot operations after which a transaction takes no more
	// services. It bounds memory when everything changes at once.
	batchBudget = 1 << 16
	// forgetAgain is how long after a change affinity entries are deleted once more: a packet in
	// flight may have written one after the first time.
	forgetAgain = time.Second
	// maxForgetTries is how often such a deletion is tried again if it fails, after one second,
	// two, four and so on.
	maxForgetTries = 8
)

// forgotten is a deletion of affinity entries that is still to be done.
type forgotten struct {
	due   time.Time
	ops   []dataplane.Op
	again bool // and once more after that
	tries int  // how often it has failed
}

// run is what one sync carries along.
type run struct {
	context.Context
	log    klog.Logger
	report *SyncReport
}

// Run keeps the kernel true to the source until ctx ends, and then returns nil. What is in the
// kernel stays there.
func (p *Proxier) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		next := p.gather()
		if p.ready(time.Now()) {
			p.sync(ctx)
			continue
		}
		p.wait(ctx, next)
	}
	return nil
}

// wait returns when there may be something to do: at next, unless that is zero, or before.
func (p *Proxier) wait(ctx context.Context, next time.Time) {
	var alarm <-chan time.Time
	if !next.IsZero() {
		alarm = time.After(time.Until(next))
	}
	select {
	case <-ctx.Done():
	case <-p.cfg.Source.Wake():
	case <-p.poke:
	case <-alarm:
	}
}

// gather takes in what has happened, and returns when something will have to be done though
// nothing more happens; zero is never.
func (p *Proxier) gather() (next time.Time) {
	if !p.cfg.Source.Synced() {
		return time.Time{}
	}
	p.takeChanges()
	p.takeRequests() // after the changes, because who hears of a new node may set its addresses
	now := time.Now()
	next = p.retryAside(now)
	was := p.due
	p.due = !p.known || len(p.dirty) > 0 || !p.around.equal(&p.rules.around)
	if p.due && !was {
		p.cfg.Observer.Queued()
	}
	if p.due {
		next = earliest(next, p.start())
	}
	if p.known && len(p.forgets) > 0 {
		next = earliest(next, latest(p.forgets[0].due, p.hold))
	}
	return next
}

// ready reports whether it is time for a sync, or for forgetting.
func (p *Proxier) ready(now time.Time) bool {
	if p.due && !p.start().After(now) {
		return true
	}
	return p.known && len(p.forgets) > 0 && !latest(p.forgets[0].due, p.hold).After(now)
}

// start returns when the next sync may begin.
func (p *Proxier) start() time.Time {
	if p.urgent {
		return p.hold
	}
	return latest(p.hold, p.rest)
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (p *Proxier) takeRequests() {
	p.asked.Lock()
	addrs, minSync, invalid := p.addrs, p.minSync, p.invalid
	p.addrs, p.minSync, p.invalid = nil, nil, false
	p.asked.Unlock()
	if minSync != nil {
		p.rest = p.rest.Add(*minSync - p.cfg.MinSyncPeriod)
		p.cfg.MinSyncPeriod = *minSync
	}
	if addrs != nil {
		p.changed(p.around, *addrs)
		p.around = *addrs
	}
	if invalid {
		p.known, p.urgent = false, true
	}
}

// takeChanges takes in what the source has to say.
func (p *Proxier) takeChanges() {
	c := p.cfg.Source.Take()
	for _, n := range c.Services {
		p.dirty[n] = struct{}{}
	}
	p.trial(c.Services)
	if cidrs := distinct(c.ServiceCIDRs); !slices.Equal(cidrs, p.cidrs) {
		p.cidrs = cidrs
		p.dirty[serviceCIDRs] = struct{}{}
		p.trial([]endpoints.Name{serviceCIDRs})
	}
	if c.NodeChanged {
		p.cfg.Observer.NodeChanged(c.Node)
	}
	r := &p.pending
	r.Revision = c.Revision
	r.Since = earliest(r.Since, c.Since)
	r.Triggers = append(r.Triggers, c.Triggers...)
	r.ServiceEvents += c.ServiceEvents
	r.SliceEvents += c.SliceEvents
}

// sync makes the kernel hold what is wanted, as far as it lets us.
func (p *Proxier) sync(ctx context.Context) {
	report := p.pending
	report.Start = time.Now()
	r := run{ctx, klog.FromContext(ctx), &report}
	if p.forgetDue(r); !p.due || p.start().After(report.Start) {
		return
	}
	p.cfg.Observer.SyncStarted()
	report.Err = p.write(r)
	report.Duration = time.Since(report.Start)
	p.settle(r)
	p.done(r)
}

// settle decides when the next sync may be.
func (p *Proxier) settle(r run) {
	now, err := time.Now(), r.report.Err
	p.rest = now.Add(p.cfg.MinSyncPeriod)
	if err == nil {
		p.delay, p.hold, p.urgent = 0, time.Time{}, false
		return
	}
	p.delay = min(max(2*p.delay, p.cfg.RetryMin), p.cfg.RetryMax)
	p.hold = now.Add(p.delay)
	if r.Err() == nil {
		r.log.Error(err, "Sync failed", "revision", r.report.Revision, "retry", p.delay)
	}
}

// done tells about a sync.
func (p *Proxier) done(r run) {
	rep := r.report
	if rep.Err != nil {
		p.pending.Changed, p.pending.Details, p.pending.Flows = rep.Changed, rep.Details, rep.Flows
	} else {
		p.pending = SyncReport{Revision: rep.Revision}
		p.syncOnce.Do(func() { close(p.synced) })
		r.log.V(2).Info("Synced", "revision", rep.Revision, "full", rep.Full, "services", rep.Services,
			"ops", rep.Ops, "duration", rep.Duration)
	}
	rep.Frontends, rep.Contested, rep.SetAside = len(p.rules.claims.winners), len(p.rules.claims.losers), len(p.aside)
	rep.Slots, rep.NoLocal = p.rules.totals.slots, p.rules.totals.noLocal
	p.cfg.Observer.SyncDone(*rep)
}

// write brings everything dirty into the kernel.
func (p *Proxier) write(r run) error {
	if p.known {
		if err := p.update(r); p.known {
			return err
		}
	}
	return p.replace(r)
}

// update writes what is dirty, in as many transactions as it takes. If known is false afterwards,
// only a Replace helps.
func (p *Proxier) update(r run) error {
	for p.stale() {
		plan := p.plan(p.dirtyNames())
		err := p.apply(r, plan)
		if err == nil {
			continue
		}
		if err := p.refused(r, plan, err); err != nil {
			return err
		}
	}
	return nil
}

// stale reports whether the kernel lacks something.
func (p *Proxier) stale() bool {
	return p.known && (len(p.dirty) > 0 || !p.around.equal(&p.rules.around))
}

func (p *Proxier) dirtyNames() []endpoints.Name {
	return slices.SortedFunc(maps.Keys(p.dirty), endpoints.Name.Compare)
}

// plan plans some dirty names, serviceCIDRs among them or not.
func (p *Proxier) plan(names []endpoints.Name) *plan {
	return p.rules.plan(p.want(names))
}

func (p *Proxier) want(names []endpoints.Name) wanted {
	w := wanted{
		services: p.cfg.Source, dirty: names, absent: p.absent,
		around: p.around, cidrs: p.rules.cidrs, budget: batchBudget,
	}
	if slices.Contains(names, serviceCIDRs) && !p.absent(serviceCIDRs) {
		w.cidrs = p.cidrs
	}
	return w
}

// apply has the kernel take a plan, and commits it.
func (p *Proxier) apply(r run, plan *plan) error {
	ops := slices.DeleteFunc(plan.ops(), p.unserved)
	if len(ops) > 0 {
		r.report.Transactions++
		if err := p.cfg.Kernel.Apply(r, ops); err != nil {
			return err
		}
		p.cfg.Observer.Progress()
	}
	for _, op := range ops {
		r.report.count(op)
	}
	p.commit(r, plan)
	p.acquit(plan.settled())
	p.forgetLater(forgotten{due: time.Now().Add(forgetAgain), ops: plan.batch.forgets()})
	return nil
}

// count counts an operation that the kernel has taken.
func (rep *SyncReport) count(op dataplane.Op) {
	rep.Ops++
	if isIPv6(op) {
		rep.OpsIPv6++
	} else {
		rep.OpsIPv4++
	}
}

// commit makes a plan what we believe, and reports what it has found.
func (p *Proxier) commit(r run, plan *plan) {
	r.report.Flows = append(r.report.Flows, plan.flows(p.cfg.Flows)...)
	for _, s := range plan.steps[:min(len(plan.steps), maxDetails-min(maxDetails, len(r.report.Details)))] {
		r.report.Details = append(r.report.Details, s.change())
	}
	p.mu.Lock()
	p.rules.commit(plan)
	p.mu.Unlock()
	for _, n := range plan.settled() {
		delete(p.dirty, n)
		if n != serviceCIDRs {
			r.report.Changed = append(r.report.Changed, n)
		}
	}
	if len(p.dirty) == 0 {
		// Walking a map costs what its largest size did, and the first sync had everything in it.
		p.dirty = make(map[endpoints.Name]struct{})
	}
	r.report.Services += len(plan.steps)
	for _, problem := range plan.problems {
		p.report(r.log, problem)
	}
}

// replace writes everything. What the kernel holds is not known, so there is no belief to
// protect: what is dirty is committed beforehand.
func (p *Proxier) replace(r run) error {
	r.report.Full = true
	if len(p.rules.services) == 0 {
		for _, n := range p.cfg.Source.Services() {
			p.dirty[n] = struct{}{}
		}
	}
	for {
		p.commitDirty(r)
		first, rest, owners := p.rules.full(p.isUrgent)
		var one, two SyncReport
		r.report.Transactions++
		err := p.cfg.Kernel.Replace(r, one.counting(p.served(first)), two.counting(p.served(rest)))
		if err == nil {
			p.known = true
			p.acquit(slices.Collect(maps.Keys(p.aside)))
			r.report.Ops += one.Ops + two.Ops
			r.report.OpsIPv4 += one.OpsIPv4 + two.OpsIPv4
			r.report.OpsIPv6 += one.OpsIPv6 + two.OpsIPv6
			return nil
		}
		var refused *dataplane.RefusedError
		if !errors.As(err, &refused) || !p.blameFull(r, owners, culprits(refused)) {
			return err
		}
	}
}

// unserved reports whether an operation is of a family that the kernel does not have.
func (p *Proxier) unserved(op dataplane.Op) bool { return p.cfg.NoIPv6 && isIPv6(op) }

func isIPv6(op dataplane.Op) bool {
	return !op.Elem.Frontend.Addr.Is4() && !op.Elem.Source.Addr().Is4()
}

// served returns those of ops that the kernel has the family of.
func (p *Proxier) served(ops iter.Seq[dataplane.Op]) iter.Seq[dataplane.Op] {
	if !p.cfg.NoIPv6 {
		return ops
	}
	return func(yield func(dataplane.Op) bool) {
		for op := range ops {
			if !p.unserved(op) && !yield(op) {
				return
			}
		}
	}
}

// counting returns ops such that rep holds the counts of the last time that they were walked.
func (rep *SyncReport) counting(ops iter.Seq[dataplane.Op]) iter.Seq[dataplane.Op] {
	return func(yield func(dataplane.Op) bool) {
		*rep = SyncReport{}
		for op := range ops {
			if rep.count(op); !yield(op) {
				return
			}
		}
	}
}

// commitDirty commits what is dirty without a word to the kernel.
func (p *Proxier) commitDirty(r run) {
	want := p.want(p.dirtyNames())
	want.budget = 0
	plan := p.rules.prepare(want)
	forgets := plan.forgets()
	p.commit(r, plan)
	p.forgetLater(forgotten{due: time.Now(), ops: forgets, again: true})
}

// forgetLater remembers deletions of affinity entries.
func (p *Proxier) forgetLater(f forgotten) {
	if len(f.ops) > 0 {
		p.forgets = append(p.forgets, f)
		slices.SortStableFunc(p.forgets, func(a, b forgotten) int { return a.due.Compare(b.due) })
	}
}

// forgetDue deletes affinity entries whose time has come.
func (p *Proxier) forgetDue(r run) {
	for p.known && len(p.forgets) > 0 && !p.forgets[0].due.After(r.report.Start) {
		f := p.forgets[0]
		p.forgets = p.forgets[1:]
		if err := p.cfg.Kernel.Apply(r, f.ops); err != nil {
			p.forgetFailed(r, f, err)
		} else if f.again {
			p.forgetLater(forgotten{due: time.Now().Add(forgetAgain), ops: f.ops})
		}
	}
}

// forgetFailed tries again later. In the end the entries stay until they expire.
func (p *Proxier) forgetFailed(r run, f forgotten, err error) {
	var refused *dataplane.RefusedError
	if !errors.As(err, &refused) {
		p.known, p.due, p.urgent = false, true, true
	}
	if f.tries == maxForgetTries {
		r.log.Error(err, "Affinity entries of endpoints that are gone stay until they expire", "ops", len(f.ops))
		return
	}
	f.due = time.Now().Add(forgetAgain << f.tries)
	f.tries++
	p.forgetLater(f)
}
