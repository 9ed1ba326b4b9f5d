package main

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"github.com/weir-project/weir/dns"
	"github.com/weir-project/weir/dns/forward"
	dnsmetrics "github.com/weir-project/weir/dns/metrics"
	"github.com/weir-project/weir/endpoints"
	"github.com/weir-project/weir/endpoints/kube"
)

// nameConfig says how names are answered, as flags have it.
type nameConfig struct {
	domain     string
	ttl        time.Duration
	noPods     bool
	listen     []netip.AddrPort // at least one
	upstreams  []netip.AddrPort // empty: those of resolvConf
	resolvConf string
	// searchWalk says that the pods of this node are followed: the first name of a walk through their
	// search lists is answered with the walk's end.
	searchWalk bool
	// logQuery is told of every query. Nil: nobody is.
	logQuery func(dns.QueryLog)
	// listening is called whenever the sockets have been opened. Nil: nobody is.
	listening func([]netip.AddrPort)
	// prepare is called before the sockets are opened, once the zone is complete. Nil: there is nothing
	// to prepare.
	prepare func(context.Context) error
	// retry is how long after a failure the sockets are opened again. 0: a failure is the end.
	retry time.Duration
}

// nameServer is all that answers names, put together: the zone, who is asked for other names, the
// sockets, and what they count. weir dns and weir run have the same one.
type nameServer struct {
	cfg       nameConfig
	zone      *dns.Zone
	names     *endpoints.Subscription
	forwarder *forward.Forwarder
	server    *dns.Server
	clients   *dns.Clients // nil: pods are not followed

	recorder   *dnsmetrics.Recorder
	forwarding *dnsmetrics.Forwarding
}

// newNameServer makes a server of the names that an engine holds. It listens once it runs and the
// engine has heard of everything.
func newNameServer(logger klog.Logger, engine *endpoints.Engine, cfg nameConfig) (*nameServer, error) {
	n := &nameServer{cfg: cfg}
	var servers []netip.Addr
	for _, a := range cfg.listen {
		if !a.Addr().IsUnspecified() {
			servers = append(servers, a.Addr())
		}
	}
	var err error
	n.zone, err = dns.NewZone(dns.Config{Domain: cfg.domain, TTL: cfg.ttl, ZeroTTL: cfg.ttl == 0, NoPods: cfg.noPods, Servers: servers})
	if err != nil {
		return nil, err
	}
	n.names = engine.Subscribe()
	label := cfg.listen[0].String()
	n.forwarding = dnsmetrics.NewForwarding(label)
	options := forward.Options{ResolvConf: cfg.resolvConf, Listen: cfg.listen, Observer: n.forwarding, Logger: logger}
	if cfg.searchWalk {
		n.clients = dns.NewClients(n.zone)
		options.Search = n.clients.SetNode
	}
	n.forwarder = forward.New(options, n.upstreams())
	n.forwarding.Of(n.forwarder)
	n.server = dns.NewServer(dns.ServerConfig{
		Zone: n.zone, Forwarder: n.forwarder, Clients: n.clients, Listen: cfg.listen, LogQuery: cfg.logQuery, Listening: cfg.listening})
	n.recorder = dnsmetrics.NewRecorder(n.server, label)
	return n, nil
}

// upstreams returns who is asked for other names, as far as the flags say.
func (n *nameServer) upstreams() forward.Config { return forward.Config{Upstreams: n.cfg.upstreams} }

// configMap is told what the ConfigMap kube-system/kube-dns says.
func (n *nameServer) configMap(logger klog.Logger, data map[string]string) {
	over, err := forward.ParseKubeDNSConfigMap(data)
	if err != nil {
		logger.Error(err, "ConfigMap kube-system/kube-dns: not all of it can be used")
	}
	n.forwarder.Set(n.upstreams().Override(over))
}

// register shows what is counted.
func (n *nameServer) register(r prometheus.Registerer) error {
	for _, c := range []prometheus.Collector{n.recorder, n.forwarding} {
		if err := r.Register(c); err != nil {
			return fmt.Errorf("show what DNS counts: %w", err)
		}
	}
	return nil
}

// run keeps the zone up to date and answers until ctx ends.
func (n *nameServer) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return n.forwarder.Run(ctx) })
	group.Go(func() error { return n.zone.Run(ctx, n.names, n.recorder.Updated) })
	group.Go(func() error { return n.serve(ctx) })
	return group.Wait()
}

// serve has the server answer, again and again if that is wanted.
func (n *nameServer) serve(ctx context.Context) error {
	for told := ""; ; {
		err := n.serveOnce(ctx)
		if err == nil || ctx.Err() != nil {
			return nil
		}
		if n.cfg.retry == 0 {
			return err
		}
		if err.Error() != told {
			klog.FromContext(ctx).Error(err, "Names are not served here", "retry", n.cfg.retry)
			told = err.Error()
		}
		select {
		case <-ctx.Done():
		case <-time.After(n.cfg.retry):
		}
	}
}

func (n *nameServer) serveOnce(ctx context.Context) error {
	if n.cfg.prepare != nil {
		select {
		case <-n.zone.Ready():
		case <-ctx.Done():
			return nil
		}
		if err := n.cfg.prepare(ctx); err != nil {
			return err
		}
	}
	return n.server.Run(ctx)
}

// logQuery returns what writes a line for each query.
func logQuery(logger klog.Logger) func(dns.QueryLog) {
	return func(q dns.QueryLog) {
		logger.Info("Query", "client", q.Client, "tcp", q.TCP, "name", q.Name, "type", q.Type, "to", q.To, "rcode", q.Rcode)
	}
}

// followPods has a server know the search lists of the pods on a node, if it wants to.
func followPods(ctx context.Context, group *errgroup.Group, source *kube.Source, node string, names *nameServer) {
	if names.clients != nil {
		group.Go(func() error { return source.FollowPods(ctx, node, names.clients) })
	}
}
