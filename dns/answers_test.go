package dns

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/weir-project/weir/endpoints"
	"github.com/weir-project/weir/endpoints/manifests"
)

// TestAnswers asks every query of testdata/answers.txt over each transport.
func TestAnswers(t *testing.T) {
	zone := newTestZone(t, Config{Servers: []netip.Addr{netip.MustParseAddr("10.96.0.2"), netip.MustParseAddr("fd00:96::2")}})
	follow(t, zone, "testdata/cluster")
	addr := serve(t, ServerConfig{Zone: zone, Forwarder: upstream{}})
	for _, transport := range []string{"udp", "tcp"} {
		t.Run(transport, func(t *testing.T) {
			conn := dial(t, transport, addr)
			for _, tt := range readAnswers(t, "testdata/answers.txt") {
				got := describe(t, conn.ask(t, tt.query))
				if diff := cmp.Diff(tt.answer, got); diff != "" {
					t.Errorf("%s: -want +got\n%s", tt.text, diff)
				}
			}
		})
	}
}

// upstream answers every name with one address, as if from an authority, with compressed names.
type upstream struct{}

func (upstream) Forward(_ context.Context, query []byte, _ netip.AddrPort, _ bool, reply func([]byte)) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		panic(err)
	}
	q := m.Questions[0]
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	body := dnsmessage.ResourceBody(&dnsmessage.AResource{A: [4]byte{192, 0, 2, 99}})
	if q.Type == dnsmessage.TypePTR {
		q.Name = dnsmessage.MustNewName("elsewhere.example.")
		body = &dnsmessage.PTRResource{PTR: dnsmessage.MustNewName("elsewhere.")}
	}
	m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 60}, Body: body}}
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	go reply(b)
}

type answerCase struct {
	text   string
	query  []byte
	answer []string
}

// readAnswers reads a table of queries and answers.
func readAnswers(t *testing.T, path string) (cases []answerCase) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimRight(line, "\n")
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '\t':
			last := &cases[len(cases)-1]
			last.answer = append(last.answer, line[1:])
		default:
			fields := strings.Fields(line)
			cases = append(cases, answerCase{text: line, query: newQuery(t, fields[0], fields[1], slices.Contains(fields, "CH"))})
		}
	}
	for i := range cases {
		a := cases[i].answer
		slices.Sort(a)
	}
	return cases
}

var typeNumbers = map[string]uint16{"A": typeA, "AAAA": typeAAAA, "SRV": typeSRV, "PTR": typePTR, "TXT": typeTXT, "CNAME": typeCNAME,
	"SOA": typeSOA, "NS": typeNS, "MX": typeMX, "ANY": typeANY, "AXFR": 252}

func newQuery(t testing.TB, name, qtype string, chaos bool) []byte {
	t.Helper()
	b := []byte{0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		b = appendLabel(b, label)
	}
	n, ok := typeNumbers[qtype]
	if !ok {
		t.Fatalf("type %s", qtype)
	}
	class := byte(classIN)
	if chaos {
		class = 3
	}
	return append(b, 0, byte(n>>8), byte(n), 0, class)
}

// withOPT adds an OPT record to a query.
func withOPT(query []byte, size uint16, version byte, do bool, options ...byte) []byte {
	q := slices.Clone(query)
	q[11]++
	flags := byte(0)
	if do {
		flags = 0x80
	}
	q = append(q, 0, 0, typeOPT, byte(size>>8), byte(size), 0, version, flags, 0, byte(len(options)>>8), byte(len(options)))
	return append(q, options...)
}

// describe writes an answer as testdata/answers.txt has it, sorted.
func describe(t testing.TB, b []byte) (lines []string) {
	t.Helper()
	var m dnsmessage.Message
	if err := m.Unpack(b); err != nil {
		t.Fatalf("answer %x: %v", b, err)
	}
	if m.ID != 0x1234 {
		t.Errorf("id %x", m.ID)
	}
	if m.RCode != dnsmessage.RCodeSuccess {
		lines = append(lines, map[dnsmessage.RCode]string{1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"}[m.RCode])
	}
	flags := ""
	for _, f := range []struct {
		set  bool
		name string
	}{{m.Response, " qr"}, {m.Authoritative, " aa"}, {m.Truncated, " tc"}, {m.RecursionDesired, " rd"}, {m.RecursionAvailable, " ra"}} {
		if f.set {
			flags += f.name
		}
	}
	if flags != " qr aa rd ra" {
		lines = append(lines, "flags"+flags)
	}
	for _, section := range []struct {
		name    string
		records []dnsmessage.Resource
	}{{"answer", m.Answers}, {"authority", m.Authorities}, {"additional", m.Additionals}} {
		for _, r := range section.records {
			if r.Header.Type != typeOPT {
				lines = append(lines, section.name+" "+describeRecord(r))
			}
		}
	}
	slices.Sort(lines)
	lines = compactAliases(lines)
	return lines
}

// compactAliases leaves of a chain of the same alias one.
func compactAliases(lines []string) []string {
	return slices.CompactFunc(lines, func(a, b string) bool { return a == b && strings.Contains(a, " CNAME ") })
}

func describeRecord(r dnsmessage.Resource) string {
	s := fmt.Sprintf("%s %d ", r.Header.Name, r.Header.TTL)
	switch b := r.Body.(type) {
	case *dnsmessage.AResource:
		return s + "A " + netip.AddrFrom4(b.A).String()
	case *dnsmessage.AAAAResource:
		return s + "AAAA " + netip.AddrFrom16(b.AAAA).String()
	case *dnsmessage.CNAMEResource:
		return s + "CNAME " + b.CNAME.String()
	case *dnsmessage.NSResource:
		return s + "NS " + b.NS.String()
	case *dnsmessage.PTRResource:
		return s + "PTR " + b.PTR.String()
	case *dnsmessage.SRVResource:
		return s + fmt.Sprintf("SRV %d %d %d %s", b.Priority, b.Weight, b.Port, b.Target)
	case *dnsmessage.TXTResource:
		return s + fmt.Sprintf("TXT %q", strings.Join(b.TXT, ""))
	case *dnsmessage.SOAResource:
		if b.MinTTL > 5 || b.Serial == 0 || b.NS.String() != "ns.dns.cluster.local." || b.MBox.String() != "hostmaster.cluster.local." {
			return s + fmt.Sprintf("SOA %+v", *b)
		}
		return s + "SOA"
	case *dnsmessage.UnknownResource:
		if b.Type == typeHINFO {
			return s + "HINFO"
		}
	}
	return s + r.Header.Type.String()
}

func newTestZone(t testing.TB, c Config) *Zone {
	t.Helper()
	z, err := NewZone(c)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// follow keeps a zone up to date with a directory of manifests, until the test ends.
func follow(t testing.TB, zone *Zone, dir string) {
	t.Helper()
	e := endpoints.New(endpoints.Config{})
	names := e.Subscribe()
	source := manifests.NewSource(manifests.Config{Dir: dir, Sink: e, Reporter: discard{}, DNS: true})
	runs(t, source.Run)
	runs(t, func(ctx context.Context) error { return zone.Run(ctx, names, nil) })
	select {
	case <-zone.Ready():
	case <-time.After(10 * time.Second):
		t.Fatal("the zone is never ready")
	}
}

type discard struct{}

func (discard) Report(endpoints.Problem) {}

// runs runs something until the test ends.
func runs(t testing.TB, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Error("it does not end with its context")
		}
	})
}

// serve runs a server on a port of 127.0.0.1, unless c says where, until the test ends.
func serve(t testing.TB, c ServerConfig) netip.AddrPort {
	t.Helper()
	if c.Listen == nil {
		c.Listen = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}
	}
	addrs := make(chan []netip.AddrPort, 1)
	c.Listening = func(a []netip.AddrPort) { addrs <- a }
	runs(t, NewServer(c).Run)
	select {
	case a := <-addrs:
		return a[0]
	case <-time.After(10 * time.Second):
		t.Fatal("the server never listens")
		return netip.AddrPort{}
	}
}

// client asks over one transport.
type client struct {
	net.Conn
	in *bufio.Reader // TCP
}

func dial(t testing.TB, transport string, addr netip.AddrPort) *client {
	t.Helper()
	c, err := net.Dial(transport, addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	cl := &client{Conn: c}
	if transport == "tcp" {
		cl.in = bufio.NewReader(c)
	}
	return cl
}

func (c *client) send(t testing.TB, query []byte) {
	t.Helper()
	if c.in != nil {
		query = append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)
	}
	if _, err := c.Write(query); err != nil {
		t.Fatal(err)
	}
}

// receive returns the next answer; nil if there is none for a time.
func (c *client) receive(t testing.TB, wait time.Duration) []byte {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(wait))
	b := make([]byte, maxTCP)
	if c.in == nil {
		n, err := c.Read(b)
		if err != nil {
			return nil
		}
		return b[:n]
	}
	var length [2]byte
	if _, err := io.ReadFull(c.in, length[:]); err != nil {
		return nil
	}
	b = b[:binary.BigEndian.Uint16(length[:])]
	if _, err := io.ReadFull(c.in, b); err != nil {
		t.Fatal(err)
	}
	return b
}

func (c *client) ask(t testing.TB, query []byte) []byte {
	t.Helper()
	c.send(t, query)
	answer := c.receive(t, 5*time.Second)
	if answer == nil {
		t.Fatalf("no answer to %q", query)
	}
	return answer
}
