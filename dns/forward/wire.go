package forward

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
)

// The parts of a DNS message that a forwarder touches (RFC 1035, section 4.1).
const (
	headerLen = 12
	maxName   = 255 // of a name on the wire, in bytes
	optLen    = 11  // an OPT record without options
	maxMsg    = 65535

	flagQR = 0x80 // in the header's third byte
	flagAA = 0x04
	flagTC = 0x02
	flagRD = 0x01
	flagRA = 0x80 // in the fourth
	flagAD = 0x20
	flagCD = 0x10

	typeA     = 1
	typeNS    = 2
	typeCNAME = 5
	typeSOA   = 6
	typePTR   = 12
	typeMX    = 15
	typeTXT   = 16
	typeAAAA  = 28
	typeSRV   = 33
	typeDNAME = 39
	typeOPT   = 41
	typeRRSIG = 46
	typeANY   = 255

	classIN = 1

	rcodeSuccess  = 0
	rcodeFormErr  = 1
	rcodeServFail = 2
	rcodeNXDomain = 3
	rcodeNotImp   = 4
	rcodeRefused  = 5
)

// udpPayload is what we tell upstreams and clients that we take over UDP, in bytes: it fits every
// path without fragments.
const udpPayload = 1232

// Bits of the last byte of a key.
const (
	keyDO = 1 << iota
	keyCD
)

// maxKey is the longest key: a name, type, class and flags.
const maxKey = maxName + 2 + 2 + 1

// question is what is asked, in the form in which the cache knows it.
type question struct {
	key  [maxKey]byte // lower-cased wire name, type, class, flags
	name int          // length of the name
	end  int          // where the question ends in the query
	opt  bool         // the query has an OPT record
	do   bool
	b2   byte // the query's header flags
	b3   byte
}

func (q *question) bytes() []byte     { return q.key[:q.name+5] }
func (q *question) lower() []byte     { return q.key[:q.name] }
func (q *question) qtype() uint16     { return binary.BigEndian.Uint16(q.key[q.name:]) }
func (q *question) wantsAD() bool     { return q.do || q.b3&flagAD != 0 }
func (q *question) flags() byte       { return q.key[q.name+4] }
func (q *question) typeClass() []byte { return q.key[q.name : q.name+4] }

// parse reads a query. It is false of what is none.
func (q *question) parse(query []byte) bool {
	if len(query) < headerLen+5 || query[2]&flagQR != 0 || query[4] != 0 || query[5] != 1 {
		return false
	}
	off := headerLen
	for {
		if off >= len(query) || query[off] > 63 || off-headerLen >= maxName {
			return false
		}
		n := int(query[off])
		off += n + 1
		if n == 0 {
			break
		}
	}
	q.name = off - headerLen
	if q.name > maxName || off+4 > len(query) {
		return false
	}
	for i, c := range query[headerLen:off] { // a label's length is below 'A'
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		q.key[i] = c
	}
	copy(q.key[q.name:], query[off:off+4])
	q.end = off + 4
	q.b2, q.b3 = query[2], query[3]
	q.readOPT(query)
	flags := byte(0)
	if q.do {
		flags |= keyDO
	}
	if q.b3&flagCD != 0 {
		flags |= keyCD
	}
	q.key[q.name+4] = flags
	return true
}

// readOPT looks for the OPT record among the query's additional records. What is malformed there
// is as good as absent.
func (q *question) readOPT(query []byte) {
	q.opt, q.do = false, false
	off := q.end
	for range binary.BigEndian.Uint16(query[10:]) {
		for off < len(query) && query[off] != 0 && query[off] < 64 {
			off += int(query[off]) + 1
		}
		if off+optLen > len(query) || query[off] != 0 {
			return
		}
		if binary.BigEndian.Uint16(query[off+1:]) == typeOPT {
			q.opt, q.do = true, query[off+7]&0x80 != 0
			return
		}
		off += optLen + int(binary.BigEndian.Uint16(query[off+9:]))
	}
}

// counts are the numbers of records in the sections of a message.
type counts struct{ an, ns, ar uint16 }

// appendHeader begins an answer to query: its header, and its question as the client wrote it. opt
// is whether an OPT record will end it.
func appendHeader(dst, query []byte, q *question, b2, b3 byte, c counts, opt bool) []byte {
	if opt {
		c.ar++
	}
	b2 |= flagQR | q.b2&flagRD
	b3 |= flagRA | q.b3&flagCD
	dst = append(dst, query[0], query[1], b2, b3, 0, 1,
		byte(c.an>>8), byte(c.an), byte(c.ns>>8), byte(c.ns), byte(c.ar>>8), byte(c.ar))
	return append(dst, query[headerLen:q.end]...)
}

func appendOPT(dst []byte, do bool) []byte {
	flag := byte(0)
	if do {
		flag = 0x80
	}
	return append(dst, 0, 0, typeOPT, udpPayload>>8, udpPayload&0xff, 0, 0, flag, 0, 0, 0)
}

// appendError answers query with nothing but rcode.
func appendError(dst, query []byte, q *question, rcode byte) []byte {
	dst = appendHeader(dst, query, q, 0, rcode, counts{}, q.opt)
	if q.opt {
		dst = appendOPT(dst, q.do)
	}
	return dst
}

// appendAnswer answers query from e, with ttl in every record and the addresses begun at random.
func appendAnswer(dst, query []byte, q *question, e *entry, ttl uint32) []byte {
	b2, b3 := byte(0), e.rcode
	if e.truncated {
		b2 = flagTC
	}
	if e.authentic && q.wantsAD() {
		b3 |= flagAD
	}
	opt := q.opt && q.end+len(e.body)+optLen <= maxMsg
	dst = appendHeader(dst, query, q, b2, b3, e.counts, opt)
	at := len(dst)
	if n := uint32(e.rotate.n); n > 1 {
		from := int(e.rotate.at)
		first := from + int(rand.Uint32N(n))*int(e.rotate.size)
		to := from + int(n)*int(e.rotate.size)
		dst = append(dst, e.body[:from]...)
		dst = append(dst, e.body[first:to]...)
		dst = append(dst, e.body[from:first]...)
		dst = append(dst, e.body[to:]...)
	} else {
		dst = append(dst, e.body...)
	}
	for _, o := range e.ttlAt {
		binary.BigEndian.PutUint32(dst[at+int(o):], ttl)
	}
	if opt {
		dst = appendOPT(dst, q.do)
	}
	return dst
}

// answerLen is how long appendAnswer's answer can become.
func answerLen(q *question, e *entry) int { return q.end + len(e.body) + optLen }

var errMalformed = errors.New("malformed message")

// parser walks over the records of an answer.
type parser struct {
	msg []byte
	// fixed are the places of what is between a record's owner and its data, which no name may
	// lead through: TTLs will change.
	fixed []int
	// shared are the places of labels that pointers lead to, in the order of reading.
	shared []int
}

const fixedLen = 10 // type, class, TTL and length of the data

// name checks the name at off and returns where it ends: its labels are whole, it is no longer than
// a name may be, and every pointer leads back to what can be a name that ended before this one.
func (p *parser) name(off int) (end int, ok bool) {
	end, length, limit := -1, 0, len(p.msg)
	for pos, begin := off, off; pos < limit; {
		c := int(p.msg[pos])
		if end >= 0 {
			if p.crossesFixed(pos, pos+c+1) {
				return 0, false
			}
			p.shared = append(p.shared, pos)
		}
		switch {
		case c == 0:
			if end < 0 {
				end = pos + 1
			}
			return end, length+1 <= maxName
		case c < 64:
			length += c + 1
			pos += c + 1
			if length >= maxName {
				return 0, false
			}
		case c >= 0xc0:
			if pos+1 >= limit {
				return 0, false
			}
			target := (c&0x3f)<<8 | int(p.msg[pos+1])
			if target < headerLen || target >= begin {
				return 0, false
			}
			if end < 0 {
				end = pos + 2
			}
			pos, limit, begin = target, begin, target
		default:
			return 0, false
		}
	}
	return 0, false
}

// crossesFixed reports whether the label or pointer from pos to end lies where no name may be. Of a
// pointer, end is beyond; it is two bytes long.
func (p *parser) crossesFixed(pos, end int) bool {
	if p.msg[pos] >= 0xc0 {
		end = pos + 2
	}
	i, _ := slices.BinarySearch(p.fixed, pos-fixedLen+1)
	return i < len(p.fixed) && p.fixed[i] < end
}

// expand writes the lower-cased name at off, which has been checked, to buf.
func (p *parser) expand(off int, buf *[maxName]byte) []byte {
	n := 0
	for {
		c := int(p.msg[off])
		switch {
		case c == 0:
			buf[n] = 0
			return buf[:n+1]
		case c >= 0xc0:
			off = (c&0x3f)<<8 | int(p.msg[off+1])
		default:
			for _, b := range p.msg[off : off+c+1] {
				buf[n] = lowerByte(b)
				n++
			}
			off += c + 1
		}
	}
}

func lowerByte(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// record is one resource record of a message; offsets are in the message.
type record struct {
	at    int // its owner name
	typ   uint16
	class uint16
	ttl   uint32
	fixed int // its type, class, TTL and length
	data  int
	end   int
}

// record reads the record at off and checks the data of the types that everybody reads.
func (p *parser) record(off int) (r record, ok bool) {
	fixed, ok := p.name(off)
	if !ok || fixed+fixedLen > len(p.msg) {
		return record{}, false
	}
	p.fixed = append(p.fixed, fixed)
	m := p.msg[fixed:]
	r = record{at: off, fixed: fixed, data: fixed + fixedLen,
		typ: binary.BigEndian.Uint16(m), class: binary.BigEndian.Uint16(m[2:]), ttl: binary.BigEndian.Uint32(m[4:])}
	r.end = r.data + int(binary.BigEndian.Uint16(m[8:]))
	if r.ttl > 1<<31-1 {
		r.ttl = 0 // RFC 2181, section 8
	}
	return r, r.end <= len(p.msg) && p.dataOK(r)
}

func (p *parser) dataOK(r record) bool {
	n := r.end - r.data
	switch r.typ {
	case typeA:
		return n == 4 || r.class != classIN
	case typeAAAA:
		return n == 16
	case typeNS, typeCNAME, typePTR, typeDNAME:
		end, ok := p.name(r.data)
		return ok && end == r.end
	case typeMX:
		return p.nameAfter(r, 2)
	case typeSRV:
		return p.nameAfter(r, 6)
	case typeSOA:
		end, ok := p.name(r.data)
		if ok {
			end, ok = p.name(end)
		}
		return ok && end+20 == r.end
	}
	return true
}

func (p *parser) nameAfter(r record, n int) bool {
	if r.data+n >= r.end {
		return false
	}
	end, ok := p.name(r.data + n)
	return ok && end == r.end
}

// asked reports how the question of an answer compares with the one that was sent: the same, the
// same but for its case, or another.
func asked(msg, query []byte, q *question) (same, folded bool) {
	if len(msg) < q.end || msg[4] != 0 || msg[5] != 1 {
		return false, false
	}
	if !bytes.Equal(msg[headerLen+q.name:q.end], q.typeClass()) {
		return false, false
	}
	if bytes.Equal(msg[headerLen:q.end], query[headerLen:q.end]) {
		return true, true
	}
	for i, c := range msg[headerLen : headerLen+q.name] {
		if lowerByte(c) != q.key[i] {
			return false, false
		}
	}
	return false, true
}
