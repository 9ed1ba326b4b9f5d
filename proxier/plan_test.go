package proxier

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/weir-project/weir/dataplane"
	"github.com/weir-project/weir/dataplane/dataplanetest"
	"github.com/weir-project/weir/endpoints"
)

// world is a resolver whose answers are set by hand.
type world map[endpoints.Name]*endpoints.Resolved

func (w world) Resolve(n endpoints.Name, r *endpoints.Resolved) {
	*r = endpoints.Resolved{}
	if have := w[n]; have != nil {
		*r = *have
	}
}

// names lists all services.
func (w world) names() []endpoints.Name {
	var out []endpoints.Name
	for n := range w {
		out = append(out, n)
	}
	slices.SortFunc(out, endpoints.Name.Compare)
	return out
}

func name(s string) endpoints.Name {
	ns, n, ok := strings.Cut(s, "/")
	if !ok {
		ns, n = "default", s
	}
	return endpoints.Name{Namespace: ns, Name: n}
}

func addrs(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// eps makes endpoints with port 8080.
func eps(list ...string) (out []netip.AddrPort) {
	for _, a := range addrs(list...) {
		out = append(out, netip.AddrPortFrom(a, 8080))
	}
	return out
}

// manyEps makes n endpoints.
func manyEps(n int) []netip.AddrPort {
	out := make([]netip.AddrPort, n)
	for i := range out {
		out[i] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(100 + i>>16), byte(i >> 8), byte(i)}), 8080)
	}
	return out
}

var around = surroundings{
	node:     addrs("192.168.1.1", "fd00:1::1"),
	nodePort: addrs("192.168.1.1", "fd00:1::1"),
}

// rig is a ruleset with a kernel.
type rig struct {
	t      testing.TB
	rules  *ruleset
	kernel *dataplanetest.Kernel
	world  world
	around surroundings
	cidrs  []netip.Prefix
}

func newRig(t testing.TB) *rig {
	r := &rig{t: t, rules: newRuleset(), kernel: &dataplanetest.Kernel{}, world: world{}, around: around}
	if err := r.kernel.Replace(context.Background(), none0, none0); err != nil {
		t.Fatal(err)
	}
	return r
}

func none0(func(dataplane.Op) bool) {}

func (r *rig) plan(dirty ...endpoints.Name) *plan {
	return r.rules.plan(wanted{services: r.world, dirty: dirty, around: r.around, cidrs: r.cidrs})
}

// sync plans, applies and commits, and returns the plan.
func (r *rig) sync(dirty ...endpoints.Name) *plan {
	r.t.Helper()
	p := r.plan(dirty...)
	if err := r.kernel.Apply(context.Background(), p.ops()); err != nil {
		r.t.Fatalf("apply: %v", err)
	}
	r.rules.commit(p)
	return p
}

// fresh returns what a new process would make of the world.
func (r *rig) fresh() dataplanetest.Dump {
	r.t.Helper()
	n := newRuleset()
	n.commit(n.prepare(wanted{services: r.world, dirty: r.world.names(), around: r.around, cidrs: r.cidrs}))
	var k dataplanetest.Kernel
	first, rest, _ := n.full(func(*endpoints.Service) bool { return false })
	if err := k.Replace(context.Background(), first, rest); err != nil {
		r.t.Fatalf("fresh start: %v", err)
	}
	return k.Dump()
}

// check holds the kernel against a fresh start and the invariants.
func (r *rig) check() {
	r.t.Helper()
	got := r.kernel.Dump()
	if err := got.Check(); err != nil {
		r.t.Errorf("%v\n%s", err, got)
	}
	if diff := gocmp.Diff(r.fresh().Meaning().Lines(), got.Meaning().Lines()); diff != "" {
		r.t.Errorf("a fresh start differs (-fresh +got):\n%s", diff)
	}
	if err := r.kernel.Err(); err != nil {
		r.t.Error(err)
	}
}

// one returns a resolved service with one TCP port, http 80, node port 30080.
func one(s endpoints.Service, port endpoints.ResolvedPort) *endpoints.Resolved {
	s.Name = cmp.Or(s.Name, name("web"))
	port.Port.Protocol = cmp.Or(port.Port.Protocol, endpoints.TCP)
	port.Port.Port = cmp.Or(port.Port.Port, 80)
	port.Family = cmp.Or(port.Family, endpoints.IPv4)
	s.Ports = append(s.Ports, port.Port)
	return &endpoints.Resolved{Service: &s, Ports: []endpoints.ResolvedPort{port}}
}

func TestFrontends(t *testing.T) {
	cluster := endpoints.Service{ClusterIPs: addrs("10.96.0.1")}
	external := endpoints.Service{ExternalIPs: addrs("203.0.113.1")}
	local := func(s endpoints.Service) endpoints.Service { s.InternalLocal, s.ExternalLocal = true, true; return s }
	affine := func(s endpoints.Service) endpoints.Service { s.Affinity = 3 * time.Hour; return s }
	lb := func(ranges ...string) endpoints.Service {
		return endpoints.Service{LoadBalancerIPs: addrs("203.0.113.9"), Restricted: true, SourceRanges: prefixes(ranges...)}
	}
	two := endpoints.ResolvedPort{Cluster: eps("10.1.0.1", "10.1.1.1"), Local: eps("10.1.0.1"), OnNode: addrs("10.1.0.1"), Any: true}
	elsewhere := endpoints.ResolvedPort{Cluster: eps("10.1.1.1"), Any: true}
	nowhere := endpoints.ResolvedPort{}
	nodePort := func(p endpoints.ResolvedPort) endpoints.ResolvedPort { p.NodePort = 30080; return p }

	for _, test := range []struct {
		name    string
		service endpoints.Service
		port    endpoints.ResolvedPort
		want    []string
	}{
		{"cluster IP", cluster, two, []string{
			`ip services tcp . 10.96.0.1 . 80 comment "default/web" : goto lb-2`,
			"ip endpoints tcp . 10.96.0.1 . 80 . 0x00000000 : 10.1.0.1 . 8080",
			"ip endpoints tcp . 10.96.0.1 . 80 . 0x00000001 : 10.1.1.1 . 8080",
			"ip cluster-ips 10.96.0.1",
			"ip hairpin 10.1.0.1 . 10.1.0.1",
		}},
		{"cluster IP without endpoints", cluster, nowhere, []string{
			`ip services tcp . 10.96.0.1 . 80 comment "default/web" : goto refuse`,
			"ip cluster-ips 10.96.0.1",
		}},
		{"internal policy Local", local(cluster), two, []string{
			`ip services tcp . 10.96.0.1 . 80 comment "default/web" : goto lb-1`,
			"ip endpoints tcp . 10.96.0.1 . 80 . 0x00000000 : 10.1.0.1 . 8080",
			"ip cluster-ips 10.96.0.1",
			"ip hairpin 10.1.0.1 . 10.1.0.1",
		}},
		{"internal policy Local, none here", local(cluster), elsewhere, []string{
			`ip services tcp . 10.96.0.1 . 80 comment "default/web" : drop`,
			"ip cluster-ips 10.96.0.1",
		}},
		{"internal policy Local, none anywhere", local(cluster), nowhere, []string{
			`ip services tcp . 10.96.0.1 . 80 comment "default/web" : goto refuse`,
			"ip cluster-ips 10.96.0.1",
		}},
		{"external IP", external, elsewhere, []string{
			`ip services tcp . 203.0.113.1 . 80 comment "default/web" : goto lb-1`,
			"ip endpoints tcp . 203.0.113.1 . 80 . 0x00000000 : 10.1.1.1 . 8080",
			"ip snat-always tcp . 203.0.113.1 . 80",
		}},
		{"external IP without endpoints", external, nowhere, []string{
			`ip services tcp . 203.0.113.1 . 80 comment "default/web" : goto refuse`,
			"ip snat-always tcp . 203.0.113.1 . 80",
		}},
		{"node port", endpoints.Service{}, nodePort(elsewhere), []string{
			`ip services tcp . 192.168.1.1 . 30080 comment "default/web" : goto lb-1`,
			"ip endpoints tcp . 192.168.1.1 . 30080 . 0x00000000 : 10.1.1.1 . 8080",
			"ip snat-always tcp . 192.168.1.1 . 30080",
		}},
		{"external policy Local", local(external), two, []string{
			`ip services tcp . 203.0.113.1 . 80 comment "default/web" : goto lb-2`,
			`ip local-services tcp . 203.0.113.1 . 80 comment "default/web" : goto lb-local-1`,
			"ip endpoints tcp . 203.0.113.1 . 80 . 0x00000000 : 10.1.0.1 . 8080",
			"ip endpoints tcp . 203.0.113.1 . 80 . 0x00000001 : 10.1.1.1 . 8080",
			"ip local-endpoints tcp . 203.0.113.1 . 80 . 0x00000000 : 10.1.0.1 . 8080",
			"ip hairpin 10.1.0.1 . 10.1.0.1",
			"ip snat-node tcp . 203.0.113.1 . 80",
		}},
		{"external policy Local, none here", local(external), elsewhere, []string{
			`ip services tcp . 203.0.113.1 . 80 comment "default/web" : goto lb-1`,
			`ip local-services tcp . 203.0.113.1 . 80 comment "default/web" : drop`,
			"ip endpoints tcp . 203.0.113.1 . 80 . 0x00000000 : 10.1.1.1 . 8080",
			"ip snat-node tcp . 203.0.113.1 . 80",
		}},
		{"external policy Local, none anywhere", local(external), nowhere, []string{
			`ip services tcp . 203.0.113.1 . 80 comment "default/web" : goto refuse`,
			"ip snat-node tcp . 203.0.113.1 . 80",
		}},
		{"external policy Local, local endpoints only", local(external),
			endpoints.ResolvedPort{Local: eps("10.1.0.1")}, []string{
				`ip services tcp . 203.0.113.1 . 80 comment "default/web" : goto lb-1`,
				`ip local-services tcp . 203.0.113.1 . 80 comment "default/web" : goto lb-local-1`,
				"ip endpoints tcp . 203.0.113.1 . 80 . 0x00000000 : 10.1.0.1 . 8080",
				"ip local-endpoints tcp . 203.0.113.1 . 80 . 0x00000000 : 10.1.0.1 . 8080",
				"ip snat-node tcp . 203.0.113.1 . 80",
			}},
		{"affinity", affine(cluster), elsewhere, []string{
			`ip services tcp . 10.96.0.1 . 80 comment "default/web" : goto lb-1`,
			"ip endpoints tcp . 10.96.0.1 . 80 . 0x00000000 : 10.1.1.1 . 8080",
			"ip cluster-ips 10.96.0.1",
			"ip affinity-of tcp . 10.96.0.1 . 80 timeout 3h0m0s",
		}},
		{"affinity without endpoints", affine(cluster), nowhere, []string{
			`ip services tcp . 10.96.0.1 . 80 comment "default/web" : goto refuse`,
			"ip cluster-ips 10.96.0.1",
		}},
		{"source ranges", lb("198.51.100.0/24", "198.51.100.128/25", "2001:db8::/32"), nowhere, []string{
			`ip services tcp . 203.0.113.9 . 80 comment "default/web" : goto refuse`,
			"ip snat-always tcp . 203.0.113.9 . 80",
			"ip restricted tcp . 203.0.113.9 . 80",
			"ip allowed-sources tcp . 203.0.113.9 . 80 . 198.51.100.0/24",
		}},
		{"source ranges that include the node", lb("192.168.1.0/24"), nowhere, []string{
			`ip services tcp . 203.0.113.9 . 80 comment "default/web" : goto refuse`,
			"ip snat-always tcp . 203.0.113.9 . 80",
			"ip restricted tcp . 203.0.113.9 . 80",
			"ip allowed-sources tcp . 203.0.113.9 . 80 . 192.168.1.0/24",
			"ip allowed-sources tcp . 203.0.113.9 . 80 . 203.0.113.9/32",
		}},
		{"source ranges that include the node and the address", lb("192.0.0.0/8", "203.0.113.0/24"), nowhere, []string{
			`ip services tcp . 203.0.113.9 . 80 comment "default/web" : goto refuse`,
			"ip snat-always tcp . 203.0.113.9 . 80",
			"ip restricted tcp . 203.0.113.9 . 80",
			"ip allowed-sources tcp . 203.0.113.9 . 80 . 192.0.0.0/8",
			"ip allowed-sources tcp . 203.0.113.9 . 80 . 203.0.113.0/24",
		}},
		{"source ranges of the other family: open, as with kube-proxy", lb("2001:db8::/32"), nowhere, []string{
			`ip services tcp . 203.0.113.9 . 80 comment "default/web" : goto refuse`,
			"ip snat-always tcp . 203.0.113.9 . 80",
		}},
		{"source ranges that make no sense: closed", lb(), nowhere, []string{
			`ip services tcp . 203.0.113.9 . 80 comment "default/web" : goto refuse`,
			"ip snat-always tcp . 203.0.113.9 . 80",
			"ip restricted tcp . 203.0.113.9 . 80",
		}},
		{"source range of everybody", lb("0.0.0.0/0", "198.51.100.0/24"), nowhere, []string{
			`ip services tcp . 203.0.113.9 . 80 comment "default/web" : goto refuse`,
			"ip snat-always tcp . 203.0.113.9 . 80",
		}},
		{"external IP that is the balancer's too",
			endpoints.Service{ExternalIPs: addrs("203.0.113.9"), LoadBalancerIPs: addrs("203.0.113.9"),
				Restricted: true, SourceRanges: prefixes("198.51.100.0/24")}, nowhere, []string{
				`ip services tcp . 203.0.113.9 . 80 comment "default/web" : goto refuse`,
				"ip snat-always tcp . 203.0.113.9 . 80",
				"ip restricted tcp . 203.0.113.9 . 80",
				"ip allowed-sources tcp . 203.0.113.9 . 80 . 198.51.100.0/24",
			}},
		{"endpoint that is the node", cluster,
			endpoints.ResolvedPort{Cluster: eps("192.168.1.1"), OnNode: addrs("192.168.1.1"), Any: true}, []string{
				`ip services tcp . 10.96.0.1 . 80 comment "default/web" : goto lb-1`,
				"ip endpoints tcp . 10.96.0.1 . 80 . 0x00000000 : 192.168.1.1 . 8080",
				"ip cluster-ips 10.96.0.1",
			}},
		{"IPv6", endpoints.Service{ClusterIPs: addrs("10.96.0.1", "fd00:96::1")},
			nodePort(endpoints.ResolvedPort{Family: endpoints.IPv6, Cluster: eps("fd00:10::1"), Any: true}), []string{
				"ip cluster-ips 10.96.0.1",
				`ip6 services tcp . fd00:1::1 . 30080 comment "default/web" : goto lb-1`,
				`ip6 services tcp . fd00:96::1 . 80 comment "default/web" : goto lb-1`,
				"ip6 endpoints tcp . fd00:1::1 . 30080 . 0x00000000 : fd00:10::1 . 8080",
				"ip6 endpoints tcp . fd00:96::1 . 80 . 0x00000000 : fd00:10::1 . 8080",
				"ip6 cluster-ips fd00:96::1",
				"ip6 snat-always tcp . fd00:1::1 . 30080",
			}},
		{"headless", endpoints.Service{Headless: true, ExternalIPs: addrs("203.0.113.1")}, elsewhere, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t)
			r.world[name("web")] = one(test.service, test.port)
			r.sync(name("web"))
			if diff := gocmp.Diff(test.want, r.kernel.Dump().Lines()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			r.check()
			delete(r.world, name("web"))
			r.sync(name("web"))
			if left := r.kernel.Dump().Lines(); len(left) > 0 {
				t.Errorf("left behind: %s", strings.Join(left, "\n"))
			}
			if n := len(r.rules.services) + len(r.rules.claims.winners) + len(r.rules.clusterIPs) + len(r.rules.hairpin); n > 0 {
				t.Errorf("%d things are believed of an empty kernel", n)
			}
		})
	}
}

// TestEveryTransition goes from every kind of service to every other.
func TestEveryTransition(t *testing.T) {
	var all []*endpoints.Resolved
	for _, policy := range []bool{false, true} {
		for _, affinity := range []time.Duration{0, time.Minute, time.Hour} {
			for _, p := range []endpoints.ResolvedPort{
				{},
				{Cluster: eps("10.1.1.1"), Any: true},
				{Cluster: eps("10.1.0.1", "10.1.1.1"), Local: eps("10.1.0.1"), OnNode: addrs("10.1.0.1"), Any: true},
				{Cluster: eps("10.1.1.1", "10.1.1.2", "10.1.1.3"), Local: eps("10.1.0.1", "10.1.0.2"), Any: true},
			} {
				p.NodePort = 30080
				if !policy {
					p.Local = nil
				}
				s := endpoints.Service{ClusterIPs: addrs("10.96.0.1"), LoadBalancerIPs: addrs("203.0.113.9"), ExternalIPs: addrs("203.0.113.1"),
					InternalLocal: policy, ExternalLocal: policy, Affinity: affinity, Restricted: policy, SourceRanges: prefixes("192.168.0.0/16")}
				all = append(all, one(s, p))
			}
		}
	}
	all = append(all, nil)
	for i, from := range all {
		for j, to := range all {
			r := newRig(t)
			r.world[name("web")] = from
			r.sync(name("web"))
			r.world[name("web")] = to
			r.sync(name("web"))
			if r.check(); t.Failed() {
				t.Fatalf("from %d %+v\nto %d %+v", i, from, j, to)
			}
		}
	}
}

func TestSlotsStay(t *testing.T) {
	r := newRig(t)
	set := func(list ...string) {
		r.world[name("web")] = one(endpoints.Service{ClusterIPs: addrs("10.96.0.1")}, endpoints.ResolvedPort{Cluster: eps(list...), Any: true})
	}
	slots := func() string {
		out := make([]string, 8)
		for _, e := range r.kernel.Dump()[dataplane.Endpoints] {
			a := e.Endpoint.Addr().As4()
			out[e.Slot] = fmt.Sprint(a[3])
		}
		return strings.TrimSpace(strings.Join(out, " "))
	}
	for _, step := range []struct {
		name string
		set  []string
		want string
		ops  int
	}{
		{"start", []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"}, "1 2 3", 5},
		{"another order", []string{"10.0.0.3", "10.0.0.1", "10.0.0.2"}, "1 2 3", 0},
		{"one more", []string{"10.0.0.4", "10.0.0.1", "10.0.0.2", "10.0.0.3"}, "1 2 3 4", 1},
		{"one more in the next class", []string{"10.0.0.4", "10.0.0.1", "10.0.0.5", "10.0.0.2", "10.0.0.3"}, "1 2 3 4 5", 3},
		{"the first goes", []string{"10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"}, "5 2 3 4", 5},
		{"the last goes", []string{"10.0.0.2", "10.0.0.3", "10.0.0.5"}, "5 2 3", 1},
		{"one for another", []string{"10.0.0.2", "10.0.0.6", "10.0.0.5"}, "5 2 6", 2},
		{"two go, one comes", []string{"10.0.0.6", "10.0.0.7"}, "7 6", 5 + 2},
		{"none", nil, "", 2 + 2},
	} {
		t.Run(step.name, func(t *testing.T) {
			set(step.set...)
			p := r.sync(name("web"))
			if got := slots(); got != step.want {
				t.Errorf("slots %q, want %q", got, step.want)
			}
			if got := len(p.ops()); got != step.ops {
				t.Errorf("%d operations, want %d: %v", got, step.ops, p.ops())
			}
			r.check()
		})
	}
}

func TestAffinityForgets(t *testing.T) {
	// A service with a cluster IP and an external IP, and affinity.
	type setting struct {
		affinity                     time.Duration
		internalLocal, externalLocal bool
		cluster, local               []netip.AddrPort
	}
	both := setting{affinity: time.Hour, cluster: eps("10.1.0.1", "10.1.1.1"), local: eps("10.1.0.1", "10.1.0.9")}
	with := func(change func(*setting)) setting { s := both; change(&s); return s }
	local := func(s *setting) { s.internalLocal, s.externalLocal = true, true }
	const ip, ext = "tcp . 10.96.0.1 . 80", "tcp . 203.0.113.1 . 80"
	for _, test := range []struct {
		name     string
		from, to setting
		want     []string
	}{
		{"nothing changes", both, both, nil},
		{"an endpoint goes", both, with(func(s *setting) { s.cluster = eps("10.1.0.1") }), []string{ip + " 10.1.1.1:8080", ext + " 10.1.1.1:8080"}},
		{"an endpoint comes", both, with(func(s *setting) { s.cluster = eps("10.1.0.1", "10.1.1.1", "10.1.1.2") }), nil},
		{"every endpoint goes", both, with(func(s *setting) { s.cluster = nil }), []string{ip, ext}},
		{"affinity ends", both, with(func(s *setting) { s.affinity = 0 }), []string{ip, ext}},
		{"affinity lasts longer", both, with(func(s *setting) { s.affinity = 2 * time.Hour }), nil},
		{"affinity begins", with(func(s *setting) { s.affinity = 0 }), both, nil},
		{"internal policy", both, with(func(s *setting) { s.internalLocal = true }), []string{ip}},
		{"external policy", both, with(func(s *setting) { s.externalLocal = true }), []string{ext}},
		{"a local endpoint goes", with(local), with(func(s *setting) { local(s); s.local = eps("10.1.0.1") }),
			[]string{ip + " 10.1.0.9:8080", ext + " 10.1.0.9:8080"}},
		{"every local endpoint goes", with(local), with(func(s *setting) { local(s); s.local = nil }),
			[]string{ip, ext + " 10.1.0.1:8080", ext + " 10.1.0.9:8080"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t)
			set := func(s setting) *plan {
				r.world[name("web")] = one(endpoints.Service{ClusterIPs: addrs("10.96.0.1"), ExternalIPs: addrs("203.0.113.1"),
					Affinity: s.affinity, InternalLocal: s.internalLocal, ExternalLocal: s.externalLocal},
					endpoints.ResolvedPort{Cluster: s.cluster, Local: s.local, Any: true})
				return r.sync(name("web"))
			}
			set(test.from)
			var got []string
			for _, op := range set(test.to).batch.forgets() {
				line := op.Elem.Frontend.String()
				if op.Elem.Endpoint.IsValid() {
					line += " " + op.Elem.Endpoint.String()
				}
				got = append(got, line)
			}
			if diff := gocmp.Diff(test.want, got); diff != "" {
				t.Errorf("forgotten (-want +got):\n%s", diff)
			}
			if n := len(r.plan().ops()); n > 0 {
				t.Errorf("%d operations more", n)
			}
		})
	}
}

func TestServiceCIDRs(t *testing.T) {
	r := newRig(t)
	for _, step := range []struct {
		cidrs []netip.Prefix
		want  []string
		ops   int
	}{
		{prefixes("10.96.0.1/16", "10.96.128.0/17", "10.96.0.0/16"), []string{"ip service-cidrs 10.96.0.0/16"}, 1},
		{prefixes("10.96.0.0/16", "fd00::/108"), []string{"ip service-cidrs 10.96.0.0/16", "ip6 service-cidrs fd00::/108"}, 1},
		{prefixes("10.96.0.0/17", "fd00::/108"), []string{"ip service-cidrs 10.96.0.0/17", "ip6 service-cidrs fd00::/108"}, 2},
		{nil, nil, 2},
	} {
		r.cidrs = distinct(step.cidrs)
		p := r.sync()
		if diff := gocmp.Diff(step.want, r.kernel.Dump().Lines()); diff != "" || len(p.ops()) != step.ops {
			t.Errorf("%v: %d operations, want %d; (-want +got):\n%s", step.cidrs, len(p.ops()), step.ops, diff)
		}
	}
}

func TestFullWriteBeginsWithWhatIsUrgent(t *testing.T) {
	r := newRig(t)
	for i, n := range []string{"default/a", "default/kubernetes", "kube-system/kube-dns", "other/resolver"} {
		res := one(endpoints.Service{Name: name(n), ClusterIPs: addrs(fmt.Sprintf("10.96.0.%d", i+1))},
			endpoints.ResolvedPort{Cluster: eps("10.1.0.1"), OnNode: addrs("10.1.0.1"), Any: true})
		r.world[name(n)] = res
	}
	r.cidrs = prefixes("10.96.0.0/16")
	r.sync(r.world.names()...)
	p := &Proxier{cfg: Config{Urgent: func(s *endpoints.Service) bool { return s.Name.Namespace == "other" }}}
	first, rest, owners := r.rules.full(p.isUrgent)
	lines := func(ops func(func(dataplane.Op) bool)) (out []string) {
		for op := range ops {
			if op.Set != dataplane.Endpoints {
				out = append(out, fmt.Sprint(op.Owner, " ", dataplanetest.Line(op.Set, op.Elem)))
			}
		}
		return out
	}
	if diff := gocmp.Diff([]string{
		"0 10.96.0.0/16", "0 10.1.0.1 . 10.1.0.1",
		"2 10.96.0.2", `2 tcp . 10.96.0.2 . 80 comment "default/kubernetes" : goto lb-1`,
		"3 10.96.0.3", `3 tcp . 10.96.0.3 . 80 comment "kube-system/kube-dns" : goto lb-1`,
		"4 10.96.0.4", `4 tcp . 10.96.0.4 . 80 comment "other/resolver" : goto lb-1`,
	}, lines(first)); diff != "" {
		t.Errorf("first (-want +got):\n%s", diff)
	}
	if diff := gocmp.Diff([]string{"1 10.96.0.1", `1 tcp . 10.96.0.1 . 80 comment "default/a" : goto lb-1`}, lines(rest)); diff != "" {
		t.Errorf("rest (-want +got):\n%s", diff)
	}
	if !slices.Equal(owners, r.world.names()) {
		t.Errorf("owners %v", owners)
	}
	for op := range first { // who stops early is not asked again
		_ = op
		break
	}
}

// TestLargeChangesAreCut has more change at once than one transaction takes.
func TestLargeChangesAreCut(t *testing.T) {
	r := newRig(t)
	for i := range 20 {
		n := fmt.Sprintf("svc-%02d", i)
		r.world[name(n)] = one(endpoints.Service{Name: name(n), ClusterIPs: addrs(fmt.Sprintf("10.96.0.%d", i+1))},
			endpoints.ResolvedPort{Cluster: manyEps(100), Any: true})
	}
	dirty := r.world.names()
	for rounds := 1; len(dirty) > 0; rounds++ {
		p := r.rules.plan(wanted{services: r.world, dirty: dirty, around: r.around, budget: 500})
		if n := len(p.ops()); n > 700 || rounds > 4 {
			t.Fatalf("round %d: %d operations", rounds, n)
		}
		if err := r.kernel.Apply(context.Background(), p.ops()); err != nil {
			t.Fatal(err)
		}
		r.rules.commit(p)
		dirty = slices.DeleteFunc(dirty, func(n endpoints.Name) bool { return slices.Contains(p.settled(), n) })
	}
	r.check()
}
