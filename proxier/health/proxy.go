package health

import (
	"net/http"
	"sync"
	"time"

	"github.com/weir-project/weir/endpoints"
)

// ProxyConfig says what a Proxy is to know.
type ProxyConfig struct {
	// Families are those that are served. Each is to be told of with QueuedUpdate and Updated.
	Families []endpoints.Family

	// Timeout is how long a change may wait to be written: twice syncPeriod with kube-proxy.
	// 0: a minute, as with the default syncPeriod.
	Timeout time.Duration
	// Patience is how long a sync that has begun may go without a sign of life (Progress). It is
	// longer than Timeout because nothing can be told while the kernel is at work on one
	// transaction, and because a restart then would only make it start again. 0: five times Timeout.
	Patience time.Duration

	// Healthz and Livez are called with the status code of every answer. Nil: nobody counts.
	Healthz, Livez func(code int)
}

// Proxy knows whether the proxy is healthy and whether it is alive, from what it is told by the sync
// loop. All methods may be called concurrently.
//
// Healthy, for /healthz, is a family that has been written completely, and for which no change
// waits for longer than Timeout. A change waits from QueuedUpdate until a sync that began after it
// has led to Updated.
//
// Alive, for /livez, is the loop unless it is stuck. It is stuck when
//
//   - a first sync has begun at some time, and
//   - a sync is running, and neither its start nor any Progress, Updated or SyncEnded is less
//     than Patience ago; or none is running, a change is waiting for Timeout or longer, and the end of
//     the last sync, successful or not, is that long ago too.
//
// So livez never fails only because a sync is long, nor because syncs fail: healthz tells of that.
type Proxy struct {
	families          []endpoints.Family
	timeout, patience time.Duration
	healthz, livez    func(code int)

	// mu guards what follows.
	mu       sync.Mutex
	status   map[endpoints.Family]*familyStatus
	eligible bool
	running  bool
	alive    time.Time // the loop's last sign of life. Zero: no sync has begun yet
}

// familyStatus is when the last of something happened. Zero: it has not, or is no longer of interest.
type familyStatus struct {
	updated time.Time // the family was written
	queued  time.Time // the oldest change that no sync has begun with
	taken   time.Time // the oldest change that syncs have begun with, and not finished
}

// oldest returns since when a change waits. Zero: none does.
func (s *familyStatus) oldest() time.Time {
	if !s.taken.IsZero() {
		return s.taken
	}
	return s.queued
}

// NewProxy returns a Proxy that is alive and not yet healthy.
func NewProxy(c ProxyConfig) *Proxy {
	if c.Timeout <= 0 {
		c.Timeout = time.Minute
	}
	if c.Patience <= 0 {
		c.Patience = 5 * c.Timeout
	}
	p := &Proxy{
		families: c.Families,
		timeout:  c.Timeout, patience: c.Patience,
		healthz: c.Healthz, livez: c.Livez,
		status: make(map[endpoints.Family]*familyStatus, len(c.Families)),
	}
	for _, f := range c.Families {
		p.status[f] = &familyStatus{}
	}
	return p
}

// QueuedUpdate tells that there is a change to be written to a family. Families that are not
// served are ignored, here and by Updated.
func (p *Proxy) QueuedUpdate(f endpoints.Family) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.status[f]; s != nil && s.queued.IsZero() {
		s.queued = time.Now()
	}
}

// SyncStarted tells that a sync begins, which takes in every change that was queued before.
func (p *Proxy) SyncStarted() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running, p.alive = true, time.Now()
	for _, s := range p.status {
		s.taken, s.queued = s.oldest(), time.Time{}
	}
}

// Progress tells that the running sync gets on, for example that a transaction was accepted.
func (p *Proxy) Progress() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.alive = time.Now()
}

// Updated tells that the kernel holds everything there is for a family, as of when the running sync
// began; as of now if none is running.
func (p *Proxy) Updated(f endpoints.Family) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.status[f]
	if s == nil {
		return
	}
	now := time.Now()
	p.alive = now
	s.updated, s.taken = now, time.Time{}
	if !p.running {
		s.queued = time.Time{}
	}
}

// SyncEnded tells that the sync is over. What was not Updated has failed and waits on.
func (p *Proxy) SyncEnded() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running, p.alive = false, time.Now()
}

// SetNode tells of this machine's node. Nil, and one that is being deleted, is not eligible for the
// traffic of load balancers. Until the first call the node is unknown, which is the same.
func (p *Proxy) SetNode(n *endpoints.Node) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.eligible = n != nil && !n.Deleting
}

// Report is what /healthz and /livez answer. Times are zero for what has not happened.
type Report struct {
	LastUpdated  time.Time               `json:"lastUpdated"` // the latest of the families, or now when the answer is 200
	CurrentTime  time.Time               `json:"currentTime"`
	NodeEligible *bool                   `json:"nodeEligible,omitempty"` // /healthz only
	Healthy      bool                    `json:"healthy"`                // whatever the node is
	Status       map[string]FamilyReport `json:"status,omitempty"`       // by family: IPv4, IPv6
}

// FamilyReport is the part of a Report that is about one family.
type FamilyReport struct {
	LastUpdated time.Time `json:"lastUpdated"`
	Healthy     bool      `json:"healthy"`
}

// Healthy reports whether all families are healthy, whatever the node is.
func (p *Proxy) Healthy() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for _, s := range p.status {
		if !p.healthyLocked(s, now) {
			return false
		}
	}
	return true
}

// Waiting returns since when the oldest change waits to be written. Zero: none does.
func (p *Proxy) Waiting() (since time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.status {
		if t := s.oldest(); !t.IsZero() && (since.IsZero() || t.Before(since)) {
			since = t
		}
	}
	return since
}

func (p *Proxy) healthyLocked(s *familyStatus, now time.Time) bool {
	return !s.updated.IsZero() && !waits(s.oldest(), now, p.timeout)
}

// waits reports whether since is that long ago. Zero is not.
func waits(since, now time.Time, limit time.Duration) bool {
	return !since.IsZero() && now.Sub(since) >= limit
}

// stuckLocked reports whether the loop will not get on with a family.
func (p *Proxy) stuckLocked(s *familyStatus, now time.Time) bool {
	if p.running {
		return waits(p.alive, now, p.patience)
	}
	return waits(s.oldest(), now, p.timeout) && waits(p.alive, now, p.timeout)
}

// Healthz returns what /healthz answers, and whether that is 200.
func (p *Proxy) Healthz() (Report, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	r := p.reportLocked(now, p.healthyLocked)
	eligible := p.eligible
	r.NodeEligible = &eligible
	return r.at(now, r.Healthy && eligible)
}

// Livez returns what /livez answers, and whether that is 200.
func (p *Proxy) Livez() (Report, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	r := p.reportLocked(now, func(s *familyStatus, now time.Time) bool { return !p.stuckLocked(s, now) })
	return r.at(now, r.Healthy)
}

// reportLocked asks the same of every family.
func (p *Proxy) reportLocked(now time.Time, healthy func(*familyStatus, time.Time) bool) Report {
	r := Report{CurrentTime: now, Healthy: true, Status: make(map[string]FamilyReport, len(p.families))}
	for _, f := range p.families {
		s := p.status[f]
		ok := healthy(s, now)
		r.Status[f.String()] = FamilyReport{LastUpdated: s.updated, Healthy: ok}
		r.Healthy = r.Healthy && ok
		if s.updated.After(r.LastUpdated) {
			r.LastUpdated = s.updated
		}
	}
	return r
}

// at gives a good report the current time as its last update: so kube-proxy tells that its loop is
// alive though nothing has changed, and some read it so.
func (r Report) at(now time.Time, ok bool) (Report, bool) {
	if ok {
		r.LastUpdated = now
	}
	return r, ok
}

// Handler serves /healthz and /livez.
func (p *Proxy) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/healthz", answer(p.Healthz, p.healthz))
	mux.Handle("/livez", answer(p.Livez, p.livez))
	return mux
}

func answer(ask func() (Report, bool), count func(code int)) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		r, ok := ask()
		code := reply(w, r, ok)
		if count != nil {
			count(code)
		}
	}
}
