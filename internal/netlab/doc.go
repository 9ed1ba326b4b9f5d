// Package netlab is a small network of Linux namespaces, with servers and probes, in which rules are
// tried with real packets. Tests use it, and so does the demo. It needs root.
//
//	podA podB podC                 10.244.1.10 …, fd00:10:244:1::10 …     pods on the node
//	   \  |  /     routed veths
//	    node                       172.31.0.11, fd00:31::11               where Weir runs
//	      |
//	   [ bridge ] -- remote        172.31.0.12, fd00:31::12               another node
//	      |             \_ podX podY   10.244.2.10 …, fd00:10:244:2::10 … its pods
//	    router                     172.31.0.1, fd00:31::1
//	      |
//	   [ bridge ] -- client client2    192.168.200.10 …, fd00:c11e::10 … off the cluster
//
// Every host is a named network namespace, weir-<pid>-<host>, so that nft and ip can look into it
// (ip netns exec weir-4711-node nft list ruleset).
//
// # Hairpin
//
// A pod hangs on a veth of its own, without a bridge: the pod holds its address as /32 or /128 with
// a default route through the veth, and the node a host route back. Every packet between pods thus
// passes the node's IP layer, and one that a pod sends to itself by way of a Service leaves by the
// link it came from like any other. That is how CNI plugins that route do it; those with a
// bridge set hairpin mode on its ports and need br_netfilter, which is not per namespace.
//
// # Frontends from outside
//
// The router sends ServiceCIDR4, ServiceCIDR6, ExternalCIDR4 and ExternalCIDR6 to the node when they
// come from a client, and the remote node does so for its pods. What the node itself sends
// to these addresses, that is what nobody translated, is dropped by the router without a word; so a
// leak shows as silence and not as a routing loop.
//
// # Not as on a production node
//
// Duplicate address detection is off and the kernel's limit on ICMP errors per destination is
// lifted, so that a hundred refused probes are a hundred answers. Reverse path filtering and ICMP redirects are off.
package netlab
