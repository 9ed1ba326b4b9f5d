package endpoints

import (
	"net/netip"
	"slices"
)

// topology is how hints narrow the choice among ready endpoints.
type topology uint8

const (
	anywhere topology = iota
	sameZone          // endpoints hinted for this node's zone
	sameNode          // endpoints hinted for this node
)

// chooser makes the choice among the endpoints of one service port. What decides is the same as in
// kube-proxy: conditions, node names and hints, never the service's trafficDistribution, which the
// EndpointSlice controller has turned into hints.
type chooser struct {
	node, zone string

	ready, readyLocal bool // there is some
	leaving           bool // there is one that is serving and terminating
	topology          topology
}

// choose fills in rp with those of the merged endpoints that traffic may reach.
func (x *scratch) choose(rp *ResolvedPort, svc *Service, node, zone string) {
	cluster, local := svc.usesCluster(), svc.usesLocal()
	c := chooser{node: node, zone: zone}
	c.survey(x.from, local)
	rp.Any = c.ready || c.leaving
	for i, ep := range x.from {
		inCluster := cluster && c.forCluster(ep)
		here := (local || inCluster) && ep.on(node)
		inLocal := local && here && c.forLocal(ep)
		if inCluster {
			rp.Cluster = append(rp.Cluster, x.list[i])
		}
		if inLocal {
			rp.Local = append(rp.Local, x.list[i])
		}
		if here && (inCluster || inLocal) {
			rp.OnNode = append(rp.OnNode, x.list[i].Addr())
		}
	}
	if !x.uniform() {
		rp.OnNode = x.distinct(rp.OnNode)
	}
}

// survey finds out what there is to choose from; on this node only if local.
func (c *chooser) survey(from []*Endpoint, local bool) {
	unhintedNode, unhintedZone := false, false // some ready endpoint has no such hint
	forNode, forZone := false, false           // some ready endpoint is for us
	for _, ep := range from {
		if ep.Conditions&Ready == 0 {
			c.leaving = c.leaving || ep.Conditions.leaving()
			continue
		}
		c.ready = true
		c.readyLocal = c.readyLocal || local && ep.on(c.node)
		unhintedNode = unhintedNode || len(ep.Where.NodeHints) == 0
		unhintedZone = unhintedZone || len(ep.Where.ZoneHints) == 0
		forNode = forNode || !unhintedNode && c.hintedNode(ep)
		forZone = forZone || !unhintedZone && c.hintedZone(ep)
	}
	switch {
	case forNode && !unhintedNode:
		c.topology = sameNode
	case forZone && !unhintedZone:
		c.topology = sameZone
	}
}

// forCluster reports whether traffic under the policy Cluster may reach an endpoint. If any is
// ready, some ready one passes: hints that would leave none are not obeyed.
func (c *chooser) forCluster(ep *Endpoint) bool {
	if !c.ready {
		return ep.Conditions.leaving()
	}
	if ep.Conditions&Ready == 0 {
		return false
	}
	switch c.topology {
	case sameNode:
		return c.hintedNode(ep)
	case sameZone:
		return c.hintedZone(ep)
	}
	return true
}

// forLocal reports whether traffic under the policy Local may reach an endpoint, if that is on this
// node. Hints have no say.
func (c *chooser) forLocal(ep *Endpoint) bool {
	if c.readyLocal {
		return ep.Conditions&Ready != 0
	}
	return ep.Conditions.leaving()
}

func (c *chooser) hintedNode(ep *Endpoint) bool {
	return c.node != "" && slices.Contains(ep.Where.NodeHints, c.node)
}

func (c *chooser) hintedZone(ep *Endpoint) bool {
	return c.zone != "" && slices.Contains(ep.Where.ZoneHints, c.zone)
}

// leaving reports whether an endpoint still serves although it terminates: the last resort.
func (c Conditions) leaving() bool { return c&(Serving|Terminating) == Serving|Terminating }

// distinct drops from addrs what stands in it twice: endpoints that differ in the port only.
func (x *scratch) distinct(addrs []netip.Addr) []netip.Addr {
	x.index.Reset(len(addrs))
	x.addrs = x.addrs[:0]
	kept := addrs[:0]
	for _, a := range addrs {
		ap := netip.AddrPortFrom(a, 0)
		if _, ok := x.index.Insert(x.addrs, ap, int32(len(x.addrs))); ok {
			x.addrs = append(x.addrs, ap)
			kept = append(kept, a)
		}
	}
	return kept
}
