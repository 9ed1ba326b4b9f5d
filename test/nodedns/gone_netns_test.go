//go:build linux

package nodedns

import (
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestNetnsKilled has other endpoints answer after a SIGKILL: the next UDP query of a pod, everything
// else once the lease has ended.
func TestNetnsKilled(t *testing.T) {
	w := newWorld(t, true)
	w.start()
	w.must(w.proc.Close())
	killed := time.Now()
	w.proc = nil
	for _, server := range []netip.AddrPort{dns4, dns6} {
		w.now(client{"podA", "udp", server}, byOther)
	}
	if took := time.Since(killed); took > lease {
		t.Errorf("the next queries of a pod took %v: that they do not wait for the lease is not shown", took)
	}
	w.all(killed, byOther, lease+slack, "podA", "podB", "node")
	// Whom they take the node for.
	for _, c := range w.clients("node") {
		m, err := w.query(c, "who.am.i.", dns.TypeTXT, 5*time.Second)
		if err != nil || len(m.Answer) != 1 {
			t.Errorf("%s: %v, %v", c, m, err)
			continue
		}
		seen, err := netip.ParseAddrPort(m.Answer[0].(*dns.TXT).Txt[0])
		if want := map[bool]netip.Addr{true: w.node.Addr4, false: w.node.Addr6}[c.server.Addr().Is4()]; err != nil || seen.Addr() != want {
			t.Errorf("%s is seen as %v, want %v", c, seen, want)
		}
	}
	w.start()
}

// all wants every client of hosts to be answered by somebody by a time after something happened.
func (w *world) all(since time.Time, who string, within time.Duration, hosts ...string) {
	w.t.Helper()
	var waiting sync.WaitGroup
	for _, c := range w.clients(hosts...) {
		waiting.Go(func() { w.eventually(c, who, within-time.Since(since)) })
	}
	waiting.Wait()
	w.t.Logf("all of %v are answered by %s %v later", hosts, who, time.Since(since).Round(time.Millisecond))
}

// TestNetnsHung has other endpoints answer while weir hangs, and weir again when it goes on.
func TestNetnsHung(t *testing.T) {
	w := newWorld(t, true)
	w.start()
	w.must(w.proc.Signal(syscall.SIGSTOP))
	w.all(time.Now(), byOther, lease+slack, "podA", "podB", "node")
	w.must(w.proc.Signal(syscall.SIGCONT))
	w.all(time.Now(), byWeir, lease+slack, "podA", "podB", "node")
}

// TestNetnsNotSynced has other endpoints answer as long as weir does not know all names.
func TestNetnsNotSynced(t *testing.T) {
	w := newWorld(t, true)
	w.start()
	w.stop()
	config := filepath.Join(w.dir, "kubeconfig")
	w.must(os.WriteFile(config, []byte(`{apiVersion: v1, kind: Config, current-context: c,
clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}], contexts: [{name: c, context: {cluster: c}}]}`), 0o600))
	args := append([]string{"run", "--kubeconfig", config}, w.args[3:]...)
	w.launch(args...)
	w.waitListening("127.0.0.1:10256")
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		for _, c := range w.clients("podA", "node") {
			w.now(c, byOther)
		}
	}
	if code, page := w.get("127.0.0.1:10256/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(page, "[-]dns: names are not served yet") {
		t.Errorf("/readyz says %d %s", code, page)
	}
	if !strings.Contains(w.run("ip", "-o", "addr", "show", "dev", "lo"), dns4.Addr().String()) {
		t.Error("the address is gone from lo: that clients get by with it is not shown")
	}
	w.stop()
	w.start()
}

// waitListening waits until weir serves a page on the node.
func (w *world) waitListening(addr string) {
	w.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		c, err := w.node.Dial(w.t.Context(), "tcp", addr)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("weir does not listen at %s: %v", addr, err)
		}
	}
}

// TestNetnsAlone has nobody else to answer: clients are told so at once, and are answered again after
// the start.
func TestNetnsAlone(t *testing.T) {
	w := newWorld(t, false)
	w.start()
	w.must(w.proc.Close())
	w.proc = nil
	time.Sleep(lease)
	for _, c := range w.clients("podA", "node") {
		w.refused(c.host, c.network, c.server)
	}
	w.start()
	w.stop()
	for _, c := range w.clients("podA", "node") {
		w.refused(c.host, c.network, c.server)
	}
}

// TestNetnsRepaired takes away the address, and tries to take away the rules.
func TestNetnsRepaired(t *testing.T) {
	w := newWorld(t, false)
	w.start()
	w.run("ip", "addr", "del", "10.96.0.10/32", "dev", "lo")
	w.run("ip", "addr", "del", "fd00:10:96::a/128", "dev", "lo")
	w.all(time.Now(), byWeir, lease+slack, "podA", "node")
	_, _ = w.node.Run("nft", "flush", "ruleset")
	w.all(time.Now(), byWeir, lease+slack, "podA", "node")
}

// TestNetnsCleanup removes the addresses that weir has put on lo, but not somebody else's; and weir
// removes those that it had put there for an earlier configuration.
func TestNetnsCleanup(t *testing.T) {
	w := newWorld(t, false)
	w.run("ip", "addr", "add", "10.96.0.99/32", "dev", "lo")
	w.run("ip", "addr", "add", "fd00:10:96::99/128", "dev", "lo", "nodad", "preferred_lft", "0")
	w.start()
	w.stop()
	has := func(addrs ...string) {
		t.Helper()
		out := w.run("ip", "-o", "addr", "show", "dev", "lo")
		for _, a := range addrs {
			if !strings.Contains(out, a) {
				t.Errorf("%s is gone from lo:\n%s", a, out)
			}
		}
		if n := strings.Count(out, "10.96.0.") + strings.Count(out, "fd00:10:96:"); n != len(addrs) {
			t.Errorf("lo has %d addresses, want %v:\n%s", n, addrs, out)
		}
	}
	has("10.96.0.10", "10.96.0.99", "fd00:10:96::a/", "fd00:10:96::99")
	for i, arg := range w.args {
		if arg == "--dns-address" {
			w.args[i+1] = dns4.Addr().String() // no longer the other
		}
	}
	w.launch()
	w.eventually(client{"podA", "udp", dns4}, byWeir, patience)
	for end := time.Now().Add(patience); strings.Contains(w.run("ip", "-o", "addr", "show", "dev", "lo"), "fd00:10:96::a/") && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
	}
	has("10.96.0.10", "10.96.0.99", "fd00:10:96::99")
	w.stop()
	w.run(binary, "cleanup")
	has("10.96.0.99", "fd00:10:96::99")
	if out := w.run("nft", "list", "ruleset"); out != "" {
		t.Errorf("left after cleanup:\n%s", out)
	}
}

// load asks again and again from every kind of client, and counts.
type load struct {
	w       *world
	tries   func(c client) int // how often a name is asked for before it is lost
	timeout time.Duration      // of one try
	stop    chan struct{}
	running sync.WaitGroup

	mu   sync.Mutex
	by   map[string]int
	lost []string
}

func (w *world) startLoad(timeout time.Duration, tries func(c client) int) *load {
	l := &load{w: w, tries: tries, timeout: timeout, stop: make(chan struct{}), by: map[string]int{}}
	for _, c := range w.clients("podA", "podB", "node") {
		l.running.Go(func() {
			for {
				select {
				case <-l.stop:
					return
				case <-time.After(5 * time.Millisecond):
					l.once(c)
				}
			}
		})
	}
	return l
}

// once asks for one name, as often as a resolver would.
func (l *load) once(c client) {
	var errs []string
	for range l.tries(c) {
		began := time.Now()
		who, err := l.w.ask(c, inside, l.timeout)
		if err == nil && who != "" {
			l.mu.Lock()
			l.by[who]++
			l.mu.Unlock()
			return
		}
		errs = append(errs, fmt.Sprint(err))
		time.Sleep(min(l.timeout, 250*time.Millisecond) - min(time.Since(began), 250*time.Millisecond)) // a refusal comes at once
	}
	l.mu.Lock()
	l.lost = append(l.lost, fmt.Sprintf("%s: %s", c, strings.Join(errs, ", ")))
	l.mu.Unlock()
}

// finish ends the load, and wants that no name was lost and that both have answered.
func (l *load) finish() {
	l.w.t.Helper()
	close(l.stop)
	l.running.Wait()
	for _, s := range l.lost[:min(len(l.lost), 10)] {
		l.w.t.Error("lost: ", s)
	}
	l.w.t.Logf("%v, %d lost", l.by, len(l.lost))
	if l.by[byWeir] < 100 || l.by[byOther] == 0 {
		l.w.t.Errorf("%v: that both answer is not shown", l.by)
	}
}

// TestNetnsRestartUnderLoad restarts weir in an orderly way. Over UDP a name is asked for once; a TCP
// connection may be cut between its handshake and its query, and is then made again.
func TestNetnsRestartUnderLoad(t *testing.T) {
	w := newWorld(t, true)
	w.start()
	l := w.startLoad(4*time.Second, func(c client) int { return map[string]int{"udp": 1, "tcp": 2}[c.network] })
	for range 3 {
		time.Sleep(time.Second)
		w.stop()
		time.Sleep(200 * time.Millisecond)
		w.start()
	}
	time.Sleep(time.Second)
	l.finish()
}

// TestNetnsReconfiguredUnderLoad has weir start anew within its process.
func TestNetnsReconfiguredUnderLoad(t *testing.T) {
	w := newWorld(t, true)
	config := filepath.Join(w.dir, "config.yaml")
	write := func(period int) {
		text := fmt.Sprintf("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\n"+
			"clusterCIDR: 10.244.0.0/16,fd00:10:244::/48\nhostnameOverride: node1\nnftables: {syncPeriod: %ds}\n", period)
		w.must(os.WriteFile(config, []byte(text), 0o644))
	}
	write(30)
	w.args = append(w.args, "--config", config)
	w.start()
	l := w.startLoad(4*time.Second, func(c client) int { return map[string]int{"udp": 1, "tcp": 2}[c.network] })
	for i := range 3 {
		starts := strings.Count(w.wholeLog(), "Serving DNS")
		write(31 + i)
		for end := time.Now().Add(patience); strings.Count(w.wholeLog(), "Serving DNS") == starts; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("weir does not start anew when its configuration changes")
			}
		}
		for _, c := range w.clients("podA", "node") {
			w.eventually(c, byWeir, patience)
		}
	}
	l.finish()
}

func (w *world) wholeLog() string {
	text, err := os.ReadFile(filepath.Join(w.dir, "weir.log"))
	w.must(err)
	return string(text)
}

// TestNetnsKillUnderLoad kills weir. A query that it had taken is lost with it, and asked again: by a
// pod over UDP once, by others until the lease has ended.
func TestNetnsKillUnderLoad(t *testing.T) {
	w := newWorld(t, true)
	w.start()
	l := w.startLoad(time.Second, func(c client) int {
		if c.network == "udp" && c.host != "node" {
			return 2
		}
		return int((lease + slack) / (250 * time.Millisecond))
	})
	for range 3 {
		time.Sleep(500 * time.Millisecond)
		w.must(w.proc.Close())
		w.proc = nil
		time.Sleep(lease / 2)
		w.start()
	}
	l.finish()
}
