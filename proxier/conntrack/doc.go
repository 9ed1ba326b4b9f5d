// Package conntrack removes flows that the rules have left behind, and sets the kernel's
// parameters of connection tracking.
//
// Translation happens once per flow: the kernel remembers it in the conntrack table, and every
// later packet follows the entry and not the rules. A UDP flow has no end of its own, so it follows
// for as long as the client sends. After the rules have changed, a Cleaner therefore removes the
// entries that lead where the rules would no longer lead; the next packet of such a flow goes
// through the rules as a new one.
//
// # What is removed
//
// A Job names a frontend that has changed and the endpoints whose flows may stay. An entry is
// removed if its protocol, original destination address and port are the frontend's and
//
//   - it is translated (its replies come from elsewhere than where the client sent to), and
//     not to an endpoint that is kept: one was replaced, none is left, the frontend is gone; or
//   - it is not translated, is UDP, and the frontend has just appeared: the flow began before the rules
//     knew the frontend, and would never reach an endpoint.
//
// Nothing else is touched: not the flows of other frontends, not those to the same NodePort
// number on another host, whose destination is another address, and not those of other protocols.
// Every conntrack zone counts.
//
// A process of the host that listens on a node address and port which then becomes a NodePort loses
// its flows from outside to the service, as it loses every new one: the rules come before the
// socket. Flows that the process itself began have another original destination and stay. When the
// frontend goes, only translated flows are removed, so those of the process, which begin again
// then, are safe.
//
// A flow is named to the kernel by its tuple, its zone and its ID, so a later flow of the same
// tuple is not taken for it. (The kernel computes the ID from the place in memory and the
// tuple. A new flow of the same tuple in the same place is indistinguishable; removing it too
// costs one more walk through the rules.)
//
// # How the table is read
//
// By dumps, of which only one datagram is in memory at a time. Linux has filters for dumps since 5.8,
// by family, protocol, addresses and ports of a tuple, and since 5.17 by status. Measured on 6.18:
// 0.2 µs to pass over an entry, 1.5 µs to bring one. Two facts about them decide what is asked for:
//
//   - The comparison of IPv6 addresses is the wrong way round (seen on 6.1, 6.12 and 6.18): a filter
//     leaves out exactly the entries that fit. So IPv6 is filtered by port only.
//   - The kernel fills one datagram with softirqs switched off on that CPU. A filter that fits
//     nothing makes it walk the whole table like that, for 0.2 s in one of a million entries. So in a
//     table of more than 50,000 there is no filter: 1.5 s of work, but in pieces of half a millisecond.
//
// A dump is no snapshot: an entry can be missed when the one before it goes at the wrong moment.
// That is one of the reasons why a Cleaner does each job again after a second; the other is a packet
// that was on its way through the old rules.
//
// # TCP
//
// TCP flows are left alone unless Config.ResetTCP is set. Established connections to an endpoint
// that is gone otherwise hang until somebody's timer ends. Removing the entry alone resets a client
// that sends: its segment is taken for a new connection (net.netfilter.nf_conntrack_tcp_loose is 1
// by default), goes to another endpoint or is refused, and the reset that comes back is translated
// and believed. A client that waits for data sends nothing, and hangs. So after the removal the
// client is sent one segment, a SYN with ACK from the frontend, which any client in a connection
// answers with an ACK; see poker. Tried with pods, the node itself, a remote node and clients off
// the cluster, waiting and sending, with an endpoint replaced and with none left, IPv4 and IPv6:
// all were reset within milliseconds, on 6.1, 6.12 and 6.18. SOCK_DESTROY would have reached the
// node's own sockets only, and a reset of our own making needs sequence numbers, which conntrack
// does not tell.
//
// It does not work where the client's next segment is not answered: when the rules drop what goes
// to the frontend (externalTrafficPolicy Local without a local endpoint; a cluster IP that is gone,
// in a service CIDR that is known), or with nf_conntrack_tcp_loose = 0. Then the client hangs, as
// without this. So do not hand in a TCP job for a deleted frontend whose endpoints live.
package conntrack
