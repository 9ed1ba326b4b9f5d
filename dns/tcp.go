package dns

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"
)

const (
	// writeTimeout is how long a client may take to accept an answer.
	writeTimeout = 5 * time.Second
	// flushAt is how much is gathered while there are more queries to read.
	flushAt = 16 << 10
	// graceTCP is how long a client that has nothing more to ask waits for what was forwarded.
	graceTCP = patience
)

// tcpConn is one connection.
type tcpConn struct {
	net.Conn
	used    atomic.Int64  // when it was last heard of, in nanoseconds since epoch
	pending atomic.Int32  // queries at the forwarder
	drained chan struct{} // holds one value when pending has come to 0

	mu sync.Mutex // guards writing
}

// accept takes connections until the listener is closed.
func (s *Server) accept(ctx context.Context, l net.Listener) error {
	counters := s.newCounters(true, l.Addr())
	for {
		conn, err := l.Accept()
		if err != nil {
			if closed(err) || ctx.Err() != nil {
				return nil
			}
			klog.FromContext(ctx).Error(err, "Accepting a DNS connection")
			select { // out of file descriptors, most likely
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
				return nil
			}
			continue
		}
		c := &tcpConn{Conn: conn, drained: make(chan struct{}, 1)}
		c.touch()
		if !s.admit(c) {
			_ = c.Close()
			return nil
		}
		s.conversing.Go(func() {
			s.converse(ctx, c, counters)
			_ = c.Close()
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		})
	}
}

func (c *tcpConn) touch() { c.used.Store(int64(time.Since(epoch))) }

// admit counts a connection, and ends the one that has been idle longest if there are too many. It
// returns false if the server does not run any more.
func (s *Server) admit(c *tcpConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		return false
	}
	if len(s.conns) >= s.cfg.Connections {
		var oldest *tcpConn
		for o := range s.conns {
			if oldest == nil || o.used.Load() < oldest.used.Load() {
				oldest = o
			}
		}
		delete(s.conns, oldest)
		_ = oldest.Close()
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *Server) closeConns() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.Close()
	}
	s.conns = nil
}

// converse answers what comes over a connection. What is in the zone is answered in order; what is
// forwarded comes when it comes.
func (s *Server) converse(ctx context.Context, c *tcpConn, counters *counters) {
	client := c.RemoteAddr().(*net.TCPAddr).AddrPort()
	client = netip.AddrPortFrom(client.Addr().Unmap(), client.Port())
	r := s.newReply(client.Addr)
	in := bufio.NewReaderSize(c, 4<<10)
	var query, out []byte
	for {
		if !whole(in) { // so that this may take a while
			if !c.write(&out) {
				return
			}
			_ = c.SetReadDeadline(time.Now().Add(s.cfg.Idle))
		}
		var err error
		if query, err = readMessage(in, query); err != nil {
			break
		}
		c.touch()
		start := len(out)
		out = append(out, 0, 0)
		began := time.Now()
		answer, outcome := r.respond(out, query, true)
		if s.cfg.LogQuery != nil {
			s.logOutcome(r, client, outcome)
		}
		counters.walk(r.walked && outcome != chase)
		switch outcome {
		case silent:
			counters.dropped.Add(1)
			return // it does not speak DNS
		case answered:
			counters.request(inZone, r.query.qtype)
			counters.response(inZone, r.rcode)
			counters.took(inZone, time.Since(began), 1)
			out = answer
		case cached:
			counters.request(elsewhere, r.query.qtype)
			counters.response(elsewhere, r.rcode)
			counters.took(elsewhere, time.Since(began), 1)
			out = answer
		default:
			counters.request(elsewhere, r.query.qtype)
			response := s.askTCP(ctx, c, counters, newAside(r, outcome), client)
			out = append(out[:start+2], response...)
		}
		if len(out) == start+2 {
			out = out[:start]
			continue
		}
		binary.BigEndian.PutUint16(out[start:], uint16(len(out)-start-2))
		if len(out) >= flushAt && !c.write(&out) {
			return
		}
	}
	c.write(&out)
	c.wait(ctx)
}

// askTCP forwards a query, and returns the answer if it is there at once.
func (s *Server) askTCP(ctx context.Context, c *tcpConn, counters *counters, a *aside, client netip.AddrPort) []byte {
	c.pending.Add(1)
	p := &pending{aside: a, counters: counters}
	p.send = func(answer []byte) {
		c.touch()
		framed := binary.BigEndian.AppendUint16(make([]byte, 0, len(answer)+2), uint16(len(answer)))
		framed = append(framed, answer...)
		c.write(&framed)
		c.answered()
	}
	response := s.ask(ctx, p, client)
	if response != nil {
		c.answered()
	}
	return response
}

// wait lets a client that has closed its side have what it still waits for.
func (c *tcpConn) wait(ctx context.Context) {
	late := time.After(graceTCP)
	for c.pending.Load() > 0 {
		select {
		case <-c.drained:
		case <-late:
			return
		case <-ctx.Done():
			return
		}
	}
}

// answered counts one query less at the forwarder.
func (c *tcpConn) answered() {
	if c.pending.Add(-1) == 0 {
		select {
		case c.drained <- struct{}{}:
		default:
		}
	}
}

// whole reports whether the next message is there already.
func whole(in *bufio.Reader) bool {
	if in.Buffered() < 2 {
		return false
	}
	length, _ := in.Peek(2) // which reads nothing
	return in.Buffered() >= 2+int(binary.BigEndian.Uint16(length))
}

// readMessage reads one message, into b if it fits.
func readMessage(in *bufio.Reader, b []byte) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(in, length[:]); err != nil {
		return b, err
	}
	n := int(binary.BigEndian.Uint16(length[:]))
	if cap(b) < n {
		b = make([]byte, n, max(n, 512))
	}
	b = b[:n]
	_, err := io.ReadFull(in, b)
	return b, err
}

// write sends what has gathered in b, and empties it. It returns false if the client is gone.
func (c *tcpConn) write(b *[]byte) bool {
	if len(*b) == 0 {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err := c.Write(*b)
	*b = (*b)[:0]
	if cap(*b) > 2*flushAt {
		*b = nil
	}
	if err != nil {
		_ = c.Close()
	}
	return err == nil
}
