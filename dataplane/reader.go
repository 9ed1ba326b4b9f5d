package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Reader reads our tables over a socket of its own, so that it holds up no writer. One goroutine uses
// it at a time.
type Reader struct {
	of *Conn
	c  Conn // with the socket, and nothing written
}

// Reader opens a Reader of the tables that c writes. It must be closed.
func (c *Conn) Reader() (*Reader, error) {
	sock, err := dial(c.cfg.NetNS)
	if err != nil {
		return nil, err
	}
	return &Reader{of: c, c: Conn{sock: sock, lock: -1}}, nil
}

// Close closes the socket.
func (r *Reader) Close() error { return r.c.Close() }

// named is a set by its name in the kernel.
type named struct {
	set     Set
	timeout time.Duration
}

// table returns what the table of a family is called, "" if there is none.
func (r *Reader) table(fam *family) string {
	r.of.mu.Lock()
	defer r.of.mu.Unlock()
	return r.of.state[fam.number()].name
}

// Get looks one element up by its key, and reports whether it is there. Sets of ranges cannot be asked
// so.
func (r *Reader) Get(set Set, key Element) (Element, bool, error) {
	fam := familyOf(key.Frontend.Addr)
	table := r.table(fam)
	if table == "" {
		return Element{}, false, fmt.Errorf("family %s: %w", fam.name, errNoTable)
	}
	var m messages
	m.begin(fam.nfproto, unix.NFT_MSG_GETSETELEM, 0)
	m.string(unix.NFTA_SET_ELEM_LIST_TABLE, table)
	m.string(unix.NFTA_SET_ELEM_LIST_SET, setName(set, key.Timeout))
	list := m.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	appendElement(&m, fam, set, &key, true)
	m.unnest(list)
	m.end()
	var found Element
	err := r.c.sock.ask(&m, func(body []byte) error {
		return decodeElements(body, fam, set, func(e Element, _ bool) { e.Timeout = key.Timeout; found = e })
	})
	if errors.Is(err, unix.ENOENT) {
		return Element{}, false, nil
	}
	if err != nil {
		return Element{}, false, fmt.Errorf("look up %s in %s: %w", key.text(set), setName(set, key.Timeout), err)
	}
	return found, found.Frontend.Addr.IsValid(), nil
}

// Leased reports whether this node answers a frontend itself by now (see lease.go).
func (r *Reader) Leased(f Frontend) (bool, error) {
	fam := familyOf(f.Addr)
	var m messages
	m.begin(fam.nfproto, unix.NFT_MSG_GETSETELEM, 0)
	m.string(unix.NFTA_SET_ELEM_LIST_TABLE, r.table(fam))
	m.string(unix.NFTA_SET_ELEM_LIST_SET, leaseSet)
	list := m.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	appendElement(&m, fam, SnatAlways, &Element{Frontend: f}, true) // a set with the same key
	m.unnest(list)
	m.end()
	found := false
	err := r.c.sock.ask(&m, func([]byte) error { found = true; return nil })
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return false, fmt.Errorf("look up %s in %s: %w", f, leaseSet, err)
	}
	return found && err == nil, nil
}

// errNoTable says that there is nothing to read.
var errNoTable = errors.New("there is no table of ours")

// Each calls f with every element of every set, Affinity included. whole says that nothing changed
// while a set was read; otherwise some elements may be missing, and some may have been told of twice.
func (r *Reader) Each(f func(Set, Element)) (whole bool, err error) {
	whole = true
	for _, fam := range r.of.families {
		table := r.table(fam)
		if table == "" {
			return false, fmt.Errorf("family %s: %w", fam.name, errNoTable)
		}
		sets, err := r.sets(fam, table)
		if err != nil {
			return false, err
		}
		for _, s := range sets {
			same, err := r.each(fam, table, s, f)
			if err != nil {
				return false, err
			}
			whole = whole && same
		}
	}
	return whole, nil
}

// listingTries is how often a short listing is begun that syncs interrupt.
const listingTries = 100

// undisturbed repeats a short listing until no sync has come in between.
func undisturbed(list func() error) (err error) {
	for range listingTries {
		if err = list(); !errors.Is(err, errInterrupted) {
			break
		}
	}
	return err
}

// timeouts lists the affinity timeouts of a table.
func (r *Reader) timeouts(fam *family, table string) (timeouts map[time.Duration]bool, err error) {
	err = undisturbed(func() error { timeouts, err = r.c.affinityTimeouts(fam, table); return err })
	return timeouts, err
}

// sets lists the sets of a table.
func (r *Reader) sets(fam *family, table string) ([]named, error) {
	timeouts, err := r.timeouts(fam, table)
	if err != nil {
		return nil, err
	}
	var sets []named
	for s := range numSets {
		if s != AffinityOf {
			sets = append(sets, named{set: s})
			continue
		}
		for timeout := range timeouts {
			sets = append(sets, named{s, timeout})
		}
	}
	return sets, nil
}

// each reads one set. Ranges are gathered first, since their ends come apart.
func (r *Reader) each(fam *family, table string, s named, f func(Set, Element)) (whole bool, err error) {
	if schemas[s.set].interval() {
		elements, err := r.ranges(fam, table, s.set)
		for _, e := range elements {
			f(s.set, e)
		}
		return err == nil, err
	}
	var m messages
	m.listing(fam, table, setName(s.set, s.timeout))
	err = r.c.sock.ask(&m, func(body []byte) error {
		return decodeElements(body, fam, s.set, func(e Element, _ bool) {
			e.Timeout = s.timeout
			f(s.set, e)
		})
	})
	if errors.Is(err, errInterrupted) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("list %s of table %s %s: %w", setName(s.set, s.timeout), fam.name, table, err)
	}
	return true, nil
}

func (r *Reader) ranges(fam *family, table string, set Set) (list []Element, err error) {
	err = undisturbed(func() error { list, err = r.c.elements(fam, table, set, 0); return err })
	return list, err
}

// Ranges returns the elements of a set of ranges.
func (r *Reader) Ranges(set Set) ([]Element, error) {
	var all []Element
	for _, fam := range r.of.families {
		elements, err := r.ranges(fam, r.table(fam), set)
		if err != nil {
			return nil, err
		}
		all = append(all, elements...)
	}
	return all, nil
}

// addedTo finds out what a table has besides what it was made with.
func (r *Reader) addedTo(fam *family, name string) (more added, err error) {
	err = undisturbed(func() error { more, err = r.c.addedTo(fam, name); return err })
	return more, err
}

// rules counts the rules of a table.
func (r *Reader) rules(fam *family, name string) (n int, err error) {
	err = undisturbed(func() error { n, err = r.c.countRules(fam, name); return err })
	return n, err
}

// Rules reports how the tables and the number of their rules differ from the layout; nil: they do not.
func (r *Reader) Rules() (faults []string, err error) {
	layout := r.of.Layout()
	for _, fam := range r.of.families {
		name := r.table(fam)
		t, err := r.c.getTable(fam, name)
		if err != nil {
			return nil, err
		}
		if name == "" || t == nil {
			faults = append(faults, fmt.Sprintf("there is no table %s %s", fam.name, Table))
			continue
		}
		more, err := r.addedTo(fam, name)
		if err != nil {
			return nil, err
		}
		rules, err := r.rules(fam, name)
		if err != nil {
			return nil, fmt.Errorf("list the rules of table %s %s: %w", fam.name, name, err)
		}
		if want := layout.rules(fam, more); rules != want {
			faults = append(faults, fmt.Sprintf("table %s %s has %d rules instead of %d", fam.name, name, rules, want))
		}
	}
	return faults, nil
}

// Text returns an element of a set in nft's words, its comment left aside.
func (e Element) Text(set Set) string { return e.text(set) }

// Name returns what the set of an element is called in the kernel.
func (e Element) Name(set Set) string { return setName(set, e.Timeout) }

// Key returns an element with the fields alone by which the kernel knows it.
func (e Element) Key(set Set) Element {
	e.Verdict, e.Endpoint, e.Comment = 0, netip.AddrPort{}, ""
	return e
}

// Plain returns an element as the kernel gives it back: a long comment is cut.
func (e Element) Plain() Element {
	e.Comment = e.Comment[:min(len(e.Comment), maxComment)]
	return e
}

// Sets returns all sets.
func Sets() []Set {
	all := make([]Set, 0, numSets)
	for s := range numSets {
		all = append(all, s)
	}
	return slices.Clip(all)
}

// Ranges reports whether the elements of the set are ranges.
func (s Set) Ranges() bool { return s < numSets && schemas[s].interval() }
