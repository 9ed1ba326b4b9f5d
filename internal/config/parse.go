package config

import (
	"net"
	"net/netip"
	"strconv"

	netutils "k8s.io/utils/net"
)

// parseAddr parses an IP address as Kubernetes does: IPv4 may be written with leading zeros or
// mapped into IPv6.
func parseAddr(s string) (netip.Addr, bool) {
	a, ok := netip.AddrFromSlice(netutils.ParseIPSloppy(s))
	return a.Unmap(), ok
}

// parsePrefix parses a CIDR as Kubernetes does. Bits below the prefix are cleared.
func parsePrefix(s string) (netip.Prefix, bool) {
	_, n, err := netutils.ParseCIDRSloppy(s)
	if err != nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	bits, width := n.Mask.Size()
	if a = a.Unmap(); a.Is4() {
		bits -= width - a.BitLen() // a range of IPv4 mapped into IPv6 counts 96 bits more
	}
	p, err := a.Prefix(bits)
	return p, ok && err == nil
}

// parseBind parses IP:port, or an IP that goes with the default port. Port 0 says not to listen,
// for which the zero value stands.
func parseBind(s string, defaultPort uint16) (a netip.AddrPort, reason string) {
	if ip, ok := parseAddr(s); ok {
		return netip.AddrPortFrom(ip, defaultPort), ""
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return a, "must be IP:port, or an IP"
	}
	ip, ok := parseAddr(host)
	if !ok {
		return a, "the part before the port must be an IP address"
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return a, "the port must be a number from 1 to 65535, or 0 to not listen"
	}
	if n == 0 {
		return netip.AddrPort{}, ""
	}
	return netip.AddrPortFrom(ip, uint16(n)), ""
}
