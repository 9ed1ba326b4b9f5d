package proxier

import (
	"github.com/weir-project/weir/dataplane"
	"github.com/weir-project/weir/endpoints"
)

// Flow is a frontend whose connections, those that have begun, may lead where they no longer
// should: every frontend of a service that changed, since an endpoint may have ceased to serve
// although no slot did.
type Flow struct {
	Frontend dataplane.Frontend
	Service  endpoints.Name
	Port     uint16 // of the service: which of its ports the frontend belongs to
	Appeared bool   // it was not served before
	Gone     bool   // it is no longer served
}

// flows returns the frontends that a plan touches, of the protocols that are wanted. One that passes
// from a service to another comes twice, first as gone and then as what it is now. It must be called
// before the plan is committed.
func (p *plan) flows(wanted func(dataplane.Protocol) bool) []Flow {
	if wanted == nil {
		return nil
	}
	var gone, flows []Flow
	for _, s := range p.steps {
		for c := range s.changes {
			f := Flow{Service: s.entry.name, Appeared: c.old == &none, Gone: c.new == &none}
			key, port := c.new, c.is
			if f.Gone {
				key, port = c.old, c.was
			}
			f.Frontend, f.Port = key.key, port.number
			switch {
			case !wanted(f.Frontend.Protocol):
			case f.Gone:
				gone = append(gone, f)
			default:
				flows = append(flows, f)
			}
		}
	}
	return append(gone, flows...)
}

// NoLocal counts service ports that have endpoints, but none on this node where a policy Local
// wants those only: traffic is dropped. By policy, then family.
type NoLocal struct {
	Internal, External struct{ IPv4, IPv6 int }
}

// totals are sums over all that the ruleset holds.
type totals struct {
	slots   int
	noLocal NoLocal
}

// add adds a service's part, by times. A nil state has none.
func (t *totals) add(s *state, by int) {
	if s == nil {
		return
	}
	for i := range s.ports {
		p := &s.ports[i]
		for k := range p.frontends {
			f := &p.frontends[k]
			t.slots += by * (p.table(f.endpoints).len() + p.table(f.localEndpoints).len())
		}
		if !p.any || p.local.len() > 0 {
			continue
		}
		internal, external := &t.noLocal.Internal.IPv4, &t.noLocal.External.IPv4
		if p.family == endpoints.IPv6 {
			internal, external = &t.noLocal.Internal.IPv6, &t.noLocal.External.IPv6
		}
		if s.object.InternalLocal {
			*internal += by
		}
		if s.object.ExternalLocal && s.object.External() {
			*external += by
		}
	}
}

// nobody is an Observer that does not look.
type nobody struct{}

func (nobody) Queued()                     {}
func (nobody) SyncStarted()                {}
func (nobody) Progress()                   {}
func (nobody) SyncDone(SyncReport)         {}
func (nobody) NodeChanged(*endpoints.Node) {}
