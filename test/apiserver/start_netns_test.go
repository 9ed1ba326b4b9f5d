//go:build linux

package apiserver

import (
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weir-project/weir/internal/kubelab"
	"github.com/weir-project/weir/internal/netlab"
)

// TestNetnsHealth starts without an API server, and looks at what weir says of itself.
func TestNetnsHealth(t *testing.T) {
	w := theWorld(t)
	w.put(t, w.service("web", 60))
	w.scale(t, "web", "podB")
	if err := w.cluster.StopAPIServer(); err != nil {
		t.Fatal(err)
	}
	d := newDaemon(t, w)
	d.forbidden = true
	d.launch()
	d.waitLog(0, "cannot be reached")
	if status, body, err := d.get(healthz); status != http.StatusServiceUnavailable || err != nil {
		t.Errorf("healthz before the first sync: %d %s, %v", status, body, err)
	}
	if status, _, err := d.get("http://127.0.0.1:10256/livez"); status != http.StatusOK || err != nil {
		t.Errorf("livez before the first sync: %d, %v", status, err)
	}
	if got := w.tables(t); got != "" {
		t.Errorf("tables before the first sync: %s", got)
	}
	if err := w.cluster.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.waitSyncs(0, 1)
	for _, f := range w.families() {
		w.expect(t, "podA", clusterIP(f, 60), "podB")
	}
	eventually(t, func() error {
		status, body, err := d.get(healthz)
		if err == nil && status != http.StatusOK {
			t.Logf("healthz: %s", body)
		}
		return err
	})
	if status, body, err := d.get(healthz); status != http.StatusOK || err != nil {
		t.Errorf("healthz after the first sync: %d %s, %v", status, body, err)
	}

	const syncs, changes = "kubeproxy_sync_proxy_rules_duration_seconds_count", "kubeproxy_sync_proxy_rules_endpoint_changes_total"
	n, m, last := d.metric(syncs), d.metric(changes), d.metric("kubeproxy_sync_proxy_rules_last_timestamp_seconds")
	w.scale(t, "web", "podC")
	for _, f := range w.families() {
		w.expect(t, "podA", clusterIP(f, 60), "podC")
	}
	if d.metric(syncs) < n+2 || d.metric(changes) != m+2 || d.metric("kubeproxy_sync_proxy_rules_last_timestamp_seconds") <= last {
		t.Errorf("after two changed slices %s went from %v to %v, %s from %v to %v", syncs, n, d.metric(syncs), changes, m, d.metric(changes))
	}
	if note := w.event(t, "Node", nodeName); !strings.Contains(note, "Starting") {
		t.Errorf("event %q on the node, want that weir is starting", note)
	}
}

// TestNetnsStaysAndGoes ends weir, which leaves its rules, and removes them.
func TestNetnsStaysAndGoes(t *testing.T) {
	w := theWorld(t)
	d := running(t, w)
	watch(t, w)
	w.put(t, w.service("web", 61))
	w.scale(t, "web", "podB")
	w.expect(t, "podA", clusterIP(4, 61), "podB")

	// A second weir in the same namespace.
	code, out, err := command(w, exec.Command(binary, d.args...))
	if code != 1 || err != nil || !saysOnce(out, "weir: ") || !strings.Contains(out, "already runs in this network namespace") {
		t.Errorf("a second weir: exit code %d, %v, and says\n%s", code, err, out)
	} else {
		t.Log(lastLine(out))
	}
	code, out, err = command(w, exec.Command(binary, "cleanup"))
	if code != 1 || err != nil || !saysOnce(out, "weir: ") {
		t.Errorf("cleanup while weir runs: exit code %d, %v, and says\n%s", code, err, out)
	} else {
		t.Log(lastLine(out))
	}
	w.scale(t, "web", "podC")
	w.expect(t, "podA", clusterIP(4, 61), "podC")

	d.terminate() // which wants exit code 0
	for _, f := range w.families() {
		w.expect(t, "podA", clusterIP(f, 61), "podC")
	}
	if got, want := w.tables(t), "inet witness, ip weir, ip6 weir"; got != want {
		t.Errorf("tables: %s, want %s", got, want)
	}
	code, out, err = command(w, exec.Command(binary, "cleanup"))
	if code != 0 || err != nil {
		t.Errorf("cleanup: exit code %d, %v\n%s", code, err, out)
	}
	if got := w.tables(t); got != "inet witness" {
		t.Errorf("tables after cleanup: %s, want only the test's own", got)
	}
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// saysOnce reports whether exactly one line begins with prefix, and none tells of a panic.
func saysOnce(out, prefix string) bool {
	n := 0
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, prefix) {
			n++
		}
	}
	return n == 1 && !strings.Contains(out, "goroutine ")
}

// TestNetnsWithoutPrivileges runs weir as nobody.
func TestNetnsWithoutPrivileges(t *testing.T) {
	w := theWorld(t)
	dir, err := os.MkdirTemp("", "weir-nobody-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	kubeconfig := filepath.Join(dir, "kubeconfig")
	content, err := os.ReadFile(w.cluster.ProxyKubeconfig)
	if err == nil {
		err = os.WriteFile(kubeconfig, content, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = os.Chmod(dir, 0o755)
	cmd := exec.Command(binary, "run", "--kubeconfig", kubeconfig, "--hostname-override", nodeName, "--conntrack-max-per-core", "0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	code, out, err := command(w, cmd)
	if code != 1 || err != nil || !saysOnce(out, "weir: ") || !strings.Contains(out, "CAP_NET_ADMIN") {
		t.Errorf("without privileges: exit code %d, %v, and says\n%s", code, err, out)
	} else {
		t.Log(lastLine(out))
	}
	if got := w.tables(t); got != "" {
		t.Errorf("tables: %s", got)
	}
}

// TestNetnsInCluster runs weir with the in-cluster configuration only. Its address is a ClusterIP that nobody
// has programmed.
func TestNetnsInCluster(t *testing.T) {
	w := theWorld(t)
	d := newDaemon(t, w)
	// The service account is at a fixed path, below a /run of weir's own.
	d.args = append([]string{"-c", `mount -t tmpfs tmpfs /run && a=/run/secrets/kubernetes.io/serviceaccount && mkdir -p $a &&
		echo token >$a/token && cp "$CA" $a/ca.crt && exec "$0" "$@"`, binary, "run"}, d.args[3:]...)
	ca := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(ca, w.cluster.RESTConfig().CAData, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CA", ca)
	t.Setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
	t.Setenv("KUBERNETES_SERVICE_PORT", "443")
	// Where nobody programs the address, packets to it are lost, and dialing ends after half a minute. Here they
	// are refused at once.
	if _, err := w.node().Run("ip", "route", "add", "unreachable", "10.96.0.1/32"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = w.node().Run("ip", "route", "del", "unreachable", "10.96.0.1/32") })
	d.launchAs("unshare", append([]string{"-m", "sh"}, d.args...))
	begin := time.Now()
	line := d.waitLog(0, "is a ClusterIP")
	if !strings.Contains(line, "--master") || !strings.Contains(line, "10.96.0.1") {
		t.Errorf("weir says %s", line)
	}
	t.Logf("after %s: %s", time.Since(begin).Round(time.Millisecond), line)
	if got := w.tables(t); got != "" {
		t.Errorf("tables: %s", got)
	}
}

// TestNetnsIPv4Only runs on a node without IPv6.
func TestNetnsIPv4Only(t *testing.T) {
	w := ownWorld(t, netlab.Config{IPv4Only: true}, kubelab.Config{ServiceCIDR: netlab.ServiceCIDR4.String()})
	d := running(t, w)
	w.put(t, nodePort(w.service("web", 62), 31062))
	w.scale(t, "web", "podB", "podX")
	w.expect(t, "podA", clusterIP(4, 62), "podB podX")
	w.expect(t, "client", netip.AddrPortFrom(w.node().Addr4, 31062), "podB podX as node")
	if got := w.tables(t); got != "ip weir" {
		t.Errorf("tables: %s, want only ip weir", got)
	}
	if n := strings.Count(d.logged(0), "IPv6"); n != 1 {
		t.Errorf("%d lines of the log are about IPv6, want 1", n)
	}
	t.Log(d.waitLog(0, "IPv6"))
}
