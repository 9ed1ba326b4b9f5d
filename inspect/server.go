package inspect

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// retryAfter is how long a Server waits before it tries again to open its socket.
const retryAfter = 5 * time.Second

// Server serves a handler on a socket of the machine, to processes of its own user alone: root, mostly.
type Server struct {
	Path    string // of the socket
	Handler http.Handler
}

// errInUse says that another process serves a socket.
var errInUse = errors.New("another weir listens there: give this one another --socket")

// Run serves until ctx ends, and then returns nil. If the socket cannot be opened that is logged once
// and tried again and again: the proxy works without.
func (s *Server) Run(ctx context.Context) error {
	logger := klog.FromContext(ctx)
	told := ""
	for {
		l, err := listen(s.Path)
		if err == nil {
			if told != "" {
				logger.Info("The control socket is open", "socket", s.Path)
			}
			return s.serve(ctx, l)
		}
		if err.Error() != told {
			told = err.Error()
			logger.Error(err, "Opening the control socket: weir status and the like do not work until this succeeds", "socket", s.Path)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retryAfter):
		}
	}
}

func (s *Server) serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler: s.Handler, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx }, // so that followers end with us
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(&ownUserOnly{Listener: l}); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", s.Path, err)
	}
	return nil
}

// listen opens a socket that only its owner can use. The file of a process that is gone is replaced.
func listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() != os.ModeSocket {
		return nil, fmt.Errorf("%s is there, and is no socket: remove it, or give another --socket", path)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	switch {
	case err == nil:
		_ = conn.Close()
		return nil, errInUse
	case errors.Is(err, unix.ECONNREFUSED):
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	case !errors.Is(err, os.ErrNotExist):
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// ownUserOnly refuses processes of other users, whatever the modes of files say.
type ownUserOnly struct{ net.Listener }

func (l *ownUserOnly) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if uid, err := peer(conn); err == nil && (uid == 0 || int(uid) == os.Geteuid()) {
			return conn, nil
		}
		_ = conn.Close()
	}
}

// peer returns the user at the other end.
func peer(conn net.Conn) (uint32, error) {
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(cerr, err); err != nil {
		return 0, err
	}
	return cred.Uid, nil
}
