package conntrack

import (
	"cmp"
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/weir-project/weir/dataplane"
)

// table is what a Cleaner needs of a Conn.
type table interface {
	Wants(dataplane.Protocol) bool
	Clean(context.Context, []Job) (Result, error)
}

// CleanerConfig is optional: the zero value is fine.
type CleanerConfig struct {
	// Again is how long after a job came it is done once more, for packets that were on their
	// way through the old rules. Default: one second.
	Again time.Duration
	// Observe is told of every round, by the goroutine of Run.
	Observe func(Report)
}

// Report says what one round has done.
type Report struct {
	Result
	Jobs     int // frontends looked for
	Waiting  int // frontends that are still to be looked for, for the first time or again
	Duration time.Duration
	Err      error // what was done nevertheless is in Result; the round is tried again
}

// maxAttempts is how often a job is begun whose round fails.
const maxAttempts = 5

// gather is how much earlier than due a job is done again when a round takes place anyway: a share of
// CleanerConfig.Again.
const gather = 4

// Cleaner does jobs in the background, one round at a time. What comes during a round is gathered
// for the next. After a round it rests three times as long as that took, at most Again, so that a
// large table does not cost more than a quarter of a CPU however often frontends change.
//
// Memory is bound by the number of frontends: each has one job at most. The endpoints of a job
// are shared with whoever made it.
type Cleaner struct {
	table table
	cfg   CleanerConfig
	wake  chan struct{}

	mu   sync.Mutex // guards jobs
	jobs map[dataplane.Frontend]*pending
}

// pending is a job that has to be done once or twice more.
type pending struct {
	Job
	came   time.Time
	due    time.Time
	failed int
}

// NewCleaner returns a Cleaner, which does nothing until Run.
func NewCleaner(conn *Conn, cfg CleanerConfig) *Cleaner { return newCleaner(conn, cfg) }

func newCleaner(t table, cfg CleanerConfig) *Cleaner {
	if cfg.Again == 0 {
		cfg.Again = time.Second
	}
	if cfg.Observe == nil {
		cfg.Observe = func(Report) {}
	}
	return &Cleaner{table: t, cfg: cfg, wake: make(chan struct{}, 1), jobs: map[dataplane.Frontend]*pending{}}
}

// Wants reports whether jobs for frontends of this protocol are acted on. The others need not be
// made.
func (c *Cleaner) Wants(p dataplane.Protocol) bool { return c.table.Wants(p) }

// Enqueue takes over jobs, and returns at once. The rules must have changed before. A later job for
// a frontend takes the place of one that has not been done for the last time; only that the
// frontend has appeared is remembered.
func (c *Cleaner) Enqueue(jobs []Job) {
	now := time.Now()
	c.mu.Lock()
	for _, j := range jobs {
		if !c.table.Wants(j.Frontend.Protocol) {
			continue
		}
		if old := c.jobs[j.Frontend]; old != nil {
			j.Appeared = j.Appeared || old.Appeared
		}
		c.jobs[j.Frontend] = &pending{Job: j, came: now, due: now}
	}
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Run does jobs until ctx ends. What has not been done then is left.
func (c *Cleaner) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		round, wait := c.take(time.Now())
		if len(round) > 0 {
			wait = c.round(ctx, round)
			c.sleep(ctx, wait, nil)
			continue
		}
		c.sleep(ctx, wait, c.wake)
	}
	return nil
}

// sleep waits for a while, for ctx or for wake. Negative: no matter how long.
func (c *Cleaner) sleep(ctx context.Context, d time.Duration, wake <-chan struct{}) {
	var timeout <-chan time.Time
	if d >= 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		timeout = timer.C
	}
	select {
	case <-ctx.Done():
	case <-wake:
	case <-timeout:
	}
}

// take returns the jobs of the next round, and without any how long it is until one is due;
// negative: there is none.
func (c *Cleaner) take(now time.Time) (round []*pending, wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	wait = -1
	for _, p := range c.jobs {
		if d := max(0, p.due.Sub(now)); wait < 0 || d < wait {
			wait = d
		}
	}
	if wait != 0 {
		return nil, wait
	}
	for _, p := range c.jobs {
		if p.due.Sub(now) <= c.cfg.Again/gather {
			round = append(round, p)
		}
	}
	return round, 0
}

// round does jobs and returns how long to rest.
func (c *Cleaner) round(ctx context.Context, round []*pending) time.Duration {
	jobs := make([]Job, len(round))
	for i, p := range round {
		jobs[i] = p.Job
		jobs[i].Now = func() []netip.AddrPort { return c.now(p) }
	}
	start := time.Now()
	result, err := c.table.Clean(ctx, jobs)
	took := time.Since(start)
	waiting := c.settle(round, start, err)
	c.cfg.Observe(Report{Result: result, Jobs: len(jobs), Waiting: waiting, Duration: took, Err: err})
	return min(3*took, c.cfg.Again)
}

// now returns the endpoints to keep by now: those of a later job, if there is one.
func (c *Cleaner) now(p *pending) []netip.AddrPort {
	c.mu.Lock()
	latest := cmp.Or(c.jobs[p.Frontend], p)
	c.mu.Unlock()
	if latest.Now != nil {
		return latest.Now()
	}
	return latest.Keep
}

// settle decides when the jobs of a round are due again, if at all, and returns how many wait.
// A round that began late enough after a job came was its last.
func (c *Cleaner) settle(round []*pending, start time.Time, err error) (waiting int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := c.cfg.Again - c.cfg.Again/gather
	for _, p := range round {
		if c.jobs[p.Frontend] != p {
			continue // a later job has taken its place
		}
		switch {
		case err != nil && p.failed+1 < maxAttempts:
			p.failed++
			p.due = start.Add(c.cfg.Again)
		case err == nil && start.Sub(p.came) < last:
			p.due = p.came.Add(c.cfg.Again)
		default:
			delete(c.jobs, p.Frontend)
		}
	}
	return len(c.jobs)
}
