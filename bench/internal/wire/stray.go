package wire

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-project/weir/internal/netlab"
)

// Strays are connections that clients begin before there is anybody to answer, and then wait for,
// as clients do: their kernel sends the SYN again after one second, two, four and so on.
type Strays struct {
	dst  *unix.SockaddrInet4
	quit chan struct{}
	done chan struct{}
	once sync.Once

	fds []int
	err error
}

// StartStrays begins a connection at every interval.
func StartStrays(h *netlab.Host, dst netip.AddrPort, every time.Duration) *Strays {
	s := &Strays{dst: sockaddr(dst), quit: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		s.err = h.Do(func() error { return s.begin(every) })
	}()
	return s
}

func (s *Strays) begin(every time.Duration) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-s.quit:
			return nil
		case <-tick.C:
		}
		fd, err := dial(s.dst, unix.SOCK_NONBLOCK)
		if err != nil {
			return err
		}
		s.fds = append(s.fds, fd)
	}
}

// Lost begins no more connections, waits for some time, and returns how many were begun and how many
// of them have no answer.
func (s *Strays) Lost(ctx context.Context, wait time.Duration) (begun, lost int, err error) {
	s.stop()
	if s.err != nil {
		return 0, 0, s.err
	}
	select {
	case <-ctx.Done():
		return 0, 0, context.Cause(ctx)
	case <-time.After(wait):
	}
	for _, fd := range s.fds {
		if _, err := unix.Getpeername(fd); err != nil {
			lost++
		}
	}
	return len(s.fds), lost, nil
}

func (s *Strays) stop() {
	s.once.Do(func() { close(s.quit) })
	<-s.done
}

// Close ends all connections.
func (s *Strays) Close() error {
	s.stop()
	var errs []error
	for _, fd := range s.fds {
		errs = append(errs, unix.Close(fd))
	}
	return errors.Join(errs...)
}
