package nodeaddrs

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netns"
)

// machine makes a network namespace with two links and returns its descriptor, and a function
// that runs ip in it.
func machine(t *testing.T) (int, func(args ...string)) {
	t.Helper()
	made := make(chan netns.NsHandle)
	hold := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		ns, err := netns.New()
		if err != nil {
			ns = -1
		}
		made <- ns
		<-hold
	}()
	ns := <-made
	if ns < 0 {
		t.Fatal("cannot make a network namespace: run as root")
	}
	t.Cleanup(func() { close(hold); ns.Close() })
	ip := func(args ...string) {
		t.Helper()
		cmd := exec.Command("nsenter", append([]string{"--net=/proc/" + strconv.Itoa(os.Getpid()) + "/fd/" + strconv.Itoa(int(ns)), "ip"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v\n%s", args, err, out)
		}
	}
	ip("link", "set", "lo", "up")
	ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
	ip("link", "set", "eth0", "up")
	ip("link", "set", "eth1", "up")
	return int(ns), ip
}

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

var compareAddrs = cmpopts.EquateComparable(netip.Addr{})

func TestNetnsListAndPrimary(t *testing.T) {
	ns, ip := machine(t)
	for _, a := range []string{"172.31.0.11/16", "172.31.0.12/16", "fd00:31::11/64"} {
		ip("addr", "add", a, "dev", "eth0", "nodad")
	}
	ip("addr", "add", "10.0.0.1/24", "dev", "eth1")
	ip("addr", "add", "10.96.0.10/32", "dev", "lo", "scope", "host")
	got, err := List(ns)
	if err != nil {
		t.Fatal(err)
	}
	want := addrs("10.0.0.1", "172.31.0.11", "172.31.0.12", "fd00:31::11")
	if diff := cmp.Diff(want, got, compareAddrs); diff != "" {
		t.Errorf("List (-want +got):\n%s", diff)
	}
	for _, tt := range []struct {
		name string
		add  []string
		want []netip.Addr
	}{
		{"no default route: the lowest", nil, addrs("10.0.0.1", "fd00:31::11")},
		{"the first address of the default route's link", []string{"route", "add", "default", "via", "172.31.0.1", "metric", "100"}, addrs("172.31.0.11", "fd00:31::11")},
		{"the route's own source, lower metric first", []string{"route", "add", "default", "via", "172.31.0.1", "src", "172.31.0.12", "metric", "50"}, addrs("172.31.0.12", "fd00:31::11")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.add != nil {
				ip(tt.add...)
			}
			got, err := Primary(ns)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, compareAddrs); diff != "" {
				t.Errorf("Primary (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNetnsWatch(t *testing.T) {
	ns, ip := machine(t)
	ctx, cancel := context.WithCancel(t.Context())
	told, ended := make(chan []netip.Addr, 16), make(chan error)
	go func() { ended <- Watch(ctx, ns, func(a []netip.Addr) { told <- slices.Clone(a) }) }()
	expect := func(want ...string) {
		t.Helper()
		select {
		case got := <-told:
			if diff := cmp.Diff(addrs(want...), got, compareAddrs, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("told (-want +got):\n%s", diff)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("not told of %v", want)
		}
	}
	expect()
	ip("addr", "add", "172.31.0.11/16", "dev", "eth0")
	expect("172.31.0.11")
	ip("addr", "add", "fd00:31::11/64", "dev", "eth0", "nodad")
	expect("172.31.0.11", "fd00:31::11")
	ip("addr", "del", "172.31.0.11/16", "dev", "eth0")
	expect("fd00:31::11")
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
