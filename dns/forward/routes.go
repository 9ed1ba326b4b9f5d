package forward

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
)

// routes say who is asked for which name. They are not changed once made, except for what members
// know of loops.
type routes struct {
	groups  map[string]*group // by domain, in lower-cased wire form; that of "\x00" is always there
	servers map[netip.AddrPort]*upstream
	nonces  map[string]*member
}

// group are the upstreams of a domain.
type group struct {
	domain  string
	addrs   []netip.AddrPort
	members []*member
}

// member is an upstream in its group.
type member struct {
	*upstream
	domain string
	nonce  string // of the question by which a loop is noticed
	loops  atomic.Bool
	seen   atomic.Uint32 // how often that question came back to us
}

// find returns the group of the longest domain that holds name, in lower-cased wire form.
func (r *routes) find(name []byte) *group {
	for off := 0; ; off += int(name[off]) + 1 {
		if g := r.groups[string(name[off:])]; g != nil {
			return g
		}
	}
}

// order returns the members in the order in which they are to be asked: begun at random, those that
// are down last. Those that lead back to us are left out.
func (g *group) order() (list []*member, allDown bool) {
	list = make([]*member, 0, len(g.members))
	var down []*member
	n := len(g.members)
	for i, first := 0, randomBelow(n); i < n; i++ {
		m := g.members[(first+i)%n]
		switch {
		case m.loops.Load():
		case m.isDown():
			down = append(down, m)
		default:
			list = append(list, m)
		}
	}
	return append(list, down...), len(list) == 0
}

func randomBelow(n int) int {
	if n < 2 {
		return 0
	}
	return mathrand.IntN(n)
}

// newRoutes makes routes that know of the servers in before what was known.
func newRoutes(before *routes, byDomain map[string][]netip.AddrPort) *routes {
	r := &routes{groups: map[string]*group{}, servers: map[netip.AddrPort]*upstream{}, nonces: map[string]*member{}}
	for domain, addrs := range byDomain {
		r.add(before, domain, addrs)
	}
	if r.groups["\x00"] == nil {
		r.add(before, "\x00", nil)
	}
	return r
}

func (r *routes) add(before *routes, domain string, addrs []netip.AddrPort) {
	g := &group{domain: domain}
	r.groups[domain] = g
	for _, a := range addrs {
		if slices.Contains(g.addrs, a) {
			continue
		}
		g.addrs = append(g.addrs, a)
		m := before.member(domain, a)
		if m == nil {
			m = &member{upstream: r.server(before, a), domain: domain, nonce: newNonce()}
		}
		r.servers[a] = m.upstream
		r.nonces[m.nonce] = m
		g.members = append(g.members, m)
	}
}

func (r *routes) server(before *routes, a netip.AddrPort) *upstream {
	if u := r.servers[a]; u != nil {
		return u
	}
	if before != nil && before.servers[a] != nil {
		return before.servers[a]
	}
	return &upstream{addr: a}
}

func (r *routes) member(domain string, a netip.AddrPort) *member {
	if r == nil || r.groups[domain] == nil {
		return nil
	}
	for _, m := range r.groups[domain].members {
		if m.addr == a {
			return m
		}
	}
	return nil
}

// moved reports whether name, in lower-cased wire form, has other upstreams in r than in before.
func (r *routes) moved(before *routes, name []byte) bool {
	return !r.find(name).same(before.find(name))
}

// same reports whether g and h are the same upstreams.
func (g *group) same(h *group) bool { return g == h || slices.Equal(g.addrs, h.addrs) }

// noncePrefix begins the label by which a loop is noticed.
const noncePrefix = "weir-loop-"

const nonceLen = len(noncePrefix) + 16

func newNonce() string {
	var b [8]byte
	rand.Read(b[:])
	return noncePrefix + hex.EncodeToString(b[:])
}

// nonceOf returns the first label of name if it may be a nonce.
func nonceOf(name []byte) []byte {
	if name[0] != byte(nonceLen) || !bytes.HasPrefix(name[1:], []byte(noncePrefix)) {
		return nil
	}
	return name[1 : 1+nonceLen]
}

// isOurs reports whether we listen at a ourselves. Of the loopback addresses only the first is
// taken for ours if we listen everywhere: others, as 127.0.0.53, may have a server of their own.
func isOurs(a netip.AddrPort, listen []netip.AddrPort) bool {
	for _, l := range listen {
		if l.Port() != a.Port() {
			continue
		}
		if l.Addr().Unmap() == a.Addr() || l.Addr().IsUnspecified() && isLocal(a.Addr()) {
			return true
		}
	}
	return false
}

func isLocal(a netip.Addr) bool {
	addrs, _ := net.InterfaceAddrs()
	for _, i := range addrs {
		if p, ok := i.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(p.IP); ok && ip.Unmap() == a.WithZone("") {
				return true
			}
		}
	}
	return false
}
