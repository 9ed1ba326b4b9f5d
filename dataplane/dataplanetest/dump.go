package dataplanetest

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weir-project/weir/dataplane"
)

// Dump is everything that the maps hold, of both families.
type Dump map[dataplane.Set][]dataplane.Element

// lastSet is the set with the highest number.
const lastSet = dataplane.ServiceCIDRs

// names are the sets as nft prints them.
var names = [...]string{
	dataplane.Services:       "services",
	dataplane.LocalServices:  "local-services",
	dataplane.Endpoints:      "endpoints",
	dataplane.LocalEndpoints: "local-endpoints",
	dataplane.ClusterIPs:     "cluster-ips",
	dataplane.Hairpin:        "hairpin",
	dataplane.SnatAlways:     "snat-always",
	dataplane.SnatNode:       "snat-node",
	dataplane.Restricted:     "restricted",
	dataplane.AllowedSources: "allowed-sources",
	dataplane.AffinityOf:     "affinity-of",
	dataplane.Affinity:       "affinity",
	dataplane.ServiceCIDRs:   "service-cidrs",
}

// Line returns one element in nft's words.
func Line(set dataplane.Set, e dataplane.Element) string {
	switch set {
	case dataplane.Services, dataplane.LocalServices:
		to := e.Verdict.Chain()
		if e.Verdict != dataplane.Drop {
			to = "goto " + to
		}
		comment := ""
		if e.Comment != "" {
			comment = fmt.Sprintf(" comment %q", e.Comment)
		}
		return fmt.Sprintf("%s%s : %s", e.Frontend, comment, to)
	case dataplane.Endpoints, dataplane.LocalEndpoints:
		return fmt.Sprintf("%s . 0x%08x : %s . %d", e.Frontend, e.Slot, e.Endpoint.Addr(), e.Endpoint.Port())
	case dataplane.ClusterIPs:
		return e.Frontend.Addr.String()
	case dataplane.Hairpin:
		return fmt.Sprintf("%s . %s", e.Frontend.Addr, e.Frontend.Addr)
	case dataplane.AllowedSources:
		return fmt.Sprintf("%s . %s", e.Frontend, e.Source)
	case dataplane.AffinityOf:
		return fmt.Sprintf("%s timeout %s", e.Frontend, e.Timeout)
	case dataplane.Affinity:
		return fmt.Sprintf("%s . %s : %s . %d", e.Client, e.Frontend, e.Endpoint.Addr(), e.Endpoint.Port())
	case dataplane.ServiceCIDRs:
		return e.Source.String()
	}
	return e.Frontend.String()
}

// addr returns an address that tells the element's family.
func addr(e dataplane.Element) netip.Addr {
	if e.Frontend.Addr.IsValid() {
		return e.Frontend.Addr
	}
	return e.Source.Addr()
}

func compareElements(a, b dataplane.Element) int {
	f, g := a.Frontend, b.Frontend
	return cmp.Or(
		f.Addr.Compare(g.Addr), cmp.Compare(f.Port, g.Port), cmp.Compare(f.Protocol, g.Protocol),
		cmp.Compare(a.Slot, b.Slot), a.Client.Compare(b.Client), cmp.Compare(a.Timeout, b.Timeout),
		a.Source.Addr().Compare(b.Source.Addr()), cmp.Compare(a.Source.Bits(), b.Source.Bits()),
		a.Endpoint.Compare(b.Endpoint), cmp.Compare(a.Verdict, b.Verdict), cmp.Compare(a.Comment, b.Comment),
	)
}

// Sort puts the elements of each set in order and drops empty sets.
func (d Dump) Sort() {
	for set, list := range d {
		if len(list) == 0 {
			delete(d, set)
		}
		slices.SortFunc(list, compareElements)
	}
}

// Lines returns one line for each element, in order: family, set, element.
func (d Dump) Lines() []string {
	d.Sort()
	var out []string
	for _, family := range []string{"ip", "ip6"} {
		for set := range lastSet + 1 {
			for _, e := range d[set] {
				if (family == "ip") == addr(e).Is4() {
					out = append(out, family+" "+names[set]+" "+Line(set, e))
				}
			}
		}
	}
	return out
}

// String prints the maps much as nft lists them.
func (d Dump) String() string {
	d.Sort()
	var b strings.Builder
	for _, family := range []string{"ip", "ip6"} {
		fmt.Fprintf(&b, "table %s weir {\n", family)
		for set := range lastSet + 1 {
			var lines []string
			for _, e := range d[set] {
				if (family == "ip") == addr(e).Is4() {
					lines = append(lines, Line(set, e))
				}
			}
			if len(lines) > 0 {
				fmt.Fprintf(&b, "\t%s %s {\n\t\telements = { %s }\n\t}\n", sort(set), names[set], strings.Join(lines, ",\n\t\t\t     "))
			}
		}
		b.WriteString("}\n")
	}
	return b.String()
}

// sort returns whether nft calls it a set or a map.
func sort(set dataplane.Set) string {
	switch set {
	case dataplane.Services, dataplane.LocalServices, dataplane.Endpoints, dataplane.LocalEndpoints, dataplane.Affinity:
		return "map"
	}
	return "set"
}

// Meaning returns what of a dump decides where connections go: without slot numbers, because which
// endpoint is in which slot depends on history, and without what clients are remembered by.
func (d Dump) Meaning() Dump {
	out := Dump{}
	for set, list := range d {
		if set == dataplane.Affinity {
			continue
		}
		list = slices.Clone(list)
		for i := range list {
			list[i].Slot = 0
		}
		out[set] = list
	}
	out.Sort()
	return out
}

// Check returns what cannot be in a ruleset that is complete: a class that does not fit its
// slots, slots or attributes of frontends that nobody asks for.
func (d Dump) Check() error {
	err := errors.Join(d.CheckSlots(),
		d.within(dataplane.LocalServices, dataplane.Services),
		d.within(dataplane.SnatAlways, dataplane.Services),
		d.within(dataplane.SnatNode, dataplane.Services),
		d.within(dataplane.Restricted, dataplane.Services),
		d.within(dataplane.AllowedSources, dataplane.Restricted),
		d.checkAffinity())
	if !testedSlots(d, dataplane.Endpoints, dataplane.Services, dataplane.Balance) {
		err = errors.Join(err, errors.New("endpoints: slots of a frontend that does not balance over them"))
	}
	if !testedSlots(d, dataplane.LocalEndpoints, dataplane.LocalServices, dataplane.BalanceLocal) {
		err = errors.Join(err, errors.New("local-endpoints: slots of a frontend that does not balance over them"))
	}
	return err
}

// CheckSlots returns what may not be at any moment, not even between the transactions that fill a
// new table: a verdict that balances over other slots than there are.
func (d Dump) CheckSlots() error {
	return errors.Join(
		d.checkSlots(dataplane.Services, dataplane.Endpoints, dataplane.Balance),
		d.checkSlots(dataplane.LocalServices, dataplane.LocalEndpoints, dataplane.BalanceLocal))
}

func (d Dump) checkSlots(verdicts, slots dataplane.Set, balance func(int) dataplane.Verdict) error {
	of := map[dataplane.Frontend]map[uint32]netip.AddrPort{}
	for _, e := range d[slots] {
		if of[e.Frontend] == nil {
			of[e.Frontend] = map[uint32]netip.AddrPort{}
		}
		of[e.Frontend][e.Slot] = e.Endpoint
	}
	for _, e := range d[verdicts] {
		if e.Verdict == dataplane.Refuse || e.Verdict == dataplane.Drop {
			continue
		}
		have := of[e.Frontend]
		n := len(have)
		if n == 0 || n > 1<<dataplane.MaxClass || balance(n) != e.Verdict {
			return fmt.Errorf("%s: %s with %d slots", names[verdicts], Line(verdicts, e), n)
		}
		seen := map[netip.AddrPort]bool{}
		for i := range n {
			ap, ok := have[uint32(i)]
			if !ok || seen[ap] {
				return fmt.Errorf("%s: %s: slot %d of %d missing or twice (%s)", names[slots], e.Frontend, i, n, ap)
			}
			seen[ap] = true
		}
	}
	return nil
}

// testedSlots reports whether every slot belongs to a frontend whose verdict uses it.
func testedSlots(d Dump, slots, verdicts dataplane.Set, balance func(int) dataplane.Verdict) bool {
	balanced := map[dataplane.Frontend]bool{}
	for _, e := range d[verdicts] {
		balanced[e.Frontend] = e.Verdict >= balance(1) && e.Verdict <= balance(1<<dataplane.MaxClass)
	}
	for _, e := range d[slots] {
		if !balanced[e.Frontend] {
			return false
		}
	}
	return true
}

// within returns an element of one set whose frontend another lacks.
func (d Dump) within(inner, outer dataplane.Set) error {
	has := map[dataplane.Frontend]bool{}
	for _, e := range d[outer] {
		has[e.Frontend] = true
	}
	for _, e := range d[inner] {
		if !has[e.Frontend] {
			return fmt.Errorf("%s: %s is not in %s", names[inner], e.Frontend, names[outer])
		}
	}
	return nil
}

func (d Dump) checkAffinity() error {
	timeouts := map[dataplane.Frontend]time.Duration{}
	for _, e := range d[dataplane.AffinityOf] {
		if t, ok := timeouts[e.Frontend]; ok {
			return fmt.Errorf("affinity of %s with timeouts %s and %s", e.Frontend, t, e.Timeout)
		}
		timeouts[e.Frontend] = e.Timeout
	}
	return d.within(dataplane.AffinityOf, dataplane.Services)
}

// Where tells from which elements a frontend leads somewhere, for messages of tests.
func (d Dump) Where(f dataplane.Frontend) []string {
	return slices.DeleteFunc(d.Lines(), func(l string) bool { return !strings.Contains(l, f.String()) })
}
