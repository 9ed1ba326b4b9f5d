package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// socket is a netlink socket of the netfilter family. All of the kernel's work on a request is
// done within the call that sends it, so every answer is there when send returns: nothing waits.
type socket struct {
	conn *netlink.Conn
	raw  syscall.RawConn
	buf  []byte
	// maxSend is the largest stream that can be sent at once, in bytes.
	maxSend int
}

// Buffers in bytes: the largest transaction, and room for a refusal of every message in one.
const (
	wantSendBuffer    = 256 << 20
	wantReceiveBuffer = 8 << 20
	receiveChunk      = 64 << 10
)

// dial opens a socket in the network namespace with that file descriptor; 0 is the caller's.
func dial(netns int) (*socket, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: netns})
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	s := &socket{conn: conn, buf: make([]byte, receiveChunk)}
	if s.raw, err = conn.SyscallConn(); err == nil {
		err = s.tune()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set up the netlink socket: %w", err), conn.Close())
	}
	return s, nil
}

// tune makes the buffers large. In a user namespace the kernel does not let us force them.
func (s *socket) tune() error {
	var err error
	cerr := s.raw.Control(func(fd uintptr) {
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, wantSendBuffer) != nil {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, wantSendBuffer)
		}
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, wantReceiveBuffer) != nil {
			err = errors.Join(err, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, wantReceiveBuffer))
		}
		// Refusals then quote the header of a message, not all of it.
		err = errors.Join(err, unix.SetsockoptInt(int(fd), unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1))
		var size int
		size, e := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF)
		err = errors.Join(err, e)
		s.maxSend = size - 64<<10 // the kernel counts its own overhead too
	})
	return errors.Join(cerr, err)
}

func (s *socket) close() error { return s.conn.Close() }

// send sends a stream of messages with one system call.
func (s *socket) send(stream []byte) error {
	var err error
	werr := s.raw.Write(func(fd uintptr) bool {
		err = unix.Sendto(int(fd), stream, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		return true
	})
	if err = errors.Join(werr, err); err != nil {
		return fmt.Errorf("send %d bytes to nf_tables: %w", len(stream), err)
	}
	return nil
}

// errLost says that the kernel had more to say than the receive buffer holds.
var errLost = errors.New("answers of the kernel were lost")

// receive calls each with every message that has come, until there is no more.
func (s *socket) receive(each func(typ uint16, flags uint16, seq uint32, body []byte) error) error {
	for {
		var n int
		var err error
		rerr := s.raw.Read(func(fd uintptr) bool {
			n, _, err = unix.Recvfrom(int(fd), s.buf, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
			return true
		})
		switch {
		case rerr != nil:
			return rerr
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOBUFS) || err == nil && n > len(s.buf):
			return errLost
		case err != nil:
			return fmt.Errorf("receive from nf_tables: %w", err)
		}
		if err := eachMessage(s.buf[:n], each); err != nil {
			return err
		}
	}
}

// eachMessage calls each with every netlink message in b.
func eachMessage(b []byte, each func(typ, flags uint16, seq uint32, body []byte) error) error {
	for len(b) >= nlmsgHeader {
		size := int(binary.NativeEndian.Uint32(b))
		if size < nlmsgHeader || size > len(b) {
			return fmt.Errorf("netlink message of %d bytes in %d", size, len(b))
		}
		err := each(binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint16(b[6:]), binary.NativeEndian.Uint32(b[8:]), b[nlmsgHeader:size])
		if err != nil {
			return err
		}
		b = b[min(len(b), (size+3)&^3):]
	}
	return nil
}

// errorOf decodes the body of an NLMSG_ERROR: the errno, 0 for an acknowledgement, and the
// number of the message that it is about.
func errorOf(body []byte) (syscall.Errno, uint32, error) {
	const errno, header = 4, nlmsgHeader
	if len(body) < errno+header {
		return 0, 0, fmt.Errorf("netlink error message of %d bytes", len(body))
	}
	return syscall.Errno(-int32(binary.NativeEndian.Uint32(body))), binary.NativeEndian.Uint32(body[errno+8:]), nil
}

// transact sends a finished batch and hears what the kernel says of it.
func (s *socket) transact(stream []byte, last uint32) (acked bool, nacks []nack, err error) {
	if err := s.send(stream); err != nil {
		return false, nil, err
	}
	err = s.receive(func(typ, _ uint16, _ uint32, body []byte) error {
		if typ != unix.NLMSG_ERROR {
			return nil
		}
		errno, seq, err := errorOf(body)
		if err != nil {
			return err
		}
		if errno != 0 {
			nacks = append(nacks, nack{seq, errno})
		} else if seq == last {
			acked = true
		}
		return nil
	})
	if errors.Is(err, errLost) && (acked || len(nacks) > 0) {
		err = nil // what was heard is enough to know the outcome
	}
	return acked, nacks, err
}

// errInterrupted says that what was being listed changed meanwhile.
var errInterrupted = errors.New("changed while it was being read")

// ask sends one request that changes nothing and calls each with the body of every answer,
// without the nfgenmsg header. A refusal comes back as its errno.
func (s *socket) ask(m *messages, each func(body []byte) error) error {
	if err := s.send(m.b); err != nil {
		return err
	}
	var failed error
	err := s.receive(func(typ, flags uint16, seq uint32, body []byte) error {
		switch {
		case seq != m.seq:
			return nil
		case flags&unix.NLM_F_DUMP_INTR != 0:
			failed = errInterrupted
		}
		switch typ {
		case unix.NLMSG_ERROR:
			errno, _, err := errorOf(body)
			if errno != 0 {
				failed = errno
			}
			return err
		case unix.NLMSG_DONE, unix.NLMSG_NOOP:
			return nil
		}
		if len(body) < nfgenHeader {
			return fmt.Errorf("netfilter message of %d bytes", len(body))
		}
		return each(body[nfgenHeader:])
	})
	return errors.Join(failed, err)
}
