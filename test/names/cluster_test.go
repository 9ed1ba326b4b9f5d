//go:build linux

package names

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// maker makes up objects.
type maker struct {
	random  *rand.Rand
	objects []object
	pods    int // addresses given out
}

func (m *maker) add(objects ...object) { m.objects = append(m.objects, objects...) }

func (m *maker) namespace(name string) string {
	m.add(&v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	return name
}

// service adds a Service of so many families with ports as "name:number/protocol".
func (m *maker) service(namespace, name string, families int, ports ...string) *v1.Service {
	s := &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	s.Spec.IPFamilyPolicy = new(v1.IPFamilyPolicySingleStack)
	if families == 2 {
		s.Spec.IPFamilyPolicy = new(v1.IPFamilyPolicyRequireDualStack)
	}
	for _, p := range ports {
		s.Spec.Ports = append(s.Spec.Ports, parsePort(p))
	}
	m.add(s)
	return s
}

func (m *maker) headless(namespace, name string, ports ...string) *v1.Service {
	s := m.service(namespace, name, 1, ports...)
	s.Spec.ClusterIP, s.Spec.IPFamilyPolicy = v1.ClusterIPNone, nil
	return s
}

func (m *maker) alias(namespace, name, target string) {
	m.add(&v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: v1.ServiceSpec{Type: v1.ServiceTypeExternalName, ExternalName: target}})
}

func parsePort(text string) v1.ServicePort {
	name, rest, _ := strings.Cut(text, ":")
	var p v1.ServicePort
	proto := ""
	if _, err := fmt.Sscanf(strings.Replace(rest, "/", " ", 1), "%d %s", &p.Port, &proto); err != nil {
		panic(text)
	}
	p.Name, p.Protocol = name, v1.Protocol(proto)
	return p
}

// slice adds an EndpointSlice of a service, whose ports it has.
func (m *maker) slice(s *v1.Service, number int, family discoveryv1.AddressType, eps ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	sl := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: fmt.Sprintf("%s-%d", s.Name, number)},
		AddressType: family, Endpoints: eps}
	sl.Labels = map[string]string{discoveryv1.LabelServiceName: s.Name}
	for _, p := range s.Spec.Ports {
		sl.Ports = append(sl.Ports, discoveryv1.EndpointPort{Name: new(p.Name), Port: new(p.Port), Protocol: new(p.Protocol)})
	}
	m.add(sl)
	return sl
}

// pod returns a new address.
func (m *maker) pod(family discoveryv1.AddressType) string {
	m.pods++
	if family == discoveryv1.AddressTypeIPv6 {
		return fmt.Sprintf("fd00:244::%x", m.pods)
	}
	return fmt.Sprintf("10.244.%d.%d", m.pods/250, 1+m.pods%250)
}

const (
	ipv4 = discoveryv1.AddressTypeIPv4
	ipv6 = discoveryv1.AddressTypeIPv6
)

// longLabel is as long as a label can be.
var longLabel = strings.Repeat("l", 63)

// odd adds what a cluster rarely has, and may.
func (m *maker) odd() {
	ns := m.namespace("odd")
	m.namespace("svc")
	m.namespace(longLabel)

	dns := m.service(ns, "dns", 2, "dns:53/UDP", "dns-tcp:53/TCP", "metrics:9153/TCP")
	m.slice(dns, 0, ipv4, endpoint("10.244.200.1", "", true), endpoint("10.244.200.2", "", true))
	m.slice(dns, 1, ipv6, endpoint("fd00:244:200::1", "", true))
	m.service(ns, "no-endpoints", 1, "http:80/TCP")
	m.service(ns, "unnamed", 1, ":80/TCP")
	v6 := m.service(ns, "v6", 1, "http:80/TCP")
	v6.Spec.IPFamilies = []v1.IPFamily{v1.IPv6Protocol}
	m.slice(v6, 0, ipv6, endpoint("fd00:244:200::", "v6-0", true))
	m.service("svc", "svc", 1, "tcp:80/TCP")
	m.service("svc", "pod", 1, "udp:80/UDP")
	m.service(ns, "a10-0-0-1", 1, "x9:80/SCTP")

	long := m.headless(longLabel, longLabel, "fifteen-chars-x:80/TCP")
	m.slice(long, 0, ipv4, endpoint("10.244.201.1", longLabel, true), endpoint("10.244.201.2", "", true))

	named := m.service(ns, "hostnames", 1, "http:80/TCP")
	m.slice(named, 0, ipv4, endpoint("10.244.202.1", "h-0", true), endpoint("10.244.202.2", "", true), endpoint("10.244.202.3", "h-3", false))

	set := m.headless(ns, "set", "sql:5432/TCP", "admin:8080/TCP", "sync:5432/UDP")
	m.slice(set, 0, ipv4, endpoint("10.244.203.1", "set-0", true), endpoint("10.244.203.2", "set-1", true), endpoint("10.244.203.3", "twin", true))
	m.slice(set, 1, ipv4, endpoint("10.244.203.4", "twin", true), endpoint("10.244.203.5", "", true), endpoint("10.244.203.6", "set-6", false))
	m.slice(set, 2, ipv6, endpoint("fd00:244:203::1", "set-0", true), endpoint("fd00:244:203::5", "", true))
	// The same pods behind another name, and behind a cluster IP.
	peers := m.headless(ns, "set-peers", "sql:5432/TCP")
	m.slice(peers, 0, ipv4, endpoint("10.244.203.1", "set-0", true), endpoint("10.244.203.5", "", true))
	front := m.service(ns, "set-front", 1, "sql:5432/TCP")
	m.slice(front, 0, ipv4, endpoint("10.244.203.1", "", true), endpoint("10.244.203.5", "", true))

	early := m.headless(ns, "early", "sql:5432/TCP")
	early.Spec.PublishNotReadyAddresses = true
	eps := endpoint("10.244.204.1", "early-0", true) // as the controller writes it
	eps.Conditions.Serving = new(false)
	m.slice(early, 0, ipv4, eps)
	ending := m.headless(ns, "ending", "sql:5432/TCP")
	last := endpoint("10.244.204.2", "ending-0", false)
	last.Conditions.Serving, last.Conditions.Terminating = new(true), new(true)
	m.slice(ending, 0, ipv4, last)
	unknown := m.headless(ns, "unknown", "sql:5432/TCP")
	m.slice(unknown, 0, ipv4, discoveryv1.Endpoint{Addresses: []string{"10.244.204.3"}})

	m.headless(ns, "nobody", "sql:5432/TCP")
	m.slice(m.headless(ns, "portless"), 0, ipv4, endpoint("10.244.205.1", "p-0", true), endpoint("10.244.205.2", "", true))
	noPorts := m.slice(m.headless(ns, "slice-portless", "sql:5432/TCP"), 0, ipv4, endpoint("10.244.205.3", "", true))
	noPorts.Ports = nil
	empty := m.headless(ns, "slices-empty", "sql:5432/TCP")
	m.slice(empty, 0, ipv4)
	m.slice(empty, 1, ipv6)
	for name, n := range map[string]int{"big": 120, "bigger": 300} {
		big := m.headless(ns, name, "sql:5432/TCP")
		for i := 0; i < n; i += 100 {
			var eps []discoveryv1.Endpoint
			for range min(100, n-i) {
				eps = append(eps, endpoint(m.pod(ipv4), "", true))
			}
			m.slice(big, i, ipv4, eps...)
		}
	}
	m.aliases(ns)
}

// aliases adds Services of type ExternalName, to whatever one can name.
func (m *maker) aliases(ns string) {
	in := func(name string) string { return name + "." + ns + ".svc.cluster.local" }
	for name, target := range map[string]string{
		"to-dns": in("dns"), "to-set": in("set"), "to-v6": in("v6"), "to-missing": in("missing"), "to-nobody": in("nobody"),
		"to-alias": in("to-dns"), "to-alias-2": in("to-alias"), "to-self": in("to-self"), "to-a": in("to-b"), "to-b": in("to-a"),
		"to-host": "set-0." + in("set"), "to-port": "nobody.default.svc.cluster.local", "to-pod": "10-1-2-3.default.pod.cluster.local",
		"to-apex": "cluster.local", "to-namespace": "default.svc.cluster.local", "to-nearly": "xcluster.local", "to-dot": in("dns") + ".",
		"to-world": "world.test", "to-world-v4": "v4.test", "to-world-alias": "alias.test", "to-world-nx": "nx.test", "to-world-fail": "fail.test",
		"to-number": "192.0.2.1", "to-world-2": in("to-world"),
	} {
		m.alias(ns, name, target)
	}
	for i := range 10 {
		target := in("dns")
		if i > 0 {
			target = in(fmt.Sprintf("chain-%d", i-1))
		}
		m.alias(ns, fmt.Sprintf("chain-%d", i), target)
	}
}

// some adds so many services of any kind.
func (m *maker) some(n int) {
	var spaces []string
	for i := range 4 {
		spaces = append(spaces, m.namespace(fmt.Sprintf("random-%d", i)))
	}
	ports := []string{"http:80/TCP", "https:443/TCP", "dns:53/UDP", "dns-tcp:53/TCP", "x:80/SCTP"}
	for i := range n {
		ns, name := spaces[m.random.IntN(len(spaces))], fmt.Sprintf("s%d", i)
		some := ports[:1+m.random.IntN(len(ports))]
		var s *v1.Service
		switch m.random.IntN(3) {
		case 0:
			s = m.headless(ns, name, some...)
		default:
			s = m.service(ns, name, 1+m.random.IntN(2), some...)
		}
		for number := range m.random.IntN(3) {
			family := []discoveryv1.AddressType{ipv4, ipv4, ipv6}[m.random.IntN(3)]
			m.slice(s, number, family, m.endpoints(name, family)...)
		}
	}
}

func (m *maker) endpoints(name string, family discoveryv1.AddressType) (eps []discoveryv1.Endpoint) {
	hostnames := m.random.IntN(3) == 0
	for i := range m.random.IntN(6) {
		hostname := ""
		if hostnames {
			hostname = fmt.Sprintf("%s-%d", name, i)
		}
		eps = append(eps, endpoint(m.pod(family), hostname, m.random.IntN(5) > 0))
	}
	return eps
}

// change changes one of the objects that some has made, and returns it as it is to be written.
func (m *maker) change() object {
	for {
		i := m.random.IntN(len(m.objects))
		sl, ok := m.objects[i].(*discoveryv1.EndpointSlice)
		if !ok || !strings.HasPrefix(sl.Namespace, "random-") {
			continue
		}
		sl = sl.DeepCopy()
		sl.Endpoints = m.endpoints(sl.Labels[discoveryv1.LabelServiceName], sl.AddressType)
		m.objects[i] = sl
		return sl
	}
}

// known is what the objects in an API server say, to tell which difference is which.
type known struct {
	services  map[string]*knownService // by service.namespace
	spaces    map[string]bool
	addresses map[netip.Addr]*knownAddress
}

type knownService struct {
	headless  bool
	alias     string // with a dot at the end; "": none
	ips       []netip.Addr
	ports     map[string]bool // _port._proto
	protocols map[string]bool // _proto of ports with a name
	hostnames map[string]bool // of ready endpoints
	dashed    map[string]bool // of ready endpoints without a hostname
}

// knownAddress says whose endpoint an address is.
type knownAddress struct {
	clusterIP bool
	ours      bool // an endpoint of a headless Service, or with a hostname
	any       bool // an endpoint
}

func (a api) known(t *testing.T) *known {
	t.Helper()
	ctx, list := t.Context(), metav1.ListOptions{}
	services, err := a.client.CoreV1().Services("").List(ctx, list)
	if err != nil {
		t.Fatal(err)
	}
	eps, err := a.client.DiscoveryV1().EndpointSlices("").List(ctx, list)
	if err != nil {
		t.Fatal(err)
	}
	spaces, err := a.client.CoreV1().Namespaces().List(ctx, list)
	if err != nil {
		t.Fatal(err)
	}
	k := &known{services: map[string]*knownService{}, spaces: map[string]bool{}, addresses: map[netip.Addr]*knownAddress{}}
	for _, n := range spaces.Items {
		k.spaces[n.Name] = true
	}
	for i := range services.Items {
		k.addService(&services.Items[i])
	}
	for i := range eps.Items {
		k.addSlice(&eps.Items[i])
	}
	return k
}

func (k *known) address(a netip.Addr) *knownAddress {
	if k.addresses[a] == nil {
		k.addresses[a] = &knownAddress{}
	}
	return k.addresses[a]
}

func (k *known) addService(s *v1.Service) {
	ks := &knownService{headless: s.Spec.ClusterIP == v1.ClusterIPNone, ports: map[string]bool{}, protocols: map[string]bool{},
		hostnames: map[string]bool{}, dashed: map[string]bool{}}
	if s.Spec.Type == v1.ServiceTypeExternalName {
		ks.alias = strings.TrimSuffix(s.Spec.ExternalName, ".") + "."
	}
	for _, ip := range s.Spec.ClusterIPs {
		if a, err := netip.ParseAddr(ip); err == nil {
			ks.ips = append(ks.ips, a)
			k.address(a).clusterIP = true
		}
	}
	if !ks.headless {
		for _, p := range s.Spec.Ports {
			ks.addPort(p.Name, p.Protocol)
		}
	}
	k.services[s.Name+"."+s.Namespace] = ks
}

func (s *knownService) addPort(name string, protocol v1.Protocol) {
	if name != "" {
		proto := "_" + strings.ToLower(string(protocol))
		s.ports["_"+name+"."+proto], s.protocols[proto] = true, true
	}
}

func (k *known) addSlice(sl *discoveryv1.EndpointSlice) {
	s := k.services[sl.Labels[discoveryv1.LabelServiceName]+"."+sl.Namespace]
	if s == nil {
		return
	}
	for _, e := range sl.Endpoints {
		if e.Conditions.Ready != nil && !*e.Conditions.Ready {
			continue
		}
		a := netip.MustParseAddr(e.Addresses[0])
		at := k.address(a)
		at.any = true
		if e.Hostname != nil && *e.Hostname != "" {
			s.hostnames[*e.Hostname], at.ours = true, true
		} else {
			s.dashed[dashed(a)] = true
			at.ours = at.ours || s.headless
		}
		if s.headless {
			for _, p := range sl.Ports {
				s.addPort(*p.Name, *p.Protocol)
			}
		}
	}
}

// dashed returns the label of an endpoint without a hostname.
func dashed(a netip.Addr) string {
	label := strings.NewReplacer(".", "-", ":", "-").Replace(a.String())
	if strings.HasSuffix(label, "-") {
		label += "0"
	}
	return label
}
