package dataplane

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"iter"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"
)

// namespace makes a network namespace for one test. It has no name and goes with the test.
func namespace(t testing.TB) int {
	t.Helper()
	type result struct {
		fd  int
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- result{0, err}
			return
		}
		fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		done <- result{fd, err}
	}()
	r := <-done
	if r.err != nil {
		if os.Getenv("CI") == "" && r.err == unix.EPERM {
			t.Skip("needs network namespaces (CAP_SYS_ADMIN): run as root")
		}
		t.Fatal(r.err)
	}
	t.Cleanup(func() { unix.Close(r.fd) })
	return r.fd
}

// nft runs nft in a namespace.
func nft(t testing.TB, ns int, args ...string) string {
	t.Helper()
	requireNft(t)
	cmd := exec.Command("nft", args...)
	var out []byte
	err := inNamespace(ns, func() (err error) {
		out, err = cmd.CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("nft %v: %v\n%s", args, err, out)
	}
	return string(out)
}

func open(t testing.TB, cfg Config) *Conn {
	t.Helper()
	c, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func frontend(s string, p Protocol) Frontend {
	ap := netip.MustParseAddrPort(s)
	return Frontend{Addr: ap.Addr(), Port: ap.Port(), Protocol: p}
}

// service returns what a frontend with n endpoints needs.
func service(f Frontend, n int) []Op {
	var ops []Op
	for i := range n {
		a := netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)})
		if !f.Addr.Is4() {
			a = netip.AddrFrom16([16]byte{0xfd, 0, 0x10, 0x24, 0x40, 14: byte(i >> 8), 15: byte(i)})
		}
		ops = append(ops, Op{Set: Endpoints, Elem: Element{Frontend: f, Slot: uint32(i), Endpoint: netip.AddrPortFrom(a, 8080)}})
	}
	return append(ops,
		Op{Set: ClusterIPs, Elem: Element{Frontend: Frontend{Addr: f.Addr}}},
		Op{Set: Services, Elem: Element{Frontend: f, Verdict: Balance(n), Comment: "default/web:http"}})
}

func seq(ops ...[]Op) iter.Seq[Op] {
	return slices.Values(slices.Concat(ops...))
}

// wanted is what the additions of seqs amount to.
func wanted(seqs ...iter.Seq[Op]) map[Set][]Element {
	m := map[Set][]Element{}
	for _, s := range seqs {
		for op := range s {
			m[op.Set] = append(m[op.Set], op.Elem)
		}
	}
	return m
}

func sorted(m map[Set][]Element) map[Set][]string {
	out := map[Set][]string{}
	for s, elements := range m {
		for _, e := range elements {
			out[s] = append(out[s], e.text(s)+" "+e.Timeout.String()+" "+e.Comment)
		}
		slices.Sort(out[s])
	}
	return out
}

func checkHolds(t *testing.T, c *Conn, seqs ...iter.Seq[Op]) {
	t.Helper()
	got, err := c.ReadBack()
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(sorted(wanted(seqs...)), sorted(got), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("the kernel holds (-want +got):\n%s", diff)
	}
}

func everySet() []Op {
	var ops []Op
	for _, f := range []Frontend{frontend("172.31.0.11:30080", 6), frontend("[fd00:31::11]:30080", 17)} {
		client, pod := netip.MustParsePrefix("192.168.0.0/16"), netip.MustParseAddrPort("10.244.1.7:8080")
		cidr := netip.MustParsePrefix("10.96.0.0/16")
		if !f.Addr.Is4() {
			client, pod, cidr = netip.MustParsePrefix("fd00:c11e::/32"), netip.MustParseAddrPort("[fd00:10:244:1::7]:8080"), netip.MustParsePrefix("fd00:10:96::/112")
		}
		ops = append(ops,
			Op{Set: Endpoints, Elem: Element{Frontend: f, Endpoint: pod}},
			Op{Set: LocalEndpoints, Elem: Element{Frontend: f, Endpoint: pod}},
			Op{Set: LocalServices, Elem: Element{Frontend: f, Verdict: BalanceLocal(1)}},
			Op{Set: Services, Elem: Element{Frontend: f, Verdict: Balance(1)}},
			Op{Set: Hairpin, Elem: Element{Frontend: Frontend{Addr: pod.Addr()}}},
			Op{Set: SnatAlways, Elem: Element{Frontend: f}},
			Op{Set: SnatNode, Elem: Element{Frontend: f}},
			Op{Set: Restricted, Elem: Element{Frontend: f}},
			Op{Set: AllowedSources, Elem: Element{Frontend: f, Source: client}},
			Op{Set: AllowedSources, Elem: Element{Frontend: f, Source: netip.PrefixFrom(f.Addr, f.Addr.BitLen())}},
			Op{Set: AffinityOf, Elem: Element{Frontend: f, Timeout: 3 * time.Hour}},
			Op{Set: ServiceCIDRs, Elem: Element{Source: cidr}})
	}
	return ops
}

var testLayout = Layout{Local: LocalDetection{CIDRs: []netip.Prefix{
	netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("10.245.0.0/16"), netip.MustParsePrefix("fd00:10:244::/48")}}}

func TestNetnsEverySetHoldsWhatItIsGiven(t *testing.T) {
	ns := namespace(t)
	c := open(t, Config{NetNS: ns, Layout: testLayout})
	ctx := context.Background()
	first := seq(service(frontend("10.96.0.1:443", 6), 3), service(frontend("[fd00:10:96::1]:443", 6), 3))
	rest := seq(everySet())
	if err := c.Replace(ctx, first, rest); err != nil {
		t.Fatal(err)
	}
	checkHolds(t, c, first, rest)

	del := slices.Clone(everySet())
	slices.SortStableFunc(del, func(a, b Op) int { return cmp.Compare(b.Set, a.Set) })
	for i := range del {
		del[i].Delete = true
	}
	if err := c.Apply(ctx, del); err != nil {
		t.Fatal(err)
	}
	checkHolds(t, c, first)
	// Again, now as a refill of the adopted table.
	if err := c.Replace(ctx, first, rest); err != nil {
		t.Fatal(err)
	}
	checkHolds(t, c, first, rest)
}

// TestNetnsListing holds every rule against nft's own words. A rule that nft cannot parse it
// prints in another form, or not at all. Golden file: go test -run Listing -update.
func TestNetnsListing(t *testing.T) {
	layouts := map[string]Layout{
		"cidrs":     testLayout,
		"bridge":    {Local: LocalDetection{Interface: "cni0"}},
		"prefix":    {Local: LocalDetection{InterfacePrefix: "veth"}},
		"all":       {MasqueradeAll: true},
		"no-detect": {},
		"counting":  {CountConnections: true},
		"dns":       dnsLayout,
		"dns-all":   {DNS: DNS{Addrs: dnsLayout.DNS.Addrs[:1], Everybody: true}},
	}
	for name, layout := range layouts {
		t.Run(name, func(t *testing.T) {
			ns := namespace(t)
			c := open(t, Config{NetNS: ns, Layout: layout})
			// One element each, so that their order in the kernel does not matter.
			var ops []Op
			for _, op := range everySet() {
				if op.Elem.Source != netip.PrefixFrom(op.Elem.Frontend.Addr, max(0, op.Elem.Frontend.Addr.BitLen())) {
					ops = append(ops, op)
				}
			}
			if err := c.Replace(context.Background(), seq(ops), seq()); err != nil {
				t.Fatal(err)
			}
			// The name of the program and the layout's fingerprint change with every build.
			volatile := regexp.MustCompile(`(?m)^(table ip6? weir \{).*|^\tcomment "weir layout [0-9a-f]+"\n`)
			got := volatile.ReplaceAllString(nft(t, ns, "list", "ruleset"), "$1")
			nft(t, ns, "-j", "list", "ruleset")
			golden := filepath.Join("testdata", "listing-"+name+".nft")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := gocmp.Diff(string(want), got); diff != "" {
				t.Errorf("nft list ruleset (-want +got):\n%s", diff)
			}
		})
	}
}

var update = flag.Bool("update", false, "write the golden files anew")

func requireNft(t testing.TB) {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil && os.Getenv("CI") == "" {
		t.Skip("needs the command nft (Debian: nftables)")
	}
}

func TestNetnsChangeTellsOwnerOfWhatIsRefused(t *testing.T) {
	ns := namespace(t)
	c := open(t, Config{NetNS: ns, Layout: testLayout})
	ctx := context.Background()
	a, b, d := frontend("10.96.0.1:80", 6), frontend("10.96.0.2:80", 6), frontend("10.96.0.3:80", 6)
	first := seq(service(a, 2))
	if err := c.Replace(ctx, first, seq()); err != nil {
		t.Fatal(err)
	}
	other := netip.MustParseAddrPort("10.1.1.1:1")
	ops := []Op{
		{Delete: true, Set: Endpoints, Elem: Element{Frontend: b, Slot: 7}, Owner: 2},                       // not there
		{Set: Endpoints, Elem: Element{Frontend: d, Endpoint: other}, Owner: 3},                             // fine
		{Set: Endpoints, Elem: Element{Frontend: a, Slot: 0, Endpoint: other}, Owner: 1},                    // there, with other data
		{Set: Services, Elem: Element{Frontend: d, Verdict: Balance(1)}, Owner: 3},                          // fine
		{Set: Services, Elem: Element{Frontend: a, Verdict: Refuse}, Owner: 1},                              // there, with another verdict
		{Set: LocalEndpoints, Elem: Element{Frontend: a, Slot: 1<<MaxClass - 1, Endpoint: other}, Owner: 4}, // fine
	}
	err := c.Apply(ctx, ops)
	var refused *RefusedError
	if !errors.As(err, &refused) {
		t.Fatalf("Apply = %v, want a RefusedError", err)
	}
	var owners []uint32
	for _, r := range refused.Refusals {
		owners = append(owners, r.Owner)
	}
	if diff := gocmp.Diff([]uint32{2, 1}, owners); diff != "" {
		t.Errorf("owners (-want +got):\n%s", diff)
	}
	checkHolds(t, c, first)
	if err := c.Apply(ctx, []Op{{Set: Endpoints, Elem: Element{Frontend: d, Slot: 1 << MaxClass, Endpoint: other}, Owner: 9}}); !errors.As(err, &refused) || refused.Refusals[0].Owner != 9 {
		t.Errorf("Apply of a slot out of range = %v, want a refusal of owner 9", err)
	}
}

func TestNetnsWarmStartKeepsChainsAndAffinity(t *testing.T) {
	ns := namespace(t)
	ctx := context.Background()
	f := frontend("10.96.0.1:80", 6)
	affine := []Op{{Set: AffinityOf, Elem: Element{Frontend: f, Timeout: time.Hour}}}
	before, after := seq(service(f, 5), affine, everySet()), seq(service(f, 3), affine, everySet()[:6])
	old := open(t, Config{NetNS: ns, Layout: testLayout})
	if err := old.Replace(ctx, seq(), before); err != nil {
		t.Fatal(err)
	}
	client := Op{Set: Affinity, Elem: Element{Client: netip.MustParseAddr("10.244.9.9"), Frontend: f, Endpoint: netip.MustParseAddrPort("10.244.0.0:8080")}}
	gone := Op{Set: Affinity, Elem: Element{Client: netip.MustParseAddr("10.244.9.10"), Frontend: f, Endpoint: netip.MustParseAddrPort("10.244.0.4:8080")}}
	for _, op := range []Op{client, gone} { // the second one's endpoint goes while nobody looks
		if err := addAffinityEntry(old, op); err != nil {
			t.Fatal(err)
		}
	}
	was := old.state
	if _, err := Open(ctx, Config{NetNS: ns}); !errors.Is(err, ErrRunning) {
		t.Errorf("Open beside a running one = %v, want ErrRunning", err)
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	c := open(t, Config{NetNS: ns, Layout: testLayout})
	if err := c.Replace(ctx, seq(), after); err != nil {
		t.Fatal(err)
	}
	for i, st := range c.state {
		if st.handle != was[i].handle {
			t.Errorf("table %s was built anew", c.families[i].name)
		}
	}
	checkHolds(t, c, after, seq([]Op{client}))
	forget := client
	forget.Delete, forget.Elem.Client = true, netip.Addr{}
	if err := c.Apply(ctx, []Op{forget}); err != nil {
		t.Fatal(err)
	}
	checkHolds(t, c, after)
	if err := c.Apply(ctx, []Op{forget}); err != nil {
		t.Errorf("forgetting an entry that is not there: %v", err)
	}
}

// addAffinityEntry does what the kernel does when a connection is translated.
func addAffinityEntry(c *Conn, op Op) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.newBatch()
	if err := b.add(&op); err != nil {
		return err
	}
	return c.commit(b)
}

func TestNetnsNewLayoutHandsOver(t *testing.T) {
	ns := namespace(t)
	ctx := context.Background()
	ops := seq(service(frontend("10.96.0.1:80", 6), 5), everySet())
	for i, layout := range []Layout{testLayout, {MasqueradeAll: true}, testLayout} {
		c := open(t, Config{NetNS: ns, Layout: layout})
		if err := c.Replace(ctx, seq(), ops); err != nil {
			t.Fatal(err)
		}
		checkHolds(t, c, ops)
		want := []string{Table, otherTable, Table}[i]
		for _, fam := range c.families {
			if got := c.state[fam.number()].name; got != want {
				t.Errorf("layout %d: table %s %s, want %s", i, fam.name, got, want)
			}
		}
		if got, want := nft(t, ns, "list", "tables"), "table ip "+want+"\ntable ip6 "+want+"\n"; got != want {
			t.Errorf("layout %d: tables %q, want %q", i, got, want)
		}
		c.Close()
	}
	nft(t, ns, "add", "table", "ip", "weird")
	removed, err := Cleanup(ns)
	if err != nil || len(removed) != 2 {
		t.Errorf("Cleanup = %v, %v", removed, err)
	}
	if got := nft(t, ns, "list", "tables"); got != "table ip weird\n" {
		t.Errorf("after Cleanup: %q", got)
	}
}

func TestNetnsForeignWrites(t *testing.T) {
	ctx := context.Background()
	ops := seq(service(frontend("10.96.0.1:80", 6), 5), everySet())
	for _, tt := range []struct {
		name   string
		shared bool
		change []string
		notice bool
	}{
		{"flush, owned", false, []string{"flush", "ruleset"}, false},
		{"another table, owned", false, []string{"add", "table", "ip", "other"}, false},
		{"flush, shared", true, []string{"flush", "ruleset"}, true},
		{"another table, shared", true, []string{"add", "table", "ip", "other"}, false},
		{"one family, shared", true, []string{"delete", "table", "ip6", Table}, true},
		{"rules, shared", true, []string{"flush", "chain", "ip", Table, "dispatch"}, true},
		{"a chain more, shared", true, []string{"add", "chain", "ip", Table, "mine"}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns := namespace(t)
			c := open(t, Config{NetNS: ns, Layout: testLayout, Shared: tt.shared})
			if !tt.shared && !c.Owned() {
				t.Skip("tables with owner and persist came with kernel 6.9")
			}
			if err := c.Replace(ctx, seq(), ops); err != nil {
				t.Fatal(err)
			}
			if reason, err := c.Look(); reason != "" || err != nil {
				t.Fatalf("Look after our own writes = %q, %v", reason, err)
			}
			nft(t, ns, tt.change...)
			reason, err := c.Look()
			if err != nil {
				t.Fatal(err)
			}
			if (reason != "") != tt.notice {
				t.Errorf("Look after nft %v = %q, want notice: %v", tt.change, reason, tt.notice)
			}
			if tt.notice {
				if err := c.Replace(ctx, seq(), ops); err != nil {
					t.Fatal(err)
				}
			}
			checkHolds(t, c, ops)
			if reason, err := c.Look(); reason != "" || err != nil {
				t.Errorf("Look after the repair = %q, %v", reason, err)
			}
		})
	}
}

func TestNetnsColdStartInChunks(t *testing.T) {
	ns := namespace(t)
	c := open(t, Config{NetNS: ns, Layout: testLayout})
	var ops []Op
	for i := range 400 {
		ops = append(ops, service(Frontend{Addr: netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), Port: 80, Protocol: 6}, 50)...)
	}
	before := c.Stats().Transactions
	if err := c.Replace(context.Background(), seq(service(frontend("10.96.200.1:443", 6), 3)), seq(ops)); err != nil {
		t.Fatal(err)
	}
	// The table with what comes first, the chain of the class 64, 20,000 slots in four chunks, verdicts; and the
	// ip6 table.
	if got, want := c.Stats().Transactions-before, uint64(1+1+4+1+1); got != want {
		t.Errorf("%d transactions, want %d", got, want)
	}
	checkHolds(t, c, seq(service(frontend("10.96.200.1:443", 6), 3), ops))
}

func TestSecondFamilyMissingIsNoError(t *testing.T) {
	ns := namespace(t)
	c := open(t, Config{NetNS: ns, Layout: testLayout})
	c.families = c.families[:1] // as on a kernel without IPv6
	v4 := service(frontend("10.96.0.1:80", 6), 2)
	if err := c.Replace(context.Background(), seq(v4), seq(service(frontend("[fd00:10:96::1]:80", 6), 2))); err != nil {
		t.Fatal(err)
	}
	checkHolds(t, c, seq(v4))
	if err := c.Apply(context.Background(), service(frontend("[fd00:10:96::2]:80", 6), 2)); err != nil {
		t.Fatal(err)
	}
	checkHolds(t, c, seq(v4))
}

// TestNetnsForgetWhatHasExpired deletes affinity entries that go away by themselves meanwhile, with
// a kernel that minds and with one that does not.
func TestNetnsForgetWhatHasExpired(t *testing.T) {
	f, to := frontend("10.96.0.1:80", 6), netip.MustParseAddrPort("10.244.0.0:8080")
	other := frontend("10.96.0.2:80", 6)
	for _, destroy := range []bool{false, true} {
		c := open(t, Config{NetNS: namespace(t), Layout: testLayout})
		if destroy && !c.destroy {
			continue // came with kernel 6.3
		}
		c.destroy = destroy
		ctx := context.Background()
		if err := c.Replace(ctx, seq(), seq(service(f, 3))); err != nil {
			t.Fatal(err)
		}
		b, err := c.encode(nil, true)
		if err != nil {
			t.Fatal(err)
		}
		gone := Op{Delete: true, Set: Affinity, Elem: Element{Client: netip.MustParseAddr("10.244.9.9"), Frontend: f, Endpoint: to}}
		b.destroy = destroy
		if err := b.add(&gone); err != nil {
			t.Fatal(err)
		}
		err = c.commit(b)
		if destroy && err != nil {
			t.Errorf("destroying an entry that is not there: %v", err)
		}
		if !destroy && !c.forgotten(err) {
			t.Errorf("deleting an entry that is not there: %v, want a refusal for that alone", err)
		}
		if err := c.Apply(ctx, append([]Op{{Delete: true, Set: Affinity, Elem: Element{Frontend: f}}}, service(other, 2)...)); err != nil {
			t.Fatal(err)
		}
		checkHolds(t, c, seq(service(f, 3), service(other, 2)))
	}
}

// TestNetnsSmallBuffer sends what does not fit the socket's buffer in several transactions.
func TestNetnsSmallBuffer(t *testing.T) {
	c := open(t, Config{NetNS: namespace(t), Layout: testLayout})
	c.sock.maxSend = 40 << 10
	ctx := context.Background()
	ops := seq(service(frontend("10.96.0.1:80", 6), 3000), everySet())
	for range 2 { // built, then refilled
		if err := c.Replace(ctx, seq(), ops); err == nil {
			checkHolds(t, c, ops)
		} else {
			t.Fatal(err)
		}
		if reason, err := c.Look(); reason != "" || err != nil {
			t.Errorf("Look = %q, %v", reason, err)
		}
	}
}

// TestNetnsIntervalsChange replaces ranges by others that overlap them, in one transaction.
func TestNetnsIntervalsChange(t *testing.T) {
	c := open(t, Config{NetNS: namespace(t), Layout: testLayout})
	ctx := context.Background()
	f := frontend("203.0.113.1:80", 6)
	ranges := func(cidrs ...string) (ops []Op) {
		for _, s := range cidrs {
			p := netip.MustParsePrefix(s)
			ops = append(ops, Op{Set: AllowedSources, Elem: Element{Frontend: f, Source: p}}, Op{Set: ServiceCIDRs, Elem: Element{Source: p}})
		}
		return ops
	}
	was := ranges("10.0.0.0/8", "192.168.0.0/16", "172.16.0.0/13", "172.24.0.0/13", "255.255.255.0/24")
	if err := c.Replace(ctx, seq(), seq(was)); err != nil {
		t.Fatal(err)
	}
	checkHolds(t, c, seq(was))
	for _, is := range [][]Op{ranges("10.0.0.0/9", "192.168.0.0/17", "172.16.0.0/12"), ranges("0.0.0.0/1", "128.0.0.0/1"), ranges("10.0.0.0/16")} {
		var ops []Op
		for _, op := range was {
			op.Delete = true
			ops = append(ops, op)
		}
		if err := c.Apply(ctx, append(ops, is...)); err != nil {
			t.Fatal(err)
		}
		checkHolds(t, c, seq(is))
		was = is
	}
}

// The chain of a class comes with the first verdict that leads there, and stays.
func TestNetnsClasses(t *testing.T) {
	ns := namespace(t)
	ctx := context.Background()
	f, g := frontend("10.96.0.1:80", 6), frontend("10.96.0.2:80", 6)
	c := open(t, Config{NetNS: ns, Layout: testLayout, Shared: true})
	classes := func(want ...string) {
		t.Helper()
		var got []string
		for line := range strings.Lines(nft(t, ns, "list", "table", "ip", "weir")) {
			if name, ok := strings.CutPrefix(strings.TrimSpace(line), "chain lb-"); ok {
				got = append(got, strings.TrimSuffix(name, " {"))
			}
		}
		slices.Sort(got)
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Errorf("classes (-want +got):\n%s", diff)
		}
	}
	look := func(want string) {
		t.Helper()
		nft(t, ns, "add table ip other; delete table ip other") // or nobody would look closely
		if got, err := c.Look(); err != nil || got != want {
			t.Errorf("Look = %q, %v, want %q", got, err, want)
		}
	}
	if err := c.Replace(ctx, seq(service(f, 3)), seq(service(g, 5))); err != nil {
		t.Fatal(err)
	}
	classes("1", "4", "8", "local-1")
	look("")

	change := func(to Verdict) []Op {
		return []Op{{Delete: true, Set: Services, Elem: Element{Frontend: f}}, {Set: Services, Elem: Element{Frontend: f, Verdict: to}}}
	}
	missing := Op{Delete: true, Set: Services, Elem: Element{Frontend: frontend("10.96.0.3:80", 6)}}
	var refused *RefusedError
	if err := c.Apply(ctx, append([]Op{missing}, change(Balance(64))...)); !errors.As(err, &refused) {
		t.Fatalf("Apply = %v, want a RefusedError", err)
	}
	classes("1", "4", "8", "local-1")
	for _, n := range []int{64, 3, 50} {
		if err := c.Apply(ctx, change(Balance(n))); err != nil {
			t.Fatal(err)
		}
	}
	classes("1", "4", "64", "8", "local-1")
	look("")
	was := c.state
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}

	c = open(t, Config{NetNS: ns, Layout: testLayout, Shared: true})
	if err := c.Replace(ctx, seq(service(f, 3)), seq(service(g, 100))); err != nil {
		t.Fatal(err)
	}
	if c.state[0].handle != was[0].handle {
		t.Error("the table was not adopted")
	}
	classes("1", "128", "4", "64", "8", "local-1")
	look("")
	checkHolds(t, c, seq(service(f, 3), service(g, 100)))
	nft(t, ns, "flush chain ip weir lb-128")
	look("table ip weir: has " + strconv.Itoa(c.cfg.Layout.rules(ipv4, c.state[0].added)-10) + " rules instead of " +
		strconv.Itoa(c.cfg.Layout.rules(ipv4, c.state[0].added)))
}
