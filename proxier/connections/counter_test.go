package connections

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-project/weir/dataplane"
	"github.com/weir-project/weir/endpoints"
)

// node is a kernel and what owns its frontends.
type node struct {
	counts map[dataplane.Counter]uint64
	owners map[dataplane.Frontend]string
	err    error
}

func (n *node) config(limit int) Config {
	return Config{
		Read: func() (map[dataplane.Counter]uint64, error) {
			read := map[dataplane.Counter]uint64{}
			for c, v := range n.counts {
				read[c] = v
			}
			return read, n.err
		},
		Owner: func(f dataplane.Frontend) (endpoints.Name, bool) {
			name, ok := n.owners[f]
			return endpoints.Name{Namespace: "default", Name: name}, ok
		},
		Exists: func(name endpoints.Name) bool {
			for _, o := range n.owners {
				if o == name.Name {
					return true
				}
			}
			return false
		},
		Limit: limit,
	}
}

func counter(addr, table string) dataplane.Counter {
	return dataplane.Counter{Table: table, Frontend: dataplane.Frontend{Addr: netip.MustParseAddr(addr), Port: 80, Protocol: 6}}
}

func TestCounter(t *testing.T) {
	a1, a2, b, c := counter("10.96.0.1", "weir"), counter("172.31.0.11", "weir"), counter("10.96.0.2", "weir"), counter("10.96.0.3", "weir")
	anew := counter("10.96.0.1", "weir-2")
	owners := map[dataplane.Frontend]string{a1.Frontend: "a", a2.Frontend: "a", b.Frontend: "b", c.Frontend: "c"}
	type reading = map[dataplane.Counter]uint64
	tests := []struct {
		name     string
		limit    int
		readings []reading
		want     string // services with their counts, then those of the others
	}{
		{"what was there before is left out", 9, []reading{{a1: 100}, {a1: 103}}, "a=3 others=0 of 0"},
		{"a service has the connections of all its frontends", 9, []reading{{}, {a1: 1, a2: 2, b: 3}, {a1: 2, a2: 5, b: 3}}, "a=7 b=3 others=0 of 0"},
		{"a counter that expired begins anew", 9, []reading{{}, {a1: 5}, {}, {a1: 2}}, "a=7 others=0 of 0"},
		{"a table was made anew", 9, []reading{{}, {a1: 5}, {a1: 2}}, "a=7 others=0 of 0"},
		{"one table hands over to another", 9, []reading{{}, {a1: 5}, {a1: 6, anew: 1}, {anew: 4}}, "a=10 others=0 of 0"},
		{"what nobody owns", 9, []reading{{}, {counter("192.0.2.1", "weir"): 5, a1: 1}}, "a=1 others=0 of 0"},
		{"beyond the limit", 2, []reading{{}, {b: 1}, {a1: 2, b: 1, c: 3}, {a1: 3, b: 2, c: 5}}, "a=3 b=2 others=5 of 1"},
		{"nothing but the sum", 0, []reading{{}, {a1: 2, b: 1}}, "others=3 of 2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := &node{owners: owners}
			counter := New(n.config(tt.limit))
			for _, n.counts = range tt.readings {
				if err := counter.Update(); err != nil {
					t.Fatal(err)
				}
			}
			if got := show(t, counter); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

// show returns the metrics of a counter in few words.
func show(t *testing.T, c *Counter) string {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(c); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	others := map[string]string{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			value := strconv.FormatFloat(m.GetCounter().GetValue()+m.GetGauge().GetValue(), 'f', -1, 64)
			if f.GetName() == "weir_service_connections_total" {
				words = append(words, m.GetLabel()[0].GetValue()+"="+value)
				continue
			}
			others[f.GetName()] = value
		}
	}
	return strings.Join(append(words, "others="+others["weir_service_connections_other_total"]+" of "+others["weir_service_connections_other_services"]), " ")
}

func TestServicesThatGo(t *testing.T) {
	a, b := counter("10.96.0.1", "weir"), counter("10.96.0.2", "weir")
	n := &node{owners: map[dataplane.Frontend]string{a.Frontend: "a", b.Frontend: "b"}}
	c := New(n.config(1))
	read := func(counts map[dataplane.Counter]uint64) {
		t.Helper()
		n.counts = counts
		if err := c.Update(); err != nil {
			t.Fatal(err)
		}
	}
	read(nil)
	read(map[dataplane.Counter]uint64{a: 4, b: 2})
	delete(n.owners, a.Frontend)
	read(map[dataplane.Counter]uint64{a: 4, b: 3})
	if got, want := show(t, c), "others=3 of 1"; got != want {
		t.Errorf("after a has gone: %s, want %s", got, want)
	}
	n.owners[a.Frontend] = "c" // the same address
	read(map[dataplane.Counter]uint64{a: 6, b: 3})
	if got, want := show(t, c), "c=2 others=3 of 1"; got != want {
		t.Errorf("with c in its place: %s, want %s", got, want)
	}
	if diff := cmp.Diff([]Count{{endpoints.Name{Namespace: "default", Name: "c"}, 2}}, c.Counts()); diff != "" {
		t.Errorf("Counts (-want +got):\n%s", diff)
	}
}

func TestReadingFails(t *testing.T) {
	a := counter("10.96.0.1", "weir")
	n := &node{owners: map[dataplane.Frontend]string{a.Frontend: "a"}}
	c := New(n.config(1))
	if err := c.Update(); err != nil {
		t.Fatal(err)
	}
	n.counts, n.err = map[dataplane.Counter]uint64{a: 2}, errors.New("no buffer")
	if err := c.Update(); !errors.Is(err, n.err) {
		t.Errorf("Update = %v", err)
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(c)
	if got, err := registry.Gather(); len(got) != 0 || err != nil {
		t.Errorf("%v (%v) although the counts cannot be read", got, err)
	}
	n.err = nil
	if got, want := show(t, c), "a=2 others=0 of 0"; got != want {
		t.Errorf("once they can be: %s, want %s", got, want)
	}
}
