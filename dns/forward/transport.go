package forward

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// transport carries one question to an upstream and brings back the answer to it.
type transport interface {
	// udp sends query and returns the first packet that accept takes. accept's error, other than
	// errNotOurs, ends the exchange.
	udp(ctx context.Context, to netip.AddrPort, query []byte, accept func([]byte) error) ([]byte, error)
	tcp(ctx context.Context, to netip.AddrPort, query []byte) ([]byte, error)
}

var (
	errNotOurs = errors.New("answer to another question")
	errSpoofed = errors.New("too many answers to other questions")
	errTooLong = errors.New("answer longer than was asked for")
)

const (
	// maxUDPAnswer is the longest packet that is read: some upstreams send more than they are told.
	maxUDPAnswer = 4096
	// maxForeign is how many packets that answer something else are read before they are taken for
	// an attempt to guess. TCP is asked then.
	maxForeign = 8
)

// sockets is the transport of the network. Every question has a socket of its own: its port is
// drawn by the kernel, and as it is connected, nothing from another address reaches it.
type sockets struct{}

var buffers = sync.Pool{New: func() any { return new([maxUDPAnswer]byte) }}

func (sockets) udp(ctx context.Context, to netip.AddrPort, query []byte, accept func([]byte) error) ([]byte, error) {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer interrupt(ctx, conn)()
	if _, err := conn.Write(query); err != nil {
		return nil, err
	}
	buf := buffers.Get().(*[maxUDPAnswer]byte)
	defer buffers.Put(buf)
	for range maxForeign {
		n, err := conn.Read(buf[:])
		if err != nil {
			return nil, errors.Join(ctx.Err(), err)
		}
		if err = accept(buf[:n]); err == nil && n == maxUDPAnswer {
			return nil, errTooLong
		} else if err == nil {
			return append([]byte(nil), buf[:n]...), nil
		} else if !errors.Is(err, errNotOurs) {
			return nil, err
		}
	}
	return nil, errSpoofed
}

func (sockets) tcp(ctx context.Context, to netip.AddrPort, query []byte) ([]byte, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer interrupt(ctx, conn)()
	framed := append(binary.BigEndian.AppendUint16(make([]byte, 0, len(query)+2), uint16(len(query))), query...)
	if _, err := conn.Write(framed); err != nil {
		return nil, err
	}
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return nil, errors.Join(ctx.Err(), err)
	}
	msg := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(conn, msg); err != nil {
		return nil, errors.Join(ctx.Err(), err)
	}
	return msg, nil
}

// interrupt ends what waits for conn when ctx is done, until the returned function is called.
func interrupt(ctx context.Context, conn net.Conn) (stop func()) {
	ended := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	return func() { ended() }
}
