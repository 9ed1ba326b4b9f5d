// Package rig holds Weir's engine and sync loop in this process, over any kernel, and makes the
// changes of which benchmarks tell what they cost.
package rig

import (
	"context"
	"fmt"
	"iter"
	"net/netip"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/weir-project/weir/dataplane"
	"github.com/weir-project/weir/endpoints"
	"github.com/weir-project/weir/proxier"
)

// Kernel is what takes the transactions: a dataplane.Conn, or Yes.
type Kernel interface {
	Apply(ctx context.Context, ops []dataplane.Op) error
	Replace(ctx context.Context, first, rest iter.Seq[dataplane.Op]) error
}

// Yes is a kernel that takes everything and remembers nothing.
type Yes struct{}

// Apply takes ops.
func (Yes) Apply(context.Context, []dataplane.Op) error { return nil }

// Replace walks through what it is given, as an encoder does.
func (Yes) Replace(_ context.Context, first, rest iter.Seq[dataplane.Op]) error {
	for range first {
	}
	for range rest {
	}
	return nil
}

// Rig is a cluster of services, each with one ClusterIP and one port, and what programs them.
type Rig struct {
	engine   *endpoints.Engine
	services []*endpoints.Service
	slices   []*endpoints.Slice // of one service after the other
	done     chan proxier.SyncReport

	newService *endpoints.Service // that create makes, with its slice
	newSlice   *endpoints.Slice

	moves int
	gate  sync.Mutex // held while a change is made that is several events

	ctx    context.Context
	cancel context.CancelFunc
	ended  chan error
}

// sliceSize is how many endpoints Kubernetes puts into a slice.
const sliceSize = 100

// New builds the objects and hands them to an engine. Nothing is programmed before Start.
func New(services, eps int) *Rig {
	r := &Rig{
		engine: endpoints.New(endpoints.Config{NodeName: "node"}),
		done:   make(chan proxier.SyncReport, 1),
	}
	for i := range services {
		r.services = append(r.services, r.service(i))
		for from := 0; from < eps; from += sliceSize {
			r.slices = append(r.slices, r.slice(i, from, min(from+sliceSize, eps), i*eps))
		}
	}
	r.newService, r.newSlice = r.service(services), r.slice(services, 0, Endpoints, services*Endpoints)
	r.engine.ReplaceServices(r.services)
	r.engine.ReplaceSlices(r.slices)
	r.engine.SetNode(&endpoints.Node{Name: "node"})
	r.engine.SetServiceCIDRs([]netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")})
	return r
}

func (r *Rig) service(i int) *endpoints.Service {
	return &endpoints.Service{
		Name:       endpoints.Name{Namespace: "default", Name: fmt.Sprintf("svc-%05d", i)},
		UID:        fmt.Sprintf("00000000-0000-0000-0000-%012d", i),
		ClusterIPs: []netip.Addr{addr(10<<24 + 96<<16 + 256 + i)},
		Ports:      []endpoints.Port{{Name: "http", Protocol: endpoints.TCP, Port: 80}},
	}
}

var somewhere = &endpoints.Where{Node: "elsewhere"}

func (r *Rig) slice(service, from, to, first int) *endpoints.Slice {
	name := endpoints.Name{Namespace: "default", Name: fmt.Sprintf("svc-%05d", service)}
	s := &endpoints.Slice{
		Name:    endpoints.Name{Namespace: name.Namespace, Name: fmt.Sprintf("%s-%d", name.Name, from)},
		Service: name, Family: endpoints.IPv4,
		Ports: []endpoints.SlicePort{{Name: "http", Protocol: endpoints.TCP, Port: 8080}},
	}
	for e := from; e < to; e++ {
		s.Endpoints = append(s.Endpoints, endpoint(addr(100<<24+64<<16+1+first+e)))
	}
	return s
}

func endpoint(a netip.Addr) endpoints.Endpoint {
	return endpoints.Endpoint{Addr: a, Where: somewhere, Conditions: endpoints.Ready | endpoints.Serving}
}

func addr(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

// Start programs everything into k, and returns the report of that sync. What is asked of the rig
// from then on goes to k, until Stop.
func (r *Rig) Start(k Kernel) (proxier.SyncReport, error) {
	p, err := proxier.New(proxier.Config{Source: gated{r.engine, &r.gate}, Kernel: k, Observer: observer{r}})
	if err != nil {
		return proxier.SyncReport{}, err
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.ended = make(chan error, 1)
	go func() { r.ended <- p.Run(r.ctx) }()
	report := <-r.done
	return report, report.Err
}

// Stop ends the sync loop. The rig can be started again.
func (r *Rig) Stop() error {
	r.cancel()
	return <-r.ended
}

// observer passes reports on. It does not keep the loop waiting: there is one sync per change.
type observer struct{ r *Rig }

func (observer) Queued()                          {}
func (observer) SyncStarted()                     {}
func (observer) Progress()                        {}
func (o observer) SyncDone(r proxier.SyncReport)  { o.r.done <- r }
func (observer) NodeChanged(node *endpoints.Node) {}

// Change is something that happens to one service and is then taken back. Neither waits.
type Change struct {
	Name string
	Do   func(*Rig)
}

// Pairs are the changes that counted costs are about, each with what takes it back. In a rig whose
// services have Endpoints endpoints, "class" says that the frontend comes into another class.
var Pairs = [][2]Change{
	{{"endpoint replaced", (*Rig).Move}, {"endpoint replaced by its predecessor", (*Rig).restore}},
	{{"endpoint added", (*Rig).addLast}, {"endpoint removed, the last", (*Rig).restore}},
	{{"endpoint removed, the first, lower class", (*Rig).dropFirst}, {"endpoint added, higher class", (*Rig).restore}},
	{{"service added", (*Rig).create}, {"service removed", (*Rig).remove}},
}

// Endpoints is one more than 2^4.
const Endpoints = 17

// Sync waits until what was asked is in the kernel.
func (r *Rig) Sync() (proxier.SyncReport, error) {
	report := <-r.done
	return report, report.Err
}

// change hands a changed copy of the slice in the middle to the engine, and leaves the original.
func (r *Rig) change(edit func([]endpoints.Endpoint) []endpoints.Endpoint) {
	s := *r.slices[len(r.slices)/2]
	s.Endpoints = edit(slices.Clone(s.Endpoints))
	r.engine.SetSlice(&s)
}

// Move gives one endpoint of the slice in the middle an address that none had before.
func (r *Rig) Move() {
	r.moves++
	r.change(func(eps []endpoints.Endpoint) []endpoints.Endpoint {
		eps[len(eps)/2] = endpoint(addr(100<<24 + 127<<16 + r.moves%65536))
		return eps
	})
}

func (r *Rig) restore() {
	r.change(func(eps []endpoints.Endpoint) []endpoints.Endpoint { return eps })
}

func (r *Rig) dropFirst() {
	r.change(func(eps []endpoints.Endpoint) []endpoints.Endpoint { return slices.Delete(eps, 0, 1) })
}

func (r *Rig) addLast() {
	r.change(func(eps []endpoints.Endpoint) []endpoints.Endpoint {
		return append(eps, endpoint(addr(100<<24+126<<16+1)))
	})
}

// create makes a service beyond those that there are.
func (r *Rig) create() {
	r.gate.Lock()
	defer r.gate.Unlock()
	r.engine.SetSlice(r.newSlice)
	r.engine.SetService(r.newService)
}

func (r *Rig) remove() {
	r.gate.Lock()
	defer r.gate.Unlock()
	r.engine.DeleteService(r.newService.Name)
	r.engine.DeleteSlice(r.newSlice.Name)
}

// gated keeps the loop from taking half of a change that is several events.
type gated struct {
	*endpoints.Engine
	gate *sync.Mutex
}

func (g gated) Take() endpoints.Changes {
	g.gate.Lock()
	defer g.gate.Unlock()
	return g.Engine.Take()
}

// Namespace makes a network namespace and returns a file descriptor of it, which is all that keeps it.
func Namespace() (int, error) {
	type result struct {
		fd  int
		err error
	}
	made := make(chan result)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- result{-1, fmt.Errorf("make a network namespace: %w", err)}
			return
		}
		fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		made <- result{fd, err}
	}()
	r := <-made
	return r.fd, r.err
}
