package forward

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// server is a real upstream, over UDP and TCP at one port of 127.0.0.1.
type server struct {
	addr    netip.AddrPort
	udp     atomic.Int64 // questions
	tcp     atomic.Int64
	handler atomic.Pointer[dns.HandlerFunc]
	stop    func()
}

func startServer(t testing.TB, h dns.HandlerFunc) *server {
	t.Helper()
	return startServerAt(t, "127.0.0.1:0", h)
}

func startServerAt(t testing.TB, at string, h dns.HandlerFunc) *server {
	t.Helper()
	var pc net.PacketConn
	var l net.Listener
	for range 20 {
		var err error
		if pc, err = net.ListenPacket("udp", at); err != nil {
			t.Fatal(err)
		}
		if l, err = net.Listen("tcp", pc.LocalAddr().String()); err == nil {
			break
		}
		pc.Close()
	}
	if l == nil {
		t.Fatal("no port for UDP and TCP")
	}
	s := &server{addr: netip.MustParseAddrPort(pc.LocalAddr().String())}
	s.handler.Store(&h)
	count := func(n *atomic.Int64) dns.Handler {
		return dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
			if name := r.Question[0].Name; name != "." && !strings.HasPrefix(name, noncePrefix) {
				n.Add(1)
			}
			(*s.handler.Load())(w, r)
		})
	}
	var wg sync.WaitGroup
	u := &dns.Server{PacketConn: pc, Handler: count(&s.udp), UDPSize: 4096}
	v := &dns.Server{Listener: l, Handler: count(&s.tcp)}
	for _, d := range []*dns.Server{u, v} {
		started := make(chan struct{})
		d.NotifyStartedFunc = func() { close(started) }
		wg.Go(func() { d.ActivateAndServe() })
		<-started
	}
	s.stop = sync.OnceFunc(func() { u.Shutdown(); v.Shutdown(); wg.Wait() })
	t.Cleanup(s.stop)
	return s
}

func isTCP(w dns.ResponseWriter) bool { return w.RemoteAddr().Network() == "tcp" }

// send writes the answer with the given records and rcode.
func send(w dns.ResponseWriter, r *dns.Msg, rcode int, records ...string) {
	m := new(dns.Msg).SetRcode(r, rcode)
	m.RecursionAvailable = true
	for _, s := range records {
		rr := mustRR(s)
		if rr.Header().Rrtype == dns.TypeSOA {
			m.Ns = append(m.Ns, rr)
		} else {
			m.Answer = append(m.Answer, rr)
		}
	}
	if opt := r.IsEdns0(); opt != nil {
		m.SetEdns0(1232, opt.Do())
	}
	m.Compress = true
	w.WriteMsg(m)
}

func mustRR(s string) dns.RR {
	rr, err := dns.NewRR(s)
	if err != nil {
		panic(err)
	}
	return rr
}

// address answers every A question with 192.0.2.n, where n counts questions.
func address(ttl int) dns.HandlerFunc {
	var n atomic.Int64
	return func(w dns.ResponseWriter, r *dns.Msg) {
		if r.Question[0].Qtype != dns.TypeA {
			send(w, r, dns.RcodeNameError) // we look for loops
			return
		}
		send(w, r, dns.RcodeSuccess, fmt.Sprintf("%s %d A 192.0.2.%d", r.Question[0].Name, ttl, n.Add(1)))
	}
}

func rcode(code int) dns.HandlerFunc {
	return func(w dns.ResponseWriter, r *dns.Msg) { send(w, r, code) }
}

func silent(dns.ResponseWriter, *dns.Msg) {}

// start makes a Forwarder that runs until the test ends.
func start(t testing.TB, o Options, c Config) *Forwarder {
	t.Helper()
	return runs(t, New(o, c))
}

func runs(t testing.TB, f *Forwarder) *Forwarder {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { f.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	return f
}

func upstreams(list ...*server) Config {
	var c Config
	for _, s := range list {
		c.Upstreams = append(c.Upstreams, s.addr)
	}
	return c
}

// quick are options under which failures take no seconds.
func quick() Options {
	return Options{TryTimeout: 100 * time.Millisecond, Deadline: 3 * time.Second}
}

func question4(name string, qtype uint16) *dns.Msg {
	m := new(dns.Msg).SetQuestion(name, qtype)
	return m
}

// forward asks f and checks what every answer must hold.
func forward(t testing.TB, f *Forwarder, m *dns.Msg) *dns.Msg {
	t.Helper()
	query, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	answer := make(chan []byte, 2)
	f.Forward(context.Background(), query, netip.MustParseAddrPort("10.0.0.1:999"), false, func(b []byte) { answer <- b })
	select {
	case b := <-answer:
		return checked(t, m, b)
	case <-time.After(20 * time.Second):
		t.Fatalf("%v: no answer", m.Question)
		return nil
	}
}

func checked(t testing.TB, m *dns.Msg, b []byte) *dns.Msg {
	t.Helper()
	var a dns.Msg
	if err := a.Unpack(b); err != nil {
		t.Fatalf("answer to %v: %v", m.Question, err)
	}
	if a.Id != m.Id || !a.Response || len(a.Question) != 1 || a.Question[0] != m.Question[0] || !a.RecursionAvailable ||
		a.RecursionDesired != m.RecursionDesired || a.CheckingDisabled != m.CheckingDisabled || a.Authoritative {
		t.Fatalf("answer to\n%v\nis\n%v", m, &a)
	}
	if (a.IsEdns0() == nil) != (m.IsEdns0() == nil) {
		t.Fatalf("OPT in the query: %v, in the answer: %v", m.IsEdns0(), a.IsEdns0())
	}
	return &a
}

// say is an answer in short: its rcode, and its answer section without owner.
func say(m *dns.Msg) string {
	parts := []string{dns.RcodeToString[m.Rcode]}
	if m.Truncated {
		parts = append(parts, "TC")
	}
	for _, rr := range m.Answer {
		f := strings.Fields(rr.String())
		parts = append(parts, fmt.Sprintf("%d %s %s", rr.Header().Ttl, f[3], strings.Join(f[4:], " ")))
	}
	return strings.Join(parts, ", ")
}

func lookup(t testing.TB, f *Forwarder, name string, qtype uint16) string {
	t.Helper()
	return say(forward(t, f, question4(name, qtype)))
}

func want(t testing.TB, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("answer is %q, want %q", got, want)
	}
}
