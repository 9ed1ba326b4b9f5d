package kubeproxy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// The tables that iptables-nft makes are tables of nf_tables: what kube-proxy wrote with it is removed over
// netlink, without iptables.

// readNFT reads the tables of a family that iptables-nft writes, if kube-proxy has chains in them.
func readNFT(c nftConn, fam nftFamily) (tables []xtable, err error) {
	chains, err := c.chains(fam)
	if err != nil {
		return nil, err
	}
	for _, name := range xtables {
		t := xtable{name: name, base: map[string]bool{}}
		ours := false
		for _, chain := range chains {
			switch {
			case chain.table != name:
				continue
			case chain.base:
				t.base[chain.name] = true
				t.drop = t.drop || chain.name == "FORWARD" && chain.drop
			default:
				t.user = append(t.user, chain.name)
				ours = ours || isOwn(name, chain.name)
			}
		}
		if !ours {
			continue // others' tables can be long
		}
		if t.rules, err = c.rules(fam, name, ""); err != nil {
			return nil, err
		}
		tables = append(tables, t)
	}
	return tables, nil
}

// removeNFT takes kube-proxy out of a table that iptables-nft made: first the rules that lead to its
// chains, of all at once, so that nothing is on its way through them when they go.
func removeNFT(ctx context.Context, fam nftFamily, table string, r removal) error {
	if err := unhook(ctx, fam, table, r); err != nil {
		return fmt.Errorf("unhook kube-proxy's chains from table %s %s: %w", fam.name, table, err)
	}
	pause(ctx)
	var requests []netlink.Message
	for _, chain := range r.chains {
		requests = append(requests, flushChain(fam, table, chain))
	}
	if err := applyParts(requests); err != nil {
		return fmt.Errorf("empty kube-proxy's chains in table %s %s: %w", fam.name, table, err)
	}
	requests = requests[:0]
	for _, chain := range r.chains {
		requests = append(requests, deleteChain(fam, table, chain))
	}
	if err := applyParts(requests); err != nil {
		return fmt.Errorf("delete kube-proxy's chains in table %s %s: %w", fam.name, table, err)
	}
	return nil
}

// unhookTries bounds how often others may come between reading a chain and writing to it.
const unhookTries = 100

// unhook deletes the jumps. The built-in chains are read anew, which is quick, and the transaction holds
// only if nothing has changed since: a handle can then not be another rule's.
func unhook(ctx context.Context, fam nftFamily, table string, r removal) error {
	var from []string
	for _, jump := range r.jumps {
		if !slices.Contains(from, jump.chain) {
			from = append(from, jump.chain)
		}
	}
	for try := 1; ; try++ {
		err := unhookOnce(fam, table, from, r)
		if !errors.Is(err, errChanged) || try == unhookTries || ctx.Err() != nil {
			return err
		}
	}
}

func unhookOnce(fam nftFamily, table string, from []string, r removal) (err error) {
	c, err := dialNFT()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	gen, err := c.generation()
	if err != nil {
		return err
	}
	var requests []netlink.Message
	for _, chain := range from {
		rules, err := c.rules(fam, table, chain)
		if err != nil {
			return err
		}
		for _, rule := range rules {
			if slices.Contains(entrances[table], rule.target) && r.kept[rule.target] == "" {
				requests = append(requests, deleteRule(fam, table, rule))
			}
		}
	}
	return c.apply(gen, requests)
}

// The tables of mode nftables.

const nftTable = "kube-proxy"

// findTable reports whether kube-proxy has a table in the family, and its base chains.
func findTable(c nftConn, fam nftFamily) (found bool, base []nftChain, err error) {
	chains, err := c.chains(fam)
	if err != nil {
		return false, nil, err
	}
	for _, chain := range chains {
		if chain.table == nftTable {
			found = true
			if chain.base {
				base = append(base, chain)
			}
		}
	}
	return found, base, nil
}

// removeTable removes kube-proxy's table: first what leads into it on a packet's way in, then on its
// way out, so that what has been marked for masquerading still is, and then all of it.
func removeTable(ctx context.Context, fam nftFamily, base []nftChain) error {
	var in, out []netlink.Message
	for _, chain := range base {
		flush := flushChain(fam, nftTable, chain.name)
		if chain.hook == unix.NF_INET_POST_ROUTING {
			out = append(out, flush)
		} else {
			in = append(in, flush)
		}
	}
	for _, requests := range [][]netlink.Message{in, out, {deleteTable(fam, nftTable)}} {
		if err := transaction(0, requests); err != nil {
			return fmt.Errorf("remove table %s %s: %w", fam.name, nftTable, err)
		}
		pause(ctx)
	}
	return nil
}

// pause lets the packets pass that are on their way through chains which have just been unhooked. They take
// microseconds.
func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(5 * time.Millisecond):
	}
}
