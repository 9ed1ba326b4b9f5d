//go:build linux

package packets

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weir-project/weir/internal/netlab"
)

// testFlowsStay begins flows and sees whether they are still led to the same endpoints some seconds later.
func testFlowsStay(t *testing.T, from *netlab.Host, frontends []netip.AddrPort, nextPort func() uint16) {
	t.Helper()
	type flow struct {
		to   netip.AddrPort
		port uint16
	}
	first := map[flow]string{}
	probe := func(f flow) string {
		r := from.Probe(netlab.UDP, f.to, netlab.ProbeOptions{Timeout: 4 * time.Second, Port: f.port})
		if r.Outcome != netlab.Answered {
			t.Errorf("%s to %s: %s", from.Name, f.to, r)
		}
		return r.By
	}
	for _, to := range frontends {
		for range 20 {
			f := flow{to, nextPort()}
			first[f] = probe(f)
		}
	}
	time.Sleep(2500 * time.Millisecond)
	moved := 0
	for f, by := range first {
		if probe(f) != by {
			moved++
		}
	}
	if moved > 0 {
		t.Errorf("%d of %d flows were led to another endpoint in the midst of it", moved, len(first))
	}
}

// A service that only grows: no flow has a reason to go elsewhere, however fast the endpoints come and whatever
// is being removed of before.
func TestNetnsFlowsOfAGrowingService(t *testing.T) {
	t.Parallel()
	lab, _ := newLab(t, netlab.Config{})
	podA, podC := lab.Host("podA"), lab.Host("podC")
	const most = 30
	for i := range most {
		serve(t, podA, netlab.UDP, podA.Addr4.String(), uint16(9000+i))
	}
	grown := func(n int) map[string]string {
		var b strings.Builder
		fmt.Fprint(&b, "apiVersion: v1\nkind: Service\nmetadata: {name: growing}\nspec: {clusterIP: 10.96.0.90, ports: [{protocol: UDP, port: 80}]}\n")
		for i := range n {
			fmt.Fprintf(&b, "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: growing-%d, labels: {kubernetes.io/service-name: growing}}\n", i)
			fmt.Fprintf(&b, "addressType: IPv4\nports: [{protocol: UDP, port: %d}]\nendpoints: [{addresses: [%s]}]\n", 9000+i, podA.Addr4)
		}
		return map[string]string{"growing.yaml": b.String()}
	}
	d := newDaemon(t, lab, clusterCIDR...)
	if _, err := d.put(grown(1)); err != nil {
		t.Fatal(err)
	}
	d.start()
	growing := netip.MustParseAddrPort("10.96.0.90:80")
	first := map[uint16]string{}
	probe := func(port uint16) string {
		r := podC.Probe(netlab.UDP, growing, netlab.ProbeOptions{Timeout: 4 * time.Second, Port: port})
		if r.Outcome != netlab.Answered {
			t.Errorf("podC to %s: %s", growing, r)
		}
		return r.By
	}
	// Many flows make a table that takes time to read, and fill the moments that matter.
	port := uint16(9000)
	for n := range most {
		if _, err := d.put(grown(n + 1)); err != nil {
			t.Fatal(err)
		}
		for next := time.Now().Add(60 * time.Millisecond); time.Now().Before(next) && len(first) < 900*(n+1); port++ {
			first[port] = probe(port)
		}
	}
	time.Sleep(1500 * time.Millisecond)
	moved := 0
	for port, by := range first {
		if probe(port) != by {
			moved++
		}
	}
	t.Logf("%d flows", len(first))
	if moved > 0 {
		t.Errorf("%d of %d flows were led to another endpoint in the midst of it", moved, len(first))
	}
	d.finish(t)
}

// What becomes of flows that are under way when their service changes. A flow is one source port.
func TestNetnsFlows(t *testing.T) {
	t.Parallel()
	lab, _ := newLab(t, netlab.Config{})
	d := newDaemon(t, lab, clusterCIDR...)
	w := world{name: "flows", steps: []step{{}}}
	if err := d.first(&w); err != nil {
		t.Fatal(err)
	}
	show := func(t *testing.T, over string) { t.Helper(); d.turn(t, &w, over) }
	port := uint16(5000)
	nextPort := func() uint16 { port++; return port }
	for _, f := range familiesOf(lab) {
		addr := func(s string, port uint16) netip.AddrPort {
			a, err := f.addr(s)
			if err != nil {
				t.Fatal(err)
			}
			return netip.AddrPortFrom(a, port)
		}
		web, node, external := addr("10.96.0.10", 80), addr("172.31.0.11", 31180), addr("203.0.113.120", 80)
		for _, tt := range []struct {
			name, from    string
			before, after string // steps
			dst           netip.AddrPort
			then          string // who answers after the change, or what becomes of it
		}{
			{"endpoint replaced", "podC", "", "replaced", web, "podB"},
			{"endpoint replaced, client", "client", "", "replaced", web, "podB"},
			{"endpoint replaced, node", "node", "", "replaced", web, "podB"},
			{"endpoint replaced, node port", "client", "", "replaced", node, "podB"},
			{"endpoint replaced, external IP", "client", "", "replaced", external, "podB"},
			{"endpoint added: the flow stays", "podC", "", "added", web, "podA"},
			{"scaled to zero", "podC", "", "scaled-to-zero", web, "refused"},
			{"scaled to zero, node port", "client", "", "scaled-to-zero", node, "refused"},
			{"service removed", "podC", "", "removed", web, "dropped"},
			{"service removed, node port", "client", "", "removed", node, "refused"}, // by the host
			{"begun before the service", "podC", "", "appeared", addr("203.0.113.121", 80), "podB"},
			{"begun before the service, client", "client", "", "appeared", addr("203.0.113.121", 80), "podB"},
			{"begun before the node port", "client", "", "appeared", addr("172.31.0.11", 31181), "podB"},
			{"begun before the cluster IP, dropped", "podC", "", "appeared", addr("10.96.0.11", 80), "podB"},
			{"begun without endpoints", "podC", "scaled-to-zero", "", web, "podA"},
		} {
			t.Run(fmt.Sprintf("UDP IPv%d/%s", f, tt.name), func(t *testing.T) {
				show(t, tt.before)
				host, port := lab.Host(tt.from), nextPort()
				probe := func(timeout time.Duration) netlab.Result {
					return host.Probe(netlab.UDP, tt.dst, netlab.ProbeOptions{Timeout: timeout, Port: port})
				}
				answered := tt.before == "" && tt.after != "appeared"
				timeout := 300 * time.Millisecond
				if answered {
					timeout = 4 * time.Second
				}
				if first := probe(timeout); answered && first.Name != "podA" {
					t.Fatalf("before: %s", first)
				}
				show(t, tt.after)
				var got netlab.Result
				for deadline := time.Now().Add(patience / 2); time.Now().Before(deadline); {
					if got = probe(300 * time.Millisecond); got.Name == tt.then || got.Outcome != netlab.Answered && got.Outcome.String() == tt.then {
						return
					}
				}
				t.Errorf("%s to %s: %s; want %s", tt.from, tt.dst, got, tt.then)
			})
		}
		t.Run(fmt.Sprintf("UDP IPv%d/the flows of a new owner stay", f), func(t *testing.T) {
			show(t, "")
			show(t, "handed-over")
			testFlowsStay(t, lab.Host("podC"), []netip.AddrPort{addr("10.96.0.20", 80), addr("203.0.113.125", 80), addr("172.31.0.11", 31190)}, nextPort)
		})
		t.Run(fmt.Sprintf("TCP IPv%d/a connection outlives its endpoint's place in the service, and weir", f), func(t *testing.T) {
			show(t, "")
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			c, err := lab.Host("podC").Dial(ctx, "tcp", web.String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			ask := func(when string) {
				t.Helper()
				_ = c.SetDeadline(time.Now().Add(5 * time.Second))
				if got, err := netlab.Ask(c); err != nil || got.Name != "podA" {
					t.Errorf("%s: %+v, %v", when, got, err)
				}
			}
			ask("at first")
			show(t, "replaced")
			ask("replaced")
			show(t, "scaled-to-zero")
			ask("scaled to zero")
			d.kill()
			ask("killed")
			d.start()
			ask("started again")
			show(t, "removed")
			ask("removed")
		})
	}
	d.finish(t)
}
