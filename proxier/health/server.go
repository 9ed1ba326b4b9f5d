package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"k8s.io/klog/v2"
)

const (
	// bindRetry is how long after a failure a server is started again (kube-proxy's too).
	bindRetry = 5 * time.Second
	// closeGrace is what requests under way get when a server is closed.
	closeGrace = 500 * time.Millisecond
)

// Server serves a handler on one address, and comes back when it has failed: the address may come
// later than we do, and whoever has the port may leave.
type Server struct {
	Name string // of what is served, for errors and logs: "healthz"
	// Addr is host:port. An unspecified host (0.0.0.0 or ::) is every address of both families.
	// Empty: nothing is served.
	Addr    string
	Handler http.Handler

	// HardFail makes the first failure the end (kube-proxy's bindAddressHardFail).
	HardFail bool
	// Failed is told why it is not served, once until it has been served again. It is called from
	// Run's goroutine. Nil: it is only logged.
	Failed func(error)
	// WriteTimeout bounds an answer from the end of its request. 0: no bound, as a profile needs.
	WriteTimeout time.Duration

	listen func(ctx context.Context, network, addr string) (net.Listener, error) // nil: the system's
}

// Run serves until ctx ends and then returns nil. It returns a failure only if HardFail is set.
func (s *Server) Run(ctx context.Context) error {
	if s.Addr == "" {
		return nil
	}
	told := false
	for {
		err := s.serve(ctx, func() { told = false })
		if ctx.Err() != nil {
			return nil
		}
		err = fmt.Errorf("serve %s on %s: %w", s.Name, s.Addr, err)
		if s.Failed != nil && !told {
			s.Failed(err)
		}
		told = true
		if s.HardFail {
			return err
		}
		klog.FromContext(ctx).Error(err, "Not served", "retry", bindRetry)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(bindRetry):
		}
	}
}

// serve serves until ctx ends or something fails. It calls listening when it has the address.
func (s *Server) serve(ctx context.Context, listening func()) error {
	listen := s.listen
	if listen == nil {
		listen = new(net.ListenConfig).Listen
	}
	ln, err := listen(ctx, "tcp", s.Addr)
	if err != nil {
		return err
	}
	listening()
	klog.FromContext(ctx).V(2).Info("Serving", "what", s.Name, "addr", ln.Addr())
	srv := newHTTPServer(s.Handler, s.WriteTimeout)
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(ln) }()
	select {
	case err = <-failed:
		shutdown(srv)
		return err
	case <-ctx.Done():
		shutdown(srv)
		<-failed
		return nil
	}
}

// newHTTPServer returns a server whose limits suit small requests without a body from anybody who
// reaches the node.
func newHTTPServer(h http.Handler, write time.Duration) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      write,
		IdleTimeout:       90 * time.Second,
		MaxHeaderBytes:    16 << 10,
	}
}

// shutdown closes a server's listeners at once, and its connections when they are idle or after
// closeGrace.
func shutdown(srv *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), closeGrace)
	defer cancel()
	if err := srv.Shutdown(ctx); errors.Is(err, context.DeadlineExceeded) {
		_ = srv.Close()
	}
}
