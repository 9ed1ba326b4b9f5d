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
	searchWalk         bool
	node               string
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
	f.BoolVar(&o.searchWalk, "search-walk", false, "follow the pods on --node-name, and answer the first name of a walk through their search lists with its end")
	f.StringVar(&o.node, "node-name", "", "`name` of the node whose pods ask, for --search-walk")
	f.StringVar(&o.metrics, "metrics-bind-address", "127.0.0.1:9153", "address of /metrics and /ready; \"\": none")
}

// complete reads the flags.
func (o *dnsOptions) complete() (nameConfig, error) {
	c := nameConfig{domain: o.domain, ttl: time.Duration(o.ttl) * time.Second, noPods: o.pods == "disabled", resolvConf: o.resolvConf, searchWalk: o.searchWalk}
	if o.manifests != "" && o.kubeconfig+o.master != "" {
		return c, fmt.Errorf("--manifests and an API server: one of the two")
	}
	if o.searchWalk && o.node == "" {
		return c, fmt.Errorf("--search-walk: whose pods ask, --node-name has to say")
	}
	for _, s := range o.listen {
		a, err := netip.ParseAddrPort(s)
		if err != nil {
			return c, fmt.Errorf("--listen %q: not an address with a port", s)
		}
		c.listen = append(c.listen, a)
	}
	if len(c.listen) == 0 {
		return c, fmt.Errorf("--listen: an address is needed")
	}
	for _, s := range o.upstreams {
		a, err := forward.ParseUpstream(s)
		if err != nil {
			return c, fmt.Errorf("--upstream: %w", err)
		}
		c.upstreams = append(c.upstreams, a)
	}
	if o.pods != "insecure" && o.pods != "disabled" {
		return c, fmt.Errorf("--pods %q: neither insecure nor disabled", o.pods)
	}
	return c, nil
}

func (o *dnsOptions) run(cmd *cobra.Command) error {
	logger := klog.FromContext(cmd.Context())
	config, err := o.complete()
	if err != nil {
		return usageError{cmd.CommandPath(), err}
	}
	if o.logQueries {
		config.logQuery = logQuery(logger)
	}
	engine := endpoints.New(endpoints.Config{})
	names, err := newNameServer(logger, engine, config)
	if err != nil {
		return usageError{cmd.CommandPath(), err}
	}
	registry := prometheus.NewRegistry()
	if err := names.register(registry); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(cmd.Context())
	if err := o.follow(ctx, group, engine, names); err != nil {
		return err
	}
	group.Go(func() error { return names.run(ctx) })
	pages := http.NewServeMux()
	gather := prometheus.Gatherers{legacyregistry.DefaultGatherer, registry}
	pages.Handle("/metrics", promhttp.HandlerFor(gather, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
	pages.Handle("/ready", dnsmetrics.Ready(names.server))
	web := health.Server{Name: "metrics", Addr: o.metrics, Handler: pages}
	group.Go(func() error { return web.Run(ctx) })
	return group.Wait()
}

// follow has the engine told of Services, and the forwarder of the cluster's own wishes.
func (o *dnsOptions) follow(ctx context.Context, group *errgroup.Group, engine *endpoints.Engine, names *nameServer) error {
	logger := klog.FromContext(ctx)
	reporter := newProblemLog(logger, nil)
	if o.manifests != "" {
		config := manifests.Config{Dir: o.manifests, Sink: engine, Reporter: reporter, NodeName: o.node, DNS: true}
		if names.clients != nil {
			config.Pods = names.clients
		}
		source := manifests.NewSource(config)
		group.Go(func() error { return source.Run(ctx) })
		return nil
	}
	rest, err := kube.RESTConfig(o.kubeconfig, o.master)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(rest)
	if err != nil {
		return fmt.Errorf("API server %s: %w", rest.Host, err)
	}
	source := kube.NewSource(kube.Config{Client: client, Sink: engine, Reporter: reporter, DNS: true, NamesOnly: true})
	group.Go(func() error { return source.Run(ctx) })
	group.Go(func() error { return followConfigMap(ctx, source, names) })
	followPods(ctx, group, source, o.node, names)
	return nil
}

// followConfigMap has a server's upstreams follow the ConfigMap that the cluster has for it.
func followConfigMap(ctx context.Context, source *kube.Source, names *nameServer) error {
	logger := klog.FromContext(ctx)
	return source.FollowConfigMap(ctx, "kube-system", "kube-dns", func(data map[string]string) { names.configMap(logger, data) })
}
