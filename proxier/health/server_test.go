package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

func TestServerRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := newFakeListener()
		var attempts, told int
		began := time.Now()
		s := &Server{
			Name: "healthz", Addr: "192.0.2.1:10256", Handler: http.NotFoundHandler(),
			Failed: func(err error) {
				told++
				if !errors.Is(err, errTaken) {
					t.Errorf("failed: %v", err)
				}
			},
			listen: func(_ context.Context, network, addr string) (net.Listener, error) {
				attempts++
				if network != "tcp" || addr != "192.0.2.1:10256" {
					t.Errorf("listen on %s %s", network, addr)
				}
				if time.Since(began) < 12*time.Second || ln == nil {
					return nil, errTaken
				}
				return ln, nil
			},
		}
		start(t, s.Run)
		time.Sleep(time.Minute)
		synctest.Wait()
		if attempts != 4 || told != 1 { // at 0, 5, 10 and 15 s
			t.Errorf("%d attempts, told %d times; want 4 and 1", attempts, told)
		}
		broken := ln
		ln = nil
		broken.fail(errTaken)
		time.Sleep(time.Minute)
		synctest.Wait()
		if told != 2 {
			t.Errorf("told %d times after it failed again, want 2", told)
		}
	})
}

func TestServerHardFail(t *testing.T) {
	told := 0
	s := &Server{
		Name: "metrics", Addr: "192.0.2.1:10249", HardFail: true, Failed: func(error) { told++ },
		listen: func(context.Context, string, string) (net.Listener, error) { return nil, errTaken },
	}
	err := s.Run(context.Background())
	if !errors.Is(err, errTaken) || told != 1 {
		t.Errorf("Run: %v, told %d times; want %v and once", err, told, errTaken)
	}
	if got, want := fmt.Sprint(err), "serve metrics on 192.0.2.1:10249: address already in use"; got != want {
		t.Errorf("error %q, want %q", got, want)
	}
}

func TestServerWithoutAddress(t *testing.T) {
	if err := (&Server{Handler: http.NotFoundHandler()}).Run(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestServerOnRealSockets(t *testing.T) {
	needIPv6(t)
	tests := []struct {
		name, host  string
		open, close []netip.Addr
	}{
		{"all, written as IPv4", "0.0.0.0", []netip.Addr{loopback4, loopback6}, nil},
		{"all, written as IPv6", "[::]", []netip.Addr{loopback4, loopback6}, nil},
		{"IPv4", "127.0.0.1", []netip.Addr{loopback4}, []netip.Addr{loopback6}},
		{"IPv6", "[::1]", []netip.Addr{loopback6}, []netip.Addr{loopback4}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			port := freePort(t)
			s := &Server{Name: "test", Addr: fmt.Sprintf("%s:%d", tt.host, port), WriteTimeout: time.Second,
				Handler: NewProxy(ProxyConfig{}).Handler()}
			stop := start(t, s.Run)
			for _, a := range tt.open {
				eventually(t, a.String(), func() bool { return ask(fresh, a, port) == 404 })
			}
			for _, a := range tt.close {
				if got := ask(fresh, a, port); got != 0 {
					t.Errorf("%v answers %d", a, got)
				}
			}
			stop()
			if got := ask(fresh, tt.open[0], port); got != 0 {
				t.Errorf("after Run: %d", got)
			}
		})
	}
}

// A request under way when the end comes is answered.
func TestServerGrace(t *testing.T) {
	port := freePort(t)
	began := make(chan struct{})
	s := &Server{Name: "test", Addr: fmt.Sprintf("127.0.0.1:%d", port), Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(began)
		time.Sleep(100 * time.Millisecond)
		io.WriteString(w, "done")
	})}
	stop := start(t, s.Run)
	var conn net.Conn
	eventually(t, "listening", func() bool {
		var err error
		conn, err = net.Dial("tcp", s.Addr)
		return err == nil
	})
	defer conn.Close()
	fmt.Fprint(conn, "GET / HTTP/1.0\r\n\r\n")
	<-began
	stop()
	if got, err := io.ReadAll(conn); err != nil || len(got) == 0 {
		t.Errorf("read %q, %v; want an answer", got, err)
	}
}
