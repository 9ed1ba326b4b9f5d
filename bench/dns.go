package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-project/weir/bench/internal/report"
	"github.com/weir-project/weir/bench/internal/wire"
	"github.com/weir-project/weir/bench/internal/world"
	"github.com/weir-project/weir/internal/kubelab"
)

// headless is how many endpoints the headless Service has.
const headless = 1000

// dns compares servers of names over the same API server, in turn. Each is started twice in its turn: with
// the whole machine, for what start and changes take, and on one core alone, with the client on another,
// for what queries cost.
func (b *bench) dns(ctx context.Context) (err error) {
	servers, err := b.nameServers(ctx)
	if err != nil {
		return err
	}
	w, err := b.world(ctx, b.services, b.endpoints)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if err := w.ServeElsewhere(elsewhere); err != nil {
		return err
	}
	many, err := w.NewHeadless(ctx, "many", headless)
	if err != nil {
		return err
	}
	questions, err := b.writeQuestions(w, many)
	if err != nil {
		return err
	}
	all := map[string]*found{}
	for round := range b.dnsRounds() {
		for _, p := range servers {
			if all[p.Name] == nil {
				all[p.Name] = &found{}
			}
			b.say("round %d of %d: %s", round+1, b.dnsRounds(), p.Name)
			v := asking{bench: b, w: w, found: all[p.Name], questions: questions, many: many, round: round}
			if err := v.visit(ctx, p); err != nil {
				if ctx.Err() != nil {
					return err
				}
				b.failed("dns", p.Name, err)
				servers = slices.DeleteFunc(servers, func(o world.Proxy) bool { return o.Name == p.Name })
			}
		}
	}
	if b.wanted("weir") {
		if err := b.addedMemory(ctx, w, all); err != nil {
			b.failed("dns", "weir", err)
		}
	}
	for _, name := range []string{"weir", "coredns"} {
		b.record("dns", name, b.services, b.endpoints, all[name])
	}
	return nil
}

// dnsRounds is how often each server has its turn.
func (b *bench) dnsRounds() int { return min(b.rounds, 3) }

// addedMemory measures what weir run takes with names and without, on the same objects.
func (b *bench) addedMemory(ctx context.Context, w *world.World, all map[string]*found) error {
	if all["weir"] == nil {
		all["weir"] = &found{}
	}
	m := all["weir"].of("memory that names add to weir run", "MB", &report.Goal{Max: 30})
	proxy := world.Weir(filepath.Join(b.dir, "weir"))
	for range b.dnsRounds() {
		var rss [2]float64
		for i, names := range []bool{false, true} {
			var err error
			if rss[i], err = b.steadyMemory(ctx, w, world.WithNames(proxy, names), names); err != nil {
				return err
			}
		}
		m.add(rss[1] - rss[0])
		b.say("weir run takes %.1f MB, with names %.1f MB", rss[0], rss[1])
	}
	return nil
}

// steadyMemory starts weir run on a clean kernel, waits until it has done what there is to do, and
// returns its RSS in MB.
func (b *bench) steadyMemory(ctx context.Context, w *world.World, p world.Proxy, names bool) (rss float64, err error) {
	if err := w.Clean(b.rest); err != nil {
		return 0, err
	}
	r, err := w.Start(p)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, r.Stop()) }()
	ctx, cancel := r.While(ctx)
	defer cancel()
	if _, err := b.serving(ctx, w); err != nil {
		return 0, fmt.Errorf("%w%s", err, r.LogTail())
	}
	if names {
		asker, err := wire.NewAsker(w.Node, netip.MustParseAddrPort("10.96.0.10:53"))
		if err != nil {
			return 0, err
		}
		defer asker.Close()
		last := b.services - 1
		if _, err := asker.Until(ctx, w.ServiceName(last)+".default.svc.cluster.local.", w.ServiceAddr(last)); err != nil {
			return 0, fmt.Errorf("%w%s", err, r.LogTail())
		}
	}
	if err := r.Settle(ctx, 20*time.Second); err != nil {
		return 0, err
	}
	return r.Now().RSS, nil
}

// nameServers returns the servers that take part, and says what is missing to compare them.
func (b *bench) nameServers(ctx context.Context) (servers []world.Proxy, err error) {
	if runtime.NumCPU() < 2 {
		return nil, errors.New("one core for the server and another for its clients are needed")
	}
	for _, command := range []string{"dnsperf", "taskset"} {
		if _, err := exec.LookPath(command); err != nil {
			return nil, fmt.Errorf("%s is missing: install Debian's dnsperf and util-linux", command)
		}
	}
	if b.wanted("weir") {
		servers = append(servers, world.WeirDNS(filepath.Join(b.dir, "weir")))
	}
	if b.wanted("coredns") {
		dir, err := kubelab.BinDir(ctx, b.log, "coredns")
		if err != nil {
			b.failed("dns", "coredns", err)
			return servers, nil
		}
		b.versions["coredns"] = version(ctx, filepath.Join(dir, "coredns"))
		servers = append(servers, world.CoreDNS(filepath.Join(dir, "coredns")))
	}
	return servers, nil
}

// elsewhere answers every name that is not the cluster's with one address.
func elsewhere(m *dns.Msg, q dns.Question) {
	if q.Qtype == dns.TypeA {
		h := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: 3600}
		m.Answer = []dns.RR{&dns.A{Hdr: h, A: net.IPv4(192, 0, 2, 1)}}
		return
	}
	h := dns.RR_Header{Name: "test.", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 3600}
	m.Ns = []dns.RR{&dns.SOA{Hdr: h, Ns: "ns.test.", Mbox: "hostmaster.test.", Serial: 1, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: 3600}}
}

// queries are of one kind.
type queries struct {
	name  string
	file  string // of dnsperf
	edns  bool
	prime bool    // asked once before, so that the cache has what it needs
	goal  float64 // microseconds of CPU
	rcode string  // of all, or of none in particular
}

// externals is how many names elsewhere are asked for.
const externals = 1000

// writeQuestions writes what dnsperf asks.
func (b *bench) writeQuestions(w *world.World, many *world.Headless) (list []queries, err error) {
	const zone = "default.svc.cluster.local"
	var hits, misses, walks, outside []string
	for i := range b.services {
		name := w.ServiceName(i)
		hits = append(hits, name+"."+zone+" A")
		misses = append(misses, name+"x."+zone+" A")
		walks = append(walks, walk(name+".default")...)
	}
	for i := range externals {
		name := fmt.Sprintf("www.n%d.test", i)
		outside = append(outside, name+" A")
		walks = append(walks, walk(name)...)
	}
	for _, l := range []struct {
		queries
		lines []string
	}{
		{queries{name: "name in the zone", goal: 6.5, rcode: "NOERROR"}, hits},
		{queries{name: "name that does not exist", goal: 6.5, rcode: "NXDOMAIN"}, misses},
		{queries{name: "search walk, per query", goal: 6.5, prime: true}, walks},
		{queries{name: "cached name from elsewhere", goal: 8, prime: true, rcode: "NOERROR"}, outside},
		{queries{name: fmt.Sprintf("headless, %d endpoints, EDNS over UDP", headless), goal: 20, edns: true, rcode: "NOERROR"}, []string{many.Name() + " A"}},
	} {
		if l.name != "search walk, per query" { // whose order is that of a client
			rand.Shuffle(len(l.lines), func(i, j int) { l.lines[i], l.lines[j] = l.lines[j], l.lines[i] })
		}
		l.file = filepath.Join(b.dir, fmt.Sprintf("questions-%d", len(list)))
		if err := os.WriteFile(l.file, []byte(strings.Join(l.lines, "\n")+"\n"), 0o644); err != nil {
			return nil, err
		}
		list = append(list, l.queries)
	}
	return list, nil
}

// walk returns what a pod asks for a name with less than five dots, until it is answered: in its
// namespace, among services, in the cluster, as it is.
func walk(name string) (lines []string) {
	end := name
	if short, ok := strings.CutSuffix(name, ".default"); ok {
		end = short + ".default.svc.cluster.local"
	}
	for _, suffix := range []string{".default.svc.cluster.local", ".svc.cluster.local", ".cluster.local", ""} {
		lines = append(lines, name+suffix+" A", name+suffix+" AAAA")
		if name+suffix == end {
			break
		}
	}
	return lines
}

// asking is a server's turn.
type asking struct {
	*bench
	*found
	w         *world.World
	questions []queries
	many      *world.Headless
	round     int
	p         *world.Running
	asker     *wire.Asker
}

func (v *asking) visit(ctx context.Context, p world.Proxy) error {
	if err := v.with(ctx, p, v.whole); err != nil {
		return err
	}
	return v.with(ctx, world.OnCore(p, 0), v.load)
}

// with runs something beside a server.
func (v *asking) with(ctx context.Context, p world.Proxy, do func(context.Context) error) (err error) {
	if v.asker, err = wire.NewAsker(v.w.Node, world.NamesAddr); err != nil {
		return err
	}
	defer v.asker.Close()
	if v.p, err = v.w.Start(p); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.p.Stop()) }()
	ctx, cancel := v.p.While(ctx)
	defer cancel()
	if err := do(ctx); err != nil {
		return fmt.Errorf("%w%s", err, v.p.LogTail())
	}
	return v.p.Alive()
}

// whole measures a start, and changes.
func (v *asking) whole(ctx context.Context) error {
	at, err := v.right(ctx)
	if err != nil {
		return err
	}
	v.of("process start → every name right", "s", &report.Goal{Max: 2}).seconds(at.Sub(v.p.Began))
	if err := v.p.Settle(ctx, 20*time.Second); err != nil {
		return err
	}
	v.of("memory after the start", "MB", nil).add(v.p.Now().RSS)
	v.say("%s: every name right after %s; %s", v.p.Name, at.Sub(v.p.Began).Round(time.Millisecond), inMemory(v.p))
	if err := v.endpointChanges(ctx); err != nil {
		return err
	}
	return v.newServices(ctx)
}

// right waits until every name is right, and returns when it was.
func (v *asking) right(ctx context.Context) (at time.Time, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, v.patience, errors.New("not every name is right in time"))
	defer cancel()
	for i := range v.services {
		if at, err = v.asker.Until(ctx, v.w.ServiceName(i)+".default.svc.cluster.local.", v.w.ServiceAddr(i)); err != nil {
			return at, err
		}
	}
	return at, nil
}

// perRound is how many changes of a kind a server gets in one round.
func (v *asking) perRound() int { return (v.changes + v.dnsRounds() - 1) / v.dnsRounds() }

// endpointChanges measures from the API server's response to the first answer that is right.
func (v *asking) endpointChanges(ctx context.Context) error {
	h, err := v.w.NewHeadless(ctx, "one", 1)
	if err != nil {
		return err
	}
	defer func() { _ = h.Delete(context.WithoutCancel(ctx)) }()
	if _, err := v.asker.Until(ctx, h.Name(), h.Addr(0)); err != nil {
		return err
	}
	m := v.of("headless endpoint changes, API response → right answer", "ms", &report.Goal{P50: 1, P99: 5})
	for range v.perRound() {
		took, err := v.change(ctx, h.Name(), h.Move)
		if err != nil {
			return err
		}
		m.millis(took)
	}
	v.say("%s: endpoint change p50 %.2f ms", v.p.Name, m.values.Summarize().P50)
	return nil
}

// newServices measures the same of new Services, whose names have been asked for before, in vain.
func (v *asking) newServices(ctx context.Context) error {
	m := v.of("new Service, asked for before, API response → right answer", "ms", &report.Goal{P50: 1, P99: 5})
	for i := range v.perRound() {
		s := v.w.NewName(fmt.Sprintf("new-%d-%d", v.round, i))
		if err := v.asker.Missing(ctx, s.Name()); err != nil {
			return err
		}
		took, err := v.change(ctx, s.Name(), s.Create)
		if err = errors.Join(err, s.Delete(context.WithoutCancel(ctx))); err != nil {
			return err
		}
		m.millis(took)
	}
	v.say("%s: new Service p50 %.2f ms", v.p.Name, m.values.Summarize().P50)
	return nil
}

// change makes a change and returns how long after the API server's response the first query was sent that
// had the right answer; 0 if one that was sent before had it.
func (v *asking) change(ctx context.Context, name string, do func(context.Context) (net.IP, error)) (time.Duration, error) {
	ip, err := do(ctx)
	if err != nil {
		return 0, err
	}
	acknowledged := time.Now()
	at, err := v.asker.Until(ctx, name, ip)
	return max(0, at.Sub(acknowledged)), err
}

// load measures what queries cost.
func (v *asking) load(ctx context.Context) error {
	if _, err := v.right(ctx); err != nil {
		return err
	}
	if _, err := v.asker.Count(ctx, v.many.Name()); err != nil {
		return err
	}
	if err := v.p.Settle(ctx, 20*time.Second); err != nil {
		return err
	}
	for _, l := range v.questions {
		if err := v.ask(ctx, l); err != nil {
			return fmt.Errorf("%s: %w", l.name, err)
		}
	}
	if err := sleep(ctx, v.rest); err != nil {
		return err
	}
	v.of("memory after load", "MB", nil).add(v.p.Now().RSS)
	v.say("%s: after load %s", v.p.Name, inMemory(v.p))
	return nil
}

// ask asks one kind of queries for a time.
func (v *asking) ask(ctx context.Context, l queries) error {
	if l.prime {
		if _, err := v.dnsperf(ctx, l, "-n", "1"); err != nil {
			return err
		}
	}
	before := v.p.Now()
	result, err := v.dnsperf(ctx, l, "-l", strconv.FormatFloat(v.queryTime.Seconds(), 'f', 1, 64), "-n", "1000000")
	if err != nil {
		return err
	}
	cpu := v.p.Now().CPU - before.CPU
	each := float64(cpu.Nanoseconds()) / 1e3 / float64(result.answers)
	v.of(l.name+", CPU", "µs", &report.Goal{P50: l.goal}).add(each)
	v.of(l.name+", answers a second", "", nil).add(result.perSecond)
	v.say("%s: %s: %.1f µs, %.0f a second, %s", v.p.Name, l.name, each, result.perSecond, result.rcodes)
	switch {
	case result.lost > result.answers/1000:
		return fmt.Errorf("%d of %d queries are lost", result.lost, result.lost+result.answers)
	case l.rcode != "" && !strings.Contains(result.rcodes, l.rcode+" "+strconv.Itoa(result.answers)+" "):
		return fmt.Errorf("answers are %s, want %s", result.rcodes, l.rcode)
	}
	return nil
}

// perf is what dnsperf says.
type perf struct {
	answers, lost int
	perSecond     float64
	rcodes        string
}

// dnsperf asks from the last core.
func (v *asking) dnsperf(ctx context.Context, l queries, args ...string) (p perf, err error) {
	if err := ctx.Err(); err != nil {
		return p, context.Cause(ctx)
	}
	argv := []string{"-c", strconv.Itoa(runtime.NumCPU() - 1), "dnsperf", "-s", world.NamesAddr.Addr().String(), "-p", strconv.Itoa(int(world.NamesAddr.Port())),
		"-d", l.file, "-c", "4", "-T", "1", "-t", "5"}
	if l.edns {
		argv = append(argv, "-e")
	}
	out, err := v.w.Node.Run("taskset", append(argv, args...)...)
	if err != nil {
		return p, err
	}
	return parsePerf(out)
}

// parsePerf reads the statistics that dnsperf prints.
func parsePerf(out string) (p perf, err error) {
	seen := 0
	for line := range strings.Lines(out) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		value = strings.TrimSpace(value)
		number, _, _ := strings.Cut(value, " ")
		switch key {
		case "Queries completed":
			p.answers, err = strconv.Atoi(number)
		case "Queries lost":
			p.lost, err = strconv.Atoi(number)
		case "Queries per second":
			p.perSecond, err = strconv.ParseFloat(number, 64)
		case "Response codes":
			p.rcodes = value
		default:
			continue
		}
		if err != nil {
			return p, fmt.Errorf("dnsperf: %q: %w", line, err)
		}
		seen++
	}
	if seen < 4 || p.answers == 0 {
		return p, fmt.Errorf("dnsperf: no answers:\n%s", out)
	}
	return p, nil
}
