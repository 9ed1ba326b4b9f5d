//go:build linux

package names

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-project/weir/internal/kubelab"
)

// startCoreDNS starts CoreDNS as kubeadm sets it up, but with weir's TTL and without a cache for what
// is not the cluster's.
func startCoreDNS(t *testing.T, kubeconfig string) *server {
	t.Helper()
	dir, err := kubelab.BinDir(context.Background(), os.Stderr, "coredns")
	if err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	corefile := filepath.Join(t.TempDir(), "Corefile")
	text := fmt.Sprintf(`.:%d {
    bind 127.0.0.1 ::1
    errors
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        kubeconfig %s
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 5
        startup_timeout 60s
    }
    forward . %s
    loadbalance
}
`, port, kubeconfig, upstream.Addr)
	if err := os.WriteFile(corefile, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return start(t, "coredns", port, exec.Command(filepath.Join(dir, "coredns"), "-conf", corefile))
}

// TestLikeCoreDNS asks weir and CoreDNS the same, on the same objects, which change between
// rounds.
func TestLikeCoreDNS(t *testing.T) {
	if testing.Short() {
		t.Skip("-short")
	}
	seed := rand.Uint64()
	if text := os.Getenv("WEIR_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("WEIR_SEED=%d repeats this", seed)
	from := newAPI(t)
	withChecklist(t, from)
	m := &maker{random: rand.New(rand.NewPCG(seed, 1))}
	m.odd()
	m.some(40)
	for _, o := range m.objects {
		from.put(t, o)
	}
	l := &likeness{from: from, weir: startWeir(t, from.flags(t)...), core: startCoreDNS(t, from.AdminKubeconfig), seen: map[string]int{}}
	random := rand.New(rand.NewPCG(seed, 2))
	begin := time.Now()
	for round := range 3 {
		for range round * 20 {
			from.put(t, m.change())
		}
		l.settle(t, round)
		k := from.known(t)
		a := newAsker(random, k)
		for _, q := range certain {
			for _, q.transport = range transports {
				q.rd, q.class = true, max(q.class, dns.ClassINET)
				l.compare(t, q, k)
			}
		}
		for range 2000 {
			l.compare(t, a.next(), k)
		}
	}
	timed(t, fmt.Sprintf("%d questions", l.asked), begin)
	for _, d := range differences {
		t.Logf("%5d × %s", l.seen[d.row], d.row)
		if l.seen[d.row] == 0 {
			t.Errorf("%s: that difference does not come up", d.row)
		}
	}
	t.Logf("%5d are the same, RA aside", l.equal)
}

// likeness is how two servers compare.
type likeness struct {
	from         api
	weir, core   *server
	seen         map[string]int // by the row of the difference
	asked, equal int
	failed       int
}

// settle waits until both servers have seen what was written last.
func (l *likeness) settle(t *testing.T, round int) {
	t.Helper()
	name := fmt.Sprintf("settled-%d", round)
	m := &maker{}
	m.namespace(name)
	m.service(name, "last", 1, "http:80/TCP")
	m.slice(m.headless(name, "last-headless", "http:80/TCP"), 0, ipv4, endpoint("10.244.255.1", "", true))
	for _, o := range m.objects {
		l.from.put(t, o)
	}
	for _, s := range []*server{l.weir, l.core} {
		eventually(t, func() error {
			for _, service := range []string{"last", "last-headless"} {
				q := question{name: service + "." + name + ".svc.cluster.local.", qtype: dns.TypeA, class: dns.ClassINET, edns: -1, transport: "udp4"}
				got, err := s.put(q)
				if err != nil {
					return err
				}
				if len(got.answers) != 1 {
					return fmt.Errorf("%s does not know %s", s.name, q)
				}
			}
			return nil
		})
	}
}

// put asks a question.
func (s *server) put(q question) (*answer, error) {
	query, err := q.pack(uint16(rand.Uint32()))
	if err != nil {
		return nil, err
	}
	response, err := s.ask(q.transport, query)
	if err != nil {
		return nil, err
	}
	return parseAnswer(response)
}

// compare asks both servers, and complains about a difference that is not on the list.
func (l *likeness) compare(t *testing.T, q question, k *known) {
	t.Helper()
	weir, err := l.weir.put(q)
	if err != nil {
		t.Fatalf("%s: %v", q, err)
	}
	core, err := l.core.put(q)
	if err != nil {
		t.Fatalf("%s: %v", q, err)
	}
	l.asked++
	c := &comparison{q: q, lower: strings.ToLower(q.name), weir: weir, known: k}
	now := *core
	c.core = &now
	if inZone(c.lower) {
		c.labels = dns.SplitDomainName(strings.TrimSuffix(c.lower, "cluster.local."))
	}
	c.whole = func() (*answer, error) {
		q.transport = "tcp4"
		return l.core.put(q)
	}
	var why []string
	for _, d := range differences {
		if same(c.weir, c.core) {
			break
		}
		if d.agree(c) {
			l.seen[d.row]++
			why = append(why, d.row)
		}
	}
	if same(c.weir, c.core) {
		if len(why) == 0 || len(why) == 1 && why[0] == differences[0].row {
			l.equal++
		}
		return
	}
	if l.failed++; l.failed <= 40 {
		t.Errorf("%s\nweir: %s\nCoreDNS: %s\nexplained in part by %q", q, weir, core, why)
	}
}

// TestDifferencesAreDocumented holds the list of differences against the table for users.
func TestDifferencesAreDocumented(t *testing.T) {
	b, err := os.ReadFile("../../docs/dns.md")
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for line := range strings.Lines(string(b)) {
		if cells := strings.Split(line, "|"); len(cells) == 6 {
			rows = append(rows, strings.TrimSpace(cells[1]))
		}
	}
	for _, d := range differences {
		if !slices.Contains(rows, d.row) && !strings.Contains(string(b), "## "+d.row+"\n") {
			t.Errorf("docs/dns.md does not tell of: %s", d.row)
		}
	}
}
