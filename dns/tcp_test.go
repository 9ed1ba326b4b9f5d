package dns

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/weir-project/weir/endpoints"
)

// framed returns queries as they go over TCP.
func framed(queries ...[]byte) (b []byte) {
	for _, q := range queries {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(q))), q...)
	}
	return b
}

// TestHalfQuery has an answer wait for nothing, least of all for the rest of the next query.
func TestHalfQuery(t *testing.T) {
	c := newCluster(t)
	c.services(1)
	addr := c.serve(t, ServerConfig{})
	query := newQuery(t, "service-0.namespace-0.svc.cluster.local.", "A", false)
	for _, cut := range []int{1, 2, 3, len(query)} { // of the second query with its length
		conn := dial(t, "tcp", addr)
		both := framed(query, query)
		if _, err := conn.Write(both[:2+len(query)+cut]); err != nil {
			t.Fatal(err)
		}
		if b := conn.receive(t, 5*time.Second); b == nil || answersIn(b) != 1 {
			t.Fatalf("with %d bytes of the next query the first is answered %x", cut, b)
		}
		if _, err := conn.Write(both[2+len(query)+cut:]); err != nil {
			t.Fatal(err)
		}
		if b := conn.receive(t, 5*time.Second); b == nil || answersIn(b) != 1 {
			t.Fatalf("cut at %d, the second query is answered %x", cut, b)
		}
	}
}

// truncating is a forwarder whose upstream cannot be asked over TCP.
type truncating struct{}

func (truncating) Forward(_ context.Context, query []byte, _ netip.AddrPort, _ bool, reply func([]byte)) {
	b := append([]byte(nil), query...)
	b[2] |= (flagQR | flagTC) >> 8
	reply(b)
}

// TestTruncatedUpstream has nobody take an answer without its records for one that has none.
func TestTruncatedUpstream(t *testing.T) {
	zone := walkZone(t)
	s := NewServer(ServerConfig{Zone: zone, Forwarder: truncating{}})
	for _, name := range []string{"www.example.org.", "outside.other.svc.cluster.local."} {
		for _, tcp := range []bool{false, true} {
			r := s.newReply(nil)
			_, o := r.respond(nil, newQuery(t, name, "A", false), tcp)
			b := s.ask(t.Context(), &pending{aside: newAside(r, o), counters: s.newCounters(tcp, &net.UDPAddr{})}, netip.AddrPort{})
			if tcp && rcodeOf(b) != rcodeServFail || truncated(b) == tcp {
				t.Errorf("%s, over TCP %v: %x", name, tcp, b)
			}
		}
	}
}

// TestBusyConnection keeps a connection that is never idle, though never at the end of a query either.
func TestBusyConnection(t *testing.T) {
	const idle = 500 * time.Millisecond
	c := newCluster(t)
	c.services(1)
	conn := dial(t, "tcp", c.serve(t, ServerConfig{Idle: idle}))
	message := framed(newQuery(t, "service-0.namespace-0.svc.cluster.local.", "A", false))
	const ahead = 10 // bytes of the next query
	if _, err := conn.Write(message[:ahead]); err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); time.Since(began) < 3*idle; time.Sleep(idle / 20) {
		if _, err := conn.Write(append(message[ahead:len(message):len(message)], message[:ahead]...)); err != nil {
			t.Fatalf("after %v: %v", time.Since(began), err)
		}
		if b := conn.receive(t, 5*time.Second); b == nil {
			t.Fatalf("no answer after %v", time.Since(began))
		}
	}
	// One that does not go on with its query is idle.
	began := time.Now()
	if n, err := conn.Conn.Read(make([]byte, 1)); err == nil || time.Since(began) > 10*idle {
		t.Errorf("%d bytes after %v, %v", n, time.Since(began), err)
	}
}

// FuzzFraming holds that what comes over TCP is cut into messages by their lengths, however it arrives.
func FuzzFraming(f *testing.F) {
	f.Add([]byte{0, 1, 7, 0, 0, 0, 2, 8, 9, 0}, 3)
	f.Add(append([]byte{0x13, 0x88}, make([]byte, 6_000)...), 1_000)
	f.Fuzz(func(t *testing.T, b []byte, chunk int) {
		var want [][]byte
		for rest := b; len(rest) >= 2; {
			n := 2 + int(binary.BigEndian.Uint16(rest))
			if n > len(rest) {
				break
			}
			want, rest = append(want, rest[2:n]), rest[n:]
		}
		in := bufio.NewReaderSize(&pieces{b, max(1, chunk)}, 4<<10)
		var m []byte
		for i := 0; ; i++ {
			there, before := whole(in), in.Buffered()
			var err error
			if m, err = readMessage(in, m); err != nil {
				if i != len(want) || there {
					t.Fatalf("%d messages of %d, then %v", i, len(want), err)
				}
				return
			}
			if i == len(want) || !bytes.Equal(m, want[i]) {
				t.Fatalf("message %d is %x", i, m)
			}
			if there != (before >= 2+len(m)) {
				t.Fatalf("message %d of %d bytes, %d of them read: there %v", i, len(m), before, there)
			}
		}
	})
}

// pieces is read a few bytes at a time.
type pieces struct {
	rest []byte
	n    int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), p.n)], p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// TestRunAgain has a server end, and answer again over TCP.
func TestRunAgain(t *testing.T) {
	c := newCluster(t)
	c.services(1)
	c.engine.ReplaceNamespaces(nil)
	c.engine.ReplaceSlices(nil)
	c.engine.ReplaceServices([]*endpoints.Service{c.engine.Service(c.engine.Services()[0])})
	runs(t, func(ctx context.Context) error { return c.zone.Run(ctx, c.names, nil) })
	addrs := make(chan []netip.AddrPort, 1)
	s := NewServer(ServerConfig{Zone: c.zone, Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")},
		Listening: func(a []netip.AddrPort) { addrs <- a }})
	query := newQuery(t, "service-0.namespace-0.svc.cluster.local.", "A", false)
	for i := range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		conn := dial(t, "tcp", (<-addrs)[0])
		if b := conn.ask(t, query); answersIn(b) != 1 {
			t.Errorf("run %d: %x", i, b)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if b := conn.receive(t, 5*time.Second); b != nil {
			t.Errorf("run %d: after its end: %x", i, b)
		}
	}
}
