package netlab

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The lab's networks. Pods are numbered from .10 and ::10, clients likewise.
var (
	PodCIDR4     = netip.MustParsePrefix("10.244.1.0/24") // of the node
	PodCIDR6     = netip.MustParsePrefix("fd00:10:244:1::/64")
	ClusterCIDR4 = netip.MustParsePrefix("10.244.0.0/16") // of all nodes
	ClusterCIDR6 = netip.MustParsePrefix("fd00:10:244::/48")

	ServiceCIDR4 = netip.MustParsePrefix("10.96.0.0/16")
	ServiceCIDR6 = netip.MustParsePrefix("fd00:10:96::/112")

	// External and load-balancer IPs that the outside routes to the node.
	ExternalCIDR4 = netip.MustParsePrefix("203.0.113.0/24")
	ExternalCIDR6 = netip.MustParsePrefix("2001:db8:113::/64")

	remotePodCIDR4 = netip.MustParsePrefix("10.244.2.0/24")
	remotePodCIDR6 = netip.MustParsePrefix("fd00:10:244:2::/64")

	routerAddr4 = netip.MustParsePrefix("172.31.0.1/24")
	routerAddr6 = netip.MustParsePrefix("fd00:31::1/64")
	nodeAddr4   = netip.MustParsePrefix("172.31.0.11/24")
	nodeAddr6   = netip.MustParsePrefix("fd00:31::11/64")
	remoteAddr4 = netip.MustParsePrefix("172.31.0.12/24")
	remoteAddr6 = netip.MustParsePrefix("fd00:31::12/64")

	clientGateway4 = netip.MustParsePrefix("192.168.200.1/24")
	clientGateway6 = netip.MustParsePrefix("fd00:c11e::1/64")

	// What a pod sees as its router, on every node.
	podGateway4 = netip.MustParseAddr("169.254.1.1")
	podGateway6 = netip.MustParseAddr("fe80::1")

	any4 = netip.MustParsePrefix("0.0.0.0/0")
	any6 = netip.MustParsePrefix("::/0")
)

const (
	uplink       = "eth0"  // the link to the network, in every host but the router
	nodeBridge   = "nodes" // in the router
	clientBridge = "clients"
	clientTable  = 100 // the router's routes for what clients send
)

// nth returns the address n after the network's own.
func nth(network netip.Prefix, n int) netip.Addr {
	b := network.Addr().AsSlice()
	b[len(b)-1] += byte(n)
	a, _ := netip.AddrFromSlice(b)
	return a
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func hostAddr(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

// link gives an existing link its addresses and brings it up.
func (h *Host) link(name string, addrs ...netip.Prefix) (netlink.Link, error) {
	link, err := h.nl.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("%s: link %s: %w", h.Name, name, err)
	}
	for _, p := range addrs {
		if !p.IsValid() {
			continue
		}
		if err := h.nl.AddrAdd(link, hostAddr(p)); err != nil {
			return nil, fmt.Errorf("%s: add address %s to %s: %w", h.Name, p, name, err)
		}
	}
	if err := h.nl.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("%s: bring %s up: %w", h.Name, name, err)
	}
	return link, nil
}

func (h *Host) bridge(name string, addrs ...netip.Prefix) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	noSnooping := false // nothing here asks for multicast groups, and IPv6 neighbours need theirs
	if err := h.nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &noSnooping}); err != nil {
		return fmt.Errorf("%s: add bridge %s: %w", h.Name, name, err)
	}
	_, err := h.link(name, addrs...)
	return err
}

// veth joins two hosts. Both ends exist afterwards, and are down.
func veth(a *Host, aName string, b *Host, bName string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = aName
	v := &netlink.Veth{LinkAttrs: attrs, PeerName: bName, PeerNamespace: netlink.NsFd(b.ns.fd())}
	if err := a.nl.LinkAdd(v); err != nil {
		return fmt.Errorf("add veth %s/%s to %s/%s: %w", a.Name, aName, b.Name, bName, err)
	}
	return nil
}

// plug joins a host to one of the router's bridges by its uplink.
func plug(router *Host, bridge string, h *Host, addrs ...netip.Prefix) error {
	port := "to-" + h.Name
	if err := veth(router, port, h, uplink); err != nil {
		return err
	}
	p, err := router.link(port)
	if err != nil {
		return err
	}
	br, err := router.nl.LinkByName(bridge)
	if err != nil {
		return err
	}
	if err := router.nl.LinkSetMasterByIndex(p, br.Attrs().Index); err != nil {
		return fmt.Errorf("plug %s into %s: %w", h.Name, bridge, err)
	}
	_, err = h.link(uplink, addrs...)
	return err
}

// settle waits until every link is up and every address may be used. Both come some milliseconds after
// they were asked for, and a neighbour asked too early asks again only after a second.
func (h *Host) settle() error {
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		why, err := h.unsettled()
		if err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
		if why == "" {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: %s", h.Name, why)
		}
	}
}

func (h *Host) unsettled() (why string, err error) {
	links, err := h.nl.LinkList()
	if err != nil {
		return "", err
	}
	for _, l := range links {
		if a := l.Attrs(); a.Flags&net.FlagUp != 0 && a.Flags&net.FlagLoopback == 0 && a.OperState != netlink.OperUp {
			return fmt.Sprintf("link %s is %s", a.Name, a.OperState), nil
		}
	}
	addrs, err := h.nl.AddrList(nil, unix.AF_INET6)
	if err != nil {
		return "", err
	}
	// The kernel clears the tentative flag first and installs the local route after.
	local := make(map[string]bool)
	routes, err := h.nl.RouteListFiltered(unix.AF_INET6, &netlink.Route{Table: unix.RT_TABLE_LOCAL}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return "", err
	}
	for _, r := range routes {
		if r.Dst != nil {
			local[r.Dst.IP.String()] = true
		}
	}
	for _, a := range addrs {
		switch {
		case a.Flags&unix.IFA_F_TENTATIVE != 0:
			return fmt.Sprintf("address %s is tentative", a.IP), nil
		case !local[a.IP.String()]:
			return fmt.Sprintf("address %s has no local route", a.IP), nil
		}
	}
	return "", nil
}

// route is a route of a host. With neither via nor dev the destination is dropped in silence.
type route struct {
	to    netip.Prefix
	via   netip.Addr
	dev   string
	src   netip.Addr // preferred source; the zero value leaves it to the kernel
	table int
}

func (h *Host) addRoute(r route) error {
	if !r.to.IsValid() {
		return nil
	}
	nr := &netlink.Route{Dst: ipNet(r.to), Table: r.table, Family: family(r.to.Addr())}
	if r.src.IsValid() {
		nr.Src = r.src.AsSlice()
	}
	if r.via.IsValid() {
		nr.Gw = r.via.AsSlice()
	}
	if r.dev != "" {
		link, err := h.nl.LinkByName(r.dev)
		if err != nil {
			return fmt.Errorf("%s: link %s: %w", h.Name, r.dev, err)
		}
		nr.LinkIndex = link.Attrs().Index
		if r.via.IsValid() {
			nr.Flags = int(netlink.FLAG_ONLINK)
		} else if r.to.Addr().Is4() {
			nr.Scope = netlink.SCOPE_LINK
		}
	}
	if nr.Gw == nil && r.dev == "" {
		nr.Type = unix.RTN_BLACKHOLE
	}
	if err := h.nl.RouteReplace(nr); err != nil {
		return fmt.Errorf("%s: route %s via %s dev %s: %w", h.Name, r.to, r.via, r.dev, err)
	}
	return nil
}

func (h *Host) addRoutes(routes ...route) error {
	for _, r := range routes {
		if err := h.addRoute(r); err != nil {
			return err
		}
	}
	return nil
}

// attachPod hangs a pod on a node by a routed veth: see Hairpin in the package's story.
func attachPod(node, pod *Host) error {
	port := "veth" + pod.Name
	if err := veth(node, port, pod, uplink); err != nil {
		return err
	}
	gw6 := netip.Prefix{}
	if pod.Addr6.IsValid() {
		gw6 = netip.PrefixFrom(podGateway6, 64)
	}
	nodeEnd, err := node.link(port, gw6)
	if err != nil {
		return err
	}
	pod.onAddr = func(a netip.Addr) error {
		return node.addRoute(route{to: netip.PrefixFrom(a, a.BitLen()), dev: port, src: node.addrLike(a)})
	}
	podEnd, err := pod.link(uplink)
	if err != nil {
		return err
	}
	// Nobody holds the gateway's IPv4 address: an address on these links would be one of the node's.
	err = pod.nl.NeighSet(&netlink.Neigh{
		LinkIndex:    podEnd.Attrs().Index,
		Family:       unix.AF_INET,
		State:        netlink.NUD_PERMANENT,
		IP:           podGateway4.AsSlice(),
		HardwareAddr: nodeEnd.Attrs().HardwareAddr,
	})
	if err != nil {
		return fmt.Errorf("%s: neighbour %s: %w", pod.Name, podGateway4, err)
	}
	if err := pod.AddAddr(pod.Addr4); err != nil {
		return err
	}
	if err := pod.addRoute(route{to: any4, via: podGateway4, dev: uplink, src: pod.Addr4}); err != nil {
		return err
	}
	if !pod.Addr6.IsValid() {
		return nil
	}
	if err := pod.AddAddr(pod.Addr6); err != nil {
		return err
	}
	return pod.addRoute(route{to: any6, via: podGateway6, dev: uplink, src: pod.Addr6})
}

// sysctl is a kernel parameter of a namespace. An absent optional one is no error.
type sysctl struct {
	path, value string
	optional    bool
}

// quiet makes a namespace usable at once and its answers countable.
var quiet = []sysctl{
	{"net/ipv6/conf/all/accept_dad", "0", true},
	{"net/ipv6/conf/default/accept_dad", "0", true},
	{"net/ipv6/conf/default/dad_transmits", "0", true},
	{"net/ipv6/conf/all/accept_ra", "0", true},
	{"net/ipv6/conf/default/accept_ra", "0", true},
	{"net/ipv6/conf/default/router_solicitations", "0", true},
	{"net/ipv6/icmp/ratelimit", "0", true},
	{"net/ipv4/icmp_ratelimit", "0", false},
	{"net/ipv4/icmp_msgs_per_sec", "100000", true}, // per namespace since kernel 6.12
	{"net/ipv4/icmp_msgs_burst", "100000", true},
	{"net/ipv4/conf/all/rp_filter", "0", false},
	{"net/ipv4/conf/default/rp_filter", "0", false},
	{"net/ipv4/conf/all/send_redirects", "0", false},
	{"net/ipv4/conf/default/send_redirects", "0", false},
	{"net/ipv4/conf/all/accept_redirects", "0", false},
	{"net/ipv6/conf/all/accept_redirects", "0", true},
	{"net/ipv6/conf/default/accept_redirects", "0", true},
	{"net/core/somaxconn", "16384", true},
	{"net/ipv4/tcp_max_syn_backlog", "16384", true},
}

var forwarding = []sysctl{
	{"net/ipv4/ip_forward", "1", false},
	{"net/ipv6/conf/all/forwarding", "1", true},
}

var noIPv6 = []sysctl{
	{"net/ipv6/conf/all/disable_ipv6", "1", true},
	{"net/ipv6/conf/default/disable_ipv6", "1", true},
}
