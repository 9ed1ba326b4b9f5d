package kubeproxy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Leftovers is what kube-proxy has written into this network namespace, in whichever of its modes.
type Leftovers struct {
	families []familyLeftovers
	ipvs     ipvsState
}

// familyLeftovers are those of IPv4 or IPv6.
type familyLeftovers struct {
	family nftFamily
	table  bool       // of mode nftables
	base   []nftChain // in it
	tables map[string]removal
	legacy map[string]removal // tables of iptables-legacy
}

func (f familyLeftovers) empty() bool { return !f.table && len(f.tables) == 0 && len(f.legacy) == 0 }

// Find looks for what kube-proxy has written. It changes nothing.
func Find() (l Leftovers, err error) {
	c, err := dialNFT()
	if err != nil {
		return l, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	for _, fam := range nftFamilies {
		f, err := findFamily(c, fam)
		if errors.Is(err, unix.EOPNOTSUPP) {
			continue // no such family in this kernel
		}
		if err != nil {
			return l, err
		}
		l.families = append(l.families, f)
	}
	l.ipvs, err = readIPVS()
	return l, err
}

func findFamily(c nftConn, fam nftFamily) (f familyLeftovers, err error) {
	f = familyLeftovers{family: fam, tables: map[string]removal{}}
	if f.table, f.base, err = findTable(c, fam); err != nil {
		return f, err
	}
	tables, err := readNFT(c, fam)
	if err != nil {
		return f, err
	}
	for _, t := range tables {
		if r := plan(t); !r.empty() {
			f.tables[t.name] = r
		}
	}
	f.legacy, err = readLegacy(fam)
	return f, err
}

// Empty reports whether there is nothing to remove.
func (l Leftovers) Empty() bool {
	return l.ipvs.empty() && !slices.ContainsFunc(l.families, func(f familyLeftovers) bool { return !f.empty() })
}

// String tells what there is, for people.
func (l Leftovers) String() string {
	var parts []string
	for _, f := range l.families {
		if f.table {
			parts = append(parts, "table "+f.family.name+" "+nftTable)
		}
		for _, table := range slices.Sorted(maps.Keys(f.tables)) {
			parts = append(parts, fmt.Sprintf("%d chains in %s %s", len(f.tables[table].chains), f.family.binary, table))
		}
		if n := countChains(f.legacy); n > 0 {
			parts = append(parts, fmt.Sprintf("%d chains in %s-legacy", n, f.family.binary))
		}
	}
	if l.ipvs.link != nil {
		parts = append(parts, "link "+dummyLink)
	}
	if n := len(l.ipvs.sets); n > 0 {
		parts = append(parts, fmt.Sprintf("%d ipsets", n))
	}
	return strings.Join(parts, ", ")
}

// Report is what a removal did.
type Report struct {
	Removed []string
	Notes   []string // what an operator should know: what stays, and why
	Waiting bool     // something can be removed later only
}

// Remove removes what was found, and nothing else. What it cannot remove does not keep it from the
// rest. Somebody must serve in kube-proxy's place by now.
func (l Leftovers) Remove(ctx context.Context) (r Report, err error) {
	var errs []error
	for _, f := range l.families {
		errs = append(errs, f.remove(ctx, &r))
	}
	errs = append(errs, l.removeIPVS(&r))
	return r, errors.Join(errs...)
}

func (f familyLeftovers) remove(ctx context.Context, r *Report) error {
	var errs []error
	for _, table := range slices.Sorted(maps.Keys(f.tables)) {
		plan := f.tables[table]
		if err := removeNFT(ctx, f.family, table, plan); err != nil {
			errs = append(errs, err)
			continue
		}
		r.Removed = append(r.Removed, fmt.Sprintf("%d chains and %d rules that lead to them in %s %s",
			len(plan.chains), len(plan.jumps), f.family.binary, table))
		r.note(f.family, plan)
	}
	if len(f.legacy) > 0 {
		removed, err := removeLegacy(ctx, f.family, f.legacy)
		for _, plan := range removed {
			r.Removed = append(r.Removed, fmt.Sprintf("%d chains in %s-legacy", len(plan.chains), f.family.binary))
			r.note(f.family, plan)
		}
		errs = append(errs, err)
	}
	if f.table {
		err := removeTable(ctx, f.family, f.base)
		if err == nil {
			r.Removed = append(r.Removed, "table "+f.family.name+" "+nftTable)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// note notes what is left to know of a table.
func (r *Report) note(fam nftFamily, plan removal) {
	for _, chain := range slices.Sorted(maps.Keys(plan.kept)) {
		r.Notes = append(r.Notes, fmt.Sprintf("chain %s of %s stays, because chain %s needs it", chain, fam.binary, plan.kept[chain]))
	}
	if plan.unguarded {
		r.Notes = append(r.Notes, fam.binary+" drops forwarded packets that no rule accepts, and kube-proxy's rule that "+
			"accepted those of Services is gone: make sure that another one accepts packets from and to the pods")
	}
}

func (l Leftovers) removeIPVS(r *Report) error {
	if l.ipvs.connections > 0 {
		r.Waiting = true
		r.Notes = append(r.Notes, "established connections depend on IPVS: "+dummyLink+" and its services stay until they have ended")
		return nil
	}
	removed, err := l.ipvs.remove()
	r.Removed = append(r.Removed, removed...)
	if n := l.ipvs.foreign(); n > 0 && err == nil {
		r.Notes = append(r.Notes, fmt.Sprintf("%d IPVS services stay, because they are on addresses that %s does not have: "+
			"kube-proxy's are those of node ports, which do no harm; ipvsadm shows and removes them", n, dummyLink))
	}
	return err
}
