package dataplane

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// BenchmarkNetnsCountConnections compares what it costs to count new connections: CPU time per connection,
// of which the rest is the kernel's for making and translating one. Time is that of threads, so that a
// busy machine does not matter much; compare medians of several runs (-count).
//
//	off        nothing is counted
//	counters   Layout.CountConnections
//	events     a process listens to NFNLGRP_CONNTRACK_NEW and reads, without even decoding
//
//	go test ./dataplane -run - -bench CountConnections -benchtime 20000x -count 7
func BenchmarkNetnsCountConnections(b *testing.B) {
	for _, how := range []string{"off", "counters", "events"} {
		b.Run("how="+how, func(b *testing.B) {
			if b.N > 60_000 {
				b.Skip("one table of connections holds no more: -benchtime 20000x")
			}
			ns := namespace(b)
			ip(b, ns, "link", "set", "lo", "up")
			for _, a := range []string{"10.244.0.0/32", "10.244.0.1/32"} {
				ip(b, ns, "address", "add", a, "dev", "lo")
			}
			ip(b, ns, "route", "add", "10.96.0.0/16", "dev", "lo", "src", "10.244.0.1")
			c := open(b, Config{NetNS: ns, NoIPv6: true, Layout: Layout{Local: testLayout.Local, CountConnections: how == "counters"}})
			f := frontend("10.96.0.1:80", unix.IPPROTO_UDP)
			if err := c.Replace(context.Background(), seq(service(f, 1)), seq()); err != nil {
				b.Fatal(err)
			}
			listening := func() time.Duration { return 0 }
			if how == "events" {
				listening = listen(b, ns)
			}
			spent := newConnections(b, ns, f, b.N) + listening()
			b.ReportMetric(float64(spent.Nanoseconds())/float64(b.N), "cpu-ns/conn")
			b.ReportMetric(0, "ns/op") // of setting up, too
			if how == "counters" {
				checkCounted(b, c, f, b.N)
			}
		})
	}
}

func checkCounted(b *testing.B, c *Conn, f Frontend, want int) {
	b.Helper()
	k, err := OpenCounters(c)
	if err != nil {
		b.Fatal(err)
	}
	defer k.Close()
	counts, err := k.Read()
	if err != nil || counts[Counter{f, Table}] != uint64(want) {
		b.Fatalf("counted %d (%v), want %d", counts[Counter{f, Table}], err, want)
	}
}

func ip(b *testing.B, ns int, args ...string) {
	b.Helper()
	err := inNamespace(ns, func() error {
		out, err := exec.Command("ip", args...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("ip %v: %w: %s", args, err, out)
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}

// threadTime returns the CPU time of the calling thread, user's and kernel's.
func threadTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// newConnections makes n UDP connections with a datagram each, from as many sources, and returns the CPU time that
// took. The datagrams are written whole, so that no socket is opened for each.
func newConnections(b *testing.B, ns int, to Frontend, n int) (spent time.Duration) {
	b.Helper()
	err := inNamespace(ns, func() error {
		sink, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0) // full before long, and silent
		if err != nil {
			return err
		}
		defer unix.Close(sink)
		if err := unix.Bind(sink, &unix.SockaddrInet4{Port: 8080}); err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		packet := datagram(to)
		began := threadTime()
		for i := range n {
			binary.BigEndian.PutUint16(packet[14:], uint16(i>>12))            // the source's lower half
			binary.BigEndian.PutUint16(packet[20:], 1024+uint16(i&(1<<12-1))) // source port
			if err := unix.Sendto(fd, packet, 0, &unix.SockaddrInet4{Addr: to.Addr.As4()}); err != nil {
				return err
			}
		}
		spent = threadTime() - began
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	return spent
}

// datagram returns an IPv4 packet with an empty datagram, whose checksums the kernel fills in or does not
// need.
func datagram(to Frontend) []byte {
	p := make([]byte, 28)
	p[0], p[8], p[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	copy(p[12:], netip.MustParseAddr("10.245.0.0").AsSlice())
	copy(p[16:], to.Addr.AsSlice())
	binary.BigEndian.PutUint16(p[22:], to.Port)
	binary.BigEndian.PutUint16(p[24:], 8)
	return p
}

// listen reads the events of new connections, and returns what ends that and tells the CPU time.
func listen(b *testing.B, ns int) (stop func() time.Duration) {
	b.Helper()
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: ns})
	if err != nil {
		b.Fatal(err)
	}
	if err := conn.JoinGroup(1); err != nil { // NFNLGRP_CONNTRACK_NEW
		b.Fatal(err)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		b.Fatal(err)
	}
	spent, done := make(chan time.Duration), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		began := threadTime()
		buf := make([]byte, 64<<10)
		_ = raw.Read(func(fd uintptr) bool {
			for {
				n, _, err := unix.Recvfrom(int(fd), buf, unix.MSG_DONTWAIT)
				if err == nil && n > 0 || err == unix.ENOBUFS {
					continue
				}
				select {
				case <-done:
					return true
				default:
					return false
				}
			}
		})
		spent <- threadTime() - began
	}()
	return func() time.Duration {
		close(done)
		_ = conn.SetReadDeadline(time.Unix(1, 0))
		defer conn.Close()
		return <-spent
	}
}

// BenchmarkNetnsReadCounters is what asking for the metrics costs.
func BenchmarkNetnsReadCounters(b *testing.B) {
	for _, size := range []int{100, 1000, 10_000} {
		b.Run(fmt.Sprintf("frontends=%d", size), func(b *testing.B) {
			ns := namespace(b)
			c := open(b, Config{NetNS: ns, NoIPv6: true, Shared: true, Layout: Layout{CountConnections: true}})
			if err := c.Replace(context.Background(), seq(), seq()); err != nil {
				b.Fatal(err)
			}
			elements := make([]string, size)
			for i := range elements {
				elements[i] = fmt.Sprintf("tcp . 10.96.%d.%d . 80 counter packets 7 bytes 420 timeout 1h", i>>8, i&255)
			}
			commands := filepath.Join(b.TempDir(), "elements.nft")
			text := "add element ip weir connections { " + strings.Join(elements, ", ") + " }\n"
			if err := os.WriteFile(commands, []byte(text), 0o600); err != nil {
				b.Fatal(err)
			}
			nft(b, ns, "-f", commands)
			k, err := OpenCounters(c)
			if err != nil {
				b.Fatal(err)
			}
			defer k.Close()
			for b.Loop() {
				if counts, err := k.Read(); err != nil || len(counts) != size {
					b.Fatalf("%d counters, want %d: %v", len(counts), size, err)
				}
			}
		})
	}
}
