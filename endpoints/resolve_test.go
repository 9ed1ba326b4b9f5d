package endpoints

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// endpoint reads "10.0.0.1 ready node=a zone=z for-zones=x,y for-nodes=a", where the conditions are
// the words ready (with serving), serving, terminating, and only-ready (without serving).
func endpoint(s string) Endpoint {
	fields := strings.Fields(s)
	ep := Endpoint{Addr: netip.MustParseAddr(fields[0])}
	where := &Where{}
	for _, f := range fields[1:] {
		key, value, _ := strings.Cut(f, "=")
		switch key {
		case "ready":
			ep.Conditions |= Ready | Serving
		case "only-ready":
			ep.Conditions |= Ready
		case "serving":
			ep.Conditions |= Serving
		case "terminating":
			ep.Conditions |= Terminating
		case "node":
			where.Node = value
		case "zone":
			where.Zone = value
		case "for-zones":
			where.ZoneHints = strings.Split(value, ",")
		case "for-nodes":
			where.NodeHints = strings.Split(value, ",")
		default:
			panic("unknown word " + f)
		}
	}
	ep.Where = where
	return ep
}

// slice reads a slice of the service default/web: "name http/TCP/8080 dns/UDP/53" and its
// endpoints.
func slice(head string, endpoints ...string) *Slice {
	fields := strings.Fields(head)
	s := &Slice{Name: Name{"default", fields[0]}, Service: web, Family: IPv4}
	for _, f := range fields[1:] {
		var port uint16
		p := strings.Split(f, "/")
		fmt.Sscan(p[2], &port)
		s.Ports = append(s.Ports, SlicePort{Name: p[0], Protocol: protocols[p[1]], Port: port})
	}
	for _, e := range endpoints {
		ep := endpoint(e)
		s.Family = FamilyOf(ep.Addr)
		s.Endpoints = append(s.Endpoints, ep)
	}
	return s
}

var protocols = map[string]Protocol{"TCP": TCP, "UDP": UDP, "SCTP": SCTP}

var web = Name{"default", "web"}

// service makes default/web with a cluster IP of each family and the port http.
func service(change ...func(*Service)) *Service {
	s := &Service{
		Name:       web,
		ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("fd00::1")},
		Ports:      []Port{{Name: "http", Protocol: TCP, Port: 80}},
	}
	for _, c := range change {
		c(s)
	}
	return s
}

func internalLocal(s *Service) { s.InternalLocal = true }
func externalLocal(s *Service) { s.ExternalLocal = true }
func nodePort(s *Service)      { s.Ports[0].NodePort = 30080 }
func singleStack(s *Service)   { s.ClusterIPs = s.ClusterIPs[:1] }

// dump writes a resolved service, one line per port and family that has anything.
func dump(r *Resolved) string {
	var b strings.Builder
	for _, p := range r.Ports {
		fmt.Fprintf(&b, "%s/%v/%v:", p.Name, p.Protocol, p.Family)
		for _, l := range []struct {
			name string
			list []netip.AddrPort
		}{{"cluster", p.Cluster}, {"local", p.Local}} {
			if len(l.list) > 0 {
				fmt.Fprintf(&b, " %s %v", l.name, l.list)
			}
		}
		if len(p.OnNode) > 0 {
			fmt.Fprintf(&b, " on-node %v", p.OnNode)
		}
		if p.Any {
			b.WriteString(" any")
		}
		b.WriteString("\n")
	}
	return b.String()
}

func resolve(e *Engine, name Name) string {
	var r Resolved
	e.Resolve(name, &r)
	return dump(&r)
}

// resolveTest resolves default/web on node "here" in zone "a".
type resolveTest struct {
	name    string
	service *Service
	slices  []*Slice
	noZone  bool
	want    string
}

func (tt resolveTest) run(t *testing.T) {
	e := New(Config{NodeName: "here"})
	e.SetService(tt.service)
	node := &Node{Name: "here", Zone: "a"}
	if tt.noZone {
		node.Zone = ""
	}
	e.SetNode(node)
	for _, s := range tt.slices {
		e.SetSlice(s)
	}
	want := strings.ReplaceAll(strings.TrimLeft(tt.want, "\n"), "\t", "")
	if diff := cmp.Diff(want, resolve(e, web)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestMerge(t *testing.T) {
	for _, tt := range []resolveTest{
		{
			name: "no slices", service: service(),
			want: `
			http/TCP/IPv4:
			http/TCP/IPv6:
			`,
		},
		{
			name: "several slices in the order of their names, both families", service: service(),
			slices: []*Slice{
				slice("b http/TCP/8080", "10.0.0.1 ready", "10.0.0.9 ready"),
				slice("a http/TCP/8080", "10.0.0.5 ready"),
				slice("c http/TCP/8080", "fd00::a ready"),
			},
			want: `
			http/TCP/IPv4: cluster [10.0.0.5:8080 10.0.0.1:8080 10.0.0.9:8080] any
			http/TCP/IPv6: cluster [[fd00::a]:8080] any
			`,
		},
		{
			name: "a family without cluster IP is left out", service: service(singleStack),
			slices: []*Slice{slice("a http/TCP/8080", "10.0.0.1 ready"), slice("b http/TCP/8080", "fd00::a ready")},
			want: `
			http/TCP/IPv4: cluster [10.0.0.1:8080] any
			`,
		},
		{
			name: "headless", service: service(func(s *Service) { s.Headless = true; s.ClusterIPs = nil }),
			slices: []*Slice{slice("a http/TCP/8080", "10.0.0.1 ready")},
		},
		{
			name: "a slice with the headless label is for names alone", service: service(singleStack),
			slices: []*Slice{slice("a http/TCP/8080", "10.0.0.1 ready"), headless(slice("b http/TCP/8080", "10.0.0.2 ready"))},
			want: `
			http/TCP/IPv4: cluster [10.0.0.1:8080] any
			`,
		},
		{
			name: "node port without any address is in both families", service: service(nodePort, func(s *Service) { s.ClusterIPs = nil }),
			slices: []*Slice{slice("a http/TCP/8080", "10.0.0.1 ready")},
			want: `
			http/TCP/IPv4: cluster [10.0.0.1:8080] any
			http/TCP/IPv6:
			`,
		},
		{
			name: "ports match by name and protocol", service: service(singleStack, func(s *Service) {
				s.Ports = []Port{{Name: "dns", Protocol: UDP, Port: 53}, {Name: "dns-tcp", Protocol: TCP, Port: 53}, {Name: "dns", Protocol: SCTP, Port: 53}}
			}),
			slices: []*Slice{slice("a dns/UDP/5353 dns-tcp/TCP/5354 dns/TCP/1", "10.0.0.1 ready")},
			want: `
			dns/UDP/IPv4: cluster [10.0.0.1:5353] any
			dns-tcp/TCP/IPv4: cluster [10.0.0.1:5354] any
			dns/SCTP/IPv4:
			`,
		},
		{
			name: "a port without a name", service: service(singleStack, func(s *Service) { s.Ports[0].Name = "" }),
			slices: []*Slice{slice("a /TCP/8080 http/TCP/1", "10.0.0.1 ready")},
			want: `
			/TCP/IPv4: cluster [10.0.0.1:8080] any
			`,
		},
		{
			name: "named target ports that differ per endpoint", service: service(singleStack),
			slices: []*Slice{slice("a http/TCP/8080", "10.0.0.1 ready node=here"), slice("b http/TCP/9090", "10.0.0.2 ready", "10.0.0.1 ready node=here")},
			want: `
			http/TCP/IPv4: cluster [10.0.0.1:8080 10.0.0.2:9090 10.0.0.1:9090] on-node [10.0.0.1] any
			`,
		},
		{
			name: "port number 0 is no port", service: service(singleStack),
			slices: []*Slice{slice("a http/TCP/0", "10.0.0.1 ready")},
			want: `
			http/TCP/IPv4:
			`,
		},
		{
			name: "duplicate in one slice", service: service(singleStack),
			slices: []*Slice{slice("a http/TCP/8080", "10.0.0.1 ready", "10.0.0.2 ready", "10.0.0.1 ready")},
			want: `
			http/TCP/IPv4: cluster [10.0.0.1:8080 10.0.0.2:8080] any
			`,
		},
		{
			name: "duplicate: the one that does not terminate wins, though it is not ready", service: service(singleStack),
			slices: []*Slice{
				slice("a http/TCP/8080", "10.0.0.1 only-ready serving terminating"), slice("b http/TCP/8080", "10.0.0.1", "10.0.0.2 ready"),
			},
			want: `
			http/TCP/IPv4: cluster [10.0.0.2:8080] any
			`,
		},
		{
			name: "duplicate: then the ready one", service: service(singleStack),
			slices: []*Slice{slice("a http/TCP/8080", "10.0.0.1 serving"), slice("b http/TCP/8080", "10.0.0.1 only-ready")},
			want: `
			http/TCP/IPv4: cluster [10.0.0.1:8080] any
			`,
		},
		{
			name: "duplicate: then the serving one", service: service(singleStack),
			slices: []*Slice{slice("a http/TCP/8080", "10.0.0.1 terminating"), slice("b http/TCP/8080", "10.0.0.1 serving terminating")},
			want: `
			http/TCP/IPv4: cluster [10.0.0.1:8080] any
			`,
		},
		{
			name: "duplicate: at last the first by slice name, and its place counts", service: service(singleStack),
			slices: []*Slice{slice("b http/TCP/8080", "10.0.0.1 ready node=there"), slice("a http/TCP/8080", "10.0.0.1 ready node=here")},
			want: `
			http/TCP/IPv4: cluster [10.0.0.1:8080] on-node [10.0.0.1] any
			`,
		},
		{
			name: "addresses too far apart for a bit each", service: service(),
			slices: []*Slice{
				slice("a http/TCP/8080", "10.0.0.1 ready", "192.168.0.1 ready", "10.0.0.1 ready"),
				slice("b http/TCP/8080", "fd00:1::1 ready", "fd00::1 ready", "fd00::1:0:0:1 ready", "fd00:1::1 ready"),
			},
			want: `
			http/TCP/IPv4: cluster [10.0.0.1:8080 192.168.0.1:8080] any
			http/TCP/IPv6: cluster [[fd00:1::1]:8080 [fd00::1]:8080 [fd00::1:0:0:1]:8080] any
			`,
		},
	} {
		t.Run(tt.name, tt.run)
	}
}

func TestPolicyAndTerminating(t *testing.T) {
	mixed := slice("a http/TCP/8080",
		"10.0.0.1 ready node=here", "10.0.0.2 ready node=there",
		"10.0.0.3 serving terminating node=here", "10.0.0.4 serving terminating node=there", "10.0.0.5 node=here", "10.0.0.6 terminating node=here", "10.0.0.7 serving node=here")
	leaving := slice("a http/TCP/8080",
		"10.0.0.3 serving terminating node=here", "10.0.0.4 serving terminating node=there", "10.0.0.6 terminating node=here")
	readyElsewhere := slice("a http/TCP/8080", "10.0.0.2 ready node=there", "10.0.0.3 serving terminating node=here")
	elsewhere := slice("a http/TCP/8080", "10.0.0.2 ready node=there")
	leavingElsewhere := slice("a http/TCP/8080", "10.0.0.2 serving terminating node=there")
	none := slice("a http/TCP/8080", "10.0.0.1 node=here", "10.0.0.2 terminating node=here", "10.0.0.3 serving node=here")
	for _, tt := range []resolveTest{
		{
			name: "Cluster: ready ones only", service: service(singleStack), slices: []*Slice{mixed},
			want: "http/TCP/IPv4: cluster [10.0.0.1:8080 10.0.0.2:8080] on-node [10.0.0.1] any\n",
		},
		{
			name: "Cluster: fall back to serving and terminating", service: service(singleStack), slices: []*Slice{leaving},
			want: "http/TCP/IPv4: cluster [10.0.0.3:8080 10.0.0.4:8080] on-node [10.0.0.3] any\n",
		},
		{
			name: "Cluster: none", service: service(singleStack), slices: []*Slice{none},
			want: "http/TCP/IPv4:\n",
		},
		{
			name: "ready and terminating is ready (publishNotReadyAddresses)", service: service(singleStack),
			slices: []*Slice{slice("a http/TCP/8080", "10.0.0.1 ready terminating", "10.0.0.2 ready")},
			want:   "http/TCP/IPv4: cluster [10.0.0.1:8080 10.0.0.2:8080] any\n",
		},
		{
			name: "internal Local: no Cluster at all", service: service(singleStack, internalLocal), slices: []*Slice{mixed},
			want: "http/TCP/IPv4: local [10.0.0.1:8080] on-node [10.0.0.1] any\n",
		},
		{
			name: "internal Local: fall back on this node though others are ready elsewhere", service: service(singleStack, internalLocal), slices: []*Slice{readyElsewhere},
			want: "http/TCP/IPv4: local [10.0.0.3:8080] on-node [10.0.0.3] any\n",
		},
		{
			name: "internal Local: only elsewhere", service: service(singleStack, internalLocal), slices: []*Slice{elsewhere},
			want: "http/TCP/IPv4: any\n",
		},
		{
			name: "internal Local: only leaving elsewhere", service: service(singleStack, internalLocal), slices: []*Slice{leavingElsewhere},
			want: "http/TCP/IPv4: any\n",
		},
		{
			name: "internal Local: none", service: service(singleStack, internalLocal), slices: []*Slice{none},
			want: "http/TCP/IPv4:\n",
		},
		{
			name: "external Local without anything external is Cluster", service: service(singleStack, externalLocal), slices: []*Slice{mixed},
			want: "http/TCP/IPv4: cluster [10.0.0.1:8080 10.0.0.2:8080] on-node [10.0.0.1] any\n",
		},
		{
			name: "external Local: both", service: service(singleStack, externalLocal, nodePort), slices: []*Slice{mixed},
			want: "http/TCP/IPv4: cluster [10.0.0.1:8080 10.0.0.2:8080] local [10.0.0.1:8080] on-node [10.0.0.1] any\n",
		},
		{
			name: "external Local: the fall-back is separate for each", service: service(singleStack, externalLocal, nodePort), slices: []*Slice{readyElsewhere},
			want: "http/TCP/IPv4: cluster [10.0.0.2:8080] local [10.0.0.3:8080] on-node [10.0.0.3] any\n",
		},
		{
			name: "internal Local with a node port: both", service: service(singleStack, internalLocal, nodePort), slices: []*Slice{mixed},
			want: "http/TCP/IPv4: cluster [10.0.0.1:8080 10.0.0.2:8080] local [10.0.0.1:8080] on-node [10.0.0.1] any\n",
		},
		{
			name: "an endpoint of an unknown node is not local", service: service(singleStack, internalLocal),
			slices: []*Slice{slice("a http/TCP/8080", "10.0.0.1 ready")},
			want:   "http/TCP/IPv4: any\n",
		},
	} {
		t.Run(tt.name, tt.run)
	}
}

func TestTopology(t *testing.T) {
	for _, tt := range []resolveTest{
		{
			name: "zone", service: service(singleStack),
			slices: []*Slice{slice("a http/TCP/1", "10.0.0.1 ready for-zones=a", "10.0.0.2 ready for-zones=b", "10.0.0.3 ready for-zones=b,a")},
			want:   "http/TCP/IPv4: cluster [10.0.0.1:1 10.0.0.3:1] any\n",
		},
		{
			name: "zone: the endpoint's own zone does not count", service: service(singleStack),
			slices: []*Slice{slice("a http/TCP/1", "10.0.0.1 ready zone=b for-zones=a", "10.0.0.2 ready zone=a for-zones=b")},
			want:   "http/TCP/IPv4: cluster [10.0.0.1:1] any\n",
		},
		{
			name: "zone: one ready endpoint without hint", service: service(singleStack),
			slices: []*Slice{slice("a http/TCP/1", "10.0.0.1 ready for-zones=a", "10.0.0.2 ready for-zones=b", "10.0.0.3 ready")},
			want:   "http/TCP/IPv4: cluster [10.0.0.1:1 10.0.0.2:1 10.0.0.3:1] any\n",
		},
		{
			name: "zone: without hint in another slice, before", service: service(singleStack),
			slices: []*Slice{slice("b http/TCP/1", "10.0.0.1 ready for-zones=a"), slice("a http/TCP/1", "10.0.0.3 ready")},
			want:   "http/TCP/IPv4: cluster [10.0.0.3:1 10.0.0.1:1] any\n",
		},
		{
			name: "zone: an endpoint without hint that is not ready does not matter", service: service(singleStack),
			slices: []*Slice{slice("a http/TCP/1", "10.0.0.1 ready for-zones=a", "10.0.0.2 ready for-zones=b", "10.0.0.3 serving terminating")},
			want:   "http/TCP/IPv4: cluster [10.0.0.1:1] any\n",
		},
		{
			name: "zone: hints for other zones only", service: service(singleStack),
			slices: []*Slice{slice("a http/TCP/1", "10.0.0.1 ready for-zones=b", "10.0.0.2 ready for-zones=c")},
			want:   "http/TCP/IPv4: cluster [10.0.0.1:1 10.0.0.2:1] any\n",
		},
		{
			name: "zone: only one that is not ready is for us", service: service(singleStack),
			slices: []*Slice{slice("a http/TCP/1", "10.0.0.1 for-zones=a", "10.0.0.2 ready for-zones=c")},
			want:   "http/TCP/IPv4: cluster [10.0.0.2:1] any\n",
		},
		{
			name: "zone: the node has no zone label", service: service(singleStack), noZone: true,
			slices: []*Slice{slice("a http/TCP/1", "10.0.0.1 ready for-zones=a", "10.0.0.2 ready for-zones=b")},
			want:   "http/TCP/IPv4: cluster [10.0.0.1:1 10.0.0.2:1] any\n",
		},
		{
			name: "node", service: service(singleStack),
			slices: []*Slice{slice("a http/TCP/1", "10.0.0.1 ready for-nodes=here", "10.0.0.2 ready for-nodes=there")},
			want:   "http/TCP/IPv4: cluster [10.0.0.1:1] any\n",
		},
		{
			name: "node before zone", service: service(singleStack),
			slices: []*Slice{slice("a http/TCP/1", "10.0.0.1 ready for-nodes=here for-zones=b", "10.0.0.2 ready for-nodes=there for-zones=a")},
			want:   "http/TCP/IPv4: cluster [10.0.0.1:1] any\n",
		},
		{
			name: "node: none for this one, so zone", service: service(singleStack),
			slices: []*Slice{slice("a http/TCP/1", "10.0.0.1 ready for-nodes=there for-zones=b", "10.0.0.2 ready for-nodes=there for-zones=a")},
			want:   "http/TCP/IPv4: cluster [10.0.0.2:1] any\n",
		},
		{
			name: "node: one without hint, so zone", service: service(singleStack),
			slices: []*Slice{slice("a http/TCP/1", "10.0.0.1 ready for-nodes=here for-zones=b", "10.0.0.2 ready for-zones=a")},
			want:   "http/TCP/IPv4: cluster [10.0.0.2:1] any\n",
		},
		{
			name: "node: none for this one, no zone hints", service: service(singleStack),
			slices: []*Slice{slice("a http/TCP/1", "10.0.0.1 ready for-nodes=there", "10.0.0.2 ready for-nodes=there")},
			want:   "http/TCP/IPv4: cluster [10.0.0.1:1 10.0.0.2:1] any\n",
		},
		{
			name: "nobody is ready: hints have no say in the fall-back", service: service(singleStack),
			slices: []*Slice{slice("a http/TCP/1", "10.0.0.1 serving terminating for-zones=b", "10.0.0.2 serving terminating for-zones=a")},
			want:   "http/TCP/IPv4: cluster [10.0.0.1:1 10.0.0.2:1] any\n",
		},
		{
			name: "Local does not look at hints", service: service(singleStack, externalLocal, nodePort),
			slices: []*Slice{slice("a http/TCP/1", "10.0.0.1 ready node=here for-zones=b", "10.0.0.2 ready node=there for-zones=a")},
			want:   "http/TCP/IPv4: cluster [10.0.0.2:1] local [10.0.0.1:1] on-node [10.0.0.1] any\n",
		},
		{
			name: "judged for each port and family by itself", service: service(func(s *Service) {
				s.Ports = append(s.Ports, Port{Name: "dns", Protocol: UDP, Port: 53})
			}),
			slices: []*Slice{
				slice("a http/TCP/1", "10.0.0.1 ready for-zones=a", "10.0.0.2 ready for-zones=b"),
				slice("b dns/UDP/2", "10.0.0.1 ready", "10.0.0.2 ready for-zones=a"),
				slice("c http/TCP/1", "fd00::1 ready for-zones=b", "fd00::2 ready for-zones=b"),
			},
			want: `
			http/TCP/IPv4: cluster [10.0.0.1:1] any
			http/TCP/IPv6: cluster [[fd00::1]:1 [fd00::2]:1] any
			dns/UDP/IPv4: cluster [10.0.0.1:2 10.0.0.2:2] any
			dns/UDP/IPv6:
			`,
		},
		{
			name: "judged after merging: the duplicate without hint has lost", service: service(singleStack),
			slices: []*Slice{
				slice("a http/TCP/1", "10.0.0.1 ready terminating", "10.0.0.2 ready for-zones=b"),
				slice("b http/TCP/1", "10.0.0.1 ready for-zones=a"),
			},
			want: "http/TCP/IPv4: cluster [10.0.0.1:1] any\n",
		},
	} {
		t.Run(tt.name, tt.run)
	}
}

func TestLocalReady(t *testing.T) {
	e := New(Config{NodeName: "here"})
	if n := e.LocalReady(web); n != 0 {
		t.Errorf("%d without a service, want 0", n)
	}
	e.SetService(service())
	e.SetSlice(slice("a http/TCP/1", "10.0.0.1 ready node=here", "10.0.0.2 ready node=there", "10.0.0.3 serving terminating node=here", "10.0.0.4 ready node=here for-zones=b"))
	e.SetSlice(slice("b dns/UDP/2", "10.0.0.1 ready node=here", "10.0.0.5 ready node=here"))
	e.SetSlice(slice("c", "10.0.0.6 ready node=here"))
	e.SetSlice(slice("d http/TCP/1", "fd00::1 ready node=here"))
	if n := e.LocalReady(web); n != 3 {
		t.Errorf("%d, want 3: an address counts once, whatever its ports, hints and second family", n)
	}
	if n := testing.AllocsPerRun(100, func() { e.LocalReady(web) }); n > 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

// TestResolveReusesMemory resolves a large and a small service in turn into the same value.
func TestResolveReusesMemory(t *testing.T) {
	e := New(Config{NodeName: "node-0001"})
	large, small := Name{"default", "large"}, Name{"default", "small"}
	largeService(e, large, 3_000, 100)
	largeService(e, small, 5, 100)
	var r Resolved
	e.Resolve(large, &r)
	allocs := testing.AllocsPerRun(100, func() {
		e.Resolve(small, &r)
		if len(r.Ports) != 1 || len(r.Ports[0].Cluster) != 5 {
			t.Fatalf("wrong: %v", dump(&r))
		}
		e.Resolve(Name{"default", "missing"}, &r)
		if r.Service != nil || len(r.Ports) != 0 {
			t.Fatalf("something is left: %v", dump(&r))
		}
		e.Resolve(large, &r)
		if len(r.Ports[0].Cluster) != 3_000 {
			t.Fatalf("%d endpoints", len(r.Ports[0].Cluster))
		}
	})
	if allocs > 0 {
		t.Errorf("%v allocations, want 0", allocs)
	}
}

func headless(s *Slice) *Slice {
	s.Headless = true
	return s
}
