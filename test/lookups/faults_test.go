//go:build linux

package lookups

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-project/weir/internal/netlab"
)

// faulty is an upstream that does as it is told with every query over UDP, and over TCP.
type faulty struct {
	addr  string
	udp   net.PacketConn
	other net.PacketConn // another port of it
	asked atomic.Int64   // over UDP, for names under example.
	do    atomic.Pointer[behaviour]
}

// behaviour is how an upstream answers.
type behaviour struct {
	udp func(x exchanged)
	tcp func(conn net.Conn, query []byte) // nil: the connection is closed
}

// exchanged is a query over UDP.
type exchanged struct {
	*faulty
	query []byte
	from  net.Addr
}

func (x exchanged) reply(answer []byte) { _, _ = x.faulty.udp.WriteTo(answer, x.from) }

func startFaulty(t *testing.T, b behaviour) *faulty {
	t.Helper()
	f := &faulty{}
	f.do.Store(&b)
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.addr = tcp.Addr().String()
	if f.udp, err = net.ListenPacket("udp", f.addr); err != nil {
		t.Fatal(err)
	}
	if f.other, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{}, 2)
	go func() { f.serveUDP(); done <- struct{}{} }()
	go func() { f.serveTCP(tcp); done <- struct{}{} }()
	t.Cleanup(func() {
		tcp.Close()
		f.udp.Close()
		f.other.Close()
		<-done
		<-done
	})
	return f
}

func (f *faulty) serveUDP() {
	b := make([]byte, 4096)
	for {
		n, from, err := f.udp.ReadFrom(b)
		if err != nil {
			return
		}
		query := append([]byte(nil), b[:n]...)
		if strings.Contains(strings.ToLower(string(query)), "\x07example") {
			f.asked.Add(1)
		}
		f.do.Load().udp(exchanged{f, query, from})
	}
}

func (f *faulty) serveTCP(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			var length [2]byte
			if _, err := io.ReadFull(conn, length[:]); err != nil {
				return
			}
			query := make([]byte, binary.BigEndian.Uint16(length[:]))
			if _, err := io.ReadFull(conn, query); err == nil && f.do.Load().tcp != nil {
				f.do.Load().tcp(conn, query)
			}
		}()
	}
}

// answerTo answers a query with an address, changed.
func answerTo(query []byte, addr string, change func(*dns.Msg)) []byte {
	var q dns.Msg
	if err := q.Unpack(query); err != nil {
		return nil
	}
	m := new(dns.Msg).SetReply(&q)
	m.RecursionAvailable = true
	if rr, err := dns.NewRR(q.Question[0].Name + " 60 A " + addr); err == nil && q.Question[0].Qtype == dns.TypeA {
		m.Answer = append(m.Answer, rr)
	}
	if change != nil {
		change(m)
	}
	b, err := m.Pack()
	if err != nil {
		return nil
	}
	return b
}

const right, wrong = "192.0.2.1", "203.0.113.66"

// says is an upstream that answers every query with an address, changed.
func says(addr string, change func(*dns.Msg)) behaviour {
	return behaviour{
		udp: func(x exchanged) { x.reply(answerTo(x.query, addr, change)) },
		tcp: func(conn net.Conn, query []byte) {
			b := answerTo(query, addr, change)
			_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
		},
	}
}

// udpOnly is an upstream that closes connections.
func udpOnly(do func(exchanged)) behaviour { return behaviour{udp: do} }

func rcode(n int) func(*dns.Msg) { return func(m *dns.Msg) { m.Rcode, m.Answer = n, nil } }

// faults are what an upstream may do wrong. None of it may be believed, or keep another from being asked.
var faults = []struct {
	name string
	behaviour
	alone string // what a client is told if there is no other upstream
}{
	{"says nothing", udpOnly(func(exchanged) {}), "SERVFAIL"},
	{"says something that is no message", udpOnly(func(x exchanged) { x.reply([]byte("nonsense")) }), "SERVFAIL"},
	{"cuts its answer off", udpOnly(func(x exchanged) { b := answerTo(x.query, wrong, nil); x.reply(b[:len(b)-2]) }), "SERVFAIL"},
	{"lies about the ID", says(wrong, func(m *dns.Msg) { m.Id++ }), "SERVFAIL"},
	{"answers another name", says(wrong, func(m *dns.Msg) { m.Question[0].Name = "evil.example." }), "SERVFAIL"},
	{"answers another type", says(wrong, func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeMX }), "SERVFAIL"},
	{"answers in lower case, and not over TCP", udpOnly(func(x exchanged) {
		var q dns.Msg
		if err := q.Unpack(x.query); err != nil || q.Question[0].Name == strings.ToLower(q.Question[0].Name) {
			return // it is asked again without capitals, to see whether that is a habit
		}
		x.reply(answerTo(x.query, wrong, func(m *dns.Msg) { m.Question[0].Name = strings.ToLower(m.Question[0].Name) }))
	}), "SERVFAIL"},
	{"answers from another port", udpOnly(func(x exchanged) { _, _ = x.other.WriteTo(answerTo(x.query, wrong, nil), x.from) }), "SERVFAIL"},
	{"truncates, and closes connections", udpOnly(func(x exchanged) {
		x.reply(answerTo(x.query, wrong, func(m *dns.Msg) { m.Truncated, m.Answer = true, nil }))
	}), "NOERROR tc"},
	{"truncates, and closes the connection in the middle", behaviour{
		udp: func(x exchanged) {
			x.reply(answerTo(x.query, wrong, func(m *dns.Msg) { m.Truncated, m.Answer = true, nil }))
		},
		tcp: func(conn net.Conn, q []byte) {
			b := answerTo(q, wrong, nil)
			_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b[:len(b)-3]...))
		},
	}, "NOERROR tc"},
	{"SERVFAIL", says(wrong, rcode(dns.RcodeServerFailure)), "SERVFAIL"},
	{"REFUSED", says(wrong, rcode(dns.RcodeRefused)), "REFUSED"},
	{"NOTIMP", says(wrong, rcode(dns.RcodeNotImplemented)), "NOTIMP"},
}

// startDNS runs weir dns with one service and upstreams, on a port of 127.0.0.1.
func startDNS(t *testing.T, upstreams ...string) *dns.Conn {
	t.Helper()
	if testing.Short() {
		t.Skip("-short")
	}
	dir := t.TempDir()
	const web = "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}"
	if err := os.WriteFile(filepath.Join(dir, "web.yaml"), []byte(web), 0o644); err != nil {
		t.Fatal(err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().String()
	free.Close()
	log, err := os.Create(filepath.Join(dir, "weir.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(weir, "dns", "--manifests", dir, "--listen", addr, "--metrics-bind-address", "", "--upstream", strings.Join(upstreams, ","))
	cmd.Stdout, cmd.Stderr = log, log
	p, err := netlab.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.Signal(os.Interrupt)
		<-p.Done()
		if text, _ := os.ReadFile(log.Name()); strings.Contains(string(text), "panic") || strings.Contains(string(text), "DATA RACE") || t.Failed() {
			t.Errorf("weir says\n%s", text)
		}
	})
	conn, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c := &dns.Conn{Conn: conn}
	eventually(t, func() error {
		_, err := exchange(c, "web.default.svc.cluster.local.", dns.TypeA)
		return err
	})
	return c
}

// told writes what a client is told: the response code, TC and the addresses.
func told(t *testing.T, c *dns.Conn, name string) string {
	t.Helper()
	r, err := exchange(c, name, dns.TypeA)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	s := dns.RcodeToString[r.Rcode]
	if r.Truncated {
		s += " tc"
	}
	for _, rr := range r.Answer {
		s += " " + rr.(*dns.A).A.String()
	}
	return s
}

// TestFaults has one upstream fail beside one that does not: every client gets the right answer, in the
// time that it waits. Alone, it makes failures, never wrong answers, and the zone is answered meanwhile; once it
// works again, so do its names.
func TestFaults(t *testing.T) {
	for _, tt := range faults {
		t.Run(tt.name, func(t *testing.T) {
			bad, good := startFaulty(t, tt.behaviour), startFaulty(t, says(right, nil))
			c := startDNS(t, bad.addr, good.addr)
			// Which one is asked first is drawn at random.
			for i := 0; i < 6 || bad.asked.Load() == 0; i++ {
				if i == 60 {
					t.Fatal("nobody has asked it")
				}
				if got := told(t, c, fmt.Sprintf("n%d.example.", i)); got != "NOERROR "+right {
					t.Errorf("beside one that works: %s", got)
				}
			}
		})
		t.Run(tt.name+", alone", func(t *testing.T) {
			bad := startFaulty(t, tt.behaviour)
			c := startDNS(t, bad.addr)
			began := time.Now()
			if got := told(t, c, "alone.example."); got != tt.alone {
				t.Errorf("alone: %s, want %s", got, tt.alone)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("alone: an answer after %v, when clients have given up", took)
			}
			if got := told(t, c, "web.default.svc.cluster.local."); got != "NOERROR 10.96.0.1" {
				t.Errorf("the zone: %s", got)
			}
			works := says(right, nil)
			bad.do.Store(&works)
			eventually(t, func() error {
				if got := told(t, c, "alone.example."); got != "NOERROR "+right {
					return fmt.Errorf("once it works again: %s", got)
				}
				return nil
			})
		})
	}
}

// TestDead has nobody at one of two upstreams, then at neither.
func TestDead(t *testing.T) {
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead.Close()
	good := startFaulty(t, says(right, nil))
	c := startDNS(t, dead.Addr().String(), good.addr)
	for i := range 10 {
		began := time.Now()
		if got := told(t, c, fmt.Sprintf("n%d.example.", i)); got != "NOERROR "+right || time.Since(began) > 4*time.Second {
			t.Errorf("%s after %v", got, time.Since(began))
		}
	}
	c = startDNS(t, dead.Addr().String())
	if got := told(t, c, "x.example."); got != "SERVFAIL" {
		t.Errorf("alone: %s", got)
	}
}

// TestStampede has more clients want the same name than may wait: the upstream is asked once, those that may
// not wait are told so at once, and all others get the answer.
func TestStampede(t *testing.T) {
	const queries = 10_000
	release := make(chan struct{})
	f := startFaulty(t, udpOnly(func(x exchanged) {
		go func() {
			<-release
			x.reply(answerTo(x.query, right, nil))
		}()
	}))
	c := startDNS(t, f.addr)
	conn, err := net.Dial("tcp", c.RemoteAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	tcp := &dns.Conn{Conn: conn}
	_ = tcp.SetDeadline(time.Now().Add(patience))
	counts := make(chan map[string]int, 1)
	refused := make(chan struct{}, queries)
	go func() {
		n := map[string]int{}
		for range queries {
			r, err := tcp.ReadMsg()
			if err != nil {
				n[err.Error()]++
				break
			}
			if n[dns.RcodeToString[r.Rcode]]++; r.Rcode != dns.RcodeSuccess {
				refused <- struct{}{}
			}
		}
		counts <- n
	}()
	query := new(dns.Msg).SetQuestion("www.example.", dns.TypeA)
	for i := range queries {
		query.Id = uint16(i)
		if err := tcp.WriteMsg(query); err != nil {
			t.Fatal(err)
		}
	}
	const waiting = 8192
	for range queries - waiting { // all others wait
		<-refused
	}
	if got := told(t, c, "web.default.svc.cluster.local."); got != "NOERROR 10.96.0.1" {
		t.Errorf("the zone meanwhile: %s", got)
	}
	close(release)
	n := <-counts
	if n["NOERROR"] > waiting || n["NOERROR"] < waiting*9/10 || n["NOERROR"]+n["SERVFAIL"] != queries {
		t.Errorf("answers: %v; at most %d may wait", n, waiting)
	}
	if asked := f.asked.Load(); asked > 2 { // again when it is slow
		t.Errorf("the upstream was asked %d times", asked)
	}
}
