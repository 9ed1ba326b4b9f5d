package endpoints

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// Config says what an Engine has to know beforehand.
type Config struct {
	// NodeName is the name of this machine's Node object. Endpoints with it are local. Empty: no
	// endpoint is.
	NodeName string
}

// Engine holds what the sources said last, and knows which services that changed since somebody
// asked. It is a Sink. All methods may be called concurrently.
type Engine struct {
	nodeName string
	started  time.Time
	traffic  *Subscription // the Engine's own: what is Proxied, and the node

	// mu guards everything down to resolving.
	mu         sync.Mutex
	services   map[Name]*entry
	slices     map[Name]*Slice
	namespaces map[string]struct{}
	node       *Node
	cidrs      []netip.Prefix
	sizes      Sizes
	synced     kinds
	revision   uint64
	consumers  []*Subscription // traffic is the first

	// resolving guards scratch, so that only one Resolve at a time has its working memory. It is
	// taken before mu.
	resolving sync.Mutex
	scratch   scratch
}

var _ Sink = (*Engine)(nil)

// entry is all there is under one service's name. It stays for as long as anything is in it or it
// is dirty.
type entry struct {
	service *Service // nil: slices only
	slices  []*Slice // by name
	dirty   uint8    // for whom it is listed in Changes.Services, by Subscription.bit
}

// kinds is a set of the kinds of objects that a source delivers.
type kinds uint8

const (
	kindServices kinds = 1 << iota
	kindSlices
	kindNode
	kindServiceCIDRs
	kindNamespaces

	trafficKinds = kindServices | kindSlices | kindNode | kindServiceCIDRs
	nameKinds    = kindServices | kindSlices | kindNamespaces
)

// Changes is what has changed since the last Take.
type Changes struct {
	// Revision counts the events that changed something, from the start of the Engine on.
	Revision uint64
	// Services are those for which Resolve may give something new, each once, in the order in
	// which they were first touched. Some may be gone.
	Services []Name

	Namespaces []string // those that came or went, perhaps more than once; for a Subscription only

	NodeChanged  bool // something about Node
	CIDRsChanged bool
	Node         *Node          // as it is now, changed or not; nil: there is no such object
	ServiceCIDRs []netip.Prefix // as they are now; nil: unknown

	// Since is when the earliest of these changes came in. Zero: there are none.
	Since time.Time
	// Triggers are the times at which the causes of changed EndpointSlices lie (Slice.Triggered),
	// as far as they are known and not older than the Engine.
	Triggers []time.Time

	ServiceEvents int // services set or deleted
	SliceEvents   int // slices set or deleted
}

// Sizes counts what an Engine holds.
type Sizes struct {
	Services, Slices int
	Endpoints        int // of all slices, duplicates included
}

// New returns an empty Engine.
func New(c Config) *Engine {
	e := &Engine{
		nodeName:   c.NodeName,
		started:    time.Now(),
		services:   map[Name]*entry{},
		slices:     map[Name]*Slice{},
		namespaces: map[string]struct{}{},
	}
	e.traffic = &Subscription{engine: e, bit: 1, wake: make(chan struct{}, 1)}
	e.consumers = []*Subscription{e.traffic}
	return e
}

// Wake returns a channel that holds one value whenever something has changed since it was last
// received from, Synced included.
func (e *Engine) Wake() <-chan struct{} { return e.traffic.wake }

// Synced reports whether every kind of object that traffic depends on has been delivered completely
// once. Until then nothing may be concluded from what is not there.
func (e *Engine) Synced() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.synced&trafficKinds == trafficKinds
}

// Revision returns the number of events so far that changed something.
func (e *Engine) Revision() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.revision
}

// Take returns what traffic depends on and has changed since the last Take, and takes it for dealt with. The slices in it
// are the caller's.
func (e *Engine) Take() Changes {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.traffic.takeLocked()
	c.Node, c.ServiceCIDRs = e.node, slices.Clone(e.cidrs)
	return c
}

// Service returns a service, nil if there is none of that name.
func (e *Engine) Service(name Name) *Service {
	e.mu.Lock()
	defer e.mu.Unlock()
	if entry := e.services[name]; entry != nil {
		return entry.service
	}
	return nil
}

// Services returns the names of all services in order.
func (e *Engine) Services() []Name {
	e.mu.Lock()
	names := make([]Name, 0, e.sizes.Services)
	for name, entry := range e.services {
		if entry.service != nil {
			names = append(names, name)
		}
	}
	e.mu.Unlock()
	slices.SortFunc(names, Name.Compare)
	return names
}

// Slices returns the slices of a service, by name, whether the service exists or not.
func (e *Engine) Slices(service Name) []*Slice {
	e.mu.Lock()
	defer e.mu.Unlock()
	if entry := e.services[service]; entry != nil {
		return slices.Clone(entry.slices)
	}
	return nil
}

// Node returns this machine's node, nil if there is no such object.
func (e *Engine) Node() *Node {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.node
}

// Sizes returns how much the Engine holds.
func (e *Engine) Sizes() Sizes {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.sizes
}

// ReplaceServices implements Sink.
func (e *Engine) ReplaceServices(list []*Service) {
	e.mu.Lock()
	defer e.mu.Unlock()
	keep := make(map[Name]struct{}, len(list))
	for _, s := range list {
		keep[s.Name] = struct{}{}
		e.setServiceLocked(s)
	}
	var gone []Name
	for name, entry := range e.services {
		if _, ok := keep[name]; !ok && entry.service != nil {
			gone = append(gone, name)
		}
	}
	slices.SortFunc(gone, Name.Compare)
	for _, name := range gone {
		e.deleteServiceLocked(name)
	}
	e.syncedLocked(kindServices)
}

// SetService implements Sink.
func (e *Engine) SetService(s *Service) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.setServiceLocked(s)
}

func (e *Engine) setServiceLocked(s *Service) {
	entry := e.entryLocked(s.Name)
	if entry.service.Equal(s) {
		return
	}
	if entry.service == nil {
		e.sizes.Services++
	}
	proxied := entry.service.Proxied() || s.Proxied()
	entry.service = s
	e.dirtyLocked(s.Name, entry, proxied, serviceEvent)
}

// DeleteService implements Sink.
func (e *Engine) DeleteService(name Name) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.deleteServiceLocked(name)
}

func (e *Engine) deleteServiceLocked(name Name) {
	entry := e.services[name]
	if entry == nil || entry.service == nil {
		return
	}
	e.sizes.Services--
	e.dirtyLocked(name, entry, entry.service.Proxied(), serviceEvent)
	entry.service = nil
}

// ReplaceSlices implements Sink.
func (e *Engine) ReplaceSlices(list []*Slice) {
	e.mu.Lock()
	defer e.mu.Unlock()
	keep := make(map[Name]struct{}, len(list))
	for _, s := range list {
		keep[s.Name] = struct{}{}
		e.setSliceLocked(s)
	}
	var gone []Name
	for name := range e.slices {
		if _, ok := keep[name]; !ok {
			gone = append(gone, name)
		}
	}
	slices.SortFunc(gone, Name.Compare)
	for _, name := range gone {
		e.deleteSliceLocked(name)
	}
	e.syncedLocked(kindSlices)
}

// SetSlice implements Sink.
func (e *Engine) SetSlice(s *Slice) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.setSliceLocked(s)
}

func (e *Engine) setSliceLocked(s *Slice) {
	old := e.slices[s.Name]
	if old.Equal(s) {
		return
	}
	if old != nil {
		e.removeSliceLocked(old, s.Service)
	}
	e.slices[s.Name] = s
	e.sizes.Slices++
	e.sizes.Endpoints += len(s.Endpoints)
	entry := e.entryLocked(s.Service)
	at, _ := find(entry.slices, s.Name)
	entry.slices = slices.Insert(entry.slices, at, s)
	var triggered time.Time
	if s.Triggered.After(e.started) {
		triggered = s.Triggered
	}
	e.sliceEventLocked(entry, triggered)
	e.dirtyLocked(s.Service, entry, entry.service.Proxied(), nothing)
}

// sliceEventLocked counts a slice that was set or deleted.
func (e *Engine) sliceEventLocked(en *entry, triggered time.Time) {
	for _, c := range e.consumers {
		if c != e.traffic || en.service == nil || en.service.Proxied() {
			c.changes.SliceEvents++
			if !triggered.IsZero() {
				c.changes.Triggers = append(c.changes.Triggers, triggered)
			}
		}
	}
}

// DeleteSlice implements Sink.
func (e *Engine) DeleteSlice(name Name) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.deleteSliceLocked(name)
}

func (e *Engine) deleteSliceLocked(name Name) {
	old := e.slices[name]
	if old == nil {
		return
	}
	delete(e.slices, name)
	e.sliceEventLocked(e.services[old.Service], time.Time{})
	e.removeSliceLocked(old, Name{})
}

// removeSliceLocked takes a slice out of its service, which becomes dirty unless its name is next:
// then another version of the slice is about to go to the same place.
func (e *Engine) removeSliceLocked(old *Slice, next Name) {
	e.sizes.Slices--
	e.sizes.Endpoints -= len(old.Endpoints)
	entry := e.services[old.Service]
	at, _ := find(entry.slices, old.Name)
	entry.slices = slices.Delete(entry.slices, at, at+1)
	if old.Service != next {
		e.dirtyLocked(old.Service, entry, entry.service.Proxied(), nothing)
		e.dropIfEmptyLocked(old.Service, entry)
	}
}

// find returns where in a service's slices the one of that name is, or would go. They may be of
// several namespaces only if a source is wrong about them, so name decides first.
func find(list []*Slice, name Name) (int, bool) {
	return slices.BinarySearchFunc(list, name, func(s *Slice, name Name) int {
		if c := strings.Compare(s.Name.Name, name.Name); c != 0 {
			return c
		}
		return strings.Compare(s.Name.Namespace, name.Namespace)
	})
}

// SetNode implements Sink. Of services, only those with zone hints depend on it.
func (e *Engine) SetNode(n *Node) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.node.Equal(n) {
		rezoned := zoneOf(e.node) != zoneOf(n)
		e.node = n
		e.traffic.changes.NodeChanged = true
		e.revision++
		e.traffic.touchLocked()
		if rezoned {
			e.dirtyHintedLocked()
		}
	}
	e.syncedLocked(kindNode)
}

func zoneOf(n *Node) string {
	if n == nil {
		return ""
	}
	return n.Zone
}

// dirtyHintedLocked marks every service that has an endpoint with a zone hint.
func (e *Engine) dirtyHintedLocked() {
	var hinted []Name
	for name, entry := range e.services {
		if entry.service.Proxied() && slices.ContainsFunc(entry.slices, (*Slice).zoneHinted) {
			hinted = append(hinted, name)
		}
	}
	slices.SortFunc(hinted, Name.Compare)
	for _, name := range hinted {
		e.revision++
		e.traffic.dirtyLocked(name, e.services[name])
	}
}

func (s *Slice) zoneHinted() bool {
	return slices.ContainsFunc(s.Endpoints, func(ep Endpoint) bool { return len(ep.Where.ZoneHints) > 0 })
}

// SetServiceCIDRs implements Sink.
func (e *Engine) SetServiceCIDRs(cidrs []netip.Prefix) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !slices.Equal(e.cidrs, cidrs) {
		e.cidrs = slices.Clone(cidrs)
		e.traffic.changes.CIDRsChanged = true
		e.revision++
		e.traffic.touchLocked()
	}
	e.syncedLocked(kindServiceCIDRs)
}

// entryLocked returns the entry of a service's name, and makes it if need be.
func (e *Engine) entryLocked(name Name) *entry {
	en := e.services[name]
	if en == nil {
		en = &entry{}
		e.services[name] = en
	}
	return en
}

func (e *Engine) dropIfEmptyLocked(name Name, en *entry) {
	if en.service == nil && len(en.slices) == 0 && en.dirty == 0 {
		delete(e.services, name)
	}
}

// event is what a consumer counts of a change.
type event uint8

const (
	nothing event = iota
	serviceEvent
)

// dirtyLocked notes that something changed under a service's name; proxied says whether traffic
// depends on it. Slices without a service change nothing that anybody could see; they are looked at
// when the service appears.
func (e *Engine) dirtyLocked(name Name, en *entry, proxied bool, counted event) {
	if en.service == nil {
		return
	}
	e.revision++
	for _, c := range e.consumers {
		if c != e.traffic || proxied {
			if counted == serviceEvent {
				c.changes.ServiceEvents++
			}
			c.dirtyLocked(name, en)
		}
	}
}

func (e *Engine) syncedLocked(k kinds) {
	if e.synced&k == 0 {
		e.synced |= k
		for _, c := range e.consumers {
			c.signal()
		}
	}
}
