// Package packets is the specification of what happens to a packet, as a table of cases that are
// tried on a real kernel. It has no code, only tests; they need root, and nft for a witness.
//
// A [world] is a directory of Kubernetes manifests in testdata with the cases that hold in it. Each case is a
// line: who dials what, and what must come of it.
//
//	{"client off the cluster", "client", "web", "podA podB podX as node"},
//
// The hosts are those of package netlab. All but the clients serve TCP, UDP and SCTP on 8080 and 8081.
//
// From are one or more hosts. node@203.0.113.30 is a host with one of its addresses.
//
// To is a frontend: web is the cluster IP of the service web, at its first port; web:81 at another one.
// web/external, web/lb and web/node are its external IP, load-balancer IP and node port on the node's
// address; web/lb2 the second one. node:30080 is an address of a host, 10.96.0.250:80 a literal one. Words
// behind it narrow the case: v4 v6 tcp udp sctp. Otherwise a line stands for both families and
// for each protocol that the service has at this port, or all of them if it has none. A literal
// IPv4 address stands for the IPv6 address with the same last number (10.96.0.250 for
// fd00:10:96::250), as everywhere in the lab.
//
// Want is one of
//
//	podA podB:8081           these answer, all of them and nobody else, and see the sender's own address
//	podA podB as node        the same, but they see the node's address: masqueraded
//	podA as node, podX       podA sees the node's address, podX the sender's own
//	one of podA podB         one of these answers, and always the same
//	refused                  by a TCP reset or ICMP within a second
//	dropped                  silence
//	unserved                 nobody translates, refuses or drops: the packet goes its way
//
// A witness stands behind all chains of the node and notes what passes untranslated, so that
// dropped is told from a leak, and refused from a port where nobody listens.
//
// A world has steps: its own manifests, and then subdirectories whose files are laid over them, one after
// the other. A file without any object takes away what it covers. The files in testdata/common belong
// to every world.
//
// The cases run twice: each world with a weir of its own (TestNetnsFresh), and the steps of all worlds in
// random order on one that is told of nothing but changed files (TestNetnsLongLived). What does
// not work yet is listed in pending_test.go, and must fail.
//
// Settings, by environment: WEIR_BINARY is tested in place of a new build; WEIR_PACKETS_SEED repeats an
// order.
package packets
