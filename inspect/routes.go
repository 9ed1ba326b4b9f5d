package inspect

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routes is what a trace asks the kernel's routing for.
type routes interface {
	// way returns how this node gets to an address.
	way(to netip.Addr) (way, error)
}

// way is a route as far as a trace depends on it.
type way struct {
	local  bool       // the address is one of the node's own
	link   string     // by which packets leave, and come in from there
	source netip.Addr // that the node's own packets get
}

// errNoRoute says that the node does not know how to get to an address.
var errNoRoute = errors.New("this node has no route there")

// kernelRoutes asks the network namespace of this process.
type kernelRoutes struct{}

func (kernelRoutes) way(to netip.Addr) (way, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return way{}, fmt.Errorf("ask for the route to %s: %w", to, err)
	}
	defer h.Close()
	found, err := h.RouteGet(to.AsSlice())
	if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) || err == nil && len(found) == 0 {
		return way{}, fmt.Errorf("%s: %w", to, errNoRoute)
	}
	if err != nil {
		return way{}, fmt.Errorf("ask for the route to %s: %w", to, err)
	}
	w := way{local: found[0].Type == unix.RTN_LOCAL}
	if a, ok := netip.AddrFromSlice(found[0].Src); ok {
		w.source = a.Unmap()
	}
	if link, err := h.LinkByIndex(found[0].LinkIndex); err == nil {
		w.link = link.Attrs().Name
	}
	return w, nil
}
