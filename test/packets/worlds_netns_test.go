//go:build linux

package packets

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weir-project/weir/internal/netlab"
)

// Every world begins with a weir of its own, and goes through its steps in order.
func TestNetnsFresh(t *testing.T) {
	t.Parallel()
	lab, witness := newLab(t, netlab.Config{})
	for _, w := range worlds {
		t.Run(w.name, func(t *testing.T) { fresh(t, lab, witness, w) })
	}
}

// fresh plays a world on a weir of its own.
func fresh(t *testing.T, lab *netlab.Lab, witness *witness, w world) {
	d := newDaemon(t, lab, w.flags...)
	s := &stage{lab: lab, witness: witness, daemon: d}
	defer func() {
		if _, err := s.hold(""); err != nil {
			t.Error(err)
		}
		d.stop()
		if err := d.cleanup(); err != nil {
			t.Error(err)
		}
		if left, err := tables(lab); err != nil || len(left) != 1 {
			t.Errorf("tables after cleanup: %q, %v; want the witness alone", left, err)
		}
	}()
	began := time.Now()
	if err := d.first(&w); err != nil {
		startFailed(t, &w, err)
		return
	}
	if why, late := pendingWorlds[w.name]; late {
		t.Errorf("pending (%s), but weir starts: take it off the list", why)
	}
	for _, st := range w.steps {
		outcomes, err := s.play(&w, st)
		if err != nil {
			t.Fatal(err)
		}
		if l := label(st); l != "" {
			t.Run(l, func(t *testing.T) { report(t, outcomes) })
		} else {
			report(t, outcomes)
		}
	}
	d.finish(t)
	for _, want := range w.logs {
		if !strings.Contains(d.logged(), want) {
			t.Errorf("not in the log: %q", want)
		}
	}
	t.Logf("%s", time.Since(began).Round(time.Millisecond))
}

// startFailed reports that weir did not start, which may be pending.
func startFailed(t *testing.T, w *world, err error) {
	t.Helper()
	if why, late := pendingWorlds[w.name]; late && errors.Is(err, errEnded) {
		t.Skipf("pending: %s\n%v", why, err)
	}
	t.Fatal(err)
}

// tables lists the node's tables.
func tables(lab *netlab.Lab) ([]string, error) {
	out, err := lab.Host("node").Run("nft", "list tables")
	return strings.FieldsFunc(out, func(r rune) bool { return r == '\n' }), err
}

// The steps of all worlds in random order on one weir for each set of flags, which learns of them
// by what changes in its directory.
func TestNetnsLongLived(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("WEIR_PACKETS_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("WEIR_PACKETS_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	lab, witness := newLab(t, netlab.Config{})
	var sets []string
	worldsOf := map[string][]world{}
	for _, w := range worlds {
		flags := strings.Join(w.flags, " ")
		if _, late := pendingWorlds[w.name]; late {
			continue // TestNetnsFresh looks whether it still is
		}
		if worldsOf[flags] == nil {
			sets = append(sets, flags)
		}
		worldsOf[flags] = append(worldsOf[flags], w)
	}
	for _, flags := range sets {
		t.Run(cmpOr(flags, "no flags"), func(t *testing.T) { longLived(t, lab, witness, worldsOf[flags], random) })
	}
}

type scene struct {
	world world
	step  step
}

func longLived(t *testing.T, lab *netlab.Lab, witness *witness, worlds []world, random *rand.Rand) {
	var scenes []scene
	for _, w := range worlds {
		for _, st := range w.steps {
			scenes = append(scenes, scene{w, st})
		}
	}
	random.Shuffle(len(scenes), func(i, j int) { scenes[i], scenes[j] = scenes[j], scenes[i] })
	d := newDaemon(t, lab, worlds[0].flags...)
	s := &stage{lab: lab, witness: witness, daemon: d}
	if err := d.tryStart(); err != nil {
		t.Fatal(err)
	}
	for i, sc := range scenes {
		outcomes, err := s.play(&sc.world, sc.step)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(fmt.Sprintf("%d/%s/%s", i, sc.world.name, label(sc.step)), func(t *testing.T) { report(t, outcomes) })
	}
	if _, err := s.hold(""); err != nil {
		t.Error(err)
	}
	d.finish(t)
	if err := d.cleanup(); err != nil {
		t.Error(err)
	}
}

// Where IPv6 is switched off, IPv4 is as everywhere.
func TestNetnsIPv4Only(t *testing.T) {
	t.Parallel()
	lab, witness := newLab(t, netlab.Config{IPv4Only: true})
	for _, w := range worlds {
		if !slices.Contains([]string{"cluster-ip", "node-port", "external-ip"}, w.name) {
			continue
		}
		w.logs = append(slices.Clone(w.logs), "no IPv6")
		t.Run(w.name, func(t *testing.T) { fresh(t, lab, witness, w) })
	}
}
