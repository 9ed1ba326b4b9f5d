package forward

import (
	"bytes"
	"encoding/binary"
	"time"

	"github.com/miekg/dns"
)

// kind is what an answer says, as far as caching is concerned.
type kind uint8

const (
	success kind = iota // there is such a record
	denial              // there is none: NXDOMAIN or NODATA
	failure             // the question could not be answered
)

// entry is an answer without what belongs to one client: its ID, flags and the case of its
// question. What the cache counts in it is guarded by the cache's lock, the rest is not changed
// once made.
type entry struct {
	key  string
	body []byte // what follows the question, without OPT. Pointers in it count from the message's begin
	// ttlAt is where in body the TTLs are. They are all the same: the least that there was.
	ttlAt []uint16
	counts
	rcode     byte
	kind      kind
	authentic bool // AD was set
	truncated bool // there is more, but it could not be had
	rotate    block
	ttl       uint32 // in seconds; 0: not to be kept

	stored  time.Duration // since the Forwarder's start
	expires time.Duration

	newer, older *entry // in the order of arrival
	visited      bool   // asked for since the hand of the cache passed
	hits         uint32
	refreshing   bool
	recheck      time.Duration // until then, no upstream need be asked whether it has got something new
}

// block is n records of one size in a body, at offset at, that may stand in any order.
type block struct{ at, size, n uint16 }

// limits are the bounds of TTLs, in seconds.
type limits struct{ min, max, maxDenial, failure uint32 }

// clamp says how long an answer of kind k is kept whose records say ttl.
func (l limits) clamp(k kind, ttl uint32) uint32 {
	switch k {
	case failure:
		return l.failure
	case denial:
		return min(max(ttl, min(l.min, l.maxDenial)), l.maxDenial)
	}
	return min(max(ttl, l.min), l.max)
}

// newEntry reads msg, whose question has been compared with q, and may change it.
func newEntry(msg []byte, q *question, l limits) (*entry, error) {
	e, ordered, err := readEntry(msg, q, l)
	if err == nil && !ordered {
		if again := aliasesFirst(msg); len(again) > q.end {
			if e2, _, err := readEntry(again, q, l); err == nil {
				return e2, nil
			}
		}
	}
	return e, err
}

// readEntry also reports whether aliases stand before what they lead to.
func readEntry(msg []byte, q *question, l limits) (e *entry, ordered bool, err error) {
	if len(msg) < q.end || len(msg) > maxMsg {
		return nil, false, errMalformed
	}
	e = &entry{key: string(q.bytes()), rcode: msg[3] & 0x0f, authentic: msg[3]&flagAD != 0}
	s := scan{parser: parser{msg: msg}, q: q, next: q.end, end: q.end, ordered: true, ttl: 1<<31 - 1, denialTTL: -1}
	for i, n := range []*uint16{&e.an, &e.ns, &e.ar} {
		if err := s.section(i, binary.BigEndian.Uint16(msg[6+2*i:]), n); err != nil {
			return nil, false, err
		}
	}
	if s.rcodeHigh != 0 {
		e.rcode = rcodeServFail // BADVERS and its like are between the upstream and us
	}
	e.body = bytes.Clone(msg[q.end:s.end])
	e.ttlAt = s.ttlAt
	e.rotate = s.rotation()
	e.kind, e.ttl = s.verdict(e.rcode)
	e.ttl = l.clamp(e.kind, e.ttl)
	if e.kind == denial && s.denialTTL < 0 {
		e.ttl = 0 // without an SOA it is not to be kept (RFC 2308, section 5)
	}
	return e, s.ordered, nil
}

// failed is an answer that says only rcode.
func failed(q *question, rcode byte, l limits) *entry {
	return &entry{key: string(q.bytes()), rcode: rcode, kind: failure, ttl: l.failure}
}

// cut is an answer that says only that there is more.
func cut(q *question, rcode byte) *entry {
	return &entry{key: string(q.bytes()), rcode: rcode, truncated: true}
}

// scan gathers what matters of a message's records.
type scan struct {
	parser
	q         *question
	next      int // where the next record begins
	end       int // of what is kept
	dropping  bool
	ttlAt     []uint16
	ttl       uint32
	denialTTL int64 // what the SOA says; -1: there is none
	rcodeHigh byte
	matched   bool // some answer has the type that was asked for
	ordered   bool
	run, best run
}

// run is a row of address records with the same owner.
type run struct {
	at, size, n int
	owner       int // length of the owner
	typ         uint16
}

// section reads n records and adds to kept those that stay: without OPT, and nothing behind it,
// whose pointers would lead elsewhere.
func (s *scan) section(i int, n uint16, kept *uint16) error {
	for range n {
		r, ok := s.record(s.next)
		if !ok {
			return errMalformed
		}
		s.next = r.end
		if r.typ == typeOPT {
			if i != 2 || s.msg[r.at] != 0 {
				return errMalformed
			}
			s.rcodeHigh = s.msg[r.fixed+4]
			s.dropping = true
		}
		if s.dropping {
			continue
		}
		*kept++
		s.end = r.end
		s.keep(i, r)
	}
	return nil
}

func (s *scan) keep(i int, r record) {
	s.ttlAt = append(s.ttlAt, uint16(r.fixed+4-s.q.end))
	s.ttl = min(s.ttl, r.ttl)
	s.foldOwner(r)
	if i == 0 {
		s.answer(r)
	}
	if i == 1 && r.typ == typeSOA {
		s.denialTTL = int64(min(r.ttl, binary.BigEndian.Uint32(s.msg[r.end-4:])))
	}
}

func (s *scan) answer(r record) {
	if t := s.q.qtype(); r.typ == t || t == typeANY {
		s.matched = true
	}
	if r.typ == typeCNAME && s.best.n > 0 {
		s.ordered = false
	}
	if r.typ != typeA && r.typ != typeAAAA {
		return
	}
	size, owner, last := r.end-r.at, r.fixed-r.at, s.run
	if last.typ == r.typ && last.size == size && last.at+last.n*size == r.at &&
		bytes.Equal(s.msg[last.at:last.at+owner], s.msg[r.at:r.fixed]) {
		s.run.n++
	} else {
		s.run = run{at: r.at, size: size, n: 1, owner: owner, typ: r.typ}
	}
	if s.run.n > s.best.n {
		s.best = s.run
	}
}

// foldOwner puts an owner that repeats the question into lower case: it may have ours, which is
// random.
func (s *scan) foldOwner(r record) {
	if s.msg[r.at] >= 0xc0 || s.msg[r.at] == 0 {
		return
	}
	var buf [maxName]byte
	if !bytes.Equal(s.expand(r.at, &buf), s.q.lower()) {
		return
	}
	for i := r.at; i < r.fixed && s.msg[i] < 0xc0; i++ {
		s.msg[i] = lowerByte(s.msg[i])
	}
}

// rotation is the longest row of addresses, if no pointer leads into what differs between them.
func (s *scan) rotation() block {
	b := s.best
	if b.n < 2 {
		return block{}
	}
	for _, t := range s.shared {
		if t < b.at || t >= b.at+b.n*b.size {
			continue
		}
		if (t-b.at)%b.size >= b.owner { // not in the owner, which they have in common
			return block{}
		}
	}
	return block{at: uint16(b.at - s.q.end), size: uint16(b.size), n: uint16(b.n)}
}

func (s *scan) verdict(rcode byte) (kind, uint32) {
	switch {
	case rcode == rcodeSuccess && s.matched:
		return success, s.ttl
	case rcode == rcodeSuccess, rcode == rcodeNXDomain:
		return denial, uint32(min(int64(s.ttl), max(s.denialTTL, 0)))
	}
	return failure, 0
}

// aliasesFirst writes msg anew with the aliases before everything else in the answer section.
func aliasesFirst(msg []byte) []byte {
	var m dns.Msg
	if m.Unpack(msg) != nil {
		return nil
	}
	var aliases, rest []dns.RR
	for _, rr := range m.Answer {
		if t := rr.Header().Rrtype; t == dns.TypeCNAME || t == dns.TypeDNAME {
			aliases = append(aliases, rr)
		} else {
			rest = append(rest, rr)
		}
	}
	m.Answer = append(aliases, rest...)
	m.Compress = true
	again, err := m.Pack()
	if err != nil {
		return nil
	}
	return again
}
