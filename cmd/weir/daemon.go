package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/events"
	"k8s.io/component-base/configz"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/klog/v2"

	"github.com/weir-project/weir/dataplane"
	"github.com/weir-project/weir/endpoints"
	"github.com/weir-project/weir/endpoints/kube"
	"github.com/weir-project/weir/endpoints/manifests"
	"github.com/weir-project/weir/inspect"
	"github.com/weir-project/weir/internal/config"
	"github.com/weir-project/weir/proxier"
	"github.com/weir-project/weir/proxier/conntrack"
	"github.com/weir-project/weir/proxier/health"
	"github.com/weir-project/weir/proxier/metrics"
	"github.com/weir-project/weir/proxier/nodeaddrs"
)

// daemon is everything that runs, wired together. It lasts from one configuration to the next.
type daemon struct {
	ctx    context.Context
	group  *errgroup.Group
	logger klog.Logger
	flags  *pflag.FlagSet // for /flagz
	cfg    atomic.Pointer[config.Config]

	engine    *endpoints.Engine
	source    runner
	from      string       // what the source reads, for people
	cluster   *kube.Source // the source, if it is an API server
	kernel    *dataplane.Conn
	proxy     *proxier.Proxier
	addresses *nodeAddresses
	flows     *conntrack.Conn
	cleaner   *conntrack.Cleaner
	checks    *health.ServiceServers
	health    *health.Proxy
	metrics   *metrics.Recorder
	inspector *inspect.Inspector
	events    events.EventRecorder // nil: nobody takes events
	families  []endpoints.Family
	dns       *nodeDNS // nil: not served here
}

// runner is a source of Services.
type runner interface{ Run(context.Context) error }

// recorder is registered once in the life of the process, whatever becomes of the daemon.
var recorder *metrics.Recorder

// newDaemon opens what has to be there and writes nothing yet.
func newDaemon(ctx context.Context, cfg *config.Config, flags *pflag.FlagSet) (*daemon, error) {
	d := &daemon{logger: klog.FromContext(ctx), flags: flags}
	d.group, d.ctx = errgroup.WithContext(ctx)
	d.cfg.Store(cfg)
	d.logger.Info("Starting", "version", version, "node", cfg.NodeName)
	d.engine = endpoints.New(endpoints.Config{NodeName: cfg.NodeName})

	reporter, err := d.openSource()
	if err != nil {
		return nil, err
	}
	if d.kernel, err = dataplane.Open(ctx, dataplane.Config{Layout: layout(cfg), NoIPv6: !hasIPv6(), Sent: d.sent}); err != nil {
		return nil, err
	}
	if err := d.assemble(reporter); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

// familyNamed are the families by their names in nftables.
var familyNamed = map[string]endpoints.Family{"ip": endpoints.IPv4, "ip6": endpoints.IPv6}

// assemble puts together what works between the source and the kernel.
func (d *daemon) assemble(reporter endpoints.Reporter) (err error) {
	cfg := d.cfg.Load()
	for _, name := range d.kernel.Families() {
		d.families = append(d.families, familyNamed[name])
	}
	d.logger.V(1).Info("The kernel has what is needed", "families", d.kernel.Families(), "ownedTables", d.kernel.Owned())
	if recorder == nil {
		recorder = metrics.NewRecorder(d.families, legacyregistry.MustRegister)
	}
	d.metrics = recorder

	if d.flows, err = conntrack.Open(conntrack.Config{ResetTCP: cfg.ResetStaleTCP}); err != nil {
		return err
	}
	d.cleaner = conntrack.NewCleaner(d.flows, conntrack.CleanerConfig{Observe: d.flowsCleaned})
	d.health = health.NewProxy(health.ProxyConfig{
		Families: d.families, Timeout: 2 * cfg.SyncPeriod, Healthz: d.metrics.Healthz, Livez: d.metrics.Livez})
	d.checks = health.NewServiceServers(health.ServiceConfig{Healthy: d.health.Healthy, Failed: d.checkFailed})

	machine, err := nodeaddrs.List(0, cfg.DNS.Addrs...)
	if err != nil {
		return err
	}
	d.addresses = &nodeAddresses{
		override: cfg.NodeIPs, fallback: d.primaryAddrs, nodePort: cfg.NodePortAddresses, logger: d.logger, machine: machine}
	d.proxy, err = proxier.New(proxier.Config{
		Source: d.engine, Kernel: d.kernel, Reporter: reporter, Observer: d, Flows: d.cleaner.Wants,
		NoIPv6: !slices.Contains(d.families, endpoints.IPv6), NoExternalIPs: !cfg.Enabled("AllowServiceExternalIPs"), MinSyncPeriod: cfg.MinSyncPeriod})
	if err != nil {
		return err
	}
	d.addresses.set = d.proxy.SetNodeAddrs
	d.addresses.checks = d.checks.SetAddrs
	d.addresses.setMachine(machine)
	d.inspector = inspect.New(d.inspected())
	return d.openDNS()
}

// openSource finds out where Services come from, and returns who is told of what is wrong with
// them.
func (d *daemon) openSource() (endpoints.Reporter, error) {
	cfg := d.cfg.Load()
	s := cfg.Source
	if s.Manifests != "" {
		reporter := newProblemLog(d.logger, nil)
		d.from = "the directory " + s.Manifests
		d.source = manifests.NewSource(manifests.Config{
			Dir: s.Manifests, Sink: d.engine, Reporter: reporter, NodeName: cfg.NodeName, ServiceCIDRs: s.ServiceCIDRs,
			Primary: func() []netip.Addr { addrs, _ := d.primaryAddrs(); return addrs }, // addresses tells of an error
			DNS:     len(cfg.DNS.Addrs) > 0,
		})
		return reporter, nil
	}
	rest, err := kube.RESTConfig(s.Kubeconfig, s.Master)
	if err != nil {
		return nil, err
	}
	rest.QPS, rest.Burst = s.QPS, s.Burst
	if s.ContentType != "" {
		rest.ContentType = s.ContentType
	}
	if s.AcceptContentTypes != "" {
		rest.AcceptContentTypes = s.AcceptContentTypes
	}
	d.from = "the API server " + withoutPassword(rest.Host)
	client, err := kubernetes.NewForConfig(rest)
	if err != nil {
		return nil, fmt.Errorf("API server %s: %w", rest.Host, err)
	}
	if d.events, err = newRecorder(d.ctx, client); err != nil {
		return nil, fmt.Errorf("send events: %w", err)
	}
	reporter := newProblemLog(d.logger, problemEvent(d.events))
	d.cluster = kube.NewSource(kube.Config{
		Client: client, NodeName: cfg.NodeName, Sink: d.engine, Reporter: reporter, DNS: len(cfg.DNS.Addrs) > 0})
	d.source = d.cluster
	return reporter, nil
}

// run runs everything until the daemon's context ends or something fails.
func (d *daemon) run() error {
	defer d.close()
	if err := d.countConnections(); err != nil {
		return err
	}
	cfg := d.cfg.Load()
	serve := func(s health.Server) { d.group.Go(func() error { return s.Run(d.ctx) }) }
	serve(health.Server{Name: "healthz", Addr: address(cfg.HealthzAddress), Handler: d.healthPages(),
		HardFail: cfg.BindAddressHardFail, Failed: d.nodeEvent("FailedToStartProxierHealthcheck")})
	serve(health.Server{Name: "metrics", Addr: address(cfg.MetricsAddress), HardFail: cfg.BindAddressHardFail,
		Handler: metrics.Mux(metrics.Config{Version: version, Profiling: cfg.Profiling, Flags: d.flagz(), NoStatusz: !cfg.Enabled("ComponentStatusz"), Gatherer: d.gatherer()}),
		Failed:  d.nodeEvent("FailedToStartMetricServer")})

	serve(health.Server{Name: "web", Addr: address(cfg.WebAddress), HardFail: cfg.BindAddressHardFail, Handler: d.page(),
		WriteTimeout: 30 * time.Second})
	if cfg.Socket != "" {
		control := inspect.Server{Path: cfg.Socket, Handler: d.inspector.Handler()}
		d.group.Go(func() error { return control.Run(d.ctx) })
	}

	d.showConfig()
	d.group.Go(func() error { return d.source.Run(d.ctx) })
	d.group.Go(func() error { return d.proxy.Run(d.ctx) })
	d.group.Go(func() error { return d.cleaner.Run(d.ctx) })
	d.group.Go(func() error { return d.checks.Run(d.ctx) })
	d.group.Go(func() error { return nodeaddrs.Watch(d.ctx, 0, d.addresses.setMachine, cfg.DNS.Addrs...) })
	d.group.Go(func() error { return d.kernel.Watch(d.ctx, d.rulesetChanged) })
	d.group.Go(d.takeOver)
	d.group.Go(d.tidyAddresses)
	d.group.Go(d.countAffinity)
	d.runDNS()
	if d.events != nil {
		d.events.Eventf(d.nodeReference(), nil, v1.EventTypeNormal, "Starting", "StartWeir", "")
	}
	return d.group.Wait()
}

// close lets go of the kernel. What was written stays.
func (d *daemon) close() {
	if d.flows != nil {
		if err := d.flows.Close(); err != nil {
			d.logger.Error(err, "Closing the connection to conntrack")
		}
	}
	if err := d.kernel.Close(); err != nil {
		d.logger.Error(err, "Closing the connection to nf_tables")
	}
}

// address returns a bind address as text, "" if nothing is to be served.
func address(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// flagz returns what /flagz shows, nil if it is not to be.
func (d *daemon) flagz() *pflag.FlagSet {
	if !d.cfg.Load().Enabled("ComponentFlagz") {
		return nil
	}
	return d.flags
}

// showConfig puts the configuration in force on /configz.
func (d *daemon) showConfig() {
	const name = "kubeproxy.config.k8s.io"
	configz.Delete(name)
	page, err := configz.New(name)
	if err != nil {
		d.logger.Error(err, "Showing the configuration on /configz")
		return
	}
	page.Set(d.cfg.Load().KubeProxy())
}

// apply takes up a changed configuration as far as it can while running, and reports whether the
// rest takes a restart.
func (d *daemon) apply(cfg *config.Config) (restart bool) {
	live, rest := config.Diff(d.cfg.Load(), cfg)
	if len(rest) > 0 {
		d.logger.Info("The configuration has changed: starting again", "fields", rest)
		return true
	}
	d.logger.Info("The configuration has changed", "fields", live)
	d.cfg.Store(cfg)
	d.showConfig()
	d.addresses.setPolicy(cfg.NodePortAddresses)
	d.proxy.SetMinSyncPeriod(cfg.MinSyncPeriod)
	if err := cfg.ApplyLogLevel(); err != nil {
		d.logger.Error(err, "Changing the log level")
	}
	if slices.ContainsFunc(live, func(f string) bool { return strings.HasPrefix(f, "conntrack") || f == "oomScoreAdj" }) {
		if err := initialize(cfg); err != nil {
			d.logger.Error(err, "Setting kernel parameters")
		}
	}
	return false
}

// rulesetChanged is told when somebody else has written to our tables.
func (d *daemon) rulesetChanged(reason string) {
	d.logger.Info("Somebody else changed the ruleset: repairing it", "reason", reason)
	d.metrics.ForeignChange()
	d.proxy.Invalidate()
}

func (d *daemon) primaryAddrs() ([]netip.Addr, error) {
	return nodeaddrs.Primary(0, d.cfg.Load().DNS.Addrs...)
}

// hasIPv6 reports whether the network namespace has IPv6 at all.
func hasIPv6() bool {
	b, err := os.ReadFile("/proc/sys/net/ipv6/conf/all/disable_ipv6")
	return err == nil && strings.TrimSpace(string(b)) == "0"
}
