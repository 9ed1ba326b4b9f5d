package dns

import (
	"bytes"
	"encoding/binary"
)

// aside is an answer that waits for what somebody else has to say.
type aside struct {
	reply reply // as it stood; b is its own
	// prefixed says that the answer has been begun, and goes on with what is said of reply.target.
	// Otherwise the other's answer is the answer.
	prefixed bool
}

// newAside takes a query out of the loop that read it, with what has been written of its answer if
// the outcome is to chase.
func newAside(r *reply, o outcome) *aside {
	a := &aside{prefixed: o == chase}
	a.reply.zone, a.reply.noRA = r.zone, r.noRA
	a.reply.query = r.query
	a.reply.query.msg = append([]byte(nil), r.query.msg...)
	a.reply.tcp, a.reply.flags = r.tcp, r.flags
	a.reply.most = r.most - r.base
	a.reply.an, a.reply.ns, a.reply.ar = r.an, r.ns, r.ar
	if a.prefixed {
		a.reply.b = append([]byte(nil), r.b[r.base:]...)
		a.reply.target = r.target
		a.reply.walk, a.reply.walked, a.reply.cache = r.walk, r.walked, r.cache
		a.reply.random = newRandom()
	}
	return a
}

// question returns the query that is to be asked instead.
func (a *aside) question() []byte {
	q := &a.reply.query
	if !a.prefixed {
		return append([]byte(nil), q.msg...) // ours stays, whatever becomes of it
	}
	return a.reply.appendQuestion(make([]byte, 0, headerLen+maxName+4+optLen))
}

// appendQuestion appends the query for r.target to b, which is empty.
func (r *reply) appendQuestion(b []byte) []byte {
	q := &r.query
	flags := q.flags&flagCD | flagRD
	b = append(b, q.msg[0], q.msg[1], byte(flags>>8), byte(flags), 0, 1, 0, 0, 0, 0, 0, 0)
	b = append(b, r.target.wire[:r.target.length]...)
	b = append(b, byte(q.qtype>>8), byte(q.qtype), 0, classIN)
	if q.edns {
		b[11] = 1
		do := byte(0)
		if q.do {
			do = 0x80
		}
		b = append(b, 0, 0, typeOPT, maxUDP>>8, maxUDP&0xff, 0, 0, do, 0, 0, 0)
	}
	return b
}

// answer returns what the client gets when response has come for the question; nil if there is another
// question first.
func (a *aside) answer(response []byte) []byte {
	r := &a.reply
	switch {
	case r.tcp && len(response) >= headerLen && response[2]&(flagTC>>8) != 0:
		return a.fail() // who asks over TCP has nowhere else to go, and takes what is left for all there is
	case r.walk.list != nil:
		if _, over := r.arrive(response); !over && r.goOn() == chase {
			return nil
		}
		return r.finish()
	case len(response) < headerLen:
		return a.fail()
	case a.prefixed:
		if !r.merge(response) {
			return a.fail()
		}
		return r.finish()
	}
	if limit := r.query.limit(r.tcp); len(response) > limit {
		return r.cut(nil, response)
	}
	return response
}

// fail returns the answer when there is none.
func (a *aside) fail() []byte {
	r := &a.reply
	if r.walk.list != nil {
		r.nowhere()
		return r.finish()
	}
	r.begin(nil, r.tcp)
	r.rcode = rcodeServFail
	return r.finish()
}

// cut appends a response that is too long for the client to b, without its records.
func (r *reply) cut(b, response []byte) []byte {
	r.begin(b, r.tcp)
	flags := binary.BigEndian.Uint16(response[2:])
	r.rcode, r.flags = flags&0xf, flags&^0xf|flagTC
	return r.finish()
}

// merge adds the records of a response to the target, and its response code. It returns false if the
// response cannot be read.
func (r *reply) merge(response []byte) bool {
	flags := binary.BigEndian.Uint16(response[2:])
	r.rcode = flags & 0xf
	r.flags |= flags & flagTC
	if r.tcp {
		r.flags &^= flagTC
	}
	at := headerLen
	for range binary.BigEndian.Uint16(response[4:]) {
		if at = skipName(response, at); at == 0 || at+4 > len(response) {
			return false
		}
		at += 4
	}
	an, ns := binary.BigEndian.Uint16(response[6:]), binary.BigEndian.Uint16(response[8:])
	var seen owners
	seen.add(len(r.b) - r.base - r.target.length) // which ends what has been written
	for i := range int(an) + int(ns) {
		before, kept := len(r.b), seen
		next, rrtype, ok := r.copyRecord(response, at, &seen)
		if !ok {
			return false
		}
		at = next
		switch {
		case i >= int(an) && rrtype != typeSOA: // of the authority, only what a negative answer needs
			r.b, seen = r.b[:before], kept
		case len(r.b) > r.most:
			r.b = r.b[:before]
			if i < int(an) {
				r.room(r.most)
			}
			return true
		case i < int(an):
			r.an++
		default:
			r.ns++
		}
	}
	return true
}

// owners are the places of the last few names that have been written out whole, so that the next
// record, which mostly has one of them, can point there.
type owners struct {
	at [4]int // in the message; 0: none
	n  int
}

func (o *owners) add(at int) {
	if at <= 0x3fff { // as far as a pointer leads
		o.at[o.n%len(o.at)] = at
		o.n++
	}
}

// compress makes the name that has been written last, from start on, a pointer, if it is among them;
// otherwise it is from now on.
func (r *reply) compress(start int, seen *owners) {
	written := r.b[start:]
	for _, at := range seen.at {
		if at > 0 && bytes.HasPrefix(r.b[r.base+at:start], written) {
			r.b = append(r.b[:start], 0xc0|byte(at>>8), byte(at))
			return
		}
	}
	seen.add(start - r.base)
}

// copyRecord appends the record at some place of msg, with the names of its data written out. It
// returns where the next one begins.
func (r *reply) copyRecord(msg []byte, at int, seen *owners) (next int, rrtype uint16, ok bool) {
	start := len(r.b)
	if r.b, at = expandName(r.b, msg, at); at == 0 || at+10 > len(msg) {
		return 0, 0, false
	}
	r.compress(start, seen)
	rrtype = binary.BigEndian.Uint16(msg[at:])
	r.b = append(r.b, msg[at:at+10]...)
	data := len(r.b)
	end := at + 10 + int(binary.BigEndian.Uint16(msg[at+8:]))
	at += 10
	if end > len(msg) {
		return 0, 0, false
	}
	for range copyPlain(rrtype, &r.b, msg, &at, end) {
		if r.b, at = expandName(r.b, msg, at); at == 0 || at > end {
			return 0, 0, false
		}
	}
	r.b = append(r.b, msg[at:end]...)
	if rrtype == typeCNAME {
		seen.add(data - r.base)
	}
	binary.BigEndian.PutUint16(r.b[data-2:], uint16(len(r.b)-data))
	return end, rrtype, true
}

// copyPlain copies what stands before the first name in the RDATA of a type whose names may be
// compressed (RFC 3597, section 4), and returns how many names follow.
func copyPlain(rrtype uint16, b *[]byte, msg []byte, at *int, end int) int {
	names, plain := 0, 0
	switch rrtype {
	case typeCNAME, typeNS, typePTR, typeDNAME:
		names = 1
	case typeSOA:
		names = 2
	case typeMX:
		names, plain = 1, 2
	case typeSRV:
		names, plain = 1, 6
	}
	if *at+plain > end {
		return 0
	}
	*b = append(*b, msg[*at:*at+plain]...)
	*at += plain
	return names
}

// expandName appends a name without compression, and returns where it ends in msg; 0 if it is none.
func expandName(b, msg []byte, at int) ([]byte, int) {
	start, end := len(b), 0
	for jumps := 0; at < len(msg); {
		switch l := int(msg[at]); {
		case l == 0:
			if end == 0 {
				end = at + 1
			}
			return append(b, 0), end
		case l <= maxLabel && at+l < len(msg) && len(b)-start+l+1 < maxName:
			b = append(b, msg[at:at+l+1]...)
			at += l + 1
		case l >= 0xc0 && at+2 <= len(msg) && jumps < maxName/2:
			if end == 0 {
				end = at + 2
			}
			at = int(binary.BigEndian.Uint16(msg[at:]) & 0x3fff)
			jumps++
		default:
			return b, 0
		}
	}
	return b, 0
}
