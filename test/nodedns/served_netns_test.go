//go:build linux

package nodedns

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-project/weir/internal/netlab"
)

// TestNetnsServed asks from everywhere while weir is well.
func TestNetnsServed(t *testing.T) {
	for _, others := range []bool{true, false} {
		t.Run(fmt.Sprintf("others=%v", others), func(t *testing.T) {
			w := newWorld(t, others, "--nodeport-addresses", "all", "--dns-log-queries")
			w.start()
			w.forget()
			for _, c := range w.clients("podA", "podB", "node") {
				w.now(c, byWeir)
				if who, err := w.ask(c, outside, 5*time.Second); err != nil || who != byUp {
					t.Errorf("%s for a name outside: %q, %v", c, who, err)
				}
			}
			if flows := w.tracked(); len(flows) > 0 {
				t.Errorf("conntrack knows of queries:\n%s", strings.Join(flows, "\n"))
			}
			for _, c := range w.clients("client", "remote") { // neither pods nor this node
				if others {
					w.now(c, byOther) // as without Weir's DNS
				} else {
					w.refused(c.host, c.network, c.server)
				}
			}
			if flows := w.tracked(); others && len(flows) == 0 {
				t.Error("conntrack knows nothing of queries that went elsewhere: that it does not know of the others says nothing")
			}
			w.checkOnlyDNS()
			w.checkTold()
		})
	}
}

// checkTold sees what weir says of itself.
func (w *world) checkTold() {
	w.t.Helper()
	if code, page := w.get("127.0.0.1:10256/readyz"); code != http.StatusOK || !strings.Contains(page, "[+]dns ok") {
		w.t.Errorf("/readyz says %d %s", code, page)
	}
	_, page := w.get("127.0.0.1:10249/metrics")
	for _, want := range []string{
		`weir_dns_address_served{address="10.96.0.10",proto="udp"} 1`, `weir_dns_address_served{address="fd00:10:96::a",proto="tcp"} 1`,
		`coredns_dns_requests_total{family="1",proto="udp",server="dns://10.96.0.10:53",type="A",view="",zone="cluster.local."}`, "kubeproxy_sync_proxy_rules_duration_seconds"} {
		if !strings.Contains(page, want) {
			w.t.Errorf("/metrics has no %s", want)
		}
	}
	log := w.wholeLog()
	if !strings.Contains(log, inside) || strings.Contains(log, "dns-version") {
		w.t.Error("the log lacks clients' queries, or has weir's own")
	}
}

// get reads a page on the node.
func (w *world) get(page string) (int, string) {
	w.t.Helper()
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return w.node.Dial(ctx, network, addr)
		}}}
	r, err := client.Get("http://" + page)
	w.must(err)
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	w.must(err)
	return r.StatusCode, string(body)
}

// checkOnlyDNS sees that nothing else of the node is to be had at the address, although it is one of the
// node's, and that nothing else leaves with it.
func (w *world) checkOnlyDNS() {
	w.t.Helper()
	for network, any := range map[string]string{"tcp4": "0.0.0.0:2222", "tcp6": "[::]:2222"} {
		l, err := w.node.Listen(network, any)
		w.must(err)
		defer l.Close()
	}
	for _, a := range []netip.Addr{dns4.Addr(), dns6.Addr()} {
		for _, from := range []string{"podA", "client", "node"} {
			w.refused(from, "tcp", netip.AddrPortFrom(a, 2222))
		}
	}
	w.refused("podA", "tcp", netip.AddrPortFrom(dns4.Addr(), 30780)) // a node port
	out := w.run("ip", "-o", "addr", "show", "dev", "lo")
	for _, want := range []string{"inet 10.96.0.10/32 scope host lo:weir", "inet6 fd00:10:96::a/128 scope global nodad deprecated"} {
		if !strings.Contains(out, want) {
			w.t.Errorf("lo has no %q:\n%s", want, out)
		}
	}
	// The source of other traffic.
	client := w.lab.Host("client")
	for network, to := range map[string]netip.Addr{"tcp4": client.Addr4, "tcp6": client.Addr6} {
		server, err := client.Serve(netlab.TCP, netip.AddrPortFrom(to, 7777))
		w.must(err)
		defer server.Close()
		r := w.node.Probe(netlab.TCP, netip.AddrPortFrom(to, 7777), netlab.ProbeOptions{})
		if r.Outcome != netlab.Answered || r.SourceSeen != w.nodeAddr(network) {
			w.t.Errorf("the node to a client over %s: %v", network, r)
		}
		// And what is bound to the address on purpose.
		bound := w.node.Probe(netlab.TCP, netip.AddrPortFrom(to, 7777), netlab.ProbeOptions{Source: map[string]netip.Addr{"tcp4": dns4.Addr(), "tcp6": dns6.Addr()}[network]})
		if bound.Outcome != netlab.Answered || bound.SourceSeen != w.nodeAddr(network) {
			w.t.Errorf("the node's DNS address to a client over %s: %v", network, bound)
		}
	}
}

func (w *world) nodeAddr(network string) netip.Addr {
	if network == "tcp4" {
		return w.node.Addr4
	}
	return w.node.Addr6
}

// TestNetnsAnswerAll answers clients off the cluster when it is told to.
func TestNetnsAnswerAll(t *testing.T) {
	w := newWorld(t, true, "--dns-answer-all")
	w.start()
	for _, c := range w.clients("client", "remote", "podA", "node") {
		w.now(c, byWeir)
	}
}

// TestNetnsPodsUnknown answers the node alone where pods cannot be told from strangers.
func TestNetnsPodsUnknown(t *testing.T) {
	w := newWorld(t, true, "--detect-local-mode", "None")
	w.launch()
	for _, c := range w.clients("node") {
		w.eventually(c, byWeir, patience)
	}
	for _, c := range w.clients("podA") {
		w.now(c, byOther)
	}
	// Strangers are not masqueraded without knowing who is one, and may hear nothing at all.
	for _, c := range w.clients("client") {
		if who, err := w.ask(c, inside, time.Second); err == nil && who != byOther {
			t.Errorf("%s is answered by %q", c, who)
		}
	}
}

// TestNetnsManyQueries has one connection carry many queries, and one socket send many.
func TestNetnsManyQueries(t *testing.T) {
	w := newWorld(t, true)
	w.start()
	for _, c := range w.clients("podA", "node") {
		conn, err := w.lab.Host(c.host).Dial(t.Context(), c.network, c.server.String())
		w.must(err)
		dc, co := &dns.Client{Net: c.network, Timeout: 5 * time.Second}, &dns.Conn{Conn: conn}
		for i := range 100 {
			m, _, err := dc.ExchangeWithConn(new(dns.Msg).SetQuestion(inside, dns.TypeA), co)
			if err != nil || len(m.Answer) != 1 || !m.Answer[0].(*dns.A).A.Equal(net.ParseIP("10.96.7.1")) {
				t.Errorf("%s, query %d: %v, %v", c, i, m, err)
				break
			}
			time.Sleep(10 * time.Millisecond) // a lease is renewed now and then
		}
		conn.Close()
	}
}
