package netlab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Config says what a lab consists of. The zero value is the lab of the package's story.
type Config struct {
	LocalPods  []string // default podA, podB, podC
	RemotePods []string // default podX, podY
	Clients    []string // default client, client2

	// NodeAddrs are secondary addresses of the node, within 172.31.0.0/24 and fd00:31::/64.
	NodeAddrs []netip.Addr

	// IPv4Only leaves IPv6 out and disables it in the node (disable_ipv6).
	IPv4Only bool
}

// Lab is a network of namespaces. See the package's story for what is in it.
type Lab struct {
	hosts    []*Host // in the order they were made
	byName   map[string]*Host
	prefix   string
	ipv4Only bool
}

// labs counts the labs of this process, for their names.
var labs atomic.Int32

// New builds a lab. Close must be called; if the process dies before, Sweep removes what is left.
func New(cfg Config) (*Lab, error) {
	setDefault(&cfg.LocalPods, "podA", "podB", "podC")
	setDefault(&cfg.RemotePods, "podX", "podY")
	setDefault(&cfg.Clients, "client", "client2")
	l := &Lab{byName: make(map[string]*Host), prefix: fmt.Sprintf("weir-%d-", os.Getpid()), ipv4Only: cfg.IPv4Only}
	if n := labs.Add(1); n > 1 {
		l.prefix = fmt.Sprintf("weir-%d.%d-", os.Getpid(), n)
	}
	if err := l.build(cfg); err != nil {
		return nil, errors.Join(fmt.Errorf("build lab: %w", err), l.Close())
	}
	return l, nil
}

func setDefault(names *[]string, defaults ...string) {
	if *names == nil {
		*names = defaults
	}
}

// Host returns a host by its name: node, remote, router, or one of the pods and clients. It panics if there
// is none: that is a typing error.
func (l *Lab) Host(name string) *Host {
	h := l.byName[name]
	if h == nil {
		panic(fmt.Sprintf("netlab: no host %q", name))
	}
	return h
}

// Hosts returns all hosts but the router.
func (l *Lab) Hosts() []*Host {
	var hosts []*Host
	for _, h := range l.hosts {
		if h.Name != "router" {
			hosts = append(hosts, h)
		}
	}
	return hosts
}

// Close ends everything that runs in the lab and removes it.
func (l *Lab) Close() error {
	var errs []error
	for _, h := range slices.Backward(l.hosts) { // clients before what they talk to
		errs = append(errs, h.close())
	}
	return errors.Join(errs...)
}

// RouteToNode makes the clients, the remote node and its pods reach addresses by way of the node, as
// the service CIDRs and the external CIDRs are from the start.
func (l *Lab) RouteToNode(p netip.Prefix) error {
	if p.Addr().Is6() && l.ipv4Only {
		return nil
	}
	router, node := l.Host("router"), l.Host("node")
	return errors.Join(
		router.addRoute(route{to: p, via: node.addrLike(p.Addr()), table: clientTable}),
		router.addRoute(route{to: p}), // what comes from elsewhere is a leak
		l.Host("remote").addRoute(route{to: p, via: node.addrLike(p.Addr())}),
	)
}

// v6 returns p, or the zero Prefix in a lab of IPv4 only.
func (l *Lab) v6(p netip.Prefix) netip.Prefix {
	if l.ipv4Only {
		return netip.Prefix{}
	}
	return p
}

func (l *Lab) addHost(name string, addr4, addr6 netip.Addr, settings ...[]sysctl) (*Host, error) {
	if l.byName[name] != nil {
		return nil, fmt.Errorf("two hosts named %s", name)
	}
	h, err := newHost(l.prefix+name, name)
	if err != nil {
		return nil, err
	}
	l.hosts = append(l.hosts, h)
	l.byName[name] = h
	h.Addr4 = addr4
	if !l.ipv4Only {
		h.Addr6 = addr6
	}
	err = h.Do(func() error {
		for _, list := range append(settings, quiet) {
			for _, s := range list {
				err := os.WriteFile(filepath.Join("/proc/sys", s.path), []byte(s.value), 0)
				if err != nil && !(s.optional && errors.Is(err, os.ErrNotExist)) {
					return fmt.Errorf("%s: sysctl %s: %w", name, strings.ReplaceAll(s.path, "/", "."), err)
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	_, err = h.link("lo")
	return h, err
}

func (l *Lab) build(cfg Config) error {
	if err := l.buildRouter(); err != nil {
		return err
	}
	var family []sysctl
	if l.ipv4Only {
		family = noIPv6
	}
	node, err := l.buildNode("node", nodeAddr4, nodeAddr6, family)
	if err != nil {
		return err
	}
	remote, err := l.buildNode("remote", remoteAddr4, remoteAddr6)
	if err != nil {
		return err
	}
	err = errors.Join(
		node.addRoute(route{to: remotePodCIDR4, via: remote.Addr4}),
		node.addRoute(route{to: l.v6(remotePodCIDR6), via: remote.Addr6}),
		remote.addRoute(route{to: PodCIDR4, via: node.Addr4}),
		remote.addRoute(route{to: l.v6(PodCIDR6), via: node.Addr6}),
	)
	if err != nil {
		return err
	}
	for _, a := range cfg.NodeAddrs {
		if err := node.AddAddr(a); err != nil {
			return err
		}
	}
	if err := l.buildPods(node, cfg.LocalPods, PodCIDR4, PodCIDR6); err != nil {
		return err
	}
	if err := l.buildPods(remote, cfg.RemotePods, remotePodCIDR4, remotePodCIDR6); err != nil {
		return err
	}
	if err := l.buildClients(cfg.Clients); err != nil {
		return err
	}
	for _, p := range []netip.Prefix{ServiceCIDR4, ServiceCIDR6, ExternalCIDR4, ExternalCIDR6} {
		if err := l.RouteToNode(p); err != nil {
			return err
		}
	}
	for _, h := range l.hosts {
		if err := h.settle(); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) buildRouter() error {
	router, err := l.addHost("router", routerAddr4.Addr(), routerAddr6.Addr(), forwarding)
	if err != nil {
		return err
	}
	if err := router.bridge(nodeBridge, routerAddr4, l.v6(routerAddr6)); err != nil {
		return err
	}
	if err := router.bridge(clientBridge, clientGateway4, l.v6(clientGateway6)); err != nil {
		return err
	}
	families := []int{unix.AF_INET}
	if !l.ipv4Only {
		families = append(families, unix.AF_INET6)
	}
	for _, f := range families {
		rule := netlink.NewRule()
		rule.Family, rule.IifName, rule.Table, rule.Priority = f, clientBridge, clientTable, 100
		if err := router.nl.RuleAdd(rule); err != nil {
			return fmt.Errorf("router: rule for clients: %w", err)
		}
	}
	err = errors.Join(
		router.addRoute(route{to: PodCIDR4, via: nodeAddr4.Addr()}),
		router.addRoute(route{to: remotePodCIDR4, via: remoteAddr4.Addr()}),
	)
	if l.ipv4Only || err != nil {
		return err
	}
	return errors.Join(
		router.addRoute(route{to: PodCIDR6, via: nodeAddr6.Addr()}),
		router.addRoute(route{to: remotePodCIDR6, via: remoteAddr6.Addr()}),
	)
}

func (l *Lab) buildNode(name string, addr4, addr6 netip.Prefix, settings ...[]sysctl) (*Host, error) {
	n, err := l.addHost(name, addr4.Addr(), addr6.Addr(), append(settings, forwarding)...)
	if err != nil {
		return nil, err
	}
	if err := plug(l.Host("router"), nodeBridge, n, addr4, l.v6(addr6)); err != nil {
		return nil, err
	}
	return n, n.addRoutes(
		route{to: any4, via: routerAddr4.Addr()},
		route{to: l.v6(any6), via: routerAddr6.Addr()},
	)
}

func (l *Lab) buildPods(node *Host, names []string, cidr4, cidr6 netip.Prefix) error {
	for i, name := range names {
		pod, err := l.addHost(name, nth(cidr4, 10+i), nth(cidr6, 0x10+i))
		if err != nil {
			return err
		}
		if err := attachPod(node, pod); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) buildClients(names []string) error {
	for i, name := range names {
		addr4 := netip.PrefixFrom(nth(clientGateway4.Masked(), 10+i), clientGateway4.Bits())
		addr6 := netip.PrefixFrom(nth(clientGateway6.Masked(), 0x10+i), clientGateway6.Bits())
		c, err := l.addHost(name, addr4.Addr(), addr6.Addr())
		if err != nil {
			return err
		}
		if err := plug(l.Host("router"), clientBridge, c, addr4, l.v6(addr6)); err != nil {
			return err
		}
		err = c.addRoutes(
			route{to: any4, via: clientGateway4.Addr()},
			route{to: l.v6(any6), via: clientGateway6.Addr()},
		)
		if err != nil {
			return err
		}
	}
	return nil
}
