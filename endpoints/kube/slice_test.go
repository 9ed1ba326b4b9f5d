package kube

import (
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/weir-project/weir/endpoints"
)

func TestSliceFrom(t *testing.T) {
	const ready = endpoints.Ready | endpoints.Serving
	nowhere := &endpoints.Where{}
	one := func(addr string, w *endpoints.Where, c endpoints.Conditions) []endpoints.Endpoint {
		return []endpoints.Endpoint{{Addr: addrs(addr)[0], Where: w, Conditions: c}}
	}
	for _, tt := range []struct {
		name     string
		yaml     string // metadata gets name a, namespace b; the label kubernetes.io/service-name is web
		want     *endpoints.Slice
		problems []string
	}{
		{
			name: "everything",
			yaml: `
metadata: {annotations: {endpoints.kubernetes.io/last-change-trigger-time: "2026-01-02T03:04:05.000000006Z"}}
addressType: IPv4
ports:
- {name: http, port: 8080, protocol: TCP, appProtocol: h2c}
- {name: dns, port: 53, protocol: UDP}
endpoints:
- addresses: [10.0.0.1, 10.0.0.9]
  nodeName: n1
  zone: z1
  hints: {forZones: [{name: z1}, {name: z2}], forNodes: [{name: n1}]}
  conditions: {ready: false, serving: true, terminating: true}
`,
			want: &endpoints.Slice{
				Family: endpoints.IPv4, Triggered: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
				Ports: []endpoints.SlicePort{{Name: "http", Protocol: endpoints.TCP, Port: 8080}, {Name: "dns", Protocol: endpoints.UDP, Port: 53}},
				Endpoints: one("10.0.0.1", &endpoints.Where{Node: "n1", Zone: "z1", ZoneHints: []string{"z1", "z2"}, NodeHints: []string{"n1"}},
					endpoints.Serving|endpoints.Terminating),
			},
		},
		{
			name: "nothing said of conditions", yaml: `{addressType: IPv4, endpoints: [{addresses: [10.0.0.1]}]}`,
			want: &endpoints.Slice{Family: endpoints.IPv4, Endpoints: one("10.0.0.1", nowhere, ready)},
		},
		{
			name: "not ready, nothing said of serving", yaml: `{addressType: IPv4, endpoints: [{addresses: [10.0.0.1], conditions: {ready: false}}]}`,
			want: &endpoints.Slice{Family: endpoints.IPv4, Endpoints: one("10.0.0.1", nowhere, endpoints.Serving)},
		},
		{
			name: "all false", yaml: `{addressType: IPv4, endpoints: [{addresses: [10.0.0.1], conditions: {ready: false, serving: false, terminating: false}}]}`,
			want: &endpoints.Slice{Family: endpoints.IPv4, Endpoints: one("10.0.0.1", nowhere, 0)},
		},
		{
			name: "empty hints are none", yaml: `{addressType: IPv6, endpoints: [{addresses: ["fd00::1"], hints: {forZones: [], forNodes: []}}]}`,
			want: &endpoints.Slice{Family: endpoints.IPv6, Endpoints: one("fd00::1", nowhere, ready)},
		},
		{
			name: "zeros in front", yaml: `{addressType: IPv4, endpoints: [{addresses: ["010.000.000.011"]}]}`,
			want: &endpoints.Slice{Family: endpoints.IPv4, Endpoints: one("10.0.0.11", nowhere, ready)},
		},
		{
			name: "port without name and protocol", yaml: `{addressType: IPv4, ports: [{port: 80}]}`,
			want: &endpoints.Slice{Family: endpoints.IPv4, Ports: []endpoints.SlicePort{{Protocol: endpoints.TCP, Port: 80}}},
		},
		{
			name: "ports that make no sense", yaml: `{addressType: IPv4, ports: [{name: all}, {port: 0}, {port: 65536}, {port: 1, protocol: ICMP}, {port: 2}]}`,
			want:     &endpoints.Slice{Family: endpoints.IPv4, Ports: []endpoints.SlicePort{{Protocol: endpoints.TCP, Port: 2}}},
			problems: []string{"ports[0].port: all ports (no number) cannot be served (and 2 more like it)", `ports[3].protocol: "ICMP" is not known`},
		},
		{
			name: "endpoints that make no sense",
			yaml: `{addressType: IPv4, endpoints: [{addresses: []}, {addresses: ["fd00::1"]}, {addresses: [0.0.0.0]}, {addresses: [127.0.0.1]}, {addresses: [169.254.0.1]}, {addresses: [224.0.0.1]}, {addresses: [pod]}, {addresses: [10.0.0.1]}]}`,
			want: &endpoints.Slice{Family: endpoints.IPv4, Endpoints: one("10.0.0.1", nowhere, ready)},
			problems: []string{
				"endpoints[0].addresses: there is none", "endpoints[1].addresses[0]: fd00::1 is not IPv4 (and 5 more like it)",
			},
		},
		{
			name: "IPv4 in IPv6 is IPv4", yaml: `{addressType: IPv6, endpoints: [{addresses: ["::ffff:10.0.0.1"]}]}`,
			want:     &endpoints.Slice{Family: endpoints.IPv6, Endpoints: []endpoints.Endpoint{}},
			problems: []string{"endpoints[0].addresses[0]: 10.0.0.1 is not IPv6"},
		},
		{name: "of a headless service", yaml: `{metadata: {labels: {service.kubernetes.io/headless: "no"}}, addressType: IPv4}`},
		{name: "of no service", yaml: `{metadata: {labels: {kubernetes.io/service-name: ""}}, addressType: IPv4}`},
		{name: "of names", yaml: `{addressType: FQDN, endpoints: [{addresses: [example.org]}]}`, problems: []string{`addressType: "FQDN" is neither IPv4 nor IPv6`}},
		{
			name: "trigger time that makes no sense", yaml: `{metadata: {annotations: {endpoints.kubernetes.io/last-change-trigger-time: yesterday}}, addressType: IPv4}`,
			want: &endpoints.Slice{Family: endpoints.IPv4},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := decode[discoveryv1.EndpointSlice](t, tt.yaml)
			s.Namespace, s.Name = "b", "a"
			if _, ok := s.Labels[discoveryv1.LabelServiceName]; !ok {
				if s.Labels == nil {
					s.Labels = map[string]string{}
				}
				s.Labels[discoveryv1.LabelServiceName] = "web"
			}
			if tt.want != nil {
				tt.want.Name, tt.want.Service = endpoints.Name{Namespace: "b", Name: "a"}, endpoints.Name{Namespace: "b", Name: "web"}
			}
			got, problems := SliceFrom(s)
			if diff := cmp.Diff(tt.want, got, comparable); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if diff := cmp.Diff(tt.problems, reasons(problems)); diff != "" {
				t.Errorf("problems: -want +got\n%s", diff)
			}
		})
	}
}

func TestWhereIsShared(t *testing.T) {
	ep := func(node, zone string, zones ...string) *discoveryv1.Endpoint {
		e := &discoveryv1.Endpoint{NodeName: &node, Zone: &zone, Hints: &discoveryv1.EndpointHints{}}
		for _, z := range zones {
			e.Hints.ForZones = append(e.Hints.ForZones, discoveryv1.ForZone{Name: z})
		}
		return e
	}
	same, again := whereOf(ep("n", "z", "a", "b")), whereOf(ep("n", "z", "a", "b"))
	if same != again {
		t.Error("the same content twice")
	}
	for _, other := range []*discoveryv1.Endpoint{ep("nz", "", "a", "b"), ep("n", "z", "ab"), ep("n", "z", "a\x01b"), ep("n", "z")} {
		if whereOf(other) == same {
			t.Errorf("%v is taken for %v", other, same)
		}
	}
	runtime.KeepAlive(same)
	known := func() int {
		wheres.mu.Lock()
		defer wheres.mu.Unlock()
		return len(wheres.known)
	}
	for i := range 1_000 {
		whereOf(ep(fmt.Sprint("gone-", i), ""))
	}
	for range 100 {
		if runtime.GC(); known() < 500 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d are still known", known())
}

func TestNodeFrom(t *testing.T) {
	n := decode[v1.Node](t, `
metadata: {name: n1, labels: {topology.kubernetes.io/zone: z}}
spec: {podCIDR: 10.1.0.0/24, podCIDRs: [10.1.0.0/24, "fd00:1::/64", nonsense]}
status:
  addresses:
  - {type: ExternalIP, address: 203.0.113.1}
  - {type: Hostname, address: n}
  - {type: InternalIP, address: 192.0.2.1}
  - {type: InternalIP, address: "2001:db8::1"}
  - {type: InternalIP, address: nonsense}
`)
	got, problems := NodeFrom(n)
	want := &endpoints.Node{
		Name: "n1", Zone: "z", Addrs: addrs("192.0.2.1", "2001:db8::1", "203.0.113.1"), PodCIDRs: prefixList("10.1.0.0/24", "fd00:1::/64"),
	}
	if diff := cmp.Diff(want, got, comparable); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if diff := cmp.Diff([]string{`status.addresses[4].address: "nonsense" is not an IP address`, `spec.podCIDRs[2]: "nonsense" is not a CIDR`}, reasons(problems)); diff != "" {
		t.Errorf("problems: -want +got\n%s", diff)
	}
	for _, text := range []string{
		`metadata: {deletionTimestamp: "2026-01-02T03:04:05Z"}`,
		`spec: {taints: [{key: a}, {key: ToBeDeletedByClusterAutoscaler}]}`,
	} {
		if got, _ := NodeFrom(decode[v1.Node](t, text)); !got.Deleting {
			t.Errorf("%s: not deleting", text)
		}
	}
	if got, _ := NodeFrom(decode[v1.Node](t, `spec: {podCIDR: 10.1.0.0/24}`)); len(got.PodCIDRs) != 1 {
		t.Errorf("podCIDR alone: %v", got.PodCIDRs)
	}
}

func TestServiceCIDRs(t *testing.T) {
	a, problems := ServiceCIDRsFrom(decode[networkingv1.ServiceCIDR](t, `spec: {cidrs: [10.96.0.1/16, "fd00::/112", x]}`))
	if diff := cmp.Diff([]string{`spec.cidrs[2]: "x" is not a CIDR`}, reasons(problems)); diff != "" {
		t.Errorf("problems: -want +got\n%s", diff)
	}
	got := JoinServiceCIDRs(a, prefixList("10.96.0.0/16", "10.64.0.0/16"), nil)
	if diff := cmp.Diff(prefixList("10.64.0.0/16", "10.96.0.0/16", "fd00::/112"), got, comparable); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if JoinServiceCIDRs() != nil || JoinServiceCIDRs(nil, nil) != nil {
		t.Error("no range is not nil")
	}
}

// checkService holds a service against what the rest of the program relies on.
func checkService(t *testing.T, s *endpoints.Service) {
	families := map[endpoints.Family]bool{}
	for _, a := range s.ClusterIPs {
		if families[endpoints.FamilyOf(a)] {
			t.Errorf("two cluster IPs of a family: %v", s.ClusterIPs)
		}
		families[endpoints.FamilyOf(a)] = true
		if a.IsLinkLocalUnicast() {
			t.Errorf("cluster IP %v", a)
		}
	}
	for _, a := range slices.Concat(s.ClusterIPs, s.ExternalIPs, s.LoadBalancerIPs) {
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" || a.IsLoopback() || a.IsMulticast() || a.IsUnspecified() {
			t.Errorf("address %v", a)
		}
	}
	seen := map[string]bool{}
	for _, p := range s.Ports {
		key := fmt.Sprint(p.Protocol, p.Port)
		if p.Port == 0 || p.Protocol.String() == "unknown" || seen[key] {
			t.Errorf("port %+v", p)
		}
		seen[key] = true
	}
	for _, r := range s.SourceRanges {
		if !r.IsValid() || r != r.Masked() || !s.Restricted {
			t.Errorf("source range %v", r)
		}
	}
	if s.Headless && len(s.ExternalIPs)+len(s.LoadBalancerIPs)+len(s.ClusterIPs) > 0 {
		t.Errorf("headless with addresses: %+v", s)
	}
	if s.Affinity < 0 || s.Affinity > maxAffinity {
		t.Errorf("affinity %v", s.Affinity)
	}
}

func FuzzService(f *testing.F) {
	f.Add([]byte(`{"spec":{"type":"LoadBalancer","clusterIPs":["10.96.0.1","fd00::1"],"externalIPs":["010.0.0.1","::ffff:1.2.3.4","fe80::1%a"],"loadBalancerSourceRanges":[" 1.2.3.4/5 ","::ffff:1.2.3.4/100"],"ports":[{"port":80,"nodePort":30000},{"port":80,"protocol":"UDP"}]},"status":{"loadBalancer":{"ingress":[{"ip":"1.2.3.4"}]}}}`))
	f.Add([]byte(`{"spec":{"clusterIP":"None","sessionAffinity":"ClientIP","sessionAffinityConfig":{"clientIP":{"timeoutSeconds":-1}}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s v1.Service
		if json.Unmarshal(b, &s) != nil {
			return
		}
		out, problems := ServiceFrom(&s)
		fields := map[string]bool{}
		for _, p := range problems {
			kind := strings.Map(func(r rune) rune {
				if r >= '0' && r <= '9' {
					return -1
				}
				return r
			}, p.Field)
			if p.Field == "" || p.Reason == "" || fields[kind] {
				t.Errorf("problem %+v", p)
			}
			fields[kind] = true
		}
		if out != nil {
			checkService(t, out)
		}
	})
}

func FuzzSlice(f *testing.F) {
	f.Add([]byte(`{"metadata":{"labels":{"kubernetes.io/service-name":"a"}},"addressType":"IPv4","ports":[{"port":80},{"name":"x"}],"endpoints":[{"addresses":["10.0.0.1"],"hints":{"forZones":[{"name":"z"}]}},{"addresses":["010.0.0.2"]},{"addresses":["::1"]},{}]}`))
	f.Add([]byte(`{"metadata":{"labels":{"kubernetes.io/service-name":"a"}},"addressType":"IPv6","endpoints":[{"addresses":["fd00::1","x"]},{"addresses":["::ffff:1.2.3.4"]},{"addresses":["fe80::1%1"]}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s discoveryv1.EndpointSlice
		if json.Unmarshal(b, &s) != nil {
			return
		}
		out, _ := SliceFrom(&s)
		if out == nil {
			return
		}
		for _, p := range out.Ports {
			if p.Port == 0 || p.Protocol.String() == "unknown" {
				t.Errorf("port %+v", p)
			}
		}
		for _, ep := range out.Endpoints {
			a := ep.Addr
			if !a.IsValid() || a.Is4In6() || a.Zone() != "" || endpoints.FamilyOf(a) != out.Family || a.IsLoopback() || a.IsMulticast() || a.IsUnspecified() || a.IsLinkLocalUnicast() {
				t.Errorf("endpoint %v in a slice of %v", a, out.Family)
			}
			if ep.Where == nil {
				t.Error("no Where")
			}
		}
	})
}
