//go:build linux

package names

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// comparison is one question with both answers.
type comparison struct {
	q          question
	lower      string   // the name
	labels     []string // in front of the cluster's domain; nil: it is not in the zone
	weir, core *answer
	whole      func() (*answer, error) // CoreDNS's answer over TCP
	known      *known
}

// difference is something in which weir differs from CoreDNS on purpose.
type difference struct {
	// row is the case in the table of docs/dns.md, which has the reason.
	row string
	// agree makes CoreDNS's answer what weir's is as far as this difference goes, if it explains
	// what there is, and reports whether it did.
	agree func(c *comparison) bool
}

// differences are applied one after the other.
var differences = []difference{
	{"RA in answers of the zone", func(c *comparison) bool {
		return c.when(c.weir.ra && !c.core.ra, func() { c.core.ra = true })
	}},
	{"class CH and others", func(c *comparison) bool {
		return c.when(c.q.class != dns.ClassINET && c.weir.rcode == dns.RcodeRefused, c.asWeir)
	}},
	{"EDNS of another version than 0", func(c *comparison) bool {
		is := c.q.version > 0 && c.weir.rcode == dns.RcodeBadVers && c.core.rcode == dns.RcodeBadVers && c.q.do && !c.core.do
		return c.when(is, func() { c.core.do = true })
	}},
	{"type ANY", func(c *comparison) bool {
		is := c.q.qtype == dns.TypeANY && c.weir.rcode == dns.RcodeSuccess && typed(c.weir.answers, "hinfo") && len(c.weir.answers) == 1
		return c.when(is && len(c.core.answers) == 0 && (c.core.rcode == dns.RcodeSuccess || c.versionName()), c.asWeir)
	}},
	{"`dns-version` with another type than TXT", func(c *comparison) bool {
		return c.when(c.versionName() && c.q.qtype != dns.TypeTXT && c.exists(), c.asWeir)
	}},
	{"name with nothing but names below it (`_tcp.web.default.svc…`)", func(c *comparison) bool {
		return c.when(c.exists() && c.nothingHere(), c.asWeir)
	}},
	{"the addresses of the zone's name server", func(c *comparison) bool {
		isNS := len(c.labels) == 0 && inZone(c.lower) && c.q.qtype == dns.TypeNS
		is := isNS || slices.Equal(c.labels, []string{"ns", "dns"}) && (c.q.qtype == dns.TypeA || c.q.qtype == dns.TypeAAAA)
		return c.when(is && c.weir.rcode == dns.RcodeSuccess && len(c.weir.answers) == 1, c.asWeir)
	}},
	{"`ns.dns` in upper case, or with types TXT and PTR", func(c *comparison) bool {
		is := slices.Equal(c.labels, []string{"ns", "dns"}) && (c.q.name != c.lower || c.q.qtype == dns.TypeTXT || c.q.qtype == dns.TypePTR)
		return c.when(is && c.weir.rcode == dns.RcodeSuccess && c.core.rcode == dns.RcodeNameError && c.negative(c.core), c.asWeir)
	}},
	{"`in-addr.arpa` and `ip6.arpa` themselves", func(c *comparison) bool {
		is := (c.lower == "in-addr.arpa." || c.lower == "ip6.arpa.") && !c.weir.aa && c.core.aa
		return c.when(is, c.asWeir)
	}},
	{"SOA at a name that does not exist", func(c *comparison) bool {
		is := c.q.qtype == dns.TypeSOA && c.weir.rcode == dns.RcodeNameError && c.negative(c.weir)
		return c.when(is && c.nothing(), func() { c.core.rcode = dns.RcodeNameError })
	}},
	{"`_port._proto` without underscores, or with type A", func(c *comparison) bool {
		s := c.service(2)
		if s == nil || c.core.rcode != dns.RcodeSuccess || c.withUnderscores(s) && c.q.qtype == dns.TypeSRV {
			return false
		}
		want := dns.RcodeNameError
		if c.withUnderscores(s) {
			want = dns.RcodeSuccess
		}
		return c.when(c.weir.rcode == want && c.negative(c.weir), c.asWeir)
	}},
	{"names below that of a pod", func(c *comparison) bool {
		n := len(c.labels)
		is := n > 3 && n <= 5 && c.labels[n-1] == "pod" && c.core.rcode == dns.RcodeSuccess && c.weir.rcode == dns.RcodeNameError
		return c.when(is && c.negative(c.weir), c.asWeir)
	}},
	{"an endpoint of a Service with a cluster IP", func(c *comparison) bool {
		s := c.service(1)
		is := s != nil && !s.headless && s.dashed[c.labels[0]] && !s.hostnames[c.labels[0]]
		return c.when(is && c.core.rcode == dns.RcodeSuccess && c.weir.rcode == dns.RcodeNameError && c.negative(c.weir), c.asWeir)
	}},
	{"SRV at the name of an endpoint or a pod", func(c *comparison) bool {
		s := c.service(1)
		is := s != nil && (s.hostnames[c.labels[0]] || s.headless && s.dashed[c.labels[0]]) || len(c.labels) == 3 && c.labels[2] == "pod"
		return c.when(is && c.q.qtype == dns.TypeSRV && typed(c.core.answers, "srv") && c.weir.rcode == dns.RcodeSuccess && c.negative(c.weir), c.asWeir)
	}},
	{"weights of SRV records", func(c *comparison) bool {
		w, okW := withoutWeights(c.weir.answers)
		k, okK := withoutWeights(c.core.answers)
		is := c.q.qtype == dns.TypeSRV && okW && okK && !slices.Equal(c.weir.answers, c.core.answers) && slices.Equal(w, k)
		return c.when(is, func() { c.core.answers = c.weir.answers })
	}},
	{"addresses with SRV records", func(c *comparison) bool {
		s := c.service(0)
		if s == nil {
			s = c.service(2)
		}
		is := s != nil && s.headless && c.q.qtype == dns.TypeSRV && len(c.weir.additional) == 0
		if is && !c.weir.tc && c.core.tc { // there would be room for the records alone
			all, err := c.whole()
			return c.when(err == nil && c.mostOf(all) && len(c.weir.answers) == len(all.answers), c.asWeir)
		}
		return c.when(is && len(c.core.additional) > 0, func() { c.core.additional = nil })
	}},
	{"PTR of a pod's address", func(c *comparison) bool {
		a, ok := address(c.lower)
		if !ok || c.q.qtype != dns.TypePTR || !c.core.aa {
			return false
		}
		at := c.known.addresses[a]
		if at == nil || at.clusterIP || !at.any {
			return false
		}
		if !at.ours { // so others are asked
			return c.when(!c.weir.aa, c.asWeir)
		}
		return c.when(len(c.weir.answers) < len(c.core.answers) && within(c.weir.answers, c.core.answers), c.asWeir)
	}},
	{"other types than PTR at the address of a Service or an endpoint", func(c *comparison) bool {
		a, ok := address(c.lower)
		at := c.known.addresses[a]
		is := ok && at != nil && (at.clusterIP || at.ours) && c.q.qtype != dns.TypePTR
		return c.when(is && c.weir.aa && !c.core.aa && c.weir.rcode == dns.RcodeSuccess && c.negative(c.weir), c.asWeir)
	}},
	{"ExternalNames in a circle", func(c *comparison) bool {
		return c.when(c.inCircle() && c.weir.rcode == dns.RcodeServerFailure && c.core.rcode == dns.RcodeSuccess, c.asWeir)
	}},
	{"ExternalName, upstream fails", func(c *comparison) bool {
		is := strings.HasPrefix(c.end(), "fail.") && c.weir.rcode == dns.RcodeServerFailure
		return c.when(is && (c.nothing() || c.core.rcode == dns.RcodeSuccess && slices.Equal(c.core.answers, c.weir.answers)), c.asWeir)
	}},
	{"ExternalName, types other than A and AAAA", func(c *comparison) bool {
		is := c.end() != "" && c.q.qtype != dns.TypeA && c.q.qtype != dns.TypeAAAA && c.q.qtype != dns.TypeCNAME
		return c.when(is && c.nothing() && aliased(c.weir), c.asWeir)
	}},
	{"ExternalName, target missing or without such a record", func(c *comparison) bool {
		is := c.end() != "" && (c.q.qtype == dns.TypeA || c.q.qtype == dns.TypeAAAA) && typed(c.weir.answers, "cname")
		silent := c.nothing() || c.core.rcode == dns.RcodeSuccess && slices.Equal(c.core.answers, c.weir.answers)
		return c.when(is && silent && typed(c.weir.authority, "soa"), c.asWeir)
	}},
	{"EDNS answers", func(c *comparison) bool {
		is := !c.q.tcp() && c.q.edns > 1232 && c.weir.tc && !c.core.tc && c.weir.size <= 1232 && c.core.size > 1232
		return c.when(is && len(c.weir.answers) > 0 && c.mostOf(c.core), c.asWeir)
	}},
	{"Long answers", func(c *comparison) bool {
		if !c.weir.tc || !c.core.tc || slices.Equal(c.weir.answers, c.core.answers) {
			return false
		}
		all, err := c.whole()
		return c.when(err == nil && len(c.weir.answers) > 0 && c.mostOf(all), c.asWeir)
	}},
}

// when does something if there is a difference that it explains.
func (c *comparison) when(is bool, do func()) bool {
	if is {
		do()
	}
	return is
}

// asWeir takes the difference for explained as a whole.
func (c *comparison) asWeir() { c.core = c.weir }

// service returns the Service in whose name there are so many labels in front; nil: there is none.
func (c *comparison) service(front int) *knownService {
	if n := len(c.labels); n != front+3 || c.labels[n-1] != "svc" {
		return nil
	}
	return c.known.services[c.labels[front]+"."+c.labels[front+1]]
}

// versionName reports whether the question is for dns-version.
func (c *comparison) versionName() bool { return slices.Equal(c.labels, []string{"dns-version"}) }

// exists reports whether weir says that the name exists but has nothing of the kind, and CoreDNS that
// it does not exist.
func (c *comparison) exists() bool {
	return c.weir.rcode == dns.RcodeSuccess && c.negative(c.weir) && c.core.rcode == dns.RcodeNameError && c.negative(c.core)
}

// nothingHere reports whether there are names below the name asked for, and nothing at it. The name of
// the zone is there only because CoreDNS says of it, too, that it does not exist: to TXT.
func (c *comparison) nothingHere() bool {
	n := len(c.labels)
	switch {
	case n == 0 || n == 1 && (c.labels[0] == "svc" || c.labels[0] == "pod"):
		return c.q.qtype == dns.TypeTXT
	case n == 1:
		return c.labels[0] == "dns"
	case n == 2 && (c.labels[1] == "svc" || c.labels[1] == "pod"):
		return c.q.qtype == dns.TypeTXT && c.known.spaces[c.labels[0]]
	}
	s := c.service(1)
	return s != nil && s.protocols[c.labels[0]]
}

// withUnderscores reports whether the name is that of a port of a service.
func (c *comparison) withUnderscores(s *knownService) bool {
	return s.ports[c.labels[0]+"."+c.labels[1]]
}

// negative reports whether an answer says no more than that, with one SOA record.
func (c *comparison) negative(a *answer) bool {
	return len(a.answers)+len(a.additional) == 0 && len(a.authority) == 1 && typed(a.authority, "soa")
}

// nothing reports whether CoreDNS says that there is nothing of the kind.
func (c *comparison) nothing() bool { return c.core.rcode == dns.RcodeSuccess && c.negative(c.core) }

// end returns what the name is an alias of in the end, "" if it is none.
func (c *comparison) end() string {
	at := ""
	for range 20 {
		s := c.known.serviceAt(c.lower)
		if at != "" {
			s = c.known.serviceAt(at)
		}
		if s == nil || s.alias == "" {
			break
		}
		at = s.alias
	}
	return at
}

// inCircle reports whether the name is an alias of itself, or of such a name, or of too many.
func (c *comparison) inCircle() bool {
	at := c.lower
	for range 9 {
		s := c.known.serviceAt(at)
		if s == nil || s.alias == "" {
			return false
		}
		at = s.alias
	}
	return true
}

func (k *known) serviceAt(name string) *knownService {
	short, ok := strings.CutSuffix(name, ".svc.cluster.local.")
	if !ok {
		return nil
	}
	return k.services[short]
}

// mostOf reports whether both answers are parts of all that there is.
func (c *comparison) mostOf(all *answer) bool {
	w, okW := withoutWeights(c.weir.answers)
	k, okK := withoutWeights(c.core.answers)
	a, okA := withoutWeights(all.answers)
	if okW && okK && okA {
		return within(w, a) && within(k, a)
	}
	return within(c.weir.answers, all.answers) && within(c.core.answers, all.answers)
}

// aliased reports whether an answer begins with an alias.
func aliased(a *answer) bool {
	return slices.ContainsFunc(a.answers, func(rr string) bool { return strings.Contains(rr, " cname ") })
}

// withoutWeights returns SRV records without their weights; false if these are not all the same.
func withoutWeights(rrs []string) (list []string, ok bool) {
	weight := ""
	for _, rr := range rrs {
		f := strings.Fields(rr) // owner ttl in srv priority weight port target
		if len(f) != 8 || f[3] != "srv" || weight != "" && f[5] != weight {
			return nil, false
		}
		weight, f[5] = f[5], "*"
		list = append(list, strings.Join(f, " "))
	}
	slices.Sort(list)
	return list, len(list) > 0
}

// address returns the address that a reverse name is about.
func address(lower string) (netip.Addr, bool) {
	if front, ok := strings.CutSuffix(lower, ".in-addr.arpa."); ok {
		labels := strings.Split(front, ".")
		slices.Reverse(labels)
		a, err := netip.ParseAddr(strings.Join(labels, "."))
		return a, err == nil && a.Is4()
	}
	front, ok := strings.CutSuffix(lower, ".ip6.arpa.")
	nibbles := strings.Split(front, ".")
	if !ok || len(nibbles) != 32 {
		return netip.Addr{}, false
	}
	slices.Reverse(nibbles)
	text := ""
	for i, n := range nibbles {
		if i > 0 && i%4 == 0 {
			text += ":"
		}
		text += n
	}
	a, err := netip.ParseAddr(text)
	return a, err == nil
}
