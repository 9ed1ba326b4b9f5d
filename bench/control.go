package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/weir-project/weir/bench/internal/report"
	"github.com/weir-project/weir/bench/internal/stat"
	"github.com/weir-project/weir/bench/internal/wire"
	"github.com/weir-project/weir/bench/internal/world"
)

// allParts are what a proxy is asked for when its turn comes. It is started for each turn, cold, and
// stopped at its end.
var allParts = []string{"change", "service", "roll", "busy", "restart", "early"}

// due reports whether a part is measured in a round: those of a few rounds are spread over all.
func (b *bench) due(part string, round int) bool {
	times, ok := b.seldom[part]
	if !ok || times > b.rounds {
		times = b.rounds
	}
	return slices.Contains(b.parts, part) && (round+1)*times/b.rounds > round*times/b.rounds
}

// What other sections are about too, or the summary shows.
const (
	startMetric    = "process start → all services answer, kernel empty"
	changeMetric   = "one endpoint change, API write → packets"
	changeCPU      = "CPU of one change"
	busyMetric     = "one endpoint change while 100 a second go on, API write → packets"
	busyCPU        = "CPU while 100 changes a second go on"
	responseMetric = "the same, from the API server's response"
	catchUpMetric  = "after these: time until the next change is in packets"
	serviceMetric  = "new Service, API write → packets"
)

// world builds a cluster of some size.
func (b *bench) world(ctx context.Context, services, eps int) (*world.World, error) {
	began := time.Now()
	w, err := world.New(ctx, b.dir, b.log)
	if err != nil {
		return nil, err
	}
	if err := w.Grow(ctx, services, eps); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	b.say("%s in the API server after %s", report.Size(services, eps), time.Since(began).Round(time.Millisecond))
	return w, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// sampled is how many services are asked whether they answer yet; afterwards all are.
const sampled = 100

// serving waits until a sample of all services answers, and returns when.
func (b *bench) serving(ctx context.Context, w *world.World, others ...netip.AddrPort) (time.Time, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, b.patience, fmt.Errorf("not programmed after %s", b.patience))
	defer cancel()
	at, err := wire.All(ctx, w.Client, append(w.Frontends(sampled), others...), 2*time.Millisecond)
	if err != nil {
		err = errors.Join(err, context.Cause(ctx))
	}
	return at, err
}

// found gathers values by what was measured, proxy by proxy.
type found struct {
	order  []string
	values map[string]*measured
}

type measured struct {
	unit   string
	values stat.Series
	goal   *report.Goal
	note   string
}

// of returns where the values of a metric go.
func (f *found) of(metric, unit string, goal *report.Goal) *measured {
	if f.values == nil {
		f.values = map[string]*measured{}
	}
	m := f.values[metric]
	if m == nil {
		m = &measured{unit: unit, goal: goal}
		f.values[metric] = m
		f.order = append(f.order, metric)
	}
	return m
}

func (m *measured) add(v float64)                  { m.values = append(m.values, v) }
func (m *measured) millis(d time.Duration)         { m.values.AddMillis(d) }
func (m *measured) seconds(d time.Duration)        { m.values.AddSeconds(d) }
func (m *measured) since(from, to world.Resources) { m.seconds(to.CPU - from.CPU) }

// control compares proxies in what they do with changes, in turn: A B A B.
func (b *bench) control(ctx context.Context) (err error) {
	w, err := b.world(ctx, b.services, b.endpoints)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	all := map[string]*found{}
	broken := map[string]bool{}
	for round := range b.rounds {
		for _, p := range b.proxies {
			if broken[p.Name] {
				continue
			}
			if all[p.Name] == nil {
				all[p.Name] = &found{}
			}
			b.say("round %d of %d: %s", round+1, b.rounds, p.Name)
			v := visit{bench: b, w: w, found: all[p.Name], round: round}
			if err := v.run(ctx, p); err != nil {
				if ctx.Err() != nil {
					return err
				}
				broken[p.Name] = true
				b.failed("control", p.Name, err)
			}
		}
	}
	for _, p := range b.proxies {
		b.record("control", p.Name, b.services, b.endpoints, all[p.Name])
	}
	return nil
}

// record adds what was found of a proxy to the run. Goals are Weir's, for the cluster of the section
// control.
func (b *bench) record(section, proxy string, services, eps int, f *found) {
	if f == nil {
		return
	}
	for _, metric := range f.order {
		m := f.values[metric]
		r := report.Result{Section: section, Metric: metric, Proxy: proxy, Services: services, Endpoints: eps, Unit: m.unit, Note: m.note}
		if proxy == "weir" && (section == "control" || section == "dns") {
			r.Goal = m.goal
		}
		b.run.Add(r, m.values)
	}
}

// visit is a proxy's turn: a start, what it is asked for, and its end.
type visit struct {
	*bench
	*found
	w     *world.World
	p     *world.Running
	own   *world.Service // whose only endpoint is changed
	round int
}

func (v *visit) run(ctx context.Context, p world.Proxy) error {
	return v.withProxy(ctx, p, func(ctx context.Context) error {
		if err := v.start(ctx); err != nil {
			return err
		}
		return v.measure(ctx)
	})
}

// withProxy starts a proxy on a clean kernel, beside a service of our own, and ends both.
func (v *visit) withProxy(ctx context.Context, p world.Proxy, do func(context.Context) error) (err error) {
	if v.own, err = v.w.NewService(ctx, 0, 1); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.own.Delete(context.WithoutCancel(ctx))) }()
	if err := v.w.Clean(v.rest); err != nil {
		return err
	}
	if v.p, err = v.w.Start(p); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.end()) }()
	if err := v.alive(ctx, do); err != nil {
		return err
	}
	v.peaks()
	if v.due("restart", v.round) {
		if err := v.restart(ctx); err != nil {
			return fmt.Errorf("restart: %w%s", err, v.p.LogTail())
		}
	}
	if v.due("early", v.round) {
		if err := v.early(ctx); err != nil {
			return fmt.Errorf("early: %w%s", err, v.p.LogTail())
		}
	}
	return nil
}

// measure does the parts that are asked for, but those that start the proxy again.
func (v *visit) measure(ctx context.Context) error {
	for _, part := range []struct {
		name string
		run  func(context.Context) error
	}{{"change", v.change}, {"service", v.service}, {"roll", v.roll}, {"busy", v.busyChange}} {
		if !v.due(part.name, v.round) {
			continue
		}
		if err := part.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	return nil
}

// alive runs something for as long as the proxy does.
func (v *visit) alive(ctx context.Context, run func(context.Context) error) error {
	ctx, cancel := v.p.While(ctx)
	defer cancel()
	err := run(ctx)
	if err != nil {
		if dead := v.p.Alive(); dead != nil {
			return dead
		}
		err = fmt.Errorf("%w%s", err, v.p.LogTail())
	}
	return err
}

// start measures the time until every service answers, and what it takes.
func (v *visit) start(ctx context.Context) error {
	at, err := v.serving(ctx, v.w)
	if err != nil {
		return err
	}
	took := at.Sub(v.p.Began)
	v.of(startMetric, "s", &report.Goal{Max: 3}).seconds(took)
	if full, err := v.p.Metric(v.w, "kubeproxy_sync_full_proxy_rules_duration_seconds_sum"); err == nil {
		v.of("of it, syncs as the proxy itself counts them", "s", &report.Goal{Max: 1}).add(full)
	}
	silent, err := wire.Silent(ctx, v.w.Client, v.w.Frontends(v.services))
	if err != nil {
		return err
	}
	if silent > 0 {
		v.failed("control", v.p.Name, fmt.Errorf("%d of %d services do not answer after the start", silent, v.services))
	}
	if err := v.p.Settle(ctx, 20*time.Second); err != nil {
		return err
	}
	now := v.p.Now()
	v.of("CPU of a start", "s", nil).seconds(now.CPU)
	v.of("memory after the start", "MB", nil).add(now.RSS)
	v.say("%s: all services answer after %s; %.1f s of CPU, %s", v.p.Name, took.Round(time.Millisecond), now.CPU.Seconds(), inMemory(v.p))
	return nil
}

// within calls do n times, or until the budget is spent, and notes if it was.
func (v *visit) within(ctx context.Context, m *measured, n int, do func() error) error {
	began := time.Now()
	for i := range n {
		if err := do(); err != nil {
			return err
		}
		if time.Since(began) > v.budget && i < n-1 {
			m.note = "fewer than asked for, because of the time that they take"
			return nil
		}
		if err := sleep(ctx, v.p.Gap); err != nil {
			return err
		}
	}
	return nil
}

// change measures changes of one endpoint, one after the other, with nothing else going on.
func (v *visit) change(ctx context.Context) error {
	write := v.of(changeMetric, "ms", &report.Goal{P50: 3, P99: 10})
	response := v.of(responseMetric, "ms", &report.Goal{P50: 3, P99: 10})
	server := v.of("the API server's response to that write", "ms", nil)
	n, failed := len(write.values), 0
	before := v.p.Now()
	err := v.within(ctx, write, (v.changes+v.rounds-1)/v.rounds, func() error {
		l, err := v.own.Swap(ctx)
		if err != nil {
			return err
		}
		write.millis(l.FromWrite)
		response.millis(l.FromResponse)
		server.millis(l.Write)
		failed += l.Failed
		return nil
	})
	if err != nil {
		return err
	}
	if err := v.p.Settle(ctx, 10*time.Second); err != nil {
		return err
	}
	cpu := v.p.Now().CPU - before.CPU
	v.of(changeCPU, "ms", nil).millis(cpu / time.Duration(len(write.values)-n))
	v.of("connections that failed during these changes", "", &report.Goal{None: true}).add(float64(failed))
	v.say("%s: change p50 %.1f ms", v.p.Name, write.values[n:].Summarize().P50)
	return nil
}

// service measures new services, from the write of the Service to the first connection that is
// answered.
func (v *visit) service(ctx context.Context) error {
	m := v.of(serviceMetric, "ms", nil)
	i := 0
	return v.within(ctx, m, max(2, v.changes/v.rounds/4), func() error {
		i++
		s, l, err := v.w.Create(ctx, 1+i%100)
		if err != nil {
			return errors.Join(err, s.Delete(ctx))
		}
		m.millis(l.FromWrite)
		if err := sleep(ctx, v.p.Gap); err != nil {
			return err
		}
		return s.Delete(ctx)
	})
}

// roll measures a service all of whose endpoints are replaced, ten with each write, until the
// last of these writes has reached the packets: a change of another service, written after them, has.
func (v *visit) roll(ctx context.Context) error {
	s, err := v.w.NewService(ctx, 120, v.options.roll)
	if err != nil {
		return err
	}
	defer func() { _ = s.Delete(context.WithoutCancel(ctx)) }()
	if _, err := wire.Until(ctx, v.w.Client, s.Frontend(), netip.Addr{}, 2*time.Millisecond); err != nil {
		return err
	}
	if err := v.p.Settle(ctx, 20*time.Second); err != nil {
		return err
	}
	before, began := v.p.Now(), time.Now()
	writes, err := s.Roll(ctx, 10)
	if err != nil {
		return err
	}
	written := time.Since(began)
	l, err := v.own.Swap(ctx)
	if err != nil {
		return err
	}
	what := fmt.Sprintf("rolling update of %d endpoints in %d writes", v.options.roll, writes)
	v.of(what+", first write → last in packets", "s", nil).seconds(l.Start.Sub(began))
	v.of(what+", behind the writes", "ms", nil).millis(l.Start.Sub(began.Add(written)))
	if err := v.p.Settle(ctx, 20*time.Second); err != nil {
		return err
	}
	v.of(what+", CPU", "s", nil).since(before, v.p.Now())
	return nil
}

// busyChange measures changes of one endpoint while a hundred others a second go on, and then what
// the proxy has come to.
func (v *visit) busyChange(ctx context.Context) error {
	m := v.of(busyMetric, "ms", nil)
	before, began := v.p.Now(), time.Now()
	churn := v.w.StartChurn(ctx, v.endpoints, 100)
	err := v.untilBusyEnds(ctx, m, began)
	took := time.Since(began)
	after := v.p.Now()
	if err := errors.Join(err, churn.Stop()); err != nil {
		return err
	}
	writes := churn.Writes.Load()
	if behind := churn.Behind.Load(); behind > writes/20 {
		v.say("only %d of %d changes were made in time: the API server is too slow", writes, writes+behind)
	}
	v.of(busyCPU, "% of a core", &report.Goal{P50: 10}).add(100 * (after.CPU - before.CPU).Seconds() / took.Seconds())
	l, err := v.own.Swap(ctx)
	if err != nil {
		return err
	}
	v.of(catchUpMetric, "ms", nil).millis(l.FromWrite)
	if err := v.p.Settle(ctx, time.Minute); err != nil {
		return err
	}
	if err := sleep(ctx, v.rest); err != nil {
		return err
	}
	now := v.p.Now()
	v.of("memory after these changes", "MB", &report.Goal{Max: 120}).add(now.RSS)
	v.say("%s: after %d changes in %s %s", v.p.Name, writes, took.Round(time.Second), inMemory(v.p))
	return v.profile(v.w, v.p, "heap")
}

func (v *visit) untilBusyEnds(ctx context.Context, m *measured, began time.Time) error {
	if err := sleep(ctx, v.busy/10); err != nil {
		return err
	}
	for time.Since(began) < v.busy {
		l, err := v.own.Swap(ctx)
		if err != nil {
			return err
		}
		m.millis(l.FromWrite)
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// restart kills the proxy, changes an endpoint while it is away, and starts it again under new
// connections.
func (v *visit) restart(ctx context.Context) error {
	if err := v.p.Kill(); err != nil {
		return err
	}
	want, err := v.own.SwapQuietly(ctx)
	if err != nil {
		return err
	}
	if v.p, err = v.w.Start(v.p.Proxy); err != nil {
		return err
	}
	alive, cancel := v.p.While(ctx)
	defer cancel()
	a, err := wire.Until(alive, v.w.Client, v.own.Frontend(), want, world.ProbeEvery)
	if err != nil {
		return err
	}
	v.of("restart: process start → what changed meanwhile is in packets", "s", &report.Goal{Max: 2}).seconds(a.Start.Sub(v.p.Began))
	v.of("restart: connections that failed", "", &report.Goal{None: true}).add(float64(a.Failed))
	v.say("%s: restarted in %s, %d of %d connections failed", v.p.Name, a.Start.Sub(v.p.Began).Round(time.Millisecond), a.Failed, a.Attempts)
	if err := v.p.Settle(ctx, 20*time.Second); err != nil {
		return err
	}
	v.of("restart: memory, peak of the process", "MB", &report.Goal{Max: 200}).add(v.p.Now().Peak)
	return nil
}

// early starts the proxy on an empty kernel once more, under connections that were begun before.
func (v *visit) early(ctx context.Context) error {
	if err := v.p.Stop(); err != nil {
		return err
	}
	if err := v.w.Clean(v.rest); err != nil {
		return err
	}
	strays := wire.StartStrays(v.w.Client, v.own.Frontend(), 2*time.Millisecond)
	defer strays.Close()
	var err error
	if v.p, err = v.w.Start(v.p.Proxy); err != nil {
		return err
	}
	alive, cancel := v.p.While(ctx)
	defer cancel()
	at, err := wire.Until(alive, v.w.Client, v.own.Frontend(), netip.Addr{}, 2*time.Millisecond)
	if err != nil {
		return err
	}
	// A SYN is sent again after as long as it has waited, and then a little.
	begun, lost, err := strays.Lost(ctx, at.Start.Sub(v.p.Began)+3*time.Second)
	if err != nil {
		return err
	}
	v.of("connections begun during a start, kernel empty, that come to nothing", "", nil).add(float64(lost))
	v.say("%s: %d of %d connections begun during a start come to nothing", v.p.Name, lost, begun)
	return nil
}

func (v *visit) peaks() {
	now := v.p.Now()
	v.of("memory, peak of the process", "MB", &report.Goal{Max: 200}).add(now.Peak)
	v.of("memory, peak with its children", "MB", nil).add(v.p.PeakWithChildren())
}

// end ends a turn, and measures what its rules took in the kernel by what comes back.
func (v *visit) end() error {
	if err := v.p.Stop(); err != nil {
		return err
	}
	before, err := world.KernelMemory()
	if err != nil {
		return err
	}
	if err := v.w.Clean(v.rest); err != nil {
		return err
	}
	after, err := world.KernelMemory()
	if v.services >= 1000 { // of fewer, the rest of the machine changes as much
		v.of("kernel memory that the rules take, per service", "kB", nil).add(1000 * (before - after) / float64(v.services))
	}
	return err
}

// profile keeps a profile of Weir if asked to.
func (b *bench) profile(w *world.World, p *world.Running, name string) error {
	if !b.keep || p.Name != "weir" {
		return nil
	}
	kind, _, _ := strings.Cut(name, "?")
	path := filepath.Join(os.TempDir(), fmt.Sprintf("weir-%s-%s.pprof", kind, time.Now().Format("150405")))
	b.say("profile in %s", path)
	return p.Profile(w, name, path)
}
