//go:build linux

package packets

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/weir-project/weir/internal/netlab"
)

// Endpoints get their share of new connections. 3 and 5 are drawn from classes of 4 and 8, 17 from one of 32,
// where every second draw misses.
func TestNetnsUniform(t *testing.T) {
	t.Parallel()
	lab, _ := newLab(t, netlab.Config{})
	const connections = 10_000
	// Beyond these a chi-square comes up by chance once in a million times.
	critical := map[int]float64{3: 27.6, 5: 33.3, 17: 58.3}
	files := map[string]string{}
	for n := range critical {
		for _, f := range familiesOf(lab) {
			files[fmt.Sprintf("%d-%d.yaml", n, f)] = manyEndpoints(t, lab, n, f)
		}
	}
	d := newDaemon(t, lab, clusterCIDR...)
	if _, err := d.put(files); err != nil {
		t.Fatal(err)
	}
	d.start()
	for _, f := range familiesOf(lab) {
		for n, limit := range critical {
			t.Run(fmt.Sprintf("%d endpoints, IPv%d", n, f), func(t *testing.T) {
				proto := netlab.UDP
				if f == 6 {
					proto = netlab.TCP
				}
				vip, err := f.addr(fmt.Sprintf("10.96.0.%d", 100+n))
				if err != nil {
					t.Fatal(err)
				}
				s := lab.Host("podC").ProbeMany(connections, proto, netip.AddrPortFrom(vip, 80), netlab.ProbeOptions{Timeout: patience})
				if s.Answered != connections || len(s.By) != n {
					t.Fatal(s)
				}
				if x := chiSquare(s.By, connections); x > limit {
					t.Errorf("chi-square is %.1f, beyond %.1f: %v", x, limit, s.By)
				} else {
					t.Logf("chi-square is %.1f, of %.1f", x, limit)
				}
			})
		}
	}
}

func chiSquare(counts map[string]int, total int) (x float64) {
	want := float64(total) / float64(len(counts))
	for _, got := range counts {
		x += (float64(got) - want) * (float64(got) - want) / want
	}
	return x
}

// manyEndpoints serves on n ports of podA and returns the manifest of a service that has them.
func manyEndpoints(t *testing.T, lab *netlab.Lab, n int, f family) string {
	t.Helper()
	podA := lab.Host("podA")
	vip, err := f.addr(fmt.Sprintf("10.96.0.%d", 100+n))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: v1\nkind: Service\nmetadata: {name: many-%d-%d}\nspec:\n  clusterIP: %q\n", n, f, vip)
	fmt.Fprint(&b, "  ports: [{name: tcp, protocol: TCP, port: 80}, {name: udp, protocol: UDP, port: 80}]\n")
	for i := range n {
		port := uint16(9000 + 100*n + i)
		serve(t, podA, netlab.TCP, f.of(podA).String(), port)
		serve(t, podA, netlab.UDP, f.of(podA).String(), port)
		fmt.Fprintf(&b, "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: many-%d-%d-%d, labels: {kubernetes.io/service-name: many-%d-%d}}\n", n, f, i, n, f)
		fmt.Fprintf(&b, "addressType: IPv%d\nports: [{name: tcp, protocol: TCP, port: %d}, {name: udp, protocol: UDP, port: %d}]\n", f, port, port)
		fmt.Fprintf(&b, "endpoints: [{addresses: [%q]}]\n", f.of(podA))
	}
	return b.String()
}
