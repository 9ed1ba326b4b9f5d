package dataplane

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"
)

var compareElements = cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{})}

// randomElement returns an element of a set with all the fields that the set has.
func randomElement(rng *rand.Rand, s Set, fam *family) Element {
	addr := func() netip.Addr {
		b := make([]byte, fam.addrLen)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		b[0] |= 1 // not ::ffff:0:0/96
		a, _ := netip.AddrFromSlice(b)
		return a
	}
	port := func() uint16 { return uint16(1 + rng.IntN(65535)) }
	prefix := func() netip.Prefix { return netip.PrefixFrom(addr(), 1+rng.IntN(8*fam.addrLen)).Masked() }
	f := Frontend{addr(), port(), []Protocol{6, 17, 132}[rng.IntN(3)]}
	switch s {
	case Services:
		return Element{Frontend: f, Verdict: []Verdict{Refuse, Drop, Balance(1 + rng.IntN(1<<MaxClass))}[rng.IntN(3)], Comment: "default/web:http"[:rng.IntN(17)]}
	case LocalServices:
		return Element{Frontend: f, Verdict: BalanceLocal(1 + rng.IntN(1<<MaxClass))}
	case Endpoints, LocalEndpoints:
		return Element{Frontend: f, Slot: uint32(rng.IntN(1 << MaxClass)), Endpoint: netip.AddrPortFrom(addr(), port())}
	case ClusterIPs, Hairpin:
		return Element{Frontend: Frontend{Addr: f.Addr}}
	case AllowedSources:
		return Element{Frontend: f, Source: prefix()}
	case Affinity:
		return Element{Frontend: f, Client: addr(), Endpoint: netip.AddrPortFrom(addr(), port())}
	case ServiceCIDRs:
		return Element{Source: prefix()}
	case AffinityOf:
		return Element{Frontend: f, Timeout: time.Duration(1+rng.IntN(86400)) * time.Second}
	}
	return Element{Frontend: f}
}

// bodyOf returns the message that adds elements, from its attributes on.
func bodyOf(s Set, fam *family, elements ...Element) []byte {
	var m messages
	list := beginElements(&m, fam, Table, setName(s, 0), unix.NFT_MSG_NEWSETELEM)
	for i := range elements {
		appendElement(&m, fam, s, &elements[i], false)
	}
	endElements(&m, list)
	return m.b[nlmsgHeader+nfgenHeader:]
}

func TestWhatIsEncodedIsDecoded(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for s := range numSets {
		for _, fam := range []*family{ipv4, ipv6} {
			for range 200 {
				want := randomElement(rng, s, fam)
				if op := (Op{Set: s, Elem: want}); op.check() != nil {
					t.Fatalf("%s: %v", s, op.check())
				}
				var got []Element
				var ends []netip.Addr
				err := decodeElements(bodyOf(s, fam, want), fam, s, func(e Element, end bool) {
					if end {
						ends = append(ends, e.Source.Addr())
						return
					}
					got = append(got, e)
				})
				if err == nil && s == ServiceCIDRs {
					got, err = prefixes(got, ends)
				}
				if err != nil {
					t.Fatalf("%s %s: %v", fam.name, s, err)
				}
				want.Timeout = 0 // in the set's name
				if diff := cmp.Diff([]Element{want}, got, compareElements); diff != "" {
					t.Fatalf("%s %s (-want +got):\n%s", fam.name, s, diff)
				}
			}
		}
	}
}

// FuzzDecode feeds what a netlink socket gives to everything that reads it. Nothing may panic, and
// what is decoded must make sense.
func FuzzDecode(f *testing.F) {
	rng := rand.New(rand.NewPCG(3, 4))
	for s := range numSets {
		f.Add(bodyOf(s, ipv4, randomElement(rng, s, ipv4), randomElement(rng, s, ipv4)), uint8(s), false)
		f.Add(bodyOf(s, ipv6, randomElement(rng, s, ipv6)), uint8(s), true)
	}
	var m messages
	appendNewTable(&m, ipv4, Table, 6, "weir layout 0123456789abcdef")
	f.Add(m.b, uint8(0), false)
	f.Fuzz(func(t *testing.T, b []byte, set uint8, six bool) {
		s, fam := Set(set)%numSets, ipv4
		if six {
			fam = ipv6
		}
		var begins []Element
		var ends []netip.Addr
		_ = decodeElements(b, fam, s, func(e Element, end bool) {
			if end && s == ServiceCIDRs {
				ends = append(ends, e.Source.Addr())
				return
			}
			begins = append(begins, e)
			if a := (&Op{Set: s, Elem: e}).address(); !a.IsValid() || familyOf(a) != fam {
				t.Fatalf("%s: address %v of another family", s, a)
			}
			if e.Verdict != 0 && e.Verdict.Chain() == "invalid" {
				t.Fatalf("verdict %d", e.Verdict)
			}
		})
		if s == ServiceCIDRs {
			if decoded, err := prefixes(begins, ends); err == nil {
				for _, e := range decoded {
					if e.Source.Masked() != e.Source {
						t.Fatalf("prefix %s with bits beyond it", e.Source)
					}
				}
			}
		}
		_ = decodeCounters(b, fam, func(f Frontend, _ uint64) {
			if familyOf(f.Addr) != fam {
				t.Fatalf("counter of %v, of another family", f)
			}
		})
		if table, err := decodeTable(b); err == nil && len(table.comment) > 255 {
			t.Fatalf("comment of %d bytes", len(table.comment))
		}
		read := 0
		_ = eachMessage(b, func(typ, _ uint16, _ uint32, body []byte) error {
			read += nlmsgHeader + len(body)
			if typ == unix.NLMSG_ERROR {
				_, _, _ = errorOf(body)
			}
			return nil
		})
		if read > len(b) {
			t.Fatalf("read %d bytes of %d", read, len(b))
		}
		_ = commentOf(b, 0)
	})
}

func TestVerdictChains(t *testing.T) {
	for _, tt := range []struct {
		v    Verdict
		want string
	}{
		{Refuse, "refuse"}, {Drop, "drop"},
		{Balance(1), "lb-1"}, {Balance(2), "lb-2"}, {Balance(3), "lb-4"}, {Balance(4), "lb-4"}, {Balance(5), "lb-8"},
		{Balance(1 << MaxClass), "lb-131072"}, {BalanceLocal(17), "lb-local-32"}, {0, "invalid"}, {255, "invalid"},
	} {
		if got := tt.v.Chain(); got != tt.want {
			t.Errorf("Verdict(%d).Chain() = %q, want %q", tt.v, got, tt.want)
		}
	}
}

// TestMessagesFit holds that a list of elements never outgrows its 16 bit length.
func TestMessagesFit(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	c := &Conn{state: [2]tableState{{name: Table}, {name: Table}}}
	b := c.newBatch()
	for i := range 5000 {
		op := Op{Set: Services, Elem: randomElement(rng, Services, ipv6), Owner: 7}
		op.Elem.Comment = string(bytes.Repeat([]byte{'x'}, i%200))
		if err := b.add(&op); err != nil {
			t.Fatal(err)
		}
	}
	b.finish()
	n := 0
	err := eachMessage(b.b, func(typ, _ uint16, _ uint32, body []byte) error {
		if typ == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWSETELEM {
			return decodeElements(body[nfgenHeader:], ipv6, Services, func(Element, bool) { n++ })
		}
		return nil
	})
	if err != nil || n != 5000 {
		t.Errorf("%d elements in the messages, want 5000: %v", n, err)
	}
}
