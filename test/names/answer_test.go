//go:build linux

package names

import (
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// answer is a response in a form in which two can be compared: names in lower case, records sorted.
type answer struct {
	rcode      int
	aa, tc     bool
	rd, ra, cd bool
	question   string
	answers    []string
	authority  []string
	additional []string // without OPT
	edns, do   bool
	size       int // of the message, in bytes
}

func parseAnswer(b []byte) (*answer, error) {
	var m dns.Msg
	if err := m.Unpack(b); err != nil {
		return nil, fmt.Errorf("response %x: %w", b, err)
	}
	a := &answer{rcode: m.Rcode, aa: m.Authoritative, tc: m.Truncated, rd: m.RecursionDesired, ra: m.RecursionAvailable,
		cd: m.CheckingDisabled, size: len(b)}
	if len(m.Question) == 1 {
		a.question = m.Question[0].String() // in the case in which it was asked
	}
	a.answers, a.authority, a.additional = records(m.Answer), records(m.Ns), records(m.Extra)
	if opt := m.IsEdns0(); opt != nil {
		a.edns, a.do = true, opt.Do()
		if len(opt.Option) > 0 {
			return nil, fmt.Errorf("EDNS options: %v", opt)
		}
	}
	return a, nil
}

// records writes records so that equal ones are the same text.
func records(rrs []dns.RR) (list []string) {
	for _, rr := range rrs {
		if rr.Header().Rrtype == dns.TypeOPT {
			continue
		}
		rr = dns.Copy(rr)
		h := rr.Header()
		h.Name = strings.ToLower(h.Name)
		if !inZone(h.Name) && !isReverse(h.Name) {
			h.Ttl = 0 // it counts down, in one of the two at least
		}
		if soa, ok := rr.(*dns.SOA); ok {
			soa.Serial = min(soa.Serial, 1)
		}
		list = append(list, strings.ToLower(strings.Join(strings.Fields(rr.String()), " ")))
	}
	slices.Sort(list)
	return list
}

func (a *answer) String() string {
	flags := ""
	for _, f := range []struct {
		set  bool
		name string
	}{{a.aa, " aa"}, {a.tc, " tc"}, {a.rd, " rd"}, {a.ra, " ra"}, {a.cd, " cd"}, {a.edns, " edns"}, {a.do, " do"}} {
		if f.set {
			flags += f.name
		}
	}
	text := dns.RcodeToString[a.rcode] + flags + " to " + a.question
	for _, s := range []struct {
		name string
		rrs  []string
	}{{"answer", a.answers}, {"authority", a.authority}, {"additional", a.additional}} {
		for _, rr := range s.rrs {
			text += "\n\t" + s.name + " " + rr
		}
	}
	return text
}

// same reports whether two answers say the same. Sizes are not part of that.
func same(a, b *answer) bool {
	x, y := *a, *b
	x.size, y.size = 0, 0
	return x.String() == y.String()
}

// typed reports whether all records of a list are of some type, and there is one.
func typed(rrs []string, rrtype string) bool {
	for _, rr := range rrs {
		if f := strings.Fields(rr); len(f) < 4 || f[3] != rrtype {
			return false
		}
	}
	return len(rrs) > 0
}

// within reports whether all records of a list are in another, none of them twice.
func within(some, all []string) bool {
	rest := slices.Clone(all)
	for _, rr := range some {
		i := slices.Index(rest, rr)
		if i < 0 {
			return false
		}
		rest = slices.Delete(rest, i, i+1)
	}
	return true
}
