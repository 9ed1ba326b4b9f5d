package main

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/klog/v2"

	"github.com/weir-project/weir/dns"
	"github.com/weir-project/weir/dns/forward"
	dnsmetrics "github.com/weir-project/weir/dns/metrics"
	"github.com/weir-project/weir/endpoints"
	"github.com/weir-project/weir/endpoints/kube"
	"github.com/weir-project/weir/endpoints/manifests"
	"github.com/weir-project/weir/proxier/health"
)

// dnsOptions are the flags of weir dns.
type dnsOptions struct {
	kubeconfig, master string
	manifests          string
	listen             []string
	upstreams          []string
	resolvConf         string
	domain             string
	ttl                uint32
	pods               string
	metrics            string
	logQueries         bool
}

func newDNS() *cobra.Command {
	o := &dnsOptions{}
	cmd := &cobra.Command{
		Use:   "dns",
		Short: "Answer the cluster's names, and nothing else",
		Long: `Answer the cluster's names, and nothing else.

Serves DNS for Services, and asks upstreams for all other names. It needs neither root nor
nftables, and listens once it knows all there is to know.`,
		Example: `  weir dns --kubeconfig ~/.kube/config --listen 127.0.0.1:5300
  weir dns --manifests ./manifests --listen 127.0.0.1:5300 --upstream 127.0.0.1:5400`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	o.addFlags(cmd.Flags())
	return cmd
}

func (o *dnsOptions) addFlags(f *pflag.FlagSet) {
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig `file` that says how to talk to the API server; without it, as pods do")
	f.StringVar(&o.master, "master", "", "address of the API server, before that in the kubeconfig")
	f.StringVar(&o.manifests, "manifests", "", "`directory` of manifests to follow, instead of an API server")
	f.StringSliceVar(&o.listen, "listen", []string{"127.0.0.1:53"}, "addresses to answer at, over UDP and TCP")
	f.StringSliceVar(&o.upstreams, "upstream", nil, "servers to ask for other names; without any, those of --resolv-conf")
	f.StringVar(&o.resolvConf, "resolv-conf", "/etc/resolv.conf", "`file` with the servers to ask for other names; followed")
	f.StringVar(&o.domain, "cluster-domain", "cluster.local", "the cluster's domain")
	f.Uint32Var(&o.ttl, "ttl", 5, "`seconds` for which clients may remember an answer")
	f.StringVar(&o.pods, "pods", "insecure", "names of pods by their addresses: insecure (whatever the address, in namespaces that exist) or disabled")
	f.BoolVar(&o.logQueries, "log-queries", false, "log every query")
	f.StringVar(&o.metrics, "metrics-bind-address", "127.0.0.1:9153", "address of /metrics and /ready; \"\": none")
}

// dnsCommand is weir dns with its flags read.
type dnsCommand struct {
	*dnsOptions
	listen    []netip.AddrPort
	upstreams []netip.AddrPort
	zone      *dns.Zone
}

// complete reads the flags.
func (o *dnsOptions) complete() (*dnsCommand, error) {
	c := &dnsCommand{dnsOptions: o}
	if o.manifests != "" && o.kubeconfig+o.master != "" {
		return nil, fmt.Errorf("--manifests and an API server: one of the two")
	}
	var servers []netip.Addr
	for _, s := range o.listen {
		a, err := netip.ParseAddrPort(s)
		if err != nil {
			return nil, fmt.Errorf("--listen %q: not an address with a port", s)
		}
		c.listen = append(c.listen, a)
		if !a.Addr().IsUnspecified() {
			servers = append(servers, a.Addr())
		}
	}
	for _, s := range o.upstreams {
		a, err := forward.ParseUpstream(s)
		if err != nil {
			return nil, fmt.Errorf("--upstream: %w", err)
		}
		c.upstreams = append(c.upstreams, a)
	}
	if o.pods != "insecure" && o.pods != "disabled" {
		return nil, fmt.Errorf("--pods %q: neither insecure nor disabled", o.pods)
	}
	zone := dns.Config{Domain: o.domain, TTL: time.Duration(o.ttl) * time.Second, NoPods: o.pods == "disabled", Servers: servers, ZeroTTL: o.ttl == 0}
	var err error
	c.zone, err = dns.NewZone(zone)
	return c, err
}

func (o *dnsOptions) run(cmd *cobra.Command) error {
	c, err := o.complete()
	if err != nil {
		return usageError{cmd.CommandPath(), err}
	}
	group, ctx := errgroup.WithContext(cmd.Context())
	engine := endpoints.New(endpoints.Config{})
	names := engine.Subscribe()
	forwarding := dnsmetrics.NewForwarding(c.listen[0].String())
	forwarder := forward.New(forward.Options{ResolvConf: o.resolvConf, Listen: c.listen, Observer: forwarding, Logger: klog.FromContext(ctx)}, c.forwarding())
	forwarding.Of(forwarder)
	if err := c.follow(ctx, group, engine, forwarder); err != nil {
		return err
	}
	config := dns.ServerConfig{Zone: c.zone, Forwarder: forwarder, Listen: c.listen}
	if o.logQueries {
		config.LogQuery = logQuery(klog.FromContext(ctx))
	}
	server := dns.NewServer(config)
	recorder := dnsmetrics.NewRecorder(server, c.listen[0].String())
	registry := prometheus.NewRegistry()
	registry.MustRegister(recorder, forwarding)

	group.Go(func() error { return forwarder.Run(ctx) })
	group.Go(func() error { return c.zone.Run(ctx, names, recorder.Updated) })
	group.Go(func() error { return server.Run(ctx) })
	pages := http.NewServeMux()
	gather := prometheus.Gatherers{legacyregistry.DefaultGatherer, registry}
	pages.Handle("/metrics", promhttp.HandlerFor(gather, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
	pages.Handle("/ready", dnsmetrics.Ready(server))
	web := health.Server{Name: "metrics", Addr: o.metrics, Handler: pages}
	group.Go(func() error { return web.Run(ctx) })
	return group.Wait()
}

// logQuery returns what writes a line for each query.
func logQuery(logger klog.Logger) func(dns.QueryLog) {
	return func(q dns.QueryLog) {
		logger.Info("Query", "client", q.Client, "tcp", q.TCP, "name", q.Name, "type", q.Type, "to", q.To, "rcode", q.Rcode)
	}
}

// forwarding returns who is asked for other names, as far as the flags say.
func (c *dnsCommand) forwarding() forward.Config { return forward.Config{Upstreams: c.upstreams} }

// follow has the engine told of Services, and the forwarder of the cluster's own wishes.
func (c *dnsCommand) follow(ctx context.Context, group *errgroup.Group, engine *endpoints.Engine, forwarder *forward.Forwarder) error {
	logger := klog.FromContext(ctx)
	reporter := newProblemLog(logger, nil)
	if c.manifests != "" {
		source := manifests.NewSource(manifests.Config{Dir: c.manifests, Sink: engine, Reporter: reporter, DNS: true})
		group.Go(func() error { return source.Run(ctx) })
		return nil
	}
	rest, err := kube.RESTConfig(c.kubeconfig, c.master)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(rest)
	if err != nil {
		return fmt.Errorf("API server %s: %w", rest.Host, err)
	}
	source := kube.NewSource(kube.Config{Client: client, Sink: engine, Reporter: reporter, DNS: true, NamesOnly: true})
	group.Go(func() error { return source.Run(ctx) })
	group.Go(func() error {
		return source.FollowConfigMap(ctx, "kube-system", "kube-dns", func(data map[string]string) {
			over, err := forward.ParseKubeDNSConfigMap(data)
			if err != nil {
				logger.Error(err, "ConfigMap kube-system/kube-dns: not all of it can be used")
			}
			forwarder.Set(c.forwarding().Override(over))
		})
	})
	return nil
}
