package forward

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// raw is an answer to www.example.org A with n records in its answer section.
func raw(n int, records ...string) []byte {
	head := []byte("\x00\x00\x81\x80\x00\x01\x00\x00\x00\x00\x00\x00\x03www\x07example\x03org\x00\x00\x01\x00\x01")
	binary.BigEndian.PutUint16(head[6:], uint16(n))
	return append(head, strings.Join(records, "")...)
}

func questionOf(t testing.TB, msg []byte) *question {
	t.Helper()
	query := append([]byte(nil), msg[:33]...)
	copy(query[2:], "\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00")
	q := new(question)
	if !q.parse(query) {
		t.Fatal("no question")
	}
	return q
}

func TestMalformed(t *testing.T) {
	const (
		a      = "\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\xc0\x00\x02\x01" // at 33
		behind = "\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\xc0\x00\x02\x01"
	)
	for _, tc := range []struct {
		name string
		msg  []byte
		ok   bool
	}{
		{"sound", raw(1, a), true},
		{"bytes behind", raw(1, a, "xyz"), true},
		{"fewer records than counted", raw(2, a), false},
		{"cut in the data", raw(1, a[:14]), false},
		{"cut in the middle", raw(1, a[:6]), false},
		{"pointer to itself", raw(1, "\xc0\x21", behind), false},
		{"pointer forward", raw(1, "\xc0\x30", behind), false},
		{"pointer into the header", raw(1, "\xc0\x00", behind), false},
		{"pointer into a TTL", raw(2, a, "\xc0\x29", behind), false},
		{"pointer into a type", raw(2, a, "\xc0\x23", behind), false},
		{"pointer to a pointer", raw(2, a, "\xc0\x21", behind), true},
		{"unknown label", raw(1, "\x80\x0c", behind), false},
		{"long label", raw(1, "\x40", strings.Repeat("x", 64), "\x00", behind), false},
		{"long name", raw(1, strings.Repeat("\x3f"+strings.Repeat("x", 63), 4), "\x00", behind), false},
		{"name without end", raw(1, "\x3fabc"), false},
		{"address of 3 bytes", raw(1, "\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x03abc"), false},
		{"alias with more behind", raw(1, "\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x3c\x00\x03\xc0\x0cx"), false},
		{"alias beyond its data", raw(1, "\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x3c\x00\x01\x01x\x00"), false},
		{"mail exchange without name", raw(1, "\xc0\x0c\x00\x0f\x00\x01\x00\x00\x00\x3c\x00\x02\x00\x01"), false},
		{"OPT among the answers", raw(1, "\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00"), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e, err := newEntry(tc.msg, questionOf(t, tc.msg), limits{max: 3600})
			if (err == nil) != tc.ok {
				t.Fatalf("%+v, %v", e, err)
			}
		})
	}
}

// Addresses turn only if nothing else does: a pointer into one of them holds them all.
func TestWhatMayTurn(t *testing.T) {
	const (
		first  = "\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x01x\x00\x01" // at 33, its address at 45
		second = "\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\xc0\x00\x02\x02"
		six    = "\xc0\x0c\x00\x1c\x00\x01\x00\x00\x00\x3c\x00\x10aaaabbbbccccdddd"
		alias  = "\xc0\x2d\x00\x05\x00\x01\x00\x00\x00\x3c\x00\x02\xc0\x0c" // its owner is in the first address
	)
	for _, tc := range []struct {
		name string
		msg  []byte
		n    uint16
	}{
		{"one", raw(1, first), 0},
		{"two", raw(2, first, second), 2},
		{"the longest row", raw(5, six, six, first, second, second), 3},
		{"pointer into an address", raw(3, first, second, alias), 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e, _, err := readEntry(tc.msg, questionOf(t, tc.msg), limits{max: 3600})
			if err != nil {
				t.Fatal(err)
			}
			if e.rotate.n != tc.n {
				t.Errorf("%+v turn, want %d", e.rotate, tc.n)
			}
		})
	}
}

// What follows an OPT in the middle goes, and the owner is told in lower case.
func TestNormalized(t *testing.T) {
	m := question4("www.example.org.", dns.TypeA)
	m.Response = true
	m.Answer = []dns.RR{mustRR("wWw.eXAMPLe.org. 60 A 192.0.2.1")}
	m.SetEdns0(1232, false)
	m.Extra = append(m.Extra, mustRR("glue.example.org. 60 A 192.0.2.9"))
	msg, _ := m.Pack()
	q := questionOf(t, msg)
	e, err := newEntry(msg, q, limits{max: 3600})
	if err != nil {
		t.Fatal(err)
	}
	query, _ := question4("WWW.example.org.", dns.TypeA).Pack()
	q.parse(query)
	var a dns.Msg
	if err := a.Unpack(appendAnswer(nil, query, q, e, 5)); err != nil {
		t.Fatal(err)
	}
	if len(a.Extra) != 0 || len(a.Answer) != 1 || a.Answer[0].String() != "www.example.org.\t5\tIN\tA\t192.0.2.1" {
		t.Error(&a)
	}
}

func BenchmarkNewEntry(b *testing.B) {
	m := question4("www.example.org.", dns.TypeA)
	m.Response, m.Compress = true, true
	m.Answer = []dns.RR{mustRR("www.example.org. 60 CNAME a.example.org."), mustRR("a.example.org. 60 A 192.0.2.1"), mustRR("a.example.org. 60 A 192.0.2.2")}
	m.SetEdns0(1232, false)
	msg, _ := m.Pack()
	q := questionOf(b, msg)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := newEntry(msg, q, limits{max: 3600}); err != nil {
			b.Fatal(err)
		}
	}
}
