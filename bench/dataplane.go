package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-project/weir/bench/internal/report"
	"github.com/weir-project/weir/bench/internal/rig"
	"github.com/weir-project/weir/bench/internal/stat"
	"github.com/weir-project/weir/bench/internal/world"
	"github.com/weir-project/weir/dataplane"
)

// dataplane measures Weir's own parts: engine, sync loop and kernel in this process, then the memory of
// the whole.
func (b *bench) dataplane(ctx context.Context) error {
	for _, services := range []int{100, b.services, 2 * b.services} {
		if err := b.inProcess(ctx, services, b.endpoints); err != nil {
			return err
		}
	}
	if err := b.inProcess(ctx, 1, b.large); err != nil {
		return err
	}
	return b.memory(ctx)
}

func (b *bench) inProcess(ctx context.Context, services, eps int) error {
	b.say("%s in this process", report.Size(services, eps))
	add := func(metric, unit string, values stat.Series, goal *report.Goal) {
		r := report.Result{Section: "dataplane", Metric: metric, Proxy: "weir", Services: services, Endpoints: eps, Unit: unit, Goal: goal}
		b.run.Add(r, values)
	}
	cold, warm, change, err := measureInProcess(ctx, services, eps, b.rounds, b.changes)
	if err != nil {
		return err
	}
	if services == b.services {
		add("kernel loaded, table empty", "s", cold, &report.Goal{P50: 1})
		add("kernel loaded, table refilled", "s", warm, nil)
	}
	goal := &report.Goal{P50: 1}
	if services == 1 {
		goal = &report.Goal{Max: 10}
	}
	add("one endpoint change, event to kernel ACK", "ms", change, goal)
	return nil
}

// measureInProcess loads a kernel some times, cold and warm, and then makes changes.
func measureInProcess(ctx context.Context, services, eps, rounds, changes int) (cold, warm, change stat.Series, err error) {
	r := rig.New(services, eps)
	for range rounds {
		if err := ctx.Err(); err != nil {
			return nil, nil, nil, err
		}
		ns, err := rig.Namespace()
		if err != nil {
			return nil, nil, nil, err
		}
		err = errors.Join(load(r, ns, &cold, nil, 0), load(r, ns, &warm, &change, changes/rounds), unix.Close(ns))
		if err != nil {
			return nil, nil, nil, err
		}
	}
	return cold, warm, change, nil
}

// load programs everything into a namespace, as a process that starts, and then makes changes.
func load(r *rig.Rig, ns int, took, change *stat.Series, changes int) (err error) {
	conn, err := dataplane.Open(context.Background(), dataplane.Config{NetNS: ns})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	first, err := r.Start(conn)
	if err != nil {
		return err
	}
	took.AddSeconds(first.Duration)
	for range changes {
		began := time.Now()
		r.Move()
		if _, err := r.Sync(); err != nil {
			return err
		}
		change.AddMillis(time.Since(began))
	}
	return r.Stop()
}

// memory measures the whole process, fed by a real API server.
func (b *bench) memory(ctx context.Context) (err error) {
	w, err := b.world(ctx, b.services, b.endpoints)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	add := func(metric string, mb float64, goal *report.Goal) {
		r := report.Result{Section: "dataplane", Metric: metric, Proxy: "weir", Services: b.services, Endpoints: b.endpoints, Unit: "MB", Goal: goal}
		b.run.Add(r, stat.Series{mb})
	}
	p, err := w.Start(b.proxies[0])
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Stop()) }()
	ctx, cancel := p.While(ctx)
	defer cancel()
	if err := b.steady(ctx, w, p, 10*time.Second); err != nil {
		return err
	}
	now := p.Now()
	add("whole process, VmRSS after 1,000 changes", now.RSS, &report.Goal{Max: 120})
	add("whole process, RssAnon after 1,000 changes", now.Anon, nil)
	add("whole process, peak (VmHWM)", now.Peak, &report.Goal{Max: 200})
	return b.profile(w, p, "heap")
}

// steady waits until a proxy serves, makes a hundred changes a second for some time, and waits until
// it is at rest.
func (b *bench) steady(ctx context.Context, w *world.World, p *world.Running, busy time.Duration) error {
	if _, err := b.serving(ctx, w); err != nil {
		return err
	}
	if err := p.Settle(ctx, 30*time.Second); err != nil {
		return err
	}
	b.say("%s: after its start %s", p.Name, inMemory(p))
	before := p.Now()
	churn := w.StartChurn(ctx, b.endpoints, 100)
	var profiled error
	if b.keep {
		profiled = b.profile(w, p, fmt.Sprintf("profile?seconds=%.0f", busy.Seconds()))
	} else {
		profiled = sleep(ctx, busy)
	}
	cpu := p.Now().CPU - before.CPU
	if err := errors.Join(profiled, churn.Stop()); err != nil {
		return err
	}
	b.say("%d changes in %s took %s of CPU", churn.Writes.Load(), busy, cpu)
	if err := p.Settle(ctx, 60*time.Second); err != nil {
		return err
	}
	b.say("%s: after the changes %s", p.Name, inMemory(p))
	return sleep(ctx, 10*time.Second)
}

func inMemory(p *world.Running) string {
	r := p.Now()
	return fmt.Sprintf("%.0f MB (%.0f MB of it its own, peak %.0f MB)", r.RSS, r.Anon, r.Peak)
}
