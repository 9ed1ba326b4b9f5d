package dataplane

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

func lockThread() { runtime.LockOSThread() }

// probeTable is made and removed again within one transaction: nobody ever sees it.
const probeTable = "weir-probe"

// probe finds out which families the kernel has, and whether tables can have owners. It tries no rules: the
// kernel would hook them in for a moment, and remember connections that begin in it as not to be translated.
func (c *Conn) probe(ctx context.Context) error {
	for _, fam := range []*family{ipv4, ipv6} {
		if fam == ipv6 && c.cfg.NoIPv6 {
			klog.FromContext(ctx).Info("This host has no IPv6: serving IPv4 only")
			continue
		}
		err := c.tryTable(fam, 0, func(b *batch) {})
		switch {
		case err == nil:
			c.families = append(c.families, fam)
		case fam == ipv6 && (errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT)):
			klog.FromContext(ctx).Info("The kernel has no nf_tables for IPv6: serving IPv4 only")
			continue
		default:
			return explain(err)
		}
	}
	if !c.cfg.Shared {
		flags := uint32(nftTableFlagOwner | nftTableFlagPersist)
		if c.tryTable(ipv4, flags, func(*batch) {}) == nil {
			c.flags = flags
		}
	}
	c.destroy = c.tryTable(ipv4, 0, func(b *batch) {
		appendSet(&b.messages, ipv4, probeTable, "probe", &schemas[ClusterIPs], 1)
		list := beginElements(&b.messages, ipv4, probeTable, "probe", nftMsgDestroySetElem)
		appendElement(&b.messages, ipv4, ClusterIPs, &Element{Frontend: Frontend{Addr: netip.IPv4Unspecified()}}, true)
		endElements(&b.messages, list)
	}) == nil
	return nil
}

// tryTable makes a table with more in it, and removes it in the same transaction.
func (c *Conn) tryTable(fam *family, flags uint32, more func(*batch)) error {
	b := c.newBatch()
	appendNewTable(&b.messages, fam, probeTable, flags, "")
	more(b)
	appendDelTable(&b.messages, fam, probeTable)
	return c.commit(b)
}

// findMissing finds out why the kernel refuses a new table. It tries one expression after the other, to name what
// the kernel lacks. A refusal of elements is as it was.
func (c *Conn) findMissing(fam *family, cause error) error {
	var refused *RefusedError
	if !errors.As(cause, &refused) || len(refused.Refusals) > 0 {
		return cause
	}
	w := words{fam}
	type feature struct {
		name string
		hook string
		r    rule
	}
	features := []feature{
		{"chains of type nat (nft_chain_nat)", "prerouting", nil},
		{"numgen (nft_numgen)", "", word(&expr.Numgen{Register: firstRegister, Modulus: 2, Type: unix.NFT_NG_RANDOM})},
		{"fib (nft_fib_" + fam.name + ")", "prerouting", w.fromNode()},
		{"ct (nft_ct)", "", w.originalDestination()},
		{"reject (nft_reject), in prerouting since kernel 5.9", "prerouting", w.reject()},
		{"masquerade (nft_masq)", "postrouting", w.masquerade()},
		{"dnat (nft_nat)", "prerouting", word(
			&expr.Immediate{Register: firstRegister, Data: make([]byte, fam.addrLen)},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(fam.nfproto), RegAddrMin: firstRegister})},
	}
	if len(c.cfg.Layout.DNS.addrs(fam)) > 0 {
		features = append(features, []feature{
			{"socket wildcard (nft_socket), for --dns-address", "prerouting", w.specificSocket()},
			{"notrack (nft_ct), for --dns-address", "", w.notrack()},
		}...)
	}
	for _, f := range features {
		err := c.tryTable(fam, 0, func(b *batch) {
			appendChain(&b.messages, fam, probeTable, chain{name: "probe", hook: f.hook})
			if f.r != nil {
				appendRule(&b.messages, fam, probeTable, "probe", f.r)
			}
		})
		if err != nil {
			return fmt.Errorf("the kernel has no %s for family %s: load the module, or use a kernel that has it (5.13 or later): %w", f.name, fam.name, err)
		}
	}
	return fmt.Errorf("the kernel refuses Weir's tables for family %s (it takes Linux 5.13 or later): %w", fam.name, cause)
}

// explain says what to do about an error of the very first request.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("no permission to change nf_tables: run as root, or with the capability CAP_NET_ADMIN: %w", err)
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EINVAL):
		return fmt.Errorf("the kernel has no nf_tables: load the module nf_tables, or use a kernel that has it (5.13 or later): %w", err)
	}
	return err
}
