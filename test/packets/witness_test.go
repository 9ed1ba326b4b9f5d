//go:build linux

package packets

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"github.com/weir-project/weir/internal/netlab"
)

// witness notes which new connections pass the node untranslated, either to leave it or to be
// delivered on it. It stands behind everybody's chains, in a table of its own. Besides, it refuses what
// goes to the marker while nobody serves that, so that nobody waits for an answer.
type witness struct {
	node *netlab.Host
}

const witnessRules = `
table inet witness {
	set seen4 { type ipv4_addr . ipv4_addr . inet_proto . inet_service; size 65535; flags dynamic; }
	set seen6 { type ipv6_addr . ipv6_addr . inet_proto . inet_service; size 65535; flags dynamic; }
	counter leaked { }
	chain note {
		ct state != new return
		ct status dnat return
		meta l4proto != { tcp, udp, sctp } return
		ip daddr { 10.96.0.0/16, 203.0.113.0/24 } counter name leaked
		ip6 daddr { fd00:10:96::/112, 2001:db8:113::/64 } counter name leaked
		add @seen4 { ip saddr . ip daddr . meta l4proto . th dport }
		add @seen6 { ip6 saddr . ip6 daddr . meta l4proto . th dport }
	}
	chain delivered { type filter hook input priority 1000; jump note; }
	chain left { type filter hook postrouting priority 1000; jump note; }
	chain marker {
		type filter hook forward priority 1000
		ct status dnat return
		ip daddr 198.18.0.1 reject with tcp reset
		ip6 daddr fd00:18::1 reject with tcp reset
	}
}`

func newWitness(lab *netlab.Lab) (*witness, error) {
	w := &witness{lab.Host("node")}
	_, err := w.node.Run("nft", witnessRules)
	return w, err
}

// forget makes the witness forget what it has seen.
func (w *witness) forget() error {
	_, err := w.node.Run("nft", "flush set inet witness seen4; flush set inet witness seen6; reset counters table inet witness")
	return err
}

// connection is what the witness notes.
type connection struct {
	from, to netip.Addr
	proto    netlab.Protocol
	port     uint16
}

// seen returns which connections have passed.
func (w *witness) seen() (map[connection]bool, error) {
	out, err := w.node.Run("nft", "-jn", "list table inet witness")
	if err != nil {
		return nil, err
	}
	var listing struct {
		NFTables []struct {
			Set struct {
				Elem []struct {
					Concat []any `json:"concat"`
				} `json:"elem"`
			} `json:"set"`
		} `json:"nftables"`
	}
	if err := json.Unmarshal([]byte(out), &listing); err != nil {
		return nil, fmt.Errorf("listing of the witness: %w", err)
	}
	all := map[connection]bool{}
	for _, object := range listing.NFTables {
		for _, e := range object.Set.Elem {
			c, err := connectionOf(e.Concat)
			if err != nil {
				return nil, err
			}
			all[c] = true
		}
	}
	return all, nil
}

// connectionOf reads an element as nft writes it.
func connectionOf(parts []any) (c connection, err error) {
	if len(parts) != 4 {
		return c, fmt.Errorf("an element of %d parts: %v", len(parts), parts)
	}
	if c.from, err = netip.ParseAddr(fmt.Sprint(parts[0])); err != nil {
		return c, err
	}
	if c.to, err = netip.ParseAddr(fmt.Sprint(parts[1])); err != nil {
		return c, err
	}
	for _, p := range protocols {
		if name := fmt.Sprint(parts[2]); name == p.String() || name == fmt.Sprint(uint8(p)) {
			c.proto = p
		}
	}
	_, err = fmt.Sscan(fmt.Sprint(parts[3]), &c.port)
	return c, err
}

// leaked returns how many packets to service addresses have passed.
func (w *witness) leaked() (n int, err error) {
	out, err := w.node.Run("nft", "list counter inet witness leaked")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(out, "packets")
	_, err = fmt.Sscan(rest, &n)
	return n, err
}

// judge says whether what the witness has seen of a check is as it should be.
func (c check) judge(all map[connection]bool) string {
	if _, direct := c.want.sources[c.dst.String()]; direct {
		return "" // to an endpoint, and not to a frontend
	}
	passed := all[connection{c.own, c.dst.Addr(), c.proto, c.dst.Port()}] ||
		all[connection{c.dst.Addr(), c.dst.Addr(), c.proto, c.dst.Port()}] // a host talks to itself from where it talks to
	switch {
	case passed && c.want.verdict != unserved:
		return fmt.Sprintf("%s: passed the node untranslated", c)
	case !passed && c.want.verdict == unserved:
		return fmt.Sprintf("%s: did not pass the node; want unserved", c)
	}
	return ""
}
