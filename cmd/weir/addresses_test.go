package main

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/weir-project/weir/endpoints"
	"github.com/weir-project/weir/internal/config"
)

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestNodeAddresses(t *testing.T) {
	machine := addrs("10.0.0.1", "172.31.0.11", "fd00:31::11", "fd00:31::12")
	node := &endpoints.Node{Addrs: addrs("172.31.0.11", "10.9.9.9", "fd00:31::12")}
	fallback := func() ([]netip.Addr, error) { return addrs("10.0.0.1"), nil }
	nobody := func() ([]netip.Addr, error) { return nil, errors.New("no route") }
	primary := config.NodePortAddresses{Primary: true}
	for _, tt := range []struct {
		name     string
		override []netip.Addr
		node     *endpoints.Node
		fallback func() ([]netip.Addr, error)
		policy   config.NodePortAddresses
		nodePort []netip.Addr
		checks   []netip.Addr // nil: everywhere
	}{
		{"primary: the Node's first of each family", nil, node, fallback, primary, addrs("172.31.0.11", "fd00:31::12"), nil},
		{"primary: a flag goes before the Node, per family", addrs("10.0.0.1"), node, fallback, primary, addrs("10.0.0.1", "fd00:31::12"), nil},
		{"primary: no Node: the default route's", nil, nil, fallback, primary, addrs("10.0.0.1"), nil},
		{"primary: nobody knows", nil, nil, nobody, primary, nil, nil},
		{"CIDRs: those within", nil, node, fallback, config.NodePortAddresses{CIDRs: prefixes("172.16.0.0/12", "fd00:31::12/128")},
			addrs("172.31.0.11", "fd00:31::12"), addrs("172.31.0.11", "fd00:31::12")},
		{"all", nil, node, fallback, config.NodePortAddresses{CIDRs: prefixes("0.0.0.0/0", "::/0")}, machine, machine},
		{"CIDRs: none of the machine's", nil, node, fallback, config.NodePortAddresses{CIDRs: prefixes("192.0.2.0/24")}, nil, addrs()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var all, nodePort, checks []netip.Addr
			n := &nodeAddresses{
				override: tt.override, fallback: tt.fallback, logger: logr.Discard(), node: tt.node,
				set:    func(a, np []netip.Addr) { all, nodePort = a, np },
				checks: func(a []netip.Addr) { checks = a },
			}
			n.setMachine(machine)
			n.setPolicy(tt.policy)
			opts := cmp.Options{cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()}
			if diff := cmp.Diff(tt.nodePort, nodePort, opts); diff != "" {
				t.Errorf("node ports (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.checks, checks, opts); diff != "" || (tt.policy.Primary != (checks == nil)) && len(tt.nodePort) > 0 {
				t.Errorf("health checks (-want +got):\n%s", diff)
			}
			for _, a := range machine {
				if !contains(all, a) {
					t.Errorf("%s is not among the node's addresses %v", a, all)
				}
			}
		})
	}
}

func contains(list []netip.Addr, a netip.Addr) bool {
	for _, b := range list {
		if a == b {
			return true
		}
	}
	return false
}
