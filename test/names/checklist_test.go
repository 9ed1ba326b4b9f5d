//go:build linux

package names

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-project/weir/dns/dnstest"
)

// TestChecklist holds weir dns against the table, from its first answer on.
func TestChecklist(t *testing.T) {
	onEach(t, func(t *testing.T, from source) {
		cases, err := dnstest.ReadTable("../../dns/testdata/answers.txt")
		if err != nil {
			t.Fatal(err)
		}
		flags := from.flags(t)
		begin := time.Now()
		s := startWeir(t, flags...)
		check := func(what string, tt dnstest.Case, response []byte) {
			got, err := dnstest.Describe(response)
			if err != nil {
				t.Fatalf("%s: %s: %v", what, tt.Text, err)
			}
			if diff := cmp.Diff(tt.Answer, got); diff != "" {
				t.Errorf("%s: %s: -want +got\n%s", what, tt.Text, diff)
			}
		}
		check("the first answer", cases[3], s.answers(t, "udp4", cases[3].Query))
		for _, transport := range transports {
			for _, tt := range cases {
				response, err := s.ask(transport, tt.Query)
				if err != nil {
					t.Fatal(err)
				}
				check(transport, tt, response)
			}
			if transport == "udp4" {
				timed(t, "every name is right", begin)
			}
		}
	})
}

const place = "live"

func named(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: place, Name: name} }

func clusterIPService(ip string, ports ...v1.ServicePort) *v1.Service {
	return &v1.Service{ObjectMeta: named("web"), Spec: v1.ServiceSpec{ClusterIP: ip, ClusterIPs: []string{ip}, Ports: ports}}
}

func headlessService(name string) *v1.Service {
	return &v1.Service{ObjectMeta: named(name), Spec: v1.ServiceSpec{ClusterIP: v1.ClusterIPNone, Ports: []v1.ServicePort{{Name: "sql", Port: 5432}}}}
}

func alias(target string) *v1.Service {
	return &v1.Service{ObjectMeta: named("alias"), Spec: v1.ServiceSpec{Type: v1.ServiceTypeExternalName, ExternalName: target}}
}

// endpoint is an address with a hostname, or without, ready or not.
func endpoint(addr, hostname string, ready bool) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{Addresses: []string{addr}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}
	if hostname != "" {
		e.Hostname = &hostname
	}
	return e
}

func slice(service string, number int, eps ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	name, port := "sql", int32(5432)
	s := &discoveryv1.EndpointSlice{ObjectMeta: named(fmt.Sprintf("%s-%d", service, number)), AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port}}, Endpoints: eps}
	s.Labels = map[string]string{discoveryv1.LabelServiceName: service}
	return s
}

func many(from, n int) (eps []discoveryv1.Endpoint) {
	for i := from; i < from+n; i++ {
		eps = append(eps, endpoint(fmt.Sprintf("10.244.%d.%d", 100+i/250, 1+i%250), "", true))
	}
	return eps
}

func addresses(name string, from, n int) (lines []string) {
	for _, e := range many(from, n) {
		lines = append(lines, fmt.Sprintf("answer %s 5 A %s", name, e.Addresses[0]))
	}
	slices.Sort(lines)
	return lines
}

var (
	soa     = "authority cluster.local. 5 SOA"
	missing = []string{"NXDOMAIN", soa}
	noData  = []string{soa}
	web     = "web.live.svc.cluster.local."
	db      = "db.live.svc.cluster.local."
	aliasOf = "alias.live.svc.cluster.local."
)

// changes happen one after the other; after each, a name is asked for until it is right.
var changes = []struct {
	name  string
	put   []object
	gone  []object
	query string
	qtype string
	want  []string
}{
	{name: "no namespace yet", query: "live.svc.cluster.local.", qtype: "A", want: missing},
	{name: "namespace", put: []object{&v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: place}}},
		query: "live.svc.cluster.local.", qtype: "A", want: noData},
	{name: "pods of the namespace", query: "10-1-2-3.live.pod.cluster.local.", qtype: "A",
		want: []string{"answer 10-1-2-3.live.pod.cluster.local. 5 A 10.1.2.3"}},
	{name: "no service yet", query: web, qtype: "A", want: missing},
	{name: "service", put: []object{clusterIPService("10.96.7.1", v1.ServicePort{Name: "http", Port: 80})},
		query: web, qtype: "A", want: []string{"answer " + web + " 5 A 10.96.7.1"}},
	{name: "its address", query: "1.7.96.10.in-addr.arpa.", qtype: "PTR", want: []string{"answer 1.7.96.10.in-addr.arpa. 5 PTR " + web}},
	{name: "another port", put: []object{clusterIPService("10.96.7.1", v1.ServicePort{Name: "http", Port: 81})},
		query: "_http._tcp." + web, qtype: "SRV", want: []string{"additional " + web + " 5 A 10.96.7.1", "answer _http._tcp." + web + " 5 SRV 0 100 81 " + web}},
	{name: "service gone", gone: []object{clusterIPService("10.96.7.1")}, query: web, qtype: "A", want: missing},
	{name: "its address is somebody else's", query: "1.7.96.10.in-addr.arpa.", qtype: "PTR",
		want: []string{"answer 1.7.96.10.in-addr.arpa. 0 PTR elsewhere.", "flags qr rd ra"}},
	{name: "another of that name", put: []object{clusterIPService("10.96.7.2", v1.ServicePort{Name: "http", Port: 80})},
		query: web, qtype: "A", want: []string{"answer " + web + " 5 A 10.96.7.2"}},
	{name: "headless, nobody there", put: []object{headlessService("db")}, query: db, qtype: "A", want: missing},
	{name: "an endpoint", put: []object{slice("db", 0, endpoint("10.244.9.1", "db-0", true))},
		query: db, qtype: "A", want: []string{"answer " + db + " 5 A 10.244.9.1"}},
	{name: "its hostname", query: "db-0." + db, qtype: "A", want: []string{"answer db-0." + db + " 5 A 10.244.9.1"}},
	{name: "another address of that hostname", put: []object{slice("db", 0, endpoint("10.244.9.2", "db-0", true))},
		query: "db-0." + db, qtype: "A", want: []string{"answer db-0." + db + " 5 A 10.244.9.2"}},
	{name: "not ready", put: []object{slice("db", 0, endpoint("10.244.9.2", "db-0", false))}, query: db, qtype: "A", want: missing},
	{name: "scaled up, in another slice too", put: []object{slice("db", 0, many(0, 15)...), slice("db", 1, many(15, 5)...)},
		query: db, qtype: "A", want: addresses(db, 0, 20)},
	{name: "scaled down", gone: []object{slice("db", 1)}, query: db, qtype: "A", want: addresses(db, 0, 15)},
	{name: "scaled to nothing", put: []object{slice("db", 0)}, query: db, qtype: "A", want: missing},
	{name: "alias", put: []object{alias("web.live.svc.cluster.local")}, query: aliasOf, qtype: "A",
		want: []string{"answer " + aliasOf + " 5 CNAME " + web, "answer " + web + " 5 A 10.96.7.2"}},
	{name: "alias of something else", put: []object{alias("example.org")}, query: aliasOf, qtype: "A",
		want: []string{"answer " + aliasOf + " 5 CNAME example.org.", "answer example.org. 0 A 192.0.2.99"}},
	{name: "alias gone", gone: []object{alias("")}, query: aliasOf, qtype: "A", want: missing},
	{name: "namespace gone", gone: []object{clusterIPService("10.96.7.2"), headlessService("db"), slice("db", 0), &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: place}}},
		query: "live.svc.cluster.local.", qtype: "A", want: missing},
	{name: "pods of it too", query: "10-1-2-3.live.pod.cluster.local.", qtype: "A", want: missing},
}

// TestChanges makes objects come, change and go, and waits for the names to follow, over each
// transport.
func TestChanges(t *testing.T) {
	onEach(t, func(t *testing.T, from source) {
		s := startWeir(t, from.flags(t)...)
		query, err := dnstest.Query("cluster.local.", "SOA", false)
		if err != nil {
			t.Fatal(err)
		}
		s.answers(t, "udp4", query)
		for _, c := range changes {
			for _, o := range c.put {
				from.put(t, o)
			}
			for _, o := range c.gone {
				from.remove(t, o)
			}
			begin := time.Now()
			eventually(t, func() error { return right(s, "udp4", c.query, c.qtype, c.want) })
			timed(t, c.name, begin)
			for _, transport := range transports[1:] {
				if err := right(s, transport, c.query, c.qtype, c.want); err != nil {
					t.Errorf("%s: over udp4 it was right: %v", c.name, err)
				}
			}
		}
	})
}

// right returns nil if the answer is the one wanted.
func right(s *server, transport, name, qtype string, want []string) error {
	got, err := s.describe(transport, name, qtype)
	if err != nil {
		return err
	}
	if diff := cmp.Diff(want, got); diff != "" {
		return fmt.Errorf("%s %s over %s: -want +got\n%s", name, qtype, transport, diff)
	}
	return nil
}
