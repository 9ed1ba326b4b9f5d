// Package node has this machine answer the cluster's DNS address itself, for as long as it really does.
//
// The address is put on lo ([Addresses]), the server's sockets are bound to it, and a lease in the
// kernel sends packets to them that would otherwise take the way of any Service ([Keeper]). A lease
// lasts for two seconds and is renewed while a query over the network stack is answered, by the
// sockets that clients ask:
//
//	every 0.5 s:  address on lo? ── probe over UDP, over TCP ── answered ──▶ lease for 2 s
//	                                                         └─ not, or nobody is left to ask ──▶ it ends
//
// So nobody has to notice that we hang or are gone. The package knows neither nftables nor
// Kubernetes.
package node
