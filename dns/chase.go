package dns

import "encoding/binary"

// aside is an answer that waits for what somebody else has to say.
type aside struct {
	reply reply // as it stood; b is its own
	// prefix is what had been written of an answer that goes on with what an alias stands for. Nil:
	// the other's answer is the answer.
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
	}
	return a
}

// question returns the query that is to be asked instead.
func (a *aside) question() []byte {
	q := &a.reply.query
	if !a.prefixed {
		return append([]byte(nil), q.msg...) // ours stays, whatever becomes of it
	}
	b := make([]byte, headerLen, headerLen+maxName+4+optLen)
	copy(b, q.msg[:2])
	binary.BigEndian.PutUint16(b[2:], q.flags&flagCD|flagRD)
	b[5] = 1
	b = append(b, a.reply.target.wire[:a.reply.target.length]...)
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

// answer returns what the client gets when response has come for the question.
func (a *aside) answer(response []byte) []byte {
	r := &a.reply
	if len(response) < headerLen {
		return a.fail()
	}
	if a.prefixed {
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
	for i := range int(an) + int(ns) {
		before := len(r.b)
		var rrtype uint16
		var ok bool
		if r.b, at, rrtype, ok = copyRecord(r.b, response, at); !ok {
			return false
		}
		switch {
		case i >= int(an) && rrtype != typeSOA: // of the authority, only what a negative answer needs
			r.b = r.b[:before]
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

// copyRecord appends the record at some place of msg to b, with its names written out. It returns
// where the next one begins.
func copyRecord(b, msg []byte, at int) (_ []byte, next int, rrtype uint16, ok bool) {
	if b, at = expandName(b, msg, at); at == 0 || at+10 > len(msg) {
		return b, 0, 0, false
	}
	rrtype = binary.BigEndian.Uint16(msg[at:])
	b = append(b, msg[at:at+10]...)
	rdlen := len(b) - 2
	end := at + 10 + int(binary.BigEndian.Uint16(msg[at+8:]))
	at += 10
	if end > len(msg) {
		return b, 0, 0, false
	}
	for range copyPlain(rrtype, &b, msg, &at, end) {
		if b, at = expandName(b, msg, at); at == 0 || at > end {
			return b, 0, 0, false
		}
	}
	if len(b)+end-at > maxTCP {
		return b, 0, 0, false
	}
	b = append(b, msg[at:end]...)
	binary.BigEndian.PutUint16(b[rdlen:], uint16(len(b)-rdlen-2))
	return b, end, rrtype, true
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
