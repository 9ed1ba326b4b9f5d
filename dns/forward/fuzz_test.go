package forward

import (
	"bytes"
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// said is a network in which the upstream says msg to everything.
type said struct {
	msg    []byte
	echoes bool // with the ID and question it was asked
}

func (n said) udp(ctx context.Context, _ netip.AddrPort, query []byte, accept func([]byte) error) ([]byte, error) {
	b, _ := n.tcp(ctx, netip.AddrPort{}, query)
	return b, accept(b)
}

func (n said) tcp(_ context.Context, _ netip.AddrPort, query []byte) ([]byte, error) {
	b := bytes.Clone(n.msg)
	if n.echoes && len(b) >= headerLen {
		copy(b, query[:2])
		b[2] = b[2]&(flagTC|flagAA|flagRD) | flagQR
		b[4], b[5] = 0, 1
		copy(b[headerLen:], query[headerLen:max(headerLen, len(query)-optLen)])
	}
	return b, nil
}

// FuzzUpstream gives a Forwarder whatever an upstream may say. It does not panic; what answers
// another question does not come through; and what comes through is sound, at first and from the
// cache.
func FuzzUpstream(f *testing.F) {
	for _, records := range [][]string{
		{"www.example.org. 60 A 192.0.2.1", "www.example.org. 60 A 192.0.2.2"},
		{"www.example.org. 60 CNAME a.example.org.", "a.example.org. 60 AAAA fd00::1", "a.example.org. 60 AAAA fd00::2"},
		{"a.example.org. 60 A 192.0.2.1", "www.example.org. 60 CNAME a.example.org."},
		{"www.example.org. 60 MX 1 a.example.org.", "www.example.org. 0 SRV 1 2 3 b.example.org."},
		{"www.example.org. 60 SOA a. b. 1 2 3 4 5", `www.example.org. 60 TXT "x"`},
		{"org. 60 DNAME net.", "www.example.org. 60 HINFO a b"},
	} {
		for _, compress := range []bool{false, true} {
			m := question4("www.example.org.", dns.TypeA)
			m.Response, m.Compress = true, compress
			for _, s := range records {
				m.Answer = append(m.Answer, mustRR(s))
			}
			m.Ns = []dns.RR{mustRR("example.org. 60 SOA a. b. 1 2 3 4 5")}
			m.SetEdns0(1232, true)
			b, err := m.Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b, true)
			f.Add(b, false)
		}
	}
	f.Add([]byte{}, true)
	// A pointer to itself, a pointer forward, a name without end, an OPT among the answers.
	head := "\x00\x00\x80\x00\x00\x01\x00\x02\x00\x00\x00\x01\x03www\x07example\x03org\x00\x00\x01\x00\x01"
	for _, tail := range []string{"\xc0\x21\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04abcd", "\xc0\xff", "\x3fabc",
		"\x00\x00\x29\x04\xd0\xff\x00\x00\x00\x00\x00", "\xc0\x0c\x00\x01\x00\x01\xff\xff\xff\xff\x00\x04abcd"} {
		f.Add([]byte(head+tail), true)
	}
	f.Fuzz(func(t *testing.T, msg []byte, echoes bool) {
		fw := New(Options{Deadline: time.Minute, TryTimeout: time.Minute}, up(1))
		fw.net = said{msg, echoes}
		defer fw.cancel()
		for range 3 {
			m := question4("wWw.eXample.org.", dns.TypeA)
			query, _ := m.Pack()
			answer := make(chan []byte, 1)
			fw.Forward(context.Background(), query, noClient, false, func(b []byte) { answer <- b })
			check(t, query, <-answer, echoes)
		}
		checkCache(t, fw.cache)
	})
}

// check reads an answer with another reader than ours.
func check(t *testing.T, query, b []byte, echoes bool) {
	q := new(question)
	q.parse(query)
	if !bytes.Equal(b[headerLen:q.end], query[headerLen:q.end]) || !bytes.Equal(b[:2], query[:2]) {
		t.Fatalf("%x is answered with %x", query, b)
	}
	if b[3]&0x0f != rcodeServFail && !echoes && b[3]&0x0f != rcodeFormErr && b[3]&0x0f != rcodeNotImp {
		t.Fatalf("the answer to another question comes through: %x", b)
	}
	p := parser{msg: b}
	off, n := q.end, 0
	for i := range 3 {
		n += int(b[6+2*i])<<8 | int(b[7+2*i])
	}
	for range n {
		r, ok := p.record(off)
		if !ok {
			t.Fatalf("malformed: %x", b)
		}
		off = r.end
	}
	if off != len(b) {
		t.Fatalf("%d bytes behind the last record: %x", len(b)-off, b)
	}
}

// FuzzQuery reads whatever a client may send: no panic, and what is a question stays one.
func FuzzQuery(f *testing.F) {
	m := question4("wWw.example.org.", dns.TypeA)
	b, _ := m.Pack()
	f.Add(b)
	m.SetEdns0(4096, true)
	b, _ = m.Pack()
	f.Add(b)
	f.Fuzz(func(t *testing.T, query []byte) {
		var q question
		if !q.parse(query) {
			return
		}
		again := buildQuery(&q, style{mixed: true, edns: true})
		var r question
		if !r.parse(again) || !bytes.Equal(q.bytes(), r.bytes()) {
			t.Fatalf("%x asks %x, upstream %x", query, q.bytes(), again)
		}
		if b := appendError(nil, query, &q, rcodeServFail); len(b) < q.end {
			t.Fatalf("%x", b)
		}
	})
}
