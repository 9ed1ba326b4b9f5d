package dns

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
)

// reverseName returns the name that stands for an address, in presentation form.
func reverseName(a netip.Addr) string {
	if a.Is4() {
		b := a.As4()
		return fmt.Sprintf("%d.%d.%d.%d.in-addr.arpa.", b[3], b[2], b[1], b[0])
	}
	b := a.As16()
	digits := hex.EncodeToString(b[:])
	var s strings.Builder
	for i := len(digits) - 1; i >= 0; i-- {
		s.WriteByte(digits[i])
		s.WriteByte('.')
	}
	return s.String() + "ip6.arpa."
}

// TestAddressNames holds that an address is found by its names, whatever zeros it has.
func TestAddressNames(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 20_000 {
		var b [16]byte
		for i := range b {
			if r.IntN(3) == 0 {
				b[i] = byte(r.Uint32())
			}
		}
		b[0] |= 0x20 // an address that begins with zeros has no name of its own: -1 is no hostname
		for _, a := range []netip.Addr{netip.AddrFrom16(b), netip.AddrFrom4([4]byte(b[:4]))} {
			if got, ok := undash([]byte(dashed(a))); !ok || got != a {
				t.Fatalf("%v is %s, which is %v", a, dashed(a), got)
			}
			wire, err := parseName(reverseName(a))
			if err != nil {
				t.Fatal(err)
			}
			var n name
			n.read(wire)
			if got, ok := n.reverse(); !ok || got != a {
				t.Fatalf("%v is %s, which is %v", a, reverseName(a), got)
			}
		}
	}
}

// TestNoAddress holds that what is no address is not taken for one.
func TestNoAddress(t *testing.T) {
	for _, label := range []string{"a", "-", "--", "---", "1-2-3", "1-2-3-", "-1-2-3-4", "1-2-3-4-5", "1-2-3-256", "01-2-3-4", "1--3-4-", "a-b-c-d-e-f-1-2-3",
		"a-b-c-d-e-f-1--2-3", "12345--", "g--1", "1--2--3", "web-0", "1-2-3-4a"} {
		_, err := netip.ParseAddr(strings.ReplaceAll(label, "-", ":"))
		if a, ok := undash([]byte(label)); ok != (err == nil) {
			t.Errorf("%s is %v, %v; as IPv6: %v", label, a, ok, err)
		}
	}
	for _, s := range []string{"1.2.3.in-addr.arpa", "1.2.3.4.5.in-addr.arpa", "1.2.3.256.in-addr.arpa", "1.2.3.04.in-addr.arpa", "1.2.3.x.in-addr.arpa",
		"1.2.3.4.in-addr.example", "in-addr.arpa", "1.2.ip6.arpa", strings.Repeat("10.", 32) + "ip6.arpa", strings.Repeat("g.", 32) + "ip6.arpa"} {
		wire, err := parseName(s)
		if err != nil {
			t.Fatal(err)
		}
		var n name
		if n.read(wire); n.count > 0 {
			if a, ok := n.reverse(); ok {
				t.Errorf("%s is %v", s, a)
			}
		}
	}
}
