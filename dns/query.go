package dns

import "encoding/binary"

// The types of records that we have something to say about.
const (
	typeA     = 1
	typeNS    = 2
	typeCNAME = 5
	typeSOA   = 6
	typePTR   = 12
	typeHINFO = 13
	typeMX    = 15
	typeTXT   = 16
	typeAAAA  = 28
	typeSRV   = 33
	typeDNAME = 39
	typeOPT   = 41
	typeDS    = 43
	typeTKEY  = 249 // from here to typeMAILA: transfers and the like, which we refuse
	typeMAILA = 254
	typeANY   = 255
)

const classIN = 1

// Response codes.
const (
	rcodeNoError  = 0
	rcodeFormErr  = 1
	rcodeServFail = 2
	rcodeNXDomain = 3
	rcodeNotImp   = 4
	rcodeRefused  = 5
	rcodeBadVers  = 16
)

// Flags of the header, as a 16-bit number.
const (
	flagQR = 1 << 15
	flagAA = 1 << 10
	flagTC = 1 << 9
	flagRD = 1 << 8
	flagRA = 1 << 7
	flagCD = 1 << 4

	opcodeMask = 0xf << 11
)

const headerLen = 12

// minUDP is the largest answer over UDP without EDNS, and maxUDP the largest with it: what passes
// every path without fragments.
const (
	minUDP = 512
	maxUDP = 1232
	maxTCP = 65535
)

// query is a question as it came in.
type query struct {
	msg    []byte // up to the end of what was understood
	flags  uint16
	name   name
	end    int // of the question
	qtype  uint16
	qclass uint16

	edns    bool
	do      bool
	version uint8
	size    int // what the client takes, by its OPT record
}

// verdict is what becomes of a message.
type verdict uint8

const (
	verdictAnswer verdict = iota // the question can be answered
	verdictDrop                  // it is not a query: say nothing
	verdictReject                // answer with a response code alone
)

// parse reads a message. If the verdict is to reject, rcode says why.
func (q *query) parse(msg []byte) (v verdict, rcode uint16) {
	if len(msg) < headerLen {
		return verdictDrop, 0
	}
	q.msg, q.flags = msg, binary.BigEndian.Uint16(msg[2:])
	q.end, q.qtype, q.edns, q.do, q.version, q.size = 0, 0, false, false, 0, 0
	if q.flags&flagQR != 0 {
		return verdictDrop, 0
	}
	if q.flags&opcodeMask != 0 {
		return verdictReject, rcodeNotImp
	}
	// One question, no answer, no authority.
	if binary.BigEndian.Uint32(msg[4:]) != 1<<16 || binary.BigEndian.Uint16(msg[8:]) != 0 {
		return verdictReject, rcodeFormErr
	}
	n := q.name.read(msg[headerLen:])
	if n == 0 || len(msg) < headerLen+n+4 {
		return verdictReject, rcodeFormErr
	}
	at := headerLen + n
	q.qtype, q.qclass = binary.BigEndian.Uint16(msg[at:]), binary.BigEndian.Uint16(msg[at+2:])
	end := at + 4
	at, ok := q.additional(end, int(binary.BigEndian.Uint16(msg[10:])))
	if !ok {
		return verdictReject, rcodeFormErr
	}
	q.msg, q.end = msg[:at], end
	switch {
	case q.version != 0:
		return verdictReject, rcodeBadVers
	case q.qtype == typeOPT || q.qtype == 0:
		return verdictReject, rcodeFormErr
	case q.qclass != classIN || q.qtype >= typeTKEY && q.qtype <= typeMAILA:
		return verdictReject, rcodeRefused
	}
	return verdictAnswer, 0
}

// maxAdditional is how many additional records a query may have: an OPT and a signature.
const maxAdditional = 2

// additional reads the additional section, of which only OPT means anything, and returns where it
// ends.
func (q *query) additional(at, count int) (int, bool) {
	if count > maxAdditional {
		return 0, false
	}
	for range count {
		start := at
		if at = skipName(q.msg, at); at == 0 || at+10 > len(q.msg) {
			return 0, false
		}
		fixed := q.msg[at : at+10]
		at += 10 + int(binary.BigEndian.Uint16(fixed[8:]))
		if at > len(q.msg) {
			return 0, false
		}
		if binary.BigEndian.Uint16(fixed) != typeOPT {
			continue
		}
		if q.edns || q.msg[start] != 0 {
			return 0, false
		}
		q.edns, q.size = true, int(binary.BigEndian.Uint16(fixed[2:]))
		q.version, q.do = fixed[5], fixed[6]&0x80 != 0
	}
	return at, true
}

// limit returns the size of the largest answer that the client takes.
func (q *query) limit(tcp bool) int {
	switch {
	case tcp:
		return maxTCP
	case !q.edns:
		return minUDP
	}
	return min(max(q.size, minUDP), maxUDP)
}

// skipName returns where a name that may be compressed ends; 0 if it does not.
func skipName(msg []byte, at int) int {
	for at < len(msg) {
		switch l := int(msg[at]); {
		case l == 0:
			return at + 1
		case l <= maxLabel:
			at += l + 1
		case l >= 0xc0 && at+2 <= len(msg):
			return at + 2
		default:
			return 0
		}
	}
	return 0
}
