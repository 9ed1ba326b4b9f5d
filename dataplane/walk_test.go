package dataplane

import (
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// held is a ruleset of one frontend.
type held struct {
	frontend Frontend
	elements map[Set]bool // of the sets that hold the frontend, or its address
	verdicts map[Set]Verdict
	slots    int
	client   netip.AddrPort // where affinity leads; the zero value: nowhere
	timeout  time.Duration
	allowed  netip.Prefix
	cidr     netip.Prefix
}

func (h *held) Timeout(Frontend) time.Duration { return h.timeout }

func (h *held) Element(s Set, e Element) (Element, bool) {
	ours := e.Frontend == h.frontend
	switch s {
	case ServiceCIDRs:
		return e, h.cidr.IsValid() && h.cidr.Contains(e.Source.Addr())
	case AllowedSources:
		return e, ours && h.allowed.Contains(e.Source.Addr())
	case ClusterIPs:
		return e, h.elements[s] && e.Frontend.Addr == h.frontend.Addr
	case Hairpin:
		return e, h.elements[s] && e.Frontend.Addr.IsValid()
	case Affinity:
		e.Endpoint = h.client
		return e, ours && h.client.IsValid()
	case Services, LocalServices:
		e.Verdict = h.verdicts[s]
		return e, ours && e.Verdict != 0
	case Endpoints, LocalEndpoints:
		e.Endpoint = netip.AddrPortFrom(h.frontend.Addr, uint16(1000+e.Slot))
		return e, ours && int(e.Slot) < h.slots
	}
	return e, ours && h.elements[s]
}

func walkFrontend(family int) Frontend {
	if family == 6 {
		return Frontend{netip.MustParseAddr("fd00:10:96::10"), 80, 6}
	}
	return Frontend{netip.MustParseAddr("10.96.0.10"), 80, 6}
}

// The shares of n endpoints add up to one, and no endpoint has more than 0.4 % more than its part.
func TestWalkShares(t *testing.T) {
	var layout Layout
	for _, family := range []int{4, 6} {
		for _, n := range []int{1, 2, 3, 4, 5, 7, 8, 9, 33, 64, 65} {
			t.Run(fmt.Sprintf("IPv%d/%d", family, n), func(t *testing.T) {
				f := walkFrontend(family)
				h := &held{frontend: f, slots: n, verdicts: map[Set]Verdict{Services: Balance(n)}}
				w, err := layout.Walk(Packet{Source: f.Addr.Next(), To: f, Interface: "eth0"}, h)
				if err != nil || w.Outcome != Translated || len(w.Targets) != n {
					t.Fatalf("%s, %d targets, %v; want %d", w.Outcome, len(w.Targets), err, n)
				}
				sum := new(big.Rat)
				for _, target := range w.Targets {
					sum.Add(sum, target.Share)
					share, _ := target.Share.Float64()
					if fair := 1 / float64(n); share > fair*1.004 || share < fair*0.996 {
						t.Errorf("%s has %s, about %f; want about %f", target.Endpoint, target.Share, share, fair)
					}
				}
				if sum.Cmp(big.NewRat(1, 1)) != 0 {
					t.Errorf("the shares add up to %s", sum)
				}
			})
		}
	}
}

// Three endpoints in a class of four: the exact shares, worked out by hand. Each of eight draws misses
// with 1/4, and the ninth falls on one of the lower two.
func TestWalkExactShares(t *testing.T) {
	f := walkFrontend(4)
	var layout Layout
	w, err := layout.Walk(Packet{Source: f.Addr.Next(), To: f}, &held{frontend: f, slots: 3, verdicts: map[Set]Verdict{Services: Balance(3)}})
	if err != nil {
		t.Fatal(err)
	}
	missed := big.NewRat(1, 65536) // (1/4)^8
	hit := new(big.Rat).Quo(new(big.Rat).Sub(big.NewRat(1, 1), missed), big.NewRat(3, 1))
	last := new(big.Rat).Quo(missed, big.NewRat(2, 1))
	for k, want := range []*big.Rat{new(big.Rat).Add(hit, last), new(big.Rat).Add(hit, last), hit} {
		if got := w.Targets[k].Share; got.Cmp(want) != 0 {
			t.Errorf("slot %d has %s, want %s", k, got, want)
		}
	}
}

func TestWalk(t *testing.T) {
	pods := netip.MustParsePrefix("10.244.0.0/16")
	layout := Layout{Local: LocalDetection{CIDRs: []netip.Prefix{pods}, InterfacePrefix: "cali"}}
	f := walkFrontend(4)
	pod, stranger := netip.MustParseAddr("10.244.1.5"), netip.MustParseAddr("192.0.2.7")
	both := map[Set]Verdict{Services: Balance(2), LocalServices: Drop}
	remembered := netip.MustParseAddrPort("10.244.2.9:8080")
	for _, tt := range []struct {
		name   string
		held   held
		packet Packet
		want   Outcome
		chains []string // that the packet comes through, in order
	}{
		{"refused", held{verdicts: map[Set]Verdict{Services: Refuse}}, Packet{Source: pod}, Refused, []string{"refuse"}},
		{"dropped", held{verdicts: map[Set]Verdict{Services: Drop}}, Packet{Source: pod}, Dropped, nil},
		{"stranger, Local", held{verdicts: both, slots: 2}, Packet{Source: stranger, Interface: "eth0"}, Dropped, []string{"off-cluster"}},
		{"pod by its address, Local", held{verdicts: both, slots: 2}, Packet{Source: pod, Interface: "eth0"}, Translated, []string{"off-cluster", "lb-2"}},
		{"pod by its interface, Local", held{verdicts: both, slots: 2}, Packet{Source: stranger, Interface: "cali7"}, Translated, []string{"off-cluster", "lb-2"}},
		{"node, Local", held{verdicts: both, slots: 2}, Packet{Source: stranger, FromNode: true, Generated: true}, Translated, []string{"output", "off-cluster", "lb-2"}},
		{"outside of the ranges", held{verdicts: both, slots: 2, elements: map[Set]bool{Restricted: true}, allowed: pods},
			Packet{Source: stranger}, Dropped, []string{"dispatch"}},
		{"within the ranges", held{verdicts: both, slots: 2, elements: map[Set]bool{Restricted: true}, allowed: pods},
			Packet{Source: pod}, Translated, []string{"dispatch", "lb-2"}},
		{"remembered", held{verdicts: map[Set]Verdict{Services: Balance(2)}, slots: 2, client: remembered, timeout: time.Hour}, Packet{Source: pod}, Translated, []string{"dispatch"}},
		{"no port of a cluster IP", held{elements: map[Set]bool{ClusterIPs: true}}, Packet{Source: pod}, Refused, []string{"unserved-in", "unserved", "refuse"}},
		{"no Service", held{cidr: netip.MustParsePrefix("10.96.0.0/16")}, Packet{Source: pod, Generated: true}, Dropped, []string{"unserved-out", "unserved"}},
		{"not ours", held{}, Packet{Source: pod}, Unserved, []string{"prerouting", "dispatch", "unserved-in"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.held.frontend, tt.packet.To = f, f
			w, err := layout.Walk(tt.packet, &tt.held)
			if err != nil || w.Outcome != tt.want {
				t.Fatalf("%s, %v, want %s\n%v", w.Outcome, err, tt.want, w.Steps)
			}
			if w.Affinity != tt.held.client.IsValid() || w.Affinity && w.Targets[0].Endpoint != remembered {
				t.Errorf("affinity %t, %v", w.Affinity, w.Targets)
			}
			at := 0
			for _, s := range w.Steps {
				if at < len(tt.chains) && s.Chain == tt.chains[at] {
					at++
				}
			}
			if at < len(tt.chains) {
				t.Errorf("does not come through %v in this order:\n%v", tt.chains, w.Steps)
			}
		})
	}
}

// Packets to a DNS address of this node go past NAT while there is a lease, and the Service's way
// otherwise.
func TestWalkLease(t *testing.T) {
	f := Frontend{netip.MustParseAddr("10.96.0.10"), 53, 17}
	layout := Layout{Local: LocalDetection{CIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}}, DNS: DNS{Addrs: []netip.Addr{f.Addr}}}
	pod, stranger := netip.MustParseAddr("10.244.1.5"), netip.MustParseAddr("192.0.2.7")
	for _, tt := range []struct {
		name   string
		packet Packet
		proto  Protocol
		want   Outcome
	}{
		{"pod, UDP", Packet{Source: pod, Leased: true}, 17, Untracked},
		{"pod, TCP", Packet{Source: pod, Leased: true}, 6, Untracked},
		{"node", Packet{Source: f.Addr, FromNode: true, Generated: true, Leased: true}, 17, Untracked},
		{"stranger", Packet{Source: stranger, Leased: true}, 17, Translated},
		{"pod without a lease", Packet{Source: pod}, 17, Translated},
		{"node without a lease", Packet{Source: f.Addr, FromNode: true, Generated: true}, 6, Translated},
	} {
		t.Run(tt.name, func(t *testing.T) {
			to := f
			to.Protocol = tt.proto
			tt.packet.To = to
			w, err := layout.Walk(tt.packet, &held{frontend: to, slots: 2, verdicts: map[Set]Verdict{Services: Balance(2)}})
			if err != nil || w.Outcome != tt.want {
				t.Errorf("%s, %v, want %s\n%v", w.Outcome, err, tt.want, w.Steps)
			}
		})
	}
	// What the node sends with its DNS address as source is masqueraded where it leaves.
	for out, want := range map[string]bool{"eth0": true, "lo": false} {
		p := Packet{Source: f.Addr, To: f, FromNode: true, Generated: true, Out: out}
		got, steps, err := layout.Masquerade(p, netip.AddrPortFrom(stranger, 53), &held{frontend: f})
		if err != nil || got != want {
			t.Errorf("out by %s: %t, %v, want %t\n%v", out, got, err, want, steps)
		}
	}
}

func TestWalkMasquerade(t *testing.T) {
	f := walkFrontend(4)
	pod, stranger := netip.MustParseAddr("10.244.1.5"), netip.MustParseAddr("192.0.2.7")
	detect := LocalDetection{CIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}}
	for _, tt := range []struct {
		name   string
		layout Layout
		in     []Set
		packet Packet
		to     netip.Addr
		want   bool
	}{
		{"pod to a cluster IP", Layout{Local: detect}, []Set{ClusterIPs}, Packet{Source: pod}, stranger, false},
		{"stranger to a cluster IP", Layout{Local: detect}, []Set{ClusterIPs}, Packet{Source: stranger}, pod, true},
		{"stranger, nobody can be told", Layout{}, []Set{ClusterIPs}, Packet{Source: stranger}, pod, false},
		{"pod, everybody is masqueraded", Layout{Local: detect, MasqueradeAll: true}, []Set{ClusterIPs}, Packet{Source: pod}, stranger, true},
		{"counted", Layout{Local: detect, CountConnections: true}, []Set{ClusterIPs}, Packet{Source: stranger}, pod, true},
		{"hairpin", Layout{Local: detect}, []Set{ClusterIPs, Hairpin}, Packet{Source: pod}, pod, true},
		{"always", Layout{Local: detect}, []Set{SnatAlways}, Packet{Source: pod}, stranger, true},
		{"node, Local", Layout{Local: detect}, []Set{SnatNode}, Packet{Source: stranger, FromNode: true, Generated: true}, pod, true},
		{"stranger, Local", Layout{Local: detect}, []Set{SnatNode}, Packet{Source: stranger}, pod, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := &held{frontend: f, elements: map[Set]bool{}, timeout: time.Hour}
			for _, s := range append(tt.in, AffinityOf) {
				h.elements[s] = true
			}
			tt.packet.To = f
			got, steps, err := tt.layout.Masquerade(tt.packet, netip.AddrPortFrom(tt.to, 8080), h)
			if err != nil || got != tt.want {
				t.Errorf("%t, %v, want %t\n%v", got, err, tt.want, steps)
			}
			remembers := slices.ContainsFunc(steps, func(s Step) bool { return s.Chain == "remember" })
			if !remembers {
				t.Errorf("is not asked whether it is remembered:\n%v", steps)
			}
		})
	}
}
