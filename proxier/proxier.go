package proxier

import (
	"context"
	"iter"
	"net/netip"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/weir-project/weir/dataplane"
	"github.com/weir-project/weir/endpoints"
)

// source is what a Proxier needs of an endpoints.Engine.
type source interface {
	Synced() bool
	Wake() <-chan struct{}
	Take() endpoints.Changes
	Resolve(endpoints.Name, *endpoints.Resolved)
	Services() []endpoints.Name
	Service(endpoints.Name) *endpoints.Service
}

// kernel is what a Proxier needs of a dataplane.Conn.
type kernel interface {
	Apply(ctx context.Context, ops []dataplane.Op) error
	Replace(ctx context.Context, first, rest iter.Seq[dataplane.Op]) error
}

// Observer is told what the loop did, from the loop's goroutine: what it does delays the next
// sync.
type Observer interface {
	// Queued is called when there is something to write and there was nothing before.
	Queued()
	// SyncStarted is called when a sync begins, and Progress whenever the kernel has taken a
	// transaction of it.
	SyncStarted()
	Progress()
	// SyncDone is called after every sync, also one that failed.
	SyncDone(SyncReport)
	// NodeChanged is called when something about this machine's node has changed, before the sync
	// of what depends on it. It is not called before the source has synced.
	NodeChanged(*endpoints.Node)
}

// SyncReport says what a sync did.
type SyncReport struct {
	Start    time.Time
	Duration time.Duration
	// Full says that the whole state was written (Replace).
	Full bool
	// Err is why the sync failed and will be tried again; nil if the kernel now holds everything
	// but what is set aside.
	Err error

	Ops          int // operations that the kernel took
	OpsIPv4      int // of them
	OpsIPv6      int
	Transactions int // calls into the kernel, refused ones included
	Services     int // services planned

	Revision      uint64      // of the source, as of this sync
	Since         time.Time   // when the earliest change in this sync was seen; zero: no change of the source's
	Triggers      []time.Time // causes of slice changes in this sync (endpoints.Changes)
	ServiceEvents int
	SliceEvents   int

	// Changed are the services that were planned. Until a sync succeeds they gather, as Flows do.
	Changed []endpoints.Name
	// Details say what became of the first few of them.
	Details []ServiceChange
	// Flows are the frontends of these services whose connections may lead astray now.
	Flows []Flow

	Frontends int // held after the sync
	Slots     int // held after the sync
	NoLocal   NoLocal
	Contested int // frontends that several services claim
	SetAside  int // services kept out
}

// Config says what a Proxier works with. Source and Kernel are required.
type Config struct {
	Source source
	Kernel kernel

	Reporter endpoints.Reporter // nil: problems are only logged
	Observer Observer           // nil: none

	// NodeAddrs are all addresses of this node, NodePortAddrs those of them on which node ports
	// are served. SetNodeAddrs changes both.
	NodeAddrs     []netip.Addr
	NodePortAddrs []netip.Addr

	// MinSyncPeriod is the least time from the end of a sync to the start of the next.
	MinSyncPeriod time.Duration
	// After a failure the loop waits from RetryMin, doubling, to RetryMax. 0: 50 ms and 30 s.
	RetryMin, RetryMax time.Duration

	// Flows says of which protocols SyncReport.Flows tells. Nil: of none.
	Flows func(dataplane.Protocol) bool

	// NoExternalIPs leaves spec.externalIPs out (feature gate AllowServiceExternalIPs off).
	NoExternalIPs bool

	// NoIPv6 says that the kernel has no IPv6: what is planned for it is not written.
	NoIPv6 bool

	// Urgent says which services a node cannot do without; a full write begins with them. The API
	// server's and the cluster DNS's are without being named.
	Urgent func(*endpoints.Service) bool
}

// Proxier keeps the kernel's maps true to a source. Run does the work; the other methods may be
// called at any time from any goroutine.
type Proxier struct {
	cfg Config

	// mu guards rules and aside. Only Run's goroutine changes them, so it reads without.
	mu    sync.RWMutex
	rules *ruleset
	aside map[endpoints.Name]*aside

	// Run's goroutine alone uses these.
	dirty   map[endpoints.Name]struct{} // to be planned; serviceCIDRs stands for them
	around  surroundings                // what is wanted
	cidrs   []netip.Prefix
	known   bool        // the kernel holds what rules says
	urgent  bool        // a Replace was asked for: MinSyncPeriod does not hold it up
	pending SyncReport  // what is gathered for the next sync that succeeds
	forgets []forgotten // by due
	delay   time.Duration
	hold    time.Time // no sync before, after a failure
	rest    time.Time // no sync before, because of MinSyncPeriod
	due     bool      // there is something to sync

	// asked guards requests from other goroutines.
	asked    sync.Mutex
	addrs    *surroundings // new addresses
	minSync  *time.Duration
	invalid  bool
	poke     chan struct{}
	synced   chan struct{}
	syncOnce sync.Once
}

// New returns a Proxier that has written nothing yet.
func New(cfg Config) (*Proxier, error) {
	if cfg.Source == nil || cfg.Kernel == nil {
		return nil, errNoConfig
	}
	if cfg.Observer == nil {
		cfg.Observer = nobody{}
	}
	if cfg.RetryMin <= 0 {
		cfg.RetryMin = 50 * time.Millisecond
	}
	if cfg.RetryMax <= 0 {
		cfg.RetryMax = 30 * time.Second
	}
	around := newSurroundings(cfg.NodeAddrs, cfg.NodePortAddrs)
	around.noExternalIPs = cfg.NoExternalIPs
	return &Proxier{
		cfg:    cfg,
		rules:  newRuleset(),
		aside:  make(map[endpoints.Name]*aside),
		dirty:  make(map[endpoints.Name]struct{}),
		around: around,
		poke:   make(chan struct{}, 1),
		synced: make(chan struct{}),
	}, nil
}

func newSurroundings(all, nodePort []netip.Addr) surroundings {
	return surroundings{node: plainAddrs(all), nodePort: plainAddrs(nodePort)}
}

// equal reports whether nothing differs that anything depends on.
func (s *surroundings) equal(o *surroundings) bool {
	return slices.Equal(s.node, o.node) && slices.Equal(s.nodePort, o.nodePort)
}

// SetNodeAddrs tells which addresses the node has now, and on which of them node ports are served.
func (p *Proxier) SetNodeAddrs(all, nodePort []netip.Addr) {
	s := newSurroundings(all, nodePort)
	s.noExternalIPs = p.cfg.NoExternalIPs
	p.asked.Lock()
	p.addrs = &s
	p.asked.Unlock()
	p.wake()
}

// SetMinSyncPeriod changes Config.MinSyncPeriod.
func (p *Proxier) SetMinSyncPeriod(d time.Duration) {
	p.asked.Lock()
	p.minSync = &d
	p.asked.Unlock()
	p.wake()
}

// Invalidate tells that somebody else has changed the ruleset. All of it is written again at once.
func (p *Proxier) Invalidate() {
	p.asked.Lock()
	p.invalid = true
	p.asked.Unlock()
	p.wake()
}

func (p *Proxier) wake() {
	select {
	case p.poke <- struct{}{}:
	default:
	}
}

// Synced reports whether the kernel has held everything once.
func (p *Proxier) Synced() bool {
	select {
	case <-p.synced:
		return true
	default:
		return false
	}
}

// WaitSynced waits until Synced.
func (p *Proxier) WaitSynced(ctx context.Context) error {
	select {
	case <-p.synced:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Frontends returns the number of frontends that services claim.
func (p *Proxier) Frontends() int {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return len(p.rules.claims.winners)
}

// Conflicts lists the frontends that several services claim.
func (p *Proxier) Conflicts() []Conflict {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.rules.claims.conflicts()
}

// isUrgent reports whether a node cannot do without a service.
func (p *Proxier) isUrgent(s *endpoints.Service) bool {
	switch s.Name {
	case endpoints.Name{Namespace: "default", Name: "kubernetes"},
		endpoints.Name{Namespace: "kube-system", Name: "kube-dns"}:
		return true
	}
	return p.cfg.Urgent != nil && p.cfg.Urgent(s)
}

// report tells of a problem: one line in the log is the reporter's to write, if there is one.
func (p *Proxier) report(log klog.Logger, problem endpoints.Problem) {
	if p.cfg.Reporter == nil {
		log.Info("Not served as asked", "kind", problem.Kind, "object", problem.Object, "field", problem.Field, "reason", problem.Reason)
		return
	}
	p.cfg.Reporter.Report(problem)
}

// changed makes those services dirty that depend on what differs between two surroundings.
func (p *Proxier) changed(was, is surroundings) {
	nodePorts := !slices.Equal(was.nodePort, is.nodePort)
	ranges := !slices.Equal(was.node, is.node)
	for n, e := range p.rules.services {
		s := e.state.object
		hasNodePort := slices.ContainsFunc(s.Ports, func(p endpoints.Port) bool { return p.NodePort != 0 })
		if ranges && s.Restricted || nodePorts && hasNodePort {
			p.dirty[n] = struct{}{}
		}
	}
}
