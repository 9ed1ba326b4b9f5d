package node

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// How an address that we have put on lo is told from somebody else's: by its label, or where there is
// none, with IPv6, by its protocol (IFA_PROTO, kernel 5.18; before, by its flags).
const (
	loopback = "lo"
	label    = "lo:weir"
	protocol = 87
	ifaProto = 11 // IFA_PROTO
	theFlags = unix.IFA_F_NODAD | unix.IFA_F_DEPRECATED | unix.IFA_F_PERMANENT
)

// address is one that lo has.
type address struct {
	addr     netip.Addr
	bits     int
	flags    uint32
	label    string
	protocol byte // 0: the kernel does not say
}

// ours reports whether we have put the address on lo. Old says that the kernel does not know who
// puts an address on a link.
func (a *address) ours(old bool) bool {
	if a.bits != a.addr.BitLen() {
		return false
	}
	if a.addr.Is4() {
		return a.label == label
	}
	return a.protocol == protocol || old && a.flags&theFlags == theFlags
}

// EnsureAddress puts an address on lo unless it is there: for this host only (IPv4: scope host; IPv6,
// which has no such scope: deprecated, so that nothing else takes it for its source), and at once
// usable (no duplicate address detection).
func EnsureAddress(addr netip.Addr) error {
	lo, err := netlink.LinkByName(loopback)
	if err != nil {
		return fmt.Errorf("put %s on lo: %w", addr, err)
	}
	family := unix.AF_INET
	if addr.Is6() {
		family = unix.AF_INET6
	}
	msg := nl.NewIfAddrmsg(family)
	msg.Index, msg.Prefixlen, msg.Scope = uint32(lo.Attrs().Index), uint8(addr.BitLen()), unix.RT_SCOPE_HOST
	req := nl.NewNetlinkRequest(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, addr.AsSlice()))
	req.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, addr.AsSlice()))
	req.AddData(nl.NewRtAttr(ifaProto, []byte{protocol}))
	if addr.Is4() {
		req.AddData(nl.NewRtAttr(unix.IFA_LABEL, nl.ZeroTerminated(label)))
	} else {
		req.AddData(nl.NewRtAttr(unix.IFA_FLAGS, binary.NativeEndian.AppendUint32(nil, unix.IFA_F_NODAD)))
		var info []byte // struct ifa_cacheinfo: preferred, valid, and two times that the kernel fills in
		for _, v := range []uint32{0, math.MaxUint32, 0, 0} {
			info = binary.NativeEndian.AppendUint32(info, v)
		}
		req.AddData(nl.NewRtAttr(unix.IFA_CACHEINFO, info))
	}
	_, err = req.Execute(unix.NETLINK_ROUTE, 0)
	switch {
	case errors.Is(err, unix.EEXIST):
		return nil
	case err != nil:
		return fmt.Errorf("put %s on lo (needs CAP_NET_ADMIN): %w", addr, err)
	}
	return waitLocal(addr)
}

// waitLocal waits until a new address is reached on this host, which with IPv6 takes the kernel a
// moment.
func waitLocal(addr netip.Addr) error {
	for end := time.Now().Add(time.Second); ; time.Sleep(time.Millisecond) {
		routes, err := netlink.RouteGet(addr.AsSlice())
		if err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s is on lo, and yet no address of this node: %w", addr, err)
		}
	}
}

// RemoveAddresses takes those addresses off lo that EnsureAddress has put there, whoever's process
// that was, but for those to keep, and returns them.
func RemoveAddresses(keep []netip.Addr) (removed []netip.Addr, err error) {
	lo, err := netlink.LinkByName(loopback)
	if err != nil {
		return nil, fmt.Errorf("find lo: %w", err)
	}
	found, err := listAddresses(lo.Attrs().Index)
	if err != nil {
		return nil, err
	}
	old := !slices.ContainsFunc(found, func(a address) bool { return a.protocol != 0 })
	var errs []error
	for _, a := range found {
		if !a.ours(old) || slices.Contains(keep, a.addr) {
			continue
		}
		del := &netlink.Addr{IPNet: netlink.NewIPNet(a.addr.AsSlice())}
		if err := netlink.AddrDel(lo, del); err != nil {
			errs = append(errs, fmt.Errorf("take %s off lo: %w", a.addr, err))
			continue
		}
		removed = append(removed, a.addr)
	}
	return removed, errors.Join(errs...)
}

// listAddresses returns the addresses of a link, with what the netlink library does not tell.
func listAddresses(link int) ([]address, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETADDR, unix.NLM_F_DUMP)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	messages, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWADDR)
	if err != nil {
		return nil, fmt.Errorf("list the addresses of lo: %w", err)
	}
	var list []address
	for _, m := range messages {
		header := nl.DeserializeIfAddrmsg(m)
		if int(header.Index) != link {
			continue
		}
		attrs, err := nl.ParseRouteAttr(m[header.Len():])
		if err != nil {
			return nil, fmt.Errorf("list the addresses of lo: %w", err)
		}
		a := address{bits: int(header.Prefixlen), flags: uint32(header.Flags)}
		for _, attr := range attrs {
			switch attr.Attr.Type {
			case unix.IFA_LOCAL:
				a.addr, _ = netip.AddrFromSlice(attr.Value)
			case unix.IFA_ADDRESS: // IPv6 has no other, IPv4 says the local one first or last
				if !a.addr.IsValid() || header.Family == unix.AF_INET6 {
					a.addr, _ = netip.AddrFromSlice(attr.Value)
				}
			case unix.IFA_LABEL:
				a.label = string(bytes.TrimRight(attr.Value, "\x00"))
			case unix.IFA_FLAGS:
				a.flags = binary.NativeEndian.Uint32(attr.Value)
			case ifaProto:
				a.protocol = attr.Value[0]
			}
		}
		list = append(list, a)
	}
	return list, nil
}

// WatchAddresses calls gone whenever one of addrs is taken off a link, until ctx ends.
func WatchAddresses(ctx context.Context, addrs []netip.Addr, gone func()) error {
	logger := klog.FromContext(ctx)
	for ctx.Err() == nil {
		updates, done := make(chan netlink.AddrUpdate, 64), make(chan struct{})
		err := netlink.AddrSubscribeWithOptions(updates, done, netlink.AddrSubscribeOptions{ErrorCallback: func(err error) {
			if ctx.Err() == nil {
				logger.V(2).Info("Announcements of addresses ended", "err", err)
			}
		}})
		if err != nil {
			logger.Error(err, "Subscribing to address changes: a DNS address that is taken away is missed until the next probe")
		} else {
			follow(ctx, updates, addrs, gone)
		}
		close(done)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	return nil
}

// follow reads announcements until they end or ctx does.
func follow(ctx context.Context, updates <-chan netlink.AddrUpdate, addrs []netip.Addr, gone func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case u, ok := <-updates:
			if !ok {
				return
			}
			if a, _ := netip.AddrFromSlice(u.LinkAddress.IP); !u.NewAddr && slices.Contains(addrs, a.Unmap()) {
				gone()
			}
		}
	}
}
