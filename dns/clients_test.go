package dns

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/weir-project/weir/endpoints"
)

// dump writes everything that a table says.
func (c *Clients) dump() string {
	var lines []string
	for key, l := range c.lists.all() {
		line := fmt.Sprintf("%x ndots %d %s", key, l.ndots, presentation(l.first))
		for _, d := range l.rest {
			line += " " + presentation(d)
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// TestClients has pods come, change and go.
func TestClients(t *testing.T) {
	c := NewClients(newTestZone(t, Config{}))
	const addr = "0a000001"
	const list = addr + " ndots 5 a.svc.cluster.local. svc.cluster.local. cluster.local."
	one, other := pod("a", nil, "10.0.0.1"), pod("b", nil, "10.0.0.1")
	for _, step := range []struct {
		name string
		do   func()
		want string
	}{
		{"a pod", func() { c.SetPod(one) }, list},
		{"it says the same again", func() { c.SetPod(pod("a", nil, "10.0.0.1")) }, list},
		{"the node has domains", func() { c.SetNode([]string{"x.example", "svc.cluster.local", "bad..name", "."}) }, list + " x.example. "},
		{"it has none any more", func() { c.SetNode(nil) }, list},
		{"its address is given to another one", func() { c.SetPod(other) }, ""},
		{"and it ends", func() { c.DeletePod(one.Name) }, addr + " ndots 5 b.svc.cluster.local. svc.cluster.local. cluster.local."},
		{"another address", func() {
			c.SetPod(&endpoints.Pod{Name: other.Name, Addrs: []netip.Addr{netip.MustParseAddr("fd00::2")}, NDots: -1, Searches: []string{"x.example"}})
		},
			"fd000000000000000000000000000002 ndots 1 x.example."},
		{"a list", func() { c.ReplacePods([]*endpoints.Pod{one}) }, list},
		{"an empty one", func() { c.ReplacePods(nil) }, ""},
		{"what is not there is deleted", func() { c.DeletePod(one.Name) }, ""},
		{"more domains than a resolver takes", func() {
			c.SetPod(pod("a", func(p *endpoints.Pod) {
				for i := range 50 {
					p.Searches = append(p.Searches, fmt.Sprintf("%d.example", i))
				}
			}, "10.0.0.1"))
			if n := len(c.of(netip.MustParseAddr("10.0.0.1")).rest); n != maxSearches-1 {
				t.Errorf("%d domains behind the first", n)
			}
			c.ReplacePods(nil)
		}, ""},
	} {
		step.do()
		if got := c.dump(); got != step.want {
			t.Errorf("%s: %q, want %q", step.name, got, step.want)
		}
	}
	if len(c.claims)+len(c.pods) != 0 {
		t.Errorf("without pods there are %v %v", c.claims, c.pods)
	}
}

// TestClientCost holds that a pod that changes costs as much among many as among few, and one that
// says the same again nothing.
func TestClientCost(t *testing.T) {
	var costs []float64
	for _, n := range []int{100, 10_000} {
		c := NewClients(newTestZone(t, Config{}))
		var list []*endpoints.Pod
		for i := range n {
			list = append(list, pod(fmt.Sprint("ns-", i%50), nil, bigAddr(i).String()))
		}
		c.ReplacePods(list)
		moved := *list[7]
		moved.Addrs = []netip.Addr{netip.MustParseAddr("10.1.0.1")}
		same := *list[8]
		costs = append(costs, testing.AllocsPerRun(50, func() {
			c.SetPod(&moved)
			c.SetPod(list[7])
		}))
		if n := testing.AllocsPerRun(50, func() { c.SetPod(&same) }); n != 0 {
			t.Errorf("a pod that says the same costs %v allocations", n)
		}
	}
	if costs[0] != costs[1] || costs[0] == 0 {
		t.Errorf("a pod that moves costs %v allocations among 100 and among 10,000", costs)
	}
}

// clientHistory makes up what a source says of pods from random bytes, and holds that the table ends
// where a fresh one does.
func clientHistory(t *testing.T, b []byte) {
	w := &world{bytes: b}
	zone := newTestZone(t, Config{})
	c := NewClients(zone)
	now := map[endpoints.Name]*endpoints.Pod{}
	node := []string(nil)
	some := func() *endpoints.Pod {
		p := &endpoints.Pod{Name: endpoints.Name{Namespace: []string{"a", "b"}[w.n(2)], Name: fmt.Sprint(w.n(3))}, ClusterFirst: w.n(4) > 0, NDots: w.n(4) - 1}
		for range w.n(3) {
			if a := netip.AddrFrom4([4]byte{10, 0, 0, byte(w.n(4))}); !slices.Contains(p.Addrs, a) {
				p.Addrs = append(p.Addrs, a)
			}
		}
		for range w.n(3) {
			p.Searches = append(p.Searches, []string{"x.example", "a.svc.cluster.local", "..", "."}[w.n(4)])
		}
		return p
	}
	for len(w.bytes) > 0 {
		switch w.n(6) {
		case 0, 1, 2:
			p := some()
			now[p.Name] = p
			c.SetPod(p)
		case 3:
			name := some().Name
			delete(now, name)
			c.DeletePod(name)
		case 4:
			clear(now)
			var list []*endpoints.Pod
			for range w.n(4) {
				p := some()
				if now[p.Name] == nil {
					now[p.Name] = p
					list = append(list, p)
				}
			}
			c.ReplacePods(list)
		case 5:
			node = [][]string{nil, {"x.example"}, {"y.example", "x.example"}}[w.n(3)]
			c.SetNode(node)
		}
	}
	fresh := NewClients(zone)
	fresh.SetNode(node)
	for _, p := range now {
		fresh.SetPod(p)
	}
	if got, want := c.dump(), fresh.dump(); got != want {
		t.Fatalf("after its history the table is\n%s\na fresh one\n%s", got, want)
	}
	if len(c.claims) != len(fresh.claims) || len(c.pods) != len(now) {
		t.Fatalf("%d addresses and %d pods are kept, want %d and %d", len(c.claims), len(c.pods), len(fresh.claims), len(now))
	}
}

func TestAnyClientHistory(t *testing.T) {
	for seed := range uint64(300) {
		clientHistory(t, randomBytes(seed, 400))
	}
}

func FuzzClients(f *testing.F) {
	for seed := range uint64(5) {
		f.Add(randomBytes(seed, 200))
	}
	f.Fuzz(func(t *testing.T, b []byte) { clientHistory(t, b) })
}

// TestClientsConcurrent asks while pods come and go; one that stays is always known.
func TestClientsConcurrent(t *testing.T) {
	c := NewClients(newTestZone(t, Config{}))
	stays := netip.MustParseAddr("10.0.0.1")
	c.SetPod(pod("a", nil, stays.String()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		r := rand.New(rand.NewPCG(1, 2))
		for i := range 20_000 {
			p := pod("b", nil, bigAddr(r.IntN(500)).String())
			if i%3 == 0 {
				c.DeletePod(p.Name)
			} else {
				c.SetPod(p)
			}
			if i%5_000 == 0 {
				c.SetNode([]string{fmt.Sprint("n", i, ".example")})
			}
		}
	}()
	for {
		if l := c.of(stays); l == nil || presentation(l.first) != "a.svc.cluster.local." {
			t.Fatalf("the pod's list is %v", l)
		}
		select {
		case <-done:
			return
		default:
		}
	}
}
