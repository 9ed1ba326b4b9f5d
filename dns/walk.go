package dns

import "encoding/binary"

// A resolver with a search list asks for a name with each domain of the list behind it, and goes on
// to the next when there is no such name:
//
//	www.example.org.default.svc.cluster.local	for which a pod comes to us, in vain
//	www.example.org.svc.cluster.local
//	www.example.org.cluster.local
//	www.example.org.corp.example			the node's own domains
//	www.example.org
//
// If we know the list of who asks for the first one, we look for the others ourselves, and say that
// the first is an alias of the one that there is. A name that exists ends the walk whatever was asked
// for: no data there is no data for all of them, so that A and AAAA lead to the same host. Resolvers
// that go on after no data (glibc's, Go's) then walk by themselves, and those that do not (musl's)
// would not have either. If the walk leads nowhere, or somebody fails on it, the first name simply
// does not exist.

// walking is a search that is under way for a query.
type walking struct {
	list *searchList // nil: there is none
	own  int         // how many labels stand before the first domain of the list
	next int         // the place in list.rest of the domain that comes next; behind the last, the name itself
}

// walks reports whether the query, for a name of the zone that does not exist, is the first of a walk,
// and begins it.
func (r *reply) walks(found *node) bool {
	q := &r.query
	if r.clients == nil || found.apex < 3 || string(q.name.label(found.apex-1)) != "svc" {
		return false // there is no label before namespace.svc
	}
	switch q.qtype {
	case typeCNAME, typeSOA, typeNS, typeDS, typeANY:
		return false // that is a question about the name, not a search for something
	}
	list := r.clients.of(r.client())
	if list == nil {
		return false
	}
	own := q.name.count - list.labels
	if own < 1 || string(q.name.from(own)) != string(list.first) {
		return false
	}
	r.walk = walking{list: list, own: own}
	return true
}

// advance makes r.target the next name of the walk, and returns false behind the last one. What is
// too long for a name is left out.
func (r *reply) advance() bool {
	w := &r.walk
	own := r.query.name.wire[:r.query.name.labels[w.own]]
	for w.next < len(w.list.rest) {
		domain := w.list.rest[w.next]
		w.next++
		if r.target.join(own, domain) {
			return true
		}
	}
	if w.next > len(w.list.rest) || w.own > w.list.ndots { // one dot less than labels
		return false
	}
	w.next++
	return r.target.join(own, root)
}

var root = []byte{0}

// join makes n what stands before a domain, with the domain behind it; false if that is too long.
func (n *name) join(own, domain []byte) bool {
	var b [maxName]byte
	if len(own)+len(domain) > len(b) {
		return false
	}
	return n.read(b[:copy(b[copy(b[:], own):], domain)+len(own)]) > 0
}

// goOn looks for the first name of the walk that exists, and writes the answer. If somebody has to be
// asked for it, the outcome is to chase: r.target is the name, and what comes is for arrive.
func (r *reply) goOn() outcome {
	for r.advance() {
		found := r.zone.find(&r.target)
		switch {
		case found.kind == missing:
		case found.kind != outside:
			return r.lead(&found)
		case r.noRA:
			return r.nowhere()
		case r.cache == nil:
			return chase
		default:
			r.asked = r.appendQuestion(r.asked[:0])
			var known bool
			if r.cached, known = r.cache.AppendCached(r.cached[:0], r.asked); !known {
				return chase
			}
			if o, over := r.arrive(r.cached); over {
				return o
			}
		}
	}
	return r.nowhere()
}

// lead ends the walk at a name of the zone.
func (r *reply) lead(found *node) outcome {
	r.walk.list, r.walked = nil, true
	at, ok := r.alias(r.target.wire[:r.target.length], question)
	if ok && !r.emit(found, &r.target, at, 1) {
		return chase
	}
	return answered
}

// arrive takes in what somebody else says of r.target. It returns false if the walk goes on.
func (r *reply) arrive(response []byte) (outcome, bool) {
	if len(response) < headerLen {
		return r.nowhere(), true
	}
	switch binary.BigEndian.Uint16(response[2:]) & 0xf {
	case rcodeNoError:
	case rcodeNXDomain:
		return cached, false
	default:
		return r.nowhere(), true
	}
	start, flags := len(r.b), r.flags
	_, ok := r.alias(r.target.wire[:r.target.length], question)
	if ok && !r.merge(response) {
		r.b, r.flags, r.an, r.ns = r.b[:start], flags, 0, 0
		return r.nowhere(), true
	}
	r.walk.list, r.walked = nil, true
	return cached, true
}

// nowhere ends the walk: the name that was asked for does not exist.
func (r *reply) nowhere() outcome {
	r.walk.list = nil
	found := node{kind: missing, apex: r.query.name.count - r.zone.labels}
	r.emit(&found, &r.query.name, question, 0)
	return answered
}
