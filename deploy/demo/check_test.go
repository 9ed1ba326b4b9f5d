package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weir-project/weir/internal/netlab"
)

// verdictOf fails the test unless err is there if and only if wanted names what it should say.
func verdictOf(t *testing.T, err error, wanted string) {
	t.Helper()
	switch {
	case wanted == "" && err != nil:
		t.Errorf("fails, though it is so: %v", err)
	case wanted != "" && err == nil:
		t.Errorf("passes, want an error with %q", wanted)
	case wanted != "" && !strings.Contains(err.Error(), wanted):
		t.Errorf("error %q, want one with %q", err, wanted)
	}
}

func summary(counts map[string]int, sources ...string) netlab.Summary {
	s := netlab.Summary{Names: counts, Sources: map[netip.Addr]int{}}
	for _, n := range counts {
		s.Probes += n
		s.Answered += n
	}
	for _, a := range sources {
		s.Sources[netip.MustParseAddr(a)] = 1
	}
	return s
}

func TestSpread(t *testing.T) {
	lost := summary(map[string]int{"web-1": 100, "web-2": 100, "web-3": 99}, "10.0.0.1")
	lost.Probes++
	lost.Dropped++
	for _, tc := range []struct {
		name   string
		seen   netlab.Summary
		wanted string
	}{
		{"even", summary(map[string]int{"web-1": 100, "web-2": 100, "web-3": 100}, "10.0.0.1"), ""},
		{"by chance", summary(map[string]int{"web-1": 130, "web-2": 90, "web-3": 80}, "10.0.0.1"), ""},
		{"nothing", netlab.Summary{}, "an answer to every request"},
		{"one lost", lost, "an answer to every request"},
		{"unfair", summary(map[string]int{"web-1": 150, "web-2": 75, "web-3": 75}, "10.0.0.1"), "answers by web-1"},
		{"one never", summary(map[string]int{"web-1": 140, "web-2": 140}, "10.0.0.1"), "answers by"},
		{"a stranger", summary(map[string]int{"web-1": 100, "web-2": 100, "web-3": 99, "web-4": 1}, "10.0.0.1"), "web-4"},
		{"other source", summary(map[string]int{"web-1": 100, "web-2": 100, "web-3": 100}, "10.0.0.2"), "see 10.0.0.1"},
		{"two sources", summary(map[string]int{"web-1": 100, "web-2": 100, "web-3": 100}, "10.0.0.1", "10.0.0.2"), "see 10.0.0.1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			verdictOf(t, checkSpread(tc.seen, backends, netip.MustParseAddr("10.0.0.1")), tc.wanted)
		})
	}
}

// history is a change with 60 connections before the edit, 20 until the sync and 60 after it. by says who
// answers number n of a phase: before, between, after.
func history(by func(phase string, n int) (string, error)) change {
	start := time.Unix(1000, 0)
	c := change{backend: "web-2"}
	add := func(phase string, n int) {
		for i := range n {
			p := probe{begun: start.Add(time.Duration(len(c.probes)) * time.Millisecond)}
			p.by, p.err = by(phase, i)
			c.probes = append(c.probes, p)
		}
	}
	add("before", 60)
	c.written = start.Add(60*time.Millisecond - time.Microsecond)
	add("between", 20)
	c.syncs = []syncLine{{at: start.Add(80*time.Millisecond - time.Microsecond), services: 1, ops: 22, duration: time.Millisecond}}
	add("after", 60)
	return c
}

func turn(n int) (string, error) { return backends[n%len(backends)], nil }
func others(int) (string, error) { return "web-1", nil }

func goes(phase string, n int) (string, error) {
	if phase == "after" {
		return others(n)
	}
	return turn(n)
}

func comes(phase string, n int) (string, error) {
	if phase == "before" {
		return others(n)
	}
	return turn(n)
}

// but is a history in which one connection fares differently.
func but(by func(string, int) (string, error), phase string, n int, name string, err error) change {
	return history(func(p string, i int) (string, error) {
		if p == phase && i == n {
			return name, err
		}
		return by(p, i)
	})
}

func TestGone(t *testing.T) {
	few := history(goes)
	few.probes = few.probes[:100]
	for _, tc := range []struct {
		name   string
		seen   change
		wanted string
	}{
		{"gone", history(goes), ""},
		{"reset on the way", but(goes, "between", 7, "", fmt.Errorf("read: %w", syscall.ECONNRESET)), ""},
		{"reset afterwards", but(goes, "after", 7, "", syscall.ECONNRESET), "no failed connection"},
		{"silence on the way", but(goes, "between", 7, "", os.ErrDeadlineExceeded), "no failed connection"},
		{"one more", but(goes, "after", 59, "web-2", nil), "none of the connections begun after the sync"},
		{"never there", history(func(string, int) (string, error) { return others(0) }), "before it is removed"},
		{"too few", few, "40 connections before and after"},
	} {
		t.Run(tc.name, func(t *testing.T) { verdictOf(t, checkGone(tc.seen), tc.wanted) })
	}
	if at, ok := history(goes).last(); !ok || at.Round(time.Millisecond) != 19*time.Millisecond {
		t.Errorf("the last one at %s, %t; want 19ms", at, ok)
	}
	if n := but(goes, "between", 7, "", syscall.ECONNRESET).cut(); n != 1 {
		t.Errorf("%d reset, want 1", n)
	}
}

func TestBack(t *testing.T) {
	for _, tc := range []struct {
		name   string
		seen   change
		wanted string
	}{
		{"back", history(comes), ""},
		{"refused on the way", but(comes, "between", 7, "", syscall.ECONNREFUSED), "no failed connection"},
		{"reset on the way", but(comes, "between", 7, "", syscall.ECONNRESET), "no failed connection"},
		{"too early", but(comes, "before", 3, "web-2", nil), "before it is added"},
		{"never", history(func(string, int) (string, error) { return others(0) }), "begun after the sync"},
		{"too few", change{backend: "web-2"}, "40 connections before and after"},
	} {
		t.Run(tc.name, func(t *testing.T) { verdictOf(t, checkBack(tc.seen), tc.wanted) })
	}
	if at, ok := history(comes).first(); !ok || at.Round(time.Millisecond) != time.Millisecond {
		t.Errorf("the first one at %s, %t; want 1ms", at, ok)
	}
	if _, ok := history(goes).find(-1); ok {
		t.Error("found what is not there")
	}
}

func TestSmall(t *testing.T) {
	for _, tc := range []struct {
		name   string
		syncs  []syncLine
		wanted string
	}{
		{"one", []syncLine{{services: 1, ops: 22}}, ""},
		{"one of each family", []syncLine{{services: 1, ops: 11}, {services: 1, ops: 11}}, ""},
		{"none", nil, "1 to 22 elements"},
		{"nothing done", []syncLine{{services: 1}}, "1 to 22 elements"},
		{"too much", []syncLine{{services: 1, ops: 20}, {services: 1, ops: 3}}, "1 to 22 elements"},
		{"everything", []syncLine{{services: 1, ops: 20, full: true}}, "a sync of one service"},
		{"others too", []syncLine{{services: 2, ops: 20}}, "a sync of one service"},
	} {
		t.Run(tc.name, func(t *testing.T) { verdictOf(t, checkSmall(tc.syncs, 22), tc.wanted) })
	}
}

func TestRefused(t *testing.T) {
	refused := func(after ...time.Duration) (r refusal) {
		for _, d := range after {
			r.results = append(r.results, netlab.Result{Outcome: netlab.Refused, Latency: d, Err: syscall.ECONNREFUSED})
		}
		return r
	}
	silent := refused(time.Millisecond, time.Millisecond)
	silent.results[1] = netlab.Result{Outcome: netlab.Dropped, Err: os.ErrDeadlineExceeded}
	answered := refused(time.Millisecond)
	answered.results[0] = netlab.Result{Outcome: netlab.Answered, Name: "web-1"}
	icmp := refused(time.Millisecond)
	icmp.icmp = 1
	for _, tc := range []struct {
		name   string
		seen   refusal
		wanted string
	}{
		{"at once", refused(time.Millisecond, 2*time.Millisecond, 200*time.Millisecond), ""},
		{"late", refused(200*time.Millisecond, time.Millisecond, 200*time.Millisecond), "at once"},
		{"silence", silent, "refused connections"},
		{"an answer", answered, "refused connections"},
		{"not by a reset", icmp, "TCP resets"},
		{"not tried", refusal{}, "refused connections"},
	} {
		t.Run(tc.name, func(t *testing.T) { verdictOf(t, checkRefused(tc.seen), tc.wanted) })
	}
}

func TestSilent(t *testing.T) {
	verdictOf(t, checkSilent(netlab.Result{Outcome: netlab.Dropped, Err: os.ErrDeadlineExceeded}), "")
	verdictOf(t, checkSilent(netlab.Result{Outcome: netlab.Refused, Err: syscall.ECONNREFUSED}), "silence")
	verdictOf(t, checkSilent(netlab.Result{Outcome: netlab.Answered}), "silence")
	verdictOf(t, checkSilent(netlab.Result{Outcome: netlab.Failed, Err: errors.New("no route")}), "silence")
}

func TestLoad(t *testing.T) {
	verdictOf(t, checkLoad(netlab.LoadReport{Attempts: 1000, OK: 1000}, 500), "")
	verdictOf(t, checkLoad(netlab.LoadReport{Attempts: 1000, OK: 999, Failed: 1}, 500), "no connection that fails")
	verdictOf(t, checkLoad(netlab.LoadReport{Attempts: 1000, OK: 999, BadSource: 1}, 500), "no connection that fails")
	verdictOf(t, checkLoad(netlab.LoadReport{Attempts: 1000, OK: 999, BadEndpoint: 1}, 500), "no connection that fails")
	verdictOf(t, checkLoad(netlab.LoadReport{Attempts: 499, OK: 499}, 500), "at least 500 connections")
	verdictOf(t, checkLoad(netlab.LoadReport{}, 500), "at least 500 connections")
}

const servicesListing = `table ip weir {
	map services {
		type inet_proto . ipv4_addr . inet_service : verdict
		elements = { tcp . 10.96.0.10 . 80 comment "default/web:http" : goto lb-4,
			     tcp . 10.96.0.20 . 80 : goto refuse }
	}
}`

func TestVerdicts(t *testing.T) {
	want := func(addr, verdict string) map[netip.AddrPort]string {
		return map[netip.AddrPort]string{netip.MustParseAddrPort(addr): verdict}
	}
	verdictOf(t, checkVerdicts(servicesListing, want("10.96.0.10:80", "goto lb-4")), "")
	verdictOf(t, checkVerdicts(servicesListing, want("10.96.0.20:80", "goto refuse")), "")
	verdictOf(t, checkVerdicts(servicesListing, want("10.96.0.20:80", "goto lb-4")), "goto refuse")
	verdictOf(t, checkVerdicts(servicesListing, want("10.96.0.10:8", "goto lb-4")), "10.96.0.10 . 8 : goto lb-4")
	verdictOf(t, checkVerdicts("", want("10.96.0.10:80", "goto lb-4")), "goto lb-4")
}

const endpointsListing = `table ip weir {
	map endpoints {
		type inet_proto . ipv4_addr . inet_service . mark : ipv4_addr . inet_service
		elements = { tcp . 10.96.0.10 . 80 . 0x00000001 : 10.244.1.10 . 8080,
			     tcp . 10.96.0.10 . 80 . 0x00000000 : 10.244.1.11 . 8080 }
	}
}`

func TestSlots(t *testing.T) {
	web := netip.MustParseAddrPort("10.96.0.10:80")
	addrs := func(list ...string) (all []netip.Addr) {
		for _, a := range list {
			all = append(all, netip.MustParseAddr(a))
		}
		return all
	}
	verdictOf(t, checkSlots(endpointsListing, web, addrs("10.244.1.10", "10.244.1.11")), "")
	verdictOf(t, checkSlots(endpointsListing, web, addrs("10.244.1.10", "10.244.1.12")), "10.244.1.12 . 8080")
	verdictOf(t, checkSlots(endpointsListing, web, addrs("10.244.1.10", "10.244.1.11", "10.244.1.12")), "10.244.1.12 . 8080")
	verdictOf(t, checkSlots("", web, addrs("10.244.1.10")), "10.244.1.10 . 8080")
}

func TestUnreachable(t *testing.T) {
	const snmp = "Ip: Forwarding DefaultTTL\nIp: 1 64\nIcmp: InMsgs InErrors InCsumErrors InDestUnreachs\nIcmp: 9 8 7 6\nIcmpMsg: InType3\nIcmpMsg: 6\n"
	if n := unreachable4(snmp); n != 6 {
		t.Errorf("IPv4: %d, want 6", n)
	}
	if n := unreachable6("Ip6InReceives                   \t12\nIcmp6InDestUnreachs             \t5\n"); n != 5 {
		t.Errorf("IPv6: %d, want 5", n)
	}
}
