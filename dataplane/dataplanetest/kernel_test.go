package dataplanetest

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weir-project/weir/dataplane"
)

var (
	ctx = context.Background()
	web = dataplane.Frontend{Addr: netip.MustParseAddr("10.96.0.1"), Port: 80, Protocol: 6}
	six = dataplane.Frontend{Addr: netip.MustParseAddr("fd00:96::1"), Port: 80, Protocol: 6}
	pod = netip.MustParseAddrPort("10.1.0.1:8080")
	oth = netip.MustParseAddrPort("10.1.0.2:8080")
)

func add(set dataplane.Set, e dataplane.Element) dataplane.Op { return dataplane.Op{Set: set, Elem: e} }
func del(set dataplane.Set, e dataplane.Element) dataplane.Op {
	return dataplane.Op{Set: set, Elem: e, Delete: true}
}

// held is what the kernels of the tests hold at first.
var held = []dataplane.Op{
	add(dataplane.Endpoints, dataplane.Element{Frontend: web, Endpoint: pod}),
	add(dataplane.Services, dataplane.Element{Frontend: web, Verdict: dataplane.Balance(1), Comment: "default/web"}),
	add(dataplane.AllowedSources, dataplane.Element{Frontend: web, Source: netip.MustParsePrefix("198.51.100.0/24")}),
	add(dataplane.Restricted, dataplane.Element{Frontend: web}),
	add(dataplane.ServiceCIDRs, dataplane.Element{Source: netip.MustParsePrefix("10.96.0.0/16")}),
	add(dataplane.ClusterIPs, dataplane.Element{Frontend: dataplane.Frontend{Addr: six.Addr}}),
}

func none(func(dataplane.Op) bool) {}

func newKernel(t *testing.T) *Kernel {
	t.Helper()
	k := &Kernel{}
	k.Watch()
	if err := k.Replace(ctx, none, slices.Values(held)); err != nil {
		t.Fatal(err)
	}
	return k
}

func TestStrictAsTheKernel(t *testing.T) {
	endpoint := func(f dataplane.Frontend, slot uint32, ap netip.AddrPort) dataplane.Element {
		return dataplane.Element{Frontend: f, Slot: slot, Endpoint: ap}
	}
	verdict := func(v dataplane.Verdict) dataplane.Element { return dataplane.Element{Frontend: web, Verdict: v} }
	source := func(p string) dataplane.Element {
		return dataplane.Element{Frontend: web, Source: netip.MustParsePrefix(p)}
	}
	udp := web
	udp.Protocol = 17
	for _, test := range []struct {
		name string
		ops  []dataplane.Op
		want error
	}{
		{"delete what is not there", []dataplane.Op{del(dataplane.Endpoints, endpoint(web, 1, pod))}, syscall.ENOENT},
		{"delete what is not there, of another protocol", []dataplane.Op{del(dataplane.Services, dataplane.Element{Frontend: udp, Verdict: dataplane.Drop})}, syscall.ENOENT},
		{"delete twice", []dataplane.Op{del(dataplane.Restricted, dataplane.Element{Frontend: web}), del(dataplane.Restricted, dataplane.Element{Frontend: web})}, syscall.ENOENT},
		{"add with other data", []dataplane.Op{add(dataplane.Endpoints, endpoint(web, 0, oth))}, syscall.EEXIST},
		{"add with another verdict", []dataplane.Op{add(dataplane.Services, verdict(dataplane.Drop))}, syscall.EEXIST},
		{"add the same", []dataplane.Op{add(dataplane.Endpoints, endpoint(web, 0, pod)), add(dataplane.Services, verdict(dataplane.Balance(1)))}, nil},
		{"replace", []dataplane.Op{del(dataplane.Endpoints, endpoint(web, 0, pod)), add(dataplane.Endpoints, endpoint(web, 0, oth))}, nil},
		{"overlapping sources", []dataplane.Op{add(dataplane.AllowedSources, source("198.51.100.128/25"))}, syscall.EEXIST},
		{"overlapping service CIDRs", []dataplane.Op{add(dataplane.ServiceCIDRs, dataplane.Element{Source: netip.MustParsePrefix("10.0.0.0/8")})}, syscall.EEXIST},
		{"unmasked source", []dataplane.Op{add(dataplane.AllowedSources, source("203.0.113.1/24"))}, syscall.EINVAL},
		{"source of another family", []dataplane.Op{add(dataplane.AllowedSources, source("2001:db8::/32"))}, syscall.EINVAL},
		{"endpoint of another family", []dataplane.Op{add(dataplane.Endpoints, endpoint(six, 0, pod))}, syscall.EINVAL},
		{"endpoint without port", []dataplane.Op{add(dataplane.Endpoints, endpoint(web, 1, netip.AddrPortFrom(oth.Addr(), 0)))}, syscall.EINVAL},
		{"slot too high", []dataplane.Op{add(dataplane.Endpoints, endpoint(web, 1<<17, oth))}, syscall.EINVAL},
		{"frontend without port", []dataplane.Op{add(dataplane.SnatAlways, dataplane.Element{Frontend: dataplane.Frontend{Addr: web.Addr, Protocol: 6}})}, syscall.EINVAL},
		{"frontend of no protocol", []dataplane.Op{add(dataplane.SnatAlways, dataplane.Element{Frontend: dataplane.Frontend{Addr: web.Addr, Port: 80}})}, syscall.EINVAL},
		{"field of another set", []dataplane.Op{add(dataplane.SnatAlways, endpoint(web, 3, netip.AddrPort{}))}, syscall.EINVAL},
		{"verdict 0", []dataplane.Op{add(dataplane.LocalServices, verdict(0))}, syscall.EINVAL},
		{"verdict of the other map", []dataplane.Op{add(dataplane.LocalServices, verdict(dataplane.Balance(1)))}, syscall.EINVAL},
		{"half a second of affinity", []dataplane.Op{add(dataplane.AffinityOf, dataplane.Element{Frontend: web, Timeout: time.Second / 2})}, syscall.EINVAL},
		{"affinity entry", []dataplane.Op{add(dataplane.Affinity, endpoint(web, 0, pod))}, syscall.EINVAL},
		{"forget what is not there", []dataplane.Op{del(dataplane.Affinity, endpoint(web, 0, pod))}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			k := newKernel(t)
			before := k.Dump().Lines()
			good := del(dataplane.ClusterIPs, dataplane.Element{Frontend: dataplane.Frontend{Addr: six.Addr}})
			for i := range test.ops {
				test.ops[i].Owner = 7
			}
			err := k.Apply(ctx, append([]dataplane.Op{good}, test.ops...))
			if !errors.Is(err, test.want) {
				t.Fatalf("%v, want %v", err, test.want)
			}
			var refused *dataplane.RefusedError
			if test.want == nil {
				return
			}
			if !errors.As(err, &refused) || len(refused.Refusals) != 1 || refused.Refusals[0].Owner != 7 {
				t.Errorf("%#v does not name the owner", err)
			}
			if diff := cmp.Diff(before, k.Dump().Lines()); diff != "" {
				t.Errorf("a refused transaction changed something:\n%s", diff)
			}
		})
	}
}

func TestForget(t *testing.T) {
	k := newKernel(t)
	clients := []netip.Addr{netip.MustParseAddr("10.1.0.7"), netip.MustParseAddr("10.1.0.8"), netip.MustParseAddr("10.1.0.9")}
	k.Remember(web, clients[0], pod)
	k.Remember(web, clients[1], oth)
	k.Remember(six, clients[2], pod)
	forget := func(e dataplane.Element, left int) {
		t.Helper()
		if err := k.Apply(ctx, []dataplane.Op{del(dataplane.Affinity, e)}); err != nil {
			t.Fatal(err)
		}
		if n := len(k.Dump()[dataplane.Affinity]); n != left {
			t.Errorf("%d entries, want %d", n, left)
		}
	}
	forget(dataplane.Element{Frontend: web, Endpoint: oth}, 2)
	if err := k.Replace(ctx, none, slices.Values(held)); err != nil {
		t.Fatal(err)
	}
	forget(dataplane.Element{Frontend: web}, 1)
}

func TestReplace(t *testing.T) {
	k := newKernel(t)
	bad := append(slices.Clone(held), add(dataplane.Services, dataplane.Element{Frontend: six, Verdict: 0}))
	if err := k.Replace(ctx, none, slices.Values(bad)); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("bad element: %v", err)
	}
	if got := len(k.Dump().Lines()); got != len(held) {
		t.Errorf("%d elements after a refused Replace of tables that are there", got)
	}
	if err := k.Replace(ctx, slices.Values(held[:2]), none); err != nil {
		t.Fatal(err)
	}
	if got := len(k.Dump().Lines()); got != 2 {
		t.Errorf("%d elements, want 2", got)
	}
	k.Flush()
	if err := k.Apply(ctx, nil); !errors.Is(err, dataplane.ErrStale) {
		t.Errorf("after a flush: %v", err)
	}
	k.Chunk = 1
	if err := k.Replace(ctx, none, slices.Values(bad)); err == nil {
		t.Error("bad element in a new table")
	}
	if err := k.Replace(ctx, none, slices.Values(held)); err != nil {
		t.Errorf("after a Replace that went half way: %v", err)
	}
	if err := k.Err(); err != nil {
		t.Error(err)
	}
}

func TestBreachesOfTheContract(t *testing.T) {
	k := newKernel(t)
	if err := k.Apply(ctx, []dataplane.Op{
		add(dataplane.SnatNode, dataplane.Element{Frontend: web}),
		del(dataplane.Endpoints, dataplane.Element{Frontend: web, Endpoint: pod}),
	}); err != nil {
		t.Fatal(err)
	}
	err := k.Err()
	if err == nil || !strings.Contains(err.Error(), "a deletion after an addition") || !strings.Contains(err.Error(), "goto lb-1 with 0 slots") {
		t.Errorf("breaches: %v", err)
	}
}

func TestCheck(t *testing.T) {
	slots := func(f dataplane.Frontend, n int) (out []dataplane.Element) {
		for i := range n {
			ap := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}), 8080)
			out = append(out, dataplane.Element{Frontend: f, Slot: uint32(i), Endpoint: ap})
		}
		return out
	}
	balance := func(n int) []dataplane.Element {
		return []dataplane.Element{{Frontend: web, Verdict: dataplane.Balance(n)}}
	}
	twice := slots(web, 2)
	twice[1].Endpoint = twice[0].Endpoint
	for _, test := range []struct {
		name string
		dump Dump
		ok   bool
	}{
		{"nothing", Dump{}, true},
		{"class 4 with 4", Dump{dataplane.Services: balance(4), dataplane.Endpoints: slots(web, 4)}, true},
		{"class 4 with 3", Dump{dataplane.Services: balance(4), dataplane.Endpoints: slots(web, 3)}, true},
		{"class 4 with 2", Dump{dataplane.Services: balance(4), dataplane.Endpoints: slots(web, 2)}, false},
		{"class 4 with 5", Dump{dataplane.Services: balance(4), dataplane.Endpoints: slots(web, 5)}, false},
		{"a gap", Dump{dataplane.Services: balance(2), dataplane.Endpoints: slots(web, 3)[1:]}, false},
		{"an endpoint twice", Dump{dataplane.Services: balance(2), dataplane.Endpoints: twice}, false},
		{"slots of nobody", Dump{dataplane.Endpoints: slots(web, 2)}, false},
		{"slots of a frontend that refuses", Dump{dataplane.Services: {{Frontend: web, Verdict: dataplane.Refuse}}, dataplane.Endpoints: slots(web, 2)}, false},
		{"local slots that nobody uses", Dump{dataplane.Services: balance(2), dataplane.Endpoints: slots(web, 2), dataplane.LocalEndpoints: slots(web, 1)}, false},
		{"sources of a frontend that is open", Dump{dataplane.AllowedSources: {{Frontend: web}}}, false},
		{"two timeouts", Dump{dataplane.Services: {{Frontend: web, Verdict: dataplane.Drop}},
			dataplane.AffinityOf: {{Frontend: web, Timeout: 1}, {Frontend: web, Timeout: 2}}}, false},
	} {
		if err := test.dump.Check(); (err == nil) != test.ok {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

func TestPrintsAsNft(t *testing.T) {
	k := newKernel(t)
	want := `table ip weir {
	map services {
		elements = { tcp . 10.96.0.1 . 80 comment "default/web" : goto lb-1 }
	}
	map endpoints {
		elements = { tcp . 10.96.0.1 . 80 . 0x00000000 : 10.1.0.1 . 8080 }
	}
	set restricted {
		elements = { tcp . 10.96.0.1 . 80 }
	}
	set allowed-sources {
		elements = { tcp . 10.96.0.1 . 80 . 198.51.100.0/24 }
	}
	set service-cidrs {
		elements = { 10.96.0.0/16 }
	}
}
table ip6 weir {
	set cluster-ips {
		elements = { fd00:96::1 }
	}
}
`
	if diff := cmp.Diff(want, k.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
