package health

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/weir-project/weir/endpoints"
)

// A port that cannot be opened is tried again after retryMin, doubling, up to retryMax.
const (
	retryMin = time.Second
	retryMax = 30 * time.Second
)

// checkTimeout bounds an answer to a load balancer.
const checkTimeout = 10 * time.Second

// ErrPortClaimed says that an earlier service has the same healthCheckNodePort. The API server
// allocates each only once, so it should not happen.
var ErrPortClaimed = errors.New("another service has the same health check port")

// ServiceCheck is what the health check of one Service goes by.
type ServiceCheck struct {
	Port       uint16 // spec.healthCheckNodePort
	LocalReady int    // addresses of ready endpoints on this node, each counted once
}

// ServiceConfig says what ServiceServers work with.
type ServiceConfig struct {
	// Healthy reports whether the proxy is healthy (Proxy.Healthy). Nil: it is.
	Healthy func() bool
	// Failed is told of a port that cannot be opened, on some or all addresses, once until it could
	// be or the service has another. It is called from Run's goroutine. Nil: it is only logged.
	Failed func(service endpoints.Name, port uint16, err error)
}

// ServiceServers answer the health checks of Services (healthCheckNodePort): load balancers ask
// every node, and send traffic to those that have endpoints of the Service. Any path will do.
type ServiceServers struct {
	config ServiceConfig
	listen func(ctx context.Context, a netip.Addr, port uint16) (net.Listener, error)
	wake   chan struct{}

	// mu guards wanted and addrs.
	mu     sync.RWMutex
	wanted map[endpoints.Name]ServiceCheck
	addrs  []netip.Addr

	// Run's goroutine alone uses these.
	open    map[endpoints.Name]*serviceServer
	failing map[endpoints.Name]uint16 // services that Failed was told of, and their port then
	on      []netip.Addr              // addrs, as last taken in

	lost    chan *listener // listeners that have failed
	serving sync.WaitGroup
}

// serviceServer is the HTTP server of one Service.
type serviceServer struct {
	port      uint16
	http      *http.Server
	listeners map[netip.Addr]*listener
	delay     time.Duration // before the next attempt, 0: none has failed
	retry     time.Time     // when that is
}

// listener is a port on one address.
type listener struct {
	net.Listener
	service endpoints.Name
	addr    netip.Addr
	err     error // why it has failed
}

// all stands for every address of both families.
var all = netip.Addr{}

// NewServiceServers returns servers for no service yet, on all addresses.
func NewServiceServers(c ServiceConfig) *ServiceServers {
	return &ServiceServers{
		config:  c,
		listen:  listenOn,
		wake:    make(chan struct{}, 1),
		wanted:  map[endpoints.Name]ServiceCheck{},
		addrs:   []netip.Addr{all},
		open:    map[endpoints.Name]*serviceServer{},
		failing: map[endpoints.Name]uint16{},
		lost:    make(chan *listener),
	}
}

// Sync says for which services there is to be a health check; there are none for others. Counts
// hold at once, ports are opened and closed by Run. The map is the servers' from then on.
func (s *ServiceServers) Sync(checks map[endpoints.Name]ServiceCheck) {
	s.mu.Lock()
	defer s.mu.Unlock()
	same := maps.EqualFunc(s.wanted, checks, func(a, b ServiceCheck) bool { return a.Port == b.Port })
	s.wanted = checks
	if s.wanted == nil {
		s.wanted = map[endpoints.Name]ServiceCheck{}
	}
	if !same {
		s.poke()
	}
}

// Set is Sync for one service. Port 0: there is no check for it. It may be mixed with Sync.
func (s *ServiceServers) Set(name endpoints.Name, c ServiceCheck) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wanted[name].Port != c.Port {
		s.poke()
	}
	if c.Port == 0 {
		delete(s.wanted, name)
		return
	}
	s.wanted[name] = c
}

// SetAddrs says on which addresses to listen. Nil, and before the first call, is all addresses of
// both families. An empty list that is not nil is what it says: none, because no address of the
// node is among those configured at the moment.
func (s *ServiceServers) SetAddrs(addrs []netip.Addr) {
	plain := []netip.Addr{all}
	if addrs != nil {
		plain = listenable(addrs)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Equal(s.addrs, plain) {
		s.addrs = plain
		s.poke()
	}
}

// poke has Run look again.
func (s *ServiceServers) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run opens and closes ports until ctx ends. Then it closes all of them and returns nil. It is to be called
// once.
func (s *ServiceServers) Run(ctx context.Context) error {
	defer s.closeAll()
	for {
		var alarm <-chan time.Time
		if next := s.reconcile(ctx); !next.IsZero() {
			alarm = time.After(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return nil
		case ln := <-s.lost:
			s.drop(ctx, ln)
		case <-s.wake:
		case <-alarm:
		}
	}
}

// reconcile closes and opens what is to be, and returns when to try again; zero is never. It closes
// first: a port may go from one service to another, and from all addresses to some.
func (s *ServiceServers) reconcile(ctx context.Context) (next time.Time) {
	ports, moved := s.take()
	for name, srv := range s.open {
		if ports[name] != srv.port {
			s.close(ctx, name, srv)
		} else if moved {
			srv.keep(s.on)
			srv.delay, srv.retry = 0, time.Time{}
		}
	}
	maps.DeleteFunc(s.failing, func(name endpoints.Name, port uint16) bool { return ports[name] != port })
	s.claim(ctx, ports)
	for name, srv := range s.open {
		if at := s.openPorts(ctx, name, srv); !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	return next
}

// take returns the ports that are wanted, and whether the addresses have changed.
func (s *ServiceServers) take() (ports map[endpoints.Name]uint16, moved bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	ports = make(map[endpoints.Name]uint16, len(s.wanted))
	for name, c := range s.wanted {
		if c.Port != 0 {
			ports[name] = c.Port
		}
	}
	moved = !slices.Equal(s.on, s.addrs)
	s.on = s.addrs
	return ports, moved
}

// claim makes servers for new services. Of two with the same port the first stays; when both are new,
// that is the first by name.
func (s *ServiceServers) claim(ctx context.Context, ports map[endpoints.Name]uint16) {
	owners := make(map[uint16]endpoints.Name, len(ports))
	for name, srv := range s.open {
		owners[srv.port] = name
	}
	for _, name := range slices.SortedFunc(maps.Keys(ports), endpoints.Name.Compare) {
		port := ports[name]
		switch owner, taken := owners[port]; {
		case taken && owner != name:
			s.fail(ctx, name, port, fmt.Errorf("%w: %s", ErrPortClaimed, owner))
		case !taken:
			owners[port] = name
			s.open[name] = &serviceServer{
				port:      port,
				http:      newHTTPServer(s.handler(name), checkTimeout),
				listeners: map[netip.Addr]*listener{},
			}
		}
	}
}

// openPorts listens on addresses that a server lacks, and returns when to try again those that
// failed.
func (s *ServiceServers) openPorts(ctx context.Context, name endpoints.Name, srv *serviceServer) time.Time {
	now := time.Now()
	if srv.retry.After(now) {
		return srv.retry
	}
	var errs []error
	for _, a := range s.on {
		if srv.listeners[a] != nil {
			continue
		}
		ln, err := s.listen(ctx, a, srv.port)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s.serve(srv, &listener{Listener: ln, service: name, addr: a})
		klog.FromContext(ctx).V(2).Info("Opened health check port", "service", name, "addr", ln.Addr())
	}
	if len(errs) == 0 {
		srv.delay, srv.retry = 0, time.Time{}
		if _, was := s.failing[name]; was {
			delete(s.failing, name)
			klog.FromContext(ctx).Info("The health check port is open now", "service", name, "port", srv.port)
		}
		return time.Time{}
	}
	srv.delay = min(max(2*srv.delay, retryMin), retryMax)
	srv.retry = now.Add(srv.delay)
	s.fail(ctx, name, srv.port, errors.Join(errs...))
	return srv.retry
}

// serve answers on a listener until it is closed, or fails and is handed to Run.
func (s *ServiceServers) serve(srv *serviceServer, ln *listener) {
	srv.listeners[ln.addr] = ln
	s.serving.Go(func() {
		ln.err = srv.http.Serve(ln)
		if !errors.Is(ln.err, http.ErrServerClosed) && !errors.Is(ln.err, net.ErrClosed) {
			s.lost <- ln
		}
	})
}

// drop forgets a listener that has failed, if it still matters.
func (s *ServiceServers) drop(ctx context.Context, ln *listener) {
	ln.Close()
	srv := s.open[ln.service]
	if srv == nil || srv.listeners[ln.addr] != ln {
		return
	}
	delete(srv.listeners, ln.addr)
	srv.delay = max(srv.delay, retryMin)
	srv.retry = time.Now().Add(srv.delay)
	s.fail(ctx, ln.service, srv.port, ln.err)
}

// fail tells of a failure, once.
func (s *ServiceServers) fail(ctx context.Context, name endpoints.Name, port uint16, err error) {
	if s.failing[name] == port {
		return
	}
	s.failing[name] = port
	klog.FromContext(ctx).Error(err, "No health check for the service", "service", name, "port", port)
	if s.config.Failed != nil {
		s.config.Failed(name, port, err)
	}
}

// keep closes a server's listeners on other addresses than these.
func (srv *serviceServer) keep(addrs []netip.Addr) {
	for a, ln := range srv.listeners {
		if !slices.Contains(addrs, a) {
			ln.Close()
			delete(srv.listeners, a)
		}
	}
}

// close frees a server's port at once, and gives its requests under way a moment.
func (s *ServiceServers) close(ctx context.Context, name endpoints.Name, srv *serviceServer) {
	delete(s.open, name)
	srv.keep(nil)
	s.serving.Go(func() { shutdown(srv.http) })
	klog.FromContext(ctx).V(2).Info("Closed health check port", "service", name, "port", srv.port)
}

func (s *ServiceServers) closeAll() {
	for name, srv := range s.open {
		s.close(context.Background(), name, srv)
	}
	done := make(chan struct{})
	go func() { s.serving.Wait(); close(done) }()
	for {
		select {
		case ln := <-s.lost:
			ln.Close()
		case <-done:
			return
		}
	}
}

// serviceAnswer is the body of an answer.
type serviceAnswer struct {
	Service struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"service"`
	LocalEndpoints      int  `json:"localEndpoints"`
	ServiceProxyHealthy bool `json:"serviceProxyHealthy"`
}

// handler answers for one service. The weight lets a load balancer send a node that has more
// endpoints more traffic (KEP-2086).
func (s *ServiceServers) handler(name endpoints.Name) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.mu.RLock()
		local := s.wanted[name].LocalReady
		s.mu.RUnlock()

		a := serviceAnswer{LocalEndpoints: local, ServiceProxyHealthy: s.config.Healthy == nil || s.config.Healthy()}
		a.Service.Namespace, a.Service.Name = name.Namespace, name.Name
		w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(local))
		reply(w, a, local > 0 && a.ServiceProxyHealthy)
	})
}
