package endpoints

import (
	"net/netip"

	"github.com/weir-project/weir/internal/addrset"
)

// scratch is the working memory of Resolve and LocalReady.
type scratch struct {
	slices []*Slice // of the service, by name
	index  addrset.Index
	list   []netip.AddrPort // distinct endpoints, in order
	from   []*Endpoint      // for each of list, whose conditions and place count
	addrs  []netip.AddrPort // distinct addresses, with port 0
}

// merge gathers the endpoints of one service port in one family: of every slice of the family, for
// each port in it with the service port's name and protocol. It reports whether they all have the
// same port number.
func (x *scratch) merge(port Port, family Family) (uniform bool) {
	serves := func(s *Slice, p SlicePort) bool {
		return s.Family == family && p.Name == port.Name && p.Protocol == port.Protocol && p.Port != 0
	}
	total := 0
	for _, s := range x.slices {
		for _, p := range s.Ports {
			if serves(s, p) {
				total += len(s.Endpoints)
			}
		}
	}
	x.start(total)
	uniform = true
	number := uint16(0)
	for _, s := range x.slices {
		for _, p := range s.Ports {
			if serves(s, p) {
				uniform = uniform && (number == 0 || number == p.Port)
				number = p.Port
				x.add(s.Endpoints, p.Port)
			}
		}
	}
	return uniform
}

// mergeAddrs gathers the endpoints of all slices of one family that have a port, whatever it is, with port 0.
func (x *scratch) mergeAddrs(family Family) {
	total := 0
	for _, s := range x.slices {
		if s.Family == family && len(s.Ports) > 0 {
			total += len(s.Endpoints)
		}
	}
	x.start(total)
	for _, s := range x.slices {
		if s.Family == family && len(s.Ports) > 0 {
			x.add(s.Endpoints, 0)
		}
	}
}

// start makes room for n endpoints.
func (x *scratch) start(n int) {
	x.index.Reset(n)
	if cap(x.list) < n {
		x.list, x.from = make([]netip.AddrPort, 0, n), make([]*Endpoint, 0, n)
	}
	x.list, x.from = x.list[:0], x.from[:0]
}

// add merges some endpoints with those gathered before.
func (x *scratch) add(endpoints []Endpoint, port uint16) {
	for i := range endpoints {
		ep := &endpoints[i]
		ap := netip.AddrPortFrom(ep.Addr, port)
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
