package netlab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// SCTP is spoken over raw sockets, because many kernels are built without it: the first half of the
// handshake (RFC 9260, section 5.1), which is enough for conntrack and NAT. A probe sends INIT, and a
// server answers INIT ACK with its reply as the state cookie, which is opaque to a client.

// sctpCommon is the length of the common header: ports, verification tag, checksum.
const sctpCommon = 12

// Chunk and parameter types.
const (
	sctpInit        = 1
	sctpInitAck     = 2
	sctpAbort       = 6
	sctpStateCookie = 7
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errAbort says that the other side answered INIT with ABORT.
var errAbort = errors.New("SCTP ABORT")

// sctpPacket is a packet of one chunk.
type sctpPacket struct {
	source, dest uint16
	tag          uint32 // verification tag: 0 with INIT, else the initiate tag of the receiver
	chunk        byte
	initiate     uint32 // initiate tag, with INIT and INIT ACK
	cookie       []byte // with INIT ACK
}

func (p sctpPacket) marshal() []byte {
	b := make([]byte, sctpCommon, 128)
	binary.BigEndian.PutUint16(b[0:], p.source)
	binary.BigEndian.PutUint16(b[2:], p.dest)
	binary.BigEndian.PutUint32(b[4:], p.tag)
	b = append(b, p.chunk, 0, 0, 0)
	if p.chunk == sctpInit || p.chunk == sctpInitAck {
		b = binary.BigEndian.AppendUint32(b, p.initiate)
		b = binary.BigEndian.AppendUint32(b, 1<<16) // receiver window
		b = binary.BigEndian.AppendUint16(b, 1)     // streams out
		b = binary.BigEndian.AppendUint16(b, 1)     // streams in
		b = binary.BigEndian.AppendUint32(b, p.initiate)
	}
	if p.chunk == sctpInitAck {
		b = binary.BigEndian.AppendUint16(b, sctpStateCookie)
		b = binary.BigEndian.AppendUint16(b, uint16(4+len(p.cookie)))
		b = append(b, p.cookie...)
	}
	binary.BigEndian.PutUint16(b[sctpCommon+2:], uint16(len(b)-sctpCommon))
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	// The one field in the byte order that CRC32c comes in.
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, castagnoli))
	return b
}

// parseSCTP reads a packet. It reports false for one that is cut short or has a wrong checksum.
func parseSCTP(b []byte) (p sctpPacket, ok bool) {
	if len(b) < sctpCommon+4 {
		return p, false
	}
	sum := binary.LittleEndian.Uint32(b[8:])
	zeroed := append([]byte(nil), b...)
	clear(zeroed[8:12])
	if crc32.Checksum(zeroed, castagnoli) != sum {
		return p, false
	}
	p.source = binary.BigEndian.Uint16(b[0:])
	p.dest = binary.BigEndian.Uint16(b[2:])
	p.tag = binary.BigEndian.Uint32(b[4:])
	chunk := b[sctpCommon:]
	p.chunk = chunk[0]
	length := int(binary.BigEndian.Uint16(chunk[2:]))
	if length < 4 || length > len(chunk) {
		return p, false
	}
	chunk = chunk[:length]
	if p.chunk != sctpInit && p.chunk != sctpInitAck {
		return p, true
	}
	if len(chunk) < 20 {
		return p, false
	}
	p.initiate = binary.BigEndian.Uint32(chunk[4:])
	for params := chunk[20:]; len(params) >= 4; {
		n := int(binary.BigEndian.Uint16(params[2:]))
		if n < 4 || n > len(params) {
			return p, false
		}
		if binary.BigEndian.Uint16(params) == sctpStateCookie {
			p.cookie = params[4:n]
		}
		params = params[min(len(params), (n+3)&^3):]
	}
	return p, true
}

// rawSCTP opens a raw socket in the host. The kernel adds the IP header of what is sent.
func (h *Host) rawSCTP(local netip.Addr, peer netip.Addr) (f *os.File, err error) {
	err = os.ErrClosed
	fd := -1
	h.call(func() {
		fam := family(local)
		if peer.IsValid() {
			fam = family(peer)
		}
		fd, err = unix.Socket(fam, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
		if err == nil && local.IsValid() {
			err = unix.Bind(fd, sockaddr(netip.AddrPortFrom(local, 0)))
		}
		if err == nil && peer.IsValid() {
			// ICMP errors are queued with the packet that they are about: see reportedTo.
			if peer.Is4() {
				_ = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_RECVERR, 1)
			} else {
				_ = unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_RECVERR, 1)
			}
			err = unix.Connect(fd, sockaddr(netip.AddrPortFrom(peer, 0)))
		}
	})
	if err != nil {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
		return nil, os.NewSyscallError("raw SCTP socket", err)
	}
	return os.NewFile(uintptr(fd), "sctp"), nil
}

// payload cuts the IPv4 header off what a raw socket read; IPv6 comes without.
func payload(b []byte, v4 bool) []byte {
	if !v4 {
		return b
	}
	if len(b) < 20 || len(b) < int(b[0]&0xf)*4 {
		return nil
	}
	return b[int(b[0]&0xf)*4:]
}

func (s *Server) serveSCTP(h *Host) error {
	if s.Addr.Port() == 0 {
		return errors.New("SCTP needs a port")
	}
	f, err := h.rawSCTP(s.Addr.Addr(), netip.Addr{})
	if err != nil {
		return err
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	s.shut = f.Close
	s.wg.Go(func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := recvFrom(raw, buf)
			if err != nil {
				return
			}
			in, ok := parseSCTP(payload(buf[:n], s.Addr.Addr().Is4()))
			if !ok || in.dest != s.Addr.Port() || in.chunk != sctpInit {
				continue
			}
			peer := netip.AddrPortFrom(from, in.source)
			out := sctpPacket{
				source: in.dest, dest: in.source, tag: in.initiate,
				chunk: sctpInitAck, initiate: rand.Uint32() | 1,
				cookie: s.reply(fmt.Sprint(in.initiate), peer),
			}
			_ = sendTo(raw, out.marshal(), from)
		}
	})
	return nil
}

// recvFrom reads a packet of a raw socket with its sender.
func recvFrom(raw syscall.RawConn, buf []byte) (n int, from netip.Addr, err error) {
	var sa unix.Sockaddr
	var rerr error
	err = raw.Read(func(fd uintptr) bool {
		n, sa, rerr = unix.Recvfrom(int(fd), buf, 0)
		return !errors.Is(rerr, unix.EAGAIN) && !errors.Is(rerr, unix.EINTR)
	})
	if err == nil {
		err = rerr
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		from = netip.AddrFrom4(sa.Addr)
	case *unix.SockaddrInet6:
		from = netip.AddrFrom16(sa.Addr)
	}
	return n, from, err
}

func sendTo(raw syscall.RawConn, b []byte, to netip.Addr) error {
	var serr error
	err := raw.Write(func(fd uintptr) bool {
		serr = unix.Sendto(int(fd), b, 0, sockaddr(netip.AddrPortFrom(to, 0)))
		return !errors.Is(serr, unix.EAGAIN)
	})
	return errors.Join(err, serr)
}

func (h *Host) probeSCTP(dst netip.AddrPort, opts ProbeOptions, deadline time.Time) (Reply, error) {
	f, err := h.rawSCTP(opts.Source, dst.Addr())
	if err != nil {
		return Reply{}, err
	}
	defer f.Close()
	if err := f.SetDeadline(deadline); err != nil {
		return Reply{}, err
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return Reply{}, err
	}
	port := opts.Port
	if port == 0 {
		port = h.nextPort(opts.Source)
	}
	init := sctpPacket{source: port, dest: dst.Port(), chunk: sctpInit, initiate: rand.Uint32() | 1}
	if _, err := f.Write(init.marshal()); err != nil && !errors.Is(err, unix.EPERM) && !isICMP(err) {
		return Reply{}, err
	}
	buf := make([]byte, 2048)
	for {
		n, err := f.Read(buf)
		if isICMP(err) {
			if cause := reportedTo(raw, port); cause != nil {
				return Reply{}, cause
			}
			continue // about another probe to the same address
		}
		if err != nil {
			return Reply{}, err
		}
		in, ok := parseSCTP(payload(buf[:n], dst.Addr().Is4()))
		if !ok || in.dest != port || in.source != dst.Port() || in.tag != init.initiate {
			continue
		}
		switch in.chunk {
		case sctpAbort:
			return Reply{}, errAbort
		case sctpInitAck:
			return parseReply(string(in.cookie), fmt.Sprint(init.initiate))
		}
	}
}

// isICMP reports whether an error of a raw socket stems from an ICMP message.
func isICMP(err error) bool {
	for _, e := range []error{unix.ECONNREFUSED, unix.ENOPROTOOPT, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EACCES, unix.EPROTO} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// reportedTo empties the error queue and returns the error that is about a packet from the given
// source port, if any. A raw socket gets the ICMP errors of all that talk to its peer.
func reportedTo(raw syscall.RawConn, port uint16) (cause error) {
	_ = raw.Control(func(fd uintptr) {
		buf, oob := make([]byte, 2048), make([]byte, 512)
		for {
			n, oobn, _, _, err := unix.Recvmsg(int(fd), buf, oob, unix.MSG_ERRQUEUE)
			if err != nil {
				return
			}
			if n < 2 || binary.BigEndian.Uint16(buf) != port {
				continue
			}
			msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
			if err != nil {
				continue
			}
			for _, m := range msgs {
				v4 := m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_RECVERR
				v6 := m.Header.Level == unix.SOL_IPV6 && m.Header.Type == unix.IPV6_RECVERR
				if (v4 || v6) && len(m.Data) >= 4 {
					cause = os.NewSyscallError("ICMP", unix.Errno(binary.NativeEndian.Uint32(m.Data)))
				}
			}
		}
	})
	return cause
}
