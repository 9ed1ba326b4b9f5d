package node

import (
	"context"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inNamespace runs f on a thread in a network namespace of its own, with lo up.
func inNamespace(t *testing.T, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and stays so: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			var lo netlink.Link
			if lo, err = netlink.LinkByName("lo"); err == nil {
				err = netlink.LinkSetUp(lo)
			}
		}
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		if os.Getenv("CI") == "" && err == unix.EPERM {
			t.Skip("needs network namespaces (CAP_SYS_ADMIN): run as root")
		}
		t.Fatal(err)
	}
}

var (
	ours4, ours6     = netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:10:96::a")
	theirs4, theirs6 = netip.MustParseAddr("10.96.0.11"), netip.MustParseAddr("fd00:10:96::b")
)

// TestNetnsAddresses puts addresses on lo and takes them away, but none that somebody else has put there.
func TestNetnsAddresses(t *testing.T) {
	inNamespace(t, func() {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			t.Error(err)
			return
		}
		for _, a := range []netip.Addr{theirs4, theirs6} {
			addr := &netlink.Addr{IPNet: netlink.NewIPNet(a.AsSlice())}
			if a.Is6() { // as alike as can be
				addr.Flags, addr.PreferedLft, addr.ValidLft = unix.IFA_F_NODAD, 0, int(^uint32(0)>>1)
			}
			if err := netlink.AddrAdd(lo, addr); err != nil {
				t.Error(err)
			}
		}
		for _, a := range []netip.Addr{ours4, ours6, ours4, ours6, theirs4, theirs6} { // there already is fine
			if err := EnsureAddress(a); err != nil {
				t.Error(err)
			}
		}
		found, err := netlink.AddrList(lo, netlink.FAMILY_V4)
		if err != nil || !slices.ContainsFunc(found, func(a netlink.Addr) bool {
			return a.IP.Equal(ours4.AsSlice()) && a.Scope == int(netlink.SCOPE_HOST)
		}) {
			t.Errorf("%s is not there with scope host: %v, %v", ours4, found, err)
		}
		for _, a := range []netip.Addr{ours4, ours6} { // usable at once
			c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 53)))
			if err != nil {
				t.Error(err)
				continue
			}
			c.Close()
		}
		for _, step := range []struct{ keep, want []netip.Addr }{
			{[]netip.Addr{ours4, ours6}, nil},
			{[]netip.Addr{ours4}, []netip.Addr{ours6}},
			{nil, []netip.Addr{ours4}},
			{nil, nil},
		} {
			removed, err := RemoveAddresses(step.keep)
			if err != nil || !slices.Equal(removed, step.want) {
				t.Errorf("RemoveAddresses but %v = %v, %v; want %v", step.keep, removed, err, step.want)
			}
		}
		found, err = netlink.AddrList(lo, netlink.FAMILY_ALL)
		for _, a := range []netip.Addr{theirs4, theirs6} {
			if err != nil || !slices.ContainsFunc(found, func(f netlink.Addr) bool { return f.IP.Equal(a.AsSlice()) }) {
				t.Errorf("%s of somebody else is gone: %v, %v", a, found, err)
			}
		}
	})
}

// TestProber tells a server that answers from one that does not, or otherwise.
func TestProber(t *testing.T) {
	reply := func(rcode int, id uint16) dns.HandlerFunc {
		return func(w dns.ResponseWriter, q *dns.Msg) {
			m := new(dns.Msg).SetRcode(q, rcode)
			m.Id += id
			_ = w.WriteMsg(m)
		}
	}
	for _, test := range []struct {
		name   string
		answer dns.HandlerFunc
		ok     bool
	}{
		{"answers", reply(dns.RcodeSuccess, 0), true},
		{"fails", reply(dns.RcodeServerFailure, 0), false},
		{"answers another query", reply(dns.RcodeSuccess, 1), false},
		{"is silent", func(dns.ResponseWriter, *dns.Msg) {}, false},
		{"is not there", nil, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			at := netip.MustParseAddrPort("127.0.0.1:9") // discard: nobody
			if test.answer != nil {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				at = l.Addr().(*net.TCPAddr).AddrPort()
				c, err := net.ListenPacket("udp", at.String())
				if err != nil {
					t.Fatal(err)
				}
				for _, s := range []*dns.Server{{Listener: l, Handler: test.answer}, {PacketConn: c, Handler: test.answer}} {
					done := make(chan struct{})
					go func() { defer close(done); _ = s.ActivateAndServe() }()
					defer func() { _ = s.Shutdown(); <-done }()
				}
			}
			for _, tcp := range []bool{false, true} {
				patience := 20 * time.Second
				if !test.ok {
					patience = 300 * time.Millisecond
				}
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				err := Prober{Name: "dns-version.cluster.local.", TTL: 1}.Probe(ctx, Socket{at, tcp})
				cancel()
				if (err == nil) != test.ok {
					t.Errorf("tcp=%v: %v", tcp, err)
				}
			}
		})
	}
}
