package endpoints

import "net/netip"

// Resolved is a service with the endpoints that policy, topology and readiness choose for each of
// its ports. The slices may be reused by the next Engine.Resolve into the same value.
type Resolved struct {
	Service *Service // nil: there is no such service
	Ports   []ResolvedPort
}

// ResolvedPort is one port of a service in one family, with its endpoints.
type ResolvedPort struct {
	Port
	Family Family
	// Cluster is what traffic under the policy Cluster may reach: ready endpoints, narrowed by
	// topology hints; serving and terminating ones if none is ready. Without duplicates, in the
	// order of slice name and position. Empty also if no traffic of the service can come here.
	Cluster []netip.AddrPort
	// Local is what traffic under the policy Local may reach: the same among endpoints on this
	// node, whatever the hints. Empty if neither of the service's policies is Local.
	Local []netip.AddrPort
	// OnNode holds the addresses of those endpoints in Cluster or Local that are on this node.
	OnNode []netip.Addr
	// Any says that some usable endpoint exists anywhere: traffic under Local without a local
	// endpoint is then dropped, not refused.
	Any bool
}
