package endpoints

import (
	"cmp"
	"net/netip"
	"time"
)

// Family is an IP address family, by its version number.
type Family uint8

// The families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// Families lists every family, in the order in which work is done.
var Families = [...]Family{IPv4, IPv6}

// String returns the family as metrics and health reports spell it.
func (f Family) String() string {
	switch f {
	case IPv4:
		return "IPv4"
	case IPv6:
		return "IPv6"
	}
	return "unknown"
}

// FamilyOf returns the family of a valid address. An IPv4-mapped IPv6 address is IPv6: unmap it
// at the edge.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// Protocol is a transport protocol by its IANA number.
type Protocol uint8

// The protocols that a Service port may have.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

// String returns the name that the Kubernetes API uses.
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	}
	return "unknown"
}

// Name is the namespace and name of an API object.
type Name struct {
	Namespace, Name string
}

// String returns namespace/name, or the name alone of an object without a namespace.
func (n Name) String() string {
	if n.Namespace == "" {
		return n.Name
	}
	return n.Namespace + "/" + n.Name
}

// Compare orders names by namespace, then name.
func (n Name) Compare(o Name) int {
	return cmp.Or(cmp.Compare(n.Namespace, o.Namespace), cmp.Compare(n.Name, o.Name))
}

// Service is what the API says of one Service, cut to what traffic and names depend on. A value
// is immutable once it has been handed to an Engine.
type Service struct {
	Name    Name
	UID     string
	Created time.Time // metadata.creationTimestamp: of two claims to one frontend the older wins

	// Headless is clusterIP "None". Such a service, and one without any address (ExternalName),
	// has no frontends.
	Headless bool
	// NoProxy says that only DNS is to know the service: another proxy serves it, or it is of type
	// ExternalName. A source that does not read for DNS leaves such services out.
	NoProxy bool
	// ExternalName is the name that stands for a service of that type, as it was given; "" for
	// other types.
	ExternalName string

	ClusterIPs      []netip.Addr // spec.clusterIPs, at most one of each family
	ExternalIPs     []netip.Addr // spec.externalIPs
	LoadBalancerIPs []netip.Addr // status.loadBalancer.ingress[].ip whose ipMode is VIP or absent

	// SourceRanges restricts who may use LoadBalancerIPs, per family: a family for which there is
	// no range is open, as with kube-proxy, but if Restricted is set and there is no range at all,
	// because none made sense, both are closed. Not Restricted: everybody.
	Restricted   bool
	SourceRanges []netip.Prefix

	InternalLocal bool // internalTrafficPolicy: Local
	ExternalLocal bool // externalTrafficPolicy: Local

	Affinity time.Duration // sessionAffinity ClientIP: its timeout. 0: no affinity.

	HealthCheckPort uint16 // spec.healthCheckNodePort, 0: none

	Ports []Port
}

// External reports whether anything but the cluster IP leads to the service.
func (s *Service) External() bool {
	if len(s.ExternalIPs)+len(s.LoadBalancerIPs) > 0 {
		return true
	}
	for _, p := range s.Ports {
		if p.NodePort != 0 {
			return true
		}
	}
	return false
}

// Proxied reports whether traffic to the service is ours to lead to its endpoints.
func (s *Service) Proxied() bool { return s != nil && !s.Headless && !s.NoProxy }

// Port is one of a service's ports. The number of the endpoints' port is the slice's to say.
type Port struct {
	Name     string
	Protocol Protocol
	Port     uint16
	NodePort uint16 // 0: none
}

// Slice is what the API says of one EndpointSlice. A value is immutable once it has been handed
// to an Engine.
type Slice struct {
	Name    Name
	Service Name // by the label kubernetes.io/service-name
	Family  Family
	// Headless is the label service.kubernetes.io/headless: names come of the slice, traffic does not.
	Headless  bool
	Ports     []SlicePort
	Endpoints []Endpoint
	// Hostnames has the hostname of each of Endpoints, "" for one without. Nil if none has one, or
	// the source does not read for DNS.
	Hostnames []string
	// Triggered is when the change began that led to this version of the slice (annotation
	// endpoints.kubernetes.io/last-change-trigger-time). Zero: unknown.
	Triggered time.Time
}

// SlicePort is a port that every endpoint of a slice serves.
type SlicePort struct {
	Name     string
	Protocol Protocol
	Port     uint16
}

// Conditions are what an endpoint is fit for.
type Conditions uint8

// The conditions of an EndpointSlice's endpoint. What the API leaves out (nil) is filled in at the
// edge: ready and serving are then true, terminating is false.
const (
	Ready Conditions = 1 << iota
	Serving
	Terminating
)

// Endpoint is one address of a slice. It is small, because a node may hold hundreds of thousands.
type Endpoint struct {
	Addr netip.Addr
	// Where is shared by all endpoints with the same node, zone and hints; never nil.
	Where      *Where
	Conditions Conditions
}

// Where says where an endpoint is and for whom it is meant.
type Where struct {
	Node      string   // spec.nodeName, "" if unknown
	Zone      string   // "" if unknown
	ZoneHints []string // hints.forZones; nil: no hint
	NodeHints []string // hints.forNodes; nil: no hint
}

// Node is this machine's own Node object, or what stands for it without a cluster.
type Node struct {
	Name     string
	Zone     string       // label topology.kubernetes.io/zone
	Addrs    []netip.Addr // status.addresses of type InternalIP, then ExternalIP, in the API's order
	PodCIDRs []netip.Prefix
	// Deleting says that the node is on its way out: a deletion timestamp, or the cluster
	// autoscaler's taint ToBeDeletedByClusterAutoscaler.
	Deleting bool
}

// Sink takes in what a source (an API server, a directory of manifests) says. The calls of one
// source come from one goroutine per kind of object; a sink must stand concurrent calls.
// Replace* says that the list is all there is, and everything else of its kind is gone; a source
// has synced a kind when it has called its Replace* once.
type Sink interface {
	ReplaceServices([]*Service)
	SetService(*Service)
	DeleteService(Name)
	ReplaceSlices([]*Slice)
	SetSlice(*Slice)
	DeleteSlice(Name)
	// SetNode tells of this machine's node; nil: there is no such Node object.
	SetNode(*Node)
	// SetServiceCIDRs gives all ranges that cluster IPs are allocated from. Nil: unknown.
	SetServiceCIDRs([]netip.Prefix)
	// The names of all Namespaces, from sources that read for DNS.
	ReplaceNamespaces([]string)
	SetNamespace(string)
	DeleteNamespace(string)
}

// Problem is a fault of one API object's field, found where the object enters. The object, or the
// part of it that Field names, is set aside; nothing else suffers.
type Problem struct {
	Kind   string // "Service", "EndpointSlice", …
	Object Name
	UID    string // for events; "" if the object has none
	Field  string // a path as in the API documentation: spec.clusterIPs[0]; "" if it is the object
	Reason string
	// Source is where the object was read, file:line for a manifest; "" for the API server.
	Source string
}

// Error describes the problem in one line.
func (p Problem) Error() string {
	s := p.Kind + " " + p.Object.String() + ": "
	if p.Field != "" {
		s += p.Field + ": "
	}
	s += p.Reason
	if p.Source != "" {
		s = p.Source + ": " + s
	}
	return s
}

// Reporter is told of problems. It is called once for each problem and each version of an object.
type Reporter interface {
	Report(Problem)
}
