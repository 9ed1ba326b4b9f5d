package main

import (
	"net/netip"
	"slices"
	"sync"

	"k8s.io/klog/v2"

	"github.com/weir-project/weir/endpoints"
	"github.com/weir-project/weir/internal/config"
)

// nodeAddresses puts together what the machine says of its addresses and what the Node object
// says, and tells which of them node ports are served on.
type nodeAddresses struct {
	override []netip.Addr                     // the node's IPs, by flag
	fallback func() ([]netip.Addr, error)     // the node's IPs, if nobody else says
	set      func(all, nodePort []netip.Addr) // told of every change
	checks   func([]netip.Addr)               // told where to serve health checks; nil: everywhere
	logger   klog.Logger

	mu       sync.Mutex
	nodePort config.NodePortAddresses
	machine  []netip.Addr
	node     *endpoints.Node
}

// choose returns the addresses of a machine that serve node ports.
func choose(p config.NodePortAddresses, machine, primary []netip.Addr) []netip.Addr {
	var chosen []netip.Addr
	if p.Primary {
		chosen = append(chosen, primary...)
	}
	for _, a := range machine {
		if slices.ContainsFunc(p.CIDRs, func(c netip.Prefix) bool { return c.Contains(a) }) {
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

func (n *nodeAddresses) setPolicy(p config.NodePortAddresses) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.nodePort = p
	n.tellLocked()
}

func (n *nodeAddresses) tellLocked() {
	primary := n.primaryLocked()
	chosen := choose(n.nodePort, n.machine, primary)
	n.set(slices.Concat(n.machine, primary), chosen)
	// With the primary addresses health checks are served on all: load balancers ask whichever
	// address of the node they know, of either family.
	if n.nodePort.Primary {
		chosen = nil
	}
	n.checks(chosen)
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
