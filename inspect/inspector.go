package inspect

import (
	"sync"
	"time"

	"github.com/weir-project/weir/dataplane"
	"github.com/weir-project/weir/endpoints"
	"github.com/weir-project/weir/inspect/api"
	"github.com/weir-project/weir/proxier"
	"github.com/weir-project/weir/proxier/health"
)

// Config says what there is to look at.
type Config struct {
	Build  api.Build
	Node   string // this machine's Node
	Source string // where Services come from, for people

	Engine *endpoints.Engine
	Proxy  *proxier.Proxier
	Kernel kernel
	Health *health.Proxy
	DNS    func() *api.DNS // nil, or returns nil: not switched on
	Debug  map[string]Part // further things to tell, by name
}

// kernel is what an Inspector needs of a dataplane.Conn.
type kernel interface {
	Families() []string
	Owned() bool
	Stats() dataplane.Stats
	Layout() dataplane.Layout
	Reader() (*dataplane.Reader, error)
}

// Inspector answers questions about a running Weir. Its methods may be called from any goroutine.
type Inspector struct {
	cfg     Config
	started time.Time
	events  ring
	routes  routes

	// verifying is held by who reads all maps: one at a time is enough for a node.
	verifying sync.Mutex
}

// New returns an Inspector. It is to be told of every sync (SyncDone).
func New(c Config) *Inspector {
	return &Inspector{cfg: c, started: time.Now(), events: newRing(), routes: kernelRoutes{}}
}

// SyncDone takes down what a sync did.
func (i *Inspector) SyncDone(r proxier.SyncReport) { i.events.add(eventOf(r), r.Err != nil) }

func meta(kind string) api.Meta { return api.Meta{APIVersion: api.Version, Kind: kind} }
