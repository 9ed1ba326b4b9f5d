//go:build linux

package apiserver

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weir-project/weir/internal/netlab"
)

// expect waits until connections from a host to dst end as wanted: "refused", "dropped", or the names
// of the hosts that answer, all of them and nobody else. Words after "as" say whose address they
// see; without it, the sender's own.
func (w *world) expect(t *testing.T, from string, dst netip.AddrPort, want string) {
	t.Helper()
	w.expectProto(t, from, netlab.TCP, dst, want)
}

func (w *world) expectProto(t *testing.T, from string, proto netlab.Protocol, dst netip.AddrPort, want string) {
	t.Helper()
	var fault error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if fault = w.probe(from, proto, dst, want); fault == nil {
			return
		}
	}
	t.Errorf("%s to %s/%s: %v", from, dst, proto, fault)
}

// probe says what is different from what is wanted.
func (w *world) probe(from string, proto netlab.Protocol, dst netip.AddrPort, want string) error {
	host := w.lab.Host(from)
	hosts, as, masqueraded := strings.Cut(want, " as ")
	names := strings.Fields(hosts)
	slices.Sort(names)
	f := family(6)
	if dst.Addr().Is4() {
		f = 4
	}
	source := f.of(host)
	if masqueraded {
		source = f.of(w.lab.Host(as))
	}
	n := 1
	if want != "refused" && want != "dropped" {
		// One of k endpoints stays unseen in 12k connections once in 160,000 times; then it is tried again.
		n = 12 * len(names)
	}
	s := host.ProbeMany(n, proto, dst, netlab.ProbeOptions{Timeout: time.Second, Parallel: 8})
	switch {
	case want == "refused" && s.Refused == n, want == "dropped" && s.Dropped == n:
		return nil
	case s.Answered < n:
		return fmt.Errorf("want %s, got %s", want, s)
	}
	var seen []string
	for name := range s.Names {
		seen = append(seen, name)
	}
	slices.Sort(seen)
	if !slices.Equal(seen, names) {
		return fmt.Errorf("want %s, answered by %v", want, seen)
	}
	if got := s.SourcesSeen(); len(got) != 1 || got[0] != source {
		return fmt.Errorf("want the source %s, they saw %v", source, got)
	}
	return nil
}

// witness counts the new packets that pass the node untranslated although they go to a frontend: to an
// address of the service networks or the external ones, or to one of the node ports that are ours
// all the time. It stands behind everybody's chains, in a table of its own.
type witness struct {
	t    *testing.T
	node *netlab.Host
}

const witnessTable = `
table inet witness {
	counter leaked { }
	counter syns { }
	set leaks4 { type ipv4_addr . inet_service . ipv4_addr . inet_service . inet_proto; size 64; flags dynamic; }
	set leaks6 { type ipv6_addr . inet_service . ipv6_addr . inet_service . inet_proto; size 64; flags dynamic; }
	chain leak {
		counter name leaked
		tcp flags & (syn | ack | rst | fin) == syn counter name syns
		meta nfproto ipv4 add @leaks4 { ip saddr . th sport . ip daddr . th dport . meta l4proto }
		meta nfproto ipv6 add @leaks6 { ip6 saddr . th sport . ip6 daddr . th dport . meta l4proto }
	}
	chain note {
		ct state != new return
		ct status dnat return
		meta l4proto != { tcp, udp } return
		ip daddr { 10.96.0.0/16, 203.0.113.0/24 } jump leak
		ip6 daddr { fd00:10:96::/112, 2001:db8:113::/64 } jump leak
		ip daddr 172.31.0.11 th dport 31000-31999 jump leak
		ip6 daddr fd00:31::11 th dport 31000-31999 jump leak
	}
	chain delivered { type filter hook input priority 1000; jump note; }
	chain left { type filter hook postrouting priority 1000; jump note; }
}`

// watch puts a witness into the node. When the test ends, it must not have seen anything.
func watch(t *testing.T, w *world) *witness {
	t.Helper()
	x := &witness{t, w.node()}
	x.restore()
	t.Cleanup(func() {
		x.check()
		_, _ = x.node.Run("nft", "delete table inet witness")
	})
	return x
}

// restore puts the witness back after somebody has flushed the ruleset.
func (x *witness) restore() {
	x.t.Helper()
	if _, err := x.node.Run("nft", witnessTable); err != nil {
		x.t.Fatal(err)
	}
}

// check fails the test if the witness has seen something, and returns how much.
func (x *witness) check() (n int) {
	x.t.Helper()
	out, err := x.node.Run("nft", "list counter inet witness leaked")
	if err != nil {
		x.t.Error(err)
		return 0
	}
	_, rest, _ := strings.Cut(out, "packets")
	if _, err := fmt.Sscan(rest, &n); err != nil {
		x.t.Error(err)
	}
	if n > 0 {
		which, err := x.node.Run("nft", "list table inet witness")
		if err != nil {
			which = err.Error()
		}
		x.t.Errorf("%d new packets to frontends left untranslated\n%s", n, which)
	}
	return n
}
