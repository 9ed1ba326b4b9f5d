package endpoints

import "net/netip"

// Explained is a service port in one family with every endpoint that any slice has for it, and why
// those that are chosen are: the same choice as Resolve makes.
type Explained struct {
	Port
	Family   Family
	Topology Topology
	// Any says that some endpoint is ready, or serves while it terminates.
	Any bool
	// Terminating says that no endpoint is ready, so that those are chosen which still serve while they
	// terminate: under the policy Cluster, and under Local.
	Terminating, TerminatingLocal bool
	Endpoints                     []ExplainedEndpoint // in the order of Resolve
}

// Topology is how hints narrow the choice under the policy Cluster.
type Topology string

// The kinds of narrowing.
const (
	Anywhere Topology = "Anywhere"
	SameZone Topology = "SameZone"
	SameNode Topology = "SameNode"
)

// ExplainedEndpoint is an endpoint, distinct by address and port.
type ExplainedEndpoint struct {
	Addr       netip.AddrPort
	Conditions Conditions
	Where      *Where // shared, not to be changed
	OnNode     bool   // it is on this node
	// Cluster and Local say that traffic under the policy may reach it.
	Cluster, Local bool
}

// Explain returns a service, nil if there is none of that name, and what becomes of the endpoints of
// each of its ports in each family. A service that is not Proxied has no ports here. It works on
// memory of its own, so that it does not hold up Resolve.
func (e *Engine) Explain(name Name) (*Service, []Explained) {
	x := &scratch{}
	e.mu.Lock()
	entry, zone := e.services[name], zoneOf(e.node)
	var svc *Service
	if entry != nil {
		svc = entry.service
		x.take(entry.slices)
	}
	e.mu.Unlock()
	if svc == nil {
		return nil, nil
	}
	var list []Explained
	for _, port := range svc.Ports {
		for _, family := range Families {
			if svc.Serves(family) {
				x.merge(port, family)
				list = append(list, x.explain(port, family, svc, e.nodeName, zone))
			}
		}
	}
	return svc, list
}

// explain tells of the merged endpoints.
func (x *scratch) explain(port Port, family Family, svc *Service, node, zone string) Explained {
	c := chooser{node: node, zone: zone}
	c.survey(x.from, true)
	out := Explained{
		Port: port, Family: family, Any: c.ready || c.leaving,
		Topology:    [...]Topology{anywhere: Anywhere, sameZone: SameZone, sameNode: SameNode}[c.topology],
		Terminating: !c.ready && c.leaving,
	}
	for i, ep := range x.from {
		here := ep.on(node)
		local := svc.usesLocal() && here && c.forLocal(ep)
		out.TerminatingLocal = out.TerminatingLocal || local && !c.readyLocal
		out.Endpoints = append(out.Endpoints, ExplainedEndpoint{
			Addr: x.list[i], Conditions: ep.Conditions, Where: ep.Where, OnNode: here,
			Cluster: svc.usesCluster() && c.forCluster(ep), Local: local,
		})
	}
	return out
}
