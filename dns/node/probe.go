package node

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// Prober asks a server's own sockets through the network, in a way that the rules let through without
// a lease.
type Prober struct {
	// Name is asked for, a TXT record that there always is.
	Name string
	// TTL is that of the probe's packets.
	TTL int
}

// Probe asks one socket, and returns why there was no answer.
func (p Prober) Probe(ctx context.Context, s Socket) error {
	err := p.ask(ctx, s)
	if err != nil {
		return fmt.Errorf("ask %s over %s: %w", s.Addr, s.Protocol(), err)
	}
	return nil
}

func (p Prober) ask(ctx context.Context, s Socket) error {
	query := new(dns.Msg).SetQuestion(p.Name, dns.TypeTXT)
	packed, err := query.Pack()
	if err != nil {
		return err
	}
	dialer := net.Dialer{Control: p.control}
	conn, err := dialer.DialContext(ctx, s.Protocol(), s.Addr.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
	defer stop()
	answer, err := exchange(conn, packed)
	if err != nil {
		return err
	}
	var m dns.Msg
	if err := m.Unpack(answer); err != nil {
		return fmt.Errorf("the answer: %w", err)
	}
	if m.Id != query.Id || !m.Response || m.Rcode != dns.RcodeSuccess {
		return fmt.Errorf("the answer to query %d for %s is %d, %s", query.Id, p.Name, m.Id, dns.RcodeToString[m.Rcode])
	}
	return nil
}

// exchange sends a query and returns what comes back.
func exchange(conn net.Conn, query []byte) ([]byte, error) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		if _, err := conn.Write(query); err != nil {
			return nil, err
		}
		answer := make([]byte, dns.DefaultMsgSize)
		n, err := conn.Read(answer)
		return answer[:n], err
	}
	// Closed by a reset: several connections a second would leave hundreds behind in TIME_WAIT, whose
	// packets have another TTL.
	_ = tcp.SetLinger(0)
	framed := append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)
	if _, err := conn.Write(framed); err != nil {
		return nil, err
	}
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return nil, err
	}
	answer := make([]byte, binary.BigEndian.Uint16(length[:]))
	_, err := io.ReadFull(conn, answer)
	return answer, err
}

// control gives a socket the probe's TTL.
func (p Prober) control(network, _ string, c syscall.RawConn) error {
	var err error
	cerr := c.Control(func(fd uintptr) {
		if network == "udp6" || network == "tcp6" {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, p.TTL)
		} else {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TTL, p.TTL)
		}
	})
	if cerr != nil {
		return cerr
	}
	return err
}

// Is reports whether a query is one of ours, as far as what is asked tells.
func (p Prober) Is(client netip.Addr, at []netip.AddrPort, name, qtype string) bool {
	if name != p.Name || qtype != "TXT" {
		return false
	}
	for _, a := range at {
		if a.Addr() == client {
			return true
		}
	}
	return false
}
