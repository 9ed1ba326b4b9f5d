package dns

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"
)

// ServerConfig says what a Server answers, and where.
type ServerConfig struct {
	Zone *Zone
	// Forwarder is asked for what is not in the zone. Nil: that is refused.
	Forwarder Forwarder
	// Clients are those whose search lists are known: a walk through one is answered at its first name.
	// Nil: nobody's is.
	Clients *Clients
	// Listen are the addresses, for UDP and TCP.
	Listen []netip.AddrPort
	// Sockets is how many sockets share the UDP queries of one address; 0: one for each core.
	Sockets int

	// Outstanding bounds how many queries the Forwarder is being asked for; beyond it, the answer is
	// SERVFAIL at once. 0: 8192.
	Outstanding int
	// Connections bounds those over TCP; another one ends the one that has been idle longest. 0: 1024.
	Connections int
	// Idle is how long a connection without a query stays. 0: 10 s.
	Idle time.Duration
	// LogQuery is told of every query, from any goroutine, if not nil. That costs more than the
	// answer.
	LogQuery func(QueryLog)
	// Listening is called with the addresses once they are open, if not nil.
	Listening func([]netip.AddrPort)
}

// QueryLog says what was asked.
type QueryLog struct {
	Client netip.AddrPort
	TCP    bool
	Name   string
	Type   string
	To     string // who answers: zone, cache or upstream
	Rcode  string // "" if the answer is still to come
}

// logOutcome tells LogQuery of the query that r has read.
func (s *Server) logOutcome(r *reply, client netip.AddrPort, o outcome) {
	if o == silent {
		return
	}
	q := &r.query
	l := QueryLog{Client: client, TCP: r.tcp, To: "upstream"}
	if q.end > 0 {
		l.Name, l.Type = presentation(q.name.wire[:q.name.length]), typeName(q.qtype)
	}
	if o == answered || o == cached {
		l.To, l.Rcode = "zone", rcodeNames[min(r.rcode, rcodes-1)]
	}
	if o == cached {
		l.To = "cache"
	}
	s.cfg.LogQuery(l)
}

// Server answers queries. It is for one Run at a time.
type Server struct {
	cfg         ServerConfig
	outstanding *outstanding

	// mu guards what follows.
	mu       sync.Mutex
	counters []*counters           // of each worker, and of TCP by family
	conns    map[*tcpConn]struct{} // nil: it does not run

	conversing sync.WaitGroup // over TCP
	serving    atomic.Bool
}

// NewServer returns a server that does not listen yet.
func NewServer(c ServerConfig) *Server {
	if c.Sockets <= 0 {
		c.Sockets = runtime.GOMAXPROCS(0)
	}
	if c.Outstanding <= 0 {
		c.Outstanding = 8192
	}
	if c.Connections <= 0 {
		c.Connections = 1024
	}
	if c.Idle <= 0 {
		c.Idle = 10 * time.Second
	}
	return &Server{cfg: c, outstanding: newOutstanding(c.Outstanding)}
}

// Serving reports whether the server listens, with a zone that is complete.
func (s *Server) Serving() bool { return s.serving.Load() }

// Run waits until the zone is complete, and serves it until ctx ends; then it answers what has come over
// UDP, and returns nil. It opens no socket before, so that nobody gets half an answer.
func (s *Server) Run(ctx context.Context) error {
	select {
	case <-s.cfg.Zone.Ready():
	case <-ctx.Done():
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	var open []interface{ Close() error }
	closeAll := func() {
		for _, c := range open {
			_ = c.Close()
		}
	}
	var addrs []netip.AddrPort
	var runs []func() error
	for _, addr := range s.cfg.Listen {
		listener, sockets, err := s.listen(ctx, addr)
		if err != nil {
			closeAll()
			return fmt.Errorf("serve DNS on %v: %w", addr, err)
		}
		addrs = append(addrs, listener.Addr().(*net.TCPAddr).AddrPort())
		open = append(open, listener)
		runs = append(runs, func() error { return s.accept(ctx, listener) })
		for _, conn := range sockets {
			open = append(open, conn)
			w, err := s.newUDPWorker(conn)
			if err != nil {
				closeAll()
				return fmt.Errorf("serve DNS on %v: %w", addr, err)
			}
			runs = append(runs, func() error { return w.run(ctx) })
		}
	}
	s.mu.Lock()
	s.conns = map[*tcpConn]struct{}{}
	s.mu.Unlock()
	for _, run := range runs {
		group.Go(run)
	}
	s.serving.Store(true)
	klog.FromContext(ctx).Info("Serving DNS", "addresses", addrs, "sockets", s.cfg.Sockets, "zone", s.cfg.Zone.Domain())
	if s.cfg.Listening != nil {
		s.cfg.Listening(addrs)
	}
	group.Go(func() error {
		<-ctx.Done()
		s.serving.Store(false)
		for _, c := range open {
			if conn, ok := c.(*net.UDPConn); ok {
				stopReading(conn)
			} else {
				_ = c.Close()
			}
		}
		s.closeConns()
		return nil
	})
	err := group.Wait()
	closeAll()
	s.conversing.Wait()
	return err
}

// listen opens an address for TCP, and as many times as there are workers for UDP. With port 0 both
// get the same port.
func (s *Server) listen(ctx context.Context, addr netip.AddrPort) (net.Listener, []*net.UDPConn, error) {
	family := "6"
	if addr.Addr().Is4() {
		family = "4"
	}
	lc := net.ListenConfig{Control: reusePort}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp"+family, addr.String())
	if err != nil {
		return nil, nil, err
	}
	addr = netip.AddrPortFrom(addr.Addr(), listener.Addr().(*net.TCPAddr).AddrPort().Port())
	var sockets []*net.UDPConn
	for range s.cfg.Sockets {
		conn, err := lc.ListenPacket(ctx, "udp"+family, addr.String())
		if err != nil {
			_ = listener.Close()
			for _, c := range sockets {
				_ = c.Close()
			}
			return nil, nil, err
		}
		sockets = append(sockets, conn.(*net.UDPConn))
	}
	return listener, sockets, nil
}

// newReply returns what a worker answers with. client says who asks.
func (s *Server) newReply(client func() netip.Addr) *reply {
	r := &reply{zone: s.cfg.Zone, noRA: s.cfg.Forwarder == nil, random: newRandom(), clients: s.cfg.Clients, client: client}
	r.cache, _ = s.cfg.Forwarder.(CachingForwarder)
	return r
}

func newRandom() rand.PCG { return *rand.NewPCG(rand.Uint64(), rand.Uint64()) }

func (s *Server) newCounters(tcp bool, local net.Addr) *counters {
	c := &counters{}
	c.transport.TCP = tcp
	switch a := local.(type) {
	case *net.UDPAddr:
		c.transport.IPv6 = a.IP.To4() == nil
	case *net.TCPAddr:
		c.transport.IPv6 = a.IP.To4() == nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counters = append(s.counters, c)
	return c
}

// pending is a query that the Forwarder is being asked for.
type pending struct {
	aside    *aside
	ticket   ticket
	counters *counters
	began    time.Time
	send     func([]byte) // once; from any goroutine
	again    func()       // gives the next query to the Forwarder

	// state goes from asking, which is while Forward has not returned, to done or later.
	state    atomic.Uint32
	response []byte // with state done
}

const (
	stateAsking uint32 = iota
	stateLater         // the answer goes through send
	stateDone          // the answer was there when Forward returned
	stateSent
)

// ask gives a query to the Forwarder. If there is an answer at once it is returned; otherwise it goes
// through send.
func (s *Server) ask(ctx context.Context, p *pending, client netip.AddrPort) []byte {
	p.began = time.Now()
	var ok bool
	if p.ticket, ok = s.outstanding.take(); !ok {
		answer := p.aside.fail()
		p.counters.response(elsewhere, uint16(answer[3]&0xf))
		return answer
	}
	p.again = func() { s.cfg.Forwarder.Forward(ctx, p.aside.question(), client, p.aside.reply.tcp, p.reply) }
	p.again()
	if p.state.CompareAndSwap(stateAsking, stateLater) {
		return nil
	}
	return p.response
}

// reply is what the Forwarder calls.
func (p *pending) reply(response []byte) {
	if s := p.state.Load(); s == stateDone || s == stateSent {
		return
	}
	answer := p.aside.answer(response)
	if answer == nil {
		p.again()
		return
	}
	p.ticket.release()
	p.counters.response(elsewhere, uint16(answer[3]&0xf))
	p.counters.walk(p.aside.reply.walked)
	p.counters.took(elsewhere, time.Since(p.began), 1)
	p.response = answer
	if p.state.CompareAndSwap(stateAsking, stateDone) {
		return
	}
	if p.state.CompareAndSwap(stateLater, stateSent) {
		p.send(answer)
	}
}

// closed reports whether an error is only that a socket was closed.
func closed(err error) bool { return errors.Is(err, net.ErrClosed) }
