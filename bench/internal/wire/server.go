package wire

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/weir-project/weir/internal/netlab"
)

// Greeter accepts TCP connections on every address of a host, and tells each which address it was
// made to: 4 bytes. That is the endpoint that was chosen.
type Greeter struct {
	fd int
	wg sync.WaitGroup
}

// Greet starts a greeter on a port.
func Greet(h *netlab.Host, port uint16) (*Greeter, error) {
	g := &Greeter{}
	err := h.Do(func() (err error) {
		g.fd, err = listen(port)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: listen on port %d: %w", h.Name, port, err)
	}
	g.wg.Go(g.serve)
	return g, nil
}

func listen(port uint16) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.Bind(fd, &unix.SockaddrInet4{Port: int(port)}),
		unix.Listen(fd, 16384),
	)
	if err != nil {
		_ = unix.Close(fd)
	}
	return fd, err
}

func (g *Greeter) serve() {
	for {
		fd, _, err := unix.Accept4(g.fd, unix.SOCK_CLOEXEC)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EBADF) {
			return // closed
		}
		if err != nil {
			continue // the client has gone again
		}
		if sa, err := unix.Getsockname(fd); err == nil {
			_, _ = unix.SendmsgN(fd, sa.(*unix.SockaddrInet4).Addr[:], nil, nil, unix.MSG_NOSIGNAL)
		}
		_ = unix.Close(fd)
	}
}

// Close stops the greeter.
func (g *Greeter) Close() error {
	err := unix.Shutdown(g.fd, unix.SHUT_RDWR) // wakes the accept
	g.wg.Wait()
	return errors.Join(err, unix.Close(g.fd))
}

func sockaddr(a netip.AddrPort) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
}

// dial begins a TCP connection. flags are further ones of socket(2). Closing it sends RST, so that
// neither end keeps the port.
func dial(dst *unix.SockaddrInet4, flags int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|flags, 0)
	if err != nil {
		return -1, err
	}
	limit := unix.NsecToTimeval(int64(patience)) // of a blocking connect, which would go on for two minutes
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit)
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit)
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	err = unix.Connect(fd, dst)
	if err != nil && (flags&unix.SOCK_NONBLOCK == 0 || !errors.Is(err, unix.EINPROGRESS)) {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}
