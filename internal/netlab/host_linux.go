package netlab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Host is one machine or pod of the lab: a network namespace with addresses.
type Host struct {
	Name  string
	Addr4 netip.Addr
	Addr6 netip.Addr // the zero Addr in a lab of IPv4 only

	ns    *namespace
	nl    *netlink.Handle
	ports sync.Map      // source address -> *atomic.Uint32, the port given out last, as an index
	calls chan func()   // to the thread that makes the sockets
	quit  chan struct{} // closed to end that thread
	done  chan struct{} // closed when it is gone

	// onAddr routes an address added later to this host; nil where the link's prefix covers it.
	onAddr func(netip.Addr) error

	mu      sync.Mutex // guards closers
	closers []io.Closer
	closed  bool
}

func newHost(nsName, name string) (*Host, error) {
	ns, err := newNamespace(nsName)
	if err != nil {
		return nil, err
	}
	h := &Host{Name: name, ns: ns, calls: make(chan func()), quit: make(chan struct{}), done: make(chan struct{})}
	started := make(chan error, 1)
	spawn(func() {
		defer close(h.done)
		err := ns.enter()
		started <- err
		if err != nil {
			return
		}
		for {
			select {
			case fn := <-h.calls:
				fn()
			case <-h.quit:
				return // the thread ends too, as it is still locked
			}
		}
	})
	if err = <-started; err == nil {
		h.nl, err = h.newHandle()
	}
	if err != nil {
		return nil, errors.Join(err, h.close())
	}
	return h, nil
}

// newHandle opens a netlink socket in the host.
func (h *Host) newHandle() (nl *netlink.Handle, err error) {
	h.call(func() { nl, err = netlink.NewHandle(unix.NETLINK_ROUTE) })
	return nl, err
}

// call runs fn, which must not wait for anything, on the host's own thread.
func (h *Host) call(fn func()) {
	ran := make(chan struct{})
	select {
	case h.calls <- func() { defer close(ran); fn() }:
		<-ran
	case <-h.done:
	}
}

// Do runs fn on a thread in the host's namespace and returns its error. Sockets that fn opens and
// processes that it starts belong to the host; goroutines that it starts do not. To fail a test,
// return an error.
func (h *Host) Do(fn func() error) error {
	return onThread(func() error {
		if err := h.ns.enter(); err != nil {
			return err
		}
		return fn()
	})
}

// NetNS is the path of the host's namespace, and its base name what ip netns calls it.
func (h *Host) NetNS() string { return h.ns.path() }

// addrLike returns the host's address of the family of a.
func (h *Host) addrLike(a netip.Addr) netip.Addr {
	if a.Is4() {
		return h.Addr4
	}
	return h.Addr6
}

// Listen opens a TCP listener in the host. network is tcp4 or tcp6.
func (h *Host) Listen(network, address string) (l net.Listener, err error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	err = h.Do(func() error {
		l, err = lc.Listen(context.Background(), network, address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", h.Name, err)
	}
	return l, nil
}

// ListenPacket opens a UDP socket in the host. network is udp4 or udp6.
func (h *Host) ListenPacket(network, address string) (c net.PacketConn, err error) {
	err = h.Do(func() error {
		c, err = net.ListenPacket(network, address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", h.Name, err)
	}
	return c, nil
}

// Dial connects from the host. address must be numeric: a name would be looked up elsewhere.
func (h *Host) Dial(ctx context.Context, network, address string) (c net.Conn, err error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, err
	}
	var d net.Dialer
	d.SetMultipathTCP(false)
	err = h.Do(func() error {
		c, err = d.DialContext(ctx, network, address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", h.Name, err)
	}
	return c, nil
}

// Sysctl sets a kernel parameter in the host, by its path below /proc/sys.
func (h *Host) Sysctl(path, value string) error {
	return h.Do(func() error {
		return os.WriteFile(filepath.Join("/proc/sys", path), []byte(value), 0)
	})
}

// AddAddr gives the host one more address. The network routes it where that is needed.
func (h *Host) AddAddr(addr netip.Addr) error {
	link, err := h.nl.LinkByName(uplink)
	if err != nil {
		return fmt.Errorf("%s: link %s: %w", h.Name, uplink, err)
	}
	if err := h.nl.AddrAdd(link, hostAddr(netip.PrefixFrom(addr, addr.BitLen()))); err != nil {
		return fmt.Errorf("%s: add address %s: %w", h.Name, addr, err)
	}
	if err := h.settle(); err != nil {
		return err
	}
	if h.onAddr != nil {
		return h.onAddr(addr)
	}
	return nil
}

// DelAddr takes an address away from the host; routes to it stay.
func (h *Host) DelAddr(addr netip.Addr) error {
	link, err := h.nl.LinkByName(uplink)
	if err != nil {
		return fmt.Errorf("%s: link %s: %w", h.Name, uplink, err)
	}
	addrs, err := h.nl.AddrList(link, family(addr))
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if got, _ := netip.AddrFromSlice(a.IP); got.Unmap() == addr {
			return h.nl.AddrDel(link, &a)
		}
	}
	return fmt.Errorf("%s has no address %s", h.Name, addr)
}

// Run runs a command in the host and returns what it wrote to standard output. The error quotes
// standard error.
func (h *Host) Run(name string, args ...string) (string, error) {
	var out, errOut strings.Builder
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	p, err := h.Start(cmd)
	if err != nil {
		return "", err
	}
	if err := p.Wait(); err != nil {
		return out.String(), fmt.Errorf("%s: %s: %w: %s", h.Name, strings.Join(cmd.Args, " "), err, strings.TrimSpace(errOut.String()))
	}
	return out.String(), nil
}

// Process is a command that runs in a host.
type Process struct {
	*os.Process
	done chan struct{}
	err  error // what Wait of the command returned, once done is closed
}

// Start starts a command in the host. The command is killed when the lab is closed or this process
// dies, however that happens.
func (h *Host) Start(cmd *exec.Cmd) (*Process, error) {
	p, err := start(cmd, h.ns.enter)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", h.Name, err)
	}
	if !h.own(p) {
		_ = p.Close()
		return nil, fmt.Errorf("%s: %w", h.Name, net.ErrClosed)
	}
	return p, nil
}

// Start starts a command in the namespace of this process. It is killed when this process dies,
// however that happens.
func Start(cmd *exec.Cmd) (*Process, error) {
	return start(cmd, func() error { return nil })
}

func start(cmd *exec.Cmd, enter func() error) (*Process, error) {
	p := &Process{done: make(chan struct{})}
	started := make(chan error, 1)
	// A thread of its own, from start to end: the kernel sends the parent-death signal when the
	// thread that started the child ends, not the process.
	spawn(func() {
		defer close(p.done)
		err := enter()
		if err == nil {
			if cmd.SysProcAttr == nil {
				cmd.SysProcAttr = &syscall.SysProcAttr{}
			}
			cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
			err = cmd.Start()
			p.Process = cmd.Process
		}
		started <- err
		if err == nil {
			p.err = cmd.Wait()
		}
	})
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return p, nil
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits until the process has ended and returns its error, as exec.Cmd does.
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// Close kills the process, if it still runs, and waits for its end.
func (p *Process) Close() error {
	select {
	case <-p.done:
		return nil
	default:
	}
	if err := p.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-p.done
	return nil
}

// own closes c when the lab is closed. It is false if that has happened.
func (h *Host) own(c io.Closer) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		h.closers = append(h.closers, c)
	}
	return !h.closed
}

func (h *Host) close() error {
	h.mu.Lock()
	closers := h.closers
	alreadyClosed := h.closed
	h.closers, h.closed = nil, true
	h.mu.Unlock()
	if alreadyClosed {
		return nil
	}
	var errs []error
	for _, c := range slices.Backward(closers) {
		if err := c.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if h.nl != nil {
		h.nl.Close()
	}
	close(h.quit)
	<-h.done
	return errors.Join(append(errs, h.ns.close())...)
}
