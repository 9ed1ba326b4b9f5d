//go:build linux

package lookups

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-project/weir/internal/netlab"
)

// world is a lab whose node has weir dns and an upstream.
type world struct {
	lab  *netlab.Lab
	node *netlab.Host
	weir netip.AddrPort
}

// answer fills in a response that says NOERROR.
type answer func(response *dns.Msg, q dns.Question)

const upstreamPort, weirPort = 5353, 53

// newWorld builds a lab with an upstream in its node.
func newWorld(t *testing.T, with answer) *world {
	t.Helper()
	if testing.Short() {
		t.Skip("-short")
	}
	netlab.Require(t)
	for _, tool := range []string{"nft", "unshare"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
	w := &world{lab: netlab.NewForTest(t, netlab.Config{LocalPods: []string{"podA", "podB"}})}
	w.node = w.lab.Host("node")
	w.weir = netip.AddrPortFrom(w.node.Addr4, weirPort)
	w.upstream(t, upstreamPort, with)
	return w
}

// upstream starts an upstream in the node, over UDP.
func (w *world) upstream(t *testing.T, port int, with answer) {
	t.Helper()
	conn, err := w.node.ListenPacket("udp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	s := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(rw dns.ResponseWriter, query *dns.Msg) {
		m := new(dns.Msg).SetReply(query)
		m.RecursionAvailable = true
		with(m, query.Question[0])
		_ = rw.WriteMsg(m) // who asked may be gone
	})}
	done := make(chan error, 1)
	go func() { done <- s.ActivateAndServe() }()
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
}

// start runs weir dns in the node until the test ends, and waits until it answers.
func (w *world) start(t *testing.T, flags ...string) {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "weir.log"))
	if err != nil {
		t.Fatal(err)
	}
	args := append([]string{"dns", "--listen", w.weir.String() + ",[" + w.node.Addr6.String() + "]:53", "--metrics-bind-address", "",
		"--upstream", fmt.Sprintf("127.0.0.1:%d", upstreamPort)}, flags...)
	cmd := exec.Command(weir, args...)
	cmd.Stdout, cmd.Stderr = log, log
	p, err := w.node.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.Signal(os.Interrupt)
		select {
		case <-p.Done():
		case <-time.After(patience):
			t.Error("weir does not end")
			_ = p.Close()
		}
		text, _ := os.ReadFile(log.Name())
		if strings.Contains(string(text), "DATA RACE") || strings.Contains(string(text), "panic:") || t.Failed() {
			t.Errorf("weir %s\n%s", strings.Join(args, " "), text)
		}
	})
	eventually(t, func() error {
		_, err := w.ask("dns-version.cluster.local.", dns.TypeTXT)
		return err
	})
}

// ask asks weir from the node.
func (w *world) ask(name string, qtype uint16) (*dns.Msg, error) {
	return askFrom(w.node, w.weir, name, qtype)
}

// dial connects the node to weir.
func (w *world) dial() (*dns.Conn, error) { return dialFrom(w.node, w.weir) }

func dialFrom(from *netlab.Host, to netip.AddrPort) (*dns.Conn, error) {
	var conn net.Conn
	err := from.Do(func() (err error) {
		conn, err = net.Dial("udp", to.String())
		return err
	})
	return &dns.Conn{Conn: conn}, err
}

func askFrom(from *netlab.Host, to netip.AddrPort, name string, qtype uint16) (*dns.Msg, error) {
	c, err := dialFrom(from, to)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return exchange(c, name, qtype)
}

func exchange(c *dns.Conn, name string, qtype uint16) (*dns.Msg, error) {
	_ = c.SetDeadline(time.Now().Add(6 * time.Second))
	m := new(dns.Msg).SetQuestion(name, qtype)
	if err := c.WriteMsg(m); err != nil {
		return nil, err
	}
	r, err := c.ReadMsg()
	if err == nil && r.Id != m.Id {
		err = errors.New("another ID")
	}
	return r, err
}

// summary writes what a message says in one line.
func summary(r *dns.Msg, err error) string {
	if err != nil {
		return err.Error()
	}
	s := dns.RcodeToString[r.Rcode]
	for _, rr := range r.Answer {
		h := rr.Header()
		s += " " + h.Name + " " + dns.TypeToString[h.Rrtype] + " " + strings.TrimPrefix(rr.String(), h.String())
	}
	return s
}

// resolvConf writes a resolv.conf.
func resolvConf(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// podConf is what the kubelet writes for a pod.
func podConf(t *testing.T, server netip.Addr, namespace, nodeDomains, options string) string {
	return resolvConf(t, fmt.Sprintf("nameserver %s\nsearch %s.svc.cluster.local svc.cluster.local cluster.local %s\noptions %s timeout:30\n",
		server, namespace, nodeDomains, options))
}

// resolver is a way in which programs look names up.
type resolver struct {
	name string
	// command looks a name up and prints its addresses, one at the start of each line.
	command func(name string) []string
}

var resolvers = []resolver{
	{"glibc", func(name string) []string { return []string{"getent", "ahosts", name} }},
	{"go", func(name string) []string {
		self, _ := os.Executable()
		return []string{"env", goLookup + "=" + name, self}
	}},
}

var leadingAddress = regexp.MustCompile(`(?m)^\S+`)

// lookUp has a resolver in a pod look a name up, and returns the addresses and how many packets it took.
func (r resolver) lookUp(t *testing.T, pod *netlab.Host, conf, name string) (addrs []string, packets int) {
	t.Helper()
	nsswitch := filepath.Join(filepath.Dir(conf), "nsswitch.conf")
	if err := os.WriteFile(nsswitch, []byte("hosts: dns\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := pod.Run("nft", "reset", "counters", "table", "inet", "wire"); err != nil {
		t.Fatal(err)
	}
	script := `mount --make-rprivate / && mount --bind "$1" /etc/resolv.conf && mount --bind "$2" /etc/nsswitch.conf && shift 2 && exec "$@"`
	args := append([]string{"-m", "sh", "-c", script, "sh", conf, nsswitch}, r.command(name)...)
	out, err := pod.Run("unshare", args...)
	var exit *exec.ExitError
	if err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 2) { // 2: there is no such name
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, a := range leadingAddress.FindAllString(out, -1) {
		if !seen[a] {
			seen[a] = true
			addrs = append(addrs, a)
		}
	}
	counted, err := pod.Run("nft", "list", "counters", "table", "inet", "wire")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`packets (\d+)`).FindStringSubmatch(counted)
	if m == nil {
		t.Fatalf("no counter in %s", counted)
	}
	_, _ = fmt.Sscan(m[1], &packets)
	return addrs, packets
}

// count has a pod count the packets that it sends to name servers.
func count(t *testing.T, pod *netlab.Host) {
	t.Helper()
	const rules = "add table inet wire; add counter inet wire queries; add chain inet wire out { type filter hook output priority 0; }; " +
		"add rule inet wire out udp dport 53 counter name queries; add rule inet wire out tcp dport 53 counter name queries"
	if _, err := pod.Run("nft", rules); err != nil {
		t.Fatal(err)
	}
}
