package forward

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestUpstreamAnswers(t *testing.T) {
	soa := "example.org. 300 SOA ns.example.org. admin.example.org. 1 2 3 4 60"
	for _, tc := range []struct {
		name  string
		qtype uint16
		h     dns.HandlerFunc
		want  string
		// asked is how many questions reach the upstream if the client asks three times.
		asked int64
	}{
		{"address", dns.TypeA, address(60), "NOERROR, 60 A 192.0.2.1", 1},
		{"zero TTL", dns.TypeA, func(w dns.ResponseWriter, r *dns.Msg) {
			send(w, r, 0, r.Question[0].Name+" 0 A 192.0.2.1")
		}, "NOERROR, 0 A 192.0.2.1", 3},
		{"long TTL", dns.TypeA, address(1000000), "NOERROR, 3600 A 192.0.2.1", 1},
		{"the least TTL counts", dns.TypeA, func(w dns.ResponseWriter, r *dns.Msg) {
			send(w, r, 0, r.Question[0].Name+" 300 CNAME a.example.", "a.example. 20 A 192.0.2.1")
		}, "NOERROR, 20 CNAME a.example., 20 A 192.0.2.1", 1},
		{"alias last", dns.TypeA, func(w dns.ResponseWriter, r *dns.Msg) {
			send(w, r, 0, "a.example. 20 A 192.0.2.1", r.Question[0].Name+" 20 CNAME a.example.")
		}, "NOERROR, 20 CNAME a.example., 20 A 192.0.2.1", 1},
		{"NXDOMAIN", dns.TypeA, func(w dns.ResponseWriter, r *dns.Msg) { send(w, r, 3, soa) }, "NXDOMAIN", 1},
		{"NODATA", dns.TypeAAAA, func(w dns.ResponseWriter, r *dns.Msg) { send(w, r, 0, soa) }, "NOERROR", 1},
		{"NODATA behind an alias", dns.TypeAAAA, func(w dns.ResponseWriter, r *dns.Msg) {
			send(w, r, 0, r.Question[0].Name+" 300 CNAME a.example.org.", soa)
		}, "NOERROR, 30 CNAME a.example.org.", 1},
		{"NXDOMAIN without SOA", dns.TypeA, rcode(3), "NXDOMAIN", 3},
		{"SERVFAIL", dns.TypeA, rcode(2), "SERVFAIL", 1},
		{"REFUSED", dns.TypeA, rcode(5), "REFUSED", 1},
		{"text", dns.TypeTXT, func(w dns.ResponseWriter, r *dns.Msg) {
			send(w, r, 0, r.Question[0].Name+` 9 TXT "a" "b"`)
		}, `NOERROR, 9 TXT "a" "b"`, 1},
		{"truncated", dns.TypeA, func(w dns.ResponseWriter, r *dns.Msg) {
			if isTCP(w) {
				address(60)(w, r)
				return
			}
			m := new(dns.Msg).SetReply(r)
			m.Truncated = true
			w.WriteMsg(m)
		}, "NOERROR, 60 A 192.0.2.1", 1},
		{"longer than was asked for", dns.TypeTXT, func(w dns.ResponseWriter, r *dns.Msg) {
			rr := r.Question[0].Name + " 9 TXT " + strings.Repeat(`"`+strings.Repeat("x", 200)+`" `, 30)
			send(w, r, 0, rr)
		}, "NOERROR, 9 TXT" + strings.Repeat(` "`+strings.Repeat("x", 200)+`"`, 30), 1},
		{"does not keep the case", dns.TypeA, func(w dns.ResponseWriter, r *dns.Msg) {
			r.Question[0].Name = strings.ToLower(r.Question[0].Name)
			address(60)(w, r)
		}, "NOERROR, 60 A 192.0.2.1", 1},
		{"does not take EDNS", dns.TypeA, func(w dns.ResponseWriter, r *dns.Msg) {
			if r.IsEdns0() != nil {
				r.Extra = nil
				send(w, r, dns.RcodeFormatError)
				return
			}
			address(60)(w, r)
		}, "NOERROR, 60 A 192.0.2.1", 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := startServer(t, tc.h)
			f := start(t, Options{FailureTTL: 5 * time.Second}, upstreams(s))
			var first int64
			for i := range 3 {
				got := lookup(t, f, "wWw.ExAmple.org.", tc.qtype)
				if tc.asked == 1 && got != tc.want && strings.Contains(got, "NOERROR") {
					got = lookup(t, f, "wWw.ExAmple.org.", tc.qtype) // a second may have passed
				}
				want(t, got, tc.want)
				if i == 0 {
					first = s.udp.Load()
				}
			}
			if again := s.udp.Load() - first; again != (tc.asked-1)*first && tc.asked > 0 {
				t.Errorf("asked %d times at first and %d times later, want %d times the first", first, again, tc.asked-1)
			}
		})
	}
}

// An upstream that does not keep the case is asked without mixing later, and costs no TCP then.
func TestFoldingIsLearnt(t *testing.T) {
	s := startServer(t, func(w dns.ResponseWriter, r *dns.Msg) {
		r.Question[0].Name = strings.ToLower(r.Question[0].Name)
		address(60)(w, r)
	})
	f := start(t, Options{}, upstreams(s))
	for i := range 10 {
		want(t, lookup(t, f, fmt.Sprintf("some-name-%d.example.org.", i), dns.TypeA)[:7], "NOERROR")
	}
	if n := s.tcp.Load(); n != 1 {
		t.Errorf("%d questions over TCP, want 1", n)
	}
}

// A server that does not keep the case and has no TCP is asked anyway.
func TestFoldingWithoutTCP(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		r.Question[0].Name = strings.ToLower(r.Question[0].Name)
		address(60)(w, r)
	})}
	go s.ActivateAndServe()
	t.Cleanup(func() { s.Shutdown() })
	f := start(t, Options{}, Config{Upstreams: []netip.AddrPort{netip.MustParseAddrPort(pc.LocalAddr().String())}})
	want(t, lookup(t, f, "some-long-name.example.org.", dns.TypeA), "NOERROR, 60 A 192.0.2.1")
}

// The question goes out with letters in random case, a random ID and from a random port.
func TestRandomness(t *testing.T) {
	var mu sync.Mutex
	names, ids, ports := map[string]bool{}, map[uint16]bool{}, map[string]bool{}
	s := startServer(t, func(w dns.ResponseWriter, r *dns.Msg) {
		mu.Lock()
		names[r.Question[0].Name], ids[r.Id], ports[w.RemoteAddr().String()] = true, true, true
		mu.Unlock()
		send(w, r, 0, r.Question[0].Name+" 0 A 192.0.2.1")
	})
	f := start(t, Options{}, upstreams(s))
	for range 20 {
		lookup(t, f, "a-rather-long-name.example.org.", dns.TypeA)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(names) < 19 || len(ids) < 19 || len(ports) < 15 {
		t.Errorf("20 questions had %d spellings, %d IDs, %d ports", len(names), len(ids), len(ports))
	}
}

// An upstream's lie is not believed: another upstream's answer is.
func TestLies(t *testing.T) {
	for _, tc := range []struct {
		name string
		lie  func(m *dns.Msg)
	}{
		{"id", func(m *dns.Msg) { m.Id++ }},
		{"name", func(m *dns.Msg) { m.Question[0].Name = "evil.example." }},
		{"type", func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeMX }},
		{"class", func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }},
		{"no question", func(m *dns.Msg) { m.Question = nil }},
		{"query", func(m *dns.Msg) { m.Response = false }},
		{"opcode", func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			liar := startServer(t, func(w dns.ResponseWriter, r *dns.Msg) {
				m := new(dns.Msg).SetReply(r)
				m.Answer = []dns.RR{mustRR(r.Question[0].Name + " 60 A 203.0.113.66")}
				tc.lie(m)
				w.WriteMsg(m)
			})
			honest := startServer(t, address(60))
			f := start(t, quick(), upstreams(liar, honest))
			for i := range 6 {
				got := lookup(t, f, fmt.Sprintf("n%d.example.org.", i), dns.TypeA)
				if !strings.HasPrefix(got, "NOERROR, 60 A 192.0.2.") {
					t.Errorf("answer is %q", got)
				}
			}
			if liar.udp.Load() > 0 && f.Stats().Mismatched == 0 {
				t.Error("no mismatch counted")
			}
		})
	}
}

// A forger who races the upstream with many packets has TCP asked.
func TestFlood(t *testing.T) {
	s := startServer(t, func(w dns.ResponseWriter, r *dns.Msg) {
		if !isTCP(w) {
			for range 2 * maxForeign {
				m := new(dns.Msg).SetReply(r)
				m.Id++
				w.WriteMsg(m)
			}
			return
		}
		address(60)(w, r)
	})
	f := start(t, Options{}, upstreams(s))
	begin := time.Now()
	want(t, lookup(t, f, "www.example.org.", dns.TypeA), "NOERROR, 60 A 192.0.2.1")
	if took := time.Since(begin); took > time.Second {
		t.Errorf("took %v", took)
	}
}

// Garbage behind the right question is passed over, and the next upstream asked.
func TestGarbage(t *testing.T) {
	bad := startServer(t, func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg).SetReply(r)
		m.Answer = []dns.RR{mustRR(r.Question[0].Name + " 60 A 203.0.113.66")}
		b, _ := m.Pack()
		w.Write(b[:len(b)-2])
	})
	good := startServer(t, address(60))
	f := start(t, quick(), upstreams(bad, good))
	for i := range 6 {
		got := lookup(t, f, fmt.Sprintf("n%d.example.org.", i), dns.TypeA)
		if !strings.HasPrefix(got, "NOERROR, 60 A 192.0.2.") {
			t.Errorf("answer is %q", got)
		}
	}
}

func TestFailuresGoToTheNext(t *testing.T) {
	for _, tc := range []struct {
		name string
		h    dns.HandlerFunc
	}{{"SERVFAIL", rcode(2)}, {"REFUSED", rcode(5)}, {"silent", silent}, {"NOTIMP", rcode(4)}, {"truncated without TCP", func(w dns.ResponseWriter, r *dns.Msg) {
		if isTCP(w) {
			w.Close()
			return
		}
		m := new(dns.Msg).SetReply(r)
		m.Truncated = true
		w.WriteMsg(m)
	}}} {
		t.Run(tc.name, func(t *testing.T) {
			bad, good := startServer(t, tc.h), startServer(t, address(60))
			f := start(t, quick(), upstreams(bad, good))
			for i := range 8 {
				got := lookup(t, f, fmt.Sprintf("n%d.example.org.", i), dns.TypeA)
				if !strings.HasPrefix(got, "NOERROR, 60 A 192.0.2.") {
					t.Errorf("answer is %q", got)
				}
			}
		})
	}
}

// A dead upstream is asked no more after two failures, and again once it is back.
func TestDeadAndBack(t *testing.T) {
	dead, alive := startServer(t, address(60)), startServer(t, address(60))
	f := start(t, quick(), upstreams(dead, alive))
	addr := dead.addr.String()
	dead.stop()
	for i := range 20 {
		got := lookup(t, f, fmt.Sprintf("n%d.example.org.", i), dns.TypeA)
		if !strings.HasPrefix(got, "NOERROR") {
			t.Errorf("answer is %q", got)
		}
	}
	if st := f.Stats(); st.UpstreamsDown != 1 {
		t.Fatalf("%d upstreams down, want 1", st.UpstreamsDown)
	}
	back := startServerAt(t, addr, address(60))
	eventually(t, "the upstream is up again", func() bool { return f.Stats().UpstreamsDown == 0 })
	for i := range 40 {
		lookup(t, f, fmt.Sprintf("m%d.example.org.", i), dns.TypeA)
	}
	if back.udp.Load() == 0 {
		t.Error("nobody asks the upstream that is back")
	}
}

func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// The answer of a slow upstream counts, though another was asked meanwhile.
func TestSlow(t *testing.T) {
	slow := startServer(t, func(w dns.ResponseWriter, r *dns.Msg) {
		time.Sleep(300 * time.Millisecond)
		address(60)(w, r)
	})
	f := start(t, quick(), upstreams(slow))
	want(t, lookup(t, f, "www.example.org.", dns.TypeA), "NOERROR, 60 A 192.0.2.1")
}

// Any number of the same question, however spelt, is one question to the upstream.
func TestCoalescing(t *testing.T) {
	release := make(chan struct{})
	s := startServer(t, func(w dns.ResponseWriter, r *dns.Msg) {
		<-release
		address(60)(w, r)
	})
	f := start(t, Options{TryTimeout: time.Minute, Deadline: time.Minute}, upstreams(s))
	const clients = 500
	var wg sync.WaitGroup
	for i := range clients {
		m := question4([]string{"www.example.org.", "WWW.example.org.", "wWw.eXample.org."}[i%3], dns.TypeA)
		wg.Go(func() { want(t, say(forward(t, f, m)), "NOERROR, 60 A 192.0.2.1") })
	}
	eventually(t, "everybody waits", func() bool { return f.waiting.Load() == clients })
	close(release)
	wg.Wait()
	if n := s.udp.Load(); n != 1 {
		t.Errorf("the upstream was asked %d times, want once", n)
	}
	if n := f.waiting.Load(); n != 0 {
		t.Errorf("%d clients still counted as waiting", n)
	}
}

// DO and CD make other questions, and reach the upstream.
func TestDOAndCD(t *testing.T) {
	s := startServer(t, func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg).SetReply(r)
		do := r.IsEdns0().Do()
		m.AuthenticatedData = true
		m.Answer = []dns.RR{mustRR(fmt.Sprintf("%s 60 TXT do=%v cd=%v", r.Question[0].Name, do, r.CheckingDisabled))}
		m.SetEdns0(1232, do)
		w.WriteMsg(m)
	})
	f := start(t, Options{}, upstreams(s))
	for range 2 {
		for _, do := range []bool{false, true} {
			for _, cd := range []bool{false, true} {
				m := question4("www.example.org.", dns.TypeTXT)
				m.CheckingDisabled = cd
				if do {
					m.SetEdns0(1232, true)
				}
				a := forward(t, f, m)
				if txt := a.Answer[0].(*dns.TXT).Txt; !slices.Equal(txt, []string{fmt.Sprintf("do=%v", do), fmt.Sprintf("cd=%v", cd)}) {
					t.Errorf("do=%v cd=%v: %v", do, cd, txt)
				}
				if a.AuthenticatedData != do {
					t.Errorf("do=%v: AD=%v", do, a.AuthenticatedData)
				}
				if do && !a.IsEdns0().Do() {
					t.Error("DO is not echoed")
				}
			}
		}
	}
	if n := s.udp.Load(); n != 4 {
		t.Errorf("the upstream was asked %d times, want 4", n)
	}
}

// The addresses of a cached answer come in every order, and all of them each time.
func TestRotation(t *testing.T) {
	s := startServer(t, func(w dns.ResponseWriter, r *dns.Msg) {
		records := []string{r.Question[0].Name + " 60 CNAME a.example.org."}
		for i := range 4 {
			records = append(records, fmt.Sprintf("a.example.org. 60 A 192.0.2.%d", i))
		}
		send(w, r, 0, records...)
	})
	f := start(t, Options{}, upstreams(s))
	firsts := map[string]int{}
	for range 400 {
		a := forward(t, f, question4("www.example.org.", dns.TypeA))
		if len(a.Answer) != 5 || a.Answer[0].Header().Rrtype != dns.TypeCNAME {
			t.Fatal(a)
		}
		all := map[string]bool{}
		for _, rr := range a.Answer[1:] {
			all[rr.(*dns.A).A.String()] = true
		}
		if len(all) != 4 {
			t.Fatal(a)
		}
		firsts[a.Answer[1].(*dns.A).A.String()]++
	}
	for a, n := range firsts {
		if n < 50 || n > 150 {
			t.Errorf("%s was first %d times of 400", a, n)
		}
	}
}

func TestStubDomainsLive(t *testing.T) {
	named := func(s string) *server {
		return startServer(t, func(w dns.ResponseWriter, r *dns.Msg) { send(w, r, 0, r.Question[0].Name+" 600 TXT "+s) })
	}
	root, acme, deep := named("root"), named("acme"), named("deep")
	f := start(t, Options{}, upstreams(root))
	ask := func(name, from string) {
		t.Helper()
		for range 2 {
			m := forward(t, f, question4(name, dns.TypeTXT))
			want(t, strings.Join(m.Answer[0].(*dns.TXT).Txt, ""), from)
		}
	}
	ask("x.acme.local.", "root")
	ask("example.org.", "root")
	c, err := ParseKubeDNSConfigMap(map[string]string{
		"stubDomains": fmt.Sprintf(`{"acme.local": [%q], "Deep.acme.LOCAL.": [%q]}`, acme.addr, deep.addr)})
	if err != nil {
		t.Fatal(err)
	}
	f.Set(upstreams(root).Override(c))
	ask("x.acme.local.", "acme")
	ask("ACME.local.", "acme")
	ask("x.deep.Acme.local.", "deep")
	ask("xacme.local.", "root")
	before := root.udp.Load()
	ask("example.org.", "root")
	if root.udp.Load() != before {
		t.Error("a name whose upstream is the same was forgotten")
	}
	f.Set(upstreams(root))
	ask("x.acme.local.", "root")
	f.Set(upstreams(root).Override(upstreams(deep)))
	ask("example.org.", "deep")
}

func TestResolvConfReload(t *testing.T) {
	one := startServerAt(t, "127.0.0.2:0", func(w dns.ResponseWriter, r *dns.Msg) { send(w, r, 0, r.Question[0].Name+" 600 TXT one") })
	file := filepath.Join(t.TempDir(), "resolv.conf")
	write := func(s string) {
		if err := os.WriteFile(file, []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("search x\nnameserver 192.0.2.1\n")
	search := make(chan string, 10)
	f := start(t, Options{ResolvConf: file, ReloadInterval: 10 * time.Millisecond, Search: func(d []string) { search <- fmt.Sprint(d) }}, Config{})
	want(t, <-search, "[x]")
	servers := func() string {
		return fmt.Sprint(f.routes.Load().groups["\x00"].addrs)
	}
	want(t, servers(), "[192.0.2.1:53]")
	write("nameserver 192.0.2.2\nnameserver ::1\nnameserver nonsense\nnameserver 192.0.2.2\n")
	eventually(t, "the new file counts", func() bool { return servers() == "[192.0.2.2:53 [::1]:53]" })
	want(t, <-search, "[]")
	write("")
	time.Sleep(50 * time.Millisecond)
	want(t, servers(), "[192.0.2.2:53 [::1]:53]")
	os.Remove(file)
	time.Sleep(50 * time.Millisecond)
	want(t, servers(), "[192.0.2.2:53 [::1]:53]")
	f.Set(upstreams(one))
	want(t, lookup(t, f, "www.example.org.", dns.TypeTXT), `NOERROR, 600 TXT "one"`)
	write("nameserver 192.0.2.3\n")
	time.Sleep(50 * time.Millisecond)
	want(t, servers(), "["+one.addr.String()+"]")
	f.Set(Config{})
	eventually(t, "the file counts again", func() bool { return servers() == "[192.0.2.3:53]" })
}

func TestOwnAddressIsLeftOut(t *testing.T) {
	listen := []netip.AddrPort{netip.MustParseAddrPort("10.96.0.10:53"), netip.MustParseAddrPort("[::]:5353")}
	c := Config{}
	for _, s := range []string{"10.96.0.10:53", "10.96.0.10:5353", "127.0.0.1:5353", "[::1]:5353", "127.0.0.53:53", "192.0.2.1:53"} {
		c.Upstreams = append(c.Upstreams, netip.MustParseAddrPort(s))
	}
	f := New(Options{Listen: listen}, c)
	want(t, fmt.Sprint(f.routes.Load().groups["\x00"].addrs), "[10.96.0.10:5353 127.0.0.53:53 192.0.2.1:53]")
}

// An upstream that asks us what it is asked is noticed and left out; and taken back when it no
// longer does.
func TestLoop(t *testing.T) {
	var f atomic.Pointer[Forwarder]
	var mends atomic.Bool
	back := startServer(t, func(w dns.ResponseWriter, r *dns.Msg) {
		g := f.Load()
		if g == nil || mends.Load() {
			send(w, r, 3)
			return
		}
		asked := r.Copy()
		asked.Id++
		query, _ := asked.Pack()
		g.Forward(context.Background(), query, netip.AddrPort{}, false, func(b []byte) {
			binary.BigEndian.PutUint16(b, r.Id)
			w.Write(b)
		})
	})
	good := startServer(t, address(60))
	g := New(quick(), Config{Upstreams: []netip.AddrPort{back.addr, good.addr}, StubDomains: map[string][]netip.AddrPort{"stub.local": {back.addr}}})
	f.Store(g)
	runs(t, g)
	eventually(t, "the loop is noticed", func() bool { return g.Stats().UpstreamsLoop == 2 })
	back.udp.Store(0)
	for i := range 10 {
		got := lookup(t, g, fmt.Sprintf("n%d.example.org.", i), dns.TypeA)
		if !strings.HasPrefix(got, "NOERROR, 60 A 192.0.2.") {
			t.Errorf("answer is %q", got)
		}
	}
	want(t, lookup(t, g, "x.stub.local.", dns.TypeA), "SERVFAIL")
	if n := back.udp.Load(); n != 0 {
		t.Errorf("the upstream that leads back to us was asked %d times", n)
	}
	mends.Store(true)
	g.lookForLoops(context.Background())
	if n := g.Stats().UpstreamsLoop; n != 0 {
		t.Errorf("%d upstreams still left out", n)
	}
}

// A loop that has not been noticed yet costs one question, not a storm.
func TestLoopUnnoticed(t *testing.T) {
	var f atomic.Pointer[Forwarder]
	back := startServer(t, func(w dns.ResponseWriter, r *dns.Msg) {
		query, _ := r.Pack()
		f.Load().Forward(context.Background(), query, netip.AddrPort{}, false, func(b []byte) { w.Write(b) })
	})
	o := quick()
	o.Deadline = 500 * time.Millisecond
	f.Store(New(o, upstreams(back))) // not run: loops are not looked for
	want(t, lookup(t, f.Load(), "www.example.org.", dns.TypeA), "SERVFAIL")
	if n := back.udp.Load(); n > 2 {
		t.Errorf("asked %d times", n)
	}
}

func TestNotForwarded(t *testing.T) {
	s := startServer(t, address(60))
	f := start(t, Options{}, upstreams(s))
	for _, qtype := range []uint16{dns.TypeAXFR, dns.TypeIXFR, dns.TypeTSIG, dns.TypeTKEY, dns.TypeOPT, dns.TypeMAILA} {
		want(t, lookup(t, f, "example.org.", qtype), "REFUSED")
	}
	want(t, lookup(t, New(Options{}, Config{}), "example.org.", dns.TypeA), "SERVFAIL")
	if s.udp.Load()+s.tcp.Load() != 0 {
		t.Error("the upstream was asked")
	}
}

// Beyond the bound of questions under way the answer is SERVFAIL, at once.
func TestBound(t *testing.T) {
	s := startServer(t, silent)
	f := start(t, Options{MaxOutstanding: 10, Deadline: 2 * time.Second}, upstreams(s))
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() { want(t, lookup(t, f, fmt.Sprintf("n%d.example.", i), dns.TypeA), "SERVFAIL") })
	}
	eventually(t, "all are under way", func() bool { return f.Stats().Outstanding == 10 })
	begin := time.Now()
	want(t, lookup(t, f, "another.example.", dns.TypeA), "SERVFAIL")
	if took := time.Since(begin); took > time.Second {
		t.Errorf("the answer took %v", took)
	}
	if st := f.Stats(); st.Rejected != 1 || st.Cache.EntriesDenial != 0 {
		t.Errorf("%+v", st)
	}
	wg.Wait()
	if n := f.Stats().Outstanding; n != 0 {
		t.Errorf("%d still under way", n)
	}
}

func TestAppendCached(t *testing.T) {
	s := startServer(t, address(60))
	f := start(t, Options{}, upstreams(s))
	m := question4("www.Example.org.", dns.TypeA)
	m.SetEdns0(4096, false)
	query, _ := m.Pack()
	if _, ok := f.AppendCached(nil, query); ok {
		t.Fatal("there is an answer already")
	}
	forward(t, f, m)
	prefix := []byte("before")
	got, ok := f.AppendCached(slices.Clone(prefix), query)
	if !ok || !bytes.HasPrefix(got, prefix) {
		t.Fatal(got, ok)
	}
	want(t, say(checked(t, m, got[len(prefix):])), "NOERROR, 60 A 192.0.2.1")
	buf := make([]byte, 0, 512)
	if n := testing.AllocsPerRun(100, func() { f.AppendCached(buf, query) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestLookup(t *testing.T) {
	s := startServer(t, address(60))
	f := start(t, Options{}, upstreams(s))
	b, err := f.Lookup(context.Background(), "www.example.org", dns.TypeA)
	if err != nil {
		t.Fatal(err)
	}
	var m dns.Msg
	if err := m.Unpack(b); err != nil {
		t.Fatal(err)
	}
	want(t, say(&m), "NOERROR, 60 A 192.0.2.1")
	s.handler.Store((*dns.HandlerFunc)(&[]dns.HandlerFunc{silent}[0]))
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := f.Lookup(ctx, "other.example.org", dns.TypeA); err == nil {
		t.Error("no error though nobody answers")
	}
}

// Whoever asks after Run has ended is told so.
func TestAfterTheEnd(t *testing.T) {
	f := New(Options{}, upstreams(startServer(t, address(60))))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	f.Run(ctx)
	want(t, lookup(t, f, "www.example.org.", dns.TypeA), "SERVFAIL")
}

// Clients, changes of the configuration and faults, all at once.
func TestConcurrent(t *testing.T) {
	var n atomic.Int64
	s := startServer(t, func(w dns.ResponseWriter, r *dns.Msg) {
		switch n.Add(1) % 10 {
		case 0:
			send(w, r, 2)
		case 1:
		default:
			send(w, r, 0, r.Question[0].Name+" 1 A 192.0.2.1", r.Question[0].Name+" 1 A 192.0.2.2")
		}
	})
	o := quick()
	o.CacheBytes, o.FailureTTL = 1<<18, time.Second
	f := start(t, o, upstreams(s))
	end := time.Now().Add(2 * time.Second)
	var wg sync.WaitGroup
	for c := range 4 {
		wg.Go(func() {
			for i := 0; time.Now().Before(end); i++ {
				lookup(t, f, fmt.Sprintf("n%d.example.", (i*7+c)%300), dns.TypeA)
			}
		})
	}
	wg.Go(func() {
		for i := 0; time.Now().Before(end); i++ {
			c := upstreams(s)
			c.StubDomains = map[string][]netip.AddrPort{fmt.Sprintf("n%d.example", i%300): {s.addr}}
			f.Set(c)
			f.Stats()
			time.Sleep(5 * time.Millisecond)
		}
	})
	wg.Wait()
}
