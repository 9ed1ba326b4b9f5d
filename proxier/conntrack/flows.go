package conntrack

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/weir-project/weir/dataplane"
)

// Flow is one entry of the conntrack table.
type Flow struct {
	Frontend dataplane.Frontend // what the client dialled
	Client   netip.AddrPort
	Endpoint netip.AddrPort // who answers; the frontend's own address if nobody translated
	// Closing says that a TCP connection is over, or about to be: the entry only waits for stragglers.
	Closing bool
}

// Flows calls each with the flows of every family and zone. It reads the whole table, of which one
// datagram is in memory at a time. A flow can be missed or come twice while the table changes.
func (c *Conn) Flows(ctx context.Context, each func(Flow)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.table.out.reset()
	c.table.out.dump(scan{})
	var e entry
	err := c.table.list(ctx, func(body []byte) {
		if e.decode(body) != nil {
			return // of a protocol without ports, for example
		}
		each(Flow{Frontend: e.frontend(), Client: e.orig.src, Endpoint: e.reply.src, Closing: closing(e.tcpState)})
	})
	if err != nil && !again(err) {
		return fmt.Errorf("list the conntrack table: %w", err)
	}
	return nil
}

func closing(state uint8) bool {
	switch state {
	case tcpLastAck, tcpTimeWait, tcpClose:
		return true
	}
	return false
}
