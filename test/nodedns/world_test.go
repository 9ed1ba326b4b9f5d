//go:build linux

package nodedns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"

	"github.com/weir-project/weir/internal/netlab"
)

var (
	dns4 = netip.MustParseAddrPort("10.96.0.10:53")
	dns6 = netip.MustParseAddrPort("[fd00:10:96::a]:53")
)

// Names, and what says who has answered them.
const (
	inside   = "web.default.svc.cluster.local."
	outside  = "example.org."
	byWeir   = "weir"
	byOther  = "another endpoint"
	byUp     = "upstream"
	lease    = 2 * time.Second
	patience = 60 * time.Second
)

// answers are the addresses of the names, by who says so.
var answers = map[string]string{"10.96.7.1": byWeir, "192.0.2.1": byOther, "192.0.2.2": byUp}

// slack is what a busy machine may add to a time that is asserted.
const slack = 1500 * time.Millisecond

const web = `apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {clusterIP: 10.96.7.1, clusterIPs: [10.96.7.1], type: NodePort, ports: [{port: 80, nodePort: 30780}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080, protocol: TCP}]
endpoints: [{addresses: [10.244.1.11]}]
`

const kubeDNS = `apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIPs: [10.96.0.10, "fd00:10:96::a"]
  ports: [{name: dns, port: 53, protocol: UDP, targetPort: 5353}, {name: dns-tcp, port: 53, protocol: TCP, targetPort: 5353}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns-4, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
ports: [{name: dns, port: 5353, protocol: UDP}, {name: dns-tcp, port: 5353, protocol: TCP}]
endpoints: [{addresses: [10.244.2.10]}, {addresses: [10.244.2.11]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns-6, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv6
ports: [{name: dns, port: 5353, protocol: UDP}, {name: dns-tcp, port: 5353, protocol: TCP}]
endpoints: [{addresses: ["fd00:10:244:2::10"]}, {addresses: ["fd00:10:244:2::11"]}]
`

// world is a lab with a weir on its node and other DNS endpoints elsewhere.
type world struct {
	t    *testing.T
	lab  *netlab.Lab
	node *netlab.Host
	dir  string
	args []string
	proc *netlab.Process
}

// newWorld builds a lab. Without others there is no Service at the DNS address.
func newWorld(t *testing.T, others bool, flags ...string) *world {
	t.Helper()
	require(t)
	w := &world{t: t, lab: netlab.NewForTest(t, netlab.Config{}), dir: t.TempDir()}
	w.node = w.lab.Host("node")
	manifests := filepath.Join(w.dir, "manifests")
	w.must(os.Mkdir(manifests, 0o755))
	w.must(os.WriteFile(filepath.Join(manifests, "web.yaml"), []byte(web), 0o644))
	if others {
		w.must(os.WriteFile(filepath.Join(manifests, "kube-dns.yaml"), []byte(kubeDNS), 0o644))
	}
	for _, name := range []string{"podX", "podY"} {
		w.serveNames(w.lab.Host(name), 5353, "192.0.2.1")
	}
	remote := w.lab.Host("remote")
	w.serveNames(remote, 53, "192.0.2.2")
	w.args = append([]string{"run", "--manifests", manifests, "--hostname-override", "node1", "-v=2", "--socket", filepath.Join(w.dir, "weir.sock"),
		"--cluster-cidr", netlab.ClusterCIDR4.String() + "," + netlab.ClusterCIDR6.String(),
		"--dns-address", dns4.Addr().String() + "," + dns6.Addr().String(), "--dns-upstream", remote.Addr4.String()}, flags...)
	t.Cleanup(func() {
		w.stop()
		if t.Failed() {
			t.Logf("weir %s\n%s", strings.Join(w.args, " "), w.logged())
		}
	})
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// serveNames answers every A query at a port of a host with one address, and every TXT query with the client's.
func (w *world) serveNames(h *netlab.Host, port uint16, addr string) {
	w.t.Helper()
	handler := dns.HandlerFunc(func(rw dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		header := dns.RR_Header{Name: q.Question[0].Name, Rrtype: q.Question[0].Qtype, Class: dns.ClassINET, Ttl: 5}
		switch header.Rrtype {
		case dns.TypeA:
			m.Answer = []dns.RR{&dns.A{Hdr: header, A: net.ParseIP(addr)}}
		case dns.TypeTXT:
			m.Answer = []dns.RR{&dns.TXT{Hdr: header, Txt: []string{rw.RemoteAddr().String()}}}
		}
		_ = rw.WriteMsg(m)
	})
	for network, a := range map[string]netip.Addr{"4": h.Addr4, "6": h.Addr6} {
		at := netip.AddrPortFrom(a, port).String()
		l, err := h.Listen("tcp"+network, at)
		w.must(err)
		c, err := h.ListenPacket("udp"+network, at)
		w.must(err)
		for _, s := range []*dns.Server{{Listener: l, Handler: handler}, {PacketConn: c, Handler: handler}} {
			done := make(chan struct{})
			go func() { defer close(done); _ = s.ActivateAndServe() }()
			w.t.Cleanup(func() { _ = s.Shutdown(); <-done })
		}
	}
}

// launch starts weir without waiting for anything.
func (w *world) launch(args ...string) {
	w.t.Helper()
	log, err := os.OpenFile(filepath.Join(w.dir, "weir.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	w.must(err)
	defer log.Close()
	if len(args) == 0 {
		args = w.args
	}
	cmd := exec.Command(binary, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "GORACE=halt_on_error=1")
	w.proc, err = w.node.Start(cmd)
	w.must(err)
}

// start starts weir and waits until it answers at every socket.
func (w *world) start() {
	w.t.Helper()
	w.launch()
	for _, c := range w.clients("podA", "node") {
		w.eventually(c, byWeir, patience)
	}
}

// stop ends weir in an orderly way.
func (w *world) stop() {
	w.t.Helper()
	if w.proc == nil {
		return
	}
	_ = w.proc.Signal(syscall.SIGCONT)
	_ = w.proc.Signal(syscall.SIGTERM)
	select {
	case <-w.proc.Done():
		if err := w.proc.Wait(); err != nil {
			w.t.Errorf("weir ended on SIGTERM: %v", err)
		}
	case <-time.After(20 * time.Second):
		w.t.Error("weir does not end on SIGTERM")
		_ = w.proc.Close()
	}
	w.proc = nil
}

func (w *world) logged() string {
	text, err := os.ReadFile(filepath.Join(w.dir, "weir.log"))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-60):], "\n")
}

// client is a way of asking.
type client struct {
	host    string
	network string // udp or tcp
	server  netip.AddrPort
}

func (c client) String() string { return fmt.Sprintf("%s to %s over %s", c.host, c.server, c.network) }

// clients are those hosts, with each protocol and family.
func (w *world) clients(hosts ...string) (list []client) {
	for _, h := range hosts {
		for _, network := range []string{"udp", "tcp"} {
			for _, server := range []netip.AddrPort{dns4, dns6} {
				list = append(list, client{h, network, server})
			}
		}
	}
	return list
}

// ask asks once for a name, and returns who answered.
func (w *world) ask(c client, name string, timeout time.Duration) (string, error) {
	m, err := w.query(c, name, dns.TypeA, timeout)
	if err != nil {
		return "", err
	}
	for _, rr := range m.Answer {
		if a, ok := rr.(*dns.A); ok {
			return answers[a.A.String()], nil
		}
	}
	return "", fmt.Errorf("%s: %s, no address", name, dns.RcodeToString[m.Rcode])
}

func (w *world) query(c client, name string, qtype uint16, timeout time.Duration) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	conn, err := w.lab.Host(c.host).Dial(ctx, c.network, c.server.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	dc := &dns.Client{Net: c.network, Timeout: timeout}
	m, _, err := dc.ExchangeWithConn(new(dns.Msg).SetQuestion(name, qtype), &dns.Conn{Conn: conn})
	return m, err
}

// eventually asks until somebody answers, and fails if he does not within a time. It returns how long
// that took.
func (w *world) eventually(c client, who string, within time.Duration) time.Duration {
	w.t.Helper()
	began := time.Now()
	for {
		asked := time.Now()
		got, err := w.ask(c, inside, 300*time.Millisecond)
		if err == nil && got == who {
			return time.Since(began)
		}
		if asked.Sub(began) > within {
			w.t.Errorf("%s is answered by %q (%v) after %v, want %s within %v", c, got, err, time.Since(began), who, within)
			return time.Since(began)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// now asks once, which has to do.
func (w *world) now(c client, who string) {
	w.t.Helper()
	if got, err := w.ask(c, inside, 5*time.Second); err != nil || got != who {
		w.t.Errorf("%s is answered by %q, %v; want %s", c, got, err, who)
	}
}

// refused asks a port that nobody is to reach, and wants to be told so at once: by a reset, by ICMP, or
// on the node itself by the system call.
func (w *world) refused(host, network string, to netip.AddrPort) {
	w.t.Helper()
	c := client{host, network, to}
	if who, err := w.ask(c, inside, 3*time.Second); !errors.Is(err, syscall.ECONNREFUSED) && !(host == "node" && errors.Is(err, syscall.EPERM)) {
		w.t.Errorf("%s: %q, %v; want a refusal", c, who, err)
	}
}

// tracked returns the conntrack entries of the node that are about DNS addresses.
func (w *world) tracked() (list []string) {
	w.t.Helper()
	err := w.node.Do(func() error {
		for _, family := range []netlink.InetFamily{syscall.AF_INET, syscall.AF_INET6} {
			flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
			if err != nil {
				return err
			}
			for _, f := range flows {
				for _, ip := range []net.IP{f.Forward.DstIP, f.Forward.SrcIP} {
					if a, _ := netip.AddrFromSlice(ip); a.Unmap() == dns4.Addr() || a == dns6.Addr() {
						list = append(list, f.String())
						break
					}
				}
			}
		}
		return nil
	})
	w.must(err)
	return list
}

// forget empties the node's conntrack table.
func (w *world) forget() {
	w.t.Helper()
	w.must(w.node.Do(func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) }))
}

func (w *world) run(name string, args ...string) string {
	w.t.Helper()
	out, err := w.node.Run(name, args...)
	w.must(err)
	return out
}
