package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// MaxCounted is how many frontends per family have a counter of connections. Those beyond are not
// counted until one expires.
const MaxCounted = 1 << 16

// countedFor is how long a frontend's counter lives without a new connection. What it has counted by
// then has long been read.
const countedFor = time.Hour

// connections is the set of counters, if the layout has it. The kernel fills it: no element is ever
// written from here, so counting adds nothing to what a change costs, and it is none of the numbered
// sets, which are flushed and compared.
var connections = schema{name: "connections", key: frontendKey, flags: unix.NFT_SET_TIMEOUT | unix.NFT_SET_EVAL, size: MaxCounted}

// Attributes of an element's counter (linux/netfilter/nf_tables.h).
const (
	nftaSetElemExpr    = 7
	nftaCounterPackets = 2
)

// countChain is what counts, behind everything that leads there: connections that leave the node
// (postrouting) or stay on it for one of its sockets (input). A connection passes one of the two, once.
func (w words) countChain() chain { return chain{name: "count", rules: []rule{w.rule(w.count())}} }

// count counts a translated connection by what it was addressed to.
func (w words) count() []expression {
	return append(w.originalFrontend(), std{&expr.Dynset{SrcRegKey: firstRegister, SetName: connections.name,
		Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: countedFor, Exprs: []expr.Any{&expr.Counter{}}}})
}

// Counters reads how many connections the kernel has given an endpoint, by frontend. It has a socket of
// its own, so that reading holds up no writer.
type Counters struct{ c *Conn }

// OpenCounters opens the counters of the network namespace with that file descriptor (0: the caller's),
// of the families that c has.
func OpenCounters(c *Conn) (*Counters, error) {
	sock, err := dial(c.cfg.NetNS)
	if err != nil {
		return nil, err
	}
	return &Counters{&Conn{cfg: c.cfg, families: c.families, sock: sock, lock: -1}}, nil
}

// Close closes the socket.
func (k *Counters) Close() error { return k.c.Close() }

// Counter names a counter: a frontend has one in each table, while one table hands over to another.
type Counter struct {
	Frontend Frontend
	Table    string
}

// Read returns the number of connections of each frontend that had one within the last hour, since its
// counter was made. A table that is not there, or does not count, has none.
func (k *Counters) Read() (map[Counter]uint64, error) {
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	all := map[Counter]uint64{}
	for _, fam := range k.c.families {
		for _, table := range tableNames {
			err := k.read(fam, table, all)
			if err != nil && !errors.Is(err, unix.ENOENT) {
				return nil, fmt.Errorf("list %s of table %s %s: %w", connections.name, fam.name, table, err)
			}
		}
	}
	return all, nil
}

// read adds what a table has. It starts again when the ruleset changes meanwhile: what was listed by then
// is listed once more, with a count that is newer.
func (k *Counters) read(fam *family, table string, all map[Counter]uint64) (err error) {
	for range readTries {
		if err = k.readOnce(fam, table, all); !errors.Is(err, errInterrupted) {
			return err
		}
	}
	return err
}

func (k *Counters) readOnce(fam *family, table string, all map[Counter]uint64) error {
	var m messages
	m.listing(fam, table, connections.name)
	return k.c.sock.ask(&m, func(body []byte) error {
		return decodeCounters(body, fam, func(f Frontend, n uint64) { all[Counter{f, table}] = n })
	})
}

// decodeCounters decodes the body of one NFT_MSG_NEWSETELEM of a listing of counters. Whatever the bytes
// are, it returns.
func decodeCounters(body []byte, fam *family, each func(Frontend, uint64)) error {
	return attributes(body, func(ad *netlink.AttributeDecoder) error {
		if ad.Type() != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			return nil
		}
		return attributes(ad.Bytes(), func(ad *netlink.AttributeDecoder) error {
			f, n, err := decodeCounter(ad.Bytes(), fam)
			if err != nil {
				return fmt.Errorf("element of %s: %w", connections.name, err)
			}
			each(f, n)
			return nil
		})
	})
}

func decodeCounter(b []byte, fam *family) (f Frontend, n uint64, err error) {
	var key []byte
	err = attributes(b, func(ad *netlink.AttributeDecoder) (err error) {
		switch ad.Type() {
		case unix.NFTA_SET_ELEM_KEY:
			key, _, err = decodeData(ad.Bytes())
		case nftaSetElemExpr:
			n, err = decodePackets(ad.Bytes())
		}
		return err
	})
	if err != nil {
		return f, 0, err
	}
	r := reader{b: key, fam: fam}
	f.Protocol = Protocol(r.take(4)[0])
	f.Addr = r.addr()
	f.Port = r.port()
	return f, n, r.done()
}

// decodePackets decodes a counter expression.
func decodePackets(b []byte) (n uint64, err error) {
	err = attributes(b, func(ad *netlink.AttributeDecoder) error {
		if ad.Type() != unix.NFTA_EXPR_DATA {
			return nil
		}
		return attributes(ad.Bytes(), func(ad *netlink.AttributeDecoder) error {
			if ad.Type() == nftaCounterPackets && len(ad.Bytes()) == 8 {
				n = binary.BigEndian.Uint64(ad.Bytes())
			}
			return nil
		})
	})
	return n, err
}
