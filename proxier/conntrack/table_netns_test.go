package conntrack

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-project/weir/internal/netlab"
)

// namespace makes a network namespace for one test. It has no name and goes with the test.
func namespace(t testing.TB) int {
	t.Helper()
	netlab.Require(t)
	fd := -1
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// made is an entry to be created.
type made struct {
	src, dst netip.AddrPort
	to       netip.AddrPort // where it is translated to; the zero AddrPort: not translated
	proto    uint8
	zone     uint16
}

func (m *messages) tuple(typ uint16, src, dst netip.AddrPort, proto uint8) {
	t := m.nest(typ)
	ip := m.nest(ctaTupleIP)
	s, d := uint16(ctaIPv4Src), uint16(ctaIPv4Dst)
	if src.Addr().Is6() {
		s, d = ctaIPv6Src, ctaIPv6Dst
	}
	m.attr(s, src.Addr().AsSlice()...)
	m.attr(d, dst.Addr().AsSlice()...)
	m.unnest(ip)
	p := m.nest(ctaTupleProto)
	m.attr(ctaProtoNum, proto)
	m.attr16(ctaProtoSrcPort, src.Port())
	m.attr16(ctaProtoDstPort, dst.Port())
	m.unnest(p)
	m.unnest(t)
}

func (m *messages) create(e made, flags uint16) {
	const (
		ctaTimeout  = 7
		ctaNATDst   = 13
		ctaNATMinIP = 1 // 4 for IPv6
		ctaNATMaxIP = 2 // 5
		ctaNATProto = 3
	)
	m.begin(msgNew, unix.NLM_F_CREATE|unix.NLM_F_EXCL|flags, familyOf(e.src.Addr()))
	m.tuple(ctaTupleOrig, e.src, e.dst, e.proto)
	m.tuple(ctaTupleReply, e.dst, e.src, e.proto)
	m.attr32(ctaTimeout, 3600)
	if e.zone != 0 {
		m.attr16(ctaZone, e.zone)
	}
	if e.proto == unix.IPPROTO_TCP {
		pi := m.nest(ctaProtoInfo)
		ti := m.nest(ctaProtoInfoTCP)
		m.attr(ctaProtoInfoTCPState, tcpEstablished)
		m.unnest(ti)
		m.unnest(pi)
	}
	if e.to.IsValid() {
		n := m.nest(ctaNATDst)
		v6 := uint16(0)
		if e.to.Addr().Is6() {
			v6 = 3
		}
		m.attr(ctaNATMinIP+v6, e.to.Addr().AsSlice()...)
		m.attr(ctaNATMaxIP+v6, e.to.Addr().AsSlice()...)
		p := m.nest(ctaNATProto)
		m.attr16(1, e.to.Port())
		m.attr16(2, e.to.Port())
		m.unnest(p)
		m.unnest(n)
	}
	m.end()
}

// fill creates n entries.
func fill(t testing.TB, c *Conn, n int, nth func(i int) made) {
	t.Helper()
	const batch = 100
	out := &c.write.out
	for i := 0; i < n; {
		out.reset()
		first := out.seq + 1
		for j := 0; j < batch && i < n; j, i = j+1, i+1 {
			flags := uint16(0)
			if j == batch-1 || i == n-1 {
				flags = unix.NLM_F_ACK
			}
			out.create(nth(i), flags)
		}
		err := c.write.batch(t.Context(), first, func(i int, errno syscall.Errno) { t.Fatalf("create an entry: %v", errno) })
		if err != nil {
			t.Fatal(err)
		}
	}
}

// room returns how many entries a namespace may hold, at most n. The limit is the machine's.
func room(t testing.TB, n int) int {
	t.Helper()
	b, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_max")
	if err != nil {
		t.Fatal(err)
	}
	limit, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	if limit == 0 {
		return n
	}
	return min(n, limit-limit/10)
}

func openTest(t testing.TB, cfg Config) *Conn {
	t.Helper()
	c, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// client returns a source that no other i has.
func client(i int, v6 bool) netip.AddrPort {
	port := uint16(1024 + i%50000)
	if v6 {
		a := [16]byte{0xfd, 0, 0xc1}
		binary.BigEndian.PutUint32(a[12:], uint32(i))
		return netip.AddrPortFrom(netip.AddrFrom16(a), port)
	}
	a := [4]byte{}
	binary.BigEndian.PutUint32(a[:], 11<<24|uint32(i))
	return netip.AddrPortFrom(netip.AddrFrom4(a), port)
}

// A table of more than 100,000 flows: filtered and not, one frontend and many. Memory does not
// grow with it, and exactly what is stale goes.
func TestNetnsLargeTable(t *testing.T) {
	for _, fam := range families {
		t.Run(fam.name, func(t *testing.T) {
			c := openTest(t, Config{NetNS: namespace(t)})
			n := room(t, 120_000)
			if n < 100_000 {
				t.Logf("nf_conntrack_max allows %d entries only, 100,000 were wanted", n)
			}
			ep, next := ap("10.244.0.1:5353"), ap("10.244.0.2:5353")
			if fam.v6 {
				ep, next = ap("[fd00:10:244::1]:5353"), ap("[fd00:10:244::2]:5353")
			}
			const frontends = 1000
			vips := make([]netip.AddrPort, frontends)
			for i := range vips {
				vips[i] = netip.AddrPortFrom(client(i, fam.v6).Addr(), 53)
			}
			fill(t, c, n, func(i int) made {
				to := ep
				if i%3 == 0 {
					to = next
				}
				return made{client(1<<20+i, fam.v6), vips[i%frontends], to, unix.IPPROTO_UDP, 0}
			})
			if got, err := c.write.size(t.Context()); got != n || err != nil {
				t.Errorf("%d entries, %v, want %d", got, err, n)
			}
			f := func(i int) Job { return Job{Frontend: frontend(vips[i].String(), protoUDP), Keep: addrPorts(next)} }
			step := func(name string, want int, jobs ...Job) {
				t.Helper()
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				start := time.Now()
				r, err := c.Clean(t.Context(), jobs)
				took := time.Since(start)
				runtime.ReadMemStats(&after)
				if got := r.Deleted.IPv4 + r.Deleted.IPv6; err != nil || got != want {
					t.Errorf("%s: %+v, %v, want %d deleted", name, r, err, want)
				}
				allocated := (after.TotalAlloc - before.TotalAlloc) >> 10
				t.Logf("%s: %+v in %s, %d KB allocated", name, r, took, allocated)
				if allocated > 2048 {
					t.Errorf("%s: %d KB allocated", name, allocated)
				}
			}
			stale := func(frontend int) (k int) {
				for i := frontend; i < n; i += frontends {
					if i%3 != 0 {
						k++
					}
				}
				return k
			}
			step("one frontend", stale(7), f(7))
			var all []Job
			want := -stale(7)
			for i := range frontends {
				all = append(all, f(i))
				want += stale(i)
			}
			step("all frontends", want, all...)
			step("nothing stale left", 0, all...)
		})
	}
}

// What the kernel's filters bring: what fits, and not all. Names what this kernel does with IPv6
// addresses.
func TestNetnsFilters(t *testing.T) {
	c := openTest(t, Config{NetNS: namespace(t)})
	vips := []string{"10.96.0.1:53", "10.96.0.1:54", "10.96.0.2:53", "[fd00:10:96::1]:53", "[fd00:10:96::1]:54", "[fd00:10:96::2]:53"}
	i := 0
	for _, vip := range vips {
		dst, to := ap(vip), ap("10.244.0.1:80")
		if dst.Addr().Is6() {
			to = ap("[fd00:10:244::1]:80")
		}
		for _, e := range []made{{proto: unix.IPPROTO_UDP, to: to}, {proto: unix.IPPROTO_TCP, to: to}, {proto: unix.IPPROTO_UDP}, {proto: unix.IPPROTO_UDP, to: to, zone: 7}} {
			i++
			e.src, e.dst = client(i, dst.Addr().Is6()), dst
			fill(t, c, 1, func(int) made { return e })
		}
	}
	tests := []struct {
		name string
		scan scan
		want int
	}{
		{"everything", scan{}, len(vips) * 4},
		{"UDP over IPv4", scan{family: unix.AF_INET, protocol: protoUDP}, 9},
		{"TCP over IPv6", scan{family: unix.AF_INET6, protocol: protoTCP}, 3},
		{"address", scan{family: unix.AF_INET, protocol: protoUDP, addr: netip.MustParseAddr("10.96.0.1")}, 6},
		{"address and port", scan{family: unix.AF_INET, protocol: protoUDP, addr: netip.MustParseAddr("10.96.0.1"), port: 53}, 3},
		{"address and port, translated", scan{family: unix.AF_INET, protocol: protoUDP, addr: netip.MustParseAddr("10.96.0.1"), port: 53, translated: true}, 2},
		{"port over IPv6", scan{family: unix.AF_INET6, protocol: protoUDP, port: 53}, 6},
		{"port over IPv6, translated", scan{family: unix.AF_INET6, protocol: protoUDP, port: 53, translated: true}, 4},
	}
	for _, test := range tests {
		if got := entries(t, c, test.scan); len(got) != test.want {
			t.Errorf("%s: %d entries, want %d", test.name, len(got), test.want)
		}
	}
	v6 := scan{family: unix.AF_INET6, protocol: protoUDP, addr: netip.MustParseAddr("fd00:10:96::1")}
	switch got := entries(t, c, v6); {
	case len(got) == 6:
		t.Log("this kernel compares IPv6 addresses as it should: scan.addr may be used for them")
	case len(got) == 3:
		t.Log("this kernel compares IPv6 addresses the wrong way round")
	default:
		t.Errorf("by IPv6 address: %d entries", len(got))
	}
	// Whatever the zone, what is stale goes.
	r, err := c.Clean(t.Context(), []Job{{Frontend: frontend(vips[0], protoUDP)}, {Frontend: frontend(vips[3], protoUDP), Appeared: true}})
	if err != nil || r.Deleted != (Count{2, 3}) {
		t.Errorf("%+v, %v", r, err)
	}
}

// A later flow of the same tuple is another flow.
func TestNetnsRemoveByID(t *testing.T) {
	c := openTest(t, Config{NetNS: namespace(t)})
	flow := made{src: client(1, false), dst: ap("10.96.0.1:53"), proto: unix.IPPROTO_UDP}
	fill(t, c, 1, func(int) made { return flow })
	e := entries(t, c, scan{})[0]
	e.key.id++
	var r Result
	c.doom.add(&e)
	if err := c.remove(t.Context(), newPlan(nil, false), &r); err != nil || r.Deleted.IPv4 != 0 {
		t.Errorf("another ID: %+v, %v", r, err)
	}
	e.key.id--
	c.doom.add(&e)
	c.doom.add(&e) // gone when its turn comes
	if err := c.remove(t.Context(), newPlan(nil, false), &r); err != nil || r.Deleted.IPv4 != 1 {
		t.Errorf("the same ID: %+v, %v", r, err)
	}
	if left := entries(t, c, scan{}); len(left) != 0 {
		t.Errorf("left: %+v", left)
	}
}

// A dump that is broken off does not hinder the next.
func TestNetnsDumpBrokenOff(t *testing.T) {
	c := openTest(t, Config{NetNS: namespace(t)})
	fill(t, c, room(t, 5000), func(i int) made {
		return made{src: client(i, false), dst: ap("10.96.0.1:53"), to: ap("10.244.0.1:53"), proto: unix.IPPROTO_UDP}
	})
	ctx, cancel := context.WithCancel(t.Context())
	c.table.out.reset()
	c.table.out.dump(scan{})
	if err := c.table.list(ctx, func([]byte) { cancel() }); !errors.Is(err, context.Canceled) {
		t.Fatalf("broken off: %v", err)
	}
	if got := len(entries(t, c, scan{})); got != 5000 {
		t.Errorf("%d entries after a dump that was broken off", got)
	}
}
