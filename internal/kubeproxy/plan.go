package kubeproxy

import (
	"maps"
	"slices"
	"strings"
)

// rule is a rule of a table that iptables made, as far as it matters who jumps where.
type rule struct {
	chain  string
	target string   // the chain that it jumps to; "": none
	handle uint64   // nf_tables' name for it
	args   []string // iptables-legacy's words behind -A CHAIN
}

// xtable is a table of iptables, in whichever of its two kernels.
type xtable struct {
	name  string
	base  map[string]bool // built-in chains
	user  []string        // the others
	rules []rule
	drop  bool // the built-in chain FORWARD drops what no rule accepts
}

// removal is what has to go from one table.
type removal struct {
	jumps  []rule   // rules in built-in chains
	chains []string // with the rules in them
	// kept are chains that stay although they are kube-proxy's, with a foreign chain that needs them.
	kept map[string]string
	// unguarded says that forwarded packets are dropped that KUBE-FORWARD accepted.
	unguarded bool
}

func (r removal) empty() bool { return len(r.jumps) == 0 && len(r.chains) == 0 }

// entrances are the chains to which kube-proxy jumps from the built-in ones, in its modes iptables and ipvs.
var entrances = map[string][]string{
	"filter": {"KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS", "KUBE-FORWARD", "KUBE-PROXY-FIREWALL",
		"KUBE-NODE-PORT", "KUBE-IPVS-FILTER", "KUBE-IPVS-OUT-FILTER"},
	"nat": {"KUBE-SERVICES", "KUBE-POSTROUTING"},
}

// inner are its further chains with fixed names. KUBE-FIREWALL, KUBE-MARK-DROP, KUBE-KUBELET-CANARY and
// KUBE-IPTABLES-HINT are the kubelet's, even where kube-proxy may have made the first, and are
// not here; kube-proxy's own cleanup leaves them too.
var inner = map[string][]string{
	"filter": {"KUBE-PROXY-CANARY", "KUBE-SOURCE-RANGES-FIREWALL"},
	"nat":    {"KUBE-PROXY-CANARY", "KUBE-NODEPORTS", "KUBE-MARK-MASQ", "KUBE-NODE-PORT", "KUBE-LOAD-BALANCER"},
	"mangle": {"KUBE-PROXY-CANARY"},
}

// perService are what names of chains of services and endpoints begin with. 16 characters of base32 follow.
var perService = []string{"KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-FW-", "KUBE-EXT-"}

const hashLen = 16

// xtables are the tables in which kube-proxy writes.
var xtables = []string{"filter", "nat", "mangle"}

// isOwn reports whether a chain is kube-proxy's. Names of others are similar: KUBE-POD-FW-… is kube-router's.
func isOwn(table, chain string) bool {
	if slices.Contains(entrances[table], chain) || slices.Contains(inner[table], chain) {
		return true
	}
	if table != "nat" {
		return false
	}
	for _, prefix := range perService {
		if hash, ok := strings.CutPrefix(chain, prefix); ok {
			return len(hash) == hashLen && strings.Trim(hash, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == ""
		}
	}
	return false
}

// plan decides what to remove from a table. Somebody else may use a chain of kube-proxy's: the portmap plugin
// of CNI can be told to jump to KUBE-MARK-MASQ. Such a chain stays, with what it needs.
func plan(t xtable) removal {
	r := removal{kept: map[string]string{}}
	own := map[string]bool{}
	for _, chain := range t.user {
		if isOwn(t.name, chain) {
			own[chain] = true
		}
	}
	var stay []string
	keep := func(chain, by string) {
		if own[chain] && r.kept[chain] == "" {
			r.kept[chain] = by
			stay = append(stay, chain)
		}
	}
	for _, rule := range t.rules {
		if !own[rule.chain] && !isJump(t, rule) {
			keep(rule.target, rule.chain)
		}
	}
	for len(stay) > 0 {
		chain := stay[0]
		stay = stay[1:]
		if chain == "KUBE-MARK-MASQ" {
			keep("KUBE-POSTROUTING", chain) // a mark is of no use without who reads it
		}
		for _, rule := range t.rules {
			if rule.chain == chain {
				keep(rule.target, chain)
			}
		}
	}
	for _, rule := range t.rules {
		if own[rule.target] && r.kept[rule.target] == "" && isJump(t, rule) {
			r.jumps = append(r.jumps, rule)
		}
	}
	for _, chain := range slices.Sorted(maps.Keys(own)) {
		if r.kept[chain] == "" {
			r.chains = append(r.chains, chain)
		}
	}
	r.unguarded = t.drop && slices.Contains(r.chains, "KUBE-FORWARD")
	return r
}

// isJump reports whether a rule is what leads from a built-in chain into kube-proxy's.
func isJump(t xtable, r rule) bool {
	return t.base[r.chain] && slices.Contains(entrances[t.name], r.target)
}
