package counted

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weir-project/weir/bench/internal/rig"
	"github.com/weir-project/weir/dataplane"
)

var update = flag.Bool("update", false, "write what is counted to counted.json")

const file = "counted.json"

// cost is what one change takes.
type cost struct {
	Change       string `json:"change"`
	Services     int    `json:"services"`
	Transactions uint64 `json:"transactions"`
	Elements     uint64 `json:"elements"`
	NetlinkBytes uint64 `json:"netlinkBytes"`
	Allocations  uint64 `json:"allocations"`
}

func (c cost) String() string {
	return fmt.Sprintf("%d transactions, %d elements, %d bytes of netlink, %d allocations",
		c.Transactions, c.Elements, c.NetlinkBytes, c.Allocations)
}

var sizes = []int{10, 1_000, 10_000}

func TestCountedCosts(t *testing.T) {
	var got []cost
	for _, services := range sizes {
		got = append(got, count(t, services)...)
	}
	if *update {
		write(t, got)
		return
	}
	want := read(t)
	if len(got) != len(want) {
		t.Errorf("%d costs counted, %s has %d: run with -update", len(got), file, len(want))
	}
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Errorf("%s, %d services: %s\n\t%s has %s\n\tIf that is meant: go test ./counted -update, and say why in the commit.",
				got[i].Change, got[i].Services, got[i], file, want[i])
		}
	}
}

// The claim itself, whatever the figures are.
func TestCostDoesNotDependOnTheCluster(t *testing.T) {
	small := map[string]cost{}
	for _, c := range read(t) {
		of := c.Services
		if c.Services = 0; of == sizes[0] {
			small[c.Change] = c
		} else if c != small[c.Change] {
			t.Errorf("%s: %s with %d services, %s with %d", c.Change, small[c.Change], sizes[0], c, of)
		}
	}
}

// count counts every change in a cluster of some services: first what goes to the kernel, then what is
// allocated on the way there.
func count(t *testing.T, services int) []cost {
	r := rig.New(services, rig.Endpoints)
	var costs []cost
	conn := open(t)
	start(t, r, conn)
	every(t, r, func(c rig.Change) {
		before := conn.Stats()
		once(t, r, c)
		after := conn.Stats()
		costs = append(costs, cost{Change: c.Name, Services: services,
			Transactions: after.Transactions - before.Transactions,
			Elements:     after.Elements - before.Elements,
			NetlinkBytes: after.Bytes - before.Bytes})
	})
	stop(t, r)
	allocations := usualAllocations(t, r)
	for i := range costs {
		costs[i].Allocations = allocations[costs[i].Change]
	}
	return costs
}

// usualAllocations returns how many allocations each change is usually made with, from event to commit,
// without the kernel's part: the median. Now and then a map or the runtime makes room for many, or
// the loop finds a change without having to wait for it.
func usualAllocations(t *testing.T, r *rig.Rig) map[string]uint64 {
	start(t, r, rig.Yes{})
	defer stop(t, r)
	// The first 255 revisions are small numbers, which need no allocation to be logged.
	for range 50 {
		every(t, r, func(c rig.Change) { once(t, r, c) })
	}
	all := map[string][]uint64{}
	var before, after runtime.MemStats
	for range 101 {
		every(t, r, func(c rig.Change) {
			runtime.ReadMemStats(&before)
			once(t, r, c)
			runtime.ReadMemStats(&after)
			all[c.Name] = append(all[c.Name], after.Mallocs-before.Mallocs)
		})
	}
	usual := map[string]uint64{}
	for name, counts := range all {
		slices.Sort(counts)
		usual[name] = counts[len(counts)/2]
	}
	return usual
}

func start(t *testing.T, r *rig.Rig, k rig.Kernel) {
	t.Helper()
	if _, err := r.Start(k); err != nil {
		t.Fatal(err)
	}
}

func stop(t *testing.T, r *rig.Rig) {
	t.Helper()
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
}

// every makes every change once.
func every(t *testing.T, r *rig.Rig, do func(rig.Change)) {
	t.Helper()
	for _, pair := range rig.Pairs {
		for _, c := range pair {
			do(c)
		}
	}
}

func once(t *testing.T, r *rig.Rig, c rig.Change) {
	t.Helper()
	c.Do(r)
	if _, err := r.Sync(); err != nil {
		t.Fatalf("%s: %v", c.Name, err)
	}
}

// open opens a dataplane in a network namespace of its own.
func open(t *testing.T) *dataplane.Conn {
	t.Helper()
	ns, err := rig.Namespace()
	if errors.Is(err, unix.EPERM) && os.Getenv("CI") == "" {
		t.Skip("needs network namespaces (CAP_SYS_ADMIN): run as root, or unshare -rn")
	}
	if err != nil {
		t.Fatal(err)
	}
	conn, err := dataplane.Open(context.Background(), dataplane.Config{NetNS: ns})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(conn.Close(), unix.Close(ns)); err != nil {
			t.Error(err)
		}
	})
	return conn
}

func read(t *testing.T) (costs []cost) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(b, &costs)
	}
	if err != nil {
		t.Fatal(err)
	}
	return costs
}

// write has a line for every cost, so that a diff shows what has changed.
func write(t *testing.T, costs []cost) {
	t.Helper()
	text := "[\n"
	for i, c := range costs {
		line, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		text += "  " + string(line)
		if i < len(costs)-1 {
			text += ","
		}
		text += "\n"
	}
	if err := os.WriteFile(file, []byte(text+"]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}
