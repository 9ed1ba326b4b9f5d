package forward

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var compareAddrs = cmp.Options{cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }), cmpopts.EquateEmpty()}

func addrs(list ...string) (all []netip.AddrPort) {
	for _, s := range list {
		all = append(all, netip.MustParseAddrPort(s))
	}
	return all
}

func TestParseKubeDNSConfigMap(t *testing.T) {
	for _, tc := range []struct {
		name string
		data map[string]string
		want Config
		err  []string // what the error names
	}{
		{"none", nil, Config{}, nil},
		{"blank", map[string]string{"stubDomains": " ", "upstreamNameservers": "\n"}, Config{}, nil},
		{"both", map[string]string{
			"stubDomains":         `{"Acme.local" : ["1.2.3.4", "1.2.3.5:5353"], "b.": ["[fd00::1]:53", "fd00::2"]}`,
			"upstreamNameservers": `["8.8.8.8", "8.8.4.4:53"]`,
		}, Config{
			Upstreams: addrs("8.8.8.8:53", "8.8.4.4:53"),
			StubDomains: map[string][]netip.AddrPort{
				"acme.local.": addrs("1.2.3.4:53", "1.2.3.5:5353"), "b.": addrs("[fd00::1]:53", "[fd00::2]:53")},
		}, nil},
		{"other keys", map[string]string{"federations": "x=y"}, Config{}, nil},
		{"not JSON", map[string]string{"stubDomains": `{"a": "1.2.3.4"}`, "upstreamNameservers": `8.8.8.8`}, Config{},
			[]string{"stubDomains", "upstreamNameservers"}},
		{"some are wrong", map[string]string{
			"stubDomains":         `{"good": ["1.2.3.4", "host"], "bad": ["x:53"], "a..b": ["1.2.3.4"], "empty": []}`,
			"upstreamNameservers": `["8.8.8.8", "8.8.8.8:0", "0.0.0.0", "::", "224.0.0.251"]`,
		}, Config{
			Upstreams:   addrs("8.8.8.8:53"),
			StubDomains: map[string][]netip.AddrPort{"good.": addrs("1.2.3.4:53")},
		}, []string{`"good"`, `"bad"`, `"a..b"`, `"empty"`, "8.8.8.8:0", "0.0.0.0", "224.0.0.251"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := ParseKubeDNSConfigMap(tc.data)
			if diff := cmp.Diff(tc.want, got, compareAddrs); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if (err != nil) != (len(tc.err) > 0) {
				t.Fatalf("error: %v", err)
			}
			for _, s := range tc.err {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("error %q does not name %s", err, s)
				}
			}
		})
	}
}

func TestOverride(t *testing.T) {
	flags := Config{Upstreams: addrs("1.1.1.1:53"), StubDomains: map[string][]netip.AddrPort{"a": addrs("1.1.1.2:53"), "b": addrs("1.1.1.3:53")}}
	object := Config{StubDomains: map[string][]netip.AddrPort{"B.": addrs("2.2.2.2:53")}}
	got := flags.Override(object)
	want := Config{Upstreams: addrs("1.1.1.1:53"), StubDomains: map[string][]netip.AddrPort{"a.": addrs("1.1.1.2:53"), "b.": addrs("2.2.2.2:53")}}
	if diff := cmp.Diff(want, got, compareAddrs); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	object.Upstreams = addrs("3.3.3.3:53")
	if got := flags.Override(object).Upstreams[0]; got != object.Upstreams[0] {
		t.Errorf("upstream is %s", got)
	}
}

func TestParseResolvConf(t *testing.T) {
	got, bad := parseResolvConf([]byte("# nameserver 9.9.9.9\n;nameserver 9.9.9.8\nsearch a b\nnameserver 127.0.0.53 # local\n" +
		"nameserver\tfe80::1%lo\nnameserver ::ffff:1.2.3.4\nnameserver\nnameserver x\nnameserver 127.0.0.53\noptions ndots:5"))
	want := addrs("127.0.0.53:53", "[fe80::1%lo]:53", "1.2.3.4:53")
	if diff := cmp.Diff(want, got, compareAddrs); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if diff := cmp.Diff([]string{"x"}, bad); diff != "" {
		t.Errorf("bad (-want +got)\n%s", diff)
	}
}

func TestParseSearch(t *testing.T) {
	for _, tt := range []struct {
		name, file string
		want       []string
	}{
		{"none", "nameserver 192.0.2.1\n#search a\n", nil},
		{"some", "search a.example b.example.\nnameserver 192.0.2.1\n", []string{"a.example", "b.example"}},
		{"the last counts", "search a.example\n\tsearch b.example .\ndomain c.example", []string{"b.example", "."}},
		{"an empty one", "search a.example\nsearch\n", nil},
	} {
		if diff := cmp.Diff(tt.want, parseSearch([]byte(tt.file))); diff != "" {
			t.Errorf("%s (-want +got)\n%s", tt.name, diff)
		}
	}
}
