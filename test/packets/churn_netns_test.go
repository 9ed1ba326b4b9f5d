//go:build linux

package packets

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weir-project/weir/internal/netlab"
)

// While the manifests are rewritten as fast as they are read, every connection to a frontend that
// is there all the time gets to one of its endpoints, and none passes the node untranslated.
func TestNetnsChurn(t *testing.T) {
	t.Parallel()
	duration := 6 * time.Second
	if s, err := strconv.Atoi(os.Getenv("WEIR_PACKETS_CHURN_SECONDS")); err == nil {
		duration = time.Duration(s) * time.Second
	}
	lab, witness := newLab(t, netlab.Config{})
	d := newDaemon(t, lab, clusterCIDR...)
	if _, err := d.put(churned(1)); err != nil {
		t.Fatal(err)
	}
	d.start()
	if err := witness.forget(); err != nil {
		t.Fatal(err)
	}
	node := lab.Host("node")
	by := func(names ...string) (list []netip.AddrPort) {
		for _, name := range names {
			h := lab.Host(name)
			list = append(list, netip.AddrPortFrom(h.Addr4, 8080), netip.AddrPortFrom(h.Addr6, 8080))
		}
		return list
	}
	// The endpoints of "steady" change, and those of "firm" do not: a request by UDP to an endpoint that goes at that
	// moment may be lost, as its flow is removed.
	steady, firm := by("podA", "podB", "podX", "podY"), by("podA", "podB", "podX")
	var loads []*netlab.Load
	for _, l := range []struct {
		from   string
		proto  netlab.Protocol
		dst    string
		source []netip.Addr // that endpoints may see; nil: the client's own
		by     []netip.AddrPort
	}{
		{"podC", netlab.TCP, "10.96.0.100:80", nil, steady},
		{"client", netlab.TCP, "[2001:db8:113::200]:80", []netip.Addr{node.Addr6}, steady},
		{"client", netlab.TCP, "172.31.0.11:31999", []netip.Addr{node.Addr4}, steady},
		{"podC", netlab.UDP, "[fd00:10:96::101]:80", nil, firm},
		{"client2", netlab.UDP, "172.31.0.11:31998", []netip.Addr{node.Addr4}, firm},
	} {
		load, err := lab.Host(l.from).StartLoad(netlab.LoadConfig{
			Proto: l.proto, Dst: netip.MustParseAddrPort(l.dst), Rate: 400, WantSources: l.source, WantBy: l.by})
		if err != nil {
			t.Fatal(err)
		}
		loads = append(loads, load)
	}
	rewrites := 0
	for end := time.Now().Add(duration); time.Now().Before(end); rewrites++ {
		if _, err := d.put(churned(rand.Uint64())); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	attempts := 0
	for _, load := range loads {
		r := load.Stop()
		attempts += r.Attempts
		if r.OK != r.Attempts {
			t.Errorf("of %d attempts %d went wrong: %s", r.Attempts, r.Attempts-r.OK, r)
		}
	}
	leaked, err := witness.leaked()
	if err != nil {
		t.Fatal(err)
	}
	if leaked > 0 {
		seen, _ := witness.seen()
		t.Errorf("%d packets to service addresses passed untranslated: %v", leaked, seen)
	}
	syncs := strings.Count(d.logged(), `"Synced"`)
	t.Logf("%d connections, %d rewrites, %d syncs", attempts, rewrites, syncs)
	if syncs < rewrites/20 {
		t.Errorf("only %d syncs: nothing was proved", syncs)
	}
	d.finish(t)
}

// churned returns manifests of two services that are always there, of which one has endpoints drawn
// by lot, the other more or fewer external IPs; and of twenty others that come and go.
func churned(lot uint64) map[string]string {
	random := rand.New(rand.NewPCG(lot, 0))
	draw := func() []string {
		pods := []string{"podA"}
		for _, name := range []string{"podB", "podX", "podY"} {
			if random.IntN(2) == 0 {
				pods = append(pods, name)
			}
		}
		return pods
	}
	files := map[string]string{"steady.yaml": churnedService("steady", 100, 31999, "externalIPs: [203.0.113.200, \"2001:db8:113::200\"]", draw())}
	field := "externalIPs: [203.0.113.201]"
	if random.IntN(2) == 0 {
		field = "externalIPs: [203.0.113.202, 203.0.113.203]"
	}
	files["firm.yaml"] = churnedService("firm", 101, 31998, field, []string{"podA", "podB", "podX"})
	for i := range 20 {
		if random.IntN(3) > 0 {
			files[fmt.Sprintf("fleeting-%d.yaml", i)] = churnedService(fmt.Sprintf("fleeting-%d", i), 120+i, 31900+i, "sessionAffinity: None", draw())
		}
	}
	return files
}

var churnedPods = map[string][2]string{
	"podA": {"10.244.1.10", "fd00:10:244:1::10"},
	"podB": {"10.244.1.11", "fd00:10:244:1::11"},
	"podX": {"10.244.2.10", "fd00:10:244:2::10"},
	"podY": {"10.244.2.11", "fd00:10:244:2::11"},
}

func churnedService(name string, ip, nodePort int, field string, pods []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec:\n  type: NodePort\n  clusterIPs: [10.96.0.%d, \"fd00:10:96::%d\"]\n  %s\n", name, ip, ip, field)
	fmt.Fprintf(&b, "  ports: [{name: tcp, protocol: TCP, port: 80, nodePort: %d}, {name: udp, protocol: UDP, port: 80, nodePort: %d}]\n", nodePort, nodePort)
	for i, f := range []int{4, 6} {
		fmt.Fprintf(&b, "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: %s-%d, labels: {kubernetes.io/service-name: %s}}\naddressType: IPv%d\n", name, f, name, f)
		fmt.Fprint(&b, "ports: [{name: tcp, protocol: TCP, port: 8080}, {name: udp, protocol: UDP, port: 8080}]\nendpoints:\n")
		for _, pod := range pods {
			fmt.Fprintf(&b, "- {addresses: [%q], nodeName: node1}\n", churnedPods[pod][i])
		}
	}
	return b.String()
}
