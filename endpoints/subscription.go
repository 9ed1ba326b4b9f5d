package endpoints

import (
	"slices"
	"time"
)

// maxSubscriptions is how many an Engine can have: one bit each in entry.dirty, but its own.
const maxSubscriptions = 7

// Subscription is another consumer of what an Engine holds, for DNS: it is told of every service,
// whether Proxied or not, and of Namespaces, and of nothing about the node. The Engine's own Take
// and Wake do not notice. All methods may be called concurrently.
type Subscription struct {
	engine *Engine
	bit    uint8
	wake   chan struct{}

	changes Changes // guarded by engine.mu; Revision is filled in by Take
}

// Subscribe returns a new consumer, to whom all that there is is new.
func (e *Engine) Subscribe() *Subscription {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.consumers) > maxSubscriptions {
		panic("endpoints: too many subscriptions")
	}
	c := &Subscription{engine: e, bit: 1 << len(e.consumers), wake: make(chan struct{}, 1)}
	e.consumers = append(e.consumers, c)
	for name, en := range e.services {
		if en.service != nil {
			c.dirtyLocked(name, en)
		}
	}
	for ns := range e.namespaces {
		c.changes.Namespaces = append(c.changes.Namespaces, ns)
	}
	c.touchLocked()
	return c
}

// Wake returns a channel that holds one value whenever something has changed since it was last
// received from, Synced included.
func (c *Subscription) Wake() <-chan struct{} { return c.wake }

// Synced reports whether services, slices and Namespaces have been delivered completely once.
func (c *Subscription) Synced() bool {
	c.engine.mu.Lock()
	defer c.engine.mu.Unlock()
	return c.engine.synced&nameKinds == nameKinds
}

// Take returns what has changed since the last Take, and takes it for dealt with. The slices in it
// are the caller's.
func (c *Subscription) Take() Changes {
	c.engine.mu.Lock()
	defer c.engine.mu.Unlock()
	return c.takeLocked()
}

// Read returns a service, nil if there is none of that name, and appends its slices, by name, to
// into, all of one moment.
func (c *Subscription) Read(name Name, into []*Slice) (*Service, []*Slice) {
	e := c.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	en := e.services[name]
	if en == nil || en.service == nil {
		return nil, into
	}
	return en.service, append(into, en.slices...)
}

// Namespace reports whether there is a Namespace of that name.
func (c *Subscription) Namespace(name string) bool {
	c.engine.mu.Lock()
	defer c.engine.mu.Unlock()
	_, ok := c.engine.namespaces[name]
	return ok
}

func (c *Subscription) takeLocked() Changes {
	e := c.engine
	taken := c.changes
	c.changes = Changes{}
	for _, name := range taken.Services {
		en := e.services[name]
		en.dirty &^= c.bit
		e.dropIfEmptyLocked(name, en)
	}
	taken.Revision = e.revision
	return taken
}

func (c *Subscription) dirtyLocked(name Name, en *entry) {
	if en.dirty&c.bit == 0 {
		en.dirty |= c.bit
		c.changes.Services = append(c.changes.Services, name)
	}
	c.touchLocked()
}

// touchLocked notes when changes began, and wakes who waits for one.
func (c *Subscription) touchLocked() {
	if c.changes.Since.IsZero() {
		c.changes.Since = time.Now()
	}
	c.signal()
}

func (c *Subscription) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// ReplaceNamespaces implements Sink.
func (e *Engine) ReplaceNamespaces(list []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	keep := make(map[string]struct{}, len(list))
	for _, name := range list {
		keep[name] = struct{}{}
		e.setNamespaceLocked(name, true)
	}
	var gone []string
	for name := range e.namespaces {
		if _, ok := keep[name]; !ok {
			gone = append(gone, name)
		}
	}
	slices.Sort(gone)
	for _, name := range gone {
		e.setNamespaceLocked(name, false)
	}
	e.syncedLocked(kindNamespaces)
}

// SetNamespace implements Sink.
func (e *Engine) SetNamespace(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.setNamespaceLocked(name, true)
}

// DeleteNamespace implements Sink.
func (e *Engine) DeleteNamespace(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.setNamespaceLocked(name, false)
}

func (e *Engine) setNamespaceLocked(name string, there bool) {
	if _, known := e.namespaces[name]; known == there {
		return
	}
	if there {
		e.namespaces[name] = struct{}{}
	} else {
		delete(e.namespaces, name)
	}
	e.revision++
	for _, c := range e.consumers[1:] {
		c.changes.Namespaces = append(c.changes.Namespaces, name)
		c.touchLocked()
	}
}
