package kube

import (
	"fmt"
	"math"
	"time"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/weir-project/weir/endpoints"
)

// SliceFrom returns what an EndpointSlice says, and which of its fields are set aside. The result
// is nil if the slice is not for us: of a headless service by the label
// service.kubernetes.io/headless, of no service, or with an addressType that is not a family.
func SliceFrom(s *discoveryv1.EndpointSlice) (*endpoints.Slice, []endpoints.Problem) {
	if headless(s) {
		return nil, nil
	}
	return sliceFrom(s, false)
}

// DNSSliceFrom is SliceFrom for a reader that serves names too: slices of headless services are for
// it, marked as such, and endpoints have their hostnames.
func DNSSliceFrom(s *discoveryv1.EndpointSlice) (*endpoints.Slice, []endpoints.Problem) {
	return sliceFrom(s, true)
}

func headless(s *discoveryv1.EndpointSlice) bool {
	_, is := s.Labels[labelHeadless]
	return is
}

func sliceFrom(s *discoveryv1.EndpointSlice, hostnames bool) (*endpoints.Slice, []endpoints.Problem) {
	service := s.Labels[discoveryv1.LabelServiceName]
	if service == "" {
		return nil, nil
	}
	r := sliceReader{EndpointSlice: s, hostnames: hostnames, found: findings{kind: "EndpointSlice", meta: &s.ObjectMeta}}
	r.out = &endpoints.Slice{Name: nameOf(s), Service: endpoints.Name{Namespace: s.Namespace, Name: service}, Headless: headless(s)}
	switch s.AddressType {
	case discoveryv1.AddressTypeIPv4:
		r.out.Family = endpoints.IPv4
	case discoveryv1.AddressTypeIPv6:
		r.out.Family = endpoints.IPv6
	default:
		r.found.add(fmt.Sprintf("%q is neither IPv4 nor IPv6", s.AddressType), "addressType")
		return nil, r.found.problems()
	}
	if t, err := time.Parse(time.RFC3339Nano, s.Annotations[v1.EndpointsLastChangeTriggerTime]); err == nil {
		r.out.Triggered = t
	}
	r.ports()
	r.endpoints()
	return r.out, r.found.problems()
}

// sliceReader fills out from an EndpointSlice.
type sliceReader struct {
	*discoveryv1.EndpointSlice
	hostnames bool // are wanted
	out       *endpoints.Slice
	found     findings
}

func (r *sliceReader) ports() {
	for i, p := range r.Ports {
		port := endpoints.SlicePort{Protocol: endpoints.TCP}
		if p.Name != nil {
			port.Name = *p.Name
		}
		if p.Protocol != nil {
			var ok bool
			if port.Protocol, ok = protocolOf(*p.Protocol); !ok {
				r.found.add(fmt.Sprintf("%q is not known", *p.Protocol), "ports[%d].protocol", i)
				continue
			}
		}
		switch {
		case p.Port == nil:
			r.found.add("all ports (no number) cannot be served", "ports[%d].port", i)
		case *p.Port <= 0 || *p.Port > math.MaxUint16:
			r.found.add(fmt.Sprintf("%d is not a port number", *p.Port), "ports[%d].port", i)
		default:
			port.Port = uint16(*p.Port)
			r.out.Ports = append(r.out.Ports, port)
		}
	}
}

// endpoints takes the first address of each endpoint: consumers of the API may not do anything else
// with the others.
func (r *sliceReader) endpoints() {
	if len(r.Endpoints) == 0 {
		return
	}
	r.out.Endpoints = make([]endpoints.Endpoint, 0, len(r.Endpoints))
	for i := range r.Endpoints {
		ep := &r.Endpoints[i]
		if len(ep.Addresses) == 0 {
			r.found.add("there is none", "endpoints[%d].addresses", i)
			continue
		}
		a, reason := parseUsable(ep.Addresses[0])
		if reason == "" && endpoints.FamilyOf(a) != r.out.Family {
			reason = fmt.Sprintf("%v is not %v", a, r.out.Family)
		}
		if reason != "" {
			r.found.add(reason, "endpoints[%d].addresses[0]", i)
			continue
		}
		r.hostname(ep)
		r.out.Endpoints = append(r.out.Endpoints, endpoints.Endpoint{Addr: a, Where: whereOf(ep), Conditions: conditionsOf(ep.Conditions)})
	}
}

// hostname takes the hostname of the endpoint that comes next.
func (r *sliceReader) hostname(ep *discoveryv1.Endpoint) {
	name := deref(ep.Hostname)
	if !r.hostnames || name == "" && r.out.Hostnames == nil {
		return
	}
	for len(r.out.Hostnames) < len(r.out.Endpoints) {
		r.out.Hostnames = append(r.out.Hostnames, "")
	}
	r.out.Hostnames = append(r.out.Hostnames, name)
}

// conditionsOf fills in what is left out, as the API documentation says: ready and serving unless
// it is said otherwise, and not terminating.
func conditionsOf(c discoveryv1.EndpointConditions) endpoints.Conditions {
	var conditions endpoints.Conditions
	if c.Ready == nil || *c.Ready {
		conditions |= endpoints.Ready
	}
	if c.Serving == nil || *c.Serving {
		conditions |= endpoints.Serving
	}
	if c.Terminating != nil && *c.Terminating {
		conditions |= endpoints.Terminating
	}
	return conditions
}
