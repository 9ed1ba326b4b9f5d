package netlab

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Outcome is what became of a probe.
type Outcome uint8

// The outcomes of a probe.
const (
	// Failed: the probe could not be made, or what answered was not one of our servers.
	Failed Outcome = iota
	// Answered by a server.
	Answered
	// Refused by a TCP reset, an SCTP ABORT, or ICMP saying that the destination is unreachable.
	Refused
	// Dropped: silence until the timeout.
	Dropped
)

func (o Outcome) String() string {
	return [...]string{"failed", "answered", "refused", "dropped"}[o]
}

// ProbeOptions are optional: the zero value is a good probe.
type ProbeOptions struct {
	Timeout time.Duration // until silence counts as Dropped; default 1 s, before TCP sends its SYN again
	Source  netip.Addr    // default: what the kernel chooses for the destination
	Port    uint16        // source port; default: one that this host has not used for a long while

	Parallel int // of ProbeMany: how many probes at once; default 64
}

// Result is what became of one probe.
type Result struct {
	Outcome    Outcome
	By         string     // the endpoint that answered, as addr:port
	Name       string     // its host
	SourceSeen netip.Addr // where the endpoint saw the probe come from
	SourcePort uint16     // as the endpoint saw it
	Latency    time.Duration
	Err        error // what Refused, Dropped or Failed looked like
}

func (r Result) String() string {
	if r.Outcome == Answered {
		return fmt.Sprintf("answered by %s (%s), who saw %s", r.By, r.Name, r.SourceSeen)
	}
	return fmt.Sprintf("%s: %v", r.Outcome, r.Err)
}

// Probe asks dst once, from a fresh source port, and tells what came of it.
func (h *Host) Probe(proto Protocol, dst netip.AddrPort, opts ProbeOptions) Result {
	if opts.Timeout == 0 {
		opts.Timeout = time.Second
	}
	start := time.Now()
	deadline := start.Add(opts.Timeout)
	var reply Reply
	var err error
	switch proto {
	case TCP, UDP:
		reply, err = h.ask(proto, dst, opts, deadline)
	case SCTP:
		reply, err = h.probeSCTP(dst, opts, deadline)
	default:
		err = fmt.Errorf("no probe for protocol %s", proto)
	}
	r := Result{Outcome: outcome(err), Latency: time.Since(start), Err: err}
	if err == nil {
		r.By, r.Name = reply.By.String(), reply.Name
		r.SourceSeen, r.SourcePort = reply.Source.Addr(), reply.Source.Port()
	}
	return r
}

func (h *Host) ask(proto Protocol, dst netip.AddrPort, opts ProbeOptions, deadline time.Time) (Reply, error) {
	s, err := h.open(proto, dst, opts.Source, opts.Port)
	if err != nil {
		return Reply{}, err
	}
	defer s.close()
	return s.ask(deadline)
}

// errLocal marks what kept a probe from being sent.
var errLocal = errors.New("cannot probe")

// outcome reads an error of a probe.
func outcome(err error) Outcome {
	switch {
	case err == nil:
		return Answered
	case errors.Is(err, os.ErrDeadlineExceeded):
		return Dropped
	case errors.Is(err, errLocal):
		return Failed
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ECONNRESET), errors.Is(err, errAbort), isICMP(err):
		return Refused
	}
	return Failed
}

// Summary is what became of many probes.
type Summary struct {
	Probes, Answered, Refused, Dropped, Failed int

	By      map[string]int     // how often each endpoint answered, by its addr:port
	Names   map[string]int     // the same by its host
	Sources map[netip.Addr]int // how often the endpoints saw each source
	Errs    map[string]int     // what the others looked like

	Median, Max time.Duration // latency of those that were answered
}

// Endpoints returns who answered, sorted.
func (s Summary) Endpoints() []string {
	return sortedKeys(s.By, strings.Compare)
}

// SourcesSeen returns the sources that the endpoints saw, sorted.
func (s Summary) SourcesSeen() []netip.Addr {
	return sortedKeys(s.Sources, netip.Addr.Compare)
}

func sortedKeys[K comparable](m map[K]int, cmp func(a, b K) int) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, cmp)
	return keys
}

func (s Summary) String() string {
	return fmt.Sprintf("%d probes: %d answered by %v (sources %v), %d refused, %d dropped, %d failed %v",
		s.Probes, s.Answered, s.By, s.Sources, s.Refused, s.Dropped, s.Failed, s.Errs)
}

// ProbeMany makes n probes, several at once.
func (h *Host) ProbeMany(n int, proto Protocol, dst netip.AddrPort, opts ProbeOptions) Summary {
	if opts.Parallel == 0 {
		opts.Parallel = 64
	}
	s := Summary{By: map[string]int{}, Names: map[string]int{}, Sources: map[netip.Addr]int{}, Errs: map[string]int{}}
	var latencies []time.Duration
	results := make(chan Result)
	tickets := make(chan struct{}, n)
	for range n {
		tickets <- struct{}{}
	}
	close(tickets)
	var wg sync.WaitGroup
	for range min(n, opts.Parallel) {
		wg.Go(func() {
			for range tickets {
				results <- h.Probe(proto, dst, opts)
			}
		})
	}
	go func() { wg.Wait(); close(results) }()
	for r := range results {
		s.add(r)
		if r.Outcome == Answered {
			latencies = append(latencies, r.Latency)
		}
	}
	if len(latencies) > 0 {
		slices.Sort(latencies)
		s.Median, s.Max = latencies[len(latencies)/2], latencies[len(latencies)-1]
	}
	return s
}

func (s *Summary) add(r Result) {
	s.Probes++
	switch r.Outcome {
	case Answered:
		s.Answered++
		s.By[r.By]++
		s.Names[r.Name]++
		s.Sources[r.SourceSeen]++
		return
	case Refused:
		s.Refused++
	case Dropped:
		s.Dropped++
	case Failed:
		s.Failed++
	}
	s.Errs[r.Err.Error()]++
}

func newNonce() string { return strconv.FormatUint(rand.Uint64(), 36) }

// Source ports are given out in turn, so that none comes back before all others were used: a
// connection tracked before would be remembered, translation and all. The ports below are for servers,
// and 30000 to 32767 are NodePorts.
const (
	firstPort    = 12000
	nodePorts    = 30000
	nodePortsEnd = 32768
	sourcePorts  = (nodePorts - firstPort) + (65536 - nodePortsEnd)
)

// nextPort gives out the next source port of an address.
func (h *Host) nextPort(source netip.Addr) uint16 {
	last, ok := h.ports.Load(source)
	if !ok {
		begin := new(atomic.Uint32)
		begin.Store(rand.Uint32N(sourcePorts))
		last, _ = h.ports.LoadOrStore(source, begin)
	}
	p := last.(*atomic.Uint32).Add(1)%sourcePorts + firstPort
	if p >= nodePorts {
		p += nodePortsEnd - nodePorts
	}
	return uint16(p)
}

// socket is a TCP or UDP socket of a host on its way to dst, driven by the runtime's poller.
type socket struct {
	proto Protocol
	dst   netip.AddrPort
	file  *os.File
	raw   syscall.RawConn
}

// open makes a socket from a fresh source port and begins to connect it.
func (h *Host) open(proto Protocol, dst netip.AddrPort, source netip.Addr, port uint16) (s *socket, err error) {
	h.call(func() { s, err = h.openHere(proto, dst, source, port) })
	if s == nil && err == nil {
		err = os.ErrClosed
	}
	return s, err
}

// openHere is open for a thread that is in the host.
func (h *Host) openHere(proto Protocol, dst netip.AddrPort, source netip.Addr, port uint16) (*socket, error) {
	kind := unix.SOCK_STREAM
	if proto == UDP {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(family(dst.Addr()), kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(proto))
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if proto == TCP {
		// Closing sends RST, so that neither end keeps the port in TIME_WAIT.
		_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	if err = h.bind(fd, dst, source, port); err == nil {
		err = unix.Connect(fd, sockaddr(dst))
		if errors.Is(err, unix.EINPROGRESS) {
			err = nil
		}
	}
	if err != nil {
		_ = unix.Close(fd)
		if errors.Is(err, unix.ECONNREFUSED) { // the host's own rules refused at once
			return nil, os.NewSyscallError("connect", err)
		}
		return nil, fmt.Errorf("%w: connect: %w", errLocal, err)
	}
	s := &socket{proto: proto, dst: dst, file: os.NewFile(uintptr(fd), dst.String())}
	if s.raw, err = s.file.SyscallConn(); err != nil {
		_ = s.file.Close()
		return nil, err
	}
	return s, nil
}

// bind gives a socket its source: port, or if that is 0 the next one that is free.
func (h *Host) bind(fd int, dst netip.AddrPort, source netip.Addr, port uint16) error {
	if !source.IsValid() {
		source = netip.IPv4Unspecified()
		if dst.Addr().Is6() {
			source = netip.IPv6Unspecified()
		}
	}
	if port != 0 {
		return unix.Bind(fd, sockaddr(netip.AddrPortFrom(source, port)))
	}
	for range 1000 {
		err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(source, h.nextPort(source))))
		if !errors.Is(err, unix.EADDRINUSE) {
			return err
		}
	}
	return unix.EADDRINUSE
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func (s *socket) close() { _ = s.file.Close() }

// local is the address that the socket has at this end.
func (s *socket) local() (a netip.AddrPort) {
	_ = s.raw.Control(func(fd uintptr) {
		sa, err := unix.Getsockname(int(fd))
		if err != nil {
			return
		}
		switch sa := sa.(type) {
		case *unix.SockaddrInet4:
			a = netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
		case *unix.SockaddrInet6:
			a = netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
		}
	})
	return a
}

// ask completes the connection, sends one request, and waits for its answer.
func (s *socket) ask(deadline time.Time) (Reply, error) {
	if err := s.file.SetDeadline(deadline); err != nil {
		return Reply{}, err
	}
	if s.proto == TCP {
		if err := s.connected(); err != nil {
			return Reply{}, err
		}
	}
	nonce := newNonce()
	_, err := io.WriteString(s.file, nonce+"\n")
	// EPERM: the host's own rules stopped the packet. Whether they refused it or dropped it is seen below.
	if err != nil && !errors.Is(err, unix.EPERM) {
		return Reply{}, err
	}
	var buf [256]byte
	line := buf[:0]
	for len(line) < len(buf) {
		n, err := s.file.Read(buf[len(line):])
		if err != nil {
			return Reply{}, err
		}
		if line = buf[:len(line)+n]; line[len(line)-1] == '\n' {
			return parseReply(string(line), nonce)
		}
	}
	return Reply{}, fmt.Errorf("no end in the answer %q", line)
}

// connected waits until a TCP connection is made.
func (s *socket) connected() error {
	var sockErr error
	err := s.raw.Write(func(fd uintptr) bool {
		errno, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if err != nil {
			sockErr = err
			return true
		}
		if errno != 0 {
			sockErr = os.NewSyscallError("connect", unix.Errno(errno))
			return true
		}
		// Woken early if there is no peer yet.
		_, err = unix.Getpeername(int(fd))
		return !errors.Is(err, unix.ENOTCONN)
	})
	if sockErr != nil {
		return sockErr
	}
	return err
}
