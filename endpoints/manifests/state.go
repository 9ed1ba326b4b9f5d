package manifests

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/weir-project/weir/endpoints"
	"github.com/weir-project/weir/endpoints/kube"
)

// state is what all files say together.
type state struct {
	services map[endpoints.Name]*endpoints.Service
	slices   map[endpoints.Name]*endpoints.Slice
	// namespaces are those that a manifest describes, and those that have something in them.
	namespaces map[string]struct{}
	pods       map[endpoints.Name]*endpoints.Pod
	node       *endpoints.Node
	noNode     bool // node is a stand-in
	cidrs      []netip.Prefix
	// conflicts are the problems of objects that are there more than once.
	conflicts map[endpoints.Problem]struct{}
}

// join returns what all files say together: of the same object the first one.
func (s *Source) join() state {
	st := state{
		services:   map[endpoints.Name]*endpoints.Service{},
		slices:     map[endpoints.Name]*endpoints.Slice{},
		namespaces: map[string]struct{}{},
		pods:       map[endpoints.Name]*endpoints.Pod{},
		conflicts:  map[endpoints.Problem]struct{}{},
	}
	first := map[id]*object{}
	var cidrs [][]netip.Prefix
	for _, f := range s.files {
		for i := range f.content.objects {
			o := &f.content.objects[i]
			if winner := first[o.id]; winner != nil {
				st.conflicts[endpoints.Problem{
					Kind: o.id.kind, Object: o.id.name, UID: o.uid, Field: "metadata.name", Source: o.source,
					Reason: "is also in " + winner.source + ", which counts",
				}] = struct{}{}
				continue
			}
			first[o.id] = o
			switch {
			case o.id.kind == "Namespace":
				st.namespaces[o.id.name.Name] = struct{}{}
			case o.id.name.Namespace != "":
				st.namespaces[o.id.name.Namespace] = struct{}{}
			}
			switch {
			case o.service != nil:
				st.services[o.id.name] = o.service
			case o.slice != nil:
				st.slices[o.id.name] = o.slice
			case o.pod != nil:
				st.pods[o.id.name] = o.pod
			case o.node != nil && o.node.Name == s.NodeName:
				st.node = o.node
			}
			cidrs = append(cidrs, o.cidrs)
		}
	}
	st.cidrs = kube.JoinServiceCIDRs(cidrs...)
	s.fillIn(&st)
	return st
}

// fillIn takes from the configuration what no object says.
func (s *Source) fillIn(st *state) {
	if st.node == nil {
		st.node = s.standIn()
		st.noNode = true
	}
	if len(st.cidrs) == 0 {
		st.cidrs = s.ServiceCIDRs
	}
}

// standIn returns what stands for the Node object if there is none.
func (s *Source) standIn() *endpoints.Node {
	n := &endpoints.Node{Name: s.NodeName}
	if s.Primary != nil {
		n.Addrs = s.Primary()
	}
	return n
}

// moved reports whether the node's addresses have changed that no object says.
func (s *Source) moved() bool { return s.applied.noNode && !s.applied.node.Equal(s.standIn()) }

// apply tells the sink what is different from last time; everything the first time.
func (s *Source) apply() {
	before, now := s.applied, s.join()
	s.applied = now
	for p := range now.conflicts {
		if _, known := before.conflicts[p]; !known {
			s.Reporter.Report(p)
		}
	}
	if !s.started {
		s.started = true
		if s.DNS {
			s.Sink.ReplaceNamespaces(slices.Sorted(maps.Keys(now.namespaces)))
		}
		if s.Pods != nil {
			s.Pods.ReplacePods(byName(now.pods))
		}
		s.Sink.ReplaceSlices(byName(now.slices))
		s.Sink.ReplaceServices(byName(now.services))
		s.Sink.SetNode(now.node)
		s.Sink.SetServiceCIDRs(now.cidrs)
		return
	}
	if s.DNS && !maps.Equal(before.namespaces, now.namespaces) {
		s.Sink.ReplaceNamespaces(slices.Sorted(maps.Keys(now.namespaces)))
	}
	// A service never is without its endpoints on the way: they come before it and go after it.
	set(before.slices, now.slices, (*endpoints.Slice).Equal, s.Sink.SetSlice)
	set(before.services, now.services, (*endpoints.Service).Equal, s.Sink.SetService)
	remove(before.services, now.services, s.Sink.DeleteService)
	remove(before.slices, now.slices, s.Sink.DeleteSlice)
	if s.Pods != nil {
		remove(before.pods, now.pods, s.Pods.DeletePod)
		set(before.pods, now.pods, (*endpoints.Pod).Equal, s.Pods.SetPod)
	}
	if !now.node.Equal(before.node) {
		s.Sink.SetNode(now.node)
	}
	if !slices.Equal(now.cidrs, before.cidrs) {
		s.Sink.SetServiceCIDRs(now.cidrs)
	}
}

// set calls for everything in now that is new or different, in the order of names.
func set[V any](before, now map[endpoints.Name]V, equal func(a, b V) bool, call func(V)) {
	for _, name := range names(now) {
		old, known := before[name]
		if !known || !equal(old, now[name]) {
			call(now[name])
		}
	}
}

// remove calls for everything in before that is not in now, in the order of names.
func remove[V any](before, now map[endpoints.Name]V, call func(endpoints.Name)) {
	for _, name := range names(before) {
		if _, ok := now[name]; !ok {
			call(name)
		}
	}
}

func byName[V any](m map[endpoints.Name]V) []V {
	list := make([]V, 0, len(m))
	for _, name := range names(m) {
		list = append(list, m[name])
	}
	return list
}

func names[V any](m map[endpoints.Name]V) []endpoints.Name {
	return slices.SortedFunc(maps.Keys(m), endpoints.Name.Compare)
}
