package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-project/weir/internal/netlab"
)

const (
	webName     = "web.default.svc.cluster.local."
	unknownName = "wab.default.svc.cluster.local."
	lookups     = 200 // for each row
)

// lookup is what became of one query.
type lookup struct {
	rcode string
	addrs []netip.Addr
	took  time.Duration
	err   error
}

// names shows that the pod and the node itself are told what names mean, and strangers are not.
func (d *demo) names(ctx context.Context) error {
	s := d.screen
	s.title("5. Names, from the same state")
	s.say("weir also answers the cluster's DNS address, on this node, without a DNS server anywhere: %d queries for %s over each protocol, from the pod and from a process of the node.",
		lookups, strings.TrimSuffix(webName, "."))
	s.line("")
	for _, f := range d.families {
		for _, from := range []string{"pod", "node"} {
			for _, network := range []string{"udp", "tcp"} {
				found, err := d.lookUp(ctx, from, network, f, webName)
				if err != nil {
					return err
				}
				s.claim(checkAnswers(found, f.web.Addr()), "%-7s%-5s%-22s%s  (half of the answers within %s)", from, network, f.dns, f.web.Addr(), short(median(found)))
			}
		}
	}
	f := d.families[0]
	wrong, err := d.lookUp(ctx, "pod", "udp", f, unknownName)
	if err != nil {
		return err
	}
	s.claim(checkUnknown(wrong), "%s: there is no such name  (half of the answers within %s)", strings.TrimSuffix(unknownName, "."), short(median(wrong)))
	stranger := d.lab.Host("client").Probe(netlab.TCP, f.dns, netlab.ProbeOptions{})
	s.claim(checkRefused(refusal{results: []netlab.Result{stranger}}), "client, outside the cluster: refused")
	return nil
}

// lookUp asks for the addresses of a name, again and again. It waits for the first answer: weir may have just
// been started.
func (d *demo) lookUp(ctx context.Context, from, network string, f family, name string) ([]lookup, error) {
	var found []lookup
	for began := time.Now(); len(found) < lookups; {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		l := d.askName(ctx, from, network, f, name)
		if l.err != nil && len(found) == 0 && time.Since(began) < patience {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		found = append(found, l)
	}
	return found, nil
}

func (d *demo) askName(ctx context.Context, from, network string, f family, name string) (l lookup) {
	qtype := dns.TypeA
	if f.web.Addr().Is6() {
		qtype = dns.TypeAAAA
	}
	began := time.Now()
	defer func() { l.took = time.Since(began) }()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := d.lab.Host(from).Dial(ctx, network, f.dns.String())
	if err != nil {
		return lookup{err: err}
	}
	defer conn.Close()
	client := &dns.Client{Net: network, Timeout: 5 * time.Second}
	m, _, err := client.ExchangeWithConn(new(dns.Msg).SetQuestion(name, qtype), &dns.Conn{Conn: conn})
	if err != nil {
		return lookup{err: err}
	}
	l.rcode = dns.RcodeToString[m.Rcode]
	for _, rr := range m.Answer {
		var a netip.Addr
		switch rr := rr.(type) {
		case *dns.A:
			a, _ = netip.AddrFromSlice(rr.A.To4())
		case *dns.AAAA:
			a, _ = netip.AddrFromSlice(rr.AAAA)
		}
		l.addrs = append(l.addrs, a)
	}
	return l
}

func median(found []lookup) time.Duration {
	var took []time.Duration
	for _, l := range found {
		took = append(took, l.took)
	}
	slices.Sort(took)
	return took[len(took)/2]
}

// checkAnswers holds if every query was answered with one address.
func checkAnswers(found []lookup, want netip.Addr) error {
	if len(found) == 0 {
		return unlike("answers", "none")
	}
	for i, l := range found {
		if l.err != nil || l.rcode != "NOERROR" || !slices.Equal(l.addrs, []netip.Addr{want}) {
			return unlike(fmt.Sprintf("%s in each of %d answers", want, len(found)), "in answer %d: %s %v %v", i, l.rcode, l.addrs, l.err)
		}
	}
	return nil
}

// checkUnknown holds if every query was answered by there being no such name.
func checkUnknown(found []lookup) error {
	for i, l := range found {
		if l.err != nil || l.rcode != "NXDOMAIN" || len(l.addrs) > 0 {
			return unlike("NXDOMAIN", "in answer %d: %s %v %v", i, l.rcode, l.addrs, l.err)
		}
	}
	return nil
}
