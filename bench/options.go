package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-project/weir/bench/internal/report"
	"github.com/weir-project/weir/bench/internal/world"
	"github.com/weir-project/weir/internal/kubelab"
)

// options are what the command line says.
type options struct {
	sections []string
	parts    []string // of the section control
	only     []string // proxies
	others   []world.Proxy
	results  string
	readme   string // "": none
	quick    bool
	report   bool
	keep     bool

	services, endpoints int            // the cluster of the section control
	rounds              int            // in which every proxy has its turn
	seldom              map[string]int // in how many rounds a part is measured that takes long
	changes             int            // of one endpoint, by each proxy
	budget              time.Duration  // for what one proxy takes for a part, in one round
	busy                time.Duration  // how long a hundred changes a second go on
	rest                time.Duration  // after work, before memory is looked at
	patience            time.Duration  // after which a start counts as failed
	sizes               []int          // of the sweep
	sizeEndpoints       int            // of each service in the sweep
	large               int            // endpoints of the large service
	roll                int            // endpoints of the service that is rolled
	packetSizes         []int
	packetTime          time.Duration // for each figure about packets
	flows               int           // UDP flows, to see what one takes
	queryTime           time.Duration // for each figure about queries
}

// bench is a run.
type bench struct {
	options
	out, log io.Writer
	dir      string // of this run, for logs
	proxies  []world.Proxy
	unbuilt  []report.Failure // peers that did not build
	versions map[string]string
	run      *report.Run // of the present section
}

// sections say what they take on a quiet machine of two cores, at full size and small; runs that went
// before know better.
var sections = map[string]struct {
	measure       func(*bench, context.Context) error
	table         func([]report.Result) report.Table
	takes, little time.Duration
}{
	"dataplane": {(*bench).dataplane, report.One, 2 * time.Minute, 30 * time.Second},
	"control":   {(*bench).control, report.Side, 13 * time.Minute, 50 * time.Second},
	"sweep":     {(*bench).sweep, report.Side, 6 * time.Minute, 25 * time.Second},
	"large":     {(*bench).largeService, report.Side, 3 * time.Minute, 20 * time.Second},
	"packets":   {(*bench).packets, report.Side, 9 * time.Minute, 30 * time.Second},
	"dns":       {(*bench).dns, report.Side, 6 * time.Minute, 45 * time.Second},
}

// inOrder are the sections that compare proxies.
var inOrder = []string{"control", "sweep", "large", "packets", "dns"}

func compares(section string) bool { return slices.Contains(inOrder, section) }

func parse(args []string, log io.Writer) (options, error) {
	o := options{
		services: 5000, endpoints: 50, rounds: 5, changes: 200, budget: 40 * time.Second, busy: 10 * time.Second, rest: 2 * time.Second, patience: 3 * time.Minute,
		sizes: []int{100, 1000, 5000, 10_000, 50_000}, sizeEndpoints: 10, large: 100_000, roll: 1000,
		seldom:      map[string]int{"roll": 3, "busy": 2, "early": 2},
		packetSizes: []int{1, 100, 10_000}, packetTime: time.Second, flows: 10_000, queryTime: 3 * time.Second,
	}
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(log)
	list := func(to *[]string) func(string) error {
		return func(s string) error { *to = strings.Split(s, ","); return nil }
	}
	numbers := func(to *[]int) func(string) (err error) {
		return func(s string) error {
			*to = nil
			for _, f := range strings.Split(s, ",") {
				n, err := strconv.Atoi(f)
				if err != nil {
					return err
				}
				*to = append(*to, n)
			}
			return nil
		}
	}
	fs.Func("section", "what to measure, of "+names(sections)+"; default: what compares proxies", list(&o.sections))
	fs.Func("part", "parts of the section control, of "+strings.Join(allParts, ", ")+"; default: all", list(&o.parts))
	fs.Func("only", "names of the proxies that take part; default: all", list(&o.only))
	fs.Func("proxy", "another proxy, as `name=command`; can be repeated", func(s string) error {
		name, command, ok := strings.Cut(s, "=")
		if !ok || name == "" || command == "" {
			return fmt.Errorf("want name=command")
		}
		o.others = append(o.others, world.Other(name, command))
		return nil
	})
	fs.StringVar(&o.results, "results", "results", "directory for what is found")
	fs.StringVar(&o.readme, "readme", "", "`file` into which the summary of a whole run at full size goes too, between its marks")
	fs.BoolVar(&o.quick, "quick", false, "small sizes, few rounds")
	fs.BoolVar(&o.report, "report", false, "measure nothing; make tables and pictures from earlier runs")
	fs.BoolVar(&o.keep, "keep", false, "keep heap profiles of Weir, in the directory for temporary files")
	fs.IntVar(&o.services, "services", o.services, "services in the section control")
	fs.IntVar(&o.endpoints, "endpoints", o.endpoints, "endpoints of each")
	fs.IntVar(&o.rounds, "rounds", o.rounds, "rounds in which every proxy has its turn")
	fs.IntVar(&o.changes, "changes", o.changes, "changes of one endpoint by each proxy, over all rounds")
	fs.DurationVar(&o.budget, "budget", o.budget, "what one proxy may take for one part of a round; what is left out is said")
	fs.DurationVar(&o.busy, "busy", o.busy, "how long a hundred changes a second go on")
	fs.Func("sizes", "numbers of services in the section sweep", numbers(&o.sizes))
	fs.IntVar(&o.large, "large", o.large, "endpoints of the service in the section large")
	fs.IntVar(&o.roll, "roll", o.roll, "endpoints of the service that is rolled")
	fs.Func("packet-sizes", "numbers of services in the section packets", numbers(&o.packetSizes))
	fs.DurationVar(&o.packetTime, "packet-time", o.packetTime, "time for each figure about packets")
	fs.DurationVar(&o.queryTime, "query-time", o.queryTime, "time for each figure about queries of names")
	if slices.Contains(args, "--quick") || slices.Contains(args, "-quick") {
		o.small()
	}
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if o.sections == nil {
		o.sections = inOrder
	}
	if o.parts == nil {
		o.parts = allParts
	}
	for _, s := range o.sections {
		if _, ok := sections[s]; !ok {
			return o, fmt.Errorf("no section %q: want some of %s", s, names(sections))
		}
	}
	for _, p := range o.parts {
		if !slices.Contains(allParts, p) {
			return o, fmt.Errorf("no part %q: want some of %s", p, strings.Join(allParts, ", "))
		}
	}
	return o, nil
}

// small makes everything fit into three minutes.
func (o *options) small() {
	o.services, o.endpoints, o.rounds, o.changes = 200, 10, 1, 20
	o.budget, o.busy, o.rest, o.patience = 3*time.Second, 3*time.Second, time.Second/2, 30*time.Second
	o.seldom = map[string]int{"roll": 1, "busy": 1, "early": 1, "restart": 1}
	o.sizes, o.large, o.roll = []int{20, 500}, 1000, 100
	o.packetSizes, o.packetTime, o.flows = []int{100}, 300*time.Millisecond, 2000
	o.queryTime = 500 * time.Millisecond
}

// prepare builds what is needed. A peer that does not build is left out.
func (b *bench) prepare(ctx context.Context) (err error) {
	if b.dir, err = os.MkdirTemp("", fmt.Sprintf("weir-bench-%d-", os.Getpid())); err != nil {
		return err
	}
	weir := filepath.Join(b.dir, "weir")
	b.say("building weir")
	// In its own module, so with its own versions of what it depends on.
	dir, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/weir-project/weir").Output()
	if err != nil {
		return fmt.Errorf("find the source of weir: %w", err)
	}
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", weir, "./cmd/weir")
	build.Dir = strings.TrimSpace(string(dir))
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build weir: %w\n%s", err, text)
	}
	b.proxies = []world.Proxy{world.Weir(weir)}
	peers, err := kubelab.BinDir(ctx, b.log, "etcd", "kube-apiserver")
	if err != nil {
		return err
	}
	b.versions = map[string]string{"weir": revision(ctx), "nft": version(ctx, "nft"),
		"kubernetes": version(ctx, filepath.Join(peers, "kube-apiserver")), "etcd": version(ctx, filepath.Join(peers, "etcd"))}
	if b.wanted("kube-proxy") && slices.ContainsFunc(b.sections, compares) {
		if dir, err := kubelab.BinDir(ctx, b.log, "kube-proxy"); err != nil {
			b.say("kube-proxy is left out: %v", err)
			b.unbuilt = append(b.unbuilt, report.Failure{Section: "build", Proxy: "kube-proxy", Error: err.Error()})
		} else {
			b.proxies = append(b.proxies, world.KubeProxy(filepath.Join(dir, "kube-proxy")))
		}
	}
	b.proxies = append(b.proxies, b.others...)
	b.proxies = slices.DeleteFunc(b.proxies, func(p world.Proxy) bool { return !b.wanted(p.Name) })
	return nil
}

func (b *bench) wanted(proxy string) bool { return b.only == nil || slices.Contains(b.only, proxy) }

// revision is the commit that weir is built from.
func revision(ctx context.Context) string {
	text, err := exec.CommandContext(ctx, "git", "describe", "--tags", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(text))
}

// version is what a command says its version is.
func version(ctx context.Context, command string) string {
	text, err := exec.CommandContext(ctx, command, "--version").Output()
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(text), "\n")
	for _, word := range strings.Fields(first) {
		if strings.ContainsAny(word, "0123456789") {
			return word
		}
	}
	return "unknown"
}
