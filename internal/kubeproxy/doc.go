// Package kubeproxy takes over from kube-proxy: it finds out whether one runs in this network namespace,
// and removes what a stopped one has left behind, in any of its modes, without disturbing anybody
// else's rules.
//
// # What happens when both are there
//
// Nothing is lost while the rules of both are in the kernel, and that is what makes switching without a gap
// possible, in both directions: the new one writes its rules, then the old one's go.
//
// All chains of type nat are asked in the order of their priority, but only until one of them translates.
// Ours stand at -105, before kube-proxy's at -100 (nftables: nat-prerouting, nat-output; iptables: PREROUTING,
// OUTPUT), so a new connection to a frontend that we know is ours. What we do not know yet goes on to
// kube-proxy; our chains that refuse ports of ClusterIPs and addresses without a Service stand
// at -90, and see only what nobody has translated. Behind the routing decision it is the same: ours
// at 95, kube-proxy's at 100. It masquerades by a mark that its own chains set, which a connection of ours
// does not have. A connection that has begun never asks a nat chain again: conntrack translates it,
// whoever made it, and whether or not the chains are still there.
//
// kube-proxy has chains of type filter too. Most stand behind the translation and look at the
// destination (no-endpoint services, ports of ClusterIPs without a Service); what we have translated goes to a
// pod by then and does not match. Two look at new packets before us:
//
//   - nftables: firewall-check at -110 drops what a Service's loadBalancerSourceRanges do not allow. That is what
//     we do too, but a stopped kube-proxy's list gets out of date: so do not leave it there for long.
//   - iptables: KUBE-FORWARD also accepts what kube-proxy has marked. Where the policy of the chain FORWARD is
//     drop, somebody else's rule must accept packets from and to the pods from now on; kube-proxy's mode
//     nftables has that need too. Removing the chain under such a policy is logged.
//
// kube-proxy that starts beside us removes leftovers of its own other modes and nothing of ours. It finds its
// ports for health and metrics taken, and tries again until they are free.
//
// # Order
//
// Removal begins once our first sync has reached the kernel. What leads from the kernel's hooks into
// kube-proxy's chains is removed first, in one transaction, and everything behind it afterwards. A kube-proxy
// that still runs would write its rules again, so it is named and waited for. And what comes back
// after a removal is left alone: then a kube-proxy runs that cannot be seen from here, or the
// operator is about to go back.
//
// # What stays
//
//   - chains of the kubelet: KUBE-FIREWALL, KUBE-KUBELET-CANARY, KUBE-IPTABLES-HINT, KUBE-MARK-DROP;
//   - chains that somebody else's rules jump to, with all they need: CNI's portmap can be told to use
//     KUBE-MARK-MASQ;
//   - virtual servers of IPVS that are not on an address of kube-ipvs0;
//   - kernel parameters, as net.ipv4.conf.all.route_localnet, and counters of nfacct;
//   - iptables-legacy's tables, if that tool is not installed where we run.
package kubeproxy
