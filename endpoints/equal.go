package endpoints

import "slices"

// Equal reports whether s and o say the same.
func (s *Service) Equal(o *Service) bool {
	if s == nil || o == nil {
		return s == o
	}
	return s == o || s.Name == o.Name && s.UID == o.UID && s.Created.Equal(o.Created) &&
		s.Headless == o.Headless && s.NoProxy == o.NoProxy && s.ExternalName == o.ExternalName &&
		s.Restricted == o.Restricted &&
		s.InternalLocal == o.InternalLocal && s.ExternalLocal == o.ExternalLocal &&
		s.Affinity == o.Affinity && s.HealthCheckPort == o.HealthCheckPort &&
		slices.Equal(s.ClusterIPs, o.ClusterIPs) &&
		slices.Equal(s.ExternalIPs, o.ExternalIPs) &&
		slices.Equal(s.LoadBalancerIPs, o.LoadBalancerIPs) &&
		slices.Equal(s.SourceRanges, o.SourceRanges) &&
		slices.Equal(s.Ports, o.Ports)
}

// Equal reports whether s and o say the same. When a change was triggered is not part of it.
func (s *Slice) Equal(o *Slice) bool {
	if s == nil || o == nil {
		return s == o
	}
	return s == o || s.Name == o.Name && s.Service == o.Service && s.Family == o.Family && s.Headless == o.Headless &&
		slices.Equal(s.Ports, o.Ports) && slices.EqualFunc(s.Endpoints, o.Endpoints, Endpoint.Equal) &&
		slices.Equal(s.Hostnames, o.Hostnames)
}

// Equal reports whether e and o say the same.
func (e Endpoint) Equal(o Endpoint) bool {
	return e.Addr == o.Addr && e.Conditions == o.Conditions && e.Where.Equal(o.Where)
}

// Equal reports whether w and o say the same.
func (w *Where) Equal(o *Where) bool {
	if w == nil || o == nil {
		return w == o
	}
	return w == o || w.Node == o.Node && w.Zone == o.Zone &&
		slices.Equal(w.ZoneHints, o.ZoneHints) && slices.Equal(w.NodeHints, o.NodeHints)
}

// Equal reports whether n and o say the same.
func (n *Node) Equal(o *Node) bool {
	if n == nil || o == nil {
		return n == o
	}
	return n == o || n.Name == o.Name && n.Zone == o.Zone && n.Deleting == o.Deleting &&
		slices.Equal(n.Addrs, o.Addrs) && slices.Equal(n.PodCIDRs, o.PodCIDRs)
}
