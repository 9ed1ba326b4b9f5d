package dataplane

import (
	"context"
	"net/netip"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestNetnsAffinityEntries(t *testing.T) {
	ctx := context.Background()
	c := open(t, Config{NetNS: namespace(t), Layout: testLayout})
	r, err := c.Reader()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	check := func(when string, want map[string]int) {
		t.Helper()
		got, err := r.AffinityEntries()
		if diff := gocmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", when, err, diff)
		}
	}
	check("without tables", map[string]int{"ip": 0, "ip6": 0})

	v4, v6 := frontend("10.96.0.1:80", 6), frontend("[fd00:10:96::1]:80", 6)
	affine := func(f Frontend) []Op { return []Op{{Set: AffinityOf, Elem: Element{Frontend: f, Timeout: time.Hour}}} }
	if err := c.Replace(ctx, seq(), seq(service(v4, 2), service(v6, 2), affine(v4), affine(v6))); err != nil {
		t.Fatal(err)
	}
	check("before anybody connects", map[string]int{"ip": 0, "ip6": 0})

	const clients = 3000 // several messages of a listing
	b := c.newBatch()
	for i := range clients {
		client := netip.AddrFrom4([4]byte{10, 244, byte(9 + i>>8), byte(i)})
		op := Op{Set: Affinity, Elem: Element{Client: client, Frontend: v4, Endpoint: netip.MustParseAddrPort("10.244.0.1:8080")}}
		if err := b.add(&op); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.commit(b); err != nil {
		t.Fatal(err)
	}
	if err := addAffinityEntry(c, Op{Set: Affinity, Elem: Element{Client: netip.MustParseAddr("fd00::9"), Frontend: v6,
		Endpoint: netip.MustParseAddrPort("[fd00:1024:4000::1]:8080")}}); err != nil {
		t.Fatal(err)
	}
	check("with clients", map[string]int{"ip": clients, "ip6": 1})

	if err := c.Apply(ctx, []Op{{Delete: true, Set: Affinity, Elem: Element{Frontend: v4}}}); err != nil {
		t.Fatal(err)
	}
	check("when they are forgotten", map[string]int{"ip": 0, "ip6": 1})
}

// Sent is told of every transaction that the kernel took, with the elements of it, and of no other.
func TestNetnsSent(t *testing.T) {
	ctx := context.Background()
	var sent []int
	c := open(t, Config{NetNS: namespace(t), Layout: testLayout, Sent: func(took time.Duration, elements int) {
		if took <= 0 {
			t.Errorf("a transaction of %d elements took %s", elements, took)
		}
		sent = append(sent, elements)
	}})
	f := frontend("10.96.0.1:80", 6)
	if err := c.Replace(ctx, seq(), seq(service(f, 5))); err != nil {
		t.Fatal(err)
	}
	filled := 0
	for _, n := range sent {
		filled += n
	}
	if stats := c.Stats(); filled != 7 || stats.Elements != 7 {
		t.Errorf("told of %d elements, sent %d, want 7", filled, stats.Elements)
	}
	sent = nil
	move := Op{Delete: true, Set: Endpoints, Elem: service(f, 5)[4].Elem}
	if err := c.Apply(ctx, []Op{move}); err != nil {
		t.Fatal(err)
	}
	if err := c.Apply(ctx, []Op{move}); err == nil {
		t.Error("the kernel takes the deletion of an element that is gone")
	}
	if diff := gocmp.Diff([]int{1}, sent); diff != "" {
		t.Errorf("elements of transactions (-want +got):\n%s", diff)
	}
}
