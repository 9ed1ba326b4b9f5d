package dataplane

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// expression is one nftables expression, and knows how it is sent.
type expression interface {
	marshal(fam *family) ([]byte, error)
}

// rule is a list of expressions; a packet that one of them does not match leaves the rule.
type rule []expression

// std is an expression that the nftables library can encode.
type std struct{ expr.Any }

func (e std) marshal(fam *family) ([]byte, error) { return expr.Marshal(fam.nfproto, e.Any) }

// ctOriginal loads part of a connection's original tuple. The library cannot load the address
// keys (NFT_CT_DST_IP), and the older NFT_CT_DST has no length, so that nft aborts when it lists.
type ctOriginal struct {
	key, register uint32
}

func (e ctOriginal) marshal(*family) ([]byte, error) {
	var m messages
	m.string(unix.NFTA_EXPR_NAME, "ct")
	data := m.nest(unix.NFTA_EXPR_DATA)
	m.u32(unix.NFTA_CT_KEY, e.key)
	m.u32(unix.NFTA_CT_DREG, e.register)
	m.bytes(unix.NFTA_CT_DIRECTION, []byte{0}) // IP_CT_DIR_ORIGINAL
	m.unnest(data)
	return m.b, nil
}

// appendRule appends the message that adds a rule to the end of a chain.
func appendRule(m *messages, fam *family, table, chain string, r rule) {
	m.begin(fam.nfproto, unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND)
	m.string(unix.NFTA_RULE_TABLE, table)
	m.string(unix.NFTA_RULE_CHAIN, chain)
	list := m.nest(unix.NFTA_RULE_EXPRESSIONS)
	for _, e := range r {
		b, err := e.marshal(fam)
		if err != nil {
			panic(fmt.Sprintf("chain %s: %T: %v", chain, e, err)) // a layout that is wrong as written
		}
		m.bytes(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, b)
	}
	m.unnest(list)
	m.end()
}

// firstRegister is the first of the sixteen registers of four bytes. A concatenation lies in
// consecutive ones, each part from a register of its own.
const firstRegister = unix.NFT_REG32_00

// words builds the expressions of rules. Each word is a few of them; rule joins words.
type words struct{ fam *family }

func (w words) rule(parts ...[]expression) rule {
	var r rule
	for _, p := range parts {
		r = append(r, p...)
	}
	return r
}

func word(exprs ...expr.Any) []expression {
	var list []expression
	for _, e := range exprs {
		list = append(list, std{e})
	}
	return list
}

// addrRegisters is how many registers an address takes.
func (w words) addrRegisters() uint32 { return uint32(w.fam.addrLen / 4) }

// Loads into a register.

func (w words) protocol(reg uint32) []expression {
	return word(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg})
}

func (w words) network(reg, offset uint32) []expression {
	return word(&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(w.fam.addrLen)})
}

// port loads the destination port (th dport).
func (w words) port(reg uint32) []expression {
	return word(&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2})
}

// Keys, from the first register on.

// frontendAt loads what the packet is addressed to: protocol, address, port.
func (w words) frontendAt(reg uint32) []expression {
	return w.rule(w.protocol(reg), w.network(reg+1, w.fam.daddr), w.port(reg+1+w.addrRegisters()))
}

func (w words) frontend() []expression { return w.frontendAt(firstRegister) }

func (w words) frontendAndSlot(n uint32) []expression {
	return append(w.frontend(), std{&expr.Numgen{Register: firstRegister + 2 + w.addrRegisters(), Modulus: n, Type: unix.NFT_NG_RANDOM}})
}

func (w words) frontendAndSource() []expression {
	return w.rule(w.frontend(), w.network(firstRegister+2+w.addrRegisters(), w.fam.saddr))
}

func (w words) sourceAndFrontend() []expression {
	return w.rule(w.network(firstRegister, w.fam.saddr), w.frontendAt(firstRegister+w.addrRegisters()))
}

func (w words) sourceAndDestination() []expression {
	return w.rule(w.network(firstRegister, w.fam.saddr), w.network(firstRegister+w.addrRegisters(), w.fam.daddr))
}

func (w words) destination() []expression { return w.network(firstRegister, w.fam.daddr) }

// originalFrontendAt loads what the connection was addressed to before it was translated.
func (w words) originalFrontendAt(reg uint32) []expression {
	return append(w.protocol(reg),
		ctOriginal{w.fam.ctDst, reg + 1},
		ctOriginal{unix.NFT_CT_PROTO_DST, reg + 1 + w.addrRegisters()})
}

func (w words) originalFrontend() []expression { return w.originalFrontendAt(firstRegister) }

func (w words) originalDestination() []expression {
	return []expression{ctOriginal{w.fam.ctDst, firstRegister}}
}

// Conditions.

// in and notIn ask for the key that has just been loaded.
func (w words) in(s Set) []expression { return w.inNamed(schemas[s].name) }

func (w words) inNamed(set string) []expression {
	return word(&expr.Lookup{SourceRegister: firstRegister, SetName: set})
}

func (w words) notIn(s Set) []expression {
	return word(&expr.Lookup{SourceRegister: firstRegister, SetName: schemas[s].name, Invert: true})
}

func (w words) protocolIs(protocol byte) []expression {
	return append(w.protocol(firstRegister), w.equal([]byte{protocol})...)
}

func (w words) equal(data []byte) []expression {
	return word(&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: data})
}

// fromNode holds for packets whose source is one of the node's own addresses.
func (w words) fromNode() []expression {
	local := binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)
	return append(word(&expr.Fib{Register: firstRegister, FlagSADDR: true, ResultADDRTYPE: true}), w.equal(local)...)
}

// notTranslated holds for connections whose destination nobody has translated (IPS_DST_NAT).
func (w words) notTranslated() []expression {
	const dstNAT = 1 << 5
	return word(
		&expr.Ct{Register: firstRegister, Key: expr.CtKeySTATUS},
		&expr.Bitwise{SourceRegister: firstRegister, DestRegister: firstRegister, Len: 4,
			Mask: binary.NativeEndian.AppendUint32(nil, dstNAT), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: make([]byte, 4)})
}

// sourceWithin holds for source addresses within cidr, written into the rule: unlike an interval
// set, that cannot miss in the middle of a transaction.
func (w words) sourceWithin(cidr netip.Prefix) []expression {
	mask := make([]byte, w.fam.addrLen)
	for i := range cidr.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	load := w.network(firstRegister, w.fam.saddr)
	if cidr.Bits() < 8*w.fam.addrLen {
		load = append(load, std{&expr.Bitwise{SourceRegister: firstRegister, DestRegister: firstRegister, Len: uint32(w.fam.addrLen),
			Mask: mask, Xor: make([]byte, w.fam.addrLen)}})
	}
	return append(load, w.equal(cidr.Masked().Addr().AsSlice())...)
}

func (w words) interfaceIs(name string) []expression {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return append(word(&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: firstRegister}), w.equal(padded)...)
}

func (w words) interfaceBegins(prefix string) []expression {
	return append(word(&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: firstRegister}), w.equal([]byte(prefix))...)
}

// Outcomes.

func (w words) verdict(kind expr.VerdictKind, chain string) []expression {
	return word(&expr.Verdict{Kind: kind, Chain: chain})
}

func (w words) drop() []expression               { return w.verdict(expr.VerdictDrop, "") }
func (w words) ret() []expression                { return w.verdict(expr.VerdictReturn, "") }
func (w words) jump(chain string) []expression   { return w.verdict(expr.VerdictJump, chain) }
func (w words) jumpTo(chain string) []expression { return w.verdict(expr.VerdictGoto, chain) }

// dispatch takes the verdict that a map has for the key.
func (w words) dispatch(s Set) []expression {
	return word(&expr.Lookup{SourceRegister: firstRegister, SetName: schemas[s].name, IsDestRegSet: true, DestRegister: unix.NFT_REG_VERDICT})
}

// translate sends the connection to the endpoint that a map has for the key.
func (w words) translate(s Set) []expression {
	return word(
		&expr.Lookup{SourceRegister: firstRegister, SetName: schemas[s].name, IsDestRegSet: true, DestRegister: firstRegister},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(w.fam.nfproto),
			RegAddrMin: firstRegister, RegProtoMin: firstRegister + w.addrRegisters()})
}

func (w words) masquerade() []expression { return word(&expr.Masq{FullyRandom: true}) }

func (w words) rejectReset() []expression {
	return word(&expr.Reject{Type: unix.NFT_REJECT_TCP_RST})
}

// reject answers with an ICMP port unreachable. The kernel limits the rate of such answers.
func (w words) reject() []expression {
	code := uint8(3) // ICMP_PORT_UNREACH
	if w.fam == ipv6 {
		code = 4 // ICMPV6_PORT_UNREACH
	}
	return word(&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: code})
}

// remember writes the affinity entry of a translated connection: client and original frontend,
// and the endpoint that it goes to.
func (w words) remember(timeout time.Duration) []expression {
	addr := w.addrRegisters()
	data := uint32(firstRegister) + 2*addr + 2
	return w.rule(
		w.network(firstRegister, w.fam.saddr),
		w.originalFrontendAt(firstRegister+addr),
		w.network(data, w.fam.daddr),
		w.port(data+addr),
		word(&expr.Dynset{SrcRegKey: firstRegister, SrcRegData: data, SetName: schemas[Affinity].name,
			Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: timeout}))
}
