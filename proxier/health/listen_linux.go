package health

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// listenable returns addresses to listen on, sorted, each once, without those that nobody can listen on:
// a link-local address of IPv6 needs its interface as a zone. An unspecified address stands for
// all others of its family.
func listenable(addrs []netip.Addr) []netip.Addr {
	plain := make([]netip.Addr, 0, len(addrs))
	for _, a := range addrs {
		a = a.Unmap()
		if a.IsValid() && !(a.Is6() && a.IsLinkLocalUnicast() && a.Zone() == "") {
			plain = append(plain, a)
		}
	}
	slices.SortFunc(plain, netip.Addr.Compare)
	plain = slices.Compact(plain)
	for _, wild := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		if slices.Contains(plain, wild) {
			plain = slices.DeleteFunc(plain, func(a netip.Addr) bool { return a.Is4() == wild.Is4() && a != wild })
		}
	}
	return plain
}

// listenOn listens on one address, or on all addresses of both families.
func listenOn(ctx context.Context, a netip.Addr, port uint16) (net.Listener, error) {
	if a == all {
		return new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort("", strconv.Itoa(int(port))))
	}
	network := "tcp4"
	if a.Is6() {
		network = "tcp6"
	}
	lc := net.ListenConfig{Control: freebind}
	return lc.Listen(ctx, network, netip.AddrPortFrom(a, port).String())
}

// freebind lets a socket have an address that is not there yet, or not usable yet (IPv6 while it looks
// for duplicates). A kernel that refuses it still lets us have the others.
func freebind(network, _ string, c syscall.RawConn) error {
	var err error
	ctl := c.Control(func(fd uintptr) {
		if network == "tcp6" {
			err = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_FREEBIND, 1)
		} else {
			err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1)
		}
	})
	if errors.Is(err, unix.ENOPROTOOPT) {
		err = nil
	}
	return errors.Join(ctl, err)
}
