//go:build linux

package apiserver

import (
	"math/rand/v2"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// enough says how much of something there was, and that it was less than it should be if so. On a
// machine that is busy with other things that is no error, unless it was next to nothing.
func enough(t *testing.T, what string, got, want float64) {
	t.Helper()
	switch {
	case got < want/10:
		t.Errorf("%.0f %s, want %.0f", got, what, want)
	case got < want:
		t.Logf("ONLY %.0f %s, this was to be %.0f: the machine is too slow or too busy", got, what, want)
	default:
		t.Logf("%.0f %s", got, what)
	}
}

// someOf returns some of the hosts that may answer a load, at least one, in any order.
func someOf(hosts []string) (some []string) {
	for _, i := range rand.Perm(len(hosts))[:1+rand.IntN(len(hosts))] {
		some = append(some, hosts[i])
	}
	return some
}

// TestNetnsKilledUnderLoad kills weir and starts it again while connections come all the time. Services
// come and go meanwhile, and in the end the API server is away, too.
func TestNetnsKilledUnderLoad(t *testing.T) {
	w := theWorld(t)
	d := running(t, w)
	w.serve(t)
	x := watch(t, w)
	l := w.startLoad(t, 2500)
	const rounds = 8
	for i := range rounds {
		time.Sleep(time.Duration(200+rand.IntN(300)) * time.Millisecond)
		if i%3 == 2 {
			d.terminate()
		} else {
			d.kill()
		}
		// What happens while nobody looks.
		w.scale(t, loaded, someOf(loadedBy)...)
		if i > 0 {
			w.remove(t, "passing")
		}
		w.put(t, w.service("passing", 120+i))
		w.scale(t, "passing", "podA")
		d.start()
		w.expect(t, "podB", clusterIP(4, 120+i), "podA")
		if i > 0 {
			w.expect(t, "podB", clusterIP(6, 119+i), "dropped")
		}
	}
	enough(t, "new connections a second", l.stop(), 2000)
	if leaked := x.check(); leaked > 0 {
		t.Fatal("during restarts")
	}

	// Now there is nobody to tell what there should be. All stays as it is.
	d.forbidden = true
	l = w.startLoad(t, 1000) // an API server that starts needs a processor, too
	if err := w.cluster.KillAPIServer(); err != nil {
		t.Fatal(err)
	}
	d.kill()
	from := d.size()
	d.launch()
	d.waitLog(from, "cannot be reached")
	time.Sleep(2 * time.Second)
	if got := d.syncs(from); len(got) > 0 {
		t.Errorf("weir has written something (%+v) before it could know what", got)
	}
	if status, _, err := d.get(healthz); status != http.StatusServiceUnavailable || err != nil {
		t.Errorf("healthz without an API server: %d, %v", status, err)
	}
	w.expect(t, "podB", clusterIP(6, 120+rounds-1), "podA")
	if err := w.cluster.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.waitSyncs(from, 1)
	w.scale(t, "passing", "podB")
	w.expect(t, "podC", clusterIP(4, 120+rounds-1), "podB")
	time.Sleep(300 * time.Millisecond)
	l.stop()
}

// TestNetnsAPIServerAway stops and kills the API server while weir runs.
func TestNetnsAPIServerAway(t *testing.T) {
	w := theWorld(t)
	d := running(t, w)
	d.forbidden = true
	w.serve(t)
	w.put(t, w.service("stays", 20), w.service("goes", 21))
	w.scale(t, "stays", "podB")
	w.scale(t, "goes", "podB")
	w.expect(t, "podA", clusterIP(4, 21), "podB")
	watch(t, w)
	l := w.startLoad(t, 600)
	for _, away := range []struct {
		name string
		end  func() error
	}{{"stopped", w.cluster.StopAPIServer}, {"killed", w.cluster.KillAPIServer}} {
		if err := away.end(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(500 * time.Millisecond)
		w.expect(t, "podA", clusterIP(4, 20), "podB")
		if err := w.cluster.StartAPIServer(t.Context()); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		hosts := someOf(loadedBy)
		w.scale(t, loaded, hosts...)
		for _, f := range w.families() {
			w.expect(t, "podA", clusterIP(f, loadedIP), strings.Join(hosts, " "))
		}
		t.Logf("%s: the first change is in the kernel %s after the API server was ready", away.name, time.Since(begin).Round(time.Millisecond))
	}

	// What is deleted while weir's watches are broken and nobody remembers the event: weir sleeps, and
	// the API server that has seen it is gone as well when it wakes up.
	if err := d.proc.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	restart := func() {
		if err := w.cluster.KillAPIServer(); err != nil {
			t.Fatal(err)
		}
		if err := w.cluster.StartAPIServer(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	restart()
	w.remove(t, "goes")
	w.scale(t, "stays", "podC")
	restart()
	if err := d.proc.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	for _, f := range w.families() {
		w.expect(t, "podA", clusterIP(f, 20), "podC")
		w.expect(t, "podA", clusterIP(f, 21), "dropped")
	}
	if got := d.metric("weir_services"); got != 4 {
		t.Errorf("weir knows %v services, want 4", got)
	}
	l.stop()
}
