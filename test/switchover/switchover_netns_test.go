//go:build linux

package switchover

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var modes = []mode{
	{"nftables", "nft"},
	{"iptables", "nft"},
	{"iptables", "legacy"},
}

// phase is how long the traffic goes on undisturbed before and after each event.
const phase = time.Second

func TestNetnsSwitch(t *testing.T) {
	for _, m := range modes {
		t.Run(m.name+"-"+m.iptables, func(t *testing.T) {
			require(t, "nft", "iptables-"+m.iptables, "ip6tables-"+m.iptables)
			w := newWorld(t, m)
			w.addNeighbours()
			before := w.neighbourhood()
			w.checkMappings("before")

			w.proxy.start()
			w.await("kube-proxy has written the Service", w.complete)
			w.checkMappings("with kube-proxy")
			w.control()
			w.there()
			w.checkNeighbours(before, "after the take-over")
			w.back()
			w.end(before)
		})
	}
}

// control shows what goes wrong when kube-proxy alone is killed and started again.
func (w *world) control() {
	w.t.Helper()
	traffic := w.startTraffic()
	time.Sleep(phase)
	w.proxy.end(syscall.SIGKILL)
	time.Sleep(phase)
	w.proxy.start()
	time.Sleep(2 * phase)
	failed, summary := traffic.stop()
	w.t.Logf("control, kube-proxy killed and started: %s", summary)
	if failed > 0 {
		w.t.Logf("kube-proxy alone loses connections here: take that into account below")
	}
}

// there switches from kube-proxy to weir.
func (w *world) there() {
	w.t.Helper()
	traffic := w.startTraffic()
	time.Sleep(phase)

	// Too early: kube-proxy still runs. It is named, and its rules stay.
	w.weir.start()
	w.await("weir says that kube-proxy runs", func() bool { return strings.Contains(w.weir.logged(), "kube-proxy is running") })
	w.await("weir waits for it to end", func() bool { return strings.Contains(w.weir.logged(), "Waiting for kube-proxy to end") })
	time.Sleep(phase)
	if len(w.kubeProxyRules()) == 0 {
		w.t.Error("the rules of a running kube-proxy were removed")
	}
	w.checkMappings("with both")
	w.weir.end(syscall.SIGTERM)
	w.run(binary, "cleanup")
	time.Sleep(phase)

	// As it should be: kube-proxy is gone, and its rules serve until ours do.
	w.proxy.end(syscall.SIGKILL)
	time.Sleep(phase)
	w.weir.start()
	w.await("kube-proxy's rules are gone", func() bool { return len(w.kubeProxyRules()) == 0 })
	time.Sleep(2 * phase)
	w.report("kube-proxy to weir", traffic)
	w.checkMappings("with weir")
}

// back switches from weir to kube-proxy.
func (w *world) back() {
	w.t.Helper()
	traffic := w.startTraffic()
	time.Sleep(phase)
	w.proxy.start()
	w.await("kube-proxy has written the Service", w.complete)
	time.Sleep(phase)
	w.weir.end(syscall.SIGTERM)
	time.Sleep(phase)
	w.run(binary, "cleanup")
	time.Sleep(2 * phase)
	if tables := w.run("nft", "list", "tables"); strings.Contains(tables, "weir") {
		w.t.Errorf("after weir cleanup:\n%s", tables)
	}
	w.report("weir to kube-proxy", traffic)
	w.checkMappings("with kube-proxy again")
}

// end takes kube-proxy's rules away by a last switch, and ours too: nothing but the neighbours' is left.
func (w *world) end(before string) {
	w.t.Helper()
	w.proxy.end(syscall.SIGTERM)
	w.weir.start()
	w.await("kube-proxy's rules are gone", func() bool { return len(w.kubeProxyRules()) == 0 })
	w.weir.end(syscall.SIGTERM)
	w.run(binary, "cleanup")
	w.checkNeighbours(before, "at the end")
	w.checkMappings("at the end")
	if tables := w.run("nft", "list", "tables"); strings.Contains(tables, "weir") || strings.Contains(tables, "kube-proxy") {
		w.t.Errorf("at the end there are tables\n%s", tables)
	}
}

func (w *world) report(what string, traffic *traffic) {
	w.t.Helper()
	failed, summary := traffic.stop()
	w.t.Logf("%s: %s", what, summary)
	if failed > 0 {
		w.t.Errorf("%s: %d connections went wrong", what, failed)
	}
}

func (w *world) checkNeighbours(before, when string) {
	w.t.Helper()
	if diff := cmp.Diff(strings.Split(before, "\n"), strings.Split(w.neighbourhood(), "\n")); diff != "" {
		w.t.Errorf("%s: the rules of others have changed (-before +now):\n%s", when, diff)
	}
}

// rounds of TestNetnsBackAndForth: what goes wrong for some microseconds only takes many tries to be seen.
const rounds = 15

// TestNetnsBackAndForth starts weir beside a kube-proxy that runs, and removes it again, over and over.
func TestNetnsBackAndForth(t *testing.T) {
	require(t, "nft")
	w := newWorld(t, modes[0])
	w.proxy.start()
	w.await("kube-proxy has written the Service", w.complete)
	traffic := w.startTraffic()
	for round := 1; round <= rounds; round++ {
		w.weir.start()
		w.await("weir has synced", func() bool { return strings.Count(w.weir.logged(), `"Synced"`) >= round })
		w.weir.end(syscall.SIGTERM)
		w.run(binary, "cleanup")
	}
	w.report("back and forth", traffic)
}
