package main

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/weir-project/weir/internal/netlab"
)

// mismatch is a claim that does not hold.
type mismatch struct {
	want, saw string
}

func (m mismatch) Error() string { return "wanted: " + m.want + "\nsaw: " + m.saw }

// unlike returns a mismatch; saw is a format.
func unlike(want, saw string, args ...any) error {
	return mismatch{want, fmt.Sprintf(saw, args...)}
}

// spreadLimit is how far from its share an endpoint's count may be, in standard deviations. A fair
// draw is further away once in some ten million times.
const spreadLimit = 5.5

// checkSpread holds if all of names answered, each its share, and nobody else, and all of them saw source.
func checkSpread(s netlab.Summary, names []string, source netip.Addr) error {
	if s.Answered != s.Probes || s.Probes == 0 {
		return unlike("an answer to every request", "%s", s)
	}
	share := 1 / float64(len(names))
	mean := float64(s.Probes) * share
	slack := spreadLimit * math.Sqrt(mean*(1-share))
	for _, name := range names {
		if n := s.Names[name]; math.Abs(float64(n)-mean) > slack {
			return unlike(fmt.Sprintf("%.0f ± %.0f answers by %s", mean, slack, name), "%d", n)
		}
	}
	if got := slices.Sorted(maps.Keys(s.Names)); !slices.Equal(got, slices.Sorted(slices.Values(names))) {
		return unlike("answers by "+strings.Join(names, ", "), "%s", strings.Join(got, ", "))
	}
	if got := s.SourcesSeen(); len(got) != 1 || got[0] != source {
		return unlike(fmt.Sprintf("the backends see %s", source), "%v", got)
	}
	return nil
}

// probe is one new connection of a stream.
type probe struct {
	begun time.Time
	by    string // the host that answered
	err   error
}

// change is what was seen of an edit of a manifest while new connections kept coming.
type change struct {
	backend string // that went or came
	written time.Time
	syncs   []syncLine
	probes  []probe // in the order in which they were begun
}

// synced returns when weir said that the kernel had all of it.
func (c change) synced() time.Time {
	if len(c.syncs) == 0 {
		return time.Time{}
	}
	return c.syncs[len(c.syncs)-1].at
}

// took returns how long weir's syncs took together, and how many elements they changed.
func (c change) took() (d time.Duration, ops int) {
	for _, s := range c.syncs {
		d += s.duration
		ops += s.ops
	}
	return d, ops
}

// first and last return when the first and the last connection was begun that backend answered, counted from the
// edit.
func (c change) first() (time.Duration, bool) {
	return c.find(slices.IndexFunc(c.probes, c.answered))
}

func (c change) last() (time.Duration, bool) {
	for i, p := range slices.Backward(c.probes) {
		if c.answered(p) {
			return c.find(i)
		}
	}
	return 0, false
}

func (c change) answered(p probe) bool { return p.err == nil && p.by == c.backend }

func (c change) find(i int) (time.Duration, bool) {
	if i < 0 {
		return 0, false
	}
	return c.probes[i].begun.Sub(c.written), true
}

// counts returns how many connections were begun before the edit and after the sync, and how many of them
// went to the backend.
func (c change) counts() (before, hitsBefore, after, hitsAfter int) {
	for _, p := range c.probes {
		hit := 0
		if c.answered(p) {
			hit = 1
		}
		switch {
		case p.begun.Before(c.written):
			before, hitsBefore = before+1, hitsBefore+hit
		case p.begun.After(c.synced()):
			after, hitsAfter = after+1, hitsAfter+hit
		}
	}
	return before, hitsBefore, after, hitsAfter
}

// cut is the number of connections that were under way to the backend when it went, and were reset.
func (c change) cut() (n int) {
	for _, p := range c.probes {
		if errors.Is(p.err, syscall.ECONNRESET) && p.begun.Before(c.synced()) {
			n++
		}
	}
	return n
}

// enough is how many connections it takes for their absence at a backend to say something: that none of them
// happens to go to one of three is as likely as (2/3)^40, one in ten million.
const enough = 40

// checkGone holds if the backend was in use before, and not once after the sync.
func checkGone(c change) error {
	before, hitsBefore, after, hitsAfter := c.counts()
	switch {
	case before < enough || after < enough:
		return unlike(fmt.Sprintf("%d connections before and after", enough), "%d and %d", before, after)
	case hitsBefore == 0:
		return unlike("some connections to "+c.backend+" before it is removed", "none of %d", before)
	case hitsAfter > 0:
		return unlike("none of the connections begun after the sync at "+c.backend, "%d of %d", hitsAfter, after)
	}
	return checkNoneFailed(c, true)
}

// checkBack holds if the backend was not in use before, and is after the sync.
func checkBack(c change) error {
	before, hitsBefore, after, hitsAfter := c.counts()
	switch {
	case before < enough || after < enough:
		return unlike(fmt.Sprintf("%d connections before and after", enough), "%d and %d", before, after)
	case hitsBefore > 0:
		return unlike("no connections to "+c.backend+" before it is added", "%d of %d", hitsBefore, before)
	case hitsAfter == 0:
		return unlike("some of the connections begun after the sync at "+c.backend, "none of %d", after)
	}
	return checkNoneFailed(c, false)
}

// checkNoneFailed holds if every connection got its answer. Those that were under way to a backend that
// went may have been reset.
func checkNoneFailed(c change, resets bool) error {
	for _, p := range c.probes {
		cut := resets && errors.Is(p.err, syscall.ECONNRESET) && p.begun.Before(c.synced())
		if p.err != nil && !cut {
			return unlike("no failed connection", "one begun %s after the edit: %v", short(p.begun.Sub(c.written)), p.err)
		}
	}
	return nil
}

// checkSmall holds if syncs touched one service and at most limit elements.
func checkSmall(syncs []syncLine, limit int) error {
	ops := 0
	for _, s := range syncs {
		ops += s.ops
		if s.full || s.services != 1 {
			return unlike("a sync of one service", "full=%t services=%d", s.full, s.services)
		}
	}
	if ops == 0 || ops > limit {
		return unlike(fmt.Sprintf("1 to %d elements changed", limit), "%d", ops)
	}
	return nil
}

// refusal is what became of connections that should be refused.
type refusal struct {
	results []netlab.Result
	icmp    int // ICMP errors that the client received meanwhile
}

// median returns how long it took until a connection was refused.
func (r refusal) median() time.Duration { return r.sorted()[len(r.results)/2] }

func (r refusal) longest() time.Duration { return r.sorted()[len(r.results)-1] }

func (r refusal) sorted() []time.Duration {
	var list []time.Duration
	for _, p := range r.results {
		list = append(list, p.Latency)
	}
	slices.Sort(list)
	return list
}

// atOnce is what counts as at once, also on a busy machine. Silence would last a second.
const atOnce = 100 * time.Millisecond

// checkRefused holds if all were refused at once, by a TCP reset.
func checkRefused(r refusal) error {
	if len(r.results) == 0 {
		return unlike("refused connections", "none")
	}
	for _, p := range r.results {
		if p.Outcome != netlab.Refused {
			return unlike("refused connections", "one that was %s", p)
		}
	}
	if m := r.median(); m > atOnce {
		return unlike("refused at once", "half of them only after %s", short(m))
	}
	if r.icmp != 0 {
		return unlike("TCP resets", "%d ICMP errors", r.icmp)
	}
	return nil
}

// checkSilent holds if nothing came back.
func checkSilent(r netlab.Result) error {
	if r.Outcome != netlab.Dropped {
		return unlike("silence", "%s", r)
	}
	return nil
}

// checkLoad holds if none of at least least connections failed or went wrong.
func checkLoad(r netlab.LoadReport, least int) error {
	if r.OK != r.Attempts {
		return unlike("no connection that fails", "%s", r)
	}
	if r.Attempts < least {
		return unlike(fmt.Sprintf("at least %d connections", least), "%d", r.Attempts)
	}
	return nil
}

// comment matches what stands beside a key in a listing by nft.
var comment = regexp.MustCompile(`comment "[^"]*"`)

// elements reads the elements of a map as nft lists it.
func elements(listing string) map[string]string {
	m := map[string]string{}
	_, list, _ := strings.Cut(comment.ReplaceAllString(listing, ""), "elements = {")
	list, _, _ = strings.Cut(list, "}")
	for _, e := range strings.Split(list, ",") {
		if key, value, ok := strings.Cut(e, " : "); ok {
			m[strings.Join(strings.Fields(key), " ")] = strings.TrimSpace(value)
		}
	}
	return m
}

// concat writes an address and a port in nft's words.
func concat(a netip.AddrPort) string { return fmt.Sprintf("%s . %d", a.Addr(), a.Port()) }

// checkVerdicts holds if the map services says what is wanted of each TCP frontend.
func checkVerdicts(listing string, want map[netip.AddrPort]string) error {
	got := elements(listing)
	for frontend, verdict := range want {
		key := "tcp . " + concat(frontend)
		if got[key] != verdict {
			return unlike(key+" : "+verdict, "%q", got[key])
		}
	}
	return nil
}

// checkSlots holds if the map endpoints has each backend in one slot of a TCP frontend, from 0 on.
func checkSlots(listing string, frontend netip.AddrPort, backends []netip.Addr) error {
	all := elements(listing)
	var want, got []string
	for i, b := range backends {
		want = append(want, concat(netip.AddrPortFrom(b, backendPort)))
		got = append(got, all[fmt.Sprintf("tcp . %s . 0x%08x", concat(frontend), i)])
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(want, got) {
		return unlike(fmt.Sprintf("%q in the slots of %s", want, frontend), "%q", got)
	}
	return nil
}
