package kube

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/weir-project/weir/endpoints"
)

// The labels by which an object says that it is not for us.
const (
	labelProxyName = "service.kubernetes.io/service-proxy-name"
	labelHeadless  = v1.IsHeadlessService
)

// defaultAffinity is what the API fills in for sessionAffinityConfig.clientIP.timeoutSeconds, and
// maxAffinity the most that it allows.
const (
	defaultAffinity = time.Duration(v1.DefaultClientIPServiceAffinitySeconds) * time.Second
	maxAffinity     = 24 * time.Hour
)

// ServiceFrom returns what a Service says, and which of its fields are set aside. The result is nil
// if the service is not for us: of type ExternalName, or of another proxy by the label
// service.kubernetes.io/service-proxy-name.
func ServiceFrom(s *v1.Service) (*endpoints.Service, []endpoints.Problem) {
	if foreign(s) || s.Spec.Type == v1.ServiceTypeExternalName {
		return nil, nil
	}
	return serviceFrom(s)
}

// DNSServiceFrom is ServiceFrom for a reader that serves names too: what ServiceFrom leaves out comes
// with NoProxy set, cut to what a name depends on.
func DNSServiceFrom(s *v1.Service) (*endpoints.Service, []endpoints.Problem) {
	if s.Spec.Type == v1.ServiceTypeExternalName {
		return &endpoints.Service{
			Name: nameOf(s), UID: string(s.UID), Created: s.CreationTimestamp.UTC(),
			NoProxy: true, ExternalName: s.Spec.ExternalName,
		}, nil
	}
	return serviceFrom(s)
}

// foreign reports whether a service is for another proxy.
func foreign(s *v1.Service) bool {
	_, is := s.Labels[labelProxyName]
	return is
}

func serviceFrom(s *v1.Service) (*endpoints.Service, []endpoints.Problem) {
	r := serviceReader{Service: s, found: findings{kind: "Service", meta: &s.ObjectMeta}}
	r.out = &endpoints.Service{
		Name:          nameOf(s),
		UID:           string(s.UID),
		Created:       s.CreationTimestamp.UTC(),
		InternalLocal: s.Spec.InternalTrafficPolicy != nil && *s.Spec.InternalTrafficPolicy == v1.ServiceInternalTrafficPolicyLocal,
		ExternalLocal: s.Spec.ExternalTrafficPolicy == v1.ServiceExternalTrafficPolicyLocal,
	}
	r.out.NoProxy = foreign(s)
	r.clusterIPs()
	r.ports()
	if r.out.Proxied() {
		r.externalIPs()
		r.affinity()
		if s.Spec.Type == v1.ServiceTypeLoadBalancer {
			r.loadBalancerIPs()
			r.sourceRanges()
			r.healthCheckPort()
		}
	}
	return r.out, r.found.problems()
}

// serviceReader fills out from a Service, field by field.
type serviceReader struct {
	*v1.Service
	out   *endpoints.Service
	found findings
}

func (r *serviceReader) clusterIPs() {
	given := r.Spec.ClusterIPs
	if len(given) == 0 && r.Spec.ClusterIP != "" {
		given = []string{r.Spec.ClusterIP}
	}
	if slices.Contains(given, v1.ClusterIPNone) || r.Spec.ClusterIP == v1.ClusterIPNone {
		r.out.Headless = true
		return
	}
	for i, s := range given {
		a, reason := parseUsable(s)
		if reason == "" && slices.ContainsFunc(r.out.ClusterIPs, sameFamily(a)) {
			reason = fmt.Sprintf("%v is the second of its family", a)
		}
		if reason != "" {
			r.found.add(reason, "spec.clusterIPs[%d]", i)
			continue
		}
		r.out.ClusterIPs = append(r.out.ClusterIPs, a)
	}
}

func sameFamily(a netip.Addr) func(netip.Addr) bool {
	return func(b netip.Addr) bool { return endpoints.FamilyOf(a) == endpoints.FamilyOf(b) }
}

func (r *serviceReader) externalIPs() {
	for i, s := range r.Spec.ExternalIPs {
		a, reason := parseUsable(s)
		if reason != "" {
			r.found.add(reason, "spec.externalIPs[%d]", i)
		} else if !slices.Contains(r.out.ExternalIPs, a) {
			r.out.ExternalIPs = append(r.out.ExternalIPs, a)
		}
	}
}

// loadBalancerIPs takes the addresses that the load balancer leaves in the packets. The API never
// judged them, and link-local ones are in use.
func (r *serviceReader) loadBalancerIPs() {
	for i, ingress := range r.Status.LoadBalancer.Ingress {
		if ingress.IP == "" || ingress.IPMode != nil && *ingress.IPMode != v1.LoadBalancerIPModeVIP {
			continue
		}
		a, reason := parseAddr(ingress.IP)
		if reason == "" && !a.IsLinkLocalUnicast() {
			reason = unusable(a)
		}
		if reason != "" {
			r.found.add(reason, "status.loadBalancer.ingress[%d].ip", i)
		} else if !slices.Contains(r.out.LoadBalancerIPs, a) {
			r.out.LoadBalancerIPs = append(r.out.LoadBalancerIPs, a)
		}
	}
}

// sourceRanges fails closed: a range that cannot be read admits nobody, and if none can be read
// nobody comes in.
func (r *serviceReader) sourceRanges() {
	if len(r.Spec.LoadBalancerSourceRanges) == 0 {
		return
	}
	r.out.Restricted = true
	var ranges []netip.Prefix
	for i, s := range r.Spec.LoadBalancerSourceRanges {
		p, reason := parsePadded(s)
		if reason != "" {
			r.found.add(reason, "spec.loadBalancerSourceRanges[%d]", i)
		} else if !slices.Contains(ranges, p) {
			ranges = append(ranges, p)
		}
	}
	everybody := [...]netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
	for _, all := range everybody {
		if slices.Contains(ranges, all) {
			ranges = slices.DeleteFunc(ranges, func(p netip.Prefix) bool { return p != all && p.Addr().Is4() == all.Addr().Is4() })
		}
	}
	if slices.Contains(ranges, everybody[0]) && slices.Contains(ranges, everybody[1]) {
		r.out.Restricted, ranges = false, nil
	}
	r.out.SourceRanges = ranges
}

func (r *serviceReader) healthCheckPort() {
	port := r.Spec.HealthCheckNodePort
	if !r.out.ExternalLocal || port == 0 {
		return
	}
	if port < 0 || port > math.MaxUint16 {
		r.found.add(fmt.Sprintf("%d is not a port number", port), "spec.healthCheckNodePort")
		return
	}
	r.out.HealthCheckPort = uint16(port)
}

func (r *serviceReader) affinity() {
	switch r.Spec.SessionAffinity {
	case "", v1.ServiceAffinityNone:
		return
	case v1.ServiceAffinityClientIP:
	default:
		r.found.add(fmt.Sprintf("%q is not known", r.Spec.SessionAffinity), "spec.sessionAffinity")
		return
	}
	r.out.Affinity = defaultAffinity
	c := r.Spec.SessionAffinityConfig
	if c == nil || c.ClientIP == nil || c.ClientIP.TimeoutSeconds == nil {
		return
	}
	timeout := time.Duration(*c.ClientIP.TimeoutSeconds) * time.Second
	if timeout <= 0 || timeout > maxAffinity {
		r.found.add(fmt.Sprintf("%v is not between 1s and %v; using %v", timeout, maxAffinity, defaultAffinity), "spec.sessionAffinityConfig.clientIP.timeoutSeconds")
		return
	}
	r.out.Affinity = timeout
}

func (r *serviceReader) ports() {
	for i, p := range r.Spec.Ports {
		protocol, ok := protocolOf(p.Protocol)
		if !ok {
			r.found.add(fmt.Sprintf("%q is not known", p.Protocol), "spec.ports[%d].protocol", i)
			continue
		}
		if p.Port <= 0 || p.Port > math.MaxUint16 {
			r.found.add(fmt.Sprintf("%d is not a port number", p.Port), "spec.ports[%d].port", i)
			continue
		}
		port := endpoints.Port{Name: p.Name, Protocol: protocol, Port: uint16(p.Port)}
		if slices.ContainsFunc(r.out.Ports, func(o endpoints.Port) bool { return o.Protocol == port.Protocol && o.Port == port.Port }) {
			r.found.add(fmt.Sprintf("%d/%v is there twice", p.Port, protocol), "spec.ports[%d]", i)
			continue
		}
		port.NodePort = r.nodePort(i, protocol, p.NodePort)
		r.out.Ports = append(r.out.Ports, port)
	}
}

func (r *serviceReader) nodePort(i int, protocol endpoints.Protocol, n int32) uint16 {
	if r.out.NoProxy {
		return 0
	}
	if n < 0 || n > math.MaxUint16 {
		r.found.add(fmt.Sprintf("%d is not a port number", n), "spec.ports[%d].nodePort", i)
		return 0
	}
	same := func(o endpoints.Port) bool { return o.Protocol == protocol && o.NodePort == uint16(n) }
	if n != 0 && slices.ContainsFunc(r.out.Ports, same) {
		r.found.add(fmt.Sprintf("%d/%v is there twice", n, protocol), "spec.ports[%d].nodePort", i)
		return 0
	}
	return uint16(n)
}

// protocolOf returns a protocol by its name in the API, where no name means TCP.
func protocolOf(p v1.Protocol) (endpoints.Protocol, bool) {
	switch p {
	case "", v1.ProtocolTCP:
		return endpoints.TCP, true
	case v1.ProtocolUDP:
		return endpoints.UDP, true
	case v1.ProtocolSCTP:
		return endpoints.SCTP, true
	}
	return 0, false
}
