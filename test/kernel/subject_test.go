//go:build linux

package kernel

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/weir-project/weir/dataplane"
	"github.com/weir-project/weir/dataplane/dataplanetest"
	"github.com/weir-project/weir/endpoints"
	"github.com/weir-project/weir/proxier"
	"github.com/weir-project/weir/proxier/proxiertest"
)

// patience is how long a sync may take on a machine that is busy with other things.
const patience = 30 * time.Second

func endpointLike(f dataplane.Frontend) netip.AddrPort {
	if f.Addr.Is4() {
		return netip.MustParseAddrPort("192.0.2.1:1")
	}
	return netip.MustParseAddrPort("[2001:db8::1]:1")
}

// process is all that one life of weir has between a source and the kernel.
type process struct {
	engine  *endpoints.Engine
	kernel  *troubled
	proxier *proxier.Proxier
	stop    context.CancelFunc
	ended   chan struct{}

	mu     sync.Mutex // guards synced
	synced uint64     // the revision of the last sync that succeeded
	news   chan struct{}
}

// newProcess starts a process in the namespace with that file descriptor.
func newProcess(ns int, layout dataplane.Layout, all, nodePort []netip.Addr) (*process, error) {
	ctx, cancel := context.WithCancel(klog.NewContext(context.Background(), klog.Logger{}))
	conn, err := dataplane.Open(ctx, dataplane.Config{NetNS: ns, Layout: layout})
	if err != nil {
		cancel()
		return nil, err
	}
	p := &process{
		engine: endpoints.New(endpoints.Config{NodeName: proxiertest.NodeName}),
		kernel: &troubled{conn: conn, model: &dataplanetest.Kernel{}, counts: &counts{}},
		stop:   cancel, ended: make(chan struct{}), news: make(chan struct{}, 1),
	}
	p.proxier, err = proxier.New(proxier.Config{
		Source: p.engine, Kernel: p.kernel, Observer: p, NodeAddrs: all, NodePortAddrs: nodePort,
		RetryMin: time.Millisecond, RetryMax: 4 * time.Millisecond,
	})
	if err != nil {
		cancel()
		return nil, err
	}
	go func() {
		defer close(p.ended)
		_ = p.proxier.Run(ctx)
	}()
	return p, nil
}

// end ends the process. What it has written stays.
func (p *process) end() error {
	p.stop()
	<-p.ended
	return p.kernel.conn.Close()
}

// The process observes its own sync loop.

func (p *process) Queued()                     {}
func (p *process) SyncStarted()                {}
func (p *process) Progress()                   {}
func (p *process) NodeChanged(*endpoints.Node) {}

func (p *process) SyncDone(r proxier.SyncReport) {
	if r.Err != nil {
		return
	}
	p.mu.Lock()
	p.synced = r.Revision
	p.mu.Unlock()
	select {
	case p.news <- struct{}{}:
	default:
	}
}

// marker is a service that changes with every settle, so that there is always something to sync.
func marker(n int) *endpoints.Service {
	return &endpoints.Service{
		Name: endpoints.Name{Namespace: "zz-test", Name: "marker"}, UID: "marker",
		ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 96, 200, 1})},
		Ports:      []endpoints.Port{{Protocol: endpoints.TCP, Port: uint16(1 + n)}},
	}
}

// settle waits until everything that the engine was told is in the kernel, but for what is set
// aside.
func (p *process) settle(n int) error {
	p.engine.SetService(marker(n))
	revision := p.engine.Revision()
	deadline := time.After(patience)
	for {
		p.mu.Lock()
		synced := p.synced
		p.mu.Unlock()
		if synced >= revision {
			return nil
		}
		select {
		case <-p.news:
		case <-deadline:
			return fmt.Errorf("revision %d is not in the kernel after %s, only %d; set aside: %v", revision, patience, synced, p.proxier.SetAside())
		}
	}
}

// held reads the maps back.
func (p *process) held() (dataplanetest.Dump, error) {
	d, err := p.kernel.conn.ReadBack()
	dump := dataplanetest.Dump(d)
	dump.Sort()
	return dump, err
}

// subject follows a history.
type subject struct {
	t       *testing.T
	ns      int // the file descriptor of the namespace
	rand    *rand.Rand
	now     *process
	history *proxiertest.History
	layout  int
	markers int
	counts  *counts
	log     []string
}

var layouts = []dataplane.Layout{
	{Local: dataplane.LocalDetection{CIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:244::/32")}}},
	{Local: dataplane.LocalDetection{CIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/15")}}},
	{MasqueradeAll: true},
}

func newSubject(t *testing.T, seed uint64, c *counts) *subject {
	t.Helper()
	s := &subject{t: t, rand: rand.New(rand.NewPCG(seed, 2)), counts: c}
	var err error
	s.ns, err = namespace()
	s.must("make a namespace", err)
	s.note("seed %d", seed)
	s.history = proxiertest.New(rand.NewPCG(seed, 1), &relay{s: s})
	s.history.SetNodeAddrs = func(all, nodePort []netip.Addr) { s.now.proxier.SetNodeAddrs(all, nodePort) }
	s.begin()
	return s
}

// relay passes a history on to the process that lives now.
type relay struct{ s *subject }

func (r *relay) engine() *endpoints.Engine                 { return r.s.now.engine }
func (r *relay) ReplaceServices(list []*endpoints.Service) { r.engine().ReplaceServices(list) }
func (r *relay) SetService(s *endpoints.Service)           { r.engine().SetService(s) }
func (r *relay) DeleteService(n endpoints.Name)            { r.engine().DeleteService(n) }
func (r *relay) ReplaceSlices(list []*endpoints.Slice)     { r.engine().ReplaceSlices(list) }
func (r *relay) SetSlice(s *endpoints.Slice)               { r.engine().SetSlice(s) }
func (r *relay) DeleteSlice(n endpoints.Name)              { r.engine().DeleteSlice(n) }
func (r *relay) SetNode(n *endpoints.Node)                 { r.engine().SetNode(n) }
func (r *relay) SetServiceCIDRs(c []netip.Prefix)          { r.engine().SetServiceCIDRs(c) }
func (r *relay) ReplaceNamespaces(list []string)           { r.engine().ReplaceNamespaces(list) }
func (r *relay) SetNamespace(name string)                  { r.engine().SetNamespace(name) }
func (r *relay) DeleteNamespace(name string)               { r.engine().DeleteNamespace(name) }

func (s *subject) note(format string, args ...any) {
	s.log = append(s.log, fmt.Sprintf(format, args...))
}

func (s *subject) fatal(format string, args ...any) {
	s.t.Helper()
	for _, l := range s.log {
		s.t.Log(l)
	}
	s.t.Fatalf(format, args...)
}

func (s *subject) must(what string, err error) {
	s.t.Helper()
	if err != nil {
		s.fatal("%s: %v", what, err)
	}
}

// begin starts a process on what is known so far.
func (s *subject) begin() {
	s.t.Helper()
	all, nodePort := s.history.NodeAddrs()
	p, err := newProcess(s.ns, layouts[s.layout], all, nodePort)
	s.must("start", err)
	p.kernel.rand, p.kernel.counts = rand.New(rand.NewPCG(s.rand.Uint64(), 3)), s.counts
	s.now = p
	s.history.Start()
}

// restart has another process take over, perhaps with other rules.
func (s *subject) restart() {
	s.t.Helper()
	s.must("end", s.now.end())
	if s.rand.IntN(2) == 0 {
		s.layout = s.rand.IntN(len(layouts))
	}
	s.note("restart with layout %d", s.layout)
	s.begin()
	s.settle()
}

func (s *subject) settle() {
	s.t.Helper()
	s.markers++
	s.must("settle", s.now.settle(s.markers))
}

// step tells some events, and lets some transactions fail.
func (s *subject) step() {
	s.t.Helper()
	trouble := max(0, s.rand.IntN(6)-2)
	s.note("trouble: %d", trouble)
	s.now.kernel.allow(trouble)
	for range 1 + s.rand.IntN(3) {
		s.note("%s", s.history.Step())
	}
	s.settle()
}

// aside lists the services that are set aside. One that is gone is not missed.
func (s *subject) aside() (names []endpoints.Name) {
	for _, a := range s.now.proxier.SetAside() {
		if s.now.engine.Service(a.Service) != nil || a.Service == (endpoints.Name{}) {
			names = append(names, a.Service)
		}
	}
	return names
}

// recover tries again what was set aside. A service is tried when it changes; of one that is
// headless by now the proxier hears nothing more, so it becomes another first.
func (s *subject) recover() {
	s.t.Helper()
	s.now.kernel.allow(0)
	for range 3 {
		aside := s.aside()
		if len(aside) == 0 {
			return
		}
		for _, n := range aside {
			if n != (endpoints.Name{}) { // which stands for the service CIDRs
				s.now.engine.SetService(&endpoints.Service{Name: n})
				s.now.engine.DeleteService(n)
			}
		}
		s.now.engine.SetServiceCIDRs(nil)
		s.settle()
		s.history.Replay(s.now.engine)
		s.settle()
	}
	s.fatal("still set aside: %v", s.now.proxier.SetAside())
}

// check holds the maps against what was written and against a fresh start.
func (s *subject) check() {
	s.t.Helper()
	s.recover()
	s.settle()
	held, err := s.now.held()
	s.must("read the maps back", err)
	for _, fault := range s.now.kernel.faults {
		s.fatal("%v", fault)
	}
	if diff := gocmp.Diff(s.now.kernel.model.Dump().Lines(), held.Lines()); diff != "" {
		s.fatal("the kernel does not hold what was written (-written +held):\n%s", diff)
	}
	if err := held.Check(); err != nil {
		s.fatal("%v", err)
	}
	if diff := gocmp.Diff(s.fresh().Meaning().Lines(), held.Meaning().Lines()); diff != "" {
		s.fatal("a fresh start differs (-fresh +held):\n%s", diff)
	}
}

// fresh returns what a new process makes of the last state where there was nothing before.
func (s *subject) fresh() dataplanetest.Dump {
	s.t.Helper()
	ns, err := namespace()
	s.must("make a namespace", err)
	defer unix.Close(ns)
	all, nodePort := s.history.NodeAddrs()
	p, err := newProcess(ns, layouts[s.layout], all, nodePort)
	s.must("start afresh", err)
	s.history.Replay(p.engine)
	s.must("settle afresh", p.settle(s.markers))
	held, err := p.held()
	s.must("read the fresh maps back", err)
	s.must("end afresh", p.end())
	return held
}

// run follows a history to its end.
func (s *subject) run(steps int) {
	s.t.Helper()
	defer unix.Close(s.ns)
	for range steps {
		switch s.rand.IntN(10) {
		case 0:
			s.restart()
		case 1:
			s.note("a stranger takes elements away")
			s.now.kernel.allow(0)
			s.must("steal", s.now.kernel.steal(s.t.Context(), 5))
			s.now.proxier.Invalidate()
		default:
			s.step()
		}
	}
	s.check()
	s.must("end", s.now.end())
}
