package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// batchLen is how many packets are taken at once, at most.
const batchLen = 32

// maxQuery is the largest query over UDP, in bytes. What is longer is cut, and so no longer a query.
const maxQuery = 2048

// mmsghdr is the kernel's struct mmsghdr.
type mmsghdr struct {
	header unix.Msghdr
	length uint32
}

// packet is one place in a batch: where it is read to, who sent it, and where the answer goes.
type packet struct {
	in      [maxQuery]byte
	out     [maxUDP]byte
	from    unix.RawSockaddrInet6 // or Inet4, which is shorter
	control [64]byte              // the address that it was sent to, if that is not ours alone
	iovIn   unix.Iovec
	iovOut  unix.Iovec
}

// udpWorker answers what comes to one socket. It allocates nothing for a query to the zone.
type udpWorker struct {
	server   *Server
	conn     *net.UDPConn
	raw      syscall.RawConn
	control  bool // the socket is bound to every address: answer from the one that was asked
	reply    *reply
	counters *counters

	packets *[batchLen]packet
	current int // the packet that is being answered
	in, out [batchLen]mmsghdr
	sending int // how many answers are in out
	cached  int // of them, answers from the cache
	counted int // of them, those whose time has been counted

	// What read and write leave, which are made once so that they need not be for each batch.
	read, write func(fd uintptr) bool
	n           int
	errno       syscall.Errno
}

func reusePort(_, _ string, c syscall.RawConn) error {
	var err error
	e := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		const buffer = 4 << 20
		// Best effort: the second needs no privilege but stays below net.core.rmem_max.
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer) != nil {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, buffer)
		}
	})
	if e != nil {
		return e
	}
	return err
}

func (s *Server) newUDPWorker(conn *net.UDPConn) (*udpWorker, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	w := &udpWorker{server: s, conn: conn, raw: raw, packets: new([batchLen]packet)}
	w.reply = s.newReply(func() netip.Addr { return addrPort(&w.packets[w.current].from).Addr().Unmap() })
	w.counters = s.newCounters(false, conn.LocalAddr())
	if local := conn.LocalAddr().(*net.UDPAddr); local.IP.IsUnspecified() {
		w.control = true
		if err := askForDestination(raw, local.IP.To4() != nil); err != nil {
			return nil, err
		}
	}
	for i := range w.packets {
		p := &w.packets[i]
		p.iovIn.Base, p.iovOut.Base = &p.in[0], &p.out[0]
		p.iovIn.SetLen(len(p.in))
		in := &w.in[i].header
		in.Name, in.Iov = (*byte)(unsafe.Pointer(&p.from)), &p.iovIn
		in.SetIovlen(1)
		if w.control {
			in.Control = &p.control[0]
		}
	}
	// Neither of these blocks. So the scheduler is not told of them: it would take the processor away from a
	// batch that takes longer than 20 µs, give it back, and have cost a tenth of what a query does.
	w.read = func(fd uintptr) bool {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&w.in[0])), batchLen, unix.MSG_DONTWAIT, 0, 0)
		w.n, w.errno = int(n), errno
		return errno != unix.EAGAIN && errno != unix.EINTR
	}
	w.write = func(fd uintptr) bool {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&w.out[w.n])), uintptr(w.sending-w.n), unix.MSG_DONTWAIT, 0, 0)
		if errno == unix.EAGAIN || errno == unix.EINTR {
			return false
		}
		if errno != 0 {
			n = 1 // the first one cannot be sent: go on with the next
		}
		w.n += int(n)
		return w.n >= w.sending
	}
	return w, nil
}

// askForDestination has the kernel say which address a packet was sent to.
func askForDestination(raw syscall.RawConn, v4 bool) (err error) {
	e := raw.Control(func(fd uintptr) {
		if v4 {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		} else {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		}
	})
	if e != nil {
		return e
	}
	return err
}

// run answers until the socket is closed.
func (w *udpWorker) run(ctx context.Context) error {
	for {
		n, err := w.receive()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			w.finish(ctx)
			return nil
		}
		if err != nil {
			if closed(err) || ctx.Err() != nil {
				return nil
			}
			return err
		}
		w.answer(ctx, n)
	}
}

// lastBatches bounds what is read after a server was told to stop, for those who go on asking.
const lastBatches = 256

// stopReading has run answer what has come to a socket, and then return.
func stopReading(conn *net.UDPConn) {
	_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
	_ = conn.SetReadDeadline(time.Unix(1, 0))
}

// finish answers what is in the socket, without waiting for more.
func (w *udpWorker) finish(ctx context.Context) {
	for range lastBatches {
		w.ready()
		if err := w.raw.Control(func(fd uintptr) { w.read(fd) }); err != nil || w.errno != 0 {
			return
		}
		w.answer(ctx, w.n)
	}
}

// answer answers a batch of n packets.
func (w *udpWorker) answer(ctx context.Context, n int) {
	w.sending, w.cached, w.counted = 0, 0, 0
	began := time.Now()
	for i := range n {
		w.handle(ctx, i)
	}
	if w.sending > 0 {
		each := time.Since(began) / time.Duration(n)
		w.counters.took(inZone, each, w.sending-w.cached-w.counted)
		w.counters.took(elsewhere, each, w.cached)
		w.send()
	}
}

// receive reads a batch. An error that somebody else's packet caused is none.
func (w *udpWorker) receive() (int, error) {
	w.ready()
	for {
		if err := w.raw.Read(w.read); err != nil {
			return 0, err
		}
		switch w.errno {
		case 0:
			return w.n, nil
		case unix.EBADF, unix.ENOTSOCK, unix.EINVAL, unix.EFAULT:
			return 0, w.errno
		}
	}
}

// ready makes room for a batch.
func (w *udpWorker) ready() {
	for i := range w.in {
		h := &w.in[i].header
		h.Namelen = uint32(unsafe.Sizeof(w.packets[i].from))
		if w.control {
			h.SetControllen(len(w.packets[i].control))
		}
	}
}

// handle answers one packet of the batch.
func (w *udpWorker) handle(ctx context.Context, i int) {
	p := &w.packets[i]
	r := w.reply
	w.current = i
	answer, outcome := r.respond(p.out[:0], p.in[:w.in[i].length], false)
	if w.server.cfg.LogQuery != nil {
		w.server.logOutcome(r, addrPort(&p.from), outcome)
	}
	w.counters.walk(r.walked && outcome != chase)
	switch outcome {
	case silent:
		w.counters.dropped.Add(1)
		return
	case answered:
		w.counters.request(inZone, r.query.qtype)
		w.counters.response(inZone, r.rcode)
	case cached:
		w.counters.request(elsewhere, r.query.qtype)
		w.counters.response(elsewhere, r.rcode)
		w.cached++
	default:
		w.counters.request(elsewhere, r.query.qtype)
		later := &later{conn: w.conn, raw: w.raw, from: p.from, nameLen: w.in[i].header.Namelen, control: w.controlOf(i)}
		pending := &pending{aside: newAside(r, outcome), counters: w.counters, send: later.send}
		response := w.server.ask(ctx, pending, later.client())
		if response == nil {
			return
		}
		if len(response) > len(p.out) {
			return // cannot be: it has been cut
		}
		w.counted++
		answer = p.out[:copy(p.out[:], response)]
	}
	w.queue(i, len(answer))
}

// queue puts the answer to a packet into the batch that is sent.
func (w *udpWorker) queue(i, length int) {
	p := &w.packets[i]
	p.iovOut.SetLen(length)
	h := &w.out[w.sending].header
	*h = w.in[i].header
	h.Iov, h.Flags = &p.iovOut, 0
	if w.control {
		forgetInterface(w.controlOf(i))
	}
	w.sending++
}

// controlOf returns the control message that came with a packet.
func (w *udpWorker) controlOf(i int) []byte {
	if !w.control {
		return nil
	}
	return w.packets[i].control[:w.in[i].header.Controllen]
}

// forgetInterface makes what the kernel said of a packet's destination what it is to take for the
// answer's source, by whatever interface.
func forgetInterface(control []byte) {
	header, data, _, err := unix.ParseOneSocketControlMessage(control)
	if err != nil {
		return
	}
	switch {
	case header.Level == unix.IPPROTO_IP && header.Type == unix.IP_PKTINFO && len(data) >= 12:
		clear(data[:4])
	case header.Level == unix.IPPROTO_IPV6 && header.Type == unix.IPV6_PKTINFO && len(data) >= 20:
		if !netip.AddrFrom16([16]byte(data[:16])).IsLinkLocalUnicast() {
			clear(data[16:20])
		}
	}
}

// send sends the batch, as far as it can be sent.
func (w *udpWorker) send() {
	w.n = 0
	_ = w.raw.Write(w.write) // fails only if the socket has been closed
}

// later sends one answer after its batch is gone.
type later struct {
	conn    *net.UDPConn
	raw     syscall.RawConn
	from    unix.RawSockaddrInet6
	nameLen uint32
	control []byte
}

func (l *later) client() netip.AddrPort { return addrPort(&l.from) }

// send is called from any goroutine.
func (l *later) send(answer []byte) {
	if len(answer) == 0 {
		return
	}
	iov := unix.Iovec{Base: &answer[0]}
	iov.SetLen(len(answer))
	h := unix.Msghdr{Name: (*byte)(unsafe.Pointer(&l.from)), Namelen: l.nameLen, Iov: &iov}
	h.SetIovlen(1)
	if len(l.control) > 0 {
		h.Control = &l.control[0]
		h.SetControllen(len(l.control))
	}
	_ = l.raw.Write(func(fd uintptr) bool {
		_, _, errno := unix.Syscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&h)), unix.MSG_DONTWAIT)
		return errno != unix.EAGAIN && errno != unix.EINTR
	})
}

// addrPort reads a socket address.
func addrPort(from *unix.RawSockaddrInet6) netip.AddrPort {
	if from.Family == unix.AF_INET {
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(from))
		return netip.AddrPortFrom(netip.AddrFrom4(v4.Addr), port(unsafe.Pointer(&v4.Port)))
	}
	return netip.AddrPortFrom(netip.AddrFrom16(from.Addr), port(unsafe.Pointer(&from.Port)))
}

// port reads a port number in network byte order.
func port(p unsafe.Pointer) uint16 { return binary.BigEndian.Uint16((*[2]byte)(p)[:]) }
