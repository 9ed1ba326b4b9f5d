package netlab

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Protocol is an IP protocol number (IANA).
type Protocol uint8

// The protocols that servers and probes speak.
const (
	TCP  Protocol = unix.IPPROTO_TCP
	UDP  Protocol = unix.IPPROTO_UDP
	SCTP Protocol = unix.IPPROTO_SCTP
)

func (p Protocol) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case SCTP:
		return "sctp"
	}
	return strconv.Itoa(int(p))
}

// Server answers every request with who it is and whom it saw. A TCP connection may carry any number
// of requests, one after the other.
type Server struct {
	Name string         // its host's
	Addr netip.AddrPort // where it listens

	closeOnce sync.Once
	closeErr  error
	shut      func() error
	wg        sync.WaitGroup

	mu    sync.Mutex // guards conns
	conns map[net.Conn]struct{}
}

// Serve starts a server in the host, until it or the lab is closed. addr must be one address of the
// host, not the wildcard: an answer from there would carry whatever source routing chooses. Port 0
// takes a free one (not with SCTP).
func (h *Host) Serve(proto Protocol, addr netip.AddrPort) (*Server, error) {
	s := &Server{Name: h.Name, Addr: addr, conns: make(map[net.Conn]struct{})}
	var err error
	switch proto {
	case TCP:
		err = s.serveTCP(h)
	case UDP:
		err = s.serveUDP(h)
	case SCTP:
		err = s.serveSCTP(h)
	default:
		err = fmt.Errorf("no server for protocol %s", proto)
	}
	if err != nil {
		return nil, fmt.Errorf("serve %s on %s: %w", proto, addr, err)
	}
	if !h.own(s) {
		_ = s.Close()
		return nil, fmt.Errorf("serve %s on %s: %w", proto, addr, net.ErrClosed)
	}
	return s, nil
}

// Close stops the server, and breaks the connections that it has.
func (s *Server) Close() error {
	s.closeOnce.Do(func() {
		s.closeErr = s.shut()
		s.mu.Lock()
		for c := range s.conns {
			_ = c.Close()
		}
		s.conns = nil
		s.mu.Unlock()
		s.wg.Wait()
	})
	return s.closeErr
}

func (s *Server) serveTCP(h *Host) error {
	l, err := h.Listen("tcp", s.Addr.String())
	if err != nil {
		return err
	}
	s.Addr = l.Addr().(*net.TCPAddr).AddrPort()
	s.shut = l.Close
	s.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if s.track(c) {
				s.wg.Go(func() { s.converse(c) })
			}
		}
	})
	return nil
}

// track remembers an open connection. It is false once the server is closed.
func (s *Server) track(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		_ = c.Close()
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *Server) converse(c net.Conn) {
	defer func() {
		_ = c.Close()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
	from := c.RemoteAddr().(*net.TCPAddr).AddrPort()
	r := bufio.NewReaderSize(c, 128)
	for {
		request, err := r.ReadSlice('\n')
		if err != nil {
			return
		}
		if _, err := c.Write(s.reply(string(request), from)); err != nil {
			return
		}
	}
}

func (s *Server) serveUDP(h *Host) error {
	pc, err := h.ListenPacket("udp", s.Addr.String())
	if err != nil {
		return err
	}
	c := pc.(*net.UDPConn)
	_ = c.SetReadBuffer(4 << 20) // a burst of requests waits here while the server has no processor
	s.Addr = c.LocalAddr().(*net.UDPAddr).AddrPort()
	s.shut = c.Close
	s.wg.Go(func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteToUDPAddrPort(s.reply(string(buf[:n]), from), from)
		}
	})
	return nil
}

// reply is the answer to a request, which is a nonce: one line of nonce, name, own address, and the
// address the request came from.
func (s *Server) reply(request string, from netip.AddrPort) []byte {
	from = netip.AddrPortFrom(from.Addr().Unmap().WithZone(""), from.Port())
	return fmt.Appendf(nil, "%s %s %s %s\n", strings.TrimSpace(request), s.Name, s.Addr, from)
}

// Reply is what a server says.
type Reply struct {
	Name   string         // the host of the server that answered
	By     netip.AddrPort // where that server listens
	Source netip.AddrPort // where it saw the request come from
}

func parseReply(line, nonce string) (Reply, error) {
	f := strings.Fields(line)
	if len(f) != 4 {
		return Reply{}, fmt.Errorf("not a server's answer: %q", line)
	}
	if f[0] != nonce {
		return Reply{}, fmt.Errorf("answer to another request: %q", line)
	}
	by, err := netip.ParseAddrPort(f[2])
	if err != nil {
		return Reply{}, err
	}
	source, err := netip.ParseAddrPort(f[3])
	if err != nil {
		return Reply{}, err
	}
	return Reply{Name: f[1], By: by, Source: source}, nil
}

// Ask sends one request over an open TCP or connected UDP connection to a server, and returns its
// answer. Deadlines are the caller's.
func Ask(c net.Conn) (Reply, error) {
	nonce := newNonce()
	if _, err := fmt.Fprintf(c, "%s\n", nonce); err != nil {
		return Reply{}, err
	}
	line := make([]byte, 0, 256)
	for len(line) < cap(line) {
		n, err := c.Read(line[len(line):cap(line)])
		line = line[:len(line)+n]
		if n > 0 && line[len(line)-1] == '\n' {
			return parseReply(string(line), nonce)
		}
		if err != nil {
			return Reply{}, err
		}
	}
	return Reply{}, fmt.Errorf("no end in the answer %q", line)
}
