//go:build linux

package apiserver

import (
	"net/netip"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/weir-project/weir/internal/netlab"
)

// TestNetnsPacketsFollow creates, scales, rolls, changes and deletes Services and EndpointSlices.
func TestNetnsPacketsFollow(t *testing.T) {
	w := theWorld(t)
	d := running(t, w)
	x := watch(t, w)
	web := func(want, fromClient string) {
		t.Helper()
		for _, f := range w.families() {
			w.expect(t, "podA", clusterIP(f, 10), want)
			w.expectProto(t, "podA", netlab.UDP, clusterIP(f, 10), want)
			w.expect(t, "client", netip.AddrPortFrom(f.of(w.node()), 31010), fromClient)
		}
	}
	w.put(t, nodePort(w.service("web", 10), 31010))
	web("refused", "refused")
	w.scale(t, "web", "podB")
	web("podB", "podB as node")
	w.scale(t, "web", "podB", "podC", "podX")
	web("podB podC podX", "podB podC podX as node")

	// Rolled: one after the other is replaced, and the one that leaves says so.
	for _, hosts := range [][]string{{"podY", "podC", "podX"}, {"podY", "podX"}, {"podY"}} {
		for _, f := range w.families() {
			s := w.slice("web", f, hosts...)
			leaving := endpoint(f.of(w.lab.Host("podB")).String(), false)
			yes := true
			leaving.Conditions.Serving, leaving.Conditions.Terminating = &yes, &yes
			s.Endpoints = append(s.Endpoints, leaving)
			w.put(t, s)
		}
	}
	web("podY", "podY as node")

	// Another port, target and address family.
	s := nodePort(w.service("web", 10), 31010)
	s.Spec.Ports[0].Port = 81
	s.Spec.Ports[0].TargetPort = intstr.FromInt32(backendPort)
	w.put(t, s)
	for _, f := range w.families() {
		w.expect(t, "podA", netip.AddrPortFrom(f.clusterIP(10), 81), "podY")
		w.expect(t, "podA", clusterIP(f, 10), "refused")
		w.expectProto(t, "podA", netlab.UDP, clusterIP(f, 10), "podY")
	}

	// External and load-balancer addresses.
	s = nodePort(w.service("web", 10), 31010)
	s.Spec.Type = v1.ServiceTypeLoadBalancer
	for _, f := range w.families() {
		s.Spec.ExternalIPs = append(s.Spec.ExternalIPs, f.external(10).String())
		s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, v1.LoadBalancerIngress{IP: f.external(11).String()})
	}
	w.put(t, s)
	w.putStatus(t, s)
	for _, f := range w.families() {
		w.await(t, f, f.external(11)) // until then, packets to it are nobody's
		w.expect(t, "client", netip.AddrPortFrom(f.external(10), 80), "podY as node")
		w.expect(t, "client", netip.AddrPortFrom(f.external(11), 80), "podY as node")
	}

	w.scale(t, "web")
	web("refused", "refused")
	x.check()
	w.remove(t, "web")
	for _, f := range w.families() {
		w.expect(t, "podA", clusterIP(f, 10), "dropped") // no Service has this address
	}
	if got := d.metric("weir_services"); got != 1 {
		t.Errorf("weir knows %v services, want only default/kubernetes", got)
	}
}
