package dataplane

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// messages builds a stream of netlink messages in one buffer. Lengths are filled in when a
// message or a nested attribute ends; nothing is copied twice.
type messages struct {
	b     []byte
	seq   uint32 // of the last message
	start int    // of the open message
}

// Sizes in bytes: struct nlmsghdr, struct nlattr, struct nfgenmsg.
const (
	nlmsgHeader = 16
	nlattr      = 4
	nfgenHeader = 4
)

// maxAttr is the largest attribute that fits its 16 bit length, in bytes.
const maxAttr = 0xffff

// begin opens a message of the nftables subsystem (NFT_MSG_*).
func (m *messages) begin(family, msg uint8, flags uint16) {
	m.beginRaw(uint16(unix.NFNL_SUBSYS_NFTABLES)<<8|uint16(msg), flags, family, 0)
}

func (m *messages) beginRaw(typ, flags uint16, family uint8, resource uint16) {
	m.seq++
	m.start = len(m.b)
	m.b = binary.NativeEndian.AppendUint32(m.b, 0) // length, see end
	m.b = binary.NativeEndian.AppendUint16(m.b, typ)
	m.b = binary.NativeEndian.AppendUint16(m.b, unix.NLM_F_REQUEST|flags)
	m.b = binary.NativeEndian.AppendUint32(m.b, m.seq)
	m.b = binary.NativeEndian.AppendUint32(m.b, 0) // port: the kernel's to know
	m.b = append(m.b, family, unix.NFNETLINK_V0)
	m.b = binary.BigEndian.AppendUint16(m.b, resource)
}

// end closes the open message.
func (m *messages) end() {
	binary.NativeEndian.PutUint32(m.b[m.start:], uint32(len(m.b)-m.start))
}

// listing asks for all elements of a set.
func (m *messages) listing(fam *family, table, set string) {
	m.begin(fam.nfproto, unix.NFT_MSG_GETSETELEM, unix.NLM_F_DUMP)
	m.string(unix.NFTA_SET_ELEM_LIST_TABLE, table)
	m.string(unix.NFTA_SET_ELEM_LIST_SET, set)
	m.end()
}

// requestAck asks the kernel to acknowledge the message that was closed last.
func (m *messages) requestAck() {
	at := m.b[m.start+6:]
	binary.NativeEndian.PutUint16(at, binary.NativeEndian.Uint16(at)|unix.NLM_F_ACK)
}

// batchBegin and batchEnd bracket a transaction.
func (m *messages) batchBegin() {
	m.beginRaw(unix.NFNL_MSG_BATCH_BEGIN, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
	m.end()
}

func (m *messages) batchEnd() {
	m.beginRaw(unix.NFNL_MSG_BATCH_END, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
	m.end()
}

func (m *messages) header(typ uint16, n int) {
	m.b = binary.NativeEndian.AppendUint16(m.b, uint16(nlattr+n))
	m.b = binary.NativeEndian.AppendUint16(m.b, typ)
}

func (m *messages) pad() {
	for len(m.b)%4 != 0 {
		m.b = append(m.b, 0)
	}
}

func (m *messages) bytes(typ uint16, v []byte) {
	m.header(typ, len(v))
	m.b = append(m.b, v...)
	m.pad()
}

// string appends a zero-terminated string attribute.
func (m *messages) string(typ uint16, s string) {
	m.header(typ, len(s)+1)
	m.b = append(append(m.b, s...), 0)
	m.pad()
}

func (m *messages) u32(typ uint16, v uint32) {
	m.header(typ, 4)
	m.b = binary.BigEndian.AppendUint32(m.b, v)
}

func (m *messages) u64(typ uint16, v uint64) {
	m.header(typ, 8)
	m.b = binary.BigEndian.AppendUint64(m.b, v)
}

// nest opens a nested attribute and returns its place for unnest.
func (m *messages) nest(typ uint16) int {
	at := len(m.b)
	m.header(typ|unix.NLA_F_NESTED, 0)
	return at
}

func (m *messages) unnest(at int) {
	binary.NativeEndian.PutUint16(m.b[at:], uint16(len(m.b)-at))
}
