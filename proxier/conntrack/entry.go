package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/weir-project/weir/dataplane"
)

// Attributes of an entry (linux/netfilter/nfnetlink_conntrack.h). unix has no names for them.
const (
	ctaTupleOrig  = 1
	ctaTupleReply = 2
	ctaStatus     = 3
	ctaProtoInfo  = 4
	ctaID         = 12
	ctaZone       = 18
	ctaStatusMask = 26
	ctaFilter     = 25

	ctaTupleIP    = 1
	ctaTupleProto = 2

	ctaIPv4Src = 1
	ctaIPv4Dst = 2
	ctaIPv6Src = 3
	ctaIPv6Dst = 4

	ctaProtoNum     = 1
	ctaProtoSrcPort = 2
	ctaProtoDstPort = 3

	ctaProtoInfoTCP      = 1
	ctaProtoInfoTCPState = 1

	ctaFilterOrigFlags = 1

	ctaStatsEntries = 1
)

// statusDstNAT is set in an entry whose destination has been translated (IPS_DST_NAT).
const statusDstNAT = 1 << 5

// States of a TCP entry (enum tcp_conntrack).
const (
	tcpNone = iota
	tcpSynSent
	tcpSynRecv
	tcpEstablished
	tcpFinWait
	tcpCloseWait
	tcpLastAck
	tcpTimeWait
	tcpClose
	tcpSynSent2
)

const (
	protoTCP = dataplane.Protocol(unix.IPPROTO_TCP)
	protoUDP = dataplane.Protocol(unix.IPPROTO_UDP)
)

// maxTuple is the longest original tuple that is kept: IPv6 with a zone of its own has 92 bytes.
const maxTuple = 128

// tuple is one direction of a flow.
type tuple struct {
	src, dst netip.AddrPort
	proto    dataplane.Protocol
}

// entry is what we read of an entry of the table.
type entry struct {
	orig, reply tuple
	status      uint32
	tcpState    uint8 // tcpNone also where the kernel does not say, as for an offloaded flow
	key         key
}

// key names one entry to the kernel: the original tuple as the kernel itself wrote it, the zone,
// and the ID, which is another one for a later flow with the same tuple.
type key struct {
	family  uint8 // unix.AF_INET or AF_INET6
	hasZone bool
	hasID   bool
	zone    uint16
	id      uint32
	size    uint8
	tuple   [maxTuple]byte // attribute CTA_TUPLE_ORIG
}

// frontend is what the client dialled.
func (e *entry) frontend() dataplane.Frontend { return e.orig.frontend() }

func (t *tuple) frontend() dataplane.Frontend {
	return dataplane.Frontend{Addr: t.dst.Addr(), Port: t.dst.Port(), Protocol: t.proto}
}

// translated reports whether the flow goes elsewhere than where the client dialled.
func (e *entry) translated() bool { return e.reply.src != e.orig.dst }

const (
	nlmsgHeader = 16
	nfgenHeader = 4
	attrHeader  = 4
	attrType    = 0x3fff // without NLA_F_NESTED and NLA_F_NET_BYTEORDER
)

var errTruncated = errors.New("attribute is cut off")

// nextAttr splits b after its first attribute. whole includes the header.
func nextAttr(b []byte) (typ uint16, value, whole, rest []byte, err error) {
	if len(b) < attrHeader {
		return 0, nil, nil, nil, errTruncated
	}
	size := int(binary.NativeEndian.Uint16(b))
	if size < attrHeader || size > len(b) {
		return 0, nil, nil, nil, errTruncated
	}
	typ = binary.NativeEndian.Uint16(b[2:]) & attrType
	return typ, b[attrHeader:size], b[:size], b[min(len(b), (size+3)&^3):], nil
}

// decode reads the body of a message, nfgenmsg included, into e. It allocates nothing.
func (e *entry) decode(b []byte) error {
	if len(b) < nfgenHeader {
		return errTruncated
	}
	*e = entry{key: key{family: b[0]}}
	var seen uint32
	for b = b[nfgenHeader:]; len(b) > 0; {
		typ, value, whole, rest, err := nextAttr(b)
		if err == nil {
			err = e.take(typ, value, whole)
		}
		if err != nil {
			return err
		}
		if typ < 32 {
			seen |= 1 << typ
		}
		b = rest
	}
	if seen&(1<<ctaTupleOrig) == 0 || seen&(1<<ctaTupleReply) == 0 {
		return errors.New("entry without tuples")
	}
	return nil
}

func (e *entry) take(typ uint16, value, whole []byte) (err error) {
	switch typ {
	case ctaTupleOrig:
		if len(whole) > maxTuple {
			return fmt.Errorf("tuple of %d bytes", len(whole))
		}
		e.key.size = uint8(copy(e.key.tuple[:], whole))
		err = e.orig.decode(value)
	case ctaTupleReply:
		err = e.reply.decode(value)
	case ctaStatus:
		e.status, err = be32(value)
	case ctaProtoInfo:
		e.tcpState, err = tcpState(value)
	case ctaID:
		e.key.id, err = be32(value)
		e.key.hasID = true
	case ctaZone:
		e.key.zone, err = be16(value)
		e.key.hasZone = true
	}
	return err
}

func (t *tuple) decode(b []byte) error {
	*t = tuple{}
	var src, dst netip.Addr
	var sport, dport uint16
	for len(b) > 0 {
		typ, value, _, rest, err := nextAttr(b)
		if err != nil {
			return err
		}
		b = rest
		switch typ {
		case ctaTupleIP:
			src, dst, err = decodeAddrs(value)
		case ctaTupleProto:
			t.proto, sport, dport, err = decodeProto(value)
		}
		if err != nil {
			return err
		}
	}
	t.src, t.dst = netip.AddrPortFrom(src, sport), netip.AddrPortFrom(dst, dport)
	return nil
}

func decodeAddrs(b []byte) (src, dst netip.Addr, err error) {
	for len(b) > 0 {
		typ, value, _, rest, err := nextAttr(b)
		if err != nil {
			return src, dst, err
		}
		b = rest
		switch {
		case typ == ctaIPv4Src && len(value) == 4:
			src = netip.AddrFrom4([4]byte(value))
		case typ == ctaIPv4Dst && len(value) == 4:
			dst = netip.AddrFrom4([4]byte(value))
		case typ == ctaIPv6Src && len(value) == 16:
			src = netip.AddrFrom16([16]byte(value))
		case typ == ctaIPv6Dst && len(value) == 16:
			dst = netip.AddrFrom16([16]byte(value))
		}
	}
	return src, dst, nil
}

func decodeProto(b []byte) (proto dataplane.Protocol, sport, dport uint16, err error) {
	for len(b) > 0 {
		typ, value, _, rest, err := nextAttr(b)
		if err != nil {
			return proto, sport, dport, err
		}
		b = rest
		switch {
		case typ == ctaProtoNum && len(value) >= 1:
			proto = dataplane.Protocol(value[0])
		case typ == ctaProtoSrcPort && len(value) >= 2:
			sport = binary.BigEndian.Uint16(value)
		case typ == ctaProtoDstPort && len(value) >= 2:
			dport = binary.BigEndian.Uint16(value)
		}
	}
	return proto, sport, dport, nil
}

// tcpState reads CTA_PROTOINFO. It is tcpNone for another protocol.
func tcpState(b []byte) (uint8, error) {
	for _, want := range [...]uint16{ctaProtoInfoTCP, ctaProtoInfoTCPState} {
		for {
			if len(b) == 0 {
				return tcpNone, nil
			}
			typ, value, _, rest, err := nextAttr(b)
			if err != nil {
				return tcpNone, err
			}
			b = rest
			if typ == want {
				b = value
				break
			}
		}
	}
	if len(b) < 1 {
		return tcpNone, errTruncated
	}
	return b[0], nil
}

func be16(b []byte) (uint16, error) {
	if len(b) < 2 {
		return 0, errTruncated
	}
	return binary.BigEndian.Uint16(b), nil
}

func be32(b []byte) (uint32, error) {
	if len(b) < 4 {
		return 0, errTruncated
	}
	return binary.BigEndian.Uint32(b), nil
}
