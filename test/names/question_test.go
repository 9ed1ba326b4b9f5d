//go:build linux

package names

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// question is what both servers are asked.
type question struct {
	name      string // in presentation form, in some case
	qtype     uint16
	class     uint16
	edns      int // the size that the client takes; -1: none
	do        bool
	version   uint8
	rd, cd    bool
	transport string
}

func (q question) String() string {
	s := fmt.Sprintf("%s %s", q.name, dns.Type(q.qtype))
	if q.class != dns.ClassINET {
		s += " " + dns.Class(q.class).String()
	}
	if q.edns >= 0 {
		s += fmt.Sprintf(" edns=%d,do=%v,version=%d", q.edns, q.do, q.version)
	}
	return fmt.Sprintf("%s rd=%v cd=%v over %s", s, q.rd, q.cd, q.transport)
}

func (q question) tcp() bool { return strings.HasPrefix(q.transport, "tcp") }

// pack writes the question as a message.
func (q question) pack(id uint16) ([]byte, error) {
	m := &dns.Msg{MsgHdr: dns.MsgHdr{Id: id, RecursionDesired: q.rd, CheckingDisabled: q.cd},
		Question: []dns.Question{{Name: q.name, Qtype: q.qtype, Qclass: q.class}}}
	if q.edns >= 0 {
		m.SetEdns0(uint16(q.edns), q.do)
		m.IsEdns0().SetVersion(q.version)
	}
	return m.Pack()
}

// asker draws questions.
type asker struct {
	random *rand.Rand
	names  []string // that there are, or nearly
	addrs  []string // of services and endpoints
}

func newAsker(random *rand.Rand, k *known) *asker {
	a := &asker{random: random}
	for addr := range k.addresses {
		a.addrs = append(a.addrs, addr.String())
	}
	slices.Sort(a.addrs)
	a.names = append(a.names, fixedNames...)
	for _, name := range sortedKeys(k.services) {
		a.names = append(a.names, k.services[name].names(name)...)
	}
	for _, space := range sortedKeys(k.spaces) {
		for _, kind := range []string{"svc", "pod"} {
			a.names = append(a.names, space+"."+kind+".cluster.local.", "missing."+space+"."+kind+".cluster.local.")
		}
		a.names = append(a.names, "10-1-2-3."+space+".pod.cluster.local.", "fd00--1."+space+".pod.cluster.local.")
	}
	return a
}

func sortedKeys[V any](m map[string]V) []string {
	var keys []string
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

var fixedNames = strings.Fields(`
cluster.local. svc.cluster.local. pod.cluster.local. local. . xcluster.local. cluster.local.cluster.local. kubernetes.default.svc.
dns-version.cluster.local. x.dns-version.cluster.local. ns.dns.cluster.local. dns.cluster.local. x.dns.cluster.local. x.ns.dns.cluster.local.
missing.svc.cluster.local. missing.pod.cluster.local. x.missing.svc.cluster.local. *.default.svc.cluster.local. any.default.svc.cluster.local.
_tcp.cluster.local. _http._tcp.cluster.local. _http._tcp.default.svc.cluster.local. _tcp.default.svc.cluster.local. a.b.c.d.default.svc.cluster.local.
world.test. v4.test. alias.test. nx.test. nx2.test. www.example.com.
world.test.default.svc.cluster.local. world.test.svc.cluster.local. world.test.cluster.local. www.example.com.odd.svc.cluster.local.
1-2-3.default.pod.cluster.local. 1-2-3-4-5.default.pod.cluster.local. 256-1-1-1.default.pod.cluster.local. 01-2-3-4.default.pod.cluster.local.
--1.default.pod.cluster.local. fd00--g.default.pod.cluster.local. pod.default.pod.cluster.local. 1--2-3-4.default.pod.cluster.local.
fd00-0-0-0-0-0-0-1.default.pod.cluster.local. --ffff-a01-203.default.pod.cluster.local. x.10-1-2-3.default.pod.cluster.local. _x._tcp.10-1-2-3.default.pod.cluster.local.
96.10.in-addr.arpa. 10.in-addr.arpa. in-addr.arpa. ip6.arpa. 1.2.3.4.5.in-addr.arpa. x.0.96.10.in-addr.arpa. 1.0.96.010.in-addr.arpa. d.f.ip6.arpa. 9.9.9.10.in-addr.arpa.
a\.b.default.svc.cluster.local. \000.default.svc.cluster.local. a\032b.default.svc.cluster.local.
`)

// names returns what could be asked of a service, and what is next to it.
func (s *knownService) names(name string) (list []string) {
	full := name + ".svc.cluster.local."
	short, space, _ := strings.Cut(name, ".")
	list = append(list, full, full, full, full) // more often than what is next to it
	for _, first := range []string{"x", "_tcp", "_udp", "_sctp", "tcp", "_http._tcp", "_x._udp", "http.tcp", "sql.tcp", "_http.tcp", "a.b.c"} {
		list = append(list, first+"."+full)
	}
	if len(short) == 63 {
		short = short[1:]
	}
	list = append(list, short+"x."+space+".svc.cluster.local.", short+"."+space+".pod.cluster.local.", short+".missing.svc.cluster.local.", full+"default.svc.cluster.local.")
	for _, port := range sortedKeys(s.ports) {
		list = append(list, port+"."+full, port+"."+full, "x."+port+"."+full, strings.ReplaceAll(port, "_", "")+"."+full)
	}
	labels := append(sortedKeys(s.hostnames), sortedKeys(s.dashed)...)
	for i, label := range labels {
		if i < 6 || i == len(labels)-1 {
			list = append(list, label+"."+full, label+"."+full, "x."+label+"."+full)
		}
	}
	return list
}

var (
	zoneTypes = []uint16{dns.TypeA, dns.TypeA, dns.TypeA, dns.TypeA, dns.TypeAAAA, dns.TypeAAAA, dns.TypeAAAA, dns.TypeSRV, dns.TypeSRV,
		dns.TypeSRV, dns.TypePTR, dns.TypeTXT, dns.TypeCNAME, dns.TypeSOA, dns.TypeNS, dns.TypeMX, dns.TypeANY, dns.TypeHTTPS, dns.TypeCAA,
		dns.TypeHINFO, dns.TypeDS, 65280}
	elsewhereTypes = []uint16{dns.TypeA, dns.TypeA, dns.TypeAAAA, dns.TypeTXT, dns.TypeMX}
	sizes          = []int{-1, -1, -1, -1, 512, 1232, 1232, 4096, 65535, 0}
)

// certain are questions that show what random ones may leave out.
var certain = []question{
	{name: "dns-version.cluster.local.", qtype: dns.TypeA, edns: -1},
	{name: "x.10-1-2-3.default.pod.cluster.local.", qtype: dns.TypeA, edns: -1},
	{name: "10-1-2-3.default.pod.cluster.local.", qtype: dns.TypeSRV, edns: -1},
	{name: "cluster.local.", qtype: dns.TypeNS, edns: -1},
	{name: "ns.dns.cluster.local.", qtype: dns.TypeA, edns: -1},
	{name: "ns.dns.cluster.local.", qtype: dns.TypeAAAA, edns: -1},
	{name: "ns.dns.cluster.LOCAL.", qtype: dns.TypeSRV, edns: -1},
	{name: "ip6.arpa.", qtype: dns.TypePTR, edns: -1},
	{name: "dns.odd.svc.cluster.local.", qtype: dns.TypeANY, edns: -1},
	{name: "dns.odd.svc.cluster.local.", qtype: dns.TypeSRV, edns: -1},
	{name: "dns.odd.svc.cluster.local.", qtype: dns.TypeAXFR, edns: -1},
	{name: "dns.odd.svc.cluster.local.", qtype: dns.TypeA, class: dns.ClassCHAOS, edns: -1},
	{name: "dns.odd.svc.cluster.local.", qtype: dns.TypeA, edns: 1232, do: true, version: 1},
	{name: "missing.odd.svc.cluster.local.", qtype: dns.TypeSOA, edns: -1},
	{name: "_tcp.dns.odd.svc.cluster.local.", qtype: dns.TypeA, edns: -1},
	{name: "dns.udp.dns.odd.svc.cluster.local.", qtype: dns.TypeSRV, edns: -1},
	{name: "10-244-200-1.dns.odd.svc.cluster.local.", qtype: dns.TypeA, edns: -1},
	{name: "1.200.244.10.in-addr.arpa.", qtype: dns.TypePTR, edns: -1},
	{name: "1.203.244.10.in-addr.arpa.", qtype: dns.TypePTR, edns: -1},
	{name: "1.203.244.10.in-addr.arpa.", qtype: dns.TypeA, edns: -1},
	{name: "set.odd.svc.cluster.local.", qtype: dns.TypeSRV, edns: -1},
	{name: "set-0.set.odd.svc.cluster.local.", qtype: dns.TypeSRV, edns: -1},
	{name: "to-self.odd.svc.cluster.local.", qtype: dns.TypeA, edns: -1},
	{name: "to-a.odd.svc.cluster.local.", qtype: dns.TypeAAAA, edns: -1},
	{name: "to-world-fail.odd.svc.cluster.local.", qtype: dns.TypeA, edns: -1},
	{name: "to-missing.odd.svc.cluster.local.", qtype: dns.TypeA, edns: -1},
	{name: "to-dns.odd.svc.cluster.local.", qtype: dns.TypeTXT, edns: -1},
	{name: "bigger.odd.svc.cluster.local.", qtype: dns.TypeA, edns: -1},
	{name: "big.odd.svc.cluster.local.", qtype: dns.TypeA, edns: 4096},
	{name: "bigger.odd.svc.cluster.local.", qtype: dns.TypeSRV, edns: 1232},
}

// next draws a question.
func (a *asker) next() question {
	q := question{name: a.name(), class: dns.ClassINET, rd: a.random.IntN(10) > 0, cd: a.random.IntN(20) == 0,
		edns: pick(a, sizes), transport: pick(a, []string{"udp4", "udp4", "udp4", "tcp4", "tcp4", "udp6", "tcp6"})}
	q.do = q.edns >= 0 && a.random.IntN(3) == 0
	if q.edns >= 0 && a.random.IntN(50) == 0 {
		q.version = 1
	}
	lower := strings.ToLower(q.name)
	switch {
	case inZone(lower):
		q.qtype = pick(a, zoneTypes)
		if a.random.IntN(100) == 0 {
			q.qtype = dns.TypeAXFR
		}
		if a.random.IntN(100) == 0 {
			q.class = dns.ClassCHAOS
		}
	case isReverse(lower):
		q.qtype = pick(a, []uint16{dns.TypePTR, dns.TypePTR, dns.TypePTR, dns.TypePTR, dns.TypePTR, dns.TypeA, dns.TypeTXT})
	default:
		q.qtype = pick(a, elsewhereTypes)
	}
	return q
}

func pick[T any](a *asker, from []T) T { return from[a.random.IntN(len(from))] }

func inZone(lower string) bool { return dns.IsSubDomain("cluster.local.", lower) }

func isReverse(lower string) bool {
	return dns.IsSubDomain("in-addr.arpa.", lower) || dns.IsSubDomain("ip6.arpa.", lower)
}

// name draws a name: one that there is or nearly, or the reverse one of an address, in some case.
func (a *asker) name() string {
	name := pick(a, a.names)
	if a.random.IntN(8) == 0 {
		name = a.reverse()
	}
	if a.random.IntN(4) > 0 {
		return name
	}
	b := []byte(name)
	for i, c := range b {
		if (c >= 'a' && c <= 'z') && a.random.IntN(2) == 0 {
			b[i] -= 'a' - 'A'
		}
	}
	return string(b)
}

// reverse draws the reverse name of an address of the cluster, or of the next one.
func (a *asker) reverse() string {
	addr := netip.MustParseAddr(pick(a, a.addrs))
	if a.random.IntN(5) == 0 {
		addr = addr.Next()
	}
	name, err := dns.ReverseAddr(addr.String())
	if err != nil {
		panic(err)
	}
	return name
}
