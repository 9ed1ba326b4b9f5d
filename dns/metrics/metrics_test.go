package metrics

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/weir-project/weir/dns"
	"github.com/weir-project/weir/dns/forward"
	"github.com/weir-project/weir/endpoints"
)

func TestRecorder(t *testing.T) {
	zone, err := dns.NewZone(dns.Config{})
	if err != nil {
		t.Fatal(err)
	}
	s := dns.NewServer(dns.ServerConfig{Zone: zone, Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}})
	r := NewRecorder(s, "127.0.0.1:53")
	registry := prometheus.NewPedanticRegistry()
	forwarding := NewForwarding("127.0.0.1:53")
	forwarding.Of(forward.New(forward.Options{}, forward.Config{}))
	forwarding.UpstreamDone(netip.MustParseAddrPort("192.0.2.1:53"), false, time.Millisecond, 3, nil)
	registry.MustRegister(r, forwarding)
	get := func(h http.Handler) (int, string) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		return w.Code, w.Body.String()
	}
	if code, _ := get(Ready(s)); code != http.StatusServiceUnavailable {
		t.Errorf("ready before anything is known: %d", code)
	}
	e := endpoints.New(endpoints.Config{})
	e.ReplaceNamespaces(nil)
	e.ReplaceServices(nil)
	e.ReplaceSlices(nil)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { _ = zone.Run(ctx, e.Subscribe(), r.Updated) }()
	go func() { _ = s.Run(ctx) }()
	for deadline := time.Now().Add(5 * time.Second); !s.Serving(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never serving")
		}
	}
	if code, _ := get(Ready(s)); code != http.StatusOK {
		t.Errorf("ready: %d", code)
	}
	r.Updated(endpoints.Changes{Triggers: []time.Time{time.Now()}})
	_, page := get(promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	for _, want := range []string{
		`coredns_dns_request_duration_seconds_count{server="dns://127.0.0.1:53",view="",zone="cluster.local."} 0`,
		`coredns_kubernetes_dns_programming_duration_seconds_count 1`,
		`coredns_proxy_request_duration_seconds_count{proxy_name="forward",rcode="NXDOMAIN",to="192.0.2.1:53"} 1`,
		`coredns_cache_hits_total{server="dns://127.0.0.1:53",type="success",view="",zones="."} 0`,
		`weir_dns_connections{server="dns://127.0.0.1:53"} 0`,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("there is no %s in\n%s", want, page)
		}
	}
}
