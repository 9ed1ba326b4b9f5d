package dns

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/dns/dnsmessage"

	"k8s.io/klog/v2"

	"github.com/weir-project/weir/dns/dnstest"
	upstreams "github.com/weir-project/weir/dns/forward"
	"github.com/weir-project/weir/endpoints"
)

// elsewhereNames answers names that are not the cluster's from a table, at once or later, and
// remembers for which it is asked.
type elsewhereNames struct {
	names map[string]string // the address of the only record, an rcode, or "nodata"
	later bool

	mu    sync.Mutex
	asked []string
}

func (e *elsewhereNames) answer(query []byte) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		panic(err)
	}
	q := m.Questions[0]
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	what, ok := e.names[q.Name.String()]
	header := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 60}
	soa := dnsmessage.Resource{Header: header, Body: &dnsmessage.SOAResource{NS: dnsmessage.MustNewName("ns.example."), MBox: q.Name, MinTTL: 60}}
	soa.Header.Name = dnsmessage.MustNewName("example.")
	switch {
	case !ok:
		m.RCode = dnsmessage.RCodeNameError
		m.Authorities = append(m.Authorities, soa)
	case what == "SERVFAIL":
		m.RCode = dnsmessage.RCodeServerFailure
	case what == "REFUSED":
		m.RCode = dnsmessage.RCodeRefused
	case q.Type == dnsmessage.TypeA && what != "nodata":
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AResource{A: netip.MustParseAddr(what).As4()}})
	default:
		m.Authorities = append(m.Authorities, soa)
	}
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return b
}

func (e *elsewhereNames) Forward(_ context.Context, query []byte, _ netip.AddrPort, _ bool, reply func([]byte)) {
	var q name
	q.read(query[headerLen:])
	e.mu.Lock()
	e.asked = append(e.asked, presentation(q.wire[:q.length]))
	e.mu.Unlock()
	if b := e.answer(query); e.later {
		go reply(b)
	} else {
		reply(b)
	}
}

// cachingNames is elsewhereNames with everything in its cache.
type cachingNames struct{ *elsewhereNames }

func (c cachingNames) AppendCached(dst, query []byte) ([]byte, bool) {
	return append(dst, c.answer(query)...), true
}

// walkZone has a zone with a few names in two namespaces.
func walkZone(t testing.TB) *Zone {
	e := endpoints.New(endpoints.Config{})
	names := e.Subscribe()
	cluster := func(ns, name string, addrs ...string) {
		s := &endpoints.Service{Name: endpoints.Name{Namespace: ns, Name: name}, Ports: []endpoints.Port{{Name: "http", Protocol: endpoints.TCP, Port: 80}}}
		for _, a := range addrs {
			s.ClusterIPs = append(s.ClusterIPs, netip.MustParseAddr(a))
		}
		e.SetService(s)
	}
	cluster("shop", "web", "10.96.0.1", "fd00:96::1")
	cluster("shop", "v4", "10.96.0.2")
	cluster("other", "db", "10.96.0.3")
	cluster("other", "v6", "fd00:96::4")
	for name, target := range map[string]string{"inside": "web.shop.svc.cluster.local", "outside": "www.example.org"} {
		e.SetService(&endpoints.Service{Name: endpoints.Name{Namespace: "other", Name: name}, NoProxy: true, ExternalName: target})
	}
	z := newTestZone(t, Config{Servers: []netip.Addr{netip.MustParseAddr("10.96.0.10")}})
	z.Update(names)
	return z
}

func pod(ns string, change func(*endpoints.Pod), addrs ...string) *endpoints.Pod {
	p := &endpoints.Pod{Name: endpoints.Name{Namespace: ns, Name: "pod-" + strings.Join(addrs, "-")}, ClusterFirst: true, NDots: -1}
	for _, a := range addrs {
		p.Addrs = append(p.Addrs, netip.MustParseAddr(a))
	}
	if change != nil {
		change(p)
	}
	return p
}

// walkClients are the pods of TestWalk.
func walkClients(z *Zone) *Clients {
	c := NewClients(z)
	c.SetNode([]string{"corp.example"})
	c.ReplacePods([]*endpoints.Pod{
		pod("shop", nil, "10.0.0.1", "fd00::1"),
		pod("other", nil, "10.0.0.2"),
		pod("shop", func(p *endpoints.Pod) { p.NDots = 1 }, "10.0.0.3"),
		pod("shop", func(p *endpoints.Pod) { p.Searches = []string{"lab.example", "corp.example."} }, "10.0.0.4"),
		pod("shop", func(p *endpoints.Pod) {
			p.ClusterFirst, p.NDots, p.Searches = false, 2, []string{"other.svc.cluster.local", "lab.example", "shop.svc.cluster.local"}
		}, "10.0.0.5"),
		pod("shop", func(p *endpoints.Pod) { p.ClusterFirst = false }, "10.0.0.6"),
		pod("shop", nil, "10.0.0.7"), // and another pod has it, too
		pod("other", nil, "10.0.0.7"),
		pod("shop", func(p *endpoints.Pod) { p.Searches = []string{strings.Repeat("a.", 120) + "example", "lab.example"} }, "10.0.0.8"),
	})
	return c
}

// foreignSOA is an SOA record that is not the zone's, as dnstest writes it.
var foreignSOA = regexp.MustCompile(`SOA {NS:(\S+) .*}`)

// TestWalk has clients ask for the first name of their walk, and others.
func TestWalk(t *testing.T) {
	const (
		none  = "NXDOMAIN\nauthority cluster.local. 5 SOA"
		first = "answer %s 5 CNAME %s"
	)
	alias := func(from, to string, more ...string) string {
		return strings.Join(append([]string{fmt.Sprintf(first, from, to)}, more...), "\n")
	}
	zone := walkZone(t)
	for _, tt := range []struct {
		name, client string
		query, qtype string
		want         string
		asked        string // of upstreams
	}{
		{"there is such a service", "10.0.0.1", "web.shop.svc.cluster.local.", "A",
			"answer web.shop.svc.cluster.local. 5 A 10.96.0.1", ""},
		{"service.namespace", "10.0.0.1", "db.other.shop.svc.cluster.local.", "A",
			alias("db.other.shop.svc.cluster.local.", "db.other.svc.cluster.local.", "answer db.other.svc.cluster.local. 5 A 10.96.0.3"), ""},
		{"service.namespace of the other family", "10.0.0.1", "db.other.shop.svc.cluster.local.", "AAAA",
			alias("db.other.shop.svc.cluster.local.", "db.other.svc.cluster.local.", "authority cluster.local. 5 SOA"), ""},
		{"service.namespace.svc", "10.0.0.1", "db.other.svc.shop.svc.cluster.local.", "A",
			alias("db.other.svc.shop.svc.cluster.local.", "db.other.svc.cluster.local.", "answer db.other.svc.cluster.local. 5 A 10.96.0.3"), ""},
		{"the whole name", "10.0.0.1", "db.other.svc.cluster.local.shop.svc.cluster.local.", "A",
			alias("db.other.svc.cluster.local.shop.svc.cluster.local.", "db.other.svc.cluster.local.", "answer db.other.svc.cluster.local. 5 A 10.96.0.3"),
			"db.other.svc.cluster.local.corp.example."},
		{"a service's port", "10.0.0.1", "_http._tcp.v4.shop.shop.svc.cluster.local.", "SRV",
			alias("_http._tcp.v4.shop.shop.svc.cluster.local.", "_http._tcp.v4.shop.svc.cluster.local.",
				"answer _http._tcp.v4.shop.svc.cluster.local. 5 SRV 0 100 80 v4.shop.svc.cluster.local.",
				"additional v4.shop.svc.cluster.local. 5 A 10.96.0.2"), ""},
		{"an alias on the way", "10.0.0.1", "inside.other.shop.svc.cluster.local.", "A",
			alias("inside.other.shop.svc.cluster.local.", "inside.other.svc.cluster.local.",
				"answer inside.other.svc.cluster.local. 5 CNAME web.shop.svc.cluster.local.", "answer web.shop.svc.cluster.local. 5 A 10.96.0.1"), ""},
		{"an alias that leads away", "10.0.0.1", "outside.other.shop.svc.cluster.local.", "A",
			alias("outside.other.shop.svc.cluster.local.", "outside.other.svc.cluster.local.",
				"answer outside.other.svc.cluster.local. 5 CNAME www.example.org.", "answer www.example.org. 60 A 192.0.2.1"), "www.example.org."},

		{"a name elsewhere", "10.0.0.1", "www.example.org.shop.svc.cluster.local.", "A",
			alias("www.example.org.shop.svc.cluster.local.", "www.example.org.", "answer www.example.org. 60 A 192.0.2.1"),
			"www.example.org.corp.example. www.example.org."},
		{"over IPv6", "fd00::1", "www.example.org.shop.svc.cluster.local.", "A",
			alias("www.example.org.shop.svc.cluster.local.", "www.example.org.", "answer www.example.org. 60 A 192.0.2.1"),
			"www.example.org.corp.example. www.example.org."},
		{"no data elsewhere", "10.0.0.1", "www.example.org.shop.svc.cluster.local.", "AAAA",
			alias("www.example.org.shop.svc.cluster.local.", "www.example.org.", "authority example. 60 SOA of ns.example."),
			"www.example.org.corp.example. www.example.org."},
		{"a name of the node's domain", "10.0.0.1", "mail.shop.svc.cluster.local.", "A",
			alias("mail.shop.svc.cluster.local.", "mail.corp.example.", "answer mail.corp.example. 60 A 192.0.2.2"), "mail.corp.example."},
		{"no data in the node's domain ends it", "10.0.0.1", "empty.shop.svc.cluster.local.", "A",
			alias("empty.shop.svc.cluster.local.", "empty.corp.example.", "authority example. 60 SOA of ns.example."),
			"empty.corp.example."},
		{"no such name anywhere", "10.0.0.1", "nothing.shop.svc.cluster.local.", "A", none, "nothing.corp.example. nothing."},
		{"somebody fails on the way", "10.0.0.1", "fails.shop.svc.cluster.local.", "A", none, "fails.corp.example."},
		{"somebody fails at the end", "10.0.0.1", "fails.example.org.shop.svc.cluster.local.", "A", none,
			"fails.example.org.corp.example. fails.example.org."},
		{"somebody refuses", "10.0.0.1", "refuses.example.org.shop.svc.cluster.local.", "A", none,
			"refuses.example.org.corp.example. refuses.example.org."},
		{"the name of a namespace has no data", "10.0.0.1", "other.shop.svc.cluster.local.", "A",
			alias("other.shop.svc.cluster.local.", "other.svc.cluster.local.", "authority cluster.local. 5 SOA"), ""},
		{"the case of the question stays", "10.0.0.1", "MAIL.Shop.svc.Cluster.local.", "A",
			alias("MAIL.Shop.svc.Cluster.local.", "mail.corp.example.", "answer mail.corp.example. 60 A 192.0.2.2"), "mail.corp.example."},
		{"as many dots as ndots", "10.0.0.1", "a.b.c.d.e.f.shop.svc.cluster.local.", "A", none, "a.b.c.d.e.f.corp.example."},
		{"one dot less", "10.0.0.1", "a.b.c.d.e.shop.svc.cluster.local.", "A", none, "a.b.c.d.e.corp.example. a.b.c.d.e."},
		{"ndots 1", "10.0.0.3", "www.example.org.shop.svc.cluster.local.", "A", none, "www.example.org.corp.example."},
		{"ndots 1, no dot", "10.0.0.3", "host.shop.svc.cluster.local.", "A",
			alias("host.shop.svc.cluster.local.", "host.", "answer host. 60 A 192.0.2.5"), "host.corp.example. host."},

		{"domains of the pod come last", "10.0.0.4", "printer.shop.svc.cluster.local.", "A",
			alias("printer.shop.svc.cluster.local.", "printer.lab.example.", "answer printer.lab.example. 60 A 192.0.2.3"),
			"printer.corp.example. printer.lab.example."},
		{"a list of the pod's own", "10.0.0.5", "web.other.svc.cluster.local.", "A",
			alias("web.other.svc.cluster.local.", "web.shop.svc.cluster.local.", "answer web.shop.svc.cluster.local. 5 A 10.96.0.1"), "web.lab.example."},
		{"a list of the pod's own begins elsewhere", "10.0.0.5", "mail.shop.svc.cluster.local.", "A", none, ""},
		{"no list", "10.0.0.6", "mail.shop.svc.cluster.local.", "A", none, ""},
		{"an address of two pods", "10.0.0.7", "mail.shop.svc.cluster.local.", "A", none, ""},
		{"a domain that is too long", "10.0.0.8", "a-somewhat-longer.name.printer.shop.svc.cluster.local.", "A", none,
			"a-somewhat-longer.name.printer.corp.example. a-somewhat-longer.name.printer.lab.example. a-somewhat-longer.name.printer."},

		{"another's namespace", "10.0.0.1", "mail.other.svc.cluster.local.", "A", none, ""},
		{"the second name", "10.0.0.1", "mail.svc.cluster.local.", "A", none, ""},
		{"the third name", "10.0.0.1", "mail.cluster.local.", "A", none, ""},
		{"a client that is not known", "10.0.0.99", "mail.shop.svc.cluster.local.", "A", none, ""},
		{"the namespace itself", "10.0.0.1", "shop.svc.cluster.local.", "A", "authority cluster.local. 5 SOA", ""},
		{"a namespace that is not there", "10.0.0.1", "mail.gone.svc.cluster.local.", "A", none, ""},
		{"a question about the name", "10.0.0.1", "mail.shop.svc.cluster.local.", "CNAME", none, ""},
		{"SOA", "10.0.0.1", "mail.shop.svc.cluster.local.", "SOA", none, ""},
		{"no data ends it at once", "10.0.0.1", "v4.shop.svc.cluster.local.", "AAAA", "authority cluster.local. 5 SOA", ""},
	} {
		for _, how := range []string{"at once", "later", "cached"} {
			t.Run(tt.name+"/"+how, func(t *testing.T) {
				e := &elsewhereNames{later: how == "later", names: map[string]string{
					"www.example.org.": "192.0.2.1", "mail.corp.example.": "192.0.2.2", "printer.lab.example.": "192.0.2.3", "host.": "192.0.2.5",
					"mail.": "192.0.2.66", "empty.corp.example.": "nodata", "empty.": "192.0.2.66", "fails.corp.example.": "SERVFAIL", "fails.": "192.0.2.66",
					"fails.example.org.": "SERVFAIL", "refuses.example.org.": "REFUSED", "other.": "192.0.2.66", "web.other.": "192.0.2.66",
				}}
				var f Forwarder = e
				if how == "cached" {
					f = cachingNames{e}
				}
				s := NewServer(ServerConfig{Zone: zone, Forwarder: f, Clients: walkClients(zone)})
				got, err := dnstest.Describe(s.answerTo(t, tt.client, newQuery(t, tt.query, tt.qtype, false)))
				if err != nil {
					t.Fatal(err)
				}
				for i, line := range got {
					got[i] = foreignSOA.ReplaceAllString(line, "SOA of $1")
				}
				want := strings.Split(tt.want, "\n")
				slices.Sort(want)
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("-want +got\n%s", diff)
				}
				if how != "cached" && strings.Join(e.asked, " ") != tt.asked {
					t.Errorf("asked for %q, want %q", e.asked, tt.asked)
				}
				walked := strings.Contains(tt.want, "CNAME")
				if n := s.Stats().Walks; (n == 1) != walked || n > 1 {
					t.Errorf("%d walks are counted", n)
				}
			})
		}
	}
}

// answerTo has the server answer one query as a worker does.
func (s *Server) answerTo(t testing.TB, client string, query []byte) []byte {
	t.Helper()
	addr := netip.MustParseAddr(client)
	r := s.newReply(func() netip.Addr { return addr })
	counters := s.newCounters(false, &net.UDPAddr{})
	b, o := r.respond(nil, query, false)
	switch o {
	case answered, cached:
		counters.walk(r.walked)
		return b
	case silent:
		t.Fatal("no answer")
	}
	sent := make(chan []byte, 1)
	if b := s.ask(t.Context(), &pending{aside: newAside(r, o), counters: counters, send: func(b []byte) { sent <- b }}, netip.AddrPortFrom(addr, 1)); b != nil {
		return b
	}
	return <-sent
}

// TestWalkCost holds that nobody's address is looked at without need, and that a walk whose end is
// known allocates nothing.
func TestWalkCost(t *testing.T) {
	zone := walkZone(t)
	cache := cachedAnswers(t, "www.example.org.", "www.example.org.corp.example.")
	for _, tt := range []struct {
		name, client, query string
		looked              int
		want                outcome
		rcode               uint16
	}{
		{"there is", "10.0.0.1", "web.shop.svc.cluster.local.", 0, answered, rcodeNoError},
		{"no data", "10.0.0.1", "shop.svc.cluster.local.", 0, answered, rcodeNoError},
		{"not in svc", "10.0.0.1", "www.example.org.cluster.local.", 0, answered, rcodeNXDomain},
		{"no namespace", "10.0.0.1", "mail.svc.cluster.local.", 0, answered, rcodeNXDomain},
		{"elsewhere", "10.0.0.1", "www.example.org.", 0, cached, rcodeNoError},
		{"a client that is not known", "10.0.0.99", "www.example.org.shop.svc.cluster.local.", 1, answered, rcodeNXDomain},
		{"in another namespace", "10.0.0.1", "www.example.org.other.svc.cluster.local.", 1, answered, rcodeNXDomain},
		{"within the zone", "10.0.0.1", "db.other.shop.svc.cluster.local.", 1, answered, rcodeNoError},
		{"to the cache", "10.0.0.1", "www.example.org.shop.svc.cluster.local.", 1, cached, rcodeNoError},
		{"over IPv6", "fd00::1", "www.example.org.shop.svc.cluster.local.", 1, cached, rcodeNoError},
	} {
		looked, addr := 0, netip.MustParseAddr(tt.client)
		s := NewServer(ServerConfig{Zone: zone, Forwarder: cache, Clients: walkClients(zone)})
		r := s.newReply(func() netip.Addr { looked++; return addr })
		query := withOPT(newQuery(t, tt.query, "A", false), 1232, 0, false)
		buf := make([]byte, 0, maxUDP)
		if b, o := r.respond(buf, query, false); o != tt.want || rcodeOf(b) != tt.rcode {
			t.Errorf("%s: outcome %d, answer %x", tt.name, o, b)
		}
		if looked != tt.looked {
			t.Errorf("%s: the client is looked at %d times, want %d", tt.name, looked, tt.looked)
		}
		if n := testing.AllocsPerRun(100, func() { r.respond(buf, query, false) }); n != 0 {
			t.Errorf("%s: %v allocations", tt.name, n)
		}
	}
}

// cachedAnswers is a forwarder that has asked for some names already. The first one has an address.
func cachedAnswers(t testing.TB, names ...string) *upstreams.Forwarder {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	e := &elsewhereNames{names: map[string]string{names[0]: "192.0.2.1"}}
	go func() {
		b := make([]byte, maxUDP)
		for {
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if err := m.Unpack(b[:n]); err != nil {
				continue
			}
			asked := m.Questions[0].Name
			m.Questions[0].Name = dnsmessage.MustNewName(strings.ToLower(asked.String()))
			query, err := m.Pack()
			if err != nil {
				continue
			}
			answer := e.answer(query)
			copy(answer[headerLen:], b[headerLen:headerLen+asked.Length]) // the length in text is not too long
			_, _ = conn.WriteTo(answer, from)
		}
	}()
	f := upstreams.New(upstreams.Options{Logger: klog.Background()}, upstreams.Config{Upstreams: []netip.AddrPort{conn.LocalAddr().(*net.UDPAddr).AddrPort()}})
	runs(t, f.Run)
	for _, name := range names {
		for _, q := range [][]byte{newQuery(t, name, "A", false), newQuery(t, name, "AAAA", false)} {
			for _, q := range [][]byte{q, withOPT(q, 1232, 0, false)} {
				done := make(chan []byte, 1)
				f.Forward(t.Context(), q, netip.AddrPort{}, false, func(b []byte) { done <- b })
				if b := <-done; rcodeOf(b) != rcodeNoError && rcodeOf(b) != rcodeNXDomain {
					t.Fatalf("%s: %x", name, b)
				}
			}
		}
	}
	return f
}

// TestWalkLong has walks end at more than the client takes.
func TestWalkLong(t *testing.T) {
	zone := walkZone(t)
	s := NewServer(ServerConfig{Zone: zone, Forwarder: many{}, Clients: walkClients(zone)})
	r := s.newReply(func() netip.Addr { return netip.MustParseAddr("10.0.0.3") })
	query := newQuery(t, "www.shop.svc.cluster.local.", "A", false)
	for _, tt := range []struct {
		name  string
		query []byte
		tcp   bool
		want  int
		tc    bool
	}{
		{"UDP", query, false, 28, true}, // 512 bytes: the alias is as long as one address
		{"EDNS", withOPT(query, 4096, 0, false), false, 72, true},
		{"TCP", query, true, 1_000, false},
	} {
		b, o := r.respond(nil, tt.query, tt.tcp)
		var m dnsmessage.Message
		if err := m.Unpack(b); err != nil || o != cached {
			t.Fatalf("%s: outcome %d, %v", tt.name, o, err)
		}
		if len(b) > r.query.limit(tt.tcp) || len(m.Answers) != 1+tt.want || m.Truncated != tt.tc {
			t.Errorf("%s: %d bytes, %d records behind the alias, truncated %v; want %d, %v", tt.name, len(b), len(m.Answers)-1, m.Truncated, tt.want, tt.tc)
		}
		for _, a := range m.Answers[1:] {
			if a.Header.Name.String() != "www." {
				t.Fatalf("%s: %v", tt.name, a)
			}
		}
	}
	// Behind other answers in the same buffer, as on a TCP connection.
	b, _ := r.respond(make([]byte, 5_000), query, true)
	var m dnsmessage.Message
	if err := m.Unpack(b[5_000:]); err != nil || len(m.Answers) != 1_001 {
		t.Errorf("behind another answer: %d records, %v", len(m.Answers), err)
	}
}

// many knows a thousand addresses of www, and nothing else.
type many struct{ Forwarder }

func (many) AppendCached(dst, query []byte) ([]byte, bool) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		panic(err)
	}
	m.Response, m.Additionals = true, nil
	if m.Questions[0].Name.String() != "www." {
		m.RCode = dnsmessage.RCodeNameError
	} else {
		for i := range 1_000 {
			m.Answers = append(m.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET, TTL: 60},
				Body:   &dnsmessage.AResource{A: bigAddr(i).As4()},
			})
		}
	}
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return append(dst, b...), true
}

// BenchmarkWalk is what the first name of a search list costs, the kernel left aside, beside a name of
// the zone and one from the cache.
func BenchmarkWalk(b *testing.B) {
	zone := walkZone(b)
	cache := cachedAnswers(b, "www.example.org.", "www.example.org.corp.example.")
	for _, bench := range []struct{ name, client, query string }{
		{"positive", "10.0.0.1", "web.shop.svc.cluster.local."},
		{"negative", "", "db.other.shop.svc.cluster.local."},
		{"negative-unknown-client", "10.0.0.99", "db.other.shop.svc.cluster.local."},
		{"cached", "10.0.0.1", "www.example.org."},
		{"walk-in-zone", "10.0.0.1", "db.other.shop.svc.cluster.local."},
		{"walk-cached", "10.0.0.1", "www.example.org.shop.svc.cluster.local."},
	} {
		b.Run("query="+bench.name, func(b *testing.B) {
			c := ServerConfig{Zone: zone, Forwarder: cache}
			addr := netip.Addr{}
			if bench.client != "" {
				c.Clients, addr = walkClients(zone), netip.MustParseAddr(bench.client)
			}
			r := NewServer(c).newReply(func() netip.Addr { return addr })
			query := newQuery(b, bench.query, "A", false)
			buf := make([]byte, 0, maxUDP)
			b.ReportAllocs()
			for b.Loop() {
				r.respond(buf, query, false)
			}
		})
	}
}

// anything is a forwarder that has the same bytes for every query.
type anything struct {
	Forwarder
	response []byte
}

func (a *anything) AppendCached(dst, _ []byte) ([]byte, bool) {
	return append(dst, a.response...), true
}

// FuzzWalk holds that no query of a client whose search list is known, and no answer from elsewhere,
// does harm: what comes out can be read, fits, belongs to its question, and costs no allocation.
func FuzzWalk(f *testing.F) {
	zone := walkZone(f)
	e := &elsewhereNames{names: map[string]string{"www.example.org.": "192.0.2.1", "empty.": "nodata", "fails.": "SERVFAIL"}}
	for _, name := range []string{"www.example.org.", "empty.", "fails.", "db.other.", "outside.other.", "nothing.", "other.", "web."} {
		response := e.answer(newQuery(f, name, "A", false))
		for _, qtype := range []string{"A", "AAAA", "SRV", "CNAME"} {
			query := newQuery(f, name+"shop.svc.cluster.local.", qtype, false)
			f.Add(query, response, false)
			f.Add(withOPT(query, 1232, 0, true), response, true)
		}
	}
	from := &anything{}
	r := NewServer(ServerConfig{Zone: zone, Forwarder: from, Clients: walkClients(zone)}).newReply(func() netip.Addr { return netip.MustParseAddr("10.0.0.4") })
	r.cached, r.asked = make([]byte, 0, 4*maxTCP), make([]byte, 0, maxTCP)
	buf := make([]byte, 0, 4*maxTCP)
	f.Fuzz(func(t *testing.T, msg, response []byte, tcp bool) {
		if len(response) > maxTCP {
			return
		}
		from.response = response
		if n := testing.AllocsPerRun(1, func() { r.respond(buf, msg, tcp) }); n != 0 {
			t.Errorf("%v allocations", n)
		}
		b, outcome := r.respond(buf, msg, tcp)
		if outcome != answered && !(outcome == cached && r.walked) {
			return
		}
		if len(b) > r.query.limit(tcp) || b[0] != msg[0] || b[1] != msg[1] {
			t.Fatalf("answer of %d bytes: %x", len(b), b)
		}
		q := r.query
		if q.end == 0 || string(b[headerLen:q.end]) != string(msg[headerLen:q.end]) {
			return
		}
		at := q.end
		for range int(binary.BigEndian.Uint16(b[6:])) + int(binary.BigEndian.Uint16(b[8:])) + int(binary.BigEndian.Uint16(b[10:])) {
			if at = skipName(b, at); at == 0 || at+10 > len(b) {
				t.Fatalf("answer %x", b)
			}
			at += 10 + int(binary.BigEndian.Uint16(b[at+8:]))
		}
		if at != len(b) {
			t.Fatalf("%d bytes of records in an answer of %d: %x", at, len(b), b)
		}
	})
}
