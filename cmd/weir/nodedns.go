package main

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"github.com/weir-project/weir/dataplane"
	"github.com/weir-project/weir/dns"
	dnsmetrics "github.com/weir-project/weir/dns/metrics"
	"github.com/weir-project/weir/dns/node"
	"github.com/weir-project/weir/endpoints/manifests"
	"github.com/weir-project/weir/internal/config"
	"github.com/weir-project/weir/proxier"
)

const (
	dnsPort = 53
	// retryListen is how long after a failure the sockets are opened again: somebody else may have the
	// address.
	retryListen = 2 * time.Second
	// drainFirst is how long packets may take from the rules to the sockets (what is in these is answered
	// anyway), and drainMost how long is waited for upstreams, when we stop.
	drainFirst = 100 * time.Millisecond
	drainMost  = 3 * time.Second
	// resolvConf has the node's own upstreams.
	resolvConf = "/etc/resolv.conf"
)

// nodeDNS is the cluster's DNS, served on this node at the cluster's address.
type nodeDNS struct {
	logger   klog.Logger
	addrs    []netip.Addr
	names    *nameServer
	keeper   *node.Keeper
	registry *prometheus.Registry
}

// openDNS puts together what serves DNS, if that is asked for.
func (d *daemon) openDNS() error {
	c := d.cfg.Load().DNS
	if len(c.Addrs) == 0 {
		return nil
	}
	n := &nodeDNS{logger: d.logger, addrs: c.Addrs, registry: prometheus.NewRegistry()}
	names := nameConfig{domain: c.Domain, ttl: c.TTL, noPods: c.NoPods, upstreams: c.Upstreams, resolvConf: resolvConf, searchWalk: c.SearchWalk, retry: retryListen}
	for _, a := range c.Addrs {
		names.listen = append(names.listen, netip.AddrPortFrom(a, dnsPort))
	}
	names.prepare = func(ctx context.Context) error { return n.prepare(ctx, d.proxy) }
	names.listening = func([]netip.AddrPort) { n.keeper.Wake() }
	prober := node.Prober{TTL: dataplane.ProbeTTL}
	if c.LogQueries {
		log := logQuery(d.logger)
		names.logQuery = func(q dns.QueryLog) {
			if !prober.Is(q.Client.Addr(), names.listen, q.Name, q.Type) {
				log(q)
			}
		}
	}
	var err error
	if n.names, err = newNameServer(d.logger, d.engine, names); err != nil {
		return err
	}
	if s, ok := d.source.(*manifests.Source); ok && n.names.clients != nil {
		s.Pods = n.names.clients
	}
	prober.Name = "dns-version." + n.names.zone.Domain()
	n.keeper = node.NewKeeper(node.Config{
		Addrs: names.listen, Leases: leases{d.kernel}, Serving: n.names.server.Serving, Probe: prober.Probe, Address: node.EnsureAddress})
	if err := n.names.register(n.registry); err != nil {
		return err
	}
	d.dns = n
	return n.registry.Register(dnsmetrics.NewLeases(n.keeper))
}

// runDNS serves DNS, if that is asked for.
func (d *daemon) runDNS() {
	if d.dns == nil {
		return
	}
	d.group.Go(func() error { return d.dns.run(d.ctx) })
	if d.cluster != nil {
		d.group.Go(func() error { return followConfigMap(d.ctx, d.cluster, d.dns.names) })
		followPods(d.ctx, d.group, d.cluster, d.cfg.Load().NodeName, d.dns.names)
	}
}

// gatherer returns what is counted beside what the process counts; nil: nothing.
func (d *daemon) gatherer() prometheus.Gatherer {
	if d.dns == nil {
		return nil
	}
	return d.dns.registry
}

// prepare waits until the rules are there and puts the addresses on lo.
func (n *nodeDNS) prepare(ctx context.Context, proxy *proxier.Proxier) error {
	if err := proxy.WaitSynced(ctx); err != nil {
		return err
	}
	for _, a := range n.addrs {
		if err := node.EnsureAddress(a); err != nil {
			return err
		}
	}
	return nil
}

// run serves until ctx ends. Then clients are sent elsewhere first, what has come is answered, and the
// sockets are closed last.
func (n *nodeDNS) run(ctx context.Context) error {
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return n.names.run(serving) })
	group.Go(func() error { return node.WatchAddresses(ctx, n.addrs, n.keeper.Wake) })
	group.Go(func() error {
		defer stop()
		if err := n.keeper.Run(ctx); err != nil {
			n.logger.Error(err, "Ending the leases of the DNS address: they have run out instead")
		}
		n.drain()
		return nil
	})
	return group.Wait()
}

// drain waits until what has come is answered.
func (n *nodeDNS) drain() {
	if !n.names.server.Serving() {
		return
	}
	time.Sleep(drainFirst)
	for end := time.Now().Add(drainMost); n.names.server.Stats().Outstanding > 0 && time.Now().Before(end); {
		time.Sleep(drainFirst / 10)
	}
}

// tidyAddresses takes addresses off lo that an earlier process had put there and nobody wants any
// more, once there are no rules for them.
func (d *daemon) tidyAddresses() error {
	if d.proxy.WaitSynced(d.ctx) != nil {
		return nil
	}
	removed, err := node.RemoveAddresses(d.cfg.Load().DNS.Addrs)
	if err != nil {
		d.logger.Error(err, "Taking DNS addresses off lo that are no longer served")
	}
	if len(removed) > 0 {
		d.logger.Info("Took DNS addresses off lo that are no longer served", "addresses", removed)
	}
	return nil
}

// leases are the dataplane's, for sockets.
type leases struct{ kernel *dataplane.Conn }

func (l leases) Renew(ctx context.Context, sockets []node.Socket, d time.Duration) error {
	return l.kernel.Renew(ctx, socketFrontends(sockets), d)
}

func (l leases) Release(ctx context.Context, sockets []node.Socket) error {
	return l.kernel.Release(ctx, socketFrontends(sockets))
}

func socketFrontends(sockets []node.Socket) []dataplane.Frontend {
	var list []dataplane.Frontend
	for _, s := range sockets {
		f := dataplane.Frontend{Addr: s.Addr.Addr(), Port: s.Addr.Port(), Protocol: 17}
		if s.TCP {
			f.Protocol = 6
		}
		list = append(list, f)
	}
	return list
}

// dnsLayout returns what the rules must know of DNS.
func dnsLayout(c config.DNS) dataplane.DNS {
	return dataplane.DNS{Addrs: c.Addrs, Everybody: c.AnswerAll}
}

// readyz says whether this node serves all that it is to: Services, and names if it has a DNS address.
func (d *daemon) readyz() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		code, text := http.StatusOK, ""
		check := func(name string, ok bool, why string) {
			if !ok {
				code = http.StatusServiceUnavailable
				text += fmt.Sprintf("[-]%s: %s\n", name, why)
				return
			}
			text += fmt.Sprintf("[+]%s ok\n", name)
		}
		check("services", d.health.Healthy(), "not everything is programmed")
		if d.dns != nil {
			err := d.dns.keeper.Err()
			check("dns", err == nil, fmt.Sprint(err))
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(code)
		_, _ = w.Write([]byte(text))
	})
}

// healthPages are those of kube-proxy, and /readyz.
func (d *daemon) healthPages() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", d.health.Handler())
	mux.Handle("/readyz", d.readyz())
	return mux
}
