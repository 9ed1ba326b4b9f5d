//go:build linux

package netlab

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const testPort = 8080

var protocols = []Protocol{TCP, UDP, SCTP}

// serveAll starts a server for each protocol on every address of the host.
func serveAll(t *testing.T, h *Host) {
	t.Helper()
	for _, a := range addrs(h) {
		for _, proto := range protocols {
			if _, err := h.Serve(proto, netip.AddrPortFrom(a, testPort)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func addrs(h *Host) []netip.Addr {
	if !h.Addr6.IsValid() {
		return []netip.Addr{h.Addr4}
	}
	return []netip.Addr{h.Addr4, h.Addr6}
}

func TestNetnsEveryHostReachesEveryOther(t *testing.T) {
	start := time.Now()
	lab := NewForTest(t, Config{})
	t.Logf("lab built in %s", time.Since(start))
	for _, h := range lab.Hosts() {
		serveAll(t, h)
	}
	start = time.Now()
	var wg sync.WaitGroup
	for _, from := range lab.Hosts() {
		wg.Go(func() {
			for _, to := range lab.Hosts() {
				for _, a := range addrs(to) {
					for _, proto := range protocols {
						dst := netip.AddrPortFrom(a, testPort)
						got := from.Probe(proto, dst, ProbeOptions{})
						if got.Outcome != Answered || got.By != dst.String() || got.Name != to.Name || got.SourceSeen != from.addrLike(a) {
							t.Errorf("%s to %s %s/%s: %s", from.Name, to.Name, dst, proto, got)
						}
					}
				}
			}
		})
	}
	wg.Wait()
	t.Logf("all pairs in %s", time.Since(start))
}

// The node translates as Weir would, in the crudest way: to one endpoint.
func translate(t *testing.T, lab *Lab, rules string) {
	t.Helper()
	requireTool(t, "nft")
	if _, err := lab.Host("node").Run("nft", rules); err != nil {
		t.Fatal(err)
	}
}

func requireTool(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

const crudeRules = `
table inet crude {
	chain dispatch {
		ip daddr { 10.96.0.1, 203.0.113.1 } meta l4proto { tcp, udp, sctp } th dport 80 dnat ip to 10.244.1.10:8080
		ip6 daddr { fd00:10:96::1, 2001:db8:113::1 } meta l4proto { tcp, udp, sctp } th dport 80 dnat ip6 to [fd00:10:244:1::10]:8080
		ip daddr 10.96.0.2 meta l4proto tcp reject with tcp reset
		ip daddr 10.96.0.2 reject
		ip6 daddr fd00:10:96::2 meta l4proto tcp reject with tcp reset
		ip6 daddr fd00:10:96::2 reject
		ip daddr 10.96.0.3 drop
		ip6 daddr fd00:10:96::3 drop
	}
	chain prerouting { type nat hook prerouting priority -100; jump dispatch; }
	chain output { type nat hook output priority -100; jump dispatch; }
	chain postrouting {
		type nat hook postrouting priority 100;
		ct status ! dnat return
		ip saddr 10.244.1.10 ip daddr 10.244.1.10 masquerade fully-random
		ip6 saddr fd00:10:244:1::10 ip6 daddr fd00:10:244:1::10 masquerade fully-random
	}
}`

func TestNetnsServiceAddresses(t *testing.T) {
	lab := NewForTest(t, Config{})
	translate(t, lab, crudeRules)
	serveAll(t, lab.Host("podA"))
	node := lab.Host("node")
	var wg sync.WaitGroup
	for _, from := range lab.Hosts() {
		wg.Go(func() {
			for _, proto := range protocols {
				for _, vip := range []string{"10.96.0.1", "203.0.113.1", "fd00:10:96::1", "2001:db8:113::1"} {
					a := netip.MustParseAddr(vip)
					got := from.Probe(proto, netip.AddrPortFrom(a, 80), ProbeOptions{})
					source := from.addrLike(a)
					if from.Name == "podA" { // hairpin
						source = node.addrLike(a)
					}
					if got.Outcome != Answered || got.Name != "podA" || got.SourceSeen != source {
						t.Errorf("%s to %s/%s: %s, want an answer by podA, who saw %s", from.Name, vip, proto, got, source)
					}
				}
				for vip, want := range map[string]Outcome{
					"10.96.0.2": Refused, "fd00:10:96::2": Refused,
					"10.96.0.3": Dropped, "fd00:10:96::3": Dropped,
					"10.96.0.4": Dropped, "fd00:10:96::4": Dropped, // nobody translates: a leak
				} {
					got := from.Probe(proto, netip.AddrPortFrom(netip.MustParseAddr(vip), 80), ProbeOptions{Timeout: 300 * time.Millisecond})
					if got.Outcome != want {
						t.Errorf("%s to %s/%s: %s, want %s", from.Name, vip, proto, got, want)
					}
				}
			}
		})
	}
	wg.Wait()
}

func TestNetnsClosedPort(t *testing.T) {
	lab := NewForTest(t, Config{})
	for _, to := range lab.Hosts() {
		for _, a := range addrs(to) {
			for _, proto := range protocols { // SCTP: the kernel has none, and says so by ICMP
				if proto == SCTP && (sctpInKernel() || to.Name == "podB") {
					continue // a raw socket on the way back to itself takes the packet
				}
				got := lab.Host("podB").Probe(proto, netip.AddrPortFrom(a, 81), ProbeOptions{})
				if got.Outcome != Refused {
					t.Errorf("podB to closed %s port of %s: %s", proto, a, got)
				}
			}
		}
	}
}

// With its own SCTP the kernel answers INIT to a closed port by ABORT, and our raw servers would
// compete with it.
func sctpInKernel() bool {
	_, err := os.Stat("/proc/net/sctp")
	return err == nil
}

func TestNetnsRefusalsAreTold(t *testing.T) {
	lab := NewForTest(t, Config{})
	translate(t, lab, crudeRules)
	for _, proto := range protocols {
		for _, vip := range []string{"10.96.0.2:80", "[fd00:10:96::2]:80"} {
			for _, from := range []string{"podA", "node", "client"} {
				s := lab.Host(from).ProbeMany(200, proto, netip.MustParseAddrPort(vip), ProbeOptions{})
				if s.Refused != 200 {
					t.Errorf("%s to %s/%s: %s", from, vip, proto, s)
				}
			}
		}
	}
}

func TestNetnsProbeMany(t *testing.T) {
	lab := NewForTest(t, Config{})
	requireTool(t, "nft")
	translate(t, lab, `
table ip spread {
	chain prerouting { type nat hook prerouting priority -100;
		ip daddr 10.96.0.1 tcp dport 80 dnat to numgen random mod 3 map { 0 : 10.244.1.10, 1 : 10.244.1.11, 2 : 10.244.2.10 }
	}
}`)
	for _, name := range []string{"podA", "podB", "podX"} {
		if _, err := lab.Host(name).Serve(TCP, netip.AddrPortFrom(lab.Host(name).Addr4, 80)); err != nil {
			t.Fatal(err)
		}
	}
	const n = 3000
	start := time.Now()
	s := lab.Host("podC").ProbeMany(n, TCP, netip.MustParseAddrPort("10.96.0.1:80"), ProbeOptions{})
	t.Logf("%.0f probes a second; %s", n/time.Since(start).Seconds(), s)
	if s.Answered != n || len(s.By) != 3 {
		t.Error("not all answered by three endpoints")
	}
	for by, times := range s.By {
		if times < n/3-200 || times > n/3+200 { // 7 standard deviations
			t.Errorf("%s answered %d of %d", by, times, n)
		}
	}
	if got, want := s.SourcesSeen(), lab.Host("podC").Addr4; len(got) != 1 || got[0] != want {
		t.Errorf("sources seen %v, want %s", got, want)
	}
}

func TestNetnsLoad(t *testing.T) {
	lab := NewForTest(t, Config{})
	translate(t, lab, crudeRules)
	serveAll(t, lab.Host("podA"))
	duration := 2 * time.Second
	if d, err := time.ParseDuration(os.Getenv("WEIR_LOAD_DURATION")); err == nil {
		duration = d
	}
	for _, tt := range []struct {
		name string
		cfg  LoadConfig
	}{
		{"tcp4", LoadConfig{Dst: netip.MustParseAddrPort("10.96.0.1:80")}},
		{"tcp6", LoadConfig{Dst: netip.MustParseAddrPort("[fd00:10:96::1]:80")}},
		{"udp4", LoadConfig{Proto: UDP, Dst: netip.MustParseAddrPort("10.96.0.1:80")}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.cfg.Rate, tt.cfg.Duration = 2500, duration
			r, err := lab.Host("client").Load(tt.cfg)
			if err != nil {
				t.Fatal(err)
			}
			t.Log(r)
			if r.OK != r.Attempts || r.Rate() < 2000 {
				t.Error("not all succeeded at a rate of 2,000 a second")
			}
		})
	}
}

func TestNetnsLoadSeesWhatIsWrong(t *testing.T) {
	lab := NewForTest(t, Config{})
	podA := lab.Host("podA")
	serveAll(t, podA)
	dst := netip.AddrPortFrom(podA.Addr4, testPort)
	load := func(cfg LoadConfig) LoadReport {
		cfg.Rate, cfg.Max = 1000, 100
		r, err := lab.Host("client").Load(cfg)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := load(LoadConfig{Dst: dst}); r.OK != 100 {
		t.Errorf("right: %s", r)
	}
	if r := load(LoadConfig{Dst: dst, WantSources: []netip.Addr{lab.Host("node").Addr4}}); r.BadSource != 100 {
		t.Errorf("wrong source: %s", r)
	}
	if r := load(LoadConfig{Dst: dst, WantBy: []netip.AddrPort{netip.AddrPortFrom(podA.Addr4, 1)}}); r.BadEndpoint != 100 {
		t.Errorf("wrong endpoint: %s", r)
	}
	if r := load(LoadConfig{Dst: netip.AddrPortFrom(podA.Addr4, 1)}); r.Failed != 100 || len(r.Failures) != maxFailures {
		t.Errorf("closed port: %s", r)
	}
}

func TestNetnsOpenConnection(t *testing.T) {
	lab := NewForTest(t, Config{})
	pod := lab.Host("podX")
	s, err := pod.Serve(TCP, netip.AddrPortFrom(pod.Addr6, 0))
	if err != nil {
		t.Fatal(err)
	}
	c, err := lab.Host("podA").Dial(context.Background(), "tcp", s.Addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 3 {
		got, err := Ask(c)
		if err != nil || got.By != s.Addr || got.Source.Addr() != lab.Host("podA").Addr6 {
			t.Fatalf("Ask: %+v, %v", got, err)
		}
	}
}

func TestNetnsMoreAddresses(t *testing.T) {
	second := netip.MustParseAddr("172.31.0.111")
	lab := NewForTest(t, Config{NodeAddrs: []netip.Addr{second, netip.MustParseAddr("fd00:31::111")}})
	podA := lab.Host("podA")
	for i := range 20 {
		for _, a := range []netip.Addr{nth(PodCIDR4, 100+i), nth(PodCIDR6, 100+i)} {
			if err := podA.AddAddr(a); err != nil {
				t.Fatal(err)
			}
			if _, err := podA.Serve(TCP, netip.AddrPortFrom(a, 80)); err != nil {
				t.Fatal(err)
			}
			if got := lab.Host("podY").Probe(TCP, netip.AddrPortFrom(a, 80), ProbeOptions{}); got.Outcome != Answered {
				t.Errorf("podY to %s: %s", a, got)
			}
		}
	}
	node := lab.Host("node")
	if _, err := node.Serve(TCP, netip.AddrPortFrom(second, 80)); err != nil {
		t.Fatal(err)
	}
	if got := lab.Host("client").Probe(TCP, netip.AddrPortFrom(second, 80), ProbeOptions{}); got.Outcome != Answered {
		t.Errorf("client to %s: %s", second, got)
	}
	if err := node.DelAddr(second); err != nil {
		t.Fatal(err)
	}
	if got := lab.Host("client").Probe(TCP, netip.AddrPortFrom(second, 80), ProbeOptions{Timeout: 200 * time.Millisecond}); got.Outcome == Answered {
		t.Errorf("client to %s, which is gone: %s", second, got)
	}
}

func TestNetnsIPv4Only(t *testing.T) {
	lab := NewForTest(t, Config{IPv4Only: true})
	for _, h := range lab.Hosts() {
		serveAll(t, h)
	}
	got := lab.Host("client").Probe(TCP, netip.AddrPortFrom(lab.Host("podA").Addr4, testPort), ProbeOptions{})
	if got.Outcome != Answered {
		t.Errorf("client to podA: %s", got)
	}
	if out, err := lab.Host("node").Run("cat", "/proc/net/if_inet6"); err != nil || out != "" {
		t.Errorf("IPv6 addresses on the node: %q, %v", out, err)
	}
}

func TestNetnsLeavesNothing(t *testing.T) {
	Require(t)
	lab, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	serveAll(t, lab.Host("podA"))
	p, err := lab.Host("node").Start(exec.Command("sleep", "1000"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lab.Host("client").StartLoad(LoadConfig{Dst: netip.AddrPortFrom(lab.Host("podA").Addr4, testPort)}); err != nil {
		t.Fatal(err)
	}
	inodes := make(map[string]string)
	for _, h := range lab.hosts {
		inodes[netnsOf(t, h)] = h.Name
	}
	prefix := lab.prefix
	if err := lab.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Done():
	default:
		t.Error("a process of the lab still runs")
	}
	left, _ := filepath.Glob(filepath.Join(netnsDir, prefix+"*"))
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	for _, pattern := range []string{"/proc/self/task/*/ns/net", "/proc/self/fd/*"} {
		links, _ := filepath.Glob(pattern)
		for _, link := range links {
			if target, err := os.Readlink(link); err == nil && inodes[target] != "" {
				t.Errorf("%s still holds the namespace of %s", link, inodes[target])
			}
		}
	}
	if err := lab.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
	if got := lab.Host("client").Probe(TCP, netip.MustParseAddrPort("10.244.1.10:80"), ProbeOptions{}); got.Outcome != Failed {
		t.Errorf("probe in a closed lab: %s", got)
	}
}

func netnsOf(t *testing.T, h *Host) (link string) {
	t.Helper()
	err := h.Do(func() (err error) {
		link, err = os.Readlink(threadNetns)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return link
}

func TestNetnsSweep(t *testing.T) {
	Require(t)
	child := exec.Command("true")
	if err := child.Run(); err != nil {
		t.Fatal(err)
	}
	dead := fmt.Sprintf("weir-%d-node", child.Process.Pid)
	mine := fmt.Sprintf("weir-%d.999-node", os.Getpid())
	for _, name := range []string{dead, mine} {
		n, err := newNamespace(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = n.close() })
	}
	removed, err := Sweep()
	if err != nil {
		t.Fatal(err)
	}
	list := strings.Join(removed, " ")
	if !strings.Contains(list, dead) || strings.Contains(list, mine) {
		t.Errorf("swept %q, want %s and not %s", list, dead, mine)
	}
}
