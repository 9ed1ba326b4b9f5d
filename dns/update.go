package dns

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weir-project/weir/endpoints"
)

// Source is what a Zone needs of an endpoints.Subscription.
type Source interface {
	Synced() bool
	Wake() <-chan struct{}
	Take() endpoints.Changes
	Read(endpoints.Name, []*endpoints.Slice) (*endpoints.Service, []*endpoints.Slice)
	Namespace(string) bool
}

// service is what Update knows of a service.
type service struct {
	name   endpoints.Name
	key    string // in Zone.services
	wire   []byte
	object *endpoints.Service
	slices []*endpoints.Slice // that the rest was built from, by name

	endpoints map[endpoint]int32 // ready ones, by how often they are listed
	v4        set[[4]byte]
	v6        set[[16]byte]
	all       set[target]
	ports     map[portKey]*set[target] // those that have a name
	hosts     *table[host]
}

// endpoint is an address under a label.
type endpoint struct {
	label string
	addr  netip.Addr
}

// portKey is the labels of a group.
type portKey struct{ port, protocol string }

// Ready is closed once the zone is complete: nothing may be concluded before from what is not there.
func (z *Zone) Ready() <-chan struct{} { return z.ready }

// Run keeps the zone up to date until ctx ends, and then returns nil. It is for one call. Updated, if
// not nil, is told of each update.
func (z *Zone) Run(ctx context.Context, from Source, updated func(endpoints.Changes)) error {
	ready := false
	for {
		synced := from.Synced()
		changes := z.Update(from)
		if updated != nil {
			updated(changes)
		}
		if synced && !ready {
			ready = true
			close(z.ready)
		}
		select {
		case <-from.Wake():
		case <-ctx.Done():
			return nil
		}
	}
}

// Update takes in what has changed since the last Update, at a cost that follows the change, and
// returns what that was.
func (z *Zone) Update(from Source) endpoints.Changes {
	changes := from.Take()
	for _, ns := range changes.Namespaces {
		z.changeSpace(ns, func(s *space) { s.object = from.Namespace(ns) })
	}
	for _, name := range changes.Services {
		var object *endpoints.Service
		object, z.list = from.Read(name, z.list[:0])
		z.update(name, object, z.list)
		clear(z.list)
	}
	if len(changes.Services)+len(changes.Namespaces) > 0 {
		z.serial.Store(max(z.serial.Load(), uint32(time.Now().Unix())))
	}
	return changes
}

// changeSpace changes what we know of a namespace.
func (z *Zone) changeSpace(name string, change func(*space)) {
	name = strings.ToLower(name)
	before, known := z.spaces[name]
	s := before
	change(&s)
	if s == (space{}) {
		delete(z.spaces, name)
		z.namespaces.remove(name)
		return
	}
	z.spaces[name] = s
	if !known {
		z.namespaces.set(name, &space{})
	}
}

// update brings one service up to date. A nil object is one that is gone.
func (z *Zone) update(name endpoints.Name, object *endpoints.Service, list []*endpoints.Slice) {
	s := z.known[name]
	if s != nil && (object == nil || object.Headless != s.object.Headless) {
		z.drop(s)
		s = nil
	}
	if object == nil {
		return
	}
	before := (*endpoints.Service)(nil)
	if s == nil {
		if s = z.newService(name); s == nil {
			return // nobody can ask for such a name
		}
	} else {
		before = s.object
	}
	s.object = object
	touched := before == nil
	if before != object {
		touched = true
		z.moveClusterIPs(s, before, object)
	}
	if z.applySlices(s, list) || touched {
		z.publish(s)
	}
}

// newService makes a service known; nil if it cannot have a name.
func (z *Zone) newService(name endpoints.Name) *service {
	if !validLabel(name.Name) || !validLabel(name.Namespace) || strings.ToLower(name.Name+name.Namespace) != name.Name+name.Namespace {
		return nil
	}
	key := appendLabel(appendLabel(nil, name.Name), name.Namespace)
	s := &service{name: name, key: string(key), hosts: &table[host]{}, wire: append(append(key, "\x03svc"...), z.domain...)}
	z.known[name] = s
	z.changeSpace(name.Namespace, func(sp *space) { sp.services++ })
	return s
}

// drop takes a service out, with all that is under its name.
func (z *Zone) drop(s *service) {
	z.services.remove(s.key)
	z.moveClusterIPs(s, s.object, nil)
	z.applySlices(s, nil)
	delete(z.known, s.name)
	z.changeSpace(s.name.Namespace, func(sp *space) { sp.services-- })
}

// moveClusterIPs changes whom addresses belong to.
func (z *Zone) moveClusterIPs(s *service, before, after *endpoints.Service) {
	var was, is []netip.Addr
	if before != nil {
		was = before.ClusterIPs
	}
	if after != nil {
		is = after.ClusterIPs
	}
	for _, a := range is {
		if !slices.Contains(was, a) {
			z.changeBack(a, func(r *reverse) { r.services = append(slices.Clip(r.services), s) })
		}
	}
	for _, a := range was {
		if !slices.Contains(is, a) {
			z.changeBack(a, func(r *reverse) {
				r.services = without(r.services, func(o *service) bool { return o == s })
			})
		}
	}
}

// changeBack changes whom an address belongs to.
func (z *Zone) changeBack(a netip.Addr, change func(*reverse)) {
	r := &reverse{}
	if old := z.back(a); old != nil {
		*r = *old
	}
	change(r)
	if len(r.services)+len(r.hosts) == 0 {
		z.addresses.remove(string(a.AsSlice()))
		return
	}
	if len(r.services) > 1 {
		r.services = slices.SortedFunc(slices.Values(r.services), func(a, b *service) int { return a.name.Compare(b.name) })
	}
	z.addresses.set(string(a.AsSlice()), r)
}

func without[T any](list []T, is func(T) bool) []T {
	return slices.DeleteFunc(slices.Clone(list), is)
}

// applySlices takes in how a service's slices differ from those it was built from, and reports
// whether that changes the service's own name. Both are by name. What stays is never away
// meanwhile: what comes is added before what goes is taken out.
func (z *Zone) applySlices(s *service, list []*endpoints.Slice) bool {
	if !s.wants(list) {
		return false
	}
	before := s.slices
	s.slices = slices.Clone(list)
	touched := false
	pairs(before, list, func(was, is *endpoints.Slice) {
		first, last := 0, 0 // how many endpoints are the same from the start, and from the end
		if was != nil && is != nil && was.Family == is.Family && slices.Equal(was.Ports, is.Ports) {
			first, last = common(was, is)
		}
		touched = z.count(s, is, first, last, true) || touched
		touched = z.count(s, was, first, last, false) || touched
	})
	return touched
}

// wants reports whether slices have anything for names: of a service with a cluster IP they do not,
// unless endpoints have hostnames.
func (s *service) wants(list []*endpoints.Slice) bool {
	return s.object.Headless || len(s.endpoints) > 0 ||
		slices.ContainsFunc(list, func(sl *endpoints.Slice) bool { return sl.Hostnames != nil })
}

// pairs calls for every slice of either list, with nil for one that is not in the other, but not for
// those that are the same in both.
func pairs(before, after []*endpoints.Slice, call func(was, is *endpoints.Slice)) {
	for len(before)+len(after) > 0 {
		c := 0
		switch {
		case len(before) > 0 && len(after) > 0 && before[0] == after[0]:
			before, after = before[1:], after[1:]
			continue
		case len(before) == 0:
			c = 1
		case len(after) == 0:
			c = -1
		default:
			c = cmp.Or(strings.Compare(before[0].Name.Name, after[0].Name.Name), strings.Compare(before[0].Name.Namespace, after[0].Name.Namespace))
		}
		var was, is *endpoints.Slice
		if c <= 0 {
			was, before = before[0], before[1:]
		}
		if c >= 0 {
			is, after = after[0], after[1:]
		}
		call(was, is)
	}
}

// common returns how many endpoints two slices have in common at their start, and at their end.
func common(a, b *endpoints.Slice) (first, last int) {
	same := func(i, j int) bool {
		x, y := &a.Endpoints[i], &b.Endpoints[j]
		return x.Addr == y.Addr && x.Conditions&endpoints.Ready == y.Conditions&endpoints.Ready && hostname(a, i) == hostname(b, j)
	}
	n, m := len(a.Endpoints), len(b.Endpoints)
	for first < min(n, m) && same(first, first) {
		first++
	}
	for last < min(n, m)-first && same(n-1-last, m-1-last) {
		last++
	}
	return first, last
}

// hostname returns the hostname of an endpoint in lower case, "" if it has none that can be a name.
func hostname(s *endpoints.Slice, i int) string {
	if s.Hostnames == nil || !validLabel(s.Hostnames[i]) || s.Hostnames[i][0] == '_' {
		return ""
	}
	return strings.ToLower(s.Hostnames[i])
}

// count adds the ready endpoints of a slice but the first and last few, or takes them out again. It
// reports whether that changes the service's own name.
func (z *Zone) count(s *service, slice *endpoints.Slice, first, last int, add bool) (touched bool) {
	if slice == nil {
		return false
	}
	keys := s.portKeys(slice)
	for i := first; i < len(slice.Endpoints)-last; i++ {
		ep := &slice.Endpoints[i]
		if ep.Conditions&endpoints.Ready == 0 {
			continue
		}
		label := hostname(slice, i)
		if label == "" {
			if !s.object.Headless {
				continue
			}
			label = dashed(ep.Addr)
		}
		key := endpoint{label, ep.Addr}
		if add {
			z.add(s, key)
		} else {
			z.remove(s, key)
		}
		if s.object.Headless {
			touched = true
			s.countTargets(slice, keys, label, add)
		}
	}
	return touched
}

// portKeys returns the labels of each of a slice's ports, for services whose ports are those of
// their endpoints.
func (s *service) portKeys(slice *endpoints.Slice) []portKey {
	if !s.object.Headless {
		return nil
	}
	keys := make([]portKey, len(slice.Ports))
	for i, p := range slice.Ports {
		keys[i] = labelsOf(p.Name, p.Protocol)
	}
	return keys
}

// labelsOf returns the labels of a port. One whose name is too long for a label has none.
func labelsOf(port string, protocol endpoints.Protocol) portKey {
	key := portKey{protocol: "_" + strings.ToLower(protocol.String())}
	if port != "" && validLabel("_"+port) {
		key.port = "_" + strings.ToLower(port)
	}
	return key
}

func (s *service) countTargets(slice *endpoints.Slice, keys []portKey, label string, add bool) {
	for i, key := range keys {
		t := target{label, slice.Ports[i].Port}
		if add {
			s.all.add(t)
		} else {
			s.all.remove(t)
		}
		if key.port == "" {
			continue
		}
		targets := s.ports[key]
		if !add {
			if targets.remove(t); targets.vec.n == 0 {
				delete(s.ports, key)
			}
			continue
		}
		if targets == nil {
			targets = &set[target]{}
			if s.ports == nil {
				s.ports = map[portKey]*set[target]{}
			}
			s.ports[key] = targets
		}
		targets.add(t)
	}
}

// add counts an endpoint.
func (z *Zone) add(s *service, key endpoint) {
	if s.endpoints == nil {
		s.endpoints = map[endpoint]int32{}
	}
	n := s.endpoints[key]
	s.endpoints[key] = n + 1
	if n > 0 {
		return
	}
	s.changeHost(key, true)
	z.changeBack(key.addr, func(r *reverse) { r.hosts = append(slices.Clip(r.hosts), hostName{s, key.label}) })
	if !s.object.Headless {
		return
	}
	if key.addr.Is4() {
		s.v4.add(key.addr.As4())
	} else {
		s.v6.add(key.addr.As16())
	}
}

// remove undoes one add.
func (z *Zone) remove(s *service, key endpoint) {
	if n := s.endpoints[key]; n > 1 {
		s.endpoints[key] = n - 1
		return
	}
	delete(s.endpoints, key)
	s.changeHost(key, false)
	z.changeBack(key.addr, func(r *reverse) {
		r.hosts = without(r.hosts, func(h hostName) bool { return h == hostName{s, key.label} })
	})
	if !s.object.Headless {
		return
	}
	if key.addr.Is4() {
		s.v4.remove(key.addr.As4())
	} else {
		s.v6.remove(key.addr.As16())
	}
}

// changeHost gives a label one address more or less.
func (s *service) changeHost(key endpoint, add bool) {
	h := &host{}
	if old := s.hosts.get([]byte(key.label)); old != nil {
		*h = *old
	}
	if key.addr.Is4() {
		h.v4 = oneMoreOrLess(h.v4, key.addr.As4(), add)
	} else {
		h.v6 = oneMoreOrLess(h.v6, key.addr.As16(), add)
	}
	if len(h.v4)+len(h.v6) == 0 {
		s.hosts.remove(key.label)
		return
	}
	s.hosts.set(key.label, h)
}

func oneMoreOrLess[A comparable](list []A, a A, more bool) []A {
	if more {
		return append(slices.Clip(list), a)
	}
	return without(list, func(o A) bool { return o == a })
}

// publish makes a service's own name say what is known now.
func (z *Zone) publish(s *service) {
	a := &answers{wire: s.wire, bare: s.object.Headless, hosts: s.hosts}
	switch {
	case s.object.ExternalName != "":
		if a.alias = aliasOf(s.object.ExternalName); a.alias == nil {
			z.services.remove(s.key)
			return
		}
		a.hosts = &table[host]{} // there is nothing below an alias
	case s.object.Headless:
		a.v4, a.v6, a.all = s.v4.publish(), s.v6.publish(), s.all.publish()
		for key, targets := range s.ports {
			a.ports = append(a.ports, group{key.port, key.protocol, targets.publish()})
		}
		slices.SortFunc(a.ports, func(a, b group) int {
			return cmp.Or(cmp.Compare(a.port, b.port), cmp.Compare(a.protocol, b.protocol))
		})
	default:
		for _, addr := range s.object.ClusterIPs {
			if addr.Is4() {
				a.v4 = single(addr.As4())
			} else {
				a.v6 = single(addr.As16())
			}
		}
		var all []target
		for _, p := range s.object.Ports {
			t := target{port: p.Port}
			if !slices.Contains(all, t) {
				all = append(all, t)
			}
			if key := labelsOf(p.Name, p.Protocol); key.port != "" {
				a.ports = append(a.ports, group{key.port, key.protocol, single(t)})
			}
		}
		a.all = single(all...)
	}
	z.services.set(s.key, a)
}

// aliasOf returns what an ExternalName service stands for; nil if that is no name. An address is
// none.
func aliasOf(external string) []byte {
	if _, err := netip.ParseAddr(strings.TrimSuffix(external, ".")); err == nil {
		return nil
	}
	wire, err := parseName(external)
	if err != nil {
		return nil
	}
	return wire
}
