package main

import (
	"net/netip"
	"slices"
	"sync"

	"k8s.io/klog/v2"

	"github.com/weir-project/weir/endpoints"
)

// nodeAddresses puts together what the machine says of its addresses and what the Node object
// says, and tells which of them node ports are served on.
type nodeAddresses struct {
	override []netip.Addr                     // the node's IPs, by flag
	fallback func() ([]netip.Addr, error)     // the node's IPs, if nobody else says
	nodePort nodePortPolicy                   // which addresses serve node ports
	set      func(all, nodePort []netip.Addr) // told of every change
	logger   klog.Logger

	mu      sync.Mutex
	machine []netip.Addr
	node    *endpoints.Node
}

// nodePortPolicy says on which of the node's addresses node ports are served. The zero value is
// the primary ones.
type nodePortPolicy struct {
	all   bool
	cidrs []netip.Prefix // not empty: those within
}

// choose returns the addresses of a machine that serve node ports.
func (p nodePortPolicy) choose(machine, primary []netip.Addr) []netip.Addr {
	switch {
	case p.all:
		return machine
	case len(p.cidrs) == 0:
		return primary
	}
	// A family of which there is no CIDR serves on all addresses.
	var chosen []netip.Addr
	for _, a := range machine {
		sameFamily := func(c netip.Prefix) bool { return c.Addr().Is4() == a.Is4() }
		if !slices.ContainsFunc(p.cidrs, sameFamily) || slices.ContainsFunc(p.cidrs, func(c netip.Prefix) bool { return c.Contains(a) }) {
			chosen = append(chosen, a)
		}
	}
	return chosen
}

// setMachine tells of the machine's addresses, and setNode of its Node object (nil: none).
func (n *nodeAddresses) setMachine(addrs []netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.machine = addrs
	n.tellLocked()
}

func (n *nodeAddresses) setNode(node *endpoints.Node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.node = node
	n.tellLocked()
}

func (n *nodeAddresses) tellLocked() {
	primary := n.primaryLocked()
	all := slices.Concat(n.machine, primary)
	n.set(all, n.nodePort.choose(n.machine, primary))
}

// primaryLocked returns the node's IP in each family: what the flag says, else the Node object's
// first address of that family, else the default route's.
func (n *nodeAddresses) primaryLocked() []netip.Addr {
	candidates := slices.Clone(n.override)
	if n.node != nil {
		candidates = append(candidates, n.node.Addrs...)
	}
	if len(candidates) == 0 {
		found, err := n.fallback()
		if err != nil {
			n.logger.Error(err, "Finding the node's address: node ports are not served until there is one")
		}
		candidates = found
	}
	var primary []netip.Addr
	for _, v4 := range []bool{true, false} {
		if i := slices.IndexFunc(candidates, func(a netip.Addr) bool { return a.Is4() == v4 }); i >= 0 {
			primary = append(primary, candidates[i])
		}
	}
	return primary
}
