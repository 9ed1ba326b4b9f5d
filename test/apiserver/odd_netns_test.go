//go:build linux

package apiserver

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/weir-project/weir/internal/netlab"
)

// TestNetnsOddObjects writes what validation lets through although it is odd.
func TestNetnsOddObjects(t *testing.T) {
	w := theWorld(t)
	d := running(t, w)
	watch(t, w)
	yes := true

	t.Run("leading zeros", func(t *testing.T) {
		w.put(t, w.service("zeros", 40))
		s := w.slice("zeros", 4)
		s.Endpoints = []discoveryv1.Endpoint{endpoint("010.244.001.011", true)} // podB, in decimal
		if err := w.try(t.Context(), s); err != nil {
			t.Logf("this API server does not take them: %v", err)
			w.expect(t, "podA", clusterIP(4, 40), "refused")
			return
		}
		w.expect(t, "podA", clusterIP(4, 40), "podB")
	})

	t.Run("no endpoints", func(t *testing.T) {
		w.put(t, w.service("none", 41))
		for _, f := range w.families() {
			w.put(t, w.slice("none", f))
			w.expect(t, "podA", clusterIP(f, 41), "refused")
			w.expectProto(t, "client", netlab.UDP, clusterIP(f, 41), "refused")
		}
	})

	t.Run("1,000 endpoints in one slice", func(t *testing.T) {
		w.put(t, w.service("many", 42))
		s := w.slice("many", 4, "podB")
		for i := range 999 { // their conditions are null, and nobody is there: an answer is luck
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.244.%d.%d", 100+i/200, 1+i%200)}})
		}
		w.put(t, s)
		eventually(t, func() error {
			out, err := w.node().Run("nft", "list map ip weir services")
			if err == nil && !strings.Contains(out, "tcp . "+w.families()[0].clusterIP(42).String()+" . 80 comment \"default/many:tcp\" : goto lb-1024") {
				err = fmt.Errorf("no verdict for 1,000 endpoints in\n%s", out)
			}
			return err
		})
		// 999 go: the class changes with them.
		w.scale(t, "many", "podC")
		w.expect(t, "podA", clusterIP(4, 42), "podC")
	})

	t.Run("slices that disagree", func(t *testing.T) {
		w.put(t, w.service("disagree", 43))
		podB, podC := w.lab.Host("podB").Addr4.String(), w.lab.Host("podC").Addr4.String()
		one, two := w.slice("disagree", 4), w.slice("disagree", 4)
		one.Name, two.Name = "disagree-one", "disagree-two"
		leaving := endpoint(podB, false)
		leaving.Conditions.Serving, leaving.Conditions.Terminating = &yes, &yes
		one.Endpoints = []discoveryv1.Endpoint{leaving, endpoint(podC, true)}
		two.Endpoints = []discoveryv1.Endpoint{endpoint(podB, true), endpoint(podC, false)}
		w.put(t, one, two)
		w.expect(t, "podA", clusterIP(4, 43), "podB podC") // each is ready in one of them
		two.Endpoints = two.Endpoints[1:]
		w.put(t, two)
		w.expect(t, "podA", clusterIP(4, 43), "podC")
	})

	t.Run("duplicate addresses", func(t *testing.T) {
		w.put(t, w.service("twice", 44))
		one, two := w.slice("twice", 4, "podB"), w.slice("twice", 4, "podB", "podC")
		one.Name, two.Name = "twice-one", "twice-two"
		w.put(t, one, two)
		w.expect(t, "podA", clusterIP(4, 44), "podB podC")
		s := w.lab.Host("podA").ProbeMany(400, netlab.TCP, clusterIP(4, 44), netlab.ProbeOptions{Parallel: 8})
		if n := s.Names["podB"]; n < 120 || n > 280 { // 8 standard deviations
			t.Errorf("podB, which is in both slices, got %d of 400 connections", n)
		}
	})

	t.Run("ports without names", func(t *testing.T) {
		s := w.service("unnamed", 45)
		s.Spec.Ports = []v1.ServicePort{{Port: 80}}
		slice := bareSlice("unnamed", "unnamed", 4)
		port := int32(backendPort)
		slice.Ports = []discoveryv1.EndpointPort{{Port: &port}}
		slice.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{w.lab.Host("podB").Addr4.String()}}} // conditions null
		w.put(t, s, slice)
		w.expect(t, "podA", clusterIP(4, 45), "podB")
	})

	t.Run("port null", func(t *testing.T) {
		w.put(t, w.service("portless", 46))
		s := w.slice("portless", 4, "podB")
		s.Ports[0].Port = nil
		w.put(t, s)
		w.expectProto(t, "podA", netlab.UDP, clusterIP(4, 46), "podB")
		w.expect(t, "podA", clusterIP(4, 46), "refused")
		note := w.event(t, "EndpointSlice", s.Name)
		if !strings.Contains(note, "ports[0].port") {
			t.Errorf("event %q, want one that names the port", note)
		}
		t.Log(note)
	})

	t.Run("an endpoint that makes no sense", func(t *testing.T) {
		w.put(t, w.service("senseless", 47))
		s := w.slice("senseless", 4, "podB")
		for _, bad := range []string{"0.0.0.0", "127.0.0.1", "169.254.1.1", "224.0.0.1"} {
			with := s.DeepCopy()
			with.Endpoints = append(with.Endpoints, endpoint(bad, true))
			if err := w.try(t.Context(), with); err == nil {
				t.Fatalf("this API server takes %s: that is news, and wants a test", bad)
			} else if !strings.Contains(err.Error(), bad) {
				t.Errorf("%s: %v", bad, err)
			}
		}
		s.Endpoints = append(s.Endpoints, endpoint("255.255.255.255", true))
		w.put(t, s)
		w.expect(t, "podA", clusterIP(4, 47), "podB")
		note := w.event(t, "EndpointSlice", s.Name)
		if !strings.Contains(note, "255.255.255.255") {
			t.Errorf("event %q, want one that names the address", note)
		}
		t.Log(note)
		d.waitLog(0, "255.255.255.255")
	})

	t.Run("two services with one external IP", func(t *testing.T) {
		for i, name := range []string{"older", "younger"} {
			s := w.service(name, 48+i)
			for _, f := range w.families() {
				s.Spec.ExternalIPs = append(s.Spec.ExternalIPs, f.external(48).String())
			}
			w.put(t, s)
			w.scale(t, name, []string{"podB", "podC"}[i])
			time.Sleep(1100 * time.Millisecond) // the API counts in seconds
		}
		for _, f := range w.families() {
			w.expect(t, "client", netip.AddrPortFrom(f.external(48), 80), "podB as node")
			w.expect(t, "podA", clusterIP(f, 49), "podC")
		}
		note := w.event(t, "Service", "younger")
		if !strings.Contains(note, "default/older") {
			t.Errorf("event %q, want one that names the older service", note)
		}
		t.Log(note)
		w.remove(t, "older")
		for _, f := range w.families() {
			w.expect(t, "client", netip.AddrPortFrom(f.external(48), 80), "podC as node")
		}
	})
}
