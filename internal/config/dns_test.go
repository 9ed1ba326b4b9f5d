package config

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// TestDNS reads the flags of DNS.
func TestDNS(t *testing.T) {
	v4, v6 := netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:10:96::a")
	const pods = " --cluster-cidr=10.244.0.0/16,fd00:10:244::/48"
	for _, test := range []struct {
		name  string
		flags string
		want  DNS
		fault string // in the error
		warns string // in the warnings; "": there are none
	}{
		{"none", "", DNS{}, "", ""},
		{"defaults", "--dns-address=10.96.0.10" + pods, DNS{Addrs: []netip.Addr{v4}, Domain: "cluster.local", TTL: 5 * time.Second}, "", ""},
		{"everything", "--dns-address=10.96.0.10,fd00:10:96::a --dns-answer-all --dns-upstream=10.0.0.2,[fd00::2]:5353 --cluster-domain=example.org --dns-ttl=0 --dns-pods=disabled --dns-log-queries --dns-search-walk",
			DNS{Addrs: []netip.Addr{v4, v6}, AnswerAll: true, Domain: "example.org", NoPods: true, LogQueries: true, SearchWalk: true,
				Upstreams: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.2:53"), netip.MustParseAddrPort("[fd00::2]:5353")}}, "", ""},
		{"twice", "--dns-address=10.96.0.10,10.96.0.10" + pods, DNS{Addrs: []netip.Addr{v4}, Domain: "cluster.local", TTL: 5 * time.Second}, "", "more than once"},
		{"pods cannot be told", "--dns-address=10.96.0.10 --detect-local-mode=None", DNS{Addrs: []netip.Addr{v4}, Domain: "cluster.local", TTL: 5 * time.Second}, "", "only this node is answered"},
		{"pods of one family only", "--dns-address=10.96.0.10,fd00:10:96::a --cluster-cidr=10.244.0.0/16", DNS{Addrs: []netip.Addr{v4, v6}, Domain: "cluster.local", TTL: 5 * time.Second}, "", "fd00:10:96::a"},
		{"by interface", "--dns-address=fd00:10:96::a --detect-local-mode=InterfaceNamePrefix --pod-interface-name-prefix=veth", DNS{Addrs: []netip.Addr{v6}, Domain: "cluster.local", TTL: 5 * time.Second}, "", ""},
		{"without an address", "--dns-ttl=3 --dns-upstream=10.0.0.2", DNS{}, "", "without effect: --dns-ttl"},
		{"no address", "--dns-address=kube-dns", DNS{}, "--dns-address[0]", ""},
		{"loopback", "--dns-address=127.0.0.53", DNS{}, "--dns-address[0]", ""},
		{"with a port", "--dns-address=10.96.0.10:53", DNS{}, "--dns-address[0]", ""},
		{"upstream by name", "--dns-address=10.96.0.10 --dns-upstream=dns.example", DNS{}, "--dns-upstream[0]", ""},
		{"domain", "--dns-address=10.96.0.10 --cluster-domain=a..b", DNS{}, "--cluster-domain", ""},
		{"ttl", "--dns-address=10.96.0.10 --dns-ttl=3601", DNS{}, "--dns-ttl", ""},
		{"pods", "--dns-address=10.96.0.10 --dns-pods=verified", DNS{}, "--dns-pods", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, warnings, err := parse(t, strings.Fields(test.flags)...).Complete()
			if test.fault != "" {
				if err == nil || !strings.Contains(err.Error(), test.fault) {
					t.Fatalf("error %v, want one about %s", err, test.fault)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, c.DNS, cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			var said strings.Builder
			for _, w := range warnings {
				if strings.Contains(string(w), "dns") || strings.Contains(string(w), "answered") {
					said.WriteString(string(w) + "\n")
				}
			}
			if said.String() != "" != (test.warns != "") || !strings.Contains(said.String(), test.warns) {
				t.Errorf("warnings %q, want %q", said.String(), test.warns)
			}
		})
	}
}
