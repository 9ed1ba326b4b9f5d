package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/weir-project/weir/endpoints"
)

var (
	web = endpoints.Name{Namespace: "shop", Name: "web"}
	api = endpoints.Name{Namespace: "shop", Name: "api"}

	loopback4 = netip.MustParseAddr("127.0.0.1")
	loopback6 = netip.MustParseAddr("::1")
)

type checks = map[endpoints.Name]ServiceCheck

func TestServiceAnswer(t *testing.T) {
	tests := []struct {
		name    string
		check   ServiceCheck
		healthy bool
		code    int
		weight  string
		body    string
	}{
		{"endpoints here", ServiceCheck{Port: 1, LocalReady: 3}, true, 200, "3",
			`{"service":{"namespace":"shop","name":"web"},"localEndpoints":3,"serviceProxyHealthy":true}`},
		{"none here", ServiceCheck{Port: 1}, true, 503, "0",
			`{"service":{"namespace":"shop","name":"web"},"localEndpoints":0,"serviceProxyHealthy":true}`},
		{"proxy not healthy", ServiceCheck{Port: 1, LocalReady: 1}, false, 503, "1",
			`{"service":{"namespace":"shop","name":"web"},"localEndpoints":1,"serviceProxyHealthy":false}`},
	}
	for _, tt := range tests {
		for _, request := range []string{"GET /", "GET /healthz", "HEAD /a/../b//c?d=e", "POST /x"} {
			t.Run(tt.name+" "+request, func(t *testing.T) {
				s := NewServiceServers(ServiceConfig{Healthy: func() bool { return tt.healthy }})
				s.Sync(checks{web: tt.check})
				var method, target string
				fmt.Sscan(request, &method, &target)
				w := httptest.NewRecorder()
				s.handler(web).ServeHTTP(w, httptest.NewRequest(method, target, nil))
				if w.Code != tt.code {
					t.Errorf("status %d, want %d", w.Code, tt.code)
				}
				want := http.Header{
					"Content-Type":                     {"application/json"},
					"X-Content-Type-Options":           {"nosniff"},
					"X-Load-Balancing-Endpoint-Weight": {tt.weight},
				}
				if diff := cmp.Diff(want, w.Header()); diff != "" {
					t.Errorf("headers (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(tt.body+"\n", w.Body.String()); diff != "" {
					t.Errorf("body (-want +got):\n%s", diff)
				}
			})
		}
	}
}

// failures remembers what Failed was told.
type failures struct {
	mu   sync.Mutex
	seen []string
	errs []error
}

func (f *failures) failed(name endpoints.Name, port uint16, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen = append(f.seen, fmt.Sprintf("%s %d", name, port))
	f.errs = append(f.errs, err)
}

func (f *failures) take() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer func() { f.seen = nil }()
	return f.seen
}

// faked runs a test on a fake host, in a bubble.
func faked(t *testing.T, test func(t *testing.T, s *ServiceServers, ports *fakePorts, told *failures)) {
	synctest.Test(t, func(t *testing.T) {
		ports, told := newFakePorts(), &failures{}
		s := NewServiceServers(ServiceConfig{Failed: told.failed})
		s.listen = ports.listen
		start(t, s.Run)
		test(t, s, ports, told)
	})
}

func wantFailures(t *testing.T, told *failures, want ...string) {
	t.Helper()
	synctest.Wait()
	if diff := cmp.Diff(want, told.take(), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("failures (-want +got):\n%s", diff)
	}
}

func wantOpen(t *testing.T, ports *fakePorts, a netip.Addr, port uint16, want bool) {
	t.Helper()
	synctest.Wait()
	if got := ports.listener(a, port) != nil; got != want {
		t.Errorf("%v port %d: open is %v, want %v", a, port, got, want)
	}
}

func TestTakenPortIsToldOnceAndTriedAgain(t *testing.T) {
	faked(t, func(t *testing.T, s *ServiceServers, ports *fakePorts, told *failures) {
		ports.take(30000, true)
		s.Sync(checks{web: {Port: 30000}, api: {Port: 30001}})
		time.Sleep(100*time.Second + 1)
		wantFailures(t, told, "shop/web 30000")
		wantOpen(t, ports, all, 30001, true)
		want := []time.Duration{0, 0, 1, 3, 7, 15, 31, 61, 91}
		for i := range want {
			want[i] *= time.Second
		}
		if diff := cmp.Diff(want, ports.attempts); diff != "" {
			t.Errorf("attempts (-want +got):\n%s", diff)
		}

		ports.take(30000, false)
		time.Sleep(retryMax)
		wantOpen(t, ports, all, 30000, true)
		wantFailures(t, told)

		// It is told again when it fails again.
		ports.take(30000, true)
		ports.listener(all, 30000).fail(errors.New("broken"))
		wantFailures(t, told, "shop/web 30000")
		ports.take(30000, false)
		time.Sleep(retryMax)
		wantOpen(t, ports, all, 30000, true)
	})
}

func TestTakenPortIsForgottenWithItsService(t *testing.T) {
	faked(t, func(t *testing.T, s *ServiceServers, ports *fakePorts, told *failures) {
		ports.take(30000, true)
		s.Sync(checks{web: {Port: 30000}})
		wantFailures(t, told, "shop/web 30000")
		s.Sync(nil)
		synctest.Wait()
		ports.attempts = nil
		time.Sleep(time.Hour)
		if len(ports.attempts) > 0 {
			t.Errorf("attempts for a service that is gone: %v", ports.attempts)
		}
		s.Set(web, ServiceCheck{Port: 30000})
		wantFailures(t, told, "shop/web 30000")
	})
}

func TestSamePort(t *testing.T) {
	faked(t, func(t *testing.T, s *ServiceServers, ports *fakePorts, told *failures) {
		s.Sync(checks{web: {Port: 30000}})
		synctest.Wait()
		first := ports.listener(all, 30000)
		s.Sync(checks{web: {Port: 30000}, api: {Port: 30000}})
		wantFailures(t, told, "shop/api 30000")
		if !errors.Is(told.errs[0], ErrPortClaimed) {
			t.Errorf("error %v, want ErrPortClaimed", told.errs[0])
		}
		if ports.listener(all, 30000) != first {
			t.Error("the first has lost its port")
		}
		s.Set(endpoints.Name{Name: "other"}, ServiceCheck{Port: 30001})
		wantFailures(t, told) // told once

		s.Set(web, ServiceCheck{}) // and then the other has it, at once
		wantOpen(t, ports, all, 30000, true)
		synctest.Wait()
		if got := s.open[api]; got == nil || len(got.listeners) != 1 {
			t.Errorf("the other does not have the port: %+v", got)
		}
		s.Sync(checks{api: {Port: 30000}, web: {Port: 30000}})
		wantFailures(t, told, "shop/web 30000")
	})
}

func TestPortsChangeHands(t *testing.T) {
	faked(t, func(t *testing.T, s *ServiceServers, ports *fakePorts, told *failures) {
		s.Sync(checks{web: {Port: 30000}, api: {Port: 30001}})
		synctest.Wait()
		s.Sync(checks{web: {Port: 30001}, api: {Port: 30000}})
		wantFailures(t, told)
		if got := []uint16{s.open[web].port, s.open[api].port}; !slices.Equal(got, []uint16{30001, 30000}) {
			t.Errorf("ports %v, want swapped", got)
		}
		wantOpen(t, ports, all, 30000, true)
		wantOpen(t, ports, all, 30001, true)
	})
}

func TestAddressesAreFollowed(t *testing.T) {
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	faked(t, func(t *testing.T, s *ServiceServers, ports *fakePorts, told *failures) {
		s.Sync(checks{web: {Port: 30000}})
		wantOpen(t, ports, all, 30000, true)

		s.SetAddrs([]netip.Addr{a})
		wantOpen(t, ports, all, 30000, false)
		wantOpen(t, ports, a, 30000, true)
		kept := ports.listener(a, 30000)

		s.SetAddrs([]netip.Addr{b, a, a})
		wantOpen(t, ports, b, 30000, true)
		if ports.listener(a, 30000) != kept {
			t.Error("an address that stayed was opened anew")
		}

		s.SetAddrs([]netip.Addr{b})
		wantOpen(t, ports, a, 30000, false)
		s.SetAddrs([]netip.Addr{})
		wantOpen(t, ports, b, 30000, false)
		s.SetAddrs(nil)
		wantOpen(t, ports, all, 30000, true)
		wantFailures(t, told)

		// New addresses are tried at once, whatever is waiting.
		ports.take(30000, true)
		s.SetAddrs([]netip.Addr{a})
		wantFailures(t, told, "shop/web 30000")
		time.Sleep(10 * time.Second)
		ports.take(30000, false)
		s.SetAddrs([]netip.Addr{b})
		wantOpen(t, ports, b, 30000, true)
	})
}

func TestListenable(t *testing.T) {
	tests := []struct {
		name     string
		in, want []string
	}{
		{"sorted, once", []string{"2001:db8::1", "192.0.2.2", "192.0.2.1", "192.0.2.2"}, []string{"192.0.2.1", "192.0.2.2", "2001:db8::1"}},
		{"mapped", []string{"::ffff:192.0.2.1"}, []string{"192.0.2.1"}},
		{"link-local", []string{"fe80::1", "fe80::1%eth0", "169.254.0.1"}, []string{"169.254.0.1", "fe80::1%eth0"}},
		{"all of one family", []string{"0.0.0.0", "192.0.2.1", "2001:db8::1"}, []string{"0.0.0.0", "2001:db8::1"}},
		{"all of the other", []string{"::", "192.0.2.1", "2001:db8::1"}, []string{"192.0.2.1", "::"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var in []netip.Addr
			for _, a := range tt.in {
				in = append(in, netip.MustParseAddr(a))
			}
			var got []string
			for _, a := range listenable(in) {
				got = append(got, a.String())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// From here on the sockets are real.

// freePort returns a port that nobody has on any address.
func freePort(t *testing.T) uint16 {
	t.Helper()
	ln, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return uint16(ln.Addr().(*net.TCPAddr).Port)
}

// ask returns the status code of a health check, 0 if nobody answers.
func ask(c *http.Client, a netip.Addr, port uint16) int {
	resp, err := c.Get("http://" + netip.AddrPortFrom(a, port).String() + "/")
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// fresh dials for every request.
var fresh = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

func needIPv6(t *testing.T) {
	t.Helper()
	ln, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skipf("no IPv6 on this host: %v", err)
	}
	ln.Close()
}

func TestServiceOnRealSockets(t *testing.T) {
	needIPv6(t)
	var healthy atomic.Bool
	s := NewServiceServers(ServiceConfig{Healthy: healthy.Load})
	stop := start(t, s.Run)
	port := freePort(t)
	s.Sync(checks{web: {Port: port, LocalReady: 1}})
	for _, a := range []netip.Addr{loopback4, loopback6, netip.MustParseAddr("127.1.2.3")} {
		eventually(t, "503 on "+a.String(), func() bool { return ask(fresh, a, port) == 503 })
	}
	healthy.Store(true)
	if got := ask(fresh, loopback6, port); got != 200 {
		t.Errorf("healthy: %d, want 200", got)
	}
	s.Set(web, ServiceCheck{Port: port})
	if got := ask(fresh, loopback4, port); got != 503 {
		t.Errorf("no endpoints: %d, want 503", got)
	}

	// The other family stays when one goes, and 127.0.0.1 is no longer served with 127.0.0.2.
	s.SetAddrs([]netip.Addr{netip.MustParseAddr("127.0.0.2"), loopback6})
	eventually(t, "127.0.0.1 closed", func() bool { return ask(fresh, loopback4, port) == 0 })
	eventually(t, "127.0.0.2 open", func() bool { return ask(fresh, netip.MustParseAddr("127.0.0.2"), port) == 503 })
	eventually(t, "::1 open", func() bool { return ask(fresh, loopback6, port) == 503 })
	stop()
	if got := ask(fresh, loopback6, port); got != 0 {
		t.Errorf("after Run: %d, want no answer", got)
	}
}

func TestPortAndConnectionsCloseWithTheService(t *testing.T) {
	s := NewServiceServers(ServiceConfig{})
	start(t, s.Run)
	port := freePort(t)
	s.Sync(checks{web: {Port: port, LocalReady: 1}})
	eventually(t, "open", func() bool { return ask(fresh, loopback4, port) == 200 })

	addr := netip.AddrPortFrom(loopback4, port).String()
	idle, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	alive, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer alive.Close()
	fmt.Fprint(alive, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := io.ReadAtLeast(alive, make([]byte, 512), 12); err != nil {
		t.Fatal(err)
	}

	gone := time.Now()
	s.Sync(nil)
	eventually(t, "closed", func() bool { return ask(fresh, loopback4, port) == 0 })
	for _, c := range []net.Conn{alive, idle} {
		c.SetReadDeadline(gone.Add(5 * time.Second))
		if _, err := io.Copy(io.Discard, c); errors.Is(err, context.DeadlineExceeded) {
			t.Error("a connection to a service that is gone stays open")
		}
	}
	if took := time.Since(gone); took > 4*time.Second {
		t.Errorf("closing took %v", took)
	}
}

func TestRealPortTakenAndFreed(t *testing.T) {
	other, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	port := uint16(other.Addr().(*net.TCPAddr).Port)
	told := &failures{}
	s := NewServiceServers(ServiceConfig{Failed: told.failed})
	start(t, s.Run)
	s.Sync(checks{web: {Port: port, LocalReady: 1}})
	want := fmt.Sprintf("shop/web %d", port)
	eventually(t, "told", func() bool { return slices.Equal(told.take(), []string{want}) })
	other.Close()
	eventually(t, "open once it is free", func() bool { return ask(fresh, loopback4, port) == 200 })
}

// An address that is not there yet can be listened on: it works from the moment that it comes.
func TestAddressThatIsNotThereYet(t *testing.T) {
	needIPv6(t)
	told := &failures{}
	s := NewServiceServers(ServiceConfig{Failed: told.failed})
	start(t, s.Run)
	port := freePort(t)
	s.SetAddrs([]netip.Addr{netip.MustParseAddr("198.51.100.77"), netip.MustParseAddr("2001:db8::77"), loopback4})
	s.Sync(checks{web: {Port: port, LocalReady: 1}})
	eventually(t, "open", func() bool { return ask(fresh, loopback4, port) == 200 })
	if got := told.take(); len(got) > 0 {
		t.Errorf("failures: %v", got)
	}
}

// For the race detector.
func TestServiceServersConcurrently(t *testing.T) {
	s := NewServiceServers(ServiceConfig{Healthy: func() bool { return true }, Failed: (&failures{}).failed})
	stop := start(t, s.Run)
	ports := []uint16{freePort(t), freePort(t)}
	var wg sync.WaitGroup
	loop := func(f func(i int)) {
		wg.Go(func() {
			for i := range 100 {
				f(i)
			}
		})
	}
	loop(func(i int) { s.Sync(checks{web: {Port: ports[i%2], LocalReady: i}, api: {Port: ports[i/2%2]}}) })
	loop(func(i int) { s.Set(api, ServiceCheck{Port: ports[i%2] * uint16(i%3)}) })
	loop(func(i int) { s.SetAddrs([][]netip.Addr{nil, {loopback4}, {}}[i%3]) })
	loop(func(i int) { ask(fresh, loopback4, ports[i%2]) })
	wg.Wait()
	s.SetAddrs(nil)
	s.Sync(checks{web: {Port: ports[0], LocalReady: 1}})
	eventually(t, "calm", func() bool { return ask(fresh, loopback4, ports[0]) == 200 })
	stop()
}
