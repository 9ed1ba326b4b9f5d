package proxier

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/weir-project/weir/dataplane"
	"github.com/weir-project/weir/endpoints"
)

// claimant returns a service of an age that claims an external IP and a node port.
func claimant(n string, age int) *endpoints.Resolved {
	last := byte(n[len(n)-1])
	return one(endpoints.Service{Name: name(n), UID: n, Created: time.Unix(int64(1000-age), 0), ExternalIPs: addrs("203.0.113.1")},
		endpoints.ResolvedPort{Port: endpoints.Port{NodePort: 30080}, Cluster: eps(fmt.Sprintf("10.1.1.%d", last)), Any: true})
}

// has returns whose endpoint the external IP has, and whose the node port.
func (r *rig) has() string {
	var out []string
	for _, e := range r.kernel.Dump()[dataplane.Services] {
		out = append(out, strings.TrimPrefix(e.Comment, "default/"))
	}
	return strings.Join(out, " ")
}

func TestTheOlderServiceWins(t *testing.T) {
	for _, test := range []struct {
		name  string
		ages  map[string]int
		order []string // who has the frontends, once those before are gone
	}{
		{"by age", map[string]int{"a": 1, "b": 2, "c": 3}, []string{"c", "b", "a"}},
		{"by name", map[string]int{"b": 1, "a": 1, "c": 1}, []string{"a", "b", "c"}},
		{"by age, then name", map[string]int{"b": 1, "a": 1, "c": 2}, []string{"c", "a", "b"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, perm := range permutations(test.order) {
				for _, together := range []bool{false, true} {
					r := newRig(t)
					var dirty []endpoints.Name
					for _, n := range perm {
						r.world[name(n)] = claimant(n, test.ages[n])
						if dirty = append(dirty, name(n)); !together {
							r.sync(dirty...)
							dirty = nil
						}
					}
					r.sync(dirty...)
					for _, winner := range test.order {
						if got, want := r.has(), winner+" "+winner; got != want {
							t.Errorf("in order %v, together %v: held by %q, want %q", perm, together, got, want)
						}
						r.check()
						delete(r.world, name(winner))
						r.sync(name(winner))
					}
					if n := len(r.rules.claims.winners) + len(r.rules.claims.losers); n > 0 {
						t.Errorf("%d claims of nobody", n)
					}
				}
			}
		})
	}
}

func permutations(list []string) (out [][]string) {
	if len(list) == 0 {
		return [][]string{nil}
	}
	for i := range list {
		for _, p := range permutations(slices.Delete(slices.Clone(list), i, i+1)) {
			out = append(out, append([]string{list[i]}, p...))
		}
	}
	return out
}

func TestClaimsChangeHands(t *testing.T) {
	r := newRig(t)
	problems := func(p *plan) (out []string) {
		for _, x := range p.problems {
			out = append(out, fmt.Sprintf("%s %s %s: %s", x.Object.Name, x.UID, x.Field, x.Reason))
		}
		return out
	}
	step := func(what string, who string, res *endpoints.Resolved, has string, want ...string) {
		t.Helper()
		if r.world[name(who)] = res; res == nil {
			delete(r.world, name(who))
		}
		p := r.sync(name(who))
		if got := r.has(); got != has {
			t.Errorf("%s: held by %q, want %q", what, got, has)
		}
		if diff := gocmp.Diff(want, problems(p)); diff != "" {
			t.Errorf("%s: problems (-want +got):\n%s", what, diff)
		}
		r.check()
	}
	lostIP := " spec.externalIPs[0]: tcp . 203.0.113.1 . 80 is taken by the older service default/"
	lostPort := " spec.ports[0].nodePort: tcp . 192.168.1.1 . 30080 is taken by the older service default/"
	step("the first", "b", claimant("b", 2), "b b")
	step("a younger one", "a", claimant("a", 1), "b b", "a a"+lostIP+"b", "a a"+lostPort+"b")
	again := *r.world[name("a")]
	again.Ports = slices.Clone(again.Ports)
	again.Ports[0].Cluster = eps("10.1.1.1", "10.1.1.2")
	step("its endpoints change", "a", &again, "b b")
	step("an older one", "c", claimant("c", 3), "c c", "b b"+lostIP+"c", "b b"+lostPort+"c")
	step("it gives up the external IP", "c", func() *endpoints.Resolved {
		x := claimant("c", 3)
		x.Service.ExternalIPs = nil
		return x
	}(), "c b")
	step("it is made anew, so it is young", "c", claimant("c", 0), "b b", "c c"+lostIP+"b", "c c"+lostPort+"b")
	step("the winner goes", "b", nil, "a a")
	if got := r.rules.claims.conflicts(); len(got) != 2 || got[0].Winner != name("a") || len(got[0].Losers) != 1 || got[0].Losers[0] != name("c") {
		t.Errorf("conflicts %v", got)
	}
	step("the next winner goes", "a", nil, "c c")
	if got := r.rules.claims.conflicts(); len(got) > 0 {
		t.Errorf("conflicts %v", got)
	}
}

func TestOneServiceClaimsTwice(t *testing.T) {
	r := newRig(t)
	s := &endpoints.Service{Name: name("web"), ClusterIPs: addrs("10.96.0.1"), ExternalIPs: addrs("10.96.0.1", "203.0.113.1", "203.0.113.1"),
		Ports: []endpoints.Port{{Name: "x", Protocol: endpoints.TCP, Port: 80, NodePort: 30080}, {Name: "y", Protocol: endpoints.TCP, Port: 81, NodePort: 30080}}}
	res := &endpoints.Resolved{Service: s}
	for _, p := range s.Ports {
		res.Ports = append(res.Ports, endpoints.ResolvedPort{Port: p, Family: endpoints.IPv4, Cluster: eps("10.1.1.1"), Any: true})
	}
	r.world[name("web")] = res
	p := r.sync(name("web"))
	if len(p.problems) != 1 || p.problems[0].Field != "spec.ports[1]" {
		t.Errorf("problems %v", p.problems)
	}
	if got := r.has(); got != "web:x web:y web:x web:x web:y" {
		t.Errorf("held by %q", got)
	}
	r.check()
	if p := r.sync(name("web")); len(p.problems)+len(p.ops()) > 0 {
		t.Errorf("again: %v %v", p.problems, p.ops())
	}
	res.Ports = res.Ports[1:] // and the second takes over
	s2 := *s
	s2.Ports = s.Ports[1:]
	res.Service = &s2
	r.sync(name("web"))
	if got := r.has(); got != "web:y web:y web:y" {
		t.Errorf("held by %q", got)
	}
	r.check()
}

func TestTooManyEndpoints(t *testing.T) {
	r := newRig(t)
	list := manyEps(maxSlots + 2)
	set := func(n int) *plan {
		r.world[name("web")] = one(endpoints.Service{ClusterIPs: addrs("10.96.0.1")}, endpoints.ResolvedPort{Cluster: list[:n], Any: true})
		return r.sync(name("web"))
	}
	if p := set(maxSlots); len(p.problems) > 0 {
		t.Error(p.problems)
	}
	if p := set(maxSlots + 1); len(p.problems) != 1 || len(p.ops()) > 0 {
		t.Errorf("%v, %d operations", p.problems, len(p.ops()))
	}
	if p := set(maxSlots + 2); len(p.problems) != 0 {
		t.Error("reported again")
	}
	list = list[1:]
	if p := set(maxSlots); len(p.problems) != 0 || len(p.ops()) != 2 {
		t.Errorf("%v, %d operations", p.problems, len(p.ops()))
	}
}

// TestDiff holds edits against a set: whatever the lists, the slots are those of the second, an
// endpoint that stays within them keeps its slot, and no edit is larger than it must be.
func TestDiff(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var d differ
	var tab *table
	pool := manyEps(700)
	for step := range 3000 {
		r.Shuffle(len(pool), func(i, j int) { pool[i], pool[j] = pool[j], pool[i] })
		want := slices.Clone(pool[:r.IntN([]int{3, 20, 700}[step/50%3])])
		if tab != nil && r.IntN(2) == 0 { // a small change
			want = slices.Clone(tab.slots)
			if len(want) > 0 {
				want = slices.Delete(want, 0, 1+r.IntN(min(3, len(want))))
			}
			r.Shuffle(len(want), func(i, j int) { want[i], want[j] = want[j], want[i] })
		}
		var before []int // slot by slot, its endpoint's index in want, or -1
		gone := 0
		for i := range tab.len() {
			before = append(before, slices.Index(want, tab.slots[i]))
			if before[i] < 0 {
				gone++
			}
		}
		old := slices.Clone(tabSlots(tab))
		e := d.diff(tab, want)
		if !slices.Equal(old, tabSlots(tab)) {
			t.Fatal("an edit changed the table before it was committed")
		}
		if added := len(want) - (len(old) - gone); len(old) > 0 && len(e.puts) > max(gone, added) || len(e.gone) != gone {
			t.Fatalf("%d puts, %d gone, for %d gone and %d added", len(e.puts), len(e.gone), gone, added)
		}
		var after []string
		for i, ap := range e.each {
			if int(i) != len(after) {
				t.Fatal("slots out of order")
			}
			after = append(after, ap.String())
		}
		e.commit()
		tab = e.table
		for i, ap := range tabSlots(tab) {
			if ap.String() != after[i] {
				t.Fatalf("slot %d: %s committed, %s announced", i, ap, after[i])
			}
			if i < len(before) && before[i] >= 0 && want[before[i]] != ap {
				t.Fatalf("slot %d changed though its endpoint stays", i)
			}
			if tab.index != nil {
				if at, ok := tab.index.Lookup(tab.slots, ap); !ok || int(at) != i {
					t.Fatalf("index: %s at %d, want %d", ap, at, i)
				}
			}
		}
		if tab != nil && tab.index != nil && tab.index.Len() != len(tab.slots) {
			t.Fatal("index of another size")
		}
		got := slices.Clone(tabSlots(tab))
		slices.SortFunc(got, compareAddrPort)
		slices.SortFunc(want, compareAddrPort)
		if !slices.Equal(got, want) {
			t.Fatal("other endpoints than wanted")
		}
	}
}
