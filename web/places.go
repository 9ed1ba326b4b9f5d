package web

import (
	"cmp"
	"slices"

	"github.com/weir-project/weir/inspect/api"
)

// maxPlaces is how many nodes of a port are listed; those with the most endpoints.
const maxPlaces = 100

// places counts endpoints by node, in the order of zones and nodes.
func places(list []api.Endpoint) []Place {
	type key struct{ zone, node string }
	index := map[key]int{}
	out := []Place{}
	for i := range list {
		e := &list[i]
		k := key{e.Zone, e.Node}
		at, ok := index[k]
		if !ok {
			at = len(out)
			index[k] = at
			out = append(out, Place{Zone: e.Zone, Node: e.Node, Here: e.OnNode})
		}
		out[at].Total++
		if e.Ready {
			out[at].Ready++
		}
	}
	slices.SortFunc(out, func(a, b Place) int { return cmp.Compare(b.Total, a.Total) })
	out = out[:min(len(out), maxPlaces)]
	slices.SortFunc(out, func(a, b Place) int {
		return cmp.Or(cmp.Compare(a.Zone, b.Zone), cmp.Compare(a.Node, b.Node))
	})
	return out
}
