package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"

	"golang.org/x/sys/unix"
)

// tcpWaits reports whether the client of a connection in this state has to be told. One that is
// still sending its first SYN sends it again by itself.
func tcpWaits(state uint8) bool {
	switch state {
	case tcpSynSent, tcpSynSent2:
		return false
	}
	return tcpOpen(state)
}

// poker makes the client of a TCP connection say something, wherever the client is.
//
// The segment is a SYN with ACK that seems to come from the frontend. A client in a connection
// answers any such segment, wrong numbers or not, with an ACK that carries its true ones (RFC 5961,
// section 4). That ACK belongs to no entry any more: it goes through the rules as a new connection
// would, and whoever gets it, another endpoint or the refusal of a frontend without any, answers
// with a reset that the client believes. Conntrack makes no entry of a lone SYN with ACK, so the
// poke leaves no trace.
type poker struct {
	fd4, fd6 int
}

// openPoker opens raw sockets in a network namespace; 0 is the caller's.
func openPoker(netns int) (*poker, error) {
	p := &poker{-1, -1}
	err := inNamespace(netns, func() (err error) {
		const typ = unix.SOCK_RAW | unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK
		if p.fd4, err = unix.Socket(unix.AF_INET, typ, unix.IPPROTO_RAW); err != nil {
			return err
		}
		p.fd6, err = unix.Socket(unix.AF_INET6, typ, unix.IPPROTO_RAW)
		if errors.Is(err, unix.EAFNOSUPPORT) {
			return nil // no IPv6 here, hence no connections
		}
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open a raw socket (CAP_NET_RAW is needed): %w", err), p.close())
	}
	return p, nil
}

// inNamespace calls fn in a network namespace; 0 is the caller's.
func inNamespace(netns int, fn func() error) error {
	if netns == 0 {
		return fn()
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := unix.Setns(netns, unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter the network namespace: %w", err)
			return
		}
		done <- fn()
	}()
	return <-done
}

func (p *poker) close() error {
	var errs []error
	for _, fd := range []int{p.fd4, p.fd6} {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	p.fd4, p.fd6 = -1, -1
	return errors.Join(errs...)
}

// poke sends the segment to the client.
func (p *poker) poke(client, frontend netip.AddrPort) error {
	var buf [40 + tcpHeader]byte
	b := appendPoke(buf[:0], client, frontend, rand.Uint32(), rand.Uint32())
	if client.Addr().Is4() {
		return unix.Sendto(p.fd4, b, 0, &unix.SockaddrInet4{Addr: client.Addr().As4()})
	}
	return unix.Sendto(p.fd6, b, 0, &unix.SockaddrInet6{Addr: client.Addr().As16()})
}

const (
	tcpHeader = 20
	hopLimit  = 64
	synAck    = 0x12
)

// appendPoke appends the packet, from its IP header on.
func appendPoke(b []byte, client, frontend netip.AddrPort, seq, ack uint32) []byte {
	src, dst := frontend.Addr(), client.Addr()
	if src.Is4() {
		// The kernel fills in the checksum and the identification.
		b = append(b, 0x45, 0, 0, 20+tcpHeader, 0, 0, 0, 0, hopLimit, unix.IPPROTO_TCP, 0, 0)
	} else {
		b = append(b, 0x60, 0, 0, 0, 0, tcpHeader, unix.IPPROTO_TCP, hopLimit)
	}
	addrs := len(b)
	b = append(b, src.AsSlice()...)
	b = append(b, dst.AsSlice()...)
	tcp := len(b)
	b = binary.BigEndian.AppendUint16(b, frontend.Port())
	b = binary.BigEndian.AppendUint16(b, client.Port())
	b = binary.BigEndian.AppendUint32(b, seq)
	b = binary.BigEndian.AppendUint32(b, ack)
	b = append(b, tcpHeader/4<<4, synAck, 0, 0, 0, 0, 0, 0)
	sum := sum16(b[addrs:]) + unix.IPPROTO_TCP + tcpHeader // with the pseudo header
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(b[tcp+16:], ^uint16(sum))
	return b
}

// sum16 adds up 16-bit words; b has an even length.
func sum16(b []byte) (sum uint32) {
	for ; len(b) > 0; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	return sum
}
