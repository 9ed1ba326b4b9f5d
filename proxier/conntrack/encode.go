package conntrack

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/weir-project/weir/dataplane"
)

const (
	subsystem = unix.NFNL_SUBSYS_CTNETLINK << 8
	msgNew    = subsystem     // IPCTNL_MSG_CT_NEW: what a dump brings
	msgGet    = subsystem | 1 // IPCTNL_MSG_CT_GET
	msgDelete = subsystem | 2 // IPCTNL_MSG_CT_DELETE
	msgStats  = subsystem | 5 // IPCTNL_MSG_CT_GET_STATS
)

// Bits of CTA_FILTER_ORIG_FLAGS: which fields of the original tuple must fit.
const (
	filterDst     = 1 << 1
	filterProto   = 1 << 3
	filterDstPort = 1 << 5
)

// scan is one dump: what the kernel is asked to leave out. What comes is judged in full anyway,
// so it does no harm if a kernel leaves out less. The zero value leaves out nothing.
type scan struct {
	family   uint8 // unix.AF_INET or AF_INET6; 0: both, and then nothing else is asked for
	protocol dataplane.Protocol
	// addr is the original destination; the zero Addr: any. IPv4 only: Linux up to 6.18 at least
	// compares IPv6 addresses the wrong way round and leaves out exactly those that are wanted.
	addr       netip.Addr
	port       uint16 // of the original destination; 0: any
	translated bool   // only entries whose destination was translated
}

func (s scan) String() string {
	if s.family == 0 {
		return "all flows"
	}
	text := s.protocol.String() + " flows"
	if s.addr.IsValid() {
		text += " to " + s.addr.String()
	}
	if s.port != 0 {
		text += " port " + strconv.Itoa(int(s.port))
	}
	return text
}

// messages is a stream of netlink messages that grows.
type messages struct {
	b     []byte
	seq   uint32 // of the last message
	start int    // of the last message
}

func (m *messages) reset() { m.b = m.b[:0] }

// begin starts a message; end finishes it.
func (m *messages) begin(typ, flags uint16, family uint8) {
	m.seq++
	m.start = len(m.b)
	m.b = append(m.b, 0, 0, 0, 0)
	m.b = binary.NativeEndian.AppendUint16(m.b, typ)
	m.b = binary.NativeEndian.AppendUint16(m.b, unix.NLM_F_REQUEST|flags)
	m.b = binary.NativeEndian.AppendUint32(m.b, m.seq)
	m.b = append(m.b, 0, 0, 0, 0)
	m.b = append(m.b, family, unix.NFNETLINK_V0, 0, 0)
}

func (m *messages) end() {
	binary.NativeEndian.PutUint32(m.b[m.start:], uint32(len(m.b)-m.start))
}

func (m *messages) attr(typ uint16, value ...byte) {
	m.b = binary.NativeEndian.AppendUint16(m.b, uint16(attrHeader+len(value)))
	m.b = binary.NativeEndian.AppendUint16(m.b, typ)
	m.b = append(m.b, value...)
	m.pad()
}

func (m *messages) pad() {
	for len(m.b)%4 != 0 {
		m.b = append(m.b, 0)
	}
}

func (m *messages) attr16(typ, v uint16) { m.attr(typ, byte(v>>8), byte(v)) }

func (m *messages) attr32(typ uint16, v uint32) {
	m.attr(typ, byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
}

// nest starts an attribute that holds others and returns what ends it.
func (m *messages) nest(typ uint16) int {
	at := len(m.b)
	m.attr(typ | unix.NLA_F_NESTED)
	return at
}

func (m *messages) unnest(at int) {
	binary.NativeEndian.PutUint16(m.b[at:], uint16(len(m.b)-at))
}

// dump appends the request for a scan.
func (m *messages) dump(s scan) {
	m.begin(msgGet, unix.NLM_F_DUMP, s.family)
	if s.family != 0 {
		m.filter(s)
	}
	m.end()
}

func (m *messages) filter(s scan) {
	flags := uint32(filterProto)
	tuple := m.nest(ctaTupleOrig)
	if s.addr.IsValid() {
		flags |= filterDst
		ip := m.nest(ctaTupleIP)
		typ := uint16(ctaIPv4Dst)
		if s.addr.Is6() {
			typ = ctaIPv6Dst
		}
		m.attr(typ, s.addr.AsSlice()...)
		m.unnest(ip)
	}
	proto := m.nest(ctaTupleProto)
	m.attr(ctaProtoNum, byte(s.protocol))
	if s.port != 0 {
		flags |= filterDstPort
		m.attr16(ctaProtoDstPort, s.port)
	}
	m.unnest(proto)
	m.unnest(tuple)
	filter := m.nest(ctaFilter)
	var host [4]byte
	binary.NativeEndian.PutUint32(host[:], flags)
	m.attr(ctaFilterOrigFlags, host[:]...)
	m.unnest(filter)
	if s.translated {
		m.attr32(ctaStatus, statusDstNAT)
		m.attr32(ctaStatusMask, statusDstNAT)
	}
}

// remove appends the deletion of one entry. A deletion that does not name an entry would empty
// the whole table: such a key is refused.
func (m *messages) remove(k *key, flags uint16) error {
	typ, _, whole, _, err := nextAttr(k.tuple[:k.size])
	if err != nil || typ != ctaTupleOrig || len(whole) <= attrHeader {
		return fmt.Errorf("delete a conntrack entry: no tuple")
	}
	m.begin(msgDelete, flags, k.family)
	m.b = append(m.b, whole...)
	m.pad()
	if k.hasZone {
		m.attr16(ctaZone, k.zone)
	}
	if k.hasID {
		m.attr32(ctaID, k.id)
	}
	m.end()
	return nil
}
