package dataplane

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"
)

var (
	dnsLayout = Layout{Local: testLayout.Local, DNS: DNS{Addrs: []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:10:96::a")}}}
	dnsLeases = []Frontend{
		frontend("10.96.0.10:53", 17), frontend("10.96.0.10:53", 6), frontend("[fd00:10:96::a]:53", 17), frontend("[fd00:10:96::a]:53", 6)}
)

// heldLeases returns what is leased at this moment, as the kernel says.
func heldLeases(t *testing.T, c *Conn) []Frontend {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	var held []Frontend
	for _, fam := range c.families {
		elements, err := c.elements(fam, c.state[fam.number()].name, dnsAlive, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range elements {
			held = append(held, e.Frontend)
		}
	}
	return held
}

func checkLeases(t *testing.T, c *Conn, want ...Frontend) {
	t.Helper()
	less := cmpopts.SortSlices(func(a, b Frontend) bool { return a.String() < b.String() })
	opts := gocmp.Options{less, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{})}
	if diff := gocmp.Diff(want, heldLeases(t, c), opts); diff != "" {
		t.Errorf("leases (-want +got):\n%s", diff)
	}
}

// TestNetnsLease holds, renews, lets end and ends leases, with and without a way to delete what need
// not be there (kernel 6.3).
func TestNetnsLease(t *testing.T) {
	for name, old := range map[string]bool{"this kernel": false, "before 6.3": true} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			c := open(t, Config{NetNS: namespace(t), Layout: dnsLayout})
			c.destroy = c.destroy && !old
			if err := c.Renew(ctx, dnsLeases, time.Minute); !errors.Is(err, ErrStale) {
				t.Errorf("Renew without a table = %v, want ErrStale", err)
			}
			if err := c.Release(ctx, dnsLeases); !errors.Is(err, ErrStale) {
				t.Errorf("Release without a table = %v, want ErrStale", err)
			}
			if err := c.Replace(ctx, seq(), seq(everySet())); err != nil {
				t.Fatal(err)
			}
			checkLeases(t, c)
			steps := []struct {
				name   string
				do     func() error
				want   []Frontend
				settle time.Duration // how long to wait for it
			}{
				{"begin", func() error { return c.Renew(ctx, dnsLeases[:3], time.Minute) }, dnsLeases[:3], 0},
				{"renew", func() error { return c.Renew(ctx, dnsLeases, time.Minute) }, dnsLeases, 0},
				{"end one", func() error { return c.Release(ctx, dnsLeases[1:2]) }, slices.Concat(dnsLeases[:1], dnsLeases[2:]), 0},
				{"end what has none", func() error { return c.Release(ctx, dnsLeases[1:2]) }, slices.Concat(dnsLeases[:1], dnsLeases[2:]), 0},
				{"shorten", func() error { return c.Renew(ctx, dnsLeases, 50*time.Millisecond) }, nil, 10 * time.Second},
				{"renew what has ended", func() error { return c.Renew(ctx, dnsLeases, time.Minute) }, dnsLeases, 0},
				{"another Replace", func() error { return c.Replace(ctx, seq(), seq()) }, dnsLeases, 0},
				{"end all", func() error { return c.Release(ctx, dnsLeases) }, nil, 0},
			}
			for _, s := range steps {
				if err := s.do(); err != nil {
					t.Fatalf("%s: %v", s.name, err)
				}
				for deadline := time.Now().Add(s.settle); len(heldLeases(t, c)) != len(s.want) && time.Now().Before(deadline); {
					time.Sleep(10 * time.Millisecond)
				}
				checkLeases(t, c, s.want...)
				if reason, err := c.Look(); reason != "" || err != nil {
					t.Errorf("%s: Look = %q, %v", s.name, reason, err)
				}
			}
		})
	}
}

// TestNetnsLeaseIsRenewed sees that a lease ends when it was last said to, whether it was renewed in
// time or too late.
func TestNetnsLeaseIsRenewed(t *testing.T) {
	ctx := context.Background()
	ns := namespace(t)
	c := open(t, Config{NetNS: ns, Layout: dnsLayout})
	if err := c.Replace(ctx, seq(), seq()); err != nil {
		t.Fatal(err)
	}
	const lease = 300 * time.Millisecond
	var longest time.Duration
	last := time.Now()
	for end := last.Add(4 * lease); time.Now().Before(end); time.Sleep(lease / 10) {
		if err := c.Renew(ctx, dnsLeases[:1], lease); err != nil {
			t.Fatal(err)
		}
		longest, last = max(longest, time.Since(last)), time.Now()
		if held := heldLeases(t, c); len(held) == 0 && time.Since(last) < lease {
			t.Fatalf("the lease is gone %v after it was renewed for %v", time.Since(last), lease)
		}
	}
	for len(heldLeases(t, c)) > 0 {
		if time.Since(last) > lease+5*time.Second {
			t.Fatalf("the lease is there %v after it was renewed for %v", time.Since(last), lease)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if gone := time.Since(last); gone < lease-lease/10 {
		t.Errorf("the lease was gone %v after it was renewed for %v", gone, lease)
	}
}

// TestNetnsLeaseLayouts goes from a layout without DNS to one with it and back: each hands over to the
// next, and none leaves a chain behind.
func TestNetnsLeaseLayouts(t *testing.T) {
	ctx := context.Background()
	ns := namespace(t)
	rest := seq(everySet())
	other := dnsLayout
	other.MasqueradeAll = true
	for _, layout := range []Layout{testLayout, dnsLayout, other, dnsLayout, testLayout} {
		c := open(t, Config{NetNS: ns, Layout: layout})
		if err := c.Replace(ctx, seq(), rest); err != nil {
			t.Fatal(err)
		}
		checkHolds(t, c, rest)
		dns := len(layout.DNS.Addrs) > 0
		if dns {
			if err := c.Renew(ctx, dnsLeases, time.Minute); err != nil {
				t.Fatal(err)
			}
		}
		listing := nft(t, ns, "list", "ruleset")
		if tables := strings.Count(listing, "table ip"); tables != 2 {
			t.Errorf("%d tables", tables)
		}
		if got := strings.Count(listing, "priority raw"); got != map[bool]int{true: 4, false: 0}[dns] {
			t.Errorf("DNS %v: %d raw chains", dns, got)
		}
		if dns {
			// A layout of the same process takes its leases along.
			changed := layout
			changed.Local.Interface = "cni0"
			if !c.SetLayout(changed) {
				t.Error("another layout is the same")
			}
			if err := c.Replace(ctx, seq(), rest); err != nil {
				t.Fatal(err)
			}
			checkLeases(t, c, dnsLeases...)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	// What a killed process has leased is not taken over.
	killed := open(t, Config{NetNS: ns, Layout: dnsLayout})
	if err := errors.Join(killed.Replace(ctx, seq(), rest), killed.Renew(ctx, dnsLeases, time.Minute), killed.Close()); err != nil {
		t.Fatal(err)
	}
	c := open(t, Config{NetNS: ns, Layout: dnsLayout})
	if err := c.Replace(ctx, seq(), rest); err != nil {
		t.Fatal(err)
	}
	checkLeases(t, c)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	removed, err := Cleanup(ns)
	if diff := gocmp.Diff([]string{"ip weir", "ip6 weir"}, removed); diff != "" || err != nil {
		t.Errorf("Cleanup (-want +got):\n%s%v", diff, err)
	}
	if listing := nft(t, ns, "list", "ruleset"); listing != "" {
		t.Errorf("after Cleanup:\n%s", listing)
	}
}

// TestNetnsLeaseForeign has somebody else take leases, chains and tables away.
func TestNetnsLeaseForeign(t *testing.T) {
	ctx := context.Background()
	ns := namespace(t)
	c := open(t, Config{NetNS: ns, Layout: dnsLayout, Shared: true})
	if err := errors.Join(c.Replace(ctx, seq(), seq()), c.Renew(ctx, dnsLeases, time.Minute)); err != nil {
		t.Fatal(err)
	}
	nft(t, ns, "flush", "set", "ip", Table, "dns-alive")
	if err := c.Renew(ctx, dnsLeases, time.Minute); err != nil {
		t.Fatal(err)
	}
	checkLeases(t, c, dnsLeases...)
	if reason, err := c.Look(); reason != "" || err != nil {
		t.Errorf("Look after a flushed set, and its leases renewed = %q, %v", reason, err)
	}
	for _, args := range []string{"flush chain ip TABLE raw-prerouting", "flush chain ip TABLE raw-output", "delete table ip TABLE"} {
		nft(t, ns, strings.Fields(strings.ReplaceAll(args, "TABLE", c.state[0].name))...)
		if reason, err := c.Look(); reason == "" || err != nil {
			t.Errorf("Look after %s = %q, %v", args, reason, err)
		}
		if err := c.Replace(ctx, seq(), seq()); err != nil {
			t.Fatal(err)
		}
		checkLeases(t, c, dnsLeases...)
	}
	nft(t, ns, "delete", "table", "ip", c.state[0].name)
	if err := c.Renew(ctx, dnsLeases, time.Minute); !errors.Is(err, unix.ENOENT) {
		t.Errorf("Renew without the table = %v, want ENOENT", err)
	}
}

// TestNetnsLeaseElsewhere refuses leases for which there are no rules.
func TestNetnsLeaseElsewhere(t *testing.T) {
	ctx := context.Background()
	c := open(t, Config{NetNS: namespace(t), Layout: testLayout})
	if err := c.Replace(ctx, seq(), seq()); err != nil {
		t.Fatal(err)
	}
	if err := c.Renew(ctx, dnsLeases, time.Minute); !errors.Is(err, unix.EINVAL) {
		t.Errorf("Renew without DNS addresses = %v, want EINVAL", err)
	}
	if err := c.Apply(ctx, []Op{{Set: dnsAlive, Elem: Element{Frontend: dnsLeases[0]}}}); !errors.Is(err, unix.EINVAL) {
		t.Errorf("Apply of a lease = %v, want EINVAL", err)
	}
}
