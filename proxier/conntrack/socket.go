package conntrack

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// receiveChunk holds more than the kernel puts into one message of a dump (32 KB), in bytes.
	receiveChunk = 64 << 10
	// wantReceiveBuffer is room for a refusal of every deletion in a batch, in bytes.
	wantReceiveBuffer = 1 << 20
	// patience is how long the kernel may take for one message of a dump. It walks the table
	// until the message is full, or to the end.
	patience = 30 * time.Second
)

// errAgain says that a dump is not to be relied on and should be repeated.
var errAgain = errors.New("the table changed while it was being read")

// socket is a netlink socket to conntrack. One goroutine uses it at a time.
type socket struct {
	conn *netlink.Conn
	raw  syscall.RawConn
	buf  []byte
	out  messages
	// unheard is the number of a dump that was broken off: the kernel has more to say. 0: none.
	unheard uint32
}

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

func (s *socket) tune() error {
	var err error
	cerr := s.raw.Control(func(fd uintptr) {
		// Where it cannot be forced, the default will do: see batchSize.
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, wantReceiveBuffer)
		// Refusals then quote the header of a message, not all of it.
		err = unix.SetsockoptInt(int(fd), unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	})
	return errors.Join(cerr, err)
}

func (s *socket) close() error { return s.conn.Close() }

// send sends what is in out with one system call.
func (s *socket) send() error {
	var err error
	werr := s.raw.Write(func(fd uintptr) bool {
		err = unix.Sendto(int(fd), s.out.b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		return !errors.Is(err, unix.EAGAIN)
	})
	return errors.Join(werr, err)
}

// receive waits for the next datagram, which is valid until the next call.
func (s *socket) receive(ctx context.Context) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := s.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	for {
		var n int
		var err error
		rerr := s.raw.Read(func(fd uintptr) bool {
			n, _, err = unix.Recvfrom(int(fd), s.buf, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
			return !errors.Is(err, unix.EAGAIN)
		})
		switch {
		case rerr != nil:
			return nil, rerr
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOBUFS) || err == nil && n > len(s.buf):
			return nil, errAgain
		case err != nil:
			return nil, err
		}
		return s.buf[:n], nil
	}
}

// list sends the request in out and calls each with the body of every entry, until the kernel
// says that it is done. Memory does not grow with the table: the kernel makes the next message
// when the last has been taken. The error is errAgain if the dump is incomplete.
func (s *socket) list(ctx context.Context, each func(body []byte)) error {
	if err := s.drain(ctx); err != nil {
		return err
	}
	if err := s.send(); err != nil {
		return fmt.Errorf("send a request: %w", err)
	}
	s.unheard = s.out.seq
	return s.hear(ctx, each)
}

// hear calls each with the body of every entry of the dump that is under way.
func (s *socket) hear(ctx context.Context, each func(body []byte)) error {
	d := dump{seq: s.unheard, each: each}
	for !d.done {
		b, err := s.receive(ctx)
		if err != nil {
			return err
		}
		if err := d.take(b); err != nil {
			if d.done {
				s.unheard = 0
			}
			return err
		}
	}
	s.unheard = 0
	if d.interrupted {
		return errAgain
	}
	return nil
}

// drain hears a dump that was broken off to its end: until then the kernel begins no other.
func (s *socket) drain(ctx context.Context) error {
	for s.unheard != 0 {
		if err := s.hear(ctx, func([]byte) {}); err != nil && s.unheard != 0 {
			return err
		}
	}
	return nil
}

// dump takes apart what a dump brings.
type dump struct {
	seq         uint32
	each        func(body []byte)
	done        bool
	interrupted bool // something changed: entries may be missing
}

// take reads one datagram. An error of the kernel comes back as its errno; then done is set.
func (d *dump) take(b []byte) error {
	for len(b) >= nlmsgHeader && !d.done {
		size := int(binary.NativeEndian.Uint32(b))
		if size < nlmsgHeader || size > len(b) {
			return fmt.Errorf("netlink message of %d bytes in %d", size, len(b))
		}
		typ, flags := binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint16(b[6:])
		seq, body := binary.NativeEndian.Uint32(b[8:]), b[nlmsgHeader:size]
		b = b[min(len(b), (size+3)&^3):]
		if seq != d.seq {
			continue
		}
		if flags&unix.NLM_F_DUMP_INTR != 0 {
			d.interrupted = true
		}
		switch typ {
		case msgNew:
			d.each(body)
		case unix.NLMSG_DONE, unix.NLMSG_ERROR:
			d.done = true
			if len(body) < 4 {
				return nil // NLMSG_DONE of an old kernel
			}
			if errno := syscall.Errno(-int32(binary.NativeEndian.Uint32(body))); errno != 0 {
				return errno
			}
		}
	}
	return nil
}

// size asks how many entries the table holds.
func (s *socket) size(ctx context.Context) (int, error) {
	s.out.reset()
	s.out.begin(msgStats, 0, unix.AF_UNSPEC)
	s.out.end()
	if err := s.send(); err != nil {
		return 0, err
	}
	for {
		b, err := s.receive(ctx)
		if err != nil {
			return 0, err
		}
		n, ok, err := sizeOf(b, s.out.seq)
		if ok || err != nil {
			return n, err
		}
	}
}

// sizeOf reads the answer to a request for the size of the table; ok is false if b is another's.
func sizeOf(b []byte, seq uint32) (n int, ok bool, err error) {
	if len(b) < nlmsgHeader+nfgenHeader || binary.NativeEndian.Uint32(b[8:]) != seq {
		return 0, false, nil
	}
	if binary.NativeEndian.Uint16(b[4:]) == unix.NLMSG_ERROR {
		return 0, false, syscall.Errno(-int32(binary.NativeEndian.Uint32(b[nlmsgHeader:])))
	}
	typ, value, _, _, err := nextAttr(b[nlmsgHeader+nfgenHeader:])
	if err != nil || typ != ctaStatsEntries {
		return 0, false, fmt.Errorf("size of the table: attribute %d: %w", typ, cmp.Or(err, errTruncated))
	}
	entries, err := be32(value)
	return int(entries), true, err
}

// batch sends the messages in out, whose last asks for an acknowledgement, and calls refused with
// the number and error of each that the kernel refused. first is the number of the first message.
func (s *socket) batch(ctx context.Context, first uint32, refused func(i int, errno syscall.Errno)) error {
	if err := s.send(); err != nil {
		return err
	}
	for {
		b, err := s.receive(ctx)
		if err != nil {
			return err
		}
		done, err := acks(b, first, s.out.seq, refused)
		if done || err != nil {
			return err
		}
	}
}

// acks reads one datagram of answers to the messages first to last, and reports whether last was
// among them.
func acks(b []byte, first, last uint32, refused func(i int, errno syscall.Errno)) (done bool, err error) {
	for len(b) >= nlmsgHeader {
		size := int(binary.NativeEndian.Uint32(b))
		if size < nlmsgHeader || size > len(b) {
			return false, fmt.Errorf("netlink message of %d bytes in %d", size, len(b))
		}
		typ, seq := binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint32(b[8:])
		body := b[nlmsgHeader:size]
		b = b[min(len(b), (size+3)&^3):]
		i, n := seq-first, last-first
		if typ != unix.NLMSG_ERROR || len(body) < 4 || i > n {
			continue
		}
		if errno := syscall.Errno(-int32(binary.NativeEndian.Uint32(body))); errno != 0 {
			refused(int(i), errno)
		}
		done = done || i == n
	}
	return done, nil
}
