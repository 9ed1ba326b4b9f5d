package proxier

import (
	"testing"

	"github.com/weir-project/weir/dataplane"
)

// Of the flows that a plan tells for one frontend the last one counts.
func TestFlowsOfAFrontendThatChangesHands(t *testing.T) {
	for _, test := range []struct{ name, from, to string }{
		{"to a service before it by name", "z", "a"},
		{"to a service behind it by name", "a", "z"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t)
			r.world[name(test.from)] = claimant(test.from, 1)
			r.sync(name(test.from))
			delete(r.world, name(test.from))
			r.world[name(test.to)] = claimant(test.to, 1)
			last := map[dataplane.Frontend]Flow{}
			for _, f := range r.plan(name("a"), name("z")).flows(func(dataplane.Protocol) bool { return true }) {
				last[f.Frontend] = f
			}
			if len(last) != 2 { // an external IP and a node port
				t.Errorf("flows of %d frontends: %v", len(last), last)
			}
			for _, f := range last {
				if f.Gone || !f.Appeared || f.Service != name(test.to) {
					t.Errorf("%+v, want one of %s that has appeared", f, test.to)
				}
			}
		})
	}
}
