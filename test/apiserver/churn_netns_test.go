//go:build linux

package apiserver

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-project/weir/internal/netlab"
)

// churn changes services and endpoints all the time.
type churn struct {
	w       *world
	stop    context.CancelFunc
	workers sync.WaitGroup
	changes atomic.Int64
	begin   time.Time

	mu  sync.Mutex // guards err
	err error
}

// The services that a churn makes and removes. Those with low numbers are dialled meanwhile.
const (
	churned   = 24
	churnedIP = 140
)

// startChurn begins to change the endpoints of the loaded service, and to make, change and remove
// others.
func (w *world) startChurn(t *testing.T) *churn {
	c := &churn{w: w, begin: time.Now()}
	ctx, cancel := context.WithCancel(t.Context())
	c.stop = cancel
	t.Cleanup(func() { cancel(); c.workers.Wait() })
	c.repeat(ctx, func(int) error {
		return w.try(ctx, w.slice(loaded, w.families()[rand.IntN(2)], someOf(loadedBy)...))
	})
	const workers = 4
	for worker := range workers {
		here := map[int]bool{}
		c.repeat(ctx, func(int) error {
			n := worker + workers*rand.IntN(churned/workers)
			name := fmt.Sprintf("churned-%d", n)
			switch {
			case !here[n]:
				here[n] = true
				return w.try(ctx, w.service(name, churnedIP+n))
			case rand.IntN(10) == 0:
				here[n] = false
				c.changes.Add(2) // its slices, too
				return w.tryRemove(ctx, name)
			default:
				hosts := someOf(backends)
				return w.try(ctx, w.slice(name, w.families()[rand.IntN(2)], hosts[:rand.IntN(len(hosts)+1)]...))
			}
		})
	}
	return c
}

// repeat does something, one time after the other, until ctx ends or it fails.
func (c *churn) repeat(ctx context.Context, change func(i int) error) {
	c.workers.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			if err := change(i); err != nil && ctx.Err() == nil {
				c.mu.Lock()
				defer c.mu.Unlock()
				c.err = err
				return
			}
			c.changes.Add(1)
		}
	})
}

// end stops the churn and returns how many changes there were a second.
func (c *churn) end(t *testing.T) float64 {
	t.Helper()
	elapsed := time.Since(c.begin)
	c.stop()
	c.workers.Wait()
	if c.err != nil {
		t.Error("churn: ", c.err)
	}
	return float64(c.changes.Load()) / elapsed.Seconds()
}

// TestNetnsNothingLeaksUnderChurn changes services and endpoints 100 times a second and more while
// connections come all the time, also to services that come and go.
func TestNetnsNothingLeaksUnderChurn(t *testing.T) {
	w := theWorld(t)
	d := running(t, w)
	w.serve(t)
	x := watch(t, w)
	from := d.size()
	l := w.startLoad(t, 1000)
	// These fail whenever their service has no endpoints, and are to be refused or dropped then.
	var others []*netlab.Load
	for n := range 4 {
		f := w.families()[n%2]
		part, err := w.lab.Host([]string{"podA", "client"}[n/2]).StartLoad(netlab.LoadConfig{
			Dst: clusterIP(f, churnedIP+n), Rate: 100, Timeout: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = part.Close() })
		others = append(others, part)
	}
	c := w.startChurn(t)
	time.Sleep(6 * time.Second)
	rate := c.end(t)
	l.stop()
	answered, attempts := 0, 0
	for _, o := range others {
		r := o.Stop()
		answered, attempts = answered+r.OK+r.BadSource, attempts+r.Attempts
	}
	leaked := x.check()
	syncs := d.syncs(from)
	ops := 0
	for _, s := range syncs {
		ops += s.ops
	}
	t.Logf("%d syncs with %d operations; %d of %d connections to services that come and go were answered, %d left untranslated",
		len(syncs), ops, answered, attempts, leaked)
	enough(t, "changes a second", rate, 100)

	// All is as if nothing had happened.
	hosts := someOf(loadedBy)
	w.scale(t, loaded, hosts...)
	for _, f := range w.families() {
		w.expect(t, "podA", clusterIP(f, loadedIP), strings.Join(hosts, " "))
	}
}

// TestNetnsStrangers has others flush and delete what is ours, under load.
func TestNetnsStrangers(t *testing.T) {
	w := theWorld(t)
	d := running(t, w)
	if !strings.Contains(d.waitLog(0, "The kernel has what is needed"), "ownedTables=true") {
		t.Skip("tables have no owners here (Linux 6.9)")
	}
	w.serve(t)
	l := w.startLoad(t, 2000)
	before, err := w.node().Run("nft", "list table ip weir")
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if _, err := w.node().Run("nft", "flush ruleset"); err != nil {
			t.Fatal(err)
		}
		for _, command := range []string{
			"delete table ip weir", "delete table ip6 weir", "flush map ip weir services", "flush chain ip weir dispatch",
			"add table ip weir { chain theirs { } ; }",
		} {
			if out, err := w.node().Run("nft", command); err == nil {
				t.Errorf("nft %s succeeds: %s", command, out)
			}
		}
		time.Sleep(150 * time.Millisecond)
	}
	l.stop()
	after, err := w.node().Run("nft", "list table ip weir")
	if err != nil || after != before {
		t.Errorf("the table is another one: %v\n%s", err, after)
	}
	if n := d.metric("weir_tables_rebuilt_total"); n != 0 {
		t.Errorf("%v tables were rebuilt", n)
	}

	// While weir is away nobody protects its tables.
	d.kill()
	if _, err := w.node().Run("nft", "flush ruleset"); err != nil {
		t.Fatal(err)
	}
	if got := w.tables(t); got != "" {
		t.Fatalf("left after a flush: %s", got)
	}
	d.start()
	watch(t, w)
	for _, f := range w.families() {
		w.expect(t, "podA", clusterIP(f, loadedIP), "podC podX podY")
	}
}
