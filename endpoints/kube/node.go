package kube

import (
	"net/netip"
	"slices"

	v1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/weir-project/weir/endpoints"
)

// taintAutoscaler is what the cluster autoscaler puts on a node that it is about to remove.
const taintAutoscaler = "ToBeDeletedByClusterAutoscaler"

// NodeFrom returns what a Node says, and which of its fields are set aside.
func NodeFrom(n *v1.Node) (*endpoints.Node, []endpoints.Problem) {
	found := findings{kind: "Node", meta: &n.ObjectMeta}
	out := &endpoints.Node{
		Name: n.Name,
		Zone: n.Labels[v1.LabelTopologyZone],
		Deleting: n.DeletionTimestamp != nil ||
			slices.ContainsFunc(n.Spec.Taints, func(t v1.Taint) bool { return t.Key == taintAutoscaler }),
	}
	for _, kind := range []v1.NodeAddressType{v1.NodeInternalIP, v1.NodeExternalIP} {
		for i, address := range n.Status.Addresses {
			if address.Type != kind {
				continue
			}
			a, reason := parseUsable(address.Address)
			if reason != "" {
				found.add(reason, "status.addresses[%d].address", i)
			} else if !slices.Contains(out.Addrs, a) {
				out.Addrs = append(out.Addrs, a)
			}
		}
	}
	cidrs := n.Spec.PodCIDRs
	if len(cidrs) == 0 && n.Spec.PodCIDR != "" {
		cidrs = []string{n.Spec.PodCIDR}
	}
	out.PodCIDRs = prefixes(&found, "spec.podCIDRs[%d]", cidrs)
	return out, found.problems()
}

// ServiceCIDRsFrom returns the ranges of a ServiceCIDR, and which of its fields are set aside.
func ServiceCIDRsFrom(c *networkingv1.ServiceCIDR) ([]netip.Prefix, []endpoints.Problem) {
	found := findings{kind: "ServiceCIDR", meta: &c.ObjectMeta}
	return prefixes(&found, "spec.cidrs[%d]", c.Spec.CIDRs), found.problems()
}

func prefixes(found *findings, format string, given []string) (list []netip.Prefix) {
	for i, s := range given {
		p, reason := parsePrefix(s)
		if reason != "" {
			found.add(reason, format, i)
		} else if !slices.Contains(list, p) {
			list = append(list, p)
		}
	}
	return list
}

// JoinServiceCIDRs merges the ranges of several ServiceCIDRs: each once, in order. No range at all
// is nil, which stands for unknown.
func JoinServiceCIDRs(lists ...[]netip.Prefix) []netip.Prefix {
	all := slices.Concat(lists...)
	slices.SortFunc(all, netip.Prefix.Compare)
	return slices.Compact(all)
}
