package kube

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	v1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/weir-project/weir/endpoints"
)

// decode reads an API object.
func decode[T any](t *testing.T, text string) *T {
	t.Helper()
	o := new(T)
	if err := yaml.UnmarshalStrict([]byte(text), o); err != nil {
		t.Fatal(err)
	}
	return o
}

// reasons writes problems as "field: reason".
func reasons(problems []endpoints.Problem) []string {
	var list []string
	for _, p := range problems {
		list = append(list, p.Field+": "+p.Reason)
	}
	return list
}

func addrs(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func prefixList(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

var comparable = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

func TestServiceFrom(t *testing.T) {
	for _, tt := range []struct {
		name     string
		yaml     string // of spec and status; metadata has name a, namespace b
		want     *endpoints.Service
		problems []string
	}{
		{
			name: "everything",
			yaml: `
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1, "fd00::1"]
  externalIPs: [192.0.2.1, "2001:db8::1", 192.0.2.1]
  internalTrafficPolicy: Local
  externalTrafficPolicy: Local
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}
  healthCheckNodePort: 31000
  loadBalancerSourceRanges: [" 198.51.100.7/24 ", "2001:db8::/32"]
  ports:
  - {name: http, port: 80, nodePort: 30080, protocol: TCP}
  - {name: dns, port: 53, protocol: UDP}
  - {name: x, port: 53, protocol: SCTP}
status:
  loadBalancer:
    ingress:
    - {ip: 203.0.113.1}
    - {ip: 203.0.113.2, ipMode: VIP}
    - {ip: 203.0.113.3, ipMode: Proxy}
    - {hostname: example.org}
    - {ip: 169.254.9.9}
`,
			want: &endpoints.Service{
				ClusterIPs: addrs("10.96.0.1", "fd00::1"), ExternalIPs: addrs("192.0.2.1", "2001:db8::1"),
				LoadBalancerIPs: addrs("203.0.113.1", "203.0.113.2", "169.254.9.9"),
				Restricted:      true, SourceRanges: prefixList("198.51.100.0/24", "2001:db8::/32"),
				InternalLocal: true, ExternalLocal: true, Affinity: time.Minute, HealthCheckPort: 31000,
				Ports: []endpoints.Port{
					{Name: "http", Protocol: endpoints.TCP, Port: 80, NodePort: 30080},
					{Name: "dns", Protocol: endpoints.UDP, Port: 53}, {Name: "x", Protocol: endpoints.SCTP, Port: 53},
				},
			},
		},
		{name: "nothing", yaml: `spec: {}`, want: &endpoints.Service{}},
		{name: "ExternalName", yaml: `spec: {type: ExternalName, externalName: example.org}`},
		{name: "another proxy's", yaml: `{metadata: {labels: {service.kubernetes.io/service-proxy-name: ""}}, spec: {clusterIP: 10.96.0.1}}`},
		{
			name: "headless", yaml: `spec: {clusterIP: None, externalIPs: [192.0.2.1], ports: [{port: 80}]}`,
			want: &endpoints.Service{Headless: true, Ports: []endpoints.Port{{Protocol: endpoints.TCP, Port: 80}}},
		},
		{name: "headless by clusterIPs", yaml: `spec: {clusterIPs: [None]}`, want: &endpoints.Service{Headless: true}},
		{name: "clusterIP alone", yaml: `spec: {clusterIP: 10.96.0.1}`, want: &endpoints.Service{ClusterIPs: addrs("10.96.0.1")}},
		{
			name: "cluster IPs that make no sense", yaml: `spec: {clusterIPs: [10.96.0.1, 10.96.0.2, "fe80::1%eth0"]}`,
			want:     &endpoints.Service{ClusterIPs: addrs("10.96.0.1")},
			problems: []string{"spec.clusterIPs[1]: 10.96.0.2 is the second of its family (and 1 more like it)"},
		},
		{
			name: "zeros in front, and IPv4 in IPv6", yaml: `spec: {clusterIP: 010.096.000.001, externalIPs: ["::ffff:192.0.2.1"]}`,
			want: &endpoints.Service{ClusterIPs: addrs("10.96.0.1"), ExternalIPs: addrs("192.0.2.1")},
		},
		{
			name: "external IPs that make no sense",
			yaml: `spec: {externalIPs: ["", 0.0.0.0, 127.0.0.1, "::1", 224.0.0.1, 169.254.1.1, "fe80::1", 255.255.255.255, 192.0.2.1]}`,
			want: &endpoints.Service{ExternalIPs: addrs("192.0.2.1")}, problems: []string{`spec.externalIPs[0]: "" is not an IP address (and 7 more like it)`},
		},
		{
			name: "load balancer IPs that make no sense", yaml: `{spec: {type: LoadBalancer}, status: {loadBalancer: {ingress: [{ip: x}, {ip: 127.0.0.1}, {ip: 192.0.2.1}]}}}`,
			want: &endpoints.Service{LoadBalancerIPs: addrs("192.0.2.1")}, problems: []string{`status.loadBalancer.ingress[0].ip: "x" is not an IP address (and 1 more like it)`},
		},
		{
			name: "load balancer's fields without type",
			yaml: `{spec: {externalTrafficPolicy: Local, healthCheckNodePort: 31000, loadBalancerSourceRanges: [192.0.2.0/24]}, status: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}}}`,
			want: &endpoints.Service{ExternalLocal: true},
		},
		{name: "health check port without Local", yaml: `spec: {type: LoadBalancer, healthCheckNodePort: 31000}`, want: &endpoints.Service{}},
		{
			name: "health check port that makes no sense", yaml: `spec: {type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 99999}`,
			want: &endpoints.Service{ExternalLocal: true}, problems: []string{"spec.healthCheckNodePort: 99999 is not a port number"},
		},
		{name: "affinity by default", yaml: `spec: {sessionAffinity: ClientIP}`, want: &endpoints.Service{Affinity: 3 * time.Hour}},
		{name: "no affinity", yaml: `spec: {sessionAffinity: None, sessionAffinityConfig: {clientIP: {timeoutSeconds: 5}}}`, want: &endpoints.Service{}},
		{
			name: "affinity of no time", yaml: `spec: {sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}}`,
			want:     &endpoints.Service{Affinity: 3 * time.Hour},
			problems: []string{"spec.sessionAffinityConfig.clientIP.timeoutSeconds: 0s is not between 1s and 24h0m0s; using 3h0m0s"},
		},
		{
			name: "affinity of another kind", yaml: `spec: {sessionAffinity: Cookie}`, want: &endpoints.Service{},
			problems: []string{`spec.sessionAffinity: "Cookie" is not known`},
		},
		{
			name: "some source ranges make no sense", yaml: `spec: {type: LoadBalancer, loadBalancerSourceRanges: [nonsense, 010.0.0.0/8, "", 10.0.0.0/8]}`,
			want:     &endpoints.Service{Restricted: true, SourceRanges: prefixList("10.0.0.0/8")},
			problems: []string{`spec.loadBalancerSourceRanges[0]: "nonsense" is not a CIDR (and 1 more like it)`},
		},
		{
			name: "all source ranges make no sense: closed", yaml: `spec: {type: LoadBalancer, loadBalancerSourceRanges: [nonsense]}`,
			want: &endpoints.Service{Restricted: true}, problems: []string{`spec.loadBalancerSourceRanges[0]: "nonsense" is not a CIDR`},
		},
		{
			name: "source ranges of everybody in a family", yaml: `spec: {type: LoadBalancer, loadBalancerSourceRanges: [192.0.2.0/24, 0.0.0.0/0, "2001:db8::/32"]}`,
			want: &endpoints.Service{Restricted: true, SourceRanges: prefixList("0.0.0.0/0", "2001:db8::/32")},
		},
		{
			name: "source ranges of everybody", yaml: `spec: {type: LoadBalancer, loadBalancerSourceRanges: [192.0.2.0/24, "::/0", 9.9.9.9/0]}`,
			want: &endpoints.Service{},
		},
		{
			name: "ports that make no sense",
			yaml: `spec: {ports: [{port: 0}, {port: 65536}, {port: -1}, {port: 80, protocol: ICMP}, {port: 80, nodePort: 30000}, {port: 80, protocol: TCP}, {port: 80, protocol: UDP, nodePort: 30000}, {port: 81, nodePort: 30000}, {port: 82, nodePort: 70000}]}`,
			want: &endpoints.Service{Ports: []endpoints.Port{
				{Protocol: endpoints.TCP, Port: 80, NodePort: 30000}, {Protocol: endpoints.UDP, Port: 80, NodePort: 30000},
				{Protocol: endpoints.TCP, Port: 81}, {Protocol: endpoints.TCP, Port: 82},
			}},
			problems: []string{
				"spec.ports[0].port: 0 is not a port number (and 2 more like it)", `spec.ports[3].protocol: "ICMP" is not known`,
				"spec.ports[5]: 80/TCP is there twice", "spec.ports[7].nodePort: 30000/TCP is there twice (and 1 more like it)",
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := decode[v1.Service](t, tt.yaml)
			s.Namespace, s.Name, s.UID = "b", "a", "uid"
			if tt.want != nil {
				tt.want.Name, tt.want.UID = endpoints.Name{Namespace: "b", Name: "a"}, "uid"
			}
			got, problems := ServiceFrom(s)
			if diff := cmp.Diff(tt.want, got, comparable); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if diff := cmp.Diff(tt.problems, reasons(problems)); diff != "" {
				t.Errorf("problems: -want +got\n%s", diff)
			}
			for _, p := range problems {
				if p.Kind != "Service" || p.Object.String() != "b/a" || p.UID != "uid" {
					t.Errorf("problem of %+v", p)
				}
			}
		})
	}
}

func TestServiceCreated(t *testing.T) {
	s := decode[v1.Service](t, `metadata: {creationTimestamp: "2026-01-02T03:04:05Z"}`)
	if got, _ := ServiceFrom(s); !got.Created.Equal(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)) {
		t.Errorf("created %v", got.Created)
	}
	if got, _ := ServiceFrom(&v1.Service{}); !got.Created.IsZero() {
		t.Errorf("created %v, want the zero time", got.Created)
	}
}
