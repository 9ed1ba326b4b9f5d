//go:build linux

package packets

import (
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weir-project/weir/internal/netlab"
)

// crowd is a host with many addresses, each of which is a client of its own. That two endpoints
// out of three are picked alike by all of them by chance happens once in 10^9 times.
type crowd struct {
	host    *netlab.Host
	sources []netip.Addr
}

const crowdSize = 20

func newCrowd(t *testing.T, h *netlab.Host, f family, network string) crowd {
	t.Helper()
	c := crowd{host: h}
	for i := range crowdSize {
		a, err := f.addr(fmt.Sprintf("%s%d", network, 100+i))
		if err == nil {
			err = h.AddAddr(a)
		}
		if err != nil {
			t.Fatal(err)
		}
		c.sources = append(c.sources, a)
	}
	return c
}

// line is a frontend that a crowd dials.
type line struct {
	crowd
	proto netlab.Protocol
	dst   netip.AddrPort
}

func (l line) String() string { return fmt.Sprintf("%s to %s/%s", l.host.Name, l.dst, l.proto) }

// ask dials some times from every source, and returns who answered each. It fails unless the same endpoint answers all of
// one source.
func (l line) ask(times int) (map[netip.Addr]string, error) {
	all, err := l.askAll(times)
	if err != nil {
		return nil, err
	}
	by := map[netip.Addr]string{}
	for source, who := range all {
		if len(who) > 1 {
			return nil, fmt.Errorf("%s: %s is answered by several: %v", l, source, who)
		}
		by[source] = who[0]
	}
	return by, nil
}

// askAll returns everybody who answered a source.
func (l line) askAll(times int) (map[netip.Addr][]string, error) {
	all := map[netip.Addr][]string{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	var failed error
	for _, source := range l.sources {
		wg.Go(func() {
			var who []string
			for range times {
				r := l.host.Probe(l.proto, l.dst, netlab.ProbeOptions{Timeout: 4 * time.Second, Source: source})
				if r.Outcome != netlab.Answered {
					mu.Lock()
					failed = fmt.Errorf("%s from %s: %s", l, source, r)
					mu.Unlock()
					return
				}
				who = append(who, r.By)
			}
			slices.Sort(who)
			mu.Lock()
			defer mu.Unlock()
			all[source] = slices.Compact(who)
		})
	}
	wg.Wait()
	return all, failed
}

// endpointsIn returns who answers in a picture.
func endpointsIn(by map[netip.Addr]string) []string {
	who := slices.Sorted(maps.Values(by))
	return slices.Compact(who)
}

func TestNetnsAffinity(t *testing.T) {
	t.Parallel()
	lab, _ := newLab(t, netlab.Config{})
	outside4 := newCrowd(t, lab.Host("client"), 4, "192.168.200.")
	outside6 := newCrowd(t, lab.Host("client"), 6, "192.168.200.")
	inside4 := newCrowd(t, lab.Host("podC"), 4, "10.244.1.")
	inside6 := newCrowd(t, lab.Host("podC"), 6, "10.244.1.")
	lines := []line{
		{inside4, netlab.TCP, netip.MustParseAddrPort("10.96.0.10:80")},
		{outside6, netlab.TCP, netip.MustParseAddrPort("[fd00:10:96::10]:80")},
		{outside4, netlab.UDP, netip.MustParseAddrPort("172.31.0.11:30580")},
		{inside6, netlab.UDP, netip.MustParseAddrPort("[2001:db8:113::51]:80")},
		{outside4, netlab.SCTP, netip.MustParseAddrPort("203.0.113.52:80")},
	}
	w := world{name: "affinity", steps: []step{{}}}
	d := newDaemon(t, lab, clusterCIDR...)
	if err := d.first(&w); err != nil {
		t.Fatal(err)
	}
	show := func(t *testing.T, over string) { t.Helper(); d.turn(t, &w, over) }
	look := func(t *testing.T) []map[netip.Addr]string {
		t.Helper()
		var pictures []map[netip.Addr]string
		for _, l := range lines {
			by, err := l.ask(3)
			if err != nil {
				t.Fatal(err)
			}
			pictures = append(pictures, by)
		}
		return pictures
	}
	same := func(t *testing.T, was, is []map[netip.Addr]string) {
		t.Helper()
		for i, l := range lines {
			if !maps.Equal(was[i], is[i]) {
				t.Errorf("%s: was answered by\n%v, is by\n%v", l, was[i], is[i])
			}
		}
	}

	first := look(t)
	for i, l := range lines {
		if who := endpointsIn(first[i]); len(who) != 3 {
			t.Errorf("%s: %d clients are answered by %v alone", l, crowdSize, who)
		}
	}
	t.Run("stays", func(t *testing.T) { same(t, first, look(t)) })
	t.Run("kept over a restart", func(t *testing.T) {
		d.stop()
		same(t, first, look(t))
		d.start()
		d.remembers(t, 3*crowdSize, 2*crowdSize) // three of the lines are IPv4
		same(t, first, look(t))
	})
	t.Run("kept over a crash", func(t *testing.T) {
		d.kill()
		d.start()
		same(t, first, look(t))
	})
	t.Run("an endpoint goes", func(t *testing.T) {
		show(t, "fewer")
		now := look(t)
		for i, l := range lines {
			for source, by := range first[i] {
				gone := strings.HasPrefix(by, "10.244.1.10:") || strings.HasPrefix(by, "[fd00:10:244:1::10]:")
				if !gone && now[i][source] != by {
					t.Errorf("%s from %s: was answered by %s, is by %s", l, source, by, now[i][source])
				}
			}
			if who := endpointsIn(now[i]); len(who) != 2 {
				t.Errorf("%s: answered by %v", l, who)
			}
		}
		show(t, "")
		same(t, now, look(t))
	})
	t.Run("switched off", func(t *testing.T) {
		show(t, "off")
		for _, l := range lines {
			all, err := l.askAll(12)
			if err != nil {
				t.Fatal(err)
			}
			stuck := 0
			for _, who := range all {
				if len(who) == 1 {
					stuck++
				}
			}
			if stuck > 3 { // by chance: once in 10^18 times
				t.Errorf("%s: %d of %d clients are still answered by one endpoint only", l, stuck, crowdSize)
			}
		}
		show(t, "")
		look(t)
	})
	t.Run("expires", func(t *testing.T) {
		for _, l := range []line{
			{outside4, netlab.TCP, netip.MustParseAddrPort("10.96.0.11:80")},
			{inside6, netlab.UDP, netip.MustParseAddrPort("[fd00:10:96::11]:80")},
		} {
			t.Run(l.String(), func(t *testing.T) { testExpiry(t, l) })
		}
	})
	d.finish(t)
}

// testExpiry tries an affinity of 3 seconds: that each connection renews it, and that it ends.
func testExpiry(t *testing.T, l line) {
	t.Parallel()
	ask := func() (map[netip.Addr]string, time.Time) {
		began := time.Now()
		by, err := l.ask(1)
		if err != nil {
			t.Fatal(err)
		}
		return by, began
	}
	first, last := ask()
	for range 5 {
		time.Sleep(time.Second)
		by, began := ask()
		if gap := time.Since(last); gap > 2900*time.Millisecond {
			t.Logf("this machine was busy for %s: beginning anew", gap)
			first = by
		} else if !maps.Equal(first, by) {
			t.Errorf("%s: was answered by\n%v, is by\n%v %s later", l, first, by, gap)
		}
		last = began
	}
	time.Sleep(4 * time.Second)
	if now, _ := ask(); maps.Equal(first, now) {
		t.Errorf("%s: everybody is still answered by the same after a timeout of 3 s", l)
	}
}

// remembers waits until weir, which has just been started, tells how many clients the kernel remembers.
func (d *daemon) remembers(t *testing.T, v4, v6 float64) {
	t.Helper()
	const limit = 1 << 18
	want := map[string]float64{
		`weir_affinity_entries{ip_family="IPv4"}`: v4, `weir_affinity_entries_limit{ip_family="IPv4"}`: limit,
		`weir_affinity_entries{ip_family="IPv6"}`: v6, `weir_affinity_entries_limit{ip_family="IPv6"}`: limit,
	}
	var got map[string]float64
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		got = map[string]float64{}
		for _, m := range affinityOf.FindAllStringSubmatch(d.metrics(t), -1) {
			n, err := strconv.ParseFloat(m[2], 64)
			if err != nil {
				t.Fatal(err)
			}
			got[m[1]] = n
		}
		if maps.Equal(want, got) {
			return
		}
	}
	t.Errorf("remembered clients (-want +got):\n%s", cmp.Diff(want, got))
}

var affinityOf = regexp.MustCompile(`(?m)^(weir_affinity_entries.*) (\S+)$`)

// TestNetnsAffinityToTheNode tries affinity with an endpoint in the node's own network. Connections to it stay
// on the node, and so pass other chains than those that leave it.
func TestNetnsAffinityToTheNode(t *testing.T) {
	t.Parallel()
	lab, _ := newLab(t, netlab.Config{})
	d := newDaemon(t, lab, clusterCIDR...)
	if err := d.first(&world{name: "affinity", steps: []step{{}}}); err != nil {
		t.Fatal(err)
	}
	for _, l := range []line{
		{newCrowd(t, lab.Host("podC"), 4, "10.244.1."), netlab.TCP, netip.MustParseAddrPort("10.96.0.17:80")},
		{newCrowd(t, lab.Host("podC"), 6, "10.244.1."), netlab.UDP, netip.MustParseAddrPort("[fd00:10:96::17]:80")},
	} {
		by, err := l.ask(6)
		if err != nil {
			t.Error(err)
		} else if who := endpointsIn(by); len(who) != 2 {
			t.Errorf("%s: %d clients are answered by %v alone", l, crowdSize, who)
		}
	}
	d.finish(t)
}
