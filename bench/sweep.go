package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weir-project/weir/bench/internal/report"
	"github.com/weir-project/weir/bench/internal/world"
)

// unbearable is the cost of one change, or of a start, above which a proxy is not taken to larger
// clusters.
const (
	unbearableChange = 15 * time.Second
	unbearableStart  = 90 * time.Second
)

// sweep measures what one change costs in clusters of growing size.
func (b *bench) sweep(ctx context.Context) (err error) {
	w, err := b.world(ctx, 0, b.sizeEndpoints)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	tooSlow := map[string]bool{}
	for _, size := range b.sizes {
		if err := w.Grow(ctx, size, b.sizeEndpoints); err != nil {
			return err
		}
		b.say("sweep: %s", report.Size(size, b.sizeEndpoints))
		for _, p := range b.proxies {
			if tooSlow[p.Name] {
				continue
			}
			f := &found{}
			slow, err := b.sweepOne(ctx, w, p, size, f)
			if ctx.Err() != nil {
				return err
			}
			if err != nil {
				b.failed("sweep", p.Name, fmt.Errorf("%s: %w", report.Size(size, b.sizeEndpoints), err))
			}
			if tooSlow[p.Name] = slow || err != nil; slow {
				b.say("%s is not taken to larger clusters", p.Name)
			}
			b.record("sweep", p.Name, size, b.sizeEndpoints, f)
		}
	}
	return nil
}

// sweepOne is the turn of one proxy in a cluster of one size.
func (b *bench) sweepOne(ctx context.Context, w *world.World, p world.Proxy, size int, f *found) (slow bool, err error) {
	few := *b
	few.services, few.endpoints, few.rounds, few.changes = size, b.sizeEndpoints, 1, min(b.changes, 50)
	few.parts = []string{"change"}
	v := visit{bench: &few, w: w, found: f}
	if err := v.run(ctx, p); err != nil {
		return false, err
	}
	for name, m := range f.values {
		s := m.values.Summarize()
		switch name {
		case changeMetric:
			slow = slow || s.P50 > float64(unbearableChange/time.Millisecond)
		case startMetric:
			slow = slow || s.P50 > unbearableStart.Seconds()
		}
	}
	return slow, nil
}

// largeService measures one change in a service with very many endpoints. Its packets cannot tell,
// so those of another service do, which is changed just after it.
func (b *bench) largeService(ctx context.Context) (err error) {
	w, err := b.world(ctx, 1, 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	large, err := w.NewService(ctx, 121, b.large)
	if err != nil {
		return err
	}
	b.say("a service with %d endpoints in the API server", b.large)
	for _, p := range b.proxies {
		f := &found{}
		one := *b
		one.parts = nil
		v := visit{bench: &one, w: w, found: f}
		err := v.withProxy(ctx, p, func(ctx context.Context) error { return v.touches(ctx, large) })
		if ctx.Err() != nil {
			return err
		}
		if err != nil {
			b.failed("large", p.Name, err)
		}
		b.record("large", p.Name, 1, b.large, f)
	}
	return nil
}

// touches changes one endpoint of a large service at a time, and then another service that tells
// when it is done: what is written first is programmed first, or with it.
func (v *visit) touches(ctx context.Context, large *world.Service) error {
	at, err := serving(ctx, v.w, large.Frontend())
	if err != nil {
		return err
	}
	v.of("process start → serves", "s", nil).seconds(at.Sub(v.p.Began))
	if err := v.p.Settle(ctx, 20*time.Second); err != nil {
		return err
	}
	v.of("memory after the start", "MB", nil).add(v.p.Now().RSS)
	m := v.of("one endpoint change in it, API write → packets", "ms", nil)
	before := v.p.Now()
	err = v.within(ctx, m, min(50, v.changes), func() error {
		began := time.Now()
		if err := large.Touch(ctx); err != nil {
			return err
		}
		l, err := v.own.Swap(ctx)
		if err != nil {
			return err
		}
		m.millis(l.Start.Sub(began))
		return nil
	})
	if err != nil {
		return err
	}
	if err := v.p.Settle(ctx, 10*time.Second); err != nil {
		return err
	}
	v.of("CPU of one change in it", "ms", nil).millis((v.p.Now().CPU - before.CPU) / time.Duration(len(m.values)))
	return nil
}
