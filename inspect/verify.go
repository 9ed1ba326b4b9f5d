package inspect

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"slices"
	"time"

	"github.com/weir-project/weir/dataplane"
	"github.com/weir-project/weir/inspect/api"
)

// How suspicions are looked into: a difference counts if it is there each time.
const (
	looks        = 3
	pause        = 50 * time.Millisecond
	pauseClients = 1500 * time.Millisecond // a client that was remembered in flight is forgotten after a second
	maxSuspects  = 10_000
	maxTold      = 1000
	repairWithin = time.Minute
)

// Verify reads every element of our maps from the kernel and compares them with what they should be;
// with repair, it has everything written anew if they differ, and compares again. It reads 250,000
// elements in about three seconds, and holds up no sync.
//
// What should be there is remembered as a hash for each element, and the kernel is heard one datagram at
// a time, so memory is a few MB whatever the size. Syncs go on meanwhile; so a difference is a mere
// suspicion at first, and counts when kernel and belief, asked about that one element, still differ.
func (i *Inspector) Verify(ctx context.Context, repair bool) (api.Verification, error) {
	i.verifying.Lock()
	defer i.verifying.Unlock()
	if !i.cfg.Proxy.Synced() {
		return api.Verification{}, errors.New("not everything is in the kernel yet: weir status says what is missing")
	}
	began := time.Now()
	v, err := i.verify(ctx)
	if err != nil || !repair || v.Count == 0 {
		v.Fine = v.Count == 0
		v.Duration = api.SecondsOf(time.Since(began))
		return v, err
	}
	if err := i.repair(ctx); err != nil {
		return v, err
	}
	after, err := i.verify(ctx)
	v.Repaired, v.Remaining, v.Fine = true, after.Differences, after.Count == 0
	v.Duration = api.SecondsOf(time.Since(began))
	return v, err
}

// repair has everything written, and waits until it is.
func (i *Inspector) repair(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, repairWithin)
	defer cancel()
	before := i.events.lastID()
	i.cfg.Proxy.Invalidate()
	done := errors.New("done")
	err := i.Follow(ctx, before, func(e api.Event) error {
		if e.Full && e.Error == "" {
			return done
		}
		return nil
	})
	if !errors.Is(err, done) {
		return fmt.Errorf("everything is to be written anew, but was not within %s: weir status says why", repairWithin)
	}
	return nil
}

func (r *ring) lastID() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}

// suspect is an element about which the kernel and what it should hold seem to differ, by its key.
type suspect struct {
	set dataplane.Set
	key dataplane.Element
}

func (i *Inspector) verify(ctx context.Context) (api.Verification, error) {
	v := api.Verification{Meta: meta("Verification"), Complete: true}
	reader, err := i.cfg.Kernel.Reader()
	if err != nil {
		return v, err
	}
	defer reader.Close()
	rules, err := reader.Rules()
	if err != nil {
		return v, err
	}
	for _, fault := range rules {
		v.Differences = append(v.Differences, api.Difference{Kind: "Rules", Found: fault})
	}
	if v.Count = len(rules); v.Count > 0 {
		return v, nil // without its table nothing can be read
	}
	suspects, err := i.compare(reader, &v)
	if err != nil {
		return v, err
	}
	return v, i.confirm(ctx, reader, suspects, &v)
}

// compare reads everything and returns what seems to differ.
func (i *Inspector) compare(reader *dataplane.Reader, v *api.Verification) (map[suspect]bool, error) {
	e := newExpected()
	i.cfg.Proxy.Each(e.expect)
	e.ready()
	suspects := map[suspect]bool{}
	suspicious := func(s dataplane.Set, el dataplane.Element) {
		if len(suspects) < maxSuspects {
			suspects[suspect{s, el.Key(s)}] = true
		}
	}
	whole, err := reader.Each(func(s dataplane.Set, el dataplane.Element) {
		v.Elements++
		switch {
		case s == dataplane.Affinity:
			if !i.cfg.Proxy.Backs(el.Frontend, el.Endpoint) {
				suspicious(s, el)
			}
		case !e.saw(s, el):
			suspicious(s, el)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("read the kernel's maps: %w", err)
	}
	v.Complete = whole
	if e.unseen() {
		i.cfg.Proxy.Each(func(ops []dataplane.Op) {
			for k := range ops {
				if e.missing(ops[k].Set, ops[k].Elem) {
					suspicious(ops[k].Set, ops[k].Elem)
				}
			}
		})
	}
	return suspects, nil
}

// confirm looks at every suspect by itself, several times, and notes those that differ each time.
func (i *Inspector) confirm(ctx context.Context, reader *dataplane.Reader, suspects map[suspect]bool, v *api.Verification) error {
	found := map[suspect]api.Difference{}
	for look := range looks {
		if len(suspects) == 0 {
			return nil
		}
		ranges, err := readRanges(reader, suspects)
		if err != nil {
			return err
		}
		clients := false
		for s := range suspects {
			clients = clients || s.set == dataplane.Affinity
			d, differs, err := i.look(reader, s, ranges)
			if err != nil {
				return fmt.Errorf("read the kernel's maps: %w", err)
			}
			if !differs {
				delete(suspects, s)
				continue
			}
			found[s] = d
		}
		wait := pause
		if clients {
			wait = pauseClients
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		if look == looks-1 {
			tell(v, suspects, found)
		}
	}
	return nil
}

func tell(v *api.Verification, suspects map[suspect]bool, found map[suspect]api.Difference) {
	for s := range suspects {
		v.Differences = append(v.Differences, found[s])
	}
	v.Count = len(v.Differences)
	slices.SortFunc(v.Differences, compareDifferences)
	v.Differences = v.Differences[:min(v.Count, maxTold)]
}

func compareDifferences(a, b api.Difference) int {
	return slices.Compare([]string{a.Set, a.Element, a.Kind}, []string{b.Set, b.Element, b.Kind})
}

// readRanges reads those sets of ranges that are suspected: they cannot be asked for one element.
func readRanges(reader *dataplane.Reader, suspects map[suspect]bool) (map[suspect]bool, error) {
	there := map[suspect]bool{}
	for _, set := range dataplane.Sets() {
		if !set.Ranges() {
			continue
		}
		elements, err := reader.Ranges(set)
		if err != nil {
			return nil, err
		}
		for _, e := range elements {
			there[suspect{set, e.Key(set)}] = true
		}
	}
	return there, nil
}

// look asks the kernel and the belief about one element.
func (i *Inspector) look(reader *dataplane.Reader, s suspect, ranges map[suspect]bool) (api.Difference, bool, error) {
	is, there := s.key, false
	var err error
	if s.set.Ranges() {
		there = ranges[s]
	} else if is, there, err = reader.Get(s.set, s.key); err != nil {
		return api.Difference{}, false, err
	}
	if s.set == dataplane.Affinity {
		d := api.Difference{Kind: "Unexpected", Set: is.Name(s.set), Element: is.Text(s.set), Service: i.ownerText(s.key.Frontend)}
		return d, there && !i.cfg.Proxy.Backs(is.Frontend, is.Endpoint), nil
	}
	want, wanted := i.wanted(s)
	d := api.Difference{Set: s.key.Name(s.set), Service: i.ownerText(s.key.Frontend)}
	switch {
	case wanted && !there:
		d.Kind, d.Element = "Missing", want.Text(s.set)
	case there && !wanted:
		d.Kind, d.Element = "Unexpected", is.Text(s.set)
	case wanted && there && want.Plain() != is.Plain():
		d.Kind, d.Element, d.Found = "Changed", want.Text(s.set), is.Text(s.set)
		if want.Comment != is.Comment {
			d.Element, d.Found = d.Element+" comment "+want.Comment, d.Found+" comment "+is.Comment
		}
	default:
		return d, false, nil
	}
	return d, true, nil
}

// wanted returns the element that there should be.
func (i *Inspector) wanted(s suspect) (dataplane.Element, bool) {
	if !s.set.Ranges() {
		return i.cfg.Proxy.View(s.key.Frontend, s.key.Frontend.Addr).Element(s.set, s.key)
	}
	found := false // a range must be there itself, and not another that holds it
	i.cfg.Proxy.EachRange(s.set, s.key.Frontend, func(p netip.Prefix) { found = found || p == s.key.Source })
	return s.key, found
}

func (i *Inspector) ownerText(f dataplane.Frontend) string {
	if name, ok := i.cfg.Proxy.Owner(f); ok {
		return name.String()
	}
	return ""
}

// expected remembers elements by hashes of 64 bits: among a million, two are alike once in 40 million
// times.
type expected struct {
	seed   maphash.Seed
	hashes []uint64
	seen   []bool
}

func newExpected() *expected { return &expected{seed: maphash.MakeSeed()} }

// place is what is hashed.
type place struct {
	set     dataplane.Set
	element dataplane.Element
}

func (e *expected) hash(s dataplane.Set, el dataplane.Element) uint64 {
	return maphash.Comparable(e.seed, place{s, el.Plain()})
}

func (e *expected) expect(ops []dataplane.Op) {
	for k := range ops {
		e.hashes = append(e.hashes, e.hash(ops[k].Set, ops[k].Elem))
	}
}

// ready says that all are there.
func (e *expected) ready() {
	slices.Sort(e.hashes)
	e.hashes = slices.Compact(e.hashes)
	e.seen = make([]bool, len(e.hashes))
}

// saw notes an element that the kernel holds, and reports whether it should be there.
func (e *expected) saw(s dataplane.Set, el dataplane.Element) bool {
	at, ok := slices.BinarySearch(e.hashes, e.hash(s, el))
	if ok {
		e.seen[at] = true
	}
	return ok
}

// unseen reports whether something has not been seen, and missing whether an element has not.
func (e *expected) unseen() bool { return slices.Contains(e.seen, false) }

func (e *expected) missing(s dataplane.Set, el dataplane.Element) bool {
	at, ok := slices.BinarySearch(e.hashes, e.hash(s, el))
	return !ok || !e.seen[at]
}
