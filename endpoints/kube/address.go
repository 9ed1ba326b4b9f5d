package kube

import (
	"fmt"
	"net/netip"
	"strings"

	netutils "k8s.io/utils/net"
)

// parseAddr reads an address as the API's older validation did: numbers of an IPv4 address may have
// leading zeros and are decimal all the same. An IPv4-mapped IPv6 address is IPv4. The second
// result says what is wrong, "" if nothing is.
func parseAddr(s string) (netip.Addr, string) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		var ok bool
		if a, ok = netip.AddrFromSlice(netutils.ParseIPSloppy(s)); !ok {
			return netip.Addr{}, fmt.Sprintf("%q is not an IP address", s)
		}
	}
	if a.Zone() != "" {
		return netip.Addr{}, fmt.Sprintf("%q has a zone", s)
	}
	return a.Unmap(), ""
}

// parsePrefix reads a CIDR in the same way, and clears its host bits.
func parsePrefix(s string) (netip.Prefix, string) {
	wrong := fmt.Sprintf("%q is not a CIDR", s)
	p, err := netip.ParsePrefix(s)
	if err != nil {
		_, n, err := netutils.ParseCIDRSloppy(s)
		if err != nil {
			return netip.Prefix{}, wrong
		}
		a, _ := netip.AddrFromSlice(n.IP)
		ones, _ := n.Mask.Size()
		p = netip.PrefixFrom(a, ones)
	}
	if p.Addr().Is4In6() {
		if p.Bits() < 96 {
			return netip.Prefix{}, wrong
		}
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), ""
}

// unusable says why an address cannot be that of a service or an endpoint, "" if it can.
func unusable(a netip.Addr) string {
	var kind string
	switch {
	case a.IsUnspecified():
		kind = "the unspecified address"
	case a.IsLoopback():
		kind = "a loopback address"
	case a.IsMulticast():
		kind = "a multicast address"
	case a.IsLinkLocalUnicast():
		kind = "a link-local address"
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		kind = "the broadcast address"
	default:
		return ""
	}
	return fmt.Sprintf("%v is %s", a, kind)
}

// parseUsable reads an address that can be that of a service or an endpoint.
func parseUsable(s string) (netip.Addr, string) {
	a, reason := parseAddr(s)
	if reason == "" {
		reason = unusable(a)
	}
	return a, reason
}

// parsePadded reads a CIDR that may have white space around it.
func parsePadded(s string) (netip.Prefix, string) { return parsePrefix(strings.TrimSpace(s)) }
