package dns

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/weir-project/weir/endpoints"
)

// cluster is an engine with services in it, and the zone that follows.
type cluster struct {
	engine *endpoints.Engine
	names  *endpoints.Subscription
	zone   *Zone
}

func newCluster(t testing.TB) *cluster {
	e := endpoints.New(endpoints.Config{})
	return &cluster{e, e.Subscribe(), newTestZone(t, Config{})}
}

// services adds n services with a cluster IP and a named port.
func (c *cluster) services(n int) {
	for i := range n {
		c.engine.SetService(&endpoints.Service{
			Name:       endpoints.Name{Namespace: fmt.Sprint("namespace-", i%50), Name: fmt.Sprint("service-", i)},
			ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)})},
			Ports:      []endpoints.Port{{Name: "http", Protocol: endpoints.TCP, Port: 80}},
		})
	}
	c.zone.Update(c.names)
}

var bigName = endpoints.Name{Namespace: "default", Name: "big"}

// headless adds the service big with n endpoints, 100 to a slice, in the order of their addresses.
func (c *cluster) headless(n int) {
	c.engine.SetService(&endpoints.Service{Name: bigName, Headless: true})
	for first := 0; first < n; first += 100 {
		c.engine.SetSlice(bigSlice(first/100, min(100, n-first), first))
	}
	c.zone.Update(c.names)
}

func bigSlice(number, n, first int) *endpoints.Slice {
	s := &endpoints.Slice{
		Name: endpoints.Name{Namespace: "default", Name: fmt.Sprintf("big-%04d", number)}, Service: bigName, Family: endpoints.IPv4,
		Ports: []endpoints.SlicePort{{Name: "sql", Protocol: endpoints.TCP, Port: 5432}},
	}
	for i := first; i < first+n; i++ {
		s.Endpoints = append(s.Endpoints, endpoints.Endpoint{Addr: bigAddr(i), Where: &endpoints.Where{}, Conditions: endpoints.Ready})
	}
	return s
}

func bigAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 200, byte(i >> 8), byte(i)}) }

// serveCluster serves what is in a cluster.
func (c *cluster) serve(t testing.TB, config ServerConfig) netip.AddrPort {
	c.engine.ReplaceNamespaces(nil)
	c.engine.ReplaceSlices(c.engine.Slices(bigName))
	var list []*endpoints.Service
	for _, name := range c.engine.Services() {
		list = append(list, c.engine.Service(name))
	}
	c.engine.ReplaceServices(list)
	runs(t, func(ctx context.Context) error { return c.zone.Run(ctx, c.names, nil) })
	config.Zone = c.zone
	return serve(t, config)
}

func rcodeOf(b []byte) uint16 { return uint16(b[3] & 0xf) }
func truncated(b []byte) bool { return binary.BigEndian.Uint16(b[2:])&flagTC != 0 }
func answersIn(b []byte) int  { return int(binary.BigEndian.Uint16(b[6:])) }
func optIn(b []byte) []byte { // the last 11 bytes, if they are an OPT record
	if b[11] == 0 {
		return nil
	}
	return b[len(b)-optLen:]
}

// TestMessages sends what is not an ordinary query.
func TestMessages(t *testing.T) {
	c := newCluster(t)
	c.services(1)
	addr := c.serve(t, ServerConfig{Forwarder: upstream{}})
	good := newQuery(t, "service-0.namespace-0.svc.cluster.local.", "A", false)
	change := func(f func(b []byte) []byte) []byte { return f(slices.Clone(good)) }
	at := func(i int, v byte) []byte { return change(func(b []byte) []byte { b[i] = v; return b }) }
	for _, tt := range []struct {
		name  string
		query []byte
		want  int // response code; -1: no answer
	}{
		{"good", good, rcodeNoError},
		{"nothing", []byte{}, -1},
		{"eleven bytes", good[:11], -1},
		{"a response", at(2, 0x81), -1},
		{"header alone", good[:12], rcodeFormErr},
		{"no question", at(5, 0), rcodeFormErr},
		{"two questions", at(5, 2), rcodeFormErr},
		{"an answer", at(7, 1), rcodeFormErr},
		{"an authority", at(9, 1), rcodeFormErr},
		{"additional records that are not there", at(11, 1), rcodeFormErr},
		{"too many additional records", at(11, 3), rcodeFormErr},
		{"name cut", good[:20], rcodeFormErr},
		{"type cut", good[:len(good)-3], rcodeFormErr},
		{"a pointer for a name", append(slices.Clone(good[:12]), 0xc0, 12, 0, 1, 0, 1), rcodeFormErr},
		{"a label of 64", append(append(slices.Clone(good[:12]), 64), make([]byte, 80)...), rcodeFormErr},
		{"a name of 256", append(slices.Clone(good[:12]), longName(256)...), rcodeFormErr},
		{"a name of 255", append(slices.Clone(good[:12]), longName(255)...), rcodeNoError}, // forwarded
		{"notify", at(2, 4<<3|1), rcodeNotImp},
		{"update", at(2, 5<<3), rcodeNotImp},
		{"type OPT", change(func(b []byte) []byte { b[len(b)-3] = typeOPT; return b }), rcodeFormErr},
		{"transfer", change(func(b []byte) []byte { b[len(b)-3] = 252; return b }), rcodeRefused},
		{"class ANY", change(func(b []byte) []byte { b[len(b)-1] = 255; return b }), rcodeRefused},
		{"EDNS", withOPT(good, 4096, 0, false), rcodeNoError},
		{"EDNS twice", withOPT(withOPT(good, 4096, 0, false), 4096, 0, false), rcodeFormErr},
		{"bytes behind", append(slices.Clone(good), 1, 2, 3), rcodeNoError},
	} {
		for _, transport := range []string{"udp", "tcp"} {
			t.Run(tt.name+"/"+transport, func(t *testing.T) {
				conn := dial(t, transport, addr)
				if transport == "tcp" && len(tt.query) == 0 {
					t.Skip("a length of 0")
				}
				conn.send(t, tt.query)
				wait := 5 * time.Second
				if tt.want < 0 {
					wait = 50 * time.Millisecond
				}
				b := conn.receive(t, wait)
				switch {
				case b == nil && tt.want < 0:
				case b == nil || tt.want < 0 || int(rcodeOf(b)) != tt.want:
					t.Errorf("answer %x, want response code %d", b, tt.want)
				case b[0] != 0x12 || b[1] != 0x34 || b[2]&0x80 == 0:
					t.Errorf("answer %x", b)
				}
			})
		}
	}
	if b := dial(t, "udp", addr).ask(t, good); rcodeOf(b) != 0 || answersIn(b) != 1 {
		t.Errorf("afterwards: %x", b)
	}
}

// longName returns a question with a name of n bytes.
func longName(n int) []byte {
	var b []byte
	for n > 1 {
		l := min(n-2, maxLabel)
		b = append(append(b, byte(l)), make([]byte, l)...)
		n -= l + 1
	}
	return append(b, 0, 0, 1, 0, 1)
}

func TestEDNS(t *testing.T) {
	c := newCluster(t)
	c.services(1)
	addr := c.serve(t, ServerConfig{})
	conn := dial(t, "udp", addr)
	good := newQuery(t, "service-0.namespace-0.svc.cluster.local.", "A", false)
	if opt := optIn(conn.ask(t, good)); opt != nil {
		t.Errorf("an OPT record %x that nobody asked for", opt)
	}
	plain := []byte{0, 0, typeOPT, maxUDP >> 8, maxUDP & 0xff, 0, 0, 0, 0, 0, 0}
	withDO := slices.Clone(plain)
	withDO[7] = 0x80
	bad := slices.Clone(plain)
	bad[5] = 1 // the upper bits of BADVERS
	for _, tt := range []struct {
		name  string
		query []byte
		want  []byte
	}{
		{"small", withOPT(good, 0, 0, false), plain},
		{"DO", withOPT(good, 4096, 0, true), withDO},
		{"options", withOPT(good, 4096, 0, false, 0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8), plain},
		{"a version to come", withOPT(good, 4096, 1, false), bad},
		{"no such name", withOPT(newQuery(t, "x.svc.cluster.local", "A", false), 1232, 0, false), plain},
	} {
		if got := optIn(conn.ask(t, tt.query)); !slices.Equal(got, tt.want) {
			t.Errorf("%s: OPT record %x, want %x", tt.name, got, tt.want)
		}
	}
	if b := conn.ask(t, withOPT(good, 4096, 1, false)); answersIn(b) != 0 || rcodeOf(b) != 0 {
		t.Errorf("a version to come is answered %x", b)
	}
}

// TestLarge asks for a headless service with more endpoints than fit.
func TestLarge(t *testing.T) {
	for _, tt := range []struct {
		endpoints      int
		udp, edns, tcp int // how many are answered
	}{
		{10, 10, 10, 10},
		{1_000, 29, 73, 1_000},
		{5_000, 29, 73, 4_093},
	} {
		t.Run(fmt.Sprint("endpoints=", tt.endpoints), func(t *testing.T) {
			c := newCluster(t)
			c.headless(tt.endpoints)
			addr := c.serve(t, ServerConfig{})
			udp, tcp := dial(t, "udp", addr), dial(t, "tcp", addr)
			query := newQuery(t, "big.default.svc.cluster.local", "A", false)
			check := func(what string, b []byte, limit, want int, tc bool) {
				t.Helper()
				if len(b) > limit || truncated(b) != tc {
					t.Errorf("%s: %d bytes, truncated %v", what, len(b), truncated(b))
				}
				seen := map[string]bool{}
				var m dnsmessage.Message
				if err := m.Unpack(b); err != nil {
					t.Fatal(err)
				}
				for _, r := range m.Answers {
					seen[r.GoString()] = true
				}
				if len(seen) != want || answersIn(b) != want {
					t.Errorf("%s: %d answers, %d of them different; want %d", what, answersIn(b), len(seen), want)
				}
			}
			check("UDP", udp.ask(t, query), 512, tt.udp, tt.endpoints > tt.udp)
			check("EDNS", udp.ask(t, withOPT(query, 4096, 0, false)), 1232, tt.edns, tt.endpoints > tt.edns)
			check("TCP", tcp.ask(t, query), 65535, tt.tcp, false)
			srv := newQuery(t, "_sql._tcp.big.default.svc.cluster.local", "SRV", false)
			check("SRV", udp.ask(t, srv), 512, answersIn(udp.ask(t, srv)), true)
			if b := tcp.ask(t, srv); answersIn(b) < min(tt.endpoints, 900) || truncated(b) {
				t.Errorf("SRV over TCP: %d answers", answersIn(b))
			}
		})
	}
}

// TestOrder holds that every endpoint comes first about as often as any other.
func TestOrder(t *testing.T) {
	for _, n := range []int{3, 200} {
		c := newCluster(t)
		c.headless(n)
		r := &reply{zone: c.zone}
		query := newQuery(t, "big.default.svc.cluster.local", "A", false)
		first := map[[4]byte]int{}
		const each = 1_000
		buf := make([]byte, 0, maxUDP)
		for range n * each {
			b, _ := r.respond(buf, query, false)
			at := len(query) + rrLen
			first[[4]byte(b[at:at+4])]++
		}
		for a, times := range first {
			if times < each*8/10 || times > each*12/10 {
				t.Errorf("%d endpoints: %v comes first %d times of %d, want about %d", n, a, times, n*each, each)
			}
		}
		if len(first) != n {
			t.Errorf("%d of %d endpoints come first", len(first), n)
		}
	}
}

// TestChanges asks after each of many changes for what has changed.
func TestChanges(t *testing.T) {
	c := newCluster(t)
	c.headless(250)
	addr := c.serve(t, ServerConfig{})
	conn := dial(t, "tcp", addr)
	query := newQuery(t, "big.default.svc.cluster.local", "A", false)
	for i := range 50 {
		c.engine.SetSlice(bigSlice(2, 50+i, 200))
		deadline := time.Now().Add(5 * time.Second)
		for answersIn(conn.ask(t, query)) != 250+i {
			if time.Now().After(deadline) {
				t.Fatalf("%d endpoints are never seen", 250+i)
			}
		}
	}
	name := endpoints.Name{Namespace: "default", Name: "new"}
	fresh := newQuery(t, "new.default.svc.cluster.local", "A", false)
	for i := range 50 {
		if b := conn.ask(t, fresh); rcodeOf(b) != rcodeNXDomain {
			t.Fatalf("round %d: before: %x", i, b)
		}
		c.engine.SetService(&endpoints.Service{Name: name, ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.1.1")}})
		for rcodeOf(conn.ask(t, fresh)) != 0 {
		}
		c.engine.DeleteService(name)
		for rcodeOf(conn.ask(t, fresh)) == 0 {
		}
	}
}

// TestNoMixture asks while all endpoints of a service, or all of a service, are replaced at once:
// every answer is what was before or what is after.
func TestNoMixture(t *testing.T) {
	c := newCluster(t)
	c.headless(100)
	name := endpoints.Name{Namespace: "default", Name: "web"}
	web := func(i int) *endpoints.Service {
		return &endpoints.Service{Name: name, ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 96, 0, byte(i)})},
			Ports: []endpoints.Port{{Name: "p", Protocol: endpoints.TCP, Port: uint16(i)}}}
	}
	c.engine.SetService(web(1))
	c.zone.Update(c.names)
	done := make(chan struct{})
	failed := make(chan string, 2)
	ask := func(qtype, name string, check func(b []byte, m dnsmessage.Message) bool) {
		r := &reply{zone: c.zone}
		query := newQuery(t, name, qtype, false)
		for {
			select {
			case <-done:
				failed <- ""
				return
			default:
			}
			b, _ := r.respond(nil, query, true)
			var m dnsmessage.Message
			if err := m.Unpack(b); err != nil || !check(b, m) {
				failed <- fmt.Sprintf("%s %s: %v %v", name, qtype, m, err)
				return
			}
		}
	}
	go ask("A", "big.default.svc.cluster.local", func(_ []byte, m dnsmessage.Message) bool {
		kind := -1
		for _, a := range m.Answers {
			k := int(a.Body.(*dnsmessage.AResource).A[2])
			if kind >= 0 && k != kind {
				return false
			}
			kind = k
		}
		return len(m.Answers) == 100
	})
	go ask("SRV", "_p._tcp.web.default.svc.cluster.local", func(_ []byte, m dnsmessage.Message) bool {
		return len(m.Answers) == 1 && len(m.Additionals) == 1 &&
			m.Answers[0].Body.(*dnsmessage.SRVResource).Port == uint16(m.Additionals[0].Body.(*dnsmessage.AResource).A[3])
	})
	for i := range 300 {
		c.engine.SetSlice(bigSlice(0, 100, i%2<<8))
		c.engine.SetService(web(1 + i%2))
		c.zone.Update(c.names)
		if len(failed) > 0 {
			break
		}
	}
	close(done)
	for range 2 {
		if s := <-failed; s != "" {
			t.Error(s)
		}
	}
}

// slow answers a name that begins with s after a time, and others at once; and never one with n.
type slow struct {
	wait  time.Duration
	asked atomic.Int32
}

func (s *slow) Forward(ctx context.Context, query []byte, client netip.AddrPort, tcp bool, reply func([]byte)) {
	s.asked.Add(1)
	if !client.Addr().IsLoopback() || client.Port() == 0 {
		panic(client)
	}
	b := slices.Clone(query)
	b[2] |= 0x80
	switch query[headerLen+1] {
	case 's':
		time.AfterFunc(s.wait, func() { reply(b) })
	case 'n':
	default:
		reply(b)
	}
}

// TestPipelined has a quick answer overtake a slow one on the same connection.
func TestPipelined(t *testing.T) {
	c := newCluster(t)
	c.services(1)
	addr := c.serve(t, ServerConfig{Forwarder: &slow{wait: 100 * time.Millisecond}})
	conn := dial(t, "tcp", addr)
	for i, name := range []string{"slow.org", "quick.org", "service-0.namespace-0.svc.cluster.local"} {
		q := newQuery(t, name, "A", false)
		q[1] = byte(i)
		conn.send(t, q)
	}
	if err := conn.Conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	var order []byte
	for range 3 {
		b := conn.receive(t, 5*time.Second)
		if b == nil {
			t.Fatal("an answer is missing")
		}
		order = append(order, b[1])
	}
	if !slices.Equal(order, []byte{1, 2, 0}) {
		t.Errorf("answers in the order %v", order)
	}
	if b := conn.receive(t, 5*time.Second); b != nil {
		t.Errorf("another answer: %x", b)
	}
}

// TestOutstanding asks for more than the forwarder may be asked for.
func TestOutstanding(t *testing.T) {
	c := newCluster(t)
	c.services(1)
	f := &slow{}
	addr := c.serve(t, ServerConfig{Forwarder: f, Outstanding: 3})
	conn := dial(t, "udp", addr)
	for range 3 {
		conn.send(t, newQuery(t, "never.org", "A", false))
	}
	if b := conn.ask(t, newQuery(t, "quick.org", "A", false)); rcodeOf(b) != rcodeServFail {
		t.Errorf("answered %x", b)
	}
	if n := f.asked.Load(); n != 3 {
		t.Errorf("asked for %d", n)
	}
	if b := conn.ask(t, newQuery(t, "service-0.namespace-0.svc.cluster.local", "A", false)); answersIn(b) != 1 {
		t.Errorf("the zone is answered %x", b)
	}
}

// TestConnections opens more connections than there may be.
func TestConnections(t *testing.T) {
	c := newCluster(t)
	c.services(1)
	addr := c.serve(t, ServerConfig{Connections: 3, Idle: 200 * time.Millisecond})
	query := newQuery(t, "service-0.namespace-0.svc.cluster.local", "A", false)
	var conns []*client
	for range 4 {
		conn := dial(t, "tcp", addr)
		conn.ask(t, query)
		conns = append(conns, conn)
	}
	if b := conns[0].receive(t, time.Second); b != nil {
		t.Errorf("answer %x", b)
	}
	if _, err := conns[0].Write([]byte{0}); err == nil {
		time.Sleep(20 * time.Millisecond)
		if _, err = conns[0].Write([]byte{0}); err == nil {
			t.Error("the oldest of too many connections is still there")
		}
	}
	time.Sleep(400 * time.Millisecond)
	if n, err := conns[3].Conn.Read(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes on a connection that was idle", n)
	}
}

// TestAnyAddress answers from the address that was asked, on sockets for every address.
func TestAnyAddress(t *testing.T) {
	c := newCluster(t)
	c.services(1)
	for listen, ask := range map[string]string{"0.0.0.0:0": "127.0.0.9", "[::]:0": "::1"} {
		t.Run(listen, func(t *testing.T) {
			c := newCluster(t)
			c.services(1)
			addr := c.serve(t, ServerConfig{Listen: []netip.AddrPort{netip.MustParseAddrPort(listen)}})
			conn := dial(t, "udp", netip.AddrPortFrom(netip.MustParseAddr(ask), addr.Port())) // connected: takes answers from there only
			if b := conn.ask(t, newQuery(t, "service-0.namespace-0.svc.cluster.local", "A", false)); answersIn(b) != 1 {
				t.Errorf("answer %x", b)
			}
		})
	}
}

// TestNotSynced does not listen before the zone is complete.
func TestNotSynced(t *testing.T) {
	c := newCluster(t)
	runs(t, func(ctx context.Context) error { return c.zone.Run(ctx, c.names, nil) })
	s := NewServer(ServerConfig{Zone: c.zone, Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}})
	runs(t, s.Run)
	time.Sleep(50 * time.Millisecond)
	if s.Serving() {
		t.Error("serving before anything is known")
	}
	c.engine.ReplaceNamespaces(nil)
	c.engine.ReplaceServices(nil)
	c.engine.ReplaceSlices(nil)
	for deadline := time.Now().Add(5 * time.Second); !s.Serving(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never serving")
		}
	}
}

// TestLogQuery tells of queries by who answers.
func TestLogQuery(t *testing.T) {
	for _, transport := range []string{"udp", "tcp"} {
		c := newCluster(t)
		c.services(1)
		told := make(chan QueryLog, 10)
		addr := c.serve(t, ServerConfig{Forwarder: upstream{}, LogQuery: func(q QueryLog) { told <- q }})
		conn := dial(t, transport, addr)
		for _, tt := range []struct{ name, qtype, want string }{
			{"missing.svc.Cluster.local.", "AAAA", "missing.svc.cluster.local. AAAA zone NXDOMAIN"},
			{"example.org.", "AXFR", "example.org. TYPE252 zone REFUSED"},
			{"example.org.", "A", "example.org. A upstream "},
		} {
			conn.ask(t, newQuery(t, tt.name, tt.qtype, false))
			q := <-told
			if got := fmt.Sprint(q.Name, " ", q.Type, " ", q.To, " ", q.Rcode); got != tt.want || q.TCP != (transport == "tcp") || !q.Client.Addr().IsLoopback() {
				t.Errorf("%+v, want %s", q, tt.want)
			}
		}
	}
}

// TestStats counts a query and its answer.
func TestStats(t *testing.T) {
	c := newCluster(t)
	c.services(1)
	s := NewServer(ServerConfig{Zone: c.zone, Forwarder: &slow{}})
	k := s.newCounters(false, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	k.request(inZone, typeAAAA)
	k.response(inZone, rcodeNXDomain)
	k.took(inZone, 15*time.Microsecond, 2)
	st := s.Stats()
	if fmt.Sprint(st.Requests, st.Responses) != "[{{false false} cluster.local. AAAA 1}] [{{false false} cluster.local. NXDOMAIN 1}]" {
		t.Errorf("%+v", st)
	}
	if h := st.Durations[inZone]; h.Counts[1] != 2 || h.Seconds != 30e-6 {
		t.Errorf("%+v", h)
	}
}

// TestNoAllocation holds that a query to the zone costs no allocation, whatever it asks for.
func TestNoAllocation(t *testing.T) {
	c := newCluster(t)
	c.services(100)
	c.headless(1_000)
	r := &reply{zone: c.zone}
	buf := make([]byte, 0, maxTCP)
	for _, tt := range []struct {
		name, qtype string
		tcp         bool
	}{
		{"service-7.namespace-7.svc.cluster.local", "A", false},
		{"service-7.namespace-7.svc.cluster.local", "AAAA", false},
		{"service-7.namespace-7.svc.cluster.local", "SRV", false},
		{"_http._tcp.service-7.namespace-7.svc.cluster.local", "SRV", false},
		{"7.0.96.10.in-addr.arpa", "PTR", false},
		{"missing.namespace-7.svc.cluster.local", "A", false},
		{"example.org.namespace-7.svc.cluster.local", "A", false},
		{"big.default.svc.cluster.local", "A", false},
		{"big.default.svc.cluster.local", "A", true},
		{"_sql._tcp.big.default.svc.cluster.local", "SRV", true},
		{"10-200-0-7.big.default.svc.cluster.local", "A", false},
		{"10-1-2-3.default.pod.cluster.local", "A", false},
		{"fd00--3.default.pod.cluster.local", "AAAA", false},
		{"nonsense.default.pod.cluster.local", "AAAA", false},
		{"cluster.local", "SOA", false},
		{"cluster.local", "NS", false},
		{"dns-version.cluster.local", "TXT", false},
	} {
		query := withOPT(newQuery(t, tt.name, tt.qtype, false), 4096, 0, false)
		if n := testing.AllocsPerRun(100, func() { r.respond(buf, query, tt.tcp) }); n != 0 {
			t.Errorf("%s %s: %v allocations", tt.name, tt.qtype, n)
		}
	}
}

// FuzzRespond holds that no message does harm, that every answer can be read, fits, and belongs to
// its question.
func FuzzRespond(f *testing.F) {
	e := endpoints.New(endpoints.Config{})
	zone := newTestZone(f, Config{})
	c := &cluster{e, e.Subscribe(), zone}
	c.services(3)
	c.headless(100)
	e.SetService(&endpoints.Service{Name: endpoints.Name{Namespace: "default", Name: "alias"}, NoProxy: true, ExternalName: "service-0.namespace-0.svc.cluster.local"})
	zone.Update(c.names)
	for _, name := range []string{"service-0.namespace-0.svc.cluster.local", "big.default.svc.cluster.local", "alias.default.svc.cluster.local",
		"1-2-3-4.default.pod.cluster.local", "0.0.96.10.in-addr.arpa", "cluster.local", "example.org", "ns.dns.cluster.local"} {
		for _, qtype := range []string{"A", "AAAA", "SRV", "ANY", "PTR", "SOA"} {
			f.Add(newQuery(f, name, qtype, false), false)
			f.Add(withOPT(newQuery(f, name, qtype, false), 1232, 0, true, 0, 10, 0, 2, 1, 2), true)
		}
	}
	r := &reply{zone: zone}
	buf := make([]byte, 0, maxTCP)
	f.Fuzz(func(t *testing.T, msg []byte, tcp bool) {
		if n := testing.AllocsPerRun(1, func() { r.respond(buf, msg, tcp) }); n != 0 {
			t.Errorf("%v allocations", n)
		}
		b, outcome := r.respond(buf, msg, tcp)
		if outcome != answered {
			return
		}
		if len(b) > r.query.limit(tcp) || b[0] != msg[0] || b[1] != msg[1] {
			t.Fatalf("answer of %d bytes: %x", len(b), b)
		}
		if bytes.IndexByte(msg[headerLen:], '.') >= 0 {
			return // dnsmessage has no way to write a dot within a label
		}
		var m dnsmessage.Message
		if err := m.Unpack(b); err != nil {
			t.Fatalf("answer %x: %v", b, err)
		}
	})
}

// FuzzMerge holds that no response to the question after an alias does harm.
func FuzzMerge(f *testing.F) {
	e := endpoints.New(endpoints.Config{})
	zone := newTestZone(f, Config{})
	names := e.Subscribe()
	e.SetService(&endpoints.Service{Name: endpoints.Name{Namespace: "default", Name: "alias"}, NoProxy: true, ExternalName: "example.org"})
	zone.Update(names)
	query := newQuery(f, "alias.default.svc.cluster.local", "A", false)
	answers := make(chan []byte)
	upstream{}.Forward(context.Background(), newQuery(f, "example.org", "A", false), netip.AddrPort{}, false, func(b []byte) { answers <- b })
	f.Add(<-answers, false)
	f.Fuzz(func(t *testing.T, response []byte, tcp bool) {
		r := &reply{zone: zone}
		if _, o := r.respond(nil, query, tcp); o != chase {
			t.Fatal(o)
		}
		b := newAside(r, chase).answer(response)
		if len(b) > r.query.limit(tcp) || b[0] != query[0] {
			t.Fatalf("answer of %d bytes: %x", len(b), b)
		}
	})
}

// TestStopAnswersWhatHasCome asks as much as a socket holds, stops the server, and wants every answer.
func TestStopAnswersWhatHasCome(t *testing.T) {
	const queries = 100 // as many answers as the asker's socket holds
	c := newCluster(t)
	c.services(1)
	c.serve(t, ServerConfig{}) // another server, but the zone is complete
	query := newQuery(t, "service-0.namespace-0.svc.cluster.local.", "A", false)
	for range 5 {
		ctx, cancel := context.WithCancel(t.Context())
		listening := make(chan []netip.AddrPort, 1)
		s := NewServer(ServerConfig{Zone: c.zone, Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")},
			Listening: func(addrs []netip.AddrPort) { listening <- addrs }})
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		at := <-listening
		conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(at[0]))
		if err != nil {
			t.Fatal(err)
		}
		for range queries {
			if _, err := conn.Write(query); err != nil {
				t.Fatal(err)
			}
		}
		cancel() // with most of them still in the socket
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		answer := make([]byte, 2048)
		for i := range queries {
			if _, err := conn.Read(answer); err != nil {
				t.Fatalf("answer %d of %d: %v", i+1, queries, err)
			}
		}
		conn.Close()
	}
}
