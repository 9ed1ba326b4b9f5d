//go:build linux

package packets

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/weir-project/weir/internal/netlab"
)

// packet is a line of the specification. See the package's story.
type packet struct{ name, from, to, want string }

// verdict is what becomes of a packet, in one word.
type verdict uint8

const (
	answered verdict = iota
	sticky           // one endpoint answers, and always the same
	refused
	dropped
	unserved
)

// wanted is what must come of a probe.
type wanted struct {
	verdict verdict
	sources map[string]netip.Addr // who answers, as addr:port, and whom it sees
}

// check is one line of the specification in one family and protocol from one host.
type check struct {
	host   *netlab.Host
	source netip.Addr // bound to; the zero value leaves the choice to the kernel
	own    netip.Addr // the source that endpoints see if nobody masquerades
	proto  netlab.Protocol
	dst    netip.AddrPort
	want   wanted
}

func (c check) String() string {
	from := c.host.Name
	if c.source.IsValid() {
		from += "@" + c.source.String()
	}
	return fmt.Sprintf("%s to %s/%s", from, c.dst, c.proto)
}

// defaultPort is where endpoints listen unless a case says otherwise.
const defaultPort = 8080

// families6 maps the lab's networks to their IPv6 counterparts.
var families6 = map[string]string{
	"10.96.0.":     "fd00:10:96::",
	"10.97.0.":     "fd00:10:97::",
	"10.244.1.":    "fd00:10:244:1::",
	"10.244.2.":    "fd00:10:244:2::",
	"172.31.0.":    "fd00:31::",
	"192.168.200.": "fd00:c11e::",
	"198.18.0.":    "fd00:18::",
	"203.0.113.":   "2001:db8:113::",
	"127.0.0.":     "::",
}

// family is 4 or 6.
type family int

func (f family) has(a netip.Addr) bool { return a.IsValid() && a.Is4() == (f == 4) }

// addr reads an IPv4 address, and returns its counterpart in the family.
func (f family) addr(s string) (netip.Addr, error) {
	if f == 6 {
		at := strings.LastIndexByte(s, '.') + 1
		prefix, ok := families6[s[:at]]
		if !ok {
			return netip.Addr{}, fmt.Errorf("%s has no counterpart in IPv6", s)
		}
		s = prefix + s[at:]
	}
	return netip.ParseAddr(s)
}

// of returns the address of a host.
func (f family) of(h *netlab.Host) netip.Addr {
	if f == 4 {
		return h.Addr4
	}
	return h.Addr6
}

// hosts finds the lab's hosts by name. A literal address is one, too.
type hosts struct {
	lab    *netlab.Lab
	family family
}

func (h hosts) host(name string) (*netlab.Host, error) {
	for _, host := range h.lab.Hosts() {
		if host.Name == name {
			return host, nil
		}
	}
	return nil, fmt.Errorf("there is no host %q", name)
}

// addr returns the address of a host or of a literal.
func (h hosts) addr(s string) (netip.Addr, error) {
	if isLiteral(s) {
		return h.family.addr(s)
	}
	host, err := h.host(s)
	if err != nil {
		return netip.Addr{}, err
	}
	return h.family.of(host), nil
}

func isLiteral(s string) bool { return s != "" && s[0] >= '0' && s[0] <= '9' }

// sender reads one word of packet.from into a check.
func (h hosts) sender(word string) (c check, err error) {
	name, source, bound := strings.Cut(word, "@")
	if c.host, err = h.host(name); err != nil {
		return c, err
	}
	c.own = h.family.of(c.host)
	if bound {
		c.source, err = h.family.addr(source)
		c.own = c.source
	}
	return c, err
}

// wanted reads packet.want, for a sender with its own address.
func (h hosts) wanted(want string, own netip.Addr) (w wanted, err error) {
	for v, word := range map[verdict]string{refused: "refused", dropped: "dropped", unserved: "unserved"} {
		if want == word {
			return wanted{verdict: v}, nil
		}
	}
	w.sources = map[string]netip.Addr{}
	if rest, ok := strings.CutPrefix(want, "one of "); ok {
		w.verdict, want = sticky, rest
	}
	for group := range strings.SplitSeq(want, ",") {
		list, as, masqueraded := strings.Cut(group, " as ")
		source := own
		if masqueraded {
			if source, err = h.addr(strings.TrimSpace(as)); err != nil {
				return w, err
			}
		}
		for _, word := range strings.Fields(list) {
			name, port := word, uint64(defaultPort)
			if n, p, ok := strings.Cut(word, ":"); ok {
				name = n
				if port, err = strconv.ParseUint(p, 10, 16); err != nil {
					return w, err
				}
			}
			a, err := h.addr(name)
			if err != nil {
				return w, err
			}
			w.sources[netip.AddrPortFrom(a, uint16(port)).String()] = source
		}
	}
	if len(w.sources) == 0 {
		return w, fmt.Errorf("%q wants nothing", want)
	}
	return w, nil
}

// target is where a case goes to, in one family.
type target struct {
	dst    netip.AddrPort
	protos []netlab.Protocol
}

var protocols = []netlab.Protocol{netlab.TCP, netlab.UDP, netlab.SCTP}

// target reads packet.to. It is nil if the case is not for this family.
func (h hosts) target(to string, objects *objects) (*target, error) {
	words := strings.Fields(to)
	if len(words) == 0 {
		return nil, fmt.Errorf("no destination")
	}
	var only []netlab.Protocol
	families := map[string]bool{}
	for _, w := range words[1:] {
		at := slices.IndexFunc(protocols, func(p netlab.Protocol) bool { return p.String() == w })
		switch {
		case at >= 0:
			only = append(only, protocols[at])
		case w == "v4" || w == "v6":
			families[w] = true
		default:
			return nil, fmt.Errorf("what is %q behind a destination?", w)
		}
	}
	if len(families) > 0 && !families[fmt.Sprintf("v%d", h.family)] {
		return nil, nil
	}
	t, err := h.frontend(words[0], objects)
	if err == nil && len(only) > 0 {
		t.protos = only
	}
	return t, err
}

// frontend reads the first word of packet.to.
func (h hosts) frontend(word string, objects *objects) (*target, error) {
	name, number, _ := strings.Cut(word, ":")
	name, what, _ := strings.Cut(name, "/")
	port, err := strconv.ParseUint(cmpOr(number, "0"), 10, 16)
	if err != nil {
		return nil, err
	}
	if s := objects.services[name]; s != nil {
		return objects.frontend(s, what, uint16(port), h)
	}
	a, err := h.addr(name)
	if err != nil {
		return nil, fmt.Errorf("%w, nor a service of this name", err)
	}
	if port == 0 {
		return nil, fmt.Errorf("%s needs a port", word)
	}
	return &target{netip.AddrPortFrom(a, uint16(port)), protocols}, nil
}

func cmpOr(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// checks returns what a line stands for.
func (p packet) checks(lab *netlab.Lab, objects *objects, families []family) (list []check, err error) {
	for _, f := range families {
		h := hosts{lab, f}
		t, err := h.target(p.to, objects)
		if err != nil {
			return nil, err
		}
		if t == nil {
			continue
		}
		for _, word := range strings.Fields(p.from) {
			c, err := h.sender(word)
			if err != nil {
				return nil, err
			}
			if c.want, err = h.wanted(p.want, c.own); err != nil {
				return nil, err
			}
			for _, c.proto = range t.protos {
				c.dst = t.dst
				list = append(list, c)
			}
		}
	}
	return list, nil
}

// patience says how long a probe waits.
func (v verdict) patience() time.Duration {
	switch v {
	case refused:
		return time.Second
	case dropped, unserved:
		return 400 * time.Millisecond
	}
	return 4 * time.Second
}

// run probes until it is clear whether the check holds, and returns what has become of the probes and
// what is wrong with that.
func (c check) run() (got *seen, fault string) {
	got = &seen{sources: map[string]map[netip.Addr]int{}}
	switch c.want.verdict {
	case answered, sticky:
		// Enough for the rarest of n endpoints to be missed once in 100 million times; and if all
		// have answered, enough for a stranger among them to be seen.
		n := len(c.want.sources)
		for most, some := tries(n), 4*n; got.probes < most; {
			if len(got.sources) >= n && got.probes >= some {
				break
			}
			got.add(c.host.Probe(c.proto, c.dst, netlab.ProbeOptions{Timeout: c.want.verdict.patience(), Source: c.source}))
			if got.other > 0 && got.probes >= 3 {
				break // one that went wrong is enough; the other two tell how
			}
		}
	default:
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				r := c.host.Probe(c.proto, c.dst, netlab.ProbeOptions{Timeout: c.want.verdict.patience(), Source: c.source})
				got.locked(r)
			})
		}
		wg.Wait()
	}
	if why := got.judge(c.want); why != "" {
		return got, fmt.Sprintf("%s: %s", c, why)
	}
	return got, ""
}

// tries is the number of draws among n after which all of them have come up, but for one time in
// 100 million.
func tries(n int) int {
	most, p := n, 1.0
	for left := 1 - 1/float64(n); n > 1 && p*float64(n) > 1e-8; most++ {
		p *= left
	}
	return max(most, 4)
}

// seen is what has become of the probes of a check.
type seen struct {
	mu      sync.Mutex
	probes  int
	sources map[string]map[netip.Addr]int // who answered, and whom it saw
	results [4]int                        // by outcome
	other   int                           // not answered
	errs    []string
}

func (s *seen) locked(r netlab.Result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(r)
}

func (s *seen) add(r netlab.Result) {
	s.probes++
	s.results[r.Outcome]++
	if r.Outcome != netlab.Answered {
		s.other++
		s.errs = append(s.errs, r.String())
		return
	}
	if s.sources[r.By] == nil {
		s.sources[r.By] = map[netip.Addr]int{}
	}
	s.sources[r.By][r.SourceSeen]++
}

// answers describes who answered.
func answers[V any](m map[string]V, value func(V) string) string {
	var list []string
	for _, by := range slices.Sorted(maps.Keys(m)) {
		list = append(list, by+" who saw "+value(m[by]))
	}
	if len(list) == 0 {
		return "nobody"
	}
	return strings.Join(list, ", ")
}

func (s *seen) String() string {
	text := fmt.Sprintf("%d answered: %s", s.results[netlab.Answered], answers(s.sources, func(m map[netip.Addr]int) string { return fmt.Sprint(m) }))
	if len(s.errs) > 0 {
		slices.Sort(s.errs)
		text += "; " + strings.Join(slices.Compact(s.errs), "; ")
	}
	return text
}

// judge returns what is wrong, or nothing.
func (s *seen) judge(w wanted) string {
	right := true
	switch w.verdict {
	case refused:
		right = s.results[netlab.Refused] == s.probes
	case dropped:
		right = s.results[netlab.Dropped] == s.probes
	case unserved: // the witness has the last word
		right = s.results[netlab.Answered] == 0 && s.results[netlab.Failed] == 0
	case answered, sticky:
		right = s.results[netlab.Answered] == s.probes
		for by, sources := range s.sources {
			want, ok := w.sources[by]
			right = right && ok && len(sources) == 1 && sources[want] > 0
		}
		if w.verdict == sticky {
			right = right && len(s.sources) == 1
		} else {
			right = right && len(s.sources) == len(w.sources)
		}
	}
	if right {
		return ""
	}
	return fmt.Sprintf("%s; want %s", s, w)
}

func (w wanted) String() string {
	switch w.verdict {
	case refused:
		return "refused"
	case dropped:
		return "dropped"
	case unserved:
		return "unserved"
	}
	text := answers(w.sources, netip.Addr.String)
	if w.verdict == sticky {
		return "one of " + text
	}
	return text
}
