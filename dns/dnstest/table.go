// Package dnstest holds servers of the cluster's names against a table of queries and answers, and is
// an upstream for them. Tests use it in the process and beside it.
package dnstest

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// Case is a query and its answer.
type Case struct {
	Text   string   // the name and the type, as the table has them
	Query  []byte   // the message; its ID is ID
	Answer []string // as Describe gives it
}

// ID is that of every query in a table.
const ID = 0x1234

// ReadTable reads a file of queries and answers. dns/testdata/answers.txt tells how it is written.
func ReadTable(path string) (cases []Case, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	number := 0
	for line := range strings.Lines(string(b)) {
		line = strings.TrimRight(line, "\n")
		number++
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '\t':
			if len(cases) == 0 {
				return nil, fmt.Errorf("%s:%d: an answer without a query", path, number)
			}
			last := &cases[len(cases)-1]
			last.Answer = append(last.Answer, line[1:])
		default:
			fields := strings.Fields(line)
			if len(fields) < 2 {
				return nil, fmt.Errorf("%s:%d: %q has no type", path, number, line)
			}
			query, err := Query(fields[0], fields[1], slices.Contains(fields, "CH"))
			if err != nil {
				return nil, fmt.Errorf("%s:%d: %w", path, number, err)
			}
			cases = append(cases, Case{Text: line, Query: query})
		}
	}
	if len(cases) == 0 {
		return nil, fmt.Errorf("%s has no query", path)
	}
	for _, c := range cases {
		slices.Sort(c.Answer)
	}
	return cases, nil
}

const typeHINFO dnsmessage.Type = 13

var types = map[string]dnsmessage.Type{"A": dnsmessage.TypeA, "AAAA": dnsmessage.TypeAAAA, "SRV": dnsmessage.TypeSRV,
	"PTR": dnsmessage.TypePTR, "TXT": dnsmessage.TypeTXT, "CNAME": dnsmessage.TypeCNAME, "SOA": dnsmessage.TypeSOA,
	"NS": dnsmessage.TypeNS, "MX": dnsmessage.TypeMX, "ANY": dnsmessage.TypeALL, "AXFR": dnsmessage.TypeAXFR}

// Query returns a query that wants recursion, of the class CH instead of IN if it is to be chaos.
func Query(name, qtype string, chaos bool) ([]byte, error) {
	t, ok := types[qtype]
	if !ok {
		return nil, fmt.Errorf("type %s", qtype)
	}
	n, err := dnsmessage.NewName(name)
	if err != nil {
		return nil, fmt.Errorf("name %s: %w", name, err)
	}
	if n.Length > 0 && n.Data[n.Length-1] != '.' {
		return nil, fmt.Errorf("name %s does not end in a dot", name)
	}
	class := dnsmessage.ClassINET
	if chaos {
		class = dnsmessage.ClassCHAOS
	}
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: ID, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: n, Type: t, Class: class}}}
	return m.Pack()
}

var rcodes = map[dnsmessage.RCode]string{1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"}

// Describe writes an answer as a table has it, sorted.
func Describe(answer []byte) (lines []string, err error) {
	var m dnsmessage.Message
	if err := m.Unpack(answer); err != nil {
		return nil, fmt.Errorf("answer %x: %w", answer, err)
	}
	if m.ID != ID {
		return nil, fmt.Errorf("answer with ID %x", m.ID)
	}
	if m.RCode != dnsmessage.RCodeSuccess {
		lines = append(lines, rcodes[m.RCode])
	}
	if flags := flagsOf(&m); flags != " qr aa rd ra" {
		lines = append(lines, "flags"+flags)
	}
	for _, section := range []struct {
		name    string
		records []dnsmessage.Resource
	}{{"answer", m.Answers}, {"authority", m.Authorities}, {"additional", m.Additionals}} {
		for _, r := range section.records {
			if r.Header.Type != dnsmessage.TypeOPT {
				lines = append(lines, section.name+" "+describeRecord(r))
			}
		}
	}
	slices.Sort(lines)
	return lines, nil
}

func flagsOf(m *dnsmessage.Message) (flags string) {
	for _, f := range []struct {
		set  bool
		name string
	}{{m.Response, " qr"}, {m.Authoritative, " aa"}, {m.Truncated, " tc"}, {m.RecursionDesired, " rd"}, {m.RecursionAvailable, " ra"}} {
		if f.set {
			flags += f.name
		}
	}
	return flags
}

func describeRecord(r dnsmessage.Resource) string {
	s := fmt.Sprintf("%s %d ", r.Header.Name, r.Header.TTL)
	switch b := r.Body.(type) {
	case *dnsmessage.AResource:
		return s + "A " + netip.AddrFrom4(b.A).String()
	case *dnsmessage.AAAAResource:
		return s + "AAAA " + netip.AddrFrom16(b.AAAA).String()
	case *dnsmessage.CNAMEResource:
		return s + "CNAME " + b.CNAME.String()
	case *dnsmessage.NSResource:
		return s + "NS " + b.NS.String()
	case *dnsmessage.PTRResource:
		return s + "PTR " + b.PTR.String()
	case *dnsmessage.SRVResource:
		return s + fmt.Sprintf("SRV %d %d %d %s", b.Priority, b.Weight, b.Port, b.Target)
	case *dnsmessage.TXTResource:
		return s + fmt.Sprintf("TXT %q", strings.Join(b.TXT, ""))
	case *dnsmessage.SOAResource:
		if b.MinTTL > 5 || b.Serial == 0 || b.NS.String() != "ns.dns.cluster.local." || b.MBox.String() != "hostmaster.cluster.local." {
			return s + fmt.Sprintf("SOA %+v", *b)
		}
		return s + "SOA"
	case *dnsmessage.UnknownResource:
		if b.Type == typeHINFO {
			return s + "HINFO"
		}
	}
	return s + r.Header.Type.String()
}
