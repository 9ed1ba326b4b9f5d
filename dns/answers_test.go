package dns

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/weir-project/weir/dns/dnstest"
	"github.com/weir-project/weir/endpoints"
	"github.com/weir-project/weir/endpoints/manifests"
)

// TestAnswers asks every query of testdata/answers.txt over each transport. Package test/names has
// weir itself asked, over manifests and over an API server.
func TestAnswers(t *testing.T) {
	zone := newTestZone(t, Config{Servers: []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")}})
	follow(t, zone, "testdata/cluster")
	addr := serve(t, ServerConfig{Zone: zone, Forwarder: upstream{}})
	cases, err := dnstest.ReadTable("testdata/answers.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, transport := range []string{"udp", "tcp"} {
		t.Run(transport, func(t *testing.T) {
			conn := dial(t, transport, addr)
			for _, tt := range cases {
				got, err := dnstest.Describe(conn.ask(t, tt.Query))
				if err != nil {
					t.Fatalf("%s: %v", tt.Text, err)
				}
				if diff := cmp.Diff(tt.Answer, got); diff != "" {
					t.Errorf("%s: -want +got\n%s", tt.Text, diff)
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
		body = &dnsmessage.PTRResource{PTR: dnsmessage.MustNewName("elsewhere.")}
	}
	m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET}, Body: body}}
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	go reply(b)
}

func newQuery(t testing.TB, name, qtype string, chaos bool) []byte {
	t.Helper()
	if !strings.HasSuffix(name, ".") {
		name += "."
	}
	b, err := dnstest.Query(name, qtype, chaos)
	if err != nil {
		t.Fatal(err)
	}
	return b
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
