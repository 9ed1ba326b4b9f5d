package dataplane

import (
	"fmt"
	"net/netip"
	"strconv"
	"time"
)

// Protocol is an IP protocol number (IANA): 6 TCP, 17 UDP, 132 SCTP.
type Protocol uint8

// String returns the protocol as nft spells it.
func (p Protocol) String() string {
	switch p {
	case 6:
		return "tcp"
	case 17:
		return "udp"
	case 132:
		return "sctp"
	}
	return strconv.Itoa(int(p))
}

// Frontend is what a client dials.
type Frontend struct {
	Addr     netip.Addr // IPv4 or IPv6, never IPv4-mapped
	Port     uint16
	Protocol Protocol
}

// String returns the frontend as a set element in nft's words.
func (f Frontend) String() string {
	return fmt.Sprintf("%s . %s . %d", f.Protocol, f.Addr, f.Port)
}

// Verdict is what the kernel does with a new connection to a frontend.
type Verdict uint8

// Verdicts that need no endpoint. The others are made by Balance and BalanceLocal.
const (
	Refuse Verdict = iota + 1
	Drop
	lbBase      Verdict = 0x20
	lbLocalBase Verdict = 0x40
)

// MaxClass is the highest class: a frontend has at most 2^MaxClass endpoints.
const MaxClass = 17

// Balance returns the verdict that spreads connections over the slots 0..n-1 of the map Endpoints,
// and BalanceLocal the same over LocalEndpoints. n is from 1 to 2^MaxClass.
func Balance(n int) Verdict      { return lbBase + Verdict(class(n)) }
func BalanceLocal(n int) Verdict { return lbLocalBase + Verdict(class(n)) }

// class returns the smallest k with n ≤ 2^k.
func class(n int) int {
	k := 0
	for 1<<k < n {
		k++
	}
	return k
}

// Class returns the number that slots are drawn below, 0 for a verdict that needs no endpoint.
func (v Verdict) Class() int {
	switch {
	case v >= lbBase && v <= lbBase+MaxClass:
		return 1 << (v - lbBase)
	case v >= lbLocalBase && v <= lbLocalBase+MaxClass:
		return 1 << (v - lbLocalBase)
	}
	return 0
}

// Chain returns the name of the chain that carries the verdict out, or "drop".
func (v Verdict) Chain() string {
	switch {
	case v == Refuse:
		return "refuse"
	case v == Drop:
		return "drop"
	case v >= lbBase && v <= lbBase+MaxClass:
		return "lb-" + strconv.Itoa(1<<(v-lbBase))
	case v >= lbLocalBase && v <= lbLocalBase+MaxClass:
		return "lb-local-" + strconv.Itoa(1<<(v-lbLocalBase))
	}
	return "invalid"
}

// Set names one of the sets and maps of the layout. Each exists once per family; the family of an
// element follows from its addresses.
type Set uint8

// The sets, with the fields of Element that each uses.
const (
	Services       Set = iota // Frontend -> Verdict
	LocalServices             // Frontend -> Verdict: asked first, for clients from outside the cluster
	Endpoints                 // Frontend, Slot -> Endpoint
	LocalEndpoints            // Frontend, Slot -> Endpoint
	ClusterIPs                // Frontend.Addr
	Hairpin                   // Frontend.Addr: an endpoint on this node that may reach itself
	SnatAlways                // Frontend: connections are masqueraded whoever begins them
	SnatNode                  // Frontend: connections that the node itself begins are masqueraded
	Restricted                // Frontend: only for the sources in AllowedSources
	AllowedSources            // Frontend, Source
	AffinityOf                // Frontend, Timeout: remembers which endpoint a client got
	Affinity                  // Frontend, Client -> Endpoint: written by the kernel; see Op
	ServiceCIDRs              // Source: a range that cluster IPs are allocated from
	numSets

	dnsAlive = numSets // Frontend: leased, see Renew. Not for operations, and not in every layout
)

// Element is an element of one of the sets. Fields that the set does not use are zero.
type Element struct {
	Frontend Frontend
	Slot     uint32
	Endpoint netip.AddrPort
	Verdict  Verdict
	Source   netip.Prefix // masked
	Client   netip.Addr
	Timeout  time.Duration // whole seconds
	// Comment is what nft shows beside an element of Services or LocalServices: whose it is. At
	// most 127 bytes; the rest is cut off.
	Comment string
}

// Op adds or deletes one element. A map element cannot be replaced: delete it and add it in one
// transaction, the deletion first.
//
// The kernel fills Affinity by itself. A deletion there names a Frontend and, if only the clients
// of one endpoint shall be forgotten, that Endpoint; the Client is left out, and every entry that
// fits goes. It is no error if there is none.
type Op struct {
	Delete bool
	Set    Set
	Elem   Element
	// Owner says on whose behalf the operation is: what the kernel refuses is told by owner.
	// Owners are the caller's own numbers. Messages never mix owners.
	Owner uint32
}
