package endpoints

import (
	"net/netip"

	"github.com/weir-project/weir/internal/addrset"
)

// scratch is the working memory of Resolve and LocalReady.
type scratch struct {
	slices []*Slice // of the service, by name
	parts  []part   // what they have for one service port
	index  addrset.Index
	bits   []uint64
	list   []netip.AddrPort // distinct endpoints, in order
	from   []*Endpoint      // for each of list, whose conditions and place count
	addrs  []netip.AddrPort // distinct addresses, with port 0
}

// part is what one slice has for one service port.
type part struct {
	endpoints []Endpoint
	port      uint16
}

// take takes those of a service's slices that traffic depends on.
func (x *scratch) take(slices []*Slice) {
	for _, s := range slices {
		if !s.Headless {
			x.slices = append(x.slices, s)
		}
	}
}

// merge gathers the endpoints of one service port in one family: of every slice of the family, for
// each port in it with the service port's name and protocol.
func (x *scratch) merge(port Port, family Family) {
	x.parts = x.parts[:0]
	for _, s := range x.slices {
		if s.Family != family {
			continue
		}
		for _, p := range s.Ports {
			if p.Name == port.Name && p.Protocol == port.Protocol && p.Port != 0 {
				x.parts = append(x.parts, part{s.Endpoints, p.Port})
			}
		}
	}
	x.mergeParts()
}

// mergeAddrs gathers the endpoints of all slices of one family that have a port, whatever it is,
// with port 0.
func (x *scratch) mergeAddrs(family Family) {
	x.parts = x.parts[:0]
	for _, s := range x.slices {
		if s.Family == family && len(s.Ports) > 0 {
			x.parts = append(x.parts, part{s.Endpoints, 0})
		}
	}
	x.mergeParts()
}

// uniform reports whether all parts have one port number.
func (x *scratch) uniform() bool {
	for _, p := range x.parts {
		if p.port != x.parts[0].port {
			return false
		}
	}
	return true
}

// forget lets go of what the scratch points to.
func (x *scratch) forget() {
	clear(x.slices)
	clear(x.parts)
	clear(x.from)
}

func (x *scratch) mergeParts() {
	total := 0
	for _, p := range x.parts {
		total += len(p.endpoints)
	}
	if cap(x.list) < total {
		x.list, x.from = make([]netip.AddrPort, 0, total), make([]*Endpoint, 0, total)
	}
	x.list, x.from = x.list[:0], x.from[:0]
	if x.uniform() && x.mergeDense(total) {
		return
	}
	x.list, x.from = x.list[:0], x.from[:0]
	x.index.Reset(total)
	for _, p := range x.parts {
		x.add(p)
	}
}

// add merges some endpoints with those gathered before.
func (x *scratch) add(p part) {
	for i := range p.endpoints {
		ep := &p.endpoints[i]
		ap := netip.AddrPortFrom(ep.Addr, p.port)
		at, added := x.index.Insert(x.list, ap, int32(len(x.list)))
		switch {
		case added:
			x.list = append(x.list, ap)
			x.from = append(x.from, ep)
		case ep.Conditions.rank() > x.from[at].Conditions.rank():
			x.from[at] = ep
		}
	}
}

// rank orders what several slices say of one endpoint. A pod that goes may have left its address
// to another one, so the one that stays counts; then the better one.
func (c Conditions) rank() int {
	rank := 0
	if c&Terminating == 0 {
		rank += 4
	}
	if c&Ready != 0 {
		rank += 2
	}
	if c&Serving != 0 {
		rank++
	}
	return rank
}
