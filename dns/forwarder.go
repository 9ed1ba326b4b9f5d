package dns

import (
	"context"
	"net/netip"
)

// Forwarder answers what the cluster's zone does not hold.
type Forwarder interface {
	// Forward asks for query, a whole message: a header with QR 0 and opcode QUERY, one question
	// with a well-formed name, nothing in the answer and authority sections, at most one OPT of
	// version 0. The Forwarder may keep it. client is who asks, and tcp over what.
	//
	// reply is called at most once, from any goroutine, perhaps before Forward returns; the
	// response carries the query's ID and question, and is the server's from then on. Over UDP the
	// server cuts it to what the client takes, and sets TC. Without a reply the client is told
	// nothing. Forward does not wait for an upstream. It must stand concurrent calls.
	Forward(ctx context.Context, query []byte, client netip.AddrPort, tcp bool, reply func(response []byte))
}

// CachingForwarder is a Forwarder that often knows the answer.
type CachingForwarder interface {
	Forwarder
	// AppendCached appends the answer to a query, as Forward takes one, to dst if it is known
	// already, whatever its size; otherwise it returns false. It keeps nothing and does not wait.
	AppendCached(dst, query []byte) (answer []byte, ok bool)
}
