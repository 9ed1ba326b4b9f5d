package endpoints

import (
	"net/netip"
	"slices"
)

// Pod is what the API says of a pod with an address of its own, cut to how it looks names up. A value
// does not change once it has been handed to a PodSink.
type Pod struct {
	Name  Name
	Addrs []netip.Addr // status.podIPs
	// ClusterFirst says that its search list begins with the cluster's domains and the node's, as by
	// spec.dnsPolicy. Otherwise there is only what Searches says.
	ClusterFirst bool
	Searches     []string // spec.dnsConfig.searches
	// NDots is the option of spec.dnsConfig: how many dots make a resolver ask for a name as it is
	// before it tries the search list. -1: it is not said.
	NDots int
}

// Equal reports whether p and o say the same.
func (p *Pod) Equal(o *Pod) bool {
	if p == nil || o == nil {
		return p == o
	}
	return p == o || p.Name == o.Name && p.ClusterFirst == o.ClusterFirst && p.NDots == o.NDots &&
		slices.Equal(p.Addrs, o.Addrs) && slices.Equal(p.Searches, o.Searches)
}

// PodSink takes in what a source says of the pods of one node, in the way of a Sink. A pod that has
// no address of its own, or has ended, is not there.
type PodSink interface {
	ReplacePods([]*Pod)
	SetPod(*Pod)
	DeletePod(Name)
}
