//go:build linux

package inspect

import (
	"context"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/weir-project/weir/dataplane"
	"github.com/weir-project/weir/endpoints"
	"github.com/weir-project/weir/inspect/api"
	"github.com/weir-project/weir/internal/netlab"
	"github.com/weir-project/weir/proxier"
	"github.com/weir-project/weir/proxier/health"
)

// told passes on what the loop says.
type told struct {
	*Inspector
	health *health.Proxy
}

func (t *told) Queued()                     {}
func (t *told) SyncStarted()                {}
func (t *told) Progress()                   {}
func (t *told) NodeChanged(*endpoints.Node) {}

func (t *told) SyncDone(r proxier.SyncReport) { t.Inspector.SyncDone(r) }

// inside is a kernel with everything that the maps can hold, and who looks into it.
type inside struct {
	node      *netlab.Host
	kernel    *dataplane.Conn
	inspector *Inspector
}

// newInside runs the loop on a real kernel; shared tables are open to nft.
func newInside(t *testing.T, shared bool) *inside {
	t.Helper()
	netlab.Require(t)
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip(err)
	}
	lab := netlab.NewForTest(t, netlab.Config{})
	x := &inside{node: lab.Host("node")}
	err := x.node.Do(func() (err error) {
		x.kernel, err = dataplane.Open(t.Context(), dataplane.Config{Shared: shared,
			Layout: dataplane.Layout{Local: dataplane.LocalDetection{CIDRs: []netip.Prefix{netlab.ClusterCIDR4, netlab.ClusterCIDR6}}}})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	engine := endpoints.New(endpoints.Config{NodeName: "node1"})
	healthy := health.NewProxy(health.ProxyConfig{})
	observer := &told{health: healthy}
	proxy, err := proxier.New(proxier.Config{Source: engine, Kernel: x.kernel, Observer: observer, NodePortAddrs: []netip.Addr{x.node.Addr4}})
	if err != nil {
		t.Fatal(err)
	}
	x.inspector = New(Config{Engine: engine, Proxy: proxy, Kernel: inNode{x}, Health: healthy})
	observer.Inspector = x.inspector
	engine.ReplaceServices(manyServices())
	engine.ReplaceSlices(manySlices())
	engine.SetNode(&endpoints.Node{Name: "node1"})
	engine.SetServiceCIDRs([]netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:10:96::/112")})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- proxy.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := x.kernel.Close(); err != nil {
			t.Error(err)
		}
	})
	waiting, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	if err := proxy.WaitSynced(waiting); err != nil {
		t.Fatal(err)
	}
	return x
}

// inNode opens readers in the node's network namespace.
type inNode struct{ *inside }

func (n inNode) Families() []string       { return n.kernel.Families() }
func (n inNode) Owned() bool              { return n.kernel.Owned() }
func (n inNode) Stats() dataplane.Stats   { return n.kernel.Stats() }
func (n inNode) Layout() dataplane.Layout { return n.kernel.Layout() }

func (n inNode) Reader() (r *dataplane.Reader, err error) {
	err = n.node.Do(func() error { r, err = n.kernel.Reader(); return err })
	return r, err
}

// The one Service uses every map.
func manyServices() []*endpoints.Service {
	return []*endpoints.Service{{
		Name:            endpoints.Name{Namespace: "default", Name: "web"},
		ClusterIPs:      []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:10:96::10")},
		ExternalIPs:     []netip.Addr{netip.MustParseAddr("203.0.113.10")},
		LoadBalancerIPs: []netip.Addr{netip.MustParseAddr("203.0.113.20")},
		Restricted:      true, SourceRanges: []netip.Prefix{netip.MustParsePrefix("192.168.200.0/24")},
		ExternalLocal: true, Affinity: 3 * time.Hour,
		Ports: []endpoints.Port{{Name: "http", Protocol: endpoints.TCP, Port: 80, NodePort: 30080}},
	}}
}

func manySlices() []*endpoints.Slice {
	here, there := &endpoints.Where{Node: "node1"}, &endpoints.Where{Node: "node2"}
	of := func(name string, f endpoints.Family, addrs ...string) *endpoints.Slice {
		s := &endpoints.Slice{Name: endpoints.Name{Namespace: "default", Name: name}, Service: endpoints.Name{Namespace: "default", Name: "web"},
			Family: f, Ports: []endpoints.SlicePort{{Name: "http", Protocol: endpoints.TCP, Port: 8080}}}
		for k, a := range addrs {
			s.Endpoints = append(s.Endpoints, endpoints.Endpoint{Addr: netip.MustParseAddr(a), Where: []*endpoints.Where{here, there}[min(k, 1)],
				Conditions: endpoints.Ready | endpoints.Serving})
		}
		return s
	}
	return []*endpoints.Slice{of("web-4", endpoints.IPv4, "10.244.1.10", "10.244.2.10", "10.244.2.11"), of("web-6", endpoints.IPv6, "fd00:10:244:1::10")}
}

// Whatever single element somebody takes out, adds or changes, verify says so, and repairs it.
func TestNetnsVerify(t *testing.T) {
	x := newInside(t, true)
	v, err := x.inspector.Verify(t.Context(), false)
	if err != nil || !v.Fine || !v.Complete || v.Elements < 20 || len(v.Differences) > 0 {
		t.Fatalf("untouched: %+v, %v", v, err)
	}
	for _, tt := range []struct {
		name, nft string
		want      api.Difference // what it says, Element and Found in part
	}{
		{"slot taken out", "delete element ip weir endpoints { tcp . 10.96.0.10 . 80 . 1 }",
			api.Difference{Kind: "Missing", Set: "endpoints", Element: "0x00000001 : ", Service: "default/web"}},
		{"slot too many", "add element ip weir endpoints { tcp . 10.96.0.10 . 80 . 9 : 10.244.2.99 . 8080 }",
			api.Difference{Kind: "Unexpected", Set: "endpoints", Element: "10.244.2.99", Service: "default/web"}},
		{"slot that leads elsewhere", "delete element ip weir endpoints { tcp . 10.96.0.10 . 80 . 0 }; add element ip weir endpoints { tcp . 10.96.0.10 . 80 . 0 : 10.244.9.9 . 8080 }",
			api.Difference{Kind: "Changed", Set: "endpoints", Element: "10.244.", Found: "10.244.9.9", Service: "default/web"}},
		{"IPv6 slot", "delete element ip6 weir endpoints { tcp . fd00:10:96::10 . 80 . 0 }",
			api.Difference{Kind: "Missing", Set: "endpoints", Element: "fd00:10:96::10", Service: "default/web"}},
		{"local slot", "delete element ip weir local-endpoints { tcp . 203.0.113.10 . 80 . 0 }",
			api.Difference{Kind: "Missing", Set: "local-endpoints", Element: "203.0.113.10", Service: "default/web"}},
		{"verdict taken out", "delete element ip weir services { tcp . 10.96.0.10 . 80 }",
			api.Difference{Kind: "Missing", Set: "services", Element: "lb-4", Service: "default/web"}},
		{"verdict too many", "add element ip weir services { udp . 10.96.0.99 . 53 : drop }",
			api.Difference{Kind: "Unexpected", Set: "services", Element: "udp . 10.96.0.99 . 53 : drop"}},
		{"another verdict", "delete element ip weir services { tcp . 10.96.0.10 . 80 }; add element ip weir services { tcp . 10.96.0.10 . 80 : goto lb-1 }",
			api.Difference{Kind: "Changed", Set: "services", Element: "lb-4", Found: "lb-1", Service: "default/web"}},
		{"local verdict", "delete element ip weir local-services { tcp . 172.31.0.11 . 30080 }",
			api.Difference{Kind: "Missing", Set: "local-services", Element: "lb-local-1", Service: "default/web"}},
		{"cluster IP", "delete element ip weir cluster-ips { 10.96.0.10 }", api.Difference{Kind: "Missing", Set: "cluster-ips", Element: "10.96.0.10"}},
		{"hairpin", "add element ip weir hairpin { 10.244.2.10 . 10.244.2.10 }", api.Difference{Kind: "Unexpected", Set: "hairpin", Element: "10.244.2.10"}},
		{"whom the node is masqueraded to", "delete element ip weir snat-node { tcp . 203.0.113.10 . 80 }",
			api.Difference{Kind: "Missing", Set: "snat-node", Element: "203.0.113.10", Service: "default/web"}},
		{"masqueraded always", "add element ip weir snat-always { tcp . 203.0.113.10 . 80 }",
			api.Difference{Kind: "Unexpected", Set: "snat-always", Element: "203.0.113.10", Service: "default/web"}},
		{"open to all", "delete element ip weir restricted { tcp . 203.0.113.20 . 80 }",
			api.Difference{Kind: "Missing", Set: "restricted", Element: "203.0.113.20", Service: "default/web"}},
		{"source range", "add element ip weir allowed-sources { tcp . 203.0.113.20 . 80 . 198.51.100.0/24 }",
			api.Difference{Kind: "Unexpected", Set: "allowed-sources", Element: "198.51.100.0/24", Service: "default/web"}},
		{"no source range", "delete element ip weir allowed-sources { tcp . 203.0.113.20 . 80 . 192.168.200.0/24 }",
			api.Difference{Kind: "Missing", Set: "allowed-sources", Element: "192.168.200.0/24", Service: "default/web"}},
		{"affinity switched off", "delete element ip weir affinity-10800 { tcp . 10.96.0.10 . 80 }",
			api.Difference{Kind: "Missing", Set: "affinity-10800", Element: "10.96.0.10", Service: "default/web"}},
		{"service CIDR", "delete element ip weir service-cidrs { 10.96.0.0/16 }", api.Difference{Kind: "Missing", Set: "service-cidrs", Element: "10.96.0.0/16"}},
		{"client remembered at an endpoint that there is not", "add element ip weir affinity { 10.244.1.12 . tcp . 10.96.0.10 . 80 timeout 1h : 10.244.9.9 . 8080 }",
			api.Difference{Kind: "Unexpected", Set: "affinity", Element: "10.244.9.9", Service: "default/web"}},
		{"a rule", "add rule ip weir unserved drop", api.Difference{Kind: "Rules", Found: "rules instead of"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := x.node.Run("nft", tt.nft); err != nil {
				t.Fatal(err)
			}
			v, err := x.inspector.Verify(t.Context(), false)
			if err != nil || v.Fine || v.Count != 1 || !like(v.Differences[0], tt.want) {
				t.Errorf("%+v, %v; want %+v", v, err, tt.want)
			}
			v, err = x.inspector.Verify(t.Context(), true)
			if err != nil || !v.Fine || !v.Repaired || v.Count != 1 || len(v.Remaining) > 0 {
				t.Errorf("repaired: %+v, %v", v, err)
			}
			if v, err = x.inspector.Verify(t.Context(), false); err != nil || !v.Fine || v.Repaired {
				t.Errorf("afterwards: %+v, %v", v, err)
			}
		})
	}
}

// like reports whether a difference is as wanted, texts in part.
func like(got, want api.Difference) bool {
	return got.Kind == want.Kind && got.Set == want.Set && got.Service == want.Service &&
		strings.Contains(got.Element, want.Element) && strings.Contains(got.Found, want.Found)
}

// Tables that have an owner are read as well, though nobody else can write to them; what the owner
// itself gets wrong is found.
func TestNetnsVerifyOwned(t *testing.T) {
	x := newInside(t, false)
	if !x.kernel.Owned() {
		t.Skip("tables have owners from kernel 6.9 on")
	}
	if _, err := x.node.Run("nft", "delete element ip weir cluster-ips { 10.96.0.10 }"); err == nil {
		t.Error("nft may write to a table that has an owner")
	}
	web := dataplane.Frontend{Addr: netip.MustParseAddr("10.96.0.10"), Port: 80, Protocol: 6}
	wrong := []dataplane.Op{{Delete: true, Set: dataplane.ClusterIPs, Elem: dataplane.Element{Frontend: dataplane.Frontend{Addr: web.Addr}}},
		{Set: dataplane.SnatAlways, Elem: dataplane.Element{Frontend: web}}}
	if err := x.kernel.Apply(t.Context(), wrong); err != nil {
		t.Fatal(err)
	}
	v, err := x.inspector.Verify(t.Context(), false)
	if err != nil || v.Count != 2 || v.Differences[0].Set != "cluster-ips" || v.Differences[1].Set != "snat-always" {
		t.Errorf("%+v, %v", v, err)
	}
	if v, err = x.inspector.Verify(t.Context(), true); err != nil || !v.Fine || v.Count != 2 {
		t.Errorf("repaired: %+v, %v", v, err)
	}
}

// While endpoints come and go at full speed, nothing is taken for a difference.
func TestNetnsVerifyUnderChange(t *testing.T) {
	x := newInside(t, false)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int)
	go func() {
		all := manySlices()[0]
		changes := 0
		for ; ctx.Err() == nil; changes++ {
			some := *all
			some.Endpoints = all.Endpoints[:1+changes%3]
			x.inspector.cfg.Engine.SetSlice(&some)
			time.Sleep(time.Millisecond)
		}
		done <- changes
	}()
	for range 30 {
		v, err := x.inspector.Verify(t.Context(), false)
		if err != nil || !v.Fine {
			t.Errorf("%+v, %v", v, err)
		}
	}
	cancel()
	if n := <-done; n < 30 {
		t.Errorf("%d changes only", n)
	}
	if x.inspector.events.lastID() < 30 {
		t.Errorf("%d syncs only", x.inspector.events.lastID())
	}
}
