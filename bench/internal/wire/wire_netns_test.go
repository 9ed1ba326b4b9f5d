package wire

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/weir-project/weir/internal/netlab"
)

func lab(t *testing.T) (client, server *netlab.Host) {
	l := netlab.NewForTest(t, netlab.Config{LocalPods: []string{"podA", "podB"}, RemotePods: []string{}, Clients: []string{"client"}})
	return l.Host("podA"), l.Host("podB")
}

func TestNetnsGreeter(t *testing.T) {
	client, server := lab(t)
	g, err := Greet(server, 8080)
	if err != nil {
		t.Fatal(err)
	}
	dst := netip.AddrPortFrom(server.Addr4, 8080)
	a, err := Until(t.Context(), client, dst, server.Addr4, time.Millisecond)
	if err != nil || a.Attempts == 0 || a.Start.IsZero() {
		t.Errorf("%+v, %v", a, err)
	}
	if _, err := All(t.Context(), client, []netip.AddrPort{dst, dst}, time.Millisecond); err != nil {
		t.Error(err)
	}
	rate, err := Connect(client, []netip.AddrPort{dst}, 2, 50*time.Millisecond)
	if err != nil || rate.Failed > 0 || len(rate.Latency) == 0 || rate.PerSecond == 0 {
		t.Errorf("%d connections, %d failed, %v", len(rate.Latency), rate.Failed, err)
	}
	nowhere := netip.AddrPortFrom(server.Addr4, 9)
	if n, err := Silent(t.Context(), client, []netip.AddrPort{dst, nowhere}); n != 1 || err != nil {
		t.Errorf("%d silent, %v", n, err)
	}
	// Somebody answers, but not who is wanted.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Until(ctx, client, dst, client.Addr4, time.Millisecond); err == nil {
		t.Error("the wrong endpoint was taken for the right one")
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
}

func TestNetnsStrays(t *testing.T) {
	client, server := lab(t)
	g, err := Greet(server, 8080)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	for _, test := range []struct {
		name string
		dst  netip.AddrPort
		lost bool
	}{
		{"answered", netip.AddrPortFrom(server.Addr4, 8080), false},
		{"dropped", netip.MustParseAddrPort("10.96.0.1:80"), true},
	} {
		s := StartStrays(client, test.dst, time.Millisecond)
		time.Sleep(20 * time.Millisecond)
		begun, lost, err := s.Lost(t.Context(), 100*time.Millisecond)
		if err != nil || begun == 0 || lost > 0 != test.lost {
			t.Errorf("%s: %d of %d lost, %v", test.name, lost, begun, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestNetnsSink(t *testing.T) {
	client, server := lab(t)
	s, err := Swallow(server, 8081)
	if err != nil {
		t.Fatal(err)
	}
	dst := netip.AddrPortFrom(server.Addr4, 8081)
	for name, measure := range map[string]func(*netlab.Host, netip.AddrPort, time.Duration) (float64, error){
		"stream": s.Stream, "ping-pong": s.PingPong, "datagrams": s.Datagrams} {
		if v, err := measure(client, dst, 50*time.Millisecond); v <= 0 || err != nil {
			t.Errorf("%s: %v, %v", name, v, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
