package kubeproxy

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"

	"github.com/mdlayher/netlink"
	vishvananda "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Mode ipvs: a dummy link that holds every virtual address, virtual servers in the kernel's IPVS, and ipsets.
// Unlike connections through nftables or iptables, one through IPVS depends on its virtual server to
// the end: so these stay as long as it has any.

const dummyLink = "kube-ipvs0"

// ipsets are the names of kube-proxy's sets for IPv4; KUBE-6-… are those for IPv6.
var ipsets = []string{"KUBE-LOOP-BACK", "KUBE-CLUSTER-IP", "KUBE-EXTERNAL-IP", "KUBE-EXTERNAL-IP-LOCAL",
	"KUBE-LOAD-BALANCER", "KUBE-LOAD-BALANCER-LOCAL", "KUBE-LOAD-BALANCER-FW", "KUBE-LOAD-BALANCER-SOURCE-IP",
	"KUBE-LOAD-BALANCER-SOURCE-CIDR", "KUBE-NODE-PORT-TCP", "KUBE-NODE-PORT-LOCAL-TCP", "KUBE-NODE-PORT-UDP",
	"KUBE-NODE-PORT-LOCAL-UDP", "KUBE-NODE-PORT-SCTP-HASH", "KUBE-NODE-PORT-LOCAL-SCTP-HASH",
	"KUBE-HEALTH-CHECK-NODE-PORT", "KUBE-IPVS-IPS"}

// isOwnIPSet reports whether a set is kube-proxy's.
func isOwnIPSet(name string) bool {
	name = strings.Replace(name, "KUBE-6-", "KUBE-", 1)
	for _, own := range ipsets {
		if name == own {
			return true
		}
	}
	return false
}

// ipvsState is what mode ipvs has left.
type ipvsState struct {
	link        vishvananda.Link    // nil: there is none
	addrs       map[netip.Addr]bool // on the link: the addresses of kube-proxy's virtual servers
	servers     []virtualServer
	sets        []string // ipsets
	connections int      // established, to one of addrs
}

func (s ipvsState) empty() bool { return s.link == nil && len(s.sets) == 0 }

// virtualServer is a service of IPVS. attrs name it in a request, just as the kernel gave them.
type virtualServer struct {
	addr  netip.Addr
	attrs []netlink.Attribute
}

// own reports whether a virtual server is kube-proxy's beyond doubt. Those of node ports are on the
// node's own addresses, where anybody's may be.
func (s ipvsState) own(v virtualServer) bool { return s.addrs[v.addr] }

func readIPVS() (s ipvsState, err error) {
	s.addrs = map[netip.Addr]bool{}
	link, err := vishvananda.LinkByName(dummyLink)
	var missing vishvananda.LinkNotFoundError
	switch {
	case errors.As(err, &missing):
	case err != nil:
		return s, fmt.Errorf("look for link %s: %w", dummyLink, err)
	case link.Type() == "dummy":
		s.link = link
		addrs, err := vishvananda.AddrList(link, unix.AF_UNSPEC)
		if err != nil {
			return s, fmt.Errorf("list the addresses of %s: %w", dummyLink, err)
		}
		for _, a := range addrs {
			if addr, ok := netip.AddrFromSlice(a.IP); ok {
				s.addrs[addr.Unmap()] = true
			}
		}
		if s.servers, err = virtualServers(); err != nil {
			return s, err
		}
		table, err := os.ReadFile("/proc/thread-self/net/ip_vs_conn")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return s, err
		}
		s.connections = established(string(table), s.addrs)
	}
	sets, err := vishvananda.IpsetListAll()
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EOPNOTSUPP) {
		return s, fmt.Errorf("list ipsets: %w", err)
	}
	for _, set := range sets {
		if isOwnIPSet(set.SetName) {
			s.sets = append(s.sets, set.SetName)
		}
	}
	return s, nil
}

// established counts the established TCP connections to addresses in the table of IPVS: protocol, client,
// port, virtual address, port, endpoint, port, state, timeout; addresses are hexadecimal.
func established(table string, to map[netip.Addr]bool) (n int) {
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 8 || f[0] != "TCP" || f[7] != "ESTABLISHED" {
			continue
		}
		addr, err := netip.ParseAddr(f[3])
		if b, hexErr := hex.DecodeString(f[3]); err != nil && hexErr == nil {
			addr, _ = netip.AddrFromSlice(b)
		}
		if to[addr] {
			n++
		}
	}
	return n
}

// Of linux/ip_vs.h.
const (
	ipvsCmdDelService  = 3
	ipvsCmdGetService  = 4
	ipvsGenlVersion    = 1
	ipvsAttrService    = 1
	ipvsSvcAttrAF      = 1
	ipvsSvcAttrProto   = 2
	ipvsSvcAttrAddr    = 3
	ipvsSvcAttrPort    = 4
	ipvsSvcAttrFwmark  = 5
	genericHeaderBytes = 4
)

// virtualServers lists the services of IPVS; none where the kernel has no IPVS.
func virtualServers() (servers []virtualServer, err error) {
	err = withIPVS(func(c *netlink.Conn, family uint16) error {
		answers, err := c.Execute(ipvsMessage(family, ipvsCmdGetService, netlink.Dump, nil))
		if err != nil {
			return err
		}
		for _, a := range answers {
			if len(a.Data) < genericHeaderBytes {
				continue
			}
			v, err := decodeServer(a.Data[genericHeaderBytes:])
			if err != nil {
				return err
			}
			servers = append(servers, v)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list IPVS services: %w", err)
	}
	return servers, nil
}

// decodeServer decodes one service of a listing. One that is found by a firewall mark has no address.
func decodeServer(b []byte) (v virtualServer, err error) {
	_, service, err := find2(b, ipvsAttrService, ipvsAttrService)
	if err != nil {
		return v, err
	}
	var family uint16
	var addr []byte
	err = attributes(service, func(ad *netlink.AttributeDecoder) error {
		ad.ByteOrder = binary.NativeEndian
		for ad.Next() {
			switch ad.Type() {
			case ipvsSvcAttrAF:
				family = ad.Uint16()
			case ipvsSvcAttrAddr:
				addr = ad.Bytes()
			case ipvsSvcAttrProto, ipvsSvcAttrPort:
			default:
				continue
			}
			v.attrs = append(v.attrs, netlink.Attribute{Type: ad.Type(), Data: ad.Bytes()})
		}
		return nil
	})
	if family == unix.AF_INET && len(addr) >= 4 {
		addr = addr[:4] // the rest of the union is empty
	}
	v.addr, _ = netip.AddrFromSlice(addr)
	return v, err
}

func ipvsMessage(family uint16, command uint8, flags netlink.HeaderFlags, body []byte) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(family), Flags: netlink.Request | flags},
		Data:   append([]byte{command, ipvsGenlVersion, 0, 0}, body...),
	}
}

// withIPVS calls f if the kernel has IPVS.
func withIPVS(f func(c *netlink.Conn, family uint16) error) error {
	family, err := vishvananda.GenlFamilyGet("IPVS")
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	c, err := netlink.Dial(unix.NETLINK_GENERIC, nil)
	if err != nil {
		return err
	}
	return errors.Join(f(c, family.ID), c.Close())
}

// remove removes what is kube-proxy's: the virtual servers on addresses of its link, the link, and its
// ipsets, which must be done after the rules that use them.
func (s ipvsState) remove() (removed []string, err error) {
	if s.link != nil {
		n, err := s.removeServers()
		if err != nil {
			return nil, err
		}
		if n > 0 {
			removed = append(removed, fmt.Sprintf("%d IPVS services", n))
		}
		if err := vishvananda.LinkDel(s.link); err != nil {
			return removed, fmt.Errorf("delete link %s: %w", dummyLink, err)
		}
		removed = append(removed, "link "+dummyLink)
	}
	for _, set := range s.sets {
		if err := vishvananda.IpsetDestroy(set); err != nil {
			return removed, fmt.Errorf("destroy ipset %s: %w", set, err)
		}
		removed = append(removed, "ipset "+set)
	}
	return removed, nil
}

func (s ipvsState) removeServers() (n int, err error) {
	err = withIPVS(func(c *netlink.Conn, family uint16) error {
		for _, v := range s.servers {
			if !s.own(v) {
				continue
			}
			id, err := netlink.MarshalAttributes(v.attrs)
			if err != nil {
				return err
			}
			body, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: unix.NLA_F_NESTED | ipvsAttrService, Data: id}})
			if err != nil {
				return err
			}
			if _, err := c.Execute(ipvsMessage(family, ipvsCmdDelService, netlink.Acknowledge, body)); err != nil {
				return fmt.Errorf("delete IPVS service on %s: %w", v.addr, err)
			}
			n++
		}
		return nil
	})
	return n, err
}

// foreign is the number of virtual servers that cannot be told from somebody else's.
func (s ipvsState) foreign() (n int) {
	for _, v := range s.servers {
		if !s.own(v) {
			n++
		}
	}
	return n
}
