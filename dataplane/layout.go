package dataplane

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// LocalDetection says how a connection that a pod begins is told from a stranger's, at
// prerouting and postrouting. The zero value cannot tell them apart: then nothing that goes to a
// cluster IP is masqueraded, and no pod is excepted from externalTrafficPolicy Local.
type LocalDetection struct {
	CIDRs           []netip.Prefix // the pods' addresses, any number in either family
	Interface       string         // the bridge that pods are on
	InterfacePrefix string         // what the names of the pods' interfaces begin with
}

// Detects reports whether a connection from an address, coming in by an interface, is a pod's.
func (d *LocalDetection) Detects(from netip.Addr, iface string) bool {
	return slices.ContainsFunc(d.CIDRs, func(c netip.Prefix) bool { return c.Contains(from) }) ||
		iface != "" && (iface == d.Interface || d.InterfacePrefix != "" && strings.HasPrefix(iface, d.InterfacePrefix))
}

// Layout is what the rules depend on. Everything else is elements.
type Layout struct {
	Local         LocalDetection
	MasqueradeAll bool // masquerade whatever goes to a cluster IP
	// CountConnections counts the connections that are given an endpoint, by frontend; see Counters.
	CountConnections bool
	DNS              DNS
}

// detects reports whether the layout can tell pods in this family.
func (l *Layout) detects(fam *family) bool {
	return l.Local.Interface != "" || l.Local.InterfacePrefix != "" || len(l.podCIDRs(fam)) > 0
}

func (l *Layout) podCIDRs(fam *family) []netip.Prefix {
	var cidrs []netip.Prefix
	for _, c := range l.Local.CIDRs {
		if c.Addr().Is4() == (fam == ipv4) {
			cidrs = append(cidrs, c.Masked())
		}
	}
	return cidrs
}

// The table of each family is named Table. While one layout hands over to another, both names
// are in use.
const (
	Table      = "weir"
	otherTable = "weir-2"
)

// Priorities of the base chains. Before and behind everybody's dstnat (-100), and before
// everybody's srcnat (100): at equal priority the order would change with every restart.
const (
	priorityDispatch    = -105
	priorityUnserved    = -90
	priorityPostrouting = 95
)

// draws is how often a class draws a slot before it falls back to its lower half.
const draws = 8

// family is what differs between ip and ip6.
type family struct {
	name     string // as nft has it
	nfproto  uint8  // NFPROTO_*
	addrLen  int    // bytes
	addrType uint32 // nft's number of the data type ipv4_addr or ipv6_addr
	saddr    uint32 // offset of the source address in the network header
	daddr    uint32
	ctDst    uint32 // NFT_CT_DST_IP or NFT_CT_DST_IP6
}

var (
	ipv4 = &family{name: "ip", nfproto: unix.NFPROTO_IPV4, addrLen: 4, addrType: 7, saddr: 12, daddr: 16, ctDst: 20}
	ipv6 = &family{name: "ip6", nfproto: unix.NFPROTO_IPV6, addrLen: 16, addrType: 8, saddr: 8, daddr: 24, ctDst: 22}
)

func familyOf(a netip.Addr) *family {
	if a.Is4() {
		return ipv4
	}
	return ipv6
}

// nft's numbers of data types. A concatenation has six bits for each part.
const (
	typeInetProto   = 12
	typeInetService = 13
	typeMark        = 19
	typeVerdict     = 0xffffff00
)

// field is one part of a set's key or data.
type field uint8

const (
	fieldProtocol field = iota
	fieldAddr
	fieldPort
	fieldSlot
)

func (f field) size(fam *family) int {
	if f == fieldAddr {
		return fam.addrLen
	}
	return 4 // registers are 32 bit wide
}

func (f field) typ(fam *family) uint32 {
	switch f {
	case fieldProtocol:
		return typeInetProto
	case fieldAddr:
		return fam.addrType
	case fieldPort:
		return typeInetService
	default:
		// The slot comes from numgen, in host byte order, and mark is the plain type that has it.
		// (typeof in the set's user data would name numgen, and makes nft 1.0.6 crash.)
		return typeMark
	}
}

// schema says how a set looks to the kernel.
type schema struct {
	name  string
	key   []field
	data  []field // nil: no map, unless verdict
	flags uint32  // NFT_SET_*
	size  uint32  // most elements; 0: no limit
}

const (
	verdictMap = 1 << 31 // in schema.flags: the data is a verdict
	setConcat  = 0x80    // NFT_SET_CONCAT
)

var frontendKey = []field{fieldProtocol, fieldAddr, fieldPort}

// schemas are the sets in the order of their numbers. AffinityOf stands for one set per timeout.
var schemas = [numSets + 1]schema{
	Services:       {name: "services", key: frontendKey, flags: verdictMap},
	LocalServices:  {name: "local-services", key: frontendKey, flags: verdictMap},
	Endpoints:      {name: "endpoints", key: append(frontendKey[:3:3], fieldSlot), data: []field{fieldAddr, fieldPort}},
	LocalEndpoints: {name: "local-endpoints", key: append(frontendKey[:3:3], fieldSlot), data: []field{fieldAddr, fieldPort}},
	ClusterIPs:     {name: "cluster-ips", key: []field{fieldAddr}},
	Hairpin:        {name: "hairpin", key: []field{fieldAddr, fieldAddr}},
	SnatAlways:     {name: "snat-always", key: frontendKey},
	SnatNode:       {name: "snat-node", key: frontendKey},
	Restricted:     {name: "restricted", key: frontendKey},
	AllowedSources: {name: "allowed-sources", key: append(frontendKey[:3:3], fieldAddr), flags: unix.NFT_SET_INTERVAL | setConcat},
	AffinityOf:     {name: "affinity-", key: frontendKey},
	Affinity: {name: "affinity", key: append([]field{fieldAddr}, frontendKey...), data: []field{fieldAddr, fieldPort},
		flags: unix.NFT_SET_TIMEOUT | unix.NFT_SET_EVAL, size: MaxAffinity},
	ServiceCIDRs: {name: "service-cidrs", key: []field{fieldAddr}, flags: unix.NFT_SET_INTERVAL},
	dnsAlive:     {name: "dns-alive", key: frontendKey, flags: unix.NFT_SET_TIMEOUT},
}

// String returns the set's name in the kernel.
func (s Set) String() string {
	if int(s) < len(schemas) {
		return schemas[s].name
	}
	return "set " + strconv.Itoa(int(s))
}

// isMap reports whether elements of the set carry data.
func (s *schema) isMap() bool { return s.data != nil || s.flags&verdictMap != 0 }

// interval reports whether elements of the set are ranges.
func (s *schema) interval() bool { return s.flags&unix.NFT_SET_INTERVAL != 0 }

// setName returns the name of the set that an element belongs to.
func setName(s Set, timeout time.Duration) string {
	if s == AffinityOf {
		return schemas[s].name + strconv.Itoa(int(timeout/time.Second))
	}
	return schemas[s].name
}

// affinityTimeout is the reverse of setName for AffinityOf.
func affinityTimeout(name string) (time.Duration, bool) {
	prefix := schemas[AffinityOf].name
	if len(name) <= len(prefix) || name[:len(prefix)] != prefix {
		return 0, false
	}
	n, err := strconv.ParseUint(name[len(prefix):], 10, 32)
	return time.Duration(n) * time.Second, err == nil && n > 0
}

// chain is a chain of the layout and its rules.
type chain struct {
	name     string
	hook     string // "" unless a base chain: prerouting, input, output or postrouting
	typ      string // of a base chain; "": nat
	priority int32
	rules    []rule
	late     bool // made when the first verdict leads there, see class
}

var hooks = map[string]uint32{
	"prerouting":  unix.NF_INET_PRE_ROUTING,
	"output":      unix.NF_INET_LOCAL_OUT,
	"input":       unix.NF_INET_LOCAL_IN,
	"postrouting": unix.NF_INET_POST_ROUTING,
}

// chains returns the layout's chains in an order in which each refers only to earlier ones, with those of
// all classes.
func (l *Layout) chains(fam *family) []chain {
	w := words{fam}
	refuse := chain{name: "refuse", rules: []rule{
		w.rule(w.protocolIs(unix.IPPROTO_TCP), w.rejectReset()),
		w.rule(w.reject()),
	}}
	chains := []chain{refuse}
	for k := range MaxClass + 1 {
		chains = append(chains, w.class(Verdict(k)+lbBase), w.class(Verdict(k)+lbLocalBase))
	}

	offCluster := chain{name: "off-cluster"}
	for _, pods := range l.pods(w) {
		offCluster.rules = append(offCluster.rules, w.rule(pods, w.ret()))
	}
	offCluster.rules = append(offCluster.rules,
		w.rule(w.fromNode(), w.ret()),
		w.rule(w.frontend(), w.dispatch(LocalServices)))

	dispatch := chain{name: "dispatch", rules: []rule{
		w.rule(w.frontend(), w.in(Restricted), w.frontendAndSource(), w.notIn(AllowedSources), w.drop()),
		w.rule(w.sourceAndFrontend(), w.translate(Affinity)),
		w.rule(w.jump("off-cluster")),
		w.rule(w.frontend(), w.dispatch(Services)),
		// Once more, for a packet that looks just as a transaction turns over: what leaves here
		// untranslated would stay so for as long as its conntrack entry lives.
		w.rule(w.frontend(), w.dispatch(Services)),
	}}
	unserved := chain{name: "unserved", rules: append(l.dnsRefuse(w),
		w.rule(w.destination(), w.in(ClusterIPs), w.jumpTo("refuse")),
		w.rule(w.destination(), w.in(ServiceCIDRs), w.drop()))}

	strangers := chain{name: "masquerade-strangers"}
	if !l.MasqueradeAll {
		for _, pods := range l.pods(w) {
			strangers.rules = append(strangers.rules, w.rule(pods, w.ret()))
		}
	}
	strangers.rules = append(strangers.rules, w.rule(w.masquerade()))
	postrouting := chain{name: "postrouting", hook: "postrouting", priority: priorityPostrouting}
	postrouting.rules = append(l.dnsMasquerade(w, w.notTranslated()), w.rule(w.notTranslated(), w.ret()))
	// What goes to a socket of this node never comes to postrouting.
	input := chain{name: "input", hook: "input", priority: priorityPostrouting, rules: []rule{w.rule(w.notTranslated(), w.ret())}}
	for _, c := range []*chain{&postrouting, &input} {
		if l.CountConnections {
			c.rules = append(c.rules, w.rule(w.jump("count")))
		}
		c.rules = append(c.rules, w.rule(w.jump("remember")))
	}
	if l.CountConnections {
		chains = append(chains, w.countChain())
	}
	postrouting.rules = append(postrouting.rules, l.dnsMasquerade(w)...)
	postrouting.rules = append(postrouting.rules,
		w.rule(w.sourceAndDestination(), w.in(Hairpin), w.masquerade()),
		w.rule(w.originalFrontend(), w.in(SnatAlways), w.masquerade()),
		w.rule(w.originalFrontend(), w.in(SnatNode), w.fromNode(), w.masquerade()))
	if l.MasqueradeAll || l.detects(fam) {
		postrouting.rules = append(postrouting.rules, w.rule(w.originalDestination(), w.in(ClusterIPs), w.jumpTo("masquerade-strangers")))
	}
	chains = append(chains, offCluster, dispatch, unserved, strangers,
		chain{name: "remember"}, // a rule per affinity timeout in use, see affinityRule
		chain{name: "prerouting", hook: "prerouting", priority: priorityDispatch, rules: []rule{w.rule(w.jump("dispatch"))}},
		chain{name: "output", hook: "output", priority: priorityDispatch, rules: []rule{w.rule(w.jump("dispatch"))}},
		chain{name: "unserved-in", hook: "prerouting", priority: priorityUnserved, rules: []rule{w.rule(w.jump("unserved"))}},
		chain{name: "unserved-out", hook: "output", priority: priorityUnserved, rules: []rule{w.rule(w.jump("unserved"))}},
		input, postrouting)
	return append(chains, l.dnsChains(w)...)
}

// firstChains returns the chains that a table has from the beginning.
func (l *Layout) firstChains(fam *family) []chain {
	return slices.DeleteFunc(l.chains(fam), func(c chain) bool { return c.late })
}

// rules returns how many rules a table has to which some were added since it was made.
func (l *Layout) rules(fam *family, more added) int {
	n := len(more.timeouts)
	for _, c := range l.firstChains(fam) {
		n += len(c.rules)
	}
	for v := range more.classes {
		n += len(words{fam}.class(v).rules)
	}
	return n
}

// pods returns one condition for each way in which a packet can come from a pod.
func (l *Layout) pods(w words) [][]expression {
	var conditions [][]expression
	for _, cidr := range l.podCIDRs(w.fam) {
		conditions = append(conditions, w.sourceWithin(cidr))
	}
	if l.Local.Interface != "" {
		conditions = append(conditions, w.interfaceIs(l.Local.Interface))
	}
	if l.Local.InterfacePrefix != "" {
		conditions = append(conditions, w.interfaceBegins(l.Local.InterfacePrefix))
	}
	return conditions
}

// class returns the chain that carries out an lb verdict: it draws a slot below the class, and again
// when the slot is empty. A frontend of the class n has more than n/2 endpoints, so that a draw
// misses less than half the time; when all have missed, a slot of the lower half always hits.
// No endpoint is favoured by more than 0.4 % (2^-8). It never falls through.
//
// The kernel checks every element that is added to a map against every rule that looks into the map. With the
// chains of all classes that was a third of what loading 250,000 endpoints cost (kernel 6.18). So a table has
// those of the classes that its verdicts have led to, and those of class 1, by which the first transaction
// finds out whether the kernel has what they need.
func (w words) class(v Verdict) chain {
	n, slots := uint32(v.Class()), Endpoints
	if v >= lbLocalBase {
		slots = LocalEndpoints
	}
	c := chain{name: v.Chain(), late: n > 1}
	tries := draws
	if n == 1 {
		tries = 1
	}
	for range tries {
		c.rules = append(c.rules, w.rule(w.frontendAndSlot(n), w.translate(slots)))
	}
	c.rules = append(c.rules,
		w.rule(w.frontendAndSlot(max(n/2, 1)), w.translate(slots)),
		w.rule(w.drop()))
	return c
}

// affinityRule remembers which endpoint a client of a frontend with this timeout was given.
func affinityRule(fam *family, timeout time.Duration) rule {
	w := words{fam}
	return w.rule(w.originalFrontend(), w.inNamed(setName(AffinityOf, timeout)), w.remember(timeout))
}

// fingerprint identifies the layout of a family's table, whatever the table is called. Two
// layouts with the same fingerprint can adopt each other's tables.
func (l *Layout) fingerprint(fam *family) string {
	var m messages
	all := l.chains(fam)
	appendTable(&m, fam, l, "", 0, all)
	appendRules(&m, fam, "", all)
	sum := sha256.Sum256(m.b)
	return hex.EncodeToString(sum[:8])
}

// comment is the table's comment, by which a later process knows the layout.
func (l *Layout) comment(fam *family) string {
	return fmt.Sprintf("weir layout %s", l.fingerprint(fam))
}
