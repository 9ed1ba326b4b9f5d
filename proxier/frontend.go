package proxier

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/weir-project/weir/dataplane"
	"github.com/weir-project/weir/endpoints"
)

// kind is what makes an address lead to a service.
type kind uint8

const (
	clusterIP kind = iota
	externalIP
	loadBalancerIP
	nodePort
)

// list names one of a port's lists of endpoints.
type list uint8

const (
	noList list = iota
	clusterList
	localList
)

// frontend is all that the maps hold for one frontend, except the slots: those are in the port's
// tables.
type frontend struct {
	key  dataplane.Frontend
	kind kind
	lost bool // an older service has it: nothing of ours is in the kernel

	services, localServices   dataplane.Verdict // 0: no element
	endpoints, localEndpoints list              // whose slots are in the map of that name

	snatAlways, snatNode bool
	restricted           bool
	sources              []netip.Prefix // AllowedSources
	affinity             time.Duration  // 0: none, or nothing to remember
}

// balances reports whether a verdict sends connections to endpoints.
func balances(v dataplane.Verdict) bool {
	return v != 0 && v != dataplane.Refuse && v != dataplane.Drop
}

// lose leaves nothing but the claim.
func (f *frontend) lose() { *f = frontend{key: f.key, kind: f.kind, lost: true} }

// surroundings are what frontends depend on besides their service.
type surroundings struct {
	node     []netip.Addr // all of the node's own addresses; sorted
	nodePort []netip.Addr // those on which node ports are served; sorted

	noExternalIPs bool // Config.NoExternalIPs
}

// builder makes the frontends of one service port in one family.
type builder struct {
	service *endpoints.Service
	port    *endpoints.ResolvedPort
	around  *surroundings
	counts  counts
	taken   func(dataplane.Frontend) bool // by an earlier port of the same service

	out   []frontend
	twice []dataplane.Frontend // what an earlier port of the service has already
}

// counts are the numbers of slots that a port's tables will have.
type counts struct{ cluster, local int }

// build returns the frontends in a fixed order: cluster IP, external, load-balancer IPs, node
// ports.
func (b *builder) build() []frontend {
	s, p := b.service, b.port
	for _, a := range s.ClusterIPs {
		b.claim(a, p.Port.Port, b.internal())
	}
	outside := b.external()
	for _, a := range s.ExternalIPs {
		if b.around.noExternalIPs {
			break
		}
		outside.kind = externalIP
		b.claim(a, p.Port.Port, outside)
	}
	for _, a := range s.LoadBalancerIPs {
		b.claim(a, p.Port.Port, b.restrict(outside, a))
	}
	if p.NodePort != 0 {
		for _, a := range b.around.nodePort {
			outside.kind = nodePort
			b.claim(a, p.NodePort, outside)
		}
	}
	return b.out
}

// claim adds a frontend, once. An address that is both an external and a load-balancer IP is
// restricted as the latter is; a cluster IP stays what it is.
func (b *builder) claim(addr netip.Addr, port uint16, f frontend) {
	if !addr.IsValid() || endpoints.FamilyOf(addr) != b.port.Family || b.service.Headless {
		return
	}
	f.key = dataplane.Frontend{Addr: addr, Port: port, Protocol: dataplane.Protocol(b.port.Protocol)}
	i := slices.IndexFunc(b.out, func(o frontend) bool { return o.key == f.key })
	switch {
	case i >= 0 && f.restricted && b.out[i].kind != clusterIP:
		b.out[i].restricted, b.out[i].sources = true, f.sources
	case i >= 0:
	case b.taken(f.key):
		b.twice = append(b.twice, f.key)
	default:
		b.out = append(b.out, f)
	}
}

// internal returns what a cluster IP does.
func (b *builder) internal() frontend {
	f := frontend{kind: clusterIP}
	n, of := b.counts.cluster, clusterList
	if b.service.InternalLocal {
		n, of = b.counts.local, localList
	}
	switch {
	case n > 0:
		f.services, f.endpoints = dataplane.Balance(n), of
		f.affinity = b.service.Affinity
	case b.service.InternalLocal && b.any():
		f.services = dataplane.Drop
	default:
		f.services = dataplane.Refuse
	}
	return f
}

// external returns what the other addresses do. Which connections are masqueraded depends on the
// policy alone, so that endpoints which come and go change slots and verdicts and nothing else.
func (b *builder) external() frontend {
	f := frontend{services: dataplane.Refuse}
	f.snatNode = b.service.ExternalLocal
	f.snatAlways = !f.snatNode
	n, of := b.counts.cluster, clusterList
	if n == 0 && b.service.ExternalLocal {
		// Local endpoints and none at all: topology never narrows down to nothing. If it does,
		// the local ones are usable, and refusing pods what outsiders may reach helps nobody.
		n, of = b.counts.local, localList
	}
	if n > 0 {
		f.services, f.endpoints = dataplane.Balance(n), of
	}
	if b.service.ExternalLocal {
		switch {
		case b.counts.local > 0:
			f.localServices, f.localEndpoints = dataplane.BalanceLocal(b.counts.local), localList
		case b.any():
			f.localServices = dataplane.Drop
		}
	}
	if balances(f.services) || balances(f.localServices) {
		f.affinity = b.service.Affinity
	}
	return f
}

// any reports whether there is an endpoint anywhere.
func (b *builder) any() bool { return b.port.Any || b.counts.cluster+b.counts.local > 0 }

// restrict returns f as the frontend of a load-balancer IP. A range that holds every address
// restricts nobody, and neither do ranges of the other family alone, as with kube-proxy. Where a
// range includes this node, the load-balancer IP itself is allowed too: that is the source when
// the node dials an address that it holds for a balancer.
func (b *builder) restrict(f frontend, vip netip.Addr) frontend {
	f.kind = loadBalancerIP
	ranges := ofFamily(b.service.SourceRanges, b.port.Family)
	otherFamilyOnly := len(ranges) == 0 && len(b.service.SourceRanges) > 0
	everybody := otherFamilyOnly || slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Bits() == 0 })
	if !b.service.Restricted || everybody || !vip.IsValid() {
		return f
	}
	if contains(ranges, b.around.node) {
		ranges = append(ranges, netip.PrefixFrom(vip, vip.BitLen()))
	}
	f.restricted, f.sources = true, distinct(ranges)
	return f
}

// field returns the path of the claim in the API object.
func (f *frontend) field(s *endpoints.Service, port *port) string {
	indexed := func(format string, addrs []netip.Addr) string {
		return fmt.Sprintf(format, slices.Index(addrs, f.key.Addr))
	}
	switch f.kind {
	case clusterIP:
		return indexed("spec.clusterIPs[%d]", s.ClusterIPs)
	case externalIP:
		return indexed("spec.externalIPs[%d]", s.ExternalIPs)
	case loadBalancerIP:
		return "status.loadBalancer.ingress" // its index counts entries that are not kept
	}
	i := slices.IndexFunc(s.Ports, func(p endpoints.Port) bool {
		return p.Port == port.number && p.Protocol == port.protocol && p.NodePort == f.key.Port
	})
	return fmt.Sprintf("spec.ports[%d].nodePort", i)
}
