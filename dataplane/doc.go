// Package dataplane keeps Weir's nftables tables: their layout, the encoding of elements and
// transactions, and the netlink socket that owns them.
//
// The rules are program and are written once; elements are data. A Conn builds the tables
// ip weir and ip6 weir (layout.go), and from then on only adds and deletes elements of their sets and
// maps. A class that no frontend had before brings its chain along, and an affinity timeout its rule:
//
//	Open      takes the lock of the network namespace, asks the kernel for its families, writes nothing
//	Replace   makes the maps hold exactly the given elements: builds the tables if there are none,
//	          refills adopted ones in one transaction, hands over from another layout
//	Apply     one transaction of element changes
//	Watch     tells when someone else has changed the tables
//	Close     lets go; the tables stay
//	Cleanup   removes the tables
//
// The package knows nothing of Kubernetes: a frontend is a protocol, an address and a port; what
// is done with it is a Verdict; which endpoints it has is numbered slots.
package dataplane
