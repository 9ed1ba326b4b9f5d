package dns

import (
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/weir-project/weir/endpoints"
)

// What resolvers do if a pod does not say otherwise.
const (
	podNDots  = 5 // of a pod with the cluster's domains in its search list
	bareNDots = 1
	// maxSearches is how many domains of a list the kubelet writes down.
	maxSearches = 32
)

// Clients knows the search lists of pods by their addresses. It implements endpoints.PodSink. Any
// number may ask while others tell it something.
type Clients struct {
	domain string
	lists  table[searchList] // by address, 4 or 16 bytes

	mu     sync.Mutex // guards what follows
	node   []string   // the search list of the node's resolver
	pods   map[endpoints.Name]*endpoints.Pod
	claims map[netip.Addr][]*endpoints.Pod // who has an address
}

// searchList is what a resolver appends to a name, one after the other, until there is such a name.
// A value does not change.
type searchList struct {
	first  []byte // in wire form
	labels int    // of first
	rest   [][]byte
	ndots  int // a name with fewer dots is asked for as it is after all of the list
}

// NewClients returns a table without pods, for a cluster of that domain.
func NewClients(z *Zone) *Clients {
	return &Clients{domain: strings.TrimSuffix(z.Domain(), "."),
		pods: map[endpoints.Name]*endpoints.Pod{}, claims: map[netip.Addr][]*endpoints.Pod{}}
}

// SetNode says what the search list of the node's resolver is, which pods have behind the cluster's.
func (c *Clients) SetNode(domains []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if slices.Equal(c.node, domains) {
		return
	}
	c.node = slices.Clone(domains)
	for a := range c.claims {
		c.settleLocked(a)
	}
}

// ReplacePods implements endpoints.PodSink.
func (c *Clients) ReplacePods(list []*endpoints.Pod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	keep := make(map[endpoints.Name]struct{}, len(list))
	for _, p := range list {
		keep[p.Name] = struct{}{}
		c.setLocked(p.Name, p)
	}
	for name := range c.pods {
		if _, ok := keep[name]; !ok {
			c.setLocked(name, nil)
		}
	}
}

// SetPod implements endpoints.PodSink.
func (c *Clients) SetPod(p *endpoints.Pod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setLocked(p.Name, p)
}

// DeletePod implements endpoints.PodSink.
func (c *Clients) DeletePod(name endpoints.Name) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setLocked(name, nil)
}

// setLocked takes in what a pod says now; nil: it is gone. What a pod says of other things than names
// costs nothing.
func (c *Clients) setLocked(name endpoints.Name, p *endpoints.Pod) {
	before := c.pods[name]
	if before.Equal(p) {
		return
	}
	if before != nil {
		delete(c.pods, name)
		for _, a := range before.Addrs {
			c.claims[a] = without(c.claims[a], func(o *endpoints.Pod) bool { return o == before })
		}
	}
	if p != nil {
		c.pods[name] = p
		for _, a := range p.Addrs {
			c.claims[a] = append(c.claims[a], p)
			c.settleLocked(a)
		}
	}
	if before != nil {
		for _, a := range before.Addrs {
			c.settleLocked(a)
		}
	}
}

// settleLocked makes the table say who has an address. If several pods claim it, one of them is about
// to end: which one, nobody can tell.
func (c *Clients) settleLocked(a netip.Addr) {
	key := string(a.AsSlice())
	switch list := c.claims[a]; len(list) {
	case 0:
		delete(c.claims, a)
		c.lists.remove(key)
	case 1:
		if l := c.listOf(list[0]); l != nil {
			c.lists.set(key, l)
			return
		}
		c.lists.remove(key)
	default:
		c.lists.remove(key)
	}
}

// listOf returns the search list of a pod as the kubelet writes it; nil if it is empty.
func (c *Clients) listOf(p *endpoints.Pod) *searchList {
	domains, n := p.Searches, bareNDots
	if p.ClusterFirst {
		n = podNDots
		domains = append([]string{p.Name.Namespace + ".svc." + c.domain, "svc." + c.domain, c.domain}, c.node...)
		domains = append(domains, p.Searches...)
	}
	if p.NDots >= 0 {
		n = p.NDots
	}
	l := &searchList{ndots: n}
	var seen []string
	for _, d := range domains {
		if slices.Contains(seen, d) || len(seen) == maxSearches {
			continue
		}
		seen = append(seen, d)
		wire, err := parseName(d)
		if d == "." {
			wire, err = []byte{0}, nil
		}
		switch {
		case err != nil: // nobody can ask for that
		case l.first == nil:
			var n name
			n.read(wire)
			l.first, l.labels = wire, n.count
		default:
			l.rest = append(l.rest, wire)
		}
	}
	if l.first == nil {
		return nil
	}
	return l
}

// of returns the search list of who has an address; nil if that is not known.
func (c *Clients) of(a netip.Addr) *searchList {
	if a.Is4() {
		b := a.As4()
		return c.lists.get(b[:])
	}
	b := a.As16()
	return c.lists.get(b[:])
}
