//go:build linux

package apiserver

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/weir-project/weir/internal/kubelab"
	"github.com/weir-project/weir/internal/netlab"
)

// TestNetnsCost counts the operations of a change, from the API to the kernel, in clusters of several
// sizes: they are the same.
func TestNetnsCost(t *testing.T) {
	w := ownWorld(t, netlab.Config{}, kubelab.Config{})
	d := newDaemon(t, w)
	var first []int
	population := kubelab.Population{Endpoints: 1}
	for _, size := range []int{10, 1_000, 10_000} {
		population = w.grow(t, population, size)
		from := d.size()
		d.start()
		cold := d.syncs(from)[0]
		services, slots := d.metric("weir_services"), d.metric("weir_slots")
		if int(services) != population.Services+1 || int(slots) != population.Services {
			t.Errorf("%v services with %v slots, want %d with %d", services, slots, population.Services+1, population.Services)
		}
		ops, median := d.count(w.changes(population))
		t.Logf("%d services: %d operations at start took %s; changes took %v operations each, the median sync %s",
			population.Services, cold.ops, cold.duration, ops, median)
		if first == nil {
			first = ops
		}
		if !slices.Equal(ops, first) {
			t.Errorf("%d services: operations %v, and %v with 10 services", population.Services, ops, first)
		}
		d.kill() // what is written next does not take its time
	}
}

// grow adds services to a population until there are size.
func (w *world) grow(t *testing.T, p kubelab.Population, size int) kubelab.Population {
	t.Helper()
	begin := time.Now()
	more := p
	more.First, more.Services = p.Services, size-p.Services
	if err := w.cluster.Load(t.Context(), more); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d services are there after another %s", size, time.Since(begin).Round(time.Millisecond))
	p.Services = size
	return p
}

// count makes changes and returns the operations of each, and how long a sync took in the middle.
func (d *daemon) count(changes []change) (ops []int, median time.Duration) {
	d.t.Helper()
	var took []time.Duration
	for _, c := range changes {
		from := d.size()
		if err := c.make(d.t.Context()); err != nil {
			d.t.Fatalf("%s: %v", c.name, err)
		}
		sync := d.waitSyncs(from, 1)[0]
		if sync.ops != c.ops {
			d.t.Errorf("%s: %d operations, want %d", c.name, sync.ops, c.ops)
		}
		ops, took = append(ops, sync.ops), append(took, sync.duration)
	}
	slices.Sort(took)
	return ops, took[len(took)/2]
}

// change is something that happens to one service.
type change struct {
	name string
	make func(context.Context) error
	ops  int
}

// changes returns changes that leave everything as it was before.
func (w *world) changes(p kubelab.Population) []change {
	set := func(hosts ...byte) func(context.Context) error {
		s := p.Slices(3)[0]
		s.Endpoints = nil
		for _, h := range hosts {
			s.Endpoints = append(s.Endpoints, endpoint(netip.AddrFrom4([4]byte{100, 127, 0, h}).String(), true))
		}
		return func(ctx context.Context) error { return w.try(ctx, s) }
	}
	extra := w.service("extra", 90)
	slice := w.slice("extra", 4, "podX")
	slice.Ports = []discoveryv1.EndpointPort{slice.Ports[0]}
	return []change{
		{"an endpoint becomes another, and a second one comes", set(1, 2), 5},
		{"an endpoint moves", set(1, 3), 2},
		{"an endpoint comes, and the class changes", set(1, 3, 4), 3},
		{"an endpoint comes", set(1, 3, 4, 5), 1},
		{"the first of four endpoints goes", set(3, 4, 5), 3},
		{"the first of three goes, and the class changes", set(3, 4), 5},
		{"a service of both families and two ports comes", func(ctx context.Context) error { return w.try(ctx, extra) }, 6},
		{"one of its ports has an endpoint", func(ctx context.Context) error { return w.try(ctx, slice) }, 3},
		{"the service goes, and then its slice", func(ctx context.Context) error { return w.tryRemove(ctx, extra.Name) }, 7},
		{"as it was", func(ctx context.Context) error { return w.try(ctx, p.Slices(3)[0]) }, 5},
	}
}
