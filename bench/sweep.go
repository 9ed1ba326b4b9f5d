package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weir-project/weir/bench/internal/report"
	"github.com/weir-project/weir/bench/internal/world"
)

// What one change, or a start, may be expected to take if a proxy is to be taken to a larger cluster.
const (
	bearableChange = 15 * time.Second
	bearableStart  = 90 * time.Second
)

// sweep measures what one change costs in clusters of growing size.
func (b *bench) sweep(ctx context.Context) (err error) {
	w, err := b.world(ctx, 0, b.sizeEndpoints)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	left, earlier := map[string]bool{}, map[string]point{}
	for i, size := range b.sizes {
		began := time.Now()
		if err := w.Grow(ctx, size, b.sizeEndpoints); err != nil {
			return err
		}
		b.say("sweep, %d of %d: %s in the API server after %s more", i+1, len(b.sizes), report.Size(size, b.sizeEndpoints), time.Since(began).Round(time.Millisecond))
		for _, p := range b.proxies {
			if left[p.Name] {
				continue
			}
			f := &found{}
			err := b.sweepOne(ctx, w, p, size, f)
			if ctx.Err() != nil {
				return err
			}
			b.record("sweep", p.Name, size, b.sizeEndpoints, f)
			if err != nil {
				b.failed("sweep", p.Name, fmt.Errorf("%s: %w", report.Size(size, b.sizeEndpoints), err))
				left[p.Name] = true
			} else if i+1 < len(b.sizes) {
				left[p.Name] = b.unbearable(p.Name, earlier, f, size, b.sizes[i+1])
			}
		}
	}
	return nil
}

// sweepOne is the turn of one proxy in a cluster of one size.
func (b *bench) sweepOne(ctx context.Context, w *world.World, p world.Proxy, size int, f *found) error {
	few := *b
	few.services, few.endpoints, few.rounds, few.changes = size, b.sizeEndpoints, 1, min(b.changes, 50)
	few.parts = []string{"change"}
	v := visit{bench: &few, w: w, found: f}
	return v.run(ctx, p)
}

// point is what a proxy took in a cluster of some size.
type point struct {
	size          int
	change, start float64 // s
}

// at goes on from p, and from an earlier point before it, to a larger cluster, in a straight line.
func (p point) at(size int, before point) point {
	further := float64(size-p.size) / float64(p.size-before.size)
	return point{size, p.change + further*(p.change-before.change), p.start + further*(p.start-before.start)}
}

// unbearable reports whether a proxy must be expected to take too long in the next larger cluster.
func (b *bench) unbearable(proxy string, earlier map[string]point, f *found, size, next int) bool {
	median := func(metric string) float64 {
		if m := f.values[metric]; m != nil {
			return m.values.Summarize().P50
		}
		return 0
	}
	now := point{size, median(changeMetric) / 1e3, median(startMetric)}
	will := now
	if before, ok := earlier[proxy]; ok {
		will = now.at(next, before)
	}
	earlier[proxy] = now
	if will.change <= bearableChange.Seconds() && will.start <= bearableStart.Seconds() {
		return false
	}
	b.note("%s is not taken to %d services: with %d a change took %.1f s and a start %.1f s, so that %.0f s and %.0f s are to be expected there",
		proxy, next, size, now.change, now.start, will.change, will.start)
	return true
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
		one.services, one.endpoints, one.parts = 1, b.large, nil
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
	at, err := v.serving(ctx, v.w, large.Frontend())
	if err != nil {
		return err
	}
	v.of("process start → serves", "s", nil).seconds(at.Sub(v.p.Began))
	if err := v.p.Settle(ctx, 20*time.Second); err != nil {
		return err
	}
	v.of("memory after the start", "MB", nil).add(v.p.Now().RSS)
	m := v.of("one endpoint change in it, API write → packets", "ms", nil)
	response := v.of("the same, from the API server's response to the second write", "ms", &report.Goal{P99: 10})
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
		response.millis(l.FromResponse)
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
