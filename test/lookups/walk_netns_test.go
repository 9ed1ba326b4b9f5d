//go:build linux

package lookups

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/weir-project/weir/internal/netlab"
)

// known are the names elsewhere that have an address of either family; others do not exist.
var known = map[string][]string{
	"www.example.org.":   {"192.0.2.1", "2001:db8::1"},
	"v4.example.org.":    {"192.0.2.2"},
	"mail.corp.example.": {"192.0.2.3"},
}

func elsewhere(m *dns.Msg, q dns.Question) {
	addrs, ok := known[strings.ToLower(q.Name)]
	h := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: 60}
	for _, a := range addrs {
		switch ip := netip.MustParseAddr(a); {
		case ip.Is4() && q.Qtype == dns.TypeA:
			m.Answer = append(m.Answer, &dns.A{Hdr: h, A: net.IP(ip.AsSlice())})
		case ip.Is6() && q.Qtype == dns.TypeAAAA:
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: h, AAAA: net.IP(ip.AsSlice())})
		}
	}
	if !ok {
		m.Rcode = dns.RcodeNameError
	}
	if len(m.Answer) == 0 {
		soa, _ := dns.NewRR("example. 60 SOA ns.example. host.example. 1 2 3 4 5")
		m.Ns = append(m.Ns, soa)
	}
}

const walkManifests = `
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, "fd00:10:96::1"], ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: db, namespace: other}, spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {nodeName: here}, status: {phase: Running, podIPs: [{ip: %s}, {ip: "%s"}]}}
`

// TestNetnsWalk has pods look names up with the resolvers that programs have, and counts the packets: two
// for each name, one for each family, where the pod is known.
func TestNetnsWalk(t *testing.T) {
	w := newWorld(t, elsewhere)
	podA, podB := w.lab.Host("podA"), w.lab.Host("podB")
	dir := t.TempDir()
	manifests := fmt.Sprintf(walkManifests, podA.Addr4, podA.Addr6)
	if err := os.WriteFile(filepath.Join(dir, "all.yaml"), []byte(manifests), 0o644); err != nil {
		t.Fatal(err)
	}
	node := resolvConf(t, "nameserver 127.0.0.1\nsearch corp.example\n")
	w.start(t, "--manifests", dir, "--search-walk", "--node-name", "here", "--resolv-conf", node)
	count(t, podA)
	count(t, podB) // which no manifest has
	for _, tt := range []struct {
		name         string
		want         []string
		known, other int // packets
	}{
		{"web", []string{"10.96.0.1", "fd00:10:96::1"}, 2, 2},
		{"db.other", []string{"10.96.0.2"}, 2, 4},
		{"db.other.svc", []string{"10.96.0.2"}, 2, 6},
		{"db.other.svc.cluster.local", []string{"10.96.0.2"}, 2, 10},
		{"www.example.org", known["www.example.org."], 2, 10},
		{"v4.example.org", known["v4.example.org."], 2, 10},
		{"mail", known["mail.corp.example."], 2, 8},
		{"www.example.org.", known["www.example.org."], 2, 2},
		{"nothing.example.org", nil, 10, 10},
	} {
		for _, r := range resolvers {
			for _, client := range []struct {
				name   string
				pod    *netlab.Host
				server netip.Addr
				want   int
			}{
				{"a pod", podA, w.node.Addr4, tt.known},
				{"a pod over IPv6", podA, w.node.Addr6, tt.known},
				{"a client that is not known", podB, w.node.Addr4, tt.other},
			} {
				addrs, packets := r.lookUp(t, client.pod, podConf(t, client.server, "default", "corp.example", "ndots:5"), tt.name)
				slices.Sort(addrs)
				if !slices.Equal(addrs, tt.want) || packets != client.want {
					t.Errorf("%s with %s, from %s: %v in %d packets, want %v in %d", tt.name, r.name, client.name, addrs, packets, tt.want, client.want)
				}
			}
		}
	}
}
