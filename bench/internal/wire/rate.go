package wire

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-project/weir/bench/internal/stat"
	"github.com/weir-project/weir/internal/netlab"
)

// Rate is how fast connections could be made.
type Rate struct {
	PerSecond float64
	Latency   stat.Series // of connect(2), in microseconds
	Failed    int
	Err       error // of one that failed
}

// Connect makes connections to the destinations in turn for some time, one after the other on each of some
// threads. A connection is made, greeted, and reset.
func Connect(h *netlab.Host, dsts []netip.AddrPort, threads int, d time.Duration) (Rate, error) {
	var to []*unix.SockaddrInet4
	for _, dst := range dsts {
		to = append(to, sockaddr(dst))
	}
	workers := make([]worker, threads)
	errs := make([]error, threads)
	var wg sync.WaitGroup
	start := time.Now()
	for i := range workers {
		wg.Go(func() {
			errs[i] = h.Do(func() error { return workers[i].connect(to, i*len(to)/threads, start.Add(d)) })
		})
	}
	wg.Wait()
	took := time.Since(start)
	var r Rate
	for i := range workers {
		r.Latency = append(r.Latency, workers[i].latency...)
		r.Failed += workers[i].failed
		r.Err = cmp.Or(r.Err, workers[i].err)
	}
	r.PerSecond = float64(len(r.Latency)) / took.Seconds()
	return r, errors.Join(errs...)
}

type worker struct {
	latency stat.Series
	failed  int
	err     error
}

func (w *worker) connect(to []*unix.SockaddrInet4, i int, end time.Time) error {
	var buf [8]byte
	for ; ; i++ {
		began := time.Now()
		if began.After(end) {
			return nil
		}
		fd, err := dial(to[i%len(to)], 0)
		took := time.Since(began)
		if err != nil {
			err = fmt.Errorf("connect: %w", err)
		} else {
			if n, readErr := unix.Read(fd, buf[:]); n != 4 {
				err = fmt.Errorf("read a greeting: %d bytes, %w", n, readErr)
			}
			_ = unix.Close(fd)
		}
		if errors.Is(err, unix.EINTR) {
			continue // the runtime wanted this thread for a moment
		}
		if err != nil {
			w.err = fmt.Errorf("after %s: %w", time.Since(began), err)
			if w.failed++; w.failed > 1000 {
				return fmt.Errorf("more than 1,000 connections failed, the last: %w", err)
			}
			continue
		}
		w.latency = append(w.latency, float64(took)/1e3)
	}
}

// Sink counts what it receives: bytes over TCP, packets over UDP. The first byte of a TCP connection
// says what is wanted of it: 's' to swallow the rest, 'e' to send every byte back.
type Sink struct {
	Bytes, Packets atomic.Int64

	listener net.Listener
	packets  net.PacketConn
	wg       sync.WaitGroup
}

// Swallow starts a sink on a port of both protocols, on every address of the host.
func Swallow(h *netlab.Host, port uint16) (s *Sink, err error) {
	s = &Sink{}
	addr := netip.AddrPortFrom(netip.IPv4Unspecified(), port).String()
	if s.listener, err = h.Listen("tcp4", addr); err != nil {
		return nil, err
	}
	if s.packets, err = h.ListenPacket("udp4", addr); err != nil {
		return nil, errors.Join(err, s.listener.Close())
	}
	_ = s.packets.(*net.UDPConn).SetReadBuffer(4 << 20)
	s.wg.Go(s.accept)
	s.wg.Go(s.count)
	return s, nil
}

// Close stops the sink, once its connections have ended.
func (s *Sink) Close() error {
	err := errors.Join(s.listener.Close(), s.packets.Close())
	s.wg.Wait()
	return err
}

func (s *Sink) accept() {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.wg.Go(func() {
			defer c.Close()
			s.serve(c)
		})
	}
}

func (s *Sink) serve(c net.Conn) {
	buf := make([]byte, 256<<10)
	n, err := c.Read(buf[:1])
	if err != nil || n == 0 {
		return
	}
	echo := buf[0] == 'e'
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		s.Bytes.Add(int64(n))
		if echo {
			if _, err := c.Write(buf[:n]); err != nil {
				return
			}
		}
	}
}

func (s *Sink) count() {
	buf := make([]byte, 2048)
	for {
		if _, _, err := s.packets.(*net.UDPConn).ReadFromUDPAddrPort(buf); err != nil {
			return
		}
		s.Packets.Add(1)
	}
}

// Stream returns how many gigabits a second one TCP connection from h to a sink carries.
func (s *Sink) Stream(h *netlab.Host, dst netip.AddrPort, d time.Duration) (float64, error) {
	c, err := s.dial(h, "tcp4", dst, d+patience)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	buf := make([]byte, 256<<10)
	buf[0] = 's'
	if _, err := c.Write(buf[:1]); err != nil {
		return 0, err
	}
	before, start := s.Bytes.Load(), time.Now()
	for time.Since(start) < d {
		if _, err := c.Write(buf); err != nil {
			return 0, err
		}
	}
	return float64(s.Bytes.Load()-before) * 8 / 1e9 / time.Since(start).Seconds(), nil
}

// PingPong returns how often a second a byte goes over an established TCP connection from h to a sink and
// comes back.
func (s *Sink) PingPong(h *netlab.Host, dst netip.AddrPort, d time.Duration) (float64, error) {
	c, err := s.dial(h, "tcp4", dst, d+patience)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	buf := []byte{'e'}
	if _, err := c.Write(buf); err != nil {
		return 0, err
	}
	n, start := 0, time.Now()
	for ; time.Since(start) < d; n++ {
		if _, err := c.Write(buf); err != nil {
			return 0, err
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			return 0, err
		}
	}
	return float64(n) / time.Since(start).Seconds(), nil
}

// Datagrams returns how many UDP packets of 64 bytes a second a sink receives from one socket that
// sends as fast as it can.
func (s *Sink) Datagrams(h *netlab.Host, dst netip.AddrPort, d time.Duration) (float64, error) {
	c, err := s.dial(h, "udp4", dst, d+patience)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	buf := make([]byte, 64)
	before, start := s.Packets.Load(), time.Now()
	for time.Since(start) < d {
		if _, err := c.Write(buf); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return 0, err
		}
	}
	return float64(s.Packets.Load()-before) / time.Since(start).Seconds(), nil
}

func (s *Sink) dial(h *netlab.Host, network string, dst netip.AddrPort, limit time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := h.Dial(ctx, network, dst.String())
	if err != nil {
		return nil, err
	}
	return c, c.SetDeadline(time.Now().Add(limit))
}

// Flows sends one UDP packet of a byte to dst from each of n sockets, which have ports that differ.
func Flows(h *netlab.Host, dst netip.AddrPort, n int) error {
	to := sockaddr(dst)
	return h.Do(func() error {
		for i := range n {
			if err := flow(to, firstFlowPort+i); err != nil {
				return fmt.Errorf("UDP flow %d to %s: %w", i+1, dst, err)
			}
		}
		return nil
	})
}

// firstFlowPort leaves 30,000 ports below those that the kernel gives to others.
const firstFlowPort = 2048

func flow(to *unix.SockaddrInet4, port int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: port}); err != nil {
		return err
	}
	return unix.Sendto(fd, []byte{0}, 0, to)
}
