package endpoints

import (
	"net/netip"
	"slices"
)

// Serves reports whether a service takes part in a family: whether it has a cluster IP of it. Of a
// service without any cluster IP (a manifest may describe one) its other addresses decide, and
// node ports alone are in both families. A service that is not Proxied takes part in none.
func (s *Service) Serves(f Family) bool {
	of := func(a netip.Addr) bool { return FamilyOf(a) == f }
	switch {
	case !s.Proxied():
		return false
	case len(s.ClusterIPs) > 0:
		return slices.ContainsFunc(s.ClusterIPs, of)
	case len(s.ExternalIPs)+len(s.LoadBalancerIPs) > 0:
		return slices.ContainsFunc(s.ExternalIPs, of) || slices.ContainsFunc(s.LoadBalancerIPs, of)
	}
	return s.External()
}

// usesCluster reports whether any traffic of the service falls under the policy Cluster: also what
// a pod or the node itself sends to an external frontend does, whatever its policy.
func (s *Service) usesCluster() bool { return !s.InternalLocal || s.External() }

// usesLocal reports whether any traffic of the service falls under the policy Local.
func (s *Service) usesLocal() bool { return s.InternalLocal || s.ExternalLocal && s.External() }

// Resolve fills r with a service as it is now, and the endpoints of each of its ports in each
// family that it serves: port by port, IPv4 first. A service that is not Proxied is none. It reuses
// the memory of r, so r must not be read meanwhile.
func (e *Engine) Resolve(name Name, r *Resolved) {
	e.resolving.Lock()
	defer e.resolving.Unlock()
	x := &e.scratch
	svc, zone := e.view(name)
	r.Service, r.Ports = svc, r.Ports[:0]
	if svc == nil {
		return
	}
	for _, port := range svc.Ports {
		for _, family := range Families {
			if svc.Serves(family) {
				rp := appendPort(r, port, family)
				x.merge(port, family)
				x.choose(rp, svc, e.nodeName, zone)
			}
		}
	}
	x.forget()
}

// view returns the service, if it is Proxied, and this node's zone, and leaves the service's slices in the scratch.
func (e *Engine) view(name Name) (*Service, string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.scratch.slices = e.scratch.slices[:0]
	en := e.services[name]
	if en == nil || !en.service.Proxied() {
		return nil, ""
	}
	e.scratch.take(en.slices)
	return en.service, zoneOf(e.node)
}

// appendPort adds a port to r, with the memory of what stood there before.
func appendPort(r *Resolved, port Port, family Family) *ResolvedPort {
	n := len(r.Ports)
	r.Ports = slices.Grow(r.Ports, 1)[:n+1]
	rp := &r.Ports[n]
	*rp = ResolvedPort{Port: port, Family: family, Cluster: rp.Cluster[:0], Local: rp.Local[:0], OnNode: rp.OnNode[:0]}
	return rp
}

// LocalReady counts the ready endpoints of a service on this node by distinct address, as health
// checks of node ports report it. A pod of two families has two addresses and is one endpoint: the
// family with more counts.
func (e *Engine) LocalReady(name Name) int {
	e.resolving.Lock()
	defer e.resolving.Unlock()
	x := &e.scratch
	if svc, _ := e.view(name); svc == nil {
		return 0
	}
	most := 0
	for _, family := range Families {
		x.mergeAddrs(family)
		n := 0
		for _, ep := range x.from {
			if ep.Conditions&Ready != 0 && ep.on(e.nodeName) {
				n++
			}
		}
		most = max(most, n)
	}
	x.forget()
	return most
}

// Serving returns the endpoints of one service port in one family to which flows that have begun may
// go on: those that are ready or serving, whatever policy and topology choose for new ones. They are
// distinct and the caller's.
func (e *Engine) Serving(name Name, port uint16, protocol Protocol, family Family) []netip.AddrPort {
	e.resolving.Lock()
	defer e.resolving.Unlock()
	x := &e.scratch
	svc, _ := e.view(name)
	if svc == nil {
		return nil
	}
	var serving []netip.AddrPort
	for _, p := range svc.Ports {
		if p.Port != port || p.Protocol != protocol {
			continue
		}
		x.merge(p, family)
		for i, ep := range x.from {
			if ep.Conditions&(Ready|Serving) != 0 {
				serving = append(serving, x.list[i])
			}
		}
		break
	}
	x.forget()
	return serving
}

// on reports whether an endpoint is on a node. Nothing is on a node without a name.
func (e *Endpoint) on(node string) bool { return e.Where.Node == node && node != "" }
