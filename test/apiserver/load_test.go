//go:build linux

package apiserver

import (
	"net/netip"
	"testing"
	"time"

	"github.com/weir-project/weir/internal/netlab"
)

// The services that loads go to. The endpoints of the second one stay. A UDP exchange with an endpoint
// that goes is lost when it is under way: weir makes conntrack forget it, so that its client does
// not go on talking to nobody.
const (
	loaded     = "loaded"
	loadedIP   = 100
	loadedPort = 31080 // of the node; UDP is one more
	steady     = "steady"
	steadyIP   = 101
)

// loadedBy are the hosts that may answer a load. All do all the time, endpoints or not.
var loadedBy = []string{"podC", "podX", "podY"}

// load is a mixture of continuous new connections from everywhere.
type load struct {
	t     *testing.T
	names []string
	parts []*netlab.Load
	begin time.Time
}

// serve writes the services that loads go to, and waits until they answer.
func (w *world) serve(t *testing.T) {
	t.Helper()
	w.put(t, nodePort(w.service(loaded, loadedIP), loadedPort), w.service(steady, steadyIP))
	w.scale(t, loaded, loadedBy...)
	w.scale(t, steady, loadedBy...)
	for _, f := range w.families() {
		w.expect(t, "podA", clusterIP(f, steadyIP), "podC podX podY")
		w.expect(t, "podA", clusterIP(f, loadedIP), "podC podX podY")
		w.expect(t, "client", netip.AddrPortFrom(f.of(w.node()), loadedPort), "podC podX podY as node")
	}
}

// startLoad begins to make some rate of new connections a second.
func (w *world) startLoad(t *testing.T, rate int) *load {
	t.Helper()
	l := &load{t: t, begin: time.Now()}
	add := func(name, from string, percent int, cfg netlab.LoadConfig, as string) {
		f := family(6)
		if cfg.Dst.Addr().Is4() {
			f = 4
		}
		cfg.Rate = rate * percent / 100
		// On a machine that is busy with other things, at the latest when the API server starts, an exchange
		// may take long. The load gives way then, so that what fails does not fail for that.
		cfg.Timeout, cfg.MaxOpen = 10*time.Second, max(8, cfg.Rate/8)
		cfg.WantSources = []netip.Addr{f.of(w.lab.Host(as))}
		for _, name := range loadedBy {
			cfg.WantBy = append(cfg.WantBy, netip.AddrPortFrom(f.of(w.lab.Host(name)), backendPort))
		}
		part, err := w.lab.Host(from).StartLoad(cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = part.Close() })
		l.names, l.parts = append(l.names, name), append(l.parts, part)
	}
	nodePort4, nodePort6 := netip.AddrPortFrom(w.node().Addr4, loadedPort), netip.AddrPortFrom(w.node().Addr6, loadedPort)
	add("pod to ClusterIP", "podA", 30, netlab.LoadConfig{Dst: clusterIP(4, loadedIP)}, "podA")
	add("pod to ClusterIP, IPv6, UDP", "podB", 10, netlab.LoadConfig{Dst: clusterIP(6, steadyIP), Proto: netlab.UDP}, "podB")
	add("client to ClusterIP, IPv6", "client", 20, netlab.LoadConfig{Dst: clusterIP(6, loadedIP)}, "node")
	add("client to NodePort", "client2", 20, netlab.LoadConfig{Dst: nodePort4}, "node")
	add("client to NodePort, IPv6", "client2", 10, netlab.LoadConfig{Dst: nodePort6}, "node")
	add("node to ClusterIP", "node", 10, netlab.LoadConfig{Dst: clusterIP(4, loadedIP)}, "node")
	return l
}

// stop ends the load. Nothing of it may have gone wrong.
func (l *load) stop() (rate float64) {
	l.t.Helper()
	attempts, held, bad, elapsed := 0, 0, 0, time.Duration(0)
	for i, p := range l.parts {
		r := p.Stop()
		attempts, held, elapsed = attempts+r.Attempts, held+r.Held, max(elapsed, r.Elapsed)
		if r.OK != r.Attempts {
			bad += r.Attempts - r.OK
			l.t.Errorf("%s, %s: %s", l.names[i], l.begin.Format("15:04:05.000"), r)
		}
	}
	rate = float64(attempts) / elapsed.Seconds()
	l.t.Logf("%d connections in %s, %.0f a second: %d went wrong (%d more were due, but this machine had no time)",
		attempts, elapsed.Round(time.Millisecond), rate, bad, held)
	return rate
}
