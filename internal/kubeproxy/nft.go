package kubeproxy

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// nftConn speaks to nf_tables in the network namespace of the thread that opened it. It knows as much as
// it takes to find chains and rules and to remove them.
type nftConn struct{ *netlink.Conn }

func dialNFT() (nftConn, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nftConn{}, fmt.Errorf("open a netlink socket: %w", err)
	}
	return nftConn{c}, nil
}

// nftFamily is one of the families in which kube-proxy writes.
type nftFamily struct {
	name   string // as nft says
	number uint8
	binary string // iptables' name for it
}

var nftFamilies = []nftFamily{{"ip", unix.NFPROTO_IPV4, "iptables"}, {"ip6", unix.NFPROTO_IPV6, "ip6tables"}}

// nftChain is a chain as the kernel lists it.
type nftChain struct {
	family uint8
	table  string
	name   string
	hook   uint32 // of a base chain
	base   bool
	drop   bool // a base chain whose policy is drop
}

// Attributes of enum nft_chain_attributes, nft_rule_attributes and nft_hook_attributes.
const (
	nftaHookHooknum = 1
	nfDropVerdict   = 0
)

// message makes one request of the nf_tables subsystem.
func message(typ uint16, flags netlink.HeaderFlags, family uint8, attrs ...netlink.Attribute) netlink.Message {
	body := []byte{family, unix.NFNETLINK_V0, 0, 0}
	encoded, err := netlink.MarshalAttributes(attrs)
	if err != nil {
		panic(err) // an attribute of ours longer than 64 KB
	}
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | typ), Flags: netlink.Request | flags},
		Data:   append(body, encoded...),
	}
}

func text(typ uint16, s string) netlink.Attribute {
	return netlink.Attribute{Type: typ, Data: append([]byte(s), 0)}
}

func number64(typ uint16, n uint64) netlink.Attribute {
	return netlink.Attribute{Type: typ, Data: binary.BigEndian.AppendUint64(nil, n)}
}

// list sends a request and calls each with the attributes of every answer.
func (c nftConn) list(m netlink.Message, each func(*netlink.AttributeDecoder) error) error {
	answers, err := c.Execute(m)
	if err != nil {
		return err
	}
	for _, a := range answers {
		if len(a.Data) < 4 { // struct nfgenmsg
			continue
		}
		if err := attributes(a.Data[4:], each); err != nil {
			return err
		}
	}
	return nil
}

// attributes calls each once, with a decoder of b whose numbers are in the network's order.
func attributes(b []byte, each func(*netlink.AttributeDecoder) error) error {
	ad, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return err
	}
	ad.ByteOrder = binary.BigEndian
	if err := each(ad); err != nil {
		return err
	}
	return ad.Err()
}

// generation is the number of the ruleset: every transaction of anybody makes a new one.
func (c nftConn) generation() (gen uint32, err error) {
	err = c.list(message(unix.NFT_MSG_GETGEN, 0, unix.AF_UNSPEC), func(ad *netlink.AttributeDecoder) error {
		for ad.Next() {
			if ad.Type() == unix.NFTA_GEN_ID {
				gen = ad.Uint32()
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("get the ruleset's generation: %w", err)
	}
	return gen, nil
}

// chains lists every chain of a family.
func (c nftConn) chains(fam nftFamily) ([]nftChain, error) {
	var chains []nftChain
	err := c.list(message(unix.NFT_MSG_GETCHAIN, netlink.Dump, fam.number), func(ad *netlink.AttributeDecoder) error {
		chain, err := decodeChain(ad)
		chain.family = fam.number
		chains = append(chains, chain)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the chains of family %s: %w", fam.name, err)
	}
	return chains, nil
}

func decodeChain(ad *netlink.AttributeDecoder) (nftChain, error) {
	c := nftChain{}
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_CHAIN_TABLE:
			c.table = ad.String()
		case unix.NFTA_CHAIN_NAME:
			c.name = ad.String()
		case unix.NFTA_CHAIN_POLICY:
			c.drop = ad.Uint32() == nfDropVerdict
		case unix.NFTA_CHAIN_HOOK:
			c.base = true
			err := attributes(ad.Bytes(), func(hook *netlink.AttributeDecoder) error {
				for hook.Next() {
					if hook.Type() == nftaHookHooknum {
						c.hook = hook.Uint32()
					}
				}
				return nil
			})
			if err != nil {
				return c, err
			}
		}
	}
	return c, nil
}

// rules lists the rules of a table, or of one chain of it.
func (c nftConn) rules(fam nftFamily, table, chain string) ([]rule, error) {
	attrs := []netlink.Attribute{text(unix.NFTA_RULE_TABLE, table)}
	if chain != "" {
		attrs = append(attrs, text(unix.NFTA_RULE_CHAIN, chain))
	}
	var rules []rule
	err := c.list(message(unix.NFT_MSG_GETRULE, netlink.Dump, fam.number, attrs...), func(ad *netlink.AttributeDecoder) error {
		r, err := decodeRule(ad)
		rules = append(rules, r)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the rules of table %s %s: %w", fam.name, table, err)
	}
	return rules, nil
}

func decodeRule(ad *netlink.AttributeDecoder) (rule, error) {
	r := rule{}
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_RULE_CHAIN:
			r.chain = ad.String()
		case unix.NFTA_RULE_HANDLE:
			r.handle = ad.Uint64()
		case unix.NFTA_RULE_EXPRESSIONS:
			var err error
			if r.target, err = jumpOf(ad.Bytes()); err != nil {
				return r, err
			}
		}
	}
	return r, nil
}

// jumpOf returns the chain to which a list of expressions jumps or goes, "" if it does not: iptables
// puts that into an immediate expression.
func jumpOf(expressions []byte) (chain string, err error) {
	err = attributes(expressions, func(list *netlink.AttributeDecoder) error {
		for list.Next() {
			// Expression, its data, immediate's data, verdict, chain.
			name, data, err := find2(list.Bytes(), unix.NFTA_EXPR_NAME, unix.NFTA_EXPR_DATA)
			if err != nil {
				return err
			}
			if cString(name) != "immediate" {
				continue
			}
			for _, typ := range []uint16{unix.NFTA_IMMEDIATE_DATA, unix.NFTA_DATA_VERDICT, unix.NFTA_VERDICT_CHAIN} {
				if data, _, err = find2(data, typ, typ); err != nil {
					return err
				}
			}
			if len(data) > 0 {
				chain = cString(data)
			}
		}
		return nil
	})
	return chain, err
}

// find2 returns the values of two attributes of b, nil for what is not there.
func find2(b []byte, first, second uint16) (one, two []byte, err error) {
	err = attributes(b, func(ad *netlink.AttributeDecoder) error {
		for ad.Next() {
			if ad.Type() == first {
				one = ad.Bytes()
			}
			if ad.Type() == second {
				two = ad.Bytes()
			}
		}
		return nil
	})
	return one, two, err
}

func cString(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// deleteRule deletes a rule; the kernel never gives its handle to another one of the same table.
func deleteRule(fam nftFamily, table string, r rule) netlink.Message {
	return message(unix.NFT_MSG_DELRULE, 0, fam.number,
		text(unix.NFTA_RULE_TABLE, table), text(unix.NFTA_RULE_CHAIN, r.chain), number64(unix.NFTA_RULE_HANDLE, r.handle))
}

// flushChain deletes all rules of a chain.
func flushChain(fam nftFamily, table, chain string) netlink.Message {
	return message(unix.NFT_MSG_DELRULE, 0, fam.number, text(unix.NFTA_RULE_TABLE, table), text(unix.NFTA_RULE_CHAIN, chain))
}

func deleteChain(fam nftFamily, table, chain string) netlink.Message {
	return message(unix.NFT_MSG_DELCHAIN, 0, fam.number, text(unix.NFTA_CHAIN_TABLE, table), text(unix.NFTA_CHAIN_NAME, chain))
}

func deleteTable(fam nftFamily, table string) netlink.Message {
	return message(unix.NFT_MSG_DELTABLE, 0, fam.number, text(unix.NFTA_TABLE_NAME, table))
}

// errChanged says that somebody else has changed the ruleset since it was read.
var errChanged = errors.New("the ruleset has changed since it was read")

// maxBatch is how many requests go into one transaction, so that it fits the default send buffer.
const maxBatch = 500

// apply sends requests as one transaction: all of it happens or none. If gen is not 0, nothing happens
// unless that is the ruleset's generation still.
func (c nftConn) apply(gen uint32, requests []netlink.Message) error {
	if len(requests) == 0 {
		return nil
	}
	begin := bracket(unix.NFNL_MSG_BATCH_BEGIN)
	if gen != 0 {
		const nfnlBatchGenID = 1
		id, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: nfnlBatchGenID, Data: binary.BigEndian.AppendUint32(nil, gen)}})
		if err != nil {
			return err
		}
		begin.Data = append(begin.Data, id...)
	}
	batch := append([]netlink.Message{begin}, requests...)
	// Kernel 6.1 does not acknowledge the end of a batch, so the last request of it asks.
	batch[len(batch)-1].Header.Flags |= netlink.Acknowledge
	batch = append(batch, bracket(unix.NFNL_MSG_BATCH_END))
	if _, err := c.SendMessages(batch); err != nil {
		return err
	}
	// The first answer tells: errors come before the acknowledgement.
	_, err := c.Receive()
	if errors.Is(err, unix.ERESTART) {
		return errChanged
	}
	return err
}

// applyParts is apply for any number of requests, as several transactions.
func applyParts(requests []netlink.Message) error {
	for len(requests) > 0 {
		n := min(len(requests), maxBatch)
		if err := transaction(0, requests[:n]); err != nil {
			return err
		}
		requests = requests[n:]
	}
	return nil
}

// transaction is apply on a socket of its own, as a refusal may leave more answers behind.
func transaction(gen uint32, requests []netlink.Message) error {
	c, err := dialNFT()
	if err != nil {
		return err
	}
	return errors.Join(c.apply(gen, requests), c.Close())
}

func bracket(typ uint16) netlink.Message {
	body := []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0}
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(typ), Flags: netlink.Request},
		Data:   binary.BigEndian.AppendUint16(body, unix.NFNL_SUBSYS_NFTABLES),
	}
}
