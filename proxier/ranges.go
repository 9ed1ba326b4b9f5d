package proxier

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/weir-project/weir/endpoints"
)

// distinct returns prefixes masked, sorted and without any that another contains: an interval set
// refuses elements that overlap.
func distinct(prefixes []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range prefixes {
		if p.IsValid() {
			out = append(out, p.Masked())
		}
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	kept := out[:0]
	for _, p := range out {
		if len(kept) == 0 || !kept[len(kept)-1].Contains(p.Addr()) {
			kept = append(kept, p)
		}
	}
	return slices.Clip(kept)
}

// ofFamily returns the prefixes of one family.
func ofFamily(prefixes []netip.Prefix, f endpoints.Family) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range prefixes {
		if p.IsValid() && endpoints.FamilyOf(p.Addr()) == f {
			out = append(out, p)
		}
	}
	return out
}

// contains reports whether any of the prefixes contains any of the addresses.
func contains(prefixes []netip.Prefix, addrs []netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool {
		return slices.ContainsFunc(addrs, p.Contains)
	})
}

// plainAddrs returns addresses sorted, distinct, without zones and IPv4-mapped forms, and without
// those that nobody can dial.
func plainAddrs(addrs []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, a := range addrs {
		a = a.WithZone("").Unmap()
		if a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// has reports whether sorted addresses include a.
func has(sorted []netip.Addr, a netip.Addr) bool {
	_, ok := slices.BinarySearchFunc(sorted, a, netip.Addr.Compare)
	return ok
}
