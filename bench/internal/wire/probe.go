package wire

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-project/weir/internal/netlab"
)

// patience is how long a connection may take before it counts as failed. It leaves no time for a second
// SYN.
const patience = 900 * time.Millisecond

// Answer is what became of probing.
type Answer struct {
	// Start is when the first connection was begun that the wanted endpoint answered: what decides
	// over a connection decides when its first packet is sent.
	Start    time.Time
	Attempts int
	Failed   int // refused, or without an answer for a second
}

// Until begins a connection to dst at every interval, until one is answered by want; the zero Addr
// is anybody. Connections do not wait for each other.
func Until(ctx context.Context, h *netlab.Host, dst netip.AddrPort, want netip.Addr, every time.Duration) (Answer, error) {
	var a Answer
	err := h.Do(func() error {
		p, err := newProber(every)
		if err != nil {
			return err
		}
		defer p.close()
		err = p.until(ctx, dst, want)
		a = p.answer
		return err
	})
	if err != nil {
		err = fmt.Errorf("waiting for %s to be answered by %s: %w", dst, want, err)
	}
	return a, err
}

// All waits until each of some destinations has answered, one after the other, and returns when the
// first connection was begun that the last of them answered.
func All(ctx context.Context, h *netlab.Host, dsts []netip.AddrPort, every time.Duration) (last time.Time, err error) {
	err = h.Do(func() error {
		for i, dst := range dsts {
			p, err := newProber(every)
			if err != nil {
				return err
			}
			err = p.until(ctx, dst, netip.Addr{})
			last = p.answer.Start
			p.close()
			if err != nil {
				return fmt.Errorf("%d of %d answer, waiting for %s: %w", i, len(dsts), dst, err)
			}
		}
		return nil
	})
	return last, err
}

// Silent returns how many of some destinations do not answer a connection, asked once each.
func Silent(ctx context.Context, h *netlab.Host, dsts []netip.AddrPort) (silent int, err error) {
	err = h.Do(func() error {
		for _, dst := range dsts {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if !answers(sockaddr(dst)) {
				silent++
			}
		}
		return nil
	})
	return silent, err
}

func answers(dst *unix.SockaddrInet4) bool {
	fd, err := dial(dst, unix.SOCK_NONBLOCK)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(poll, int(patience/time.Millisecond))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		var buf [4]byte
		got, _ := unix.Read(fd, buf[:])
		return n == 1 && got == len(buf)
	}
}

// prober makes connections from the thread that it is used on.
type prober struct {
	epoll, timer int
	open         map[int]time.Time // when each was begun
	answer       Answer
}

func newProber(every time.Duration) (*prober, error) {
	p := &prober{timer: -1, open: map[int]time.Time{}}
	var err error
	if p.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, err
	}
	if p.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK); err != nil {
		p.close()
		return nil, err
	}
	tick := unix.NsecToTimespec(int64(every))
	spec := unix.ItimerSpec{Interval: tick, Value: unix.NsecToTimespec(1)}
	err = errors.Join(unix.TimerfdSettime(p.timer, 0, &spec, nil), p.watch(p.timer, unix.EPOLLIN))
	if err != nil {
		p.close()
	}
	return p, err
}

func (p *prober) watch(fd int, events uint32) error {
	return unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
}

func (p *prober) close() {
	for fd := range p.open {
		_ = unix.Close(fd)
	}
	if p.timer >= 0 {
		_ = unix.Close(p.timer)
	}
	_ = unix.Close(p.epoll)
}

func (p *prober) until(ctx context.Context, dst netip.AddrPort, want netip.Addr) error {
	to := sockaddr(dst)
	events := make([]unix.EpollEvent, 64)
	for ctx.Err() == nil {
		n, err := unix.EpollWait(p.epoll, events, 100)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		for _, e := range events[:max(n, 0)] {
			if int(e.Fd) == p.timer {
				if err := p.begin(to); err != nil {
					return err
				}
				continue
			}
			if p.heard(int(e.Fd), want) {
				return nil
			}
		}
		p.giveUp()
	}
	return ctx.Err()
}

// begin begins the connection that is due. If several are, because this thread had to wait, it is
// one.
func (p *prober) begin(to *unix.SockaddrInet4) error {
	var expirations [8]byte
	_, _ = unix.Read(p.timer, expirations[:])
	p.answer.Attempts++
	began := time.Now()
	fd, err := dial(to, unix.SOCK_NONBLOCK)
	if err != nil {
		p.answer.Failed++
		return nil
	}
	p.open[fd] = began
	return p.watch(fd, unix.EPOLLIN|unix.EPOLLRDHUP)
}

// heard takes in what a connection has to say, and reports whether it is what is wanted.
func (p *prober) heard(fd int, want netip.Addr) bool {
	began, ok := p.open[fd]
	if !ok {
		return false
	}
	delete(p.open, fd)
	defer unix.Close(fd)
	var buf [4]byte
	n, err := unix.Read(fd, buf[:])
	if err != nil || n != len(buf) {
		p.answer.Failed++
		return false
	}
	if want.IsValid() && netip.AddrFrom4(buf) != want {
		return false
	}
	p.answer.Start = began
	return true
}

func (p *prober) giveUp() {
	for fd, began := range p.open {
		if time.Since(began) > patience {
			delete(p.open, fd)
			_ = unix.Close(fd)
			p.answer.Failed++
		}
	}
}
