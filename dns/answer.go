package dns

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
)

// maxChain is how many aliases in a row are followed.
const maxChain = 8

// optLen is the length of an OPT record without options.
const optLen = 11

// pointer is a compressed name: where it stands in the message.
type pointer uint16

// question is where the name of the question stands.
const question pointer = headerLen

// reply writes one answer. It is reused from query to query, and so allocates nothing.
type reply struct {
	zone   *Zone
	query  query
	random rand.PCG
	noRA   bool             // there is nobody to ask for other names
	cache  CachingForwarder // nil: the Forwarder has no cache
	cached []byte           // working memory

	clients *Clients          // nil: nobody's search list is known
	client  func() netip.Addr // who asks; called if clients is set
	walk    walking
	walked  bool   // the answer is the end of a walk
	asked   []byte // working memory

	b          []byte
	base       int // where the message begins in b
	most       int // how long b may become, OPT left aside
	tcp        bool
	flags      uint16
	rcode      uint16
	an, ns, ar uint16

	target name // of an alias, or a name of a walk
}

// outcome is what is to be done with a query.
type outcome uint8

const (
	// answered: the answer has been written.
	answered outcome = iota
	// cached: the answer to what is not in the zone has been written.
	cached
	// silent: there is nothing to say.
	silent
	// forward: the name is not in the zone.
	forward
	// chase: what has been written leads to reply.target outside of the zone, which is to be asked
	// for; the answer goes behind. Or a walk has come to that name.
	chase
)

// respond appends the answer to a message to b, unless it has to come from somebody else, and
// returns b. What is appended is no longer than what the client takes.
func (r *reply) respond(b, msg []byte, tcp bool) ([]byte, outcome) {
	r.walk.list, r.walked = nil, false
	verdict, rcode := r.query.parse(msg)
	if verdict == verdictDrop {
		return b, silent
	}
	r.begin(b, tcp)
	if verdict == verdictReject {
		r.rcode = rcode
		return r.finish(), answered
	}
	found := r.zone.find(&r.query.name)
	if found.kind == outside {
		if r.noRA {
			r.rcode = rcodeRefused
			return r.finish(), answered
		}
		return r.known(b)
	}
	r.flags |= flagAA
	if found.kind == missing && r.walks(&found) {
		if o := r.goOn(); o != chase {
			return r.finish(), o
		}
		return r.b, chase
	}
	if !r.emit(&found, &r.query.name, question, 0) {
		return r.b, chase
	}
	return r.finish(), answered
}

// known appends the answer to what is not in the zone, if it is in the cache.
func (r *reply) known(b []byte) ([]byte, outcome) {
	if r.cache == nil {
		return b, forward
	}
	var ok bool
	if r.cached, ok = r.cache.AppendCached(r.cached[:0], r.query.msg); !ok || len(r.cached) < headerLen {
		return b, forward
	}
	r.rcode = uint16(r.cached[3] & 0xf)
	if len(r.cached) > r.query.limit(r.tcp) {
		return r.cut(b, r.cached), cached
	}
	return append(b, r.cached...), cached
}

// begin writes the header, and the question if it could be read.
func (r *reply) begin(b []byte, tcp bool) {
	q := &r.query
	r.b, r.base, r.tcp = b, len(b), tcp
	r.most = r.base + q.limit(tcp)
	if q.edns {
		r.most -= optLen
	}
	r.flags = flagQR | q.flags&(opcodeMask|flagRD|flagCD)
	if !r.noRA {
		r.flags |= flagRA
	}
	r.rcode, r.an, r.ns, r.ar = rcodeNoError, 0, 0, 0
	r.b = append(r.b, q.msg[:headerLen]...)
	if q.end > 0 {
		r.b = append(r.b, q.msg[headerLen:q.end]...)
	}
}

// finish fills in the header, adds OPT, and returns the buffer.
func (r *reply) finish() []byte {
	if r.query.edns {
		r.ar++
		size := uint16(maxUDP)
		do := byte(0)
		if r.query.do {
			do = 0x80
		}
		r.b = append(r.b, 0, 0, typeOPT, byte(size>>8), byte(size&0xff), byte(r.rcode>>4), 0, do, 0, 0, 0)
	}
	h := r.b[r.base:]
	binary.BigEndian.PutUint16(h[2:], r.flags|r.rcode&0xf)
	questions := uint16(0)
	if r.query.end > 0 {
		questions = 1
	}
	binary.BigEndian.PutUint16(h[4:], questions)
	binary.BigEndian.PutUint16(h[6:], r.an)
	binary.BigEndian.PutUint16(h[8:], r.ns)
	binary.BigEndian.PutUint16(h[10:], r.ar)
	return r.b
}

// emit writes what a node has for the question, whose name, or what it is an alias of, is n and
// stands at owner. It returns false if an alias leads out of the zone.
func (r *reply) emit(found *node, n *name, owner pointer, depth int) bool {
	z, qtype := r.zone, r.query.qtype
	before := r.an
	switch {
	case found.kind == missing:
		r.rcode = rcodeNXDomain
	case qtype == typeANY && found.kind != empty:
		r.hinfo(owner)
	case found.svc != nil && found.svc.alias != nil && found.kind == serviceName:
		return r.follow(found.svc.alias, owner, depth)
	case found.kind == serviceName:
		r.service(found.svc, owner)
	case found.kind == hostNode && qtype == typeA:
		addresses(r, owner, typeA, single4(found.host.v4), appendA)
	case found.kind == hostNode && qtype == typeAAAA:
		addresses(r, owner, typeAAAA, single6(found.host.v6), appendAAAA)
	case found.kind == portNode && qtype == typeSRV:
		r.srv(found.svc, owner, &found.port.targets)
	case found.kind == podName:
		r.address(found.addr, owner)
	case found.kind == addressName && qtype == typePTR:
		r.ptr(found.back, owner)
	case found.kind == apex && qtype == typeSOA:
		r.soa(owner, z.ttl)
		r.an++
	case found.kind == apex && qtype == typeNS:
		r.nameServer(owner)
	case found.kind == versionName && qtype == typeTXT:
		if r.record(owner, typeTXT, versionTTL, 1+len(version)) {
			r.b = append(append(r.b, byte(len(version))), version...)
			r.an++
		}
	case found.kind == serverName:
		for _, list := range [...][]netip.Addr{z.ns4, z.ns6} {
			for _, a := range list {
				r.address(a, owner)
			}
		}
	}
	if r.an == before && r.flags&flagTC == 0 {
		// The name of the zone stands in the name asked for. An address is a zone of its own.
		apex := owner
		if found.kind != addressName {
			apex += pointer(n.length - len(n.from(found.apex)))
		}
		r.soa(apex, z.negative)
		r.ns++
	}
	return true
}

// room reports whether so many bytes more go into the answer. If not, a client on UDP is told.
func (r *reply) room(n int) bool {
	if len(r.b)+n <= r.most {
		return true
	}
	if !r.tcp {
		r.flags |= flagTC
	}
	return false
}

// rrLen is the length of a record with a compressed owner, RDATA left aside.
const rrLen = 12

// record writes a record up to its RDATA, if all of it goes into the answer.
func (r *reply) record(owner pointer, rrtype uint16, ttl uint32, rdlen int) bool {
	if !r.room(rrLen + rdlen) {
		return false
	}
	r.b = appendRecord(r.b, owner, rrtype, ttl, rdlen)
	return true
}

func appendRecord(b []byte, owner pointer, rrtype uint16, ttl uint32, rdlen int) []byte {
	return append(b, 0xc0|byte(owner>>8), byte(owner), byte(rrtype>>8), byte(rrtype), 0, classIN,
		byte(ttl>>24), byte(ttl>>16), byte(ttl>>8), byte(ttl), byte(rdlen>>8), byte(rdlen))
}

// soa writes the zone's SOA record; who calls counts it.
func (r *reply) soa(owner pointer, ttl uint32) {
	z := r.zone
	if !r.record(owner, typeSOA, ttl, len(z.soa)) {
		return
	}
	r.b = append(r.b, z.soa...)
	binary.BigEndian.PutUint32(r.b[len(r.b)-20:], z.serial.Load())
}

// hinfo answers a question for everything (RFC 8482, section 4.2).
func (r *reply) hinfo(owner pointer) {
	const text = "\x07RFC8482\x00"
	if r.record(owner, typeHINFO, r.zone.ttl, len(text)) {
		r.b = append(r.b, text...)
		r.an++
	}
}

// service writes what there is at a service's own name.
func (r *reply) service(svc *answers, owner pointer) {
	switch r.query.qtype {
	case typeA:
		addresses(r, owner, typeA, svc.v4, appendA)
	case typeAAAA:
		addresses(r, owner, typeAAAA, svc.v6, appendAAAA)
	case typeSRV:
		r.srv(svc, owner, &svc.all)
	}
}

func appendA(b []byte, a [4]byte) []byte     { return append(b, a[:]...) }
func appendAAAA(b []byte, a [16]byte) []byte { return append(b, a[:]...) }

func single4(list [][4]byte) vec[[4]byte]   { return vec[[4]byte]{n: len(list), flat: list} }
func single6(list [][16]byte) vec[[16]byte] { return vec[[16]byte]{n: len(list), flat: list} }

// addresses writes addresses in random order; of more than go into the answer, any that stand next
// to each other.
func addresses[A [4]byte | [16]byte](r *reply, owner pointer, rrtype uint16, list vec[A], write func([]byte, A) []byte) {
	if list.n == 0 {
		return
	}
	var a A
	size := rrLen + len(a)
	n := min(list.n, max(0, r.most-len(r.b))/size)
	if n < list.n {
		r.room(list.n * size)
	}
	from := 0
	if list.n > 1 {
		from = r.below(list.n)
	}
	start := len(r.b)
	for range n {
		r.b = write(appendRecord(r.b, owner, rrtype, r.zone.ttl, len(a)), list.at(from))
		if from++; from == list.n {
			from = 0
		}
	}
	r.an += uint16(n)
	r.shuffle(r.b[start:], size)
}

// shuffle puts records of one size in random order. They differ in their RDATA only.
func (r *reply) shuffle(records []byte, size int) {
	for i := len(records)/size - 1; i > 0; i-- {
		j := r.below(i + 1)
		a, b := records[i*size+rrLen:(i+1)*size], records[j*size+rrLen:(j+1)*size]
		for k := range a {
			a[k], b[k] = b[k], a[k]
		}
	}
}

// below returns a random number below n.
func (r *reply) below(n int) int {
	return int(uint64(uint32(r.random.Uint64())) * uint64(n) >> 32)
}

// address writes one address, if it is of the type that was asked for.
func (r *reply) address(a netip.Addr, owner pointer) {
	switch {
	case a.Is4() && r.query.qtype == typeA:
		b := a.As4()
		if r.record(owner, typeA, r.zone.ttl, 4) {
			r.b = append(r.b, b[:]...)
			r.an++
		}
	case a.Is6() && r.query.qtype == typeAAAA:
		b := a.As16()
		if r.record(owner, typeAAAA, r.zone.ttl, 16) {
			r.b = append(r.b, b[:]...)
			r.an++
		}
	}
}

// srv writes some of a service's targets, from anywhere on. Those of a service with a cluster IP bring
// its addresses along.
func (r *reply) srv(svc *answers, owner pointer, targets *vec[target]) {
	if targets.n == 0 {
		return
	}
	weight := uint16(max(1, 100/targets.n))
	from := 0
	if targets.n > 1 {
		from = r.below(targets.n)
	}
	for range targets.n {
		t := targets.at(from)
		if from++; from == targets.n {
			from = 0
		}
		if !r.target1(svc, owner, t, weight) {
			return
		}
	}
	wire := pointer(len(r.b) - r.base - len(svc.wire)) // the service's name
	if svc.bare || r.an == 0 {
		return
	}
	for i := range svc.v4.n {
		r.extra(wire, typeA, svc.v4.at(i))
	}
	for i := range svc.v6.n {
		r.extra6(wire, svc.v6.at(i))
	}
}

// target1 writes one SRV record.
func (r *reply) target1(svc *answers, owner pointer, t target, weight uint16) bool {
	rdlen := 6 + len(svc.wire)
	if t.host != "" {
		rdlen += 1 + len(t.host)
		if rdlen-6 > maxName {
			return true // there can be no such name
		}
	}
	if !r.record(owner, typeSRV, r.zone.ttl, rdlen) {
		return false
	}
	r.b = append(r.b, 0, 0, byte(weight>>8), byte(weight), byte(t.port>>8), byte(t.port))
	if t.host != "" {
		r.b = appendLabel(r.b, t.host)
	}
	r.b = append(r.b, svc.wire...)
	r.an++
	return true
}

// extra adds an address that was not asked for, if there is room.
func (r *reply) extra(owner pointer, rrtype uint16, a [4]byte) {
	if len(r.b)+rrLen+4 <= r.most {
		r.b = append(appendRecord(r.b, owner, rrtype, r.zone.ttl, 4), a[:]...)
		r.ar++
	}
}

func (r *reply) extra6(owner pointer, a [16]byte) {
	if len(r.b)+rrLen+16 <= r.most {
		r.b = append(appendRecord(r.b, owner, typeAAAA, r.zone.ttl, 16), a[:]...)
		r.ar++
	}
}

// ptr writes whom an address belongs to.
func (r *reply) ptr(back *reverse, owner pointer) {
	if len(back.services) > 0 {
		wire := back.services[0].wire
		if r.record(owner, typePTR, r.zone.ttl, len(wire)) {
			r.b = append(r.b, wire...)
			r.an++
		}
		return
	}
	for _, h := range back.hosts {
		rdlen := 1 + len(h.label) + len(h.service.wire)
		if rdlen > maxName {
			continue
		}
		if !r.record(owner, typePTR, r.zone.ttl, rdlen) {
			return
		}
		r.b = append(appendLabel(r.b, h.label), h.service.wire...)
		r.an++
	}
}

// nameServer writes who serves the zone, and at which addresses.
func (r *reply) nameServer(owner pointer) {
	z := r.zone
	if !r.record(owner, typeNS, z.ttl, len(z.nsName)) {
		return
	}
	at := pointer(len(r.b) - r.base)
	r.b = append(r.b, z.nsName...)
	r.an++
	for _, a := range z.ns4 {
		r.extra(at, typeA, a.As4())
	}
	for _, a := range z.ns6 {
		r.extra6(at, a.As16())
	}
}

// alias writes what a name is an alias of, and returns where that stands; false if it does not fit.
func (r *reply) alias(of []byte, owner pointer) (pointer, bool) {
	if !r.record(owner, typeCNAME, r.zone.ttl, len(of)) {
		return 0, false
	}
	at := pointer(len(r.b) - r.base)
	r.b = append(r.b, of...)
	r.an++
	return at, true
}

// follow writes an alias and what it stands for. It returns false if that is outside of the zone.
func (r *reply) follow(alias []byte, owner pointer, depth int) bool {
	if depth == maxChain {
		r.b, r.an, r.rcode = r.b[:r.base+r.query.end], 0, rcodeServFail
		return true
	}
	at, ok := r.alias(alias, owner)
	if !ok || r.query.qtype == typeCNAME {
		return true
	}
	r.target.read(alias)
	found := r.zone.find(&r.target)
	if found.kind == outside {
		return r.noRA
	}
	return r.emit(&found, &r.target, at, depth+1)
}
