//go:build linux

package names

import (
	"net"
	"strings"

	"github.com/miekg/dns"

	"github.com/weir-project/weir/dns/dnstest"
)

// elsewhere answers what is not in the cluster, by the first label of the name.
func elsewhere(m *dns.Msg, q dns.Question) {
	label, rest, _ := strings.Cut(strings.ToLower(q.Name), ".")
	h := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: 3600}
	soa := &dns.SOA{Hdr: dns.RR_Header{Name: "test.", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 3600},
		Ns: "ns.test.", Mbox: "hostmaster.test.", Serial: 1, Refresh: 2, Retry: 3, Expire: 4, Minttl: 3600}
	switch {
	case !strings.HasSuffix(rest, "test."):
		dnstest.Elsewhere(m, q)
	case strings.HasPrefix(label, "nx"):
		m.Rcode, m.Ns = dns.RcodeNameError, []dns.RR{soa}
	case strings.HasPrefix(label, "fail"):
		m.Rcode = dns.RcodeServerFailure
	case strings.HasPrefix(label, "alias") && q.Qtype != dns.TypeCNAME:
		h.Rrtype = dns.TypeCNAME
		m.Answer = []dns.RR{&dns.CNAME{Hdr: h, Target: "real." + rest}}
		if q.Qtype == dns.TypeA {
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: "real." + rest, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 3600}, A: net.IPv4(192, 0, 2, 7)})
		} else {
			m.Ns = []dns.RR{soa}
		}
	case q.Qtype == dns.TypeA:
		m.Answer = []dns.RR{&dns.A{Hdr: h, A: net.IPv4(192, 0, 2, 1)}, &dns.A{Hdr: h, A: net.IPv4(192, 0, 2, 2)}}
	case q.Qtype == dns.TypeAAAA && !strings.HasPrefix(label, "v4"):
		m.Answer = []dns.RR{&dns.AAAA{Hdr: h, AAAA: net.ParseIP("2001:db8::1")}}
	case q.Qtype == dns.TypeTXT:
		m.Answer = []dns.RR{&dns.TXT{Hdr: h, Txt: []string{"elsewhere"}}}
	default:
		m.Ns = []dns.RR{soa}
	}
}
