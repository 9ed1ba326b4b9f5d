package dataplane

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/big"
	"math/bits"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Elements is what the maps of a ruleset hold, for who walks the rules.
type Elements interface {
	// Element returns the element of a set that a packet with this key would find. In sets of ranges
	// (AllowedSources, ServiceCIDRs) the key's Source is the packet's address alone.
	Element(Set, Element) (Element, bool)
	// Timeout is that of the set AffinityOf which holds a frontend; 0: none does.
	Timeout(Frontend) time.Duration
}

// Packet is the first packet of a connection.
type Packet struct {
	Source netip.Addr
	To     Frontend
	// FromNode says that Source is one of the node's own addresses, and Generated that the node itself
	// sends the packet, rather than receives it.
	FromNode, Generated bool
	Interface           string // where it came in; "" if Generated
	Out                 string // where it leaves the node; for Masquerade alone
	// Leased says that this node answers To itself by now: there is a lease, and a socket.
	Leased bool
}

// Outcome is what becomes of a packet.
type Outcome uint8

// The outcomes.
const (
	Unserved   Outcome = iota // nobody here translates, refuses or drops it
	Translated                // goes to one of Targets
	Refused
	Dropped
	Untracked // goes where it is addressed to, past conntrack and NAT: this node answers
)

// String returns the outcome in one word.
func (o Outcome) String() string {
	return [...]string{Unserved: "unserved", Translated: "translated", Refused: "refused", Dropped: "dropped", Untracked: "untracked"}[o]
}

// Target is an endpoint that a packet may be sent to.
type Target struct {
	Endpoint netip.AddrPort
	Share    *big.Rat // of the connections like this one
}

// Step is one rule that a packet was asked about.
type Step struct {
	Chain  string
	Asked  string // what the rule asks, in nft's words, with the packet's own values; "" if nothing
	Result string // what came of it: "no match" or a verdict
}

// Walk is the way of a packet through the rules.
type Walk struct {
	Outcome  Outcome
	Targets  []Target // in the order in which slots have them
	Affinity bool     // the endpoint is the one that the client had before
	Steps    []Step
}

// Walk leads a packet through the rules before routing, as the kernel would: those of the layout
// itself, with what the maps hold. It is a fault of this function, and not of the packet, if it
// returns an error: the layout has an expression that it does not know.
func (l *Layout) Walk(p Packet, held Elements) (Walk, error) {
	hook := "prerouting"
	if p.Generated {
		hook = "output"
	}
	w := l.walker(p, held)
	for _, c := range l.hooked(w.fam, hook) {
		if done, err := w.chain(c.name); done || err != nil {
			return w.result(), err
		}
	}
	return w.result(), nil
}

// Masquerade leads a translated packet through the rules after routing, and reports whether its
// source is replaced. A packet that came from elsewhere and whose endpoint is an address of the node
// never gets there: do not ask.
func (l *Layout) Masquerade(p Packet, endpoint netip.AddrPort, held Elements) (masqueraded bool, steps []Step, err error) {
	w := l.walker(p, held)
	w.endpoint = endpoint
	for _, c := range l.hooked(w.fam, "postrouting") {
		done, err := w.chain(c.name)
		if done || err != nil {
			return w.masqueraded, w.out.Steps, err
		}
	}
	return false, w.out.Steps, nil
}

// hooked returns the base chains of a hook in the kernel's order.
func (l *Layout) hooked(fam *family, hook string) []chain {
	all := slices.DeleteFunc(l.chains(fam), func(c chain) bool { return c.hook != hook })
	slices.SortStableFunc(all, func(a, b chain) int { return int(a.priority) - int(b.priority) })
	return all
}

// walker interprets rules.
type walker struct {
	fam    *family
	chains map[string]chain
	packet Packet
	held   Elements

	endpoint    netip.AddrPort // where it was translated to; invalid: not yet
	masqueraded bool

	registers [20 * 4]byte // from NFT_REG32_00 on
	loaded    string       // what the registers were loaded with, in nft's words
	asked     []string     // what the rule at hand has asked so far
	masked    string       // the length of the prefix that was cut out last, as /16; "" if none was
	quiet     bool         // nobody wants to know of any of these

	out   Walk
	draws []draw
	drawn map[netip.AddrPort][]uint32 // by draw: how many numbers lead there
}

// draw is one rule that drew a slot.
type draw struct {
	reach  *big.Rat // how many of the packets come to it
	modulo uint32
}

func (l *Layout) walker(p Packet, held Elements) *walker {
	fam := familyOf(p.To.Addr)
	w := &walker{fam: fam, packet: p, held: held, chains: map[string]chain{}, drawn: map[netip.AddrPort][]uint32{}}
	for _, c := range l.chains(fam) {
		if timeout := held.Timeout(p.To); c.name == "remember" && timeout > 0 {
			c.rules = append(c.rules, affinityRule(fam, timeout))
		}
		w.chains[c.name] = c
	}
	return w
}

// ending is how a rule ends.
type ending uint8

const (
	noMatch  ending = iota
	matched         // every expression held, and there was no verdict
	returned        // back to the chain before
	jumped          // to another chain, and back
	gone            // to another chain, for good
	finished        // the packet's fate is decided
)

// chain leads the packet through a chain and reports whether that decided its fate.
func (w *walker) chain(name string) (done bool, err error) {
	c, ok := w.chains[name]
	if !ok {
		return false, fmt.Errorf("walk: no chain %s", name)
	}
	for _, r := range c.rules {
		end, to, err := w.rule(name, r)
		if err != nil {
			return false, fmt.Errorf("walk chain %s: %w", name, err)
		}
		switch end {
		case finished:
			return true, nil
		case returned:
			return false, nil
		case jumped:
			if done, err := w.chain(to); done || err != nil {
				return done, err
			}
		case gone:
			return w.chain(to)
		}
	}
	return false, nil
}

// rule leads the packet through a rule.
func (w *walker) rule(chain string, r rule) (end ending, to string, err error) {
	w.asked = w.asked[:0]
	if at := slices.IndexFunc(r, isNumgen); at >= 0 {
		return w.draw(chain, r, at)
	}
	end, to, result, err := w.expressions(r)
	w.out.Steps = append(w.out.Steps, Step{chain, strings.Join(w.asked, "  "), result})
	return end, to, err
}

// expressions evaluates expressions until one does not hold or decides.
func (w *walker) expressions(r rule) (end ending, to, result string, err error) {
	for _, e := range r {
		end, to, result, err := w.expression(e)
		if end != matched || err != nil {
			return end, to, result, err
		}
	}
	return matched, "", "next rule", nil
}

func (w *walker) expression(e expression) (end ending, to, result string, err error) {
	switch e := e.(type) {
	case ctOriginal:
		return w.loadOriginal(e)
	case std:
		switch e := e.Any.(type) {
		case *expr.Meta:
			return w.loadMeta(e)
		case *expr.Payload:
			return w.loadPayload(e)
		case *expr.Fib:
			return w.loadFib(e)
		case *expr.Ct:
			return w.loadStatus(e)
		case *expr.Bitwise:
			return w.mask(e)
		case *expr.Cmp:
			return w.compare(e)
		case *expr.Lookup:
			return w.lookup(e)
		case *expr.Verdict:
			return w.verdict(e.Kind, e.Chain)
		case *expr.NAT:
			return w.translate(e)
		case *expr.Masq:
			w.masqueraded = true
			return finished, "", "masquerade", nil
		case *expr.Reject:
			w.out.Outcome = Refused
			return finished, "", "reject" + map[uint32]string{unix.NFT_REJECT_TCP_RST: " with tcp reset"}[e.Type], nil
		case *expr.Dynset, *expr.Counter:
			return matched, "", "", nil
		case *expr.Socket:
			return w.loadSocket(e)
		case *expr.Notrack:
			w.out.Outcome = Untracked
			return finished, "", "notrack", nil
		}
	}
	return noMatch, "", "", fmt.Errorf("expression %T is not known", e)
}

// at returns the registers from one on.
func (w *walker) at(register uint32) []byte { return w.registers[4*(register-firstRegister):] }

// load puts a value into registers and notes what it is. A value in the first register begins anew.
func (w *walker) load(register uint32, value []byte, words string) (ending, string, string, error) {
	padded := w.at(register)
	n := copy(padded, value)
	for n%4 != 0 { // the rest of the last register is zero
		padded[n] = 0
		n++
	}
	if w.quiet {
		return matched, "", "", nil
	}
	if register == firstRegister || w.loaded == "" {
		w.loaded, w.masked = words, ""
	} else {
		w.loaded += " . " + words
	}
	return matched, "", "", nil
}

func (w *walker) loadMeta(e *expr.Meta) (ending, string, string, error) {
	switch e.Key {
	case expr.MetaKeyL4PROTO:
		return w.load(e.Register, []byte{byte(w.packet.To.Protocol)}, w.packet.To.Protocol.String())
	case expr.MetaKeyIIFNAME:
		name := make([]byte, unix.IFNAMSIZ)
		copy(name, w.packet.Interface)
		return w.load(e.Register, name, fmt.Sprintf("iifname %q", w.packet.Interface))
	case expr.MetaKeyOIFNAME:
		name := make([]byte, unix.IFNAMSIZ)
		copy(name, w.packet.Out)
		return w.load(e.Register, name, fmt.Sprintf("oifname %q", w.packet.Out))
	}
	return noMatch, "", "", fmt.Errorf("meta key %d is not known", e.Key)
}

// loadPayload loads from the packet as it is by now.
func (w *walker) loadPayload(e *expr.Payload) (ending, string, string, error) {
	to := netip.AddrPortFrom(w.packet.To.Addr, w.packet.To.Port)
	if w.endpoint.IsValid() {
		to = w.endpoint
	}
	switch {
	case e.Base == expr.PayloadBaseNetworkHeader && e.Offset == w.fam.saddr:
		return w.load(e.DestRegister, w.packet.Source.AsSlice(), w.packet.Source.String())
	case e.Base == expr.PayloadBaseNetworkHeader && e.Offset == w.fam.daddr:
		return w.load(e.DestRegister, to.Addr().AsSlice(), to.Addr().String())
	case e.Base == expr.PayloadBaseTransportHeader && e.Offset == 2:
		return w.load(e.DestRegister, binary.BigEndian.AppendUint16(nil, to.Port()), fmt.Sprint(to.Port()))
	case e.Base == expr.PayloadBaseTransportHeader && e.Offset == 0:
		return w.load(e.DestRegister, []byte{0x80, 0}, "its source port") // any that the kernel gives
	case e.Base == expr.PayloadBaseTransportHeader && e.Offset == 13 && e.Len == 1:
		const syn = 1 << 1
		return w.load(e.DestRegister, []byte{syn}, "tcp flags syn")
	case e.Base == expr.PayloadBaseNetworkHeader && e.Len == 1:
		return w.load(e.DestRegister, []byte{64}, "ttl 64")
	}
	return noMatch, "", "", fmt.Errorf("payload at %d, %d is not known", e.Base, e.Offset)
}

// loadSocket loads whether the socket that would take the packet is bound to every address: 0 if not.
// Without a socket the rule does not match.
func (w *walker) loadSocket(e *expr.Socket) (ending, string, string, error) {
	w.asked = append(w.asked, "a socket of its own")
	if !w.packet.Leased {
		return noMatch, "", "no match", nil
	}
	return w.load(e.Register, []byte{0}, "socket wildcard")
}

func (w *walker) loadOriginal(e ctOriginal) (ending, string, string, error) {
	switch e.key {
	case w.fam.ctDst:
		return w.load(e.register, w.packet.To.Addr.AsSlice(), "original "+w.packet.To.Addr.String())
	case unix.NFT_CT_PROTO_DST:
		return w.load(e.register, binary.BigEndian.AppendUint16(nil, w.packet.To.Port), fmt.Sprint(w.packet.To.Port))
	}
	return noMatch, "", "", fmt.Errorf("ct key %d is not known", e.key)
}

func (w *walker) loadFib(e *expr.Fib) (ending, string, string, error) {
	kind := uint32(unix.RTN_UNICAST)
	if w.packet.FromNode {
		kind = unix.RTN_LOCAL
	}
	return w.load(e.Register, binary.NativeEndian.AppendUint32(nil, kind), "fib saddr "+w.packet.Source.String())
}

func (w *walker) loadStatus(e *expr.Ct) (ending, string, string, error) {
	if e.Key != expr.CtKeySTATUS {
		return noMatch, "", "", fmt.Errorf("ct key %d is not known", e.Key)
	}
	status := uint32(0)
	if w.endpoint.IsValid() {
		const dstNAT = 1 << 5
		status = dstNAT
	}
	return w.load(e.Register, binary.NativeEndian.AppendUint32(nil, status), "ct status")
}

func (w *walker) mask(e *expr.Bitwise) (ending, string, string, error) {
	in, out := w.at(e.SourceRegister), w.at(e.DestRegister)
	for k := range int(e.Len) {
		out[k] = in[k]&e.Mask[k] ^ e.Xor[k]
	}
	ones := 0
	for _, b := range e.Mask {
		ones += bits.OnesCount8(b)
	}
	w.masked = fmt.Sprintf("/%d", ones)
	return matched, "", "", nil
}

func (w *walker) compare(e *expr.Cmp) (ending, string, string, error) {
	equal := bytes.Equal(w.at(e.Register)[:len(e.Data)], e.Data)
	holds := equal == (e.Op == expr.CmpOpEq)
	w.asked = append(w.asked, w.comparison(e))
	if !holds {
		return noMatch, "", "no match", nil
	}
	return matched, "", "", nil
}

// comparison says what a comparison asks. The rules compare few things.
func (w *walker) comparison(e *expr.Cmp) string {
	switch {
	case strings.HasPrefix(w.loaded, "fib"):
		return w.loaded + " type local"
	case strings.HasPrefix(w.loaded, "iifname"):
		return fmt.Sprintf("%s = %q", w.loaded, bytes.TrimRight(e.Data, "\x00"))
	case strings.HasPrefix(w.loaded, "oifname"):
		return fmt.Sprintf("%s is not %q", w.loaded, bytes.TrimRight(e.Data, "\x00"))
	case strings.Contains(w.loaded, "source port"), strings.Contains(w.loaded, "ttl"), strings.Contains(w.loaded, "flags"), strings.Contains(w.loaded, "wildcard"), len(e.Data) == 2:
		return fmt.Sprintf("%s against %d", w.loaded, e.Data)
	case w.loaded == "ct status":
		return "ct status is not dnat"
	}
	if a, ok := netip.AddrFromSlice(e.Data); ok && len(e.Data) == w.fam.addrLen {
		return fmt.Sprintf("ip saddr %s in %s%s", w.loaded, a, w.masked)
	}
	return fmt.Sprintf("%s = %s", w.loaded, Protocol(e.Data[0]))
}

func (w *walker) lookup(e *expr.Lookup) (ending, string, string, error) {
	if e.SetName == leaseSet {
		return w.lease()
	}
	set, timeout, ok := setOf(e.SetName)
	if !ok {
		return noMatch, "", "", fmt.Errorf("no set %s", e.SetName)
	}
	key, err := w.key(set)
	if err != nil {
		return noMatch, "", "", err
	}
	key.Timeout = timeout
	found, ok := w.held.Element(set, key)
	not := ""
	if e.Invert {
		not = "not "
	}
	if !w.quiet {
		w.asked = append(w.asked, fmt.Sprintf("%s %sin %s", w.loaded, not, e.SetName))
	}
	if ok == e.Invert {
		return noMatch, "", "no match", nil
	}
	switch {
	case !e.IsDestRegSet:
		return matched, "", "", nil
	case e.DestRegister == unix.NFT_REG_VERDICT:
		return w.found(found)
	}
	data := appendPort(appendAddr(nil, found.Endpoint.Addr()), found.Endpoint.Port())
	copy(w.at(e.DestRegister), data)
	w.out.Affinity = set == Affinity
	return matched, "", "", nil
}

// leaseSet holds what this node answers itself, for as long as it does.
const leaseSet = "dns-alive"

func (w *walker) lease() (ending, string, string, error) {
	w.asked = append(w.asked, w.loaded+" in "+leaseSet)
	if !w.packet.Leased {
		return noMatch, "", "no match", nil
	}
	return matched, "", "", nil
}

// setOf is the reverse of setName.
func setOf(name string) (Set, time.Duration, bool) {
	if timeout, ok := affinityTimeout(name); ok {
		return AffinityOf, timeout, true
	}
	for s := range numSets {
		if schemas[s].name == name {
			return s, 0, true
		}
	}
	return 0, 0, false
}

// key reads the key of a set from the registers.
func (w *walker) key(set Set) (e Element, err error) {
	size := 0
	for _, f := range schemas[set].key {
		size += f.size(w.fam)
	}
	b := w.at(firstRegister)[:size]
	switch set {
	case Hairpin: // the packet may be between two addresses, of which none is an element
		r := reader{b: b, fam: w.fam}
		e.Frontend.Addr = r.addr()
		if r.addr() != e.Frontend.Addr {
			e.Frontend.Addr = netip.Addr{}
		}
		return e, r.done()
	case AllowedSources:
		r := reader{b: b[len(b)-w.fam.addrLen:], fam: w.fam}
		source := r.addr()
		e.Source = netip.PrefixFrom(source, source.BitLen())
		e.Frontend = w.packet.To
		return e, r.done()
	}
	return e, decodeKey(b, nil, w.fam, set, &e)
}

// found obeys an element of a verdict map.
func (w *walker) found(e Element) (ending, string, string, error) {
	end, to, result, err := ending(gone), e.Verdict.Chain(), "goto "+e.Verdict.Chain(), error(nil)
	if e.Verdict == Drop {
		end, to, result, err = w.verdict(expr.VerdictDrop, "")
	}
	if e.Comment != "" {
		result += fmt.Sprintf(" comment %q", e.Comment)
	}
	return end, to, result, err
}

func (w *walker) verdict(kind expr.VerdictKind, chain string) (ending, string, string, error) {
	switch kind {
	case expr.VerdictDrop:
		if len(w.out.Targets) == 0 { // else what is left over of the draws: nothing, while the slots are true
			w.out.Outcome = Dropped
		}
		return finished, "", "drop", nil
	case expr.VerdictReturn:
		return returned, "", "return", nil
	case expr.VerdictJump:
		return jumped, chain, "jump " + chain, nil
	case expr.VerdictGoto:
		return gone, chain, "goto " + chain, nil
	}
	return noMatch, "", "", fmt.Errorf("verdict %d is not known", kind)
}

// translate sends the packet to the endpoint in the registers.
func (w *walker) translate(e *expr.NAT) (ending, string, string, error) {
	to, err := w.endpointAt(e)
	if err != nil {
		return noMatch, "", "", err
	}
	w.out.Outcome = Translated
	w.out.Targets = []Target{{to, big.NewRat(1, 1)}}
	return finished, "", "dnat to " + to.String(), nil
}

func (w *walker) endpointAt(e *expr.NAT) (netip.AddrPort, error) {
	r := reader{b: w.at(e.RegAddrMin)[:w.fam.addrLen+4], fam: w.fam}
	to := netip.AddrPortFrom(r.addr(), r.port())
	return to, r.done()
}

func isNumgen(e expression) bool {
	s, ok := e.(std)
	if !ok {
		return false
	}
	_, ok = s.Any.(*expr.Numgen)
	return ok
}

// draw leads the packet through a rule that draws a number, with every number that may come up. What
// misses goes on to the next rule, which draws anew.
func (w *walker) draw(chain string, r rule, at int) (ending, string, error) {
	numgen := r[at].(std).Any.(*expr.Numgen)
	if end, to, _, err := w.expressions(r[:at]); end != matched || err != nil {
		return end, to, err
	}
	words, d := w.loaded, draw{reach: big.NewRat(1, 1), modulo: numgen.Modulus}
	if n := len(w.draws); n > 0 {
		d.reach = w.missed(&w.draws[n-1])
	}
	w.draws = append(w.draws, d)
	asked, hits := fmt.Sprintf("%s . slot below %d", words, numgen.Modulus), 0
	w.quiet = true
	defer func() { w.quiet = false }()
	registers := w.registers // what is found overwrites the key
	for number := range numgen.Modulus {
		w.registers = registers
		_, _, _, _ = w.load(numgen.Register, binary.NativeEndian.AppendUint32(nil, number), "slot")
		hit, err := w.drew(r[at+1:])
		if err != nil {
			return noMatch, "", err
		}
		hits += hit
	}
	w.out.Steps = append(w.out.Steps, Step{chain, asked, fmt.Sprintf("dnat: %d of %d slots are filled", hits, numgen.Modulus)})
	if hits > 0 {
		w.out.Outcome = Translated
	}
	if hits == int(numgen.Modulus) {
		return finished, "", nil
	}
	return noMatch, "", nil
}

// drew evaluates the rest of a rule for one number: 1 if it leads to an endpoint, else 0.
func (w *walker) drew(rest rule) (hit int, err error) {
	for _, e := range rest {
		if nat, ok := e.(std).Any.(*expr.NAT); ok {
			to, err := w.endpointAt(nat)
			if err != nil {
				return 0, err
			}
			w.count(to)
			return 1, nil
		}
		if end, _, _, err := w.expression(e); end != matched || err != nil {
			return 0, err
		}
	}
	return 0, fmt.Errorf("a rule that draws a slot and does not translate")
}

// count notes that a number of the latest draw leads to an endpoint.
func (w *walker) count(to netip.AddrPort) {
	counts, known := w.drawn[to]
	if !known {
		w.out.Targets = append(w.out.Targets, Target{Endpoint: to})
	}
	for len(counts) < len(w.draws) {
		counts = append(counts, 0)
	}
	counts[len(w.draws)-1]++
	w.drawn[to] = counts
}

// missed returns how many packets come through a draw without an endpoint.
func (w *walker) missed(d *draw) *big.Rat {
	hits := int64(0)
	at := len(w.draws) - 1
	for _, counts := range w.drawn {
		if len(counts) > at {
			hits += int64(counts[at])
		}
	}
	return new(big.Rat).Mul(d.reach, big.NewRat(int64(d.modulo)-hits, int64(d.modulo)))
}

// result sums up the shares. Few of them differ, and those of a large class are long numbers.
func (w *walker) result() Walk {
	known := map[string]*big.Rat{}
	for k := range w.out.Targets {
		t := &w.out.Targets[k]
		if t.Share != nil {
			continue
		}
		counts := w.drawn[t.Endpoint]
		id := fmt.Sprint(counts)
		if known[id] == nil {
			share := new(big.Rat)
			for n, c := range counts {
				d := &w.draws[n]
				share.Add(share, new(big.Rat).Mul(d.reach, big.NewRat(int64(c), int64(d.modulo))))
			}
			known[id] = share
		}
		t.Share = known[id]
	}
	return w.out
}
