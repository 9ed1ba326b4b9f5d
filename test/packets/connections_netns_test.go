//go:build linux

package packets

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weir-project/weir/internal/netlab"
)

// metrics returns the page of that name.
func (d *daemon) metrics(t *testing.T) string {
	t.Helper()
	node := d.lab.Host("node")
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return node.Dial(ctx, network, addr)
		}}}
	r, err := client.Get("http://127.0.0.1:10249/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	page, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// connections returns what weir says about connections to services.
func (d *daemon) connections(t *testing.T) (counts map[string]int) {
	t.Helper()
	counts = map[string]int{}
	for _, m := range seriesOf.FindAllStringSubmatch(d.metrics(t), -1) {
		if m[2] == "marker" {
			continue // the test's own
		}
		n, err := strconv.Atoi(m[4])
		if err != nil {
			t.Fatal(err)
		}
		counts[m[1]+m[2]] = n
	}
	return counts
}

var seriesOf = regexp.MustCompile(`(?m)^weir_service_connections_(total|other_total|other_services)(?:\{name="(.*)",namespace="(.*)"\})? (\d+)$`)

// Every connection is counted, whichever way it takes, and those that get no endpoint are not.
func TestNetnsConnectionsAreCounted(t *testing.T) {
	t.Parallel()
	lab, _ := newLab(t, netlab.Config{})
	// The marker has a connection before the others, and so one of the four.
	d := newDaemon(t, lab, append([]string{"--service-metrics=4"}, clusterCIDR...)...)
	w := world{name: "connections", dir: "cluster-ip", steps: []step{{}}}
	if err := d.first(&w); err != nil {
		t.Fatal(err)
	}
	files, err := w.files(w.steps[0])
	if err != nil {
		t.Fatal(err)
	}
	dial := func(n int, from string, proto netlab.Protocol, to string) (answered, refused int) {
		t.Helper()
		s := lab.Host(from).ProbeMany(n, proto, netip.MustParseAddrPort(to), netlab.ProbeOptions{Timeout: patience})
		if s.Answered+s.Refused != n {
			t.Fatalf("%s dials %s: %s", from, to, s)
		}
		return s.Answered, s.Refused
	}
	want := map[string]int{"other_total": 0, "other_services": 0}
	check := func(when string) {
		t.Helper()
		if diff := cmp.Diff(want, d.connections(t)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
	}
	check("before anything is dialled")
	dial(20, "podC", netlab.TCP, "10.96.0.10:80")
	dial(5, "podC", netlab.UDP, "[fd00:10:96::10]:80")
	want["totalweb"] = 25
	check("from a pod, both families")
	dial(7, "node", netlab.TCP, "10.96.0.11:80")
	want["totalnear"] = 7
	check("from the node")
	dial(16, "podC", netlab.TCP, "10.96.0.13:80")
	dial(16, "node", netlab.UDP, "10.96.0.13:80")
	want["totalhost"] = 32
	check("to endpoints that are sockets of the node, and of another")
	if _, refused := dial(3, "podC", netlab.TCP, "10.96.0.14:80"); refused != 3 {
		t.Errorf("%d of 3 connections to a service without endpoints refused", refused)
	}
	check("refused")
	dial(4, "podC", netlab.TCP, "10.96.0.19:80")
	want["other_total"], want["other_services"] = 4, 1
	check("a service beyond the limit")

	delete(files, "near.yaml")
	if err := d.show(files); err != nil {
		t.Fatal(err)
	}
	delete(want, "totalnear")
	check("without the service near")
	d.kill()
	if err = d.tryStart(); err == nil {
		err = d.settle(1)
	}
	if err != nil {
		t.Fatal(err)
	}
	want = map[string]int{"other_total": 0, "other_services": 0}
	check("a new process")
	dial(6, "podC", netlab.TCP, "10.96.0.10:80")
	want["totalweb"] = 6
	check("a new process, dialled")
	d.finish(t)
}

// A counter costs the frontends that nobody dials nothing, and outlives what Weir writes.
func TestNetnsConnectionsAreCountedUnderChurn(t *testing.T) {
	t.Parallel()
	lab, _ := newLab(t, netlab.Config{})
	d := newDaemon(t, lab, append([]string{"--service-metrics=10"}, clusterCIDR...)...)
	w := world{name: "connections", dir: "cluster-ip", steps: []step{{}}}
	if err := d.first(&w); err != nil {
		t.Fatal(err)
	}
	load, err := lab.Host("podC").StartLoad(netlab.LoadConfig{Dst: netip.MustParseAddrPort("10.96.0.10:80"), Rate: 500, Duration: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	files, err := w.files(w.steps[0])
	if err != nil {
		t.Fatal(err)
	}
	other := files["named.yaml"]
	for range 5 {
		delete(files, "named.yaml")
		if err := d.show(files); err != nil {
			t.Fatal(err)
		}
		files["named.yaml"] = other
		if err := d.show(files); err != nil {
			t.Fatal(err)
		}
	}
	report := load.Wait()
	if got := d.connections(t)["totalweb"]; got != report.Attempts {
		t.Errorf("%d connections counted, want %d: %s", got, report.Attempts, report)
	}
	d.finish(t)
}
