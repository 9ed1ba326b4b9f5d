// Package switchover proves that a node goes over from kube-proxy to Weir and back without losing a
// connection, and that neither touches the rules of others. It has no code, only tests: they run
// the real kube-proxy, in each of its modes that this kernel has, in a node of package netlab beside an
// API server of package kubelab. They need root, nft and iptables.
//
// New connections are made all along, some 2,500 a second, from a pod, the node and a client off the cluster,
// to cluster IPs and node ports, with TCP and UDP, IPv4 and IPv6. Each must be answered, and the
// endpoint must see the right source. Connections that were opened before a switch must outlive it.
// As a control the same load runs over kube-proxy alone, which is killed and started meanwhile: what
// fails there is not the switch's fault.
package switchover
