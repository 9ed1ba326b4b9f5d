package dataplane

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Attributes that golang.org/x/sys/unix does not name (linux/netfilter/nf_tables.h).
const (
	nftaTableUserdata    = 6
	nftaSetElemKeyEnd    = 10
	nftaSetDescConcat    = 2
	nftaSetFieldLen      = 1
	nftTableFlagOwner    = 0x2
	nftTableFlagPersist  = 0x4 // kernel 6.9
	nftMsgDestroySetElem = 30  // kernel 6.3
	nfDrop               = 0   // linux/netfilter.h
	nfAccept             = 1
)

// Types in the user data of tables and elements, as nft writes them (libnftnl's udata).
const (
	udataTableComment = 0
	udataElemComment  = 0
)

// maxComment is the longest comment that nft can show, in bytes, without the terminating zero.
const maxComment = 127

// comment returns user data of the given type that nft shows as a comment.
func comment(typ byte, s string) []byte {
	s = s[:min(len(s), maxComment)]
	return append(append([]byte{typ, byte(len(s) + 1)}, s...), 0)
}

// appendTable appends the messages that build a table: itself, its sets, and those of its chains that are
// not hooked, all empty. What is added later is not among them, see appendAffinity and appendClass.
func appendTable(m *messages, fam *family, l *Layout, name string, flags uint32, chains []chain) {
	comment := ""
	if name != "" { // no name: only to take the fingerprint, which the comment holds
		comment = l.comment(fam)
	}
	appendNewTable(m, fam, name, flags, comment)
	id := uint32(0)
	for s := range numSets {
		if s == AffinityOf {
			continue
		}
		id++
		appendSet(m, fam, name, schemas[s].name, &schemas[s], id)
	}
	if l.CountConnections {
		appendSet(m, fam, name, connections.name, &connections, uint32(numSets)) // AffinityOf has no number
	}
	if l.has(fam, dnsAlive) {
		appendSet(m, fam, name, schemas[dnsAlive].name, &schemas[dnsAlive], uint32(numSets)+1)
	}
	for _, c := range chains {
		if c.hook == "" {
			appendChain(m, fam, name, c)
		}
	}
}

// appendRules puts rules into the chains of appendTable's, and then hooks the table in. The kernel hooks a
// base chain as soon as it has read that far, and tracks connections from the first rule that asks
// about them, but follows rules only when it has read everything. A connection that begins in between is let
// through, and remembered as not to be translated. So these come after everything else, base chains last.
func appendRules(m *messages, fam *family, name string, chains []chain) {
	for _, c := range chains {
		if c.hook != "" {
			appendChain(m, fam, name, c)
		}
		for _, r := range c.rules {
			appendRule(m, fam, name, c.name, r)
		}
	}
}

func appendNewTable(m *messages, fam *family, name string, flags uint32, text string) {
	m.begin(fam.nfproto, unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE)
	m.string(unix.NFTA_TABLE_NAME, name)
	m.u32(unix.NFTA_TABLE_FLAGS, flags)
	if text != "" {
		m.bytes(nftaTableUserdata, comment(udataTableComment, text))
	}
	m.end()
}

func appendDelTable(m *messages, fam *family, name string) {
	m.begin(fam.nfproto, unix.NFT_MSG_DELTABLE, 0)
	m.string(unix.NFTA_TABLE_NAME, name)
	m.end()
}

func appendChain(m *messages, fam *family, table string, c chain) {
	m.begin(fam.nfproto, unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE)
	m.string(unix.NFTA_CHAIN_TABLE, table)
	m.string(unix.NFTA_CHAIN_NAME, c.name)
	if c.hook != "" {
		hook := m.nest(unix.NFTA_CHAIN_HOOK)
		m.u32(unix.NFTA_HOOK_HOOKNUM, hooks[c.hook])
		m.u32(unix.NFTA_HOOK_PRIORITY, uint32(c.priority))
		m.unnest(hook)
		m.u32(unix.NFTA_CHAIN_POLICY, nfAccept)
		m.string(unix.NFTA_CHAIN_TYPE, cmp.Or(c.typ, "nat"))
	}
	m.end()
}

func concatType(fam *family, fields []field) (typ uint32, size int) {
	for _, f := range fields {
		typ = typ<<6 | f.typ(fam)
		size += f.size(fam)
	}
	return typ, size
}

func appendSet(m *messages, fam *family, table, name string, s *schema, id uint32) {
	m.begin(fam.nfproto, unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE)
	m.string(unix.NFTA_SET_TABLE, table)
	m.string(unix.NFTA_SET_NAME, name)
	flags := s.flags &^ verdictMap
	if s.isMap() {
		flags |= unix.NFT_SET_MAP
	}
	m.u32(unix.NFTA_SET_FLAGS, flags)
	typ, size := concatType(fam, s.key)
	m.u32(unix.NFTA_SET_KEY_TYPE, typ)
	m.u32(unix.NFTA_SET_KEY_LEN, uint32(size))
	if s.flags&verdictMap != 0 {
		m.u32(unix.NFTA_SET_DATA_TYPE, typeVerdict)
		m.u32(unix.NFTA_SET_DATA_LEN, 0)
	} else if s.data != nil {
		typ, size := concatType(fam, s.data)
		m.u32(unix.NFTA_SET_DATA_TYPE, typ)
		m.u32(unix.NFTA_SET_DATA_LEN, uint32(size))
	}
	if s.size != 0 || s.flags&setConcat != 0 {
		desc := m.nest(unix.NFTA_SET_DESC)
		if s.size != 0 {
			m.u32(unix.NFTA_SET_DESC_SIZE, s.size)
		}
		if s.flags&setConcat != 0 {
			concat := m.nest(nftaSetDescConcat)
			for _, f := range s.key {
				elem := m.nest(unix.NFTA_LIST_ELEM)
				m.u32(nftaSetFieldLen, uint32(f.size(fam)))
				m.unnest(elem)
			}
			m.unnest(concat)
		}
		m.unnest(desc)
	}
	m.u32(unix.NFTA_SET_ID, id)
	m.end()
}

// appendAffinity appends what a timeout that nobody used before needs: a set and a rule.
func appendAffinity(m *messages, fam *family, table string, timeout time.Duration, id uint32) {
	appendSet(m, fam, table, setName(AffinityOf, timeout), &schemas[AffinityOf], id)
	appendRule(m, fam, table, "remember", affinityRule(fam, timeout))
}

// appendClass appends the chain of a verdict that was not used before.
func appendClass(m *messages, fam *family, table string, v Verdict) {
	c := words{fam}.class(v)
	appendChain(m, fam, table, c)
	appendRules(m, fam, table, []chain{c})
}

// appendFlush appends a message that removes every element of a set.
func appendFlush(m *messages, fam *family, table, set string) {
	m.begin(fam.nfproto, unix.NFT_MSG_DELSETELEM, 0)
	m.string(unix.NFTA_SET_ELEM_LIST_TABLE, table)
	m.string(unix.NFTA_SET_ELEM_LIST_SET, set)
	m.end()
}

// beginElements opens a message that adds or deletes elements of one set, and endElements closes
// it.
func beginElements(m *messages, fam *family, table, set string, msg uint8) (list int) {
	flags := uint16(0)
	if msg == unix.NFT_MSG_NEWSETELEM {
		flags = unix.NLM_F_CREATE
	}
	m.begin(fam.nfproto, msg, flags)
	m.string(unix.NFTA_SET_ELEM_LIST_TABLE, table)
	m.string(unix.NFTA_SET_ELEM_LIST_SET, set)
	return m.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
}

func endElements(m *messages, list int) {
	m.unnest(list)
	m.end()
}

// maxElement is more than any element takes in a message, in bytes.
const maxElement = 384

// appendElement appends one element to the open list: as two, if the set holds intervals without
// concatenation, since then the kernel keeps beginning and end apart.
func appendElement(m *messages, fam *family, s Set, e *Element, del bool) {
	schema := &schemas[s]
	if s == ServiceCIDRs {
		appendBoundary(m, e.Source.Addr(), 0)
		if end, ok := afterPrefix(e.Source); ok {
			appendBoundary(m, end, unix.NFT_SET_ELEM_INTERVAL_END)
		}
		return
	}
	elem := m.nest(unix.NFTA_LIST_ELEM)
	value := m.nest(unix.NFTA_SET_ELEM_KEY)
	at := len(m.b)
	m.header(unix.NFTA_DATA_VALUE, 0)
	m.b = appendKey(m.b, s, e, false)
	binary.NativeEndian.PutUint16(m.b[at:], uint16(len(m.b)-at))
	m.unnest(value)
	if schema.interval() {
		value := m.nest(nftaSetElemKeyEnd)
		at := len(m.b)
		m.header(unix.NFTA_DATA_VALUE, 0)
		m.b = appendKey(m.b, s, e, true)
		binary.NativeEndian.PutUint16(m.b[at:], uint16(len(m.b)-at))
		m.unnest(value)
	}
	if !del {
		appendData(m, schema, e)
		if e.Comment != "" {
			m.bytes(unix.NFTA_SET_ELEM_USERDATA, comment(udataElemComment, e.Comment))
		}
	}
	m.unnest(elem)
}

func appendBoundary(m *messages, a netip.Addr, flags uint32) {
	elem := m.nest(unix.NFTA_LIST_ELEM)
	key := m.nest(unix.NFTA_SET_ELEM_KEY)
	m.bytes(unix.NFTA_DATA_VALUE, a.AsSlice())
	m.unnest(key)
	if flags != 0 {
		m.u32(unix.NFTA_SET_ELEM_FLAGS, flags)
	}
	m.unnest(elem)
}

func appendData(m *messages, s *schema, e *Element) {
	switch {
	case s.flags&verdictMap != 0:
		data := m.nest(unix.NFTA_SET_ELEM_DATA)
		verdict := m.nest(unix.NFTA_DATA_VERDICT)
		if e.Verdict == Drop {
			m.u32(unix.NFTA_VERDICT_CODE, nfDrop)
		} else {
			gotoChain := int32(unix.NFT_GOTO)
			m.u32(unix.NFTA_VERDICT_CODE, uint32(gotoChain))
			m.string(unix.NFTA_VERDICT_CHAIN, e.Verdict.Chain())
		}
		m.unnest(verdict)
		m.unnest(data)
	case s.data != nil:
		data := m.nest(unix.NFTA_SET_ELEM_DATA)
		at := len(m.b)
		m.header(unix.NFTA_DATA_VALUE, 0)
		m.b = appendAddr(m.b, e.Endpoint.Addr())
		m.b = appendPort(m.b, e.Endpoint.Port())
		binary.NativeEndian.PutUint16(m.b[at:], uint16(len(m.b)-at))
		m.unnest(data)
	}
}

// appendKey appends an element's key as the registers hold it: each part from a boundary of four
// bytes on. last asks for the end of the interval.
func appendKey(b []byte, s Set, e *Element, last bool) []byte {
	switch s {
	case ClusterIPs:
		return appendAddr(b, e.Frontend.Addr)
	case Hairpin:
		return appendAddr(appendAddr(b, e.Frontend.Addr), e.Frontend.Addr)
	case Affinity:
		b = appendAddr(b, e.Client)
	}
	b = append(b, byte(e.Frontend.Protocol), 0, 0, 0)
	b = appendAddr(b, e.Frontend.Addr)
	b = appendPort(b, e.Frontend.Port)
	switch s {
	case Endpoints, LocalEndpoints:
		b = binary.NativeEndian.AppendUint32(b, e.Slot)
	case AllowedSources:
		if last {
			return appendAddr(b, lastOf(e.Source))
		}
		return appendAddr(b, e.Source.Addr())
	}
	return b
}

func appendAddr(b []byte, a netip.Addr) []byte {
	if a.Is4() {
		v := a.As4()
		return append(b, v[:]...)
	}
	v := a.As16()
	return append(b, v[:]...)
}

func appendPort(b []byte, p uint16) []byte {
	return append(binary.BigEndian.AppendUint16(b, p), 0, 0)
}

// lastOf returns the highest address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// afterPrefix returns the address behind a prefix, if there is one.
func afterPrefix(p netip.Prefix) (netip.Addr, bool) {
	a := lastOf(p).Next()
	return a, a.IsValid()
}

// family returns the family of the table that the element belongs to.
func (o *Op) family() *family { return familyOf(o.address()) }

// address is what decides the family.
func (o *Op) address() netip.Addr {
	if o.Set == ServiceCIDRs {
		return o.Elem.Source.Addr()
	}
	return o.Elem.Frontend.Addr
}

// check reports an element that cannot be encoded. The kernel would not see what is wrong with it.
func (o *Op) check() error {
	e := &o.Elem
	if o.Set >= numSets {
		return fmt.Errorf("%s: %w", o.Set, unix.EINVAL)
	}
	bad := func(what string) error { return fmt.Errorf("%s: %s: %w", o, what, unix.EINVAL) }
	needs := schemas[o.Set]
	if o.Set == ServiceCIDRs || o.Set == AllowedSources {
		if !e.Source.IsValid() || e.Source != e.Source.Masked() {
			return bad("no prefix, or bits beyond it")
		}
		if o.Set == ServiceCIDRs {
			return nil
		}
	}
	fam := familyOf(e.Frontend.Addr)
	same := func(a netip.Addr) bool { return a.IsValid() && familyOf(a) == fam && !a.Is4In6() && a.Zone() == "" }
	if !same(e.Frontend.Addr) {
		return bad("no address")
	}
	if len(needs.key) >= len(frontendKey) && (e.Frontend.Port == 0 || e.Frontend.Protocol == 0) {
		return bad("no port or protocol")
	}
	if o.Set == AllowedSources && !same(e.Source.Addr()) {
		return bad("source of another family")
	}
	if e.Slot >= 1<<MaxClass {
		return bad("slot out of range")
	}
	if o.Set == AffinityOf && (e.Timeout < time.Second || e.Timeout%time.Second != 0) {
		return bad("timeout is not in whole seconds")
	}
	if o.Delete {
		return nil
	}
	if needs.flags&verdictMap != 0 && e.Verdict.Chain() == "invalid" {
		return bad("no verdict")
	}
	if needs.data != nil && (!same(e.Endpoint.Addr()) || e.Endpoint.Port() == 0) {
		return bad("no endpoint of the frontend's family")
	}
	return nil
}

// String returns the operation in nft's words, shortened.
func (o *Op) String() string {
	verb := "add"
	if o.Delete {
		verb = "delete"
	}
	return fmt.Sprintf("%s element %s { %s }", verb, setName(o.Set, o.Elem.Timeout), o.Elem.text(o.Set))
}

// text returns the element as nft prints it.
func (e *Element) text(s Set) string {
	switch s {
	case Services, LocalServices:
		return fmt.Sprintf("%s : %s", e.Frontend, e.Verdict.Chain())
	case Endpoints, LocalEndpoints:
		return fmt.Sprintf("%s . 0x%08x : %s . %d", e.Frontend, e.Slot, e.Endpoint.Addr(), e.Endpoint.Port())
	case ClusterIPs:
		return e.Frontend.Addr.String()
	case Hairpin:
		return fmt.Sprintf("%s . %s", e.Frontend.Addr, e.Frontend.Addr)
	case AllowedSources:
		return fmt.Sprintf("%s . %s", e.Frontend, e.Source)
	case Affinity:
		return fmt.Sprintf("%s . %s : %s", e.Client, e.Frontend, e.Endpoint)
	case ServiceCIDRs:
		return e.Source.String()
	default:
		return e.Frontend.String()
	}
}
