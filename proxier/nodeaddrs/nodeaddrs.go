// Package nodeaddrs knows the addresses of this machine: those that node ports may be served on,
// and the one by which others know the machine. Addresses come and go while we run; Watch tells.
package nodeaddrs

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// ipvsLink is the link on which kube-proxy in IPVS mode keeps every ClusterIP. While it is there,
// its addresses are none of the machine's own.
const ipvsLink = "kube-ipvs0"

// relistInterval is how often Watch lists the addresses although nothing was announced, in case
// an announcement was lost.
const relistInterval = 30 * time.Second

// handle opens a route netlink handle in the network namespace with that file descriptor; 0 is
// the caller's own.
func handle(ns int) (*netlink.Handle, error) {
	if ns == 0 {
		return netlink.NewHandle(unix.NETLINK_ROUTE)
	}
	return netlink.NewHandleAt(netns.NsHandle(ns), unix.NETLINK_ROUTE)
}

// List returns the machine's addresses in both families, sorted: without loopback, link-local and
// host-scoped ones, without those of kube-proxy's IPVS mode, and without those that duplicate address detection has not finished with or
// has refused. Those in except are left out, too.
func List(ns int, except ...netip.Addr) ([]netip.Addr, error) {
	h, err := handle(ns)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	defer h.Close()
	return list(h, except)
}

func list(h *netlink.Handle, except []netip.Addr) ([]netip.Addr, error) {
	found, err := h.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	ipvs := 0 // no link has that number
	if link, err := h.LinkByName(ipvsLink); err == nil {
		ipvs = link.Attrs().Index
	}
	var addrs []netip.Addr
	for _, a := range found {
		if a.LinkIndex == ipvs || a.Scope == int(netlink.SCOPE_HOST) || a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 {
			continue
		}
		ip, ok := netip.AddrFromSlice(a.IP)
		if ip = ip.Unmap(); ok && !slices.Contains(except, ip) && !ip.IsLoopback() && !ip.IsLinkLocalUnicast() && !ip.IsUnspecified() {
			addrs = append(addrs, ip)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs), nil
}

// Primary returns the source address of each family's default route, IPv4 first. Without a default
// route, a family's lowest address stands for it; without any address the family is left out. Those in except do not count.
func Primary(ns int, except ...netip.Addr) ([]netip.Addr, error) {
	h, err := handle(ns)
	if err != nil {
		return nil, fmt.Errorf("find the primary address: %w", err)
	}
	defer h.Close()
	all, err := list(h, except)
	if err != nil {
		return nil, err
	}
	var primary []netip.Addr
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		a, err := defaultSource(h, family)
		if err != nil {
			return nil, err
		}
		if !a.IsValid() {
			i := slices.IndexFunc(all, func(a netip.Addr) bool { return a.Is4() == (family == netlink.FAMILY_V4) })
			if i < 0 {
				continue
			}
			a = all[i]
		}
		primary = append(primary, a)
	}
	return primary, nil
}

// defaultSource returns the address that traffic along the best default route has, the zero Addr
// if there is no such route.
func defaultSource(h *netlink.Handle, family int) (netip.Addr, error) {
	routes, err := h.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return netip.Addr{}, fmt.Errorf("list routes: %w", err)
	}
	slices.SortStableFunc(routes, func(a, b netlink.Route) int { return a.Priority - b.Priority })
	for _, r := range routes {
		if r.Dst != nil && !r.Dst.IP.IsUnspecified() || r.Type != unix.RTN_UNICAST {
			continue
		}
		if a, ok := netip.AddrFromSlice(r.Src); ok {
			return a.Unmap(), nil
		}
		link, err := h.LinkByIndex(r.LinkIndex)
		if err != nil {
			continue // gone meanwhile
		}
		addrs, err := h.AddrList(link, family)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return netip.Addr{}, fmt.Errorf("list addresses of %s: %w", link.Attrs().Name, err)
		}
		for _, found := range addrs {
			if a, ok := netip.AddrFromSlice(found.IP); ok && found.Scope == int(netlink.SCOPE_UNIVERSE) {
				return a.Unmap(), nil
			}
		}
	}
	return netip.Addr{}, nil
}

// Watch calls changed with the machine's addresses, as List gives them, at once and whenever they
// differ from what it was last called with, until ctx ends.
func Watch(ctx context.Context, ns int, changed func([]netip.Addr), except ...netip.Addr) error {
	h, err := handle(ns)
	if err != nil {
		return fmt.Errorf("watch addresses: %w", err)
	}
	defer h.Close()
	logger := klog.FromContext(ctx)

	updates := make(chan netlink.AddrUpdate, 64)
	options := netlink.AddrSubscribeOptions{ErrorCallback: func(err error) {
		// The library closes the channel after an error; the next listing subscribes anew.
		if ctx.Err() == nil {
			logger.V(2).Info("Announcements of addresses ended", "err", err)
		}
	}}
	if ns != 0 {
		handle := netns.NsHandle(ns)
		options.Namespace = &handle
	}
	done := make(chan struct{})
	defer func() { close(done) }()
	subscribe := func() {
		updates = make(chan netlink.AddrUpdate, 64)
		if err := netlink.AddrSubscribeWithOptions(updates, done, options); err != nil {
			logger.Error(err, "Subscribing to address changes: listing them regularly instead", "interval", relistInterval)
			updates = nil
		}
	}
	subscribe()

	tick := time.NewTicker(relistInterval)
	defer tick.Stop()
	var last []netip.Addr
	for first := true; ; first = false {
		addrs, err := list(h, except)
		switch {
		case err != nil:
			logger.Error(err, "Listing the node's addresses")
		case first || !slices.Equal(addrs, last):
			last = addrs
			changed(addrs)
		}
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-updates:
			if !ok {
				updates = nil // until the tick
			}
		case <-tick.C:
			if updates == nil {
				subscribe()
			}
		}
	}
}
