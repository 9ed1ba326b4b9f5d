package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/klog/v2"

	"github.com/weir-project/weir/dataplane"
	"github.com/weir-project/weir/endpoints"
	"github.com/weir-project/weir/endpoints/kube"
	"github.com/weir-project/weir/endpoints/manifests"
	"github.com/weir-project/weir/proxier"
	"github.com/weir-project/weir/proxier/nodeaddrs"
)

// runOptions are the flags of weir run.
type runOptions struct {
	manifests    string
	kubeconfig   string
	master       string
	hostname     string
	nodeIPs      []string
	clusterCIDRs []string
	serviceCIDRs []string
	minSync      time.Duration
	logging      *logsapi.LoggingConfiguration
}

func newRun() *cobra.Command {
	o := runOptions{logging: logsapi.NewLoggingConfiguration()}
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Keep this node's Services in the kernel until told to stop",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := logsapi.ValidateAndApply(o.logging, nil); err != nil {
				return usageError{cmd.CommandPath(), err}
			}
			return o.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.manifests, "manifests", "", "directory of Service, EndpointSlice, Node and ServiceCIDR manifests, instead of an API server")
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig file; without it and --master, the in-cluster configuration is used")
	f.StringVar(&o.master, "master", "", "address of the API server, in place of the kubeconfig's")
	f.StringVar(&o.hostname, "hostname-override", "", "name of this machine's Node object; default: the host name in lower case")
	f.StringSliceVar(&o.nodeIPs, "node-ip", nil, "the node's IP, one of each family at most; default: the Node object's, else the default route's")
	f.StringSliceVar(&o.clusterCIDRs, "cluster-cidr", nil, "CIDRs of the pods, any number: what comes from elsewhere to a cluster IP is masqueraded")
	f.StringSliceVar(&o.serviceCIDRs, "service-cidr", nil, "CIDRs of the cluster IPs, with --manifests where no ServiceCIDR object says so")
	f.DurationVar(&o.minSync, "min-sync-period", 0, "least time between two syncs; 0: at once whenever something changes")
	logsapi.AddFlags(o.logging, f)
	return cmd
}

// parsed is what the flags mean.
type parsed struct {
	node         string
	nodeIPs      []netip.Addr
	clusterCIDRs []netip.Prefix
	serviceCIDRs []netip.Prefix
}

func (o *runOptions) parse() (p parsed, err error) {
	var faults []error
	fault := func(flag, value string, err error) {
		faults = append(faults, fmt.Errorf("--%s %q: %w", flag, value, err))
	}
	p.node = o.hostname
	if p.node == "" {
		if p.node, err = os.Hostname(); err != nil {
			return p, fmt.Errorf("find the host name (--hostname-override gives it): %w", err)
		}
	}
	if p.node = strings.ToLower(strings.TrimSpace(p.node)); p.node == "" {
		fault("hostname-override", o.hostname, errors.New("no name"))
	}
	for _, s := range o.nodeIPs {
		a, err := netip.ParseAddr(s)
		if err != nil {
			fault("node-ip", s, err)
		}
		p.nodeIPs = append(p.nodeIPs, a.Unmap())
	}
	cidrs := func(flag string, values []string) (list []netip.Prefix) {
		for _, s := range values {
			c, err := netip.ParsePrefix(strings.TrimSpace(s))
			if err != nil {
				fault(flag, s, err)
				continue
			}
			list = append(list, c.Masked())
		}
		return list
	}
	p.clusterCIDRs = cidrs("cluster-cidr", o.clusterCIDRs)
	p.serviceCIDRs = cidrs("service-cidr", o.serviceCIDRs)
	if o.manifests != "" && o.kubeconfig+o.master != "" {
		fault("manifests", o.manifests, errors.New("does not go with --kubeconfig or --master: there is one source of Services"))
	}
	if o.manifests == "" && len(p.serviceCIDRs) > 0 {
		fault("service-cidr", strings.Join(o.serviceCIDRs, ","), errors.New("only with --manifests: an API server has ServiceCIDR objects"))
	}
	if o.minSync < 0 {
		fault("min-sync-period", o.minSync.String(), errors.New("is negative"))
	}
	return p, errors.Join(faults...)
}

// run runs the daemon until ctx ends. What it has written stays in the kernel.
func (o *runOptions) run(ctx context.Context) error {
	p, err := o.parse()
	if err != nil {
		return usageError{"weir run", err}
	}
	logger := klog.FromContext(ctx)
	logger.Info("Starting", "version", version, "node", p.node)

	engine := endpoints.New(endpoints.Config{NodeName: p.node})
	conn, err := dataplane.Open(ctx, dataplane.Config{
		Layout: dataplane.Layout{Local: dataplane.LocalDetection{CIDRs: p.clusterCIDRs}},
		NoIPv6: !hasIPv6(),
	})
	if err != nil {
		return err
	}
	defer func() {
		if err := conn.Close(); err != nil {
			logger.Error(err, "Closing the connection to nf_tables")
		}
	}()
	logger.V(1).Info("The kernel has what is needed", "families", conn.Families(), "ownedTables", conn.Owned())

	source, reporter, err := o.source(ctx, p, engine)
	if err != nil {
		return err
	}
	machine, err := nodeaddrs.List(0)
	if err != nil {
		return err
	}
	addresses := &nodeAddresses{override: p.nodeIPs, fallback: primaryAddrs, logger: logger, machine: machine}
	proxy, err := proxier.New(proxier.Config{
		Source:        engine,
		Kernel:        conn,
		Reporter:      reporter,
		Observer:      observer{addresses},
		MinSyncPeriod: o.minSync,
	})
	if err != nil {
		return err
	}
	addresses.set = proxy.SetNodeAddrs
	addresses.setMachine(machine)

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return source.Run(ctx) })
	group.Go(func() error { return proxy.Run(ctx) })
	group.Go(func() error { return nodeaddrs.Watch(ctx, 0, addresses.setMachine) })
	group.Go(func() error {
		return conn.Watch(ctx, func(reason string) {
			logger.Info("Somebody else changed the ruleset: repairing it", "reason", reason)
			proxy.Invalidate()
		})
	})
	err = group.Wait()
	logger.Info("Stopped; the rules stay in the kernel (weir cleanup removes them)")
	return err
}

func primaryAddrs() ([]netip.Addr, error) { return nodeaddrs.Primary(0) }

// hasIPv6 reports whether the network namespace has IPv6 at all.
func hasIPv6() bool {
	b, err := os.ReadFile("/proc/sys/net/ipv6/conf/all/disable_ipv6")
	return err == nil && strings.TrimSpace(string(b)) == "0"
}

// observer passes on what the sync loop tells.
type observer struct {
	addresses *nodeAddresses
}

func (o observer) SyncDone(proxier.SyncReport)      {}
func (o observer) NodeChanged(node *endpoints.Node) { o.addresses.setNode(node) }

// runner is a source of Services.
type runner interface{ Run(context.Context) error }

// source returns where Services come from, and who is told of what is wrong with them.
func (o *runOptions) source(ctx context.Context, p parsed, sink endpoints.Sink) (runner, endpoints.Reporter, error) {
	if o.manifests != "" {
		reporter := newProblemLog(klog.FromContext(ctx), nil)
		return manifests.NewSource(manifests.Config{
			Dir: o.manifests, Sink: sink, Reporter: reporter, NodeName: p.node, ServiceCIDRs: p.serviceCIDRs,
			Primary: func() []netip.Addr { addrs, _ := primaryAddrs(); return addrs },
		}), reporter, nil
	}
	config, err := kube.RESTConfig(o.kubeconfig, o.master)
	if err != nil {
		return nil, nil, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, nil, fmt.Errorf("API server %s: %w", config.Host, err)
	}
	recorder, err := newRecorder(ctx, client)
	if err != nil {
		return nil, nil, fmt.Errorf("send events: %w", err)
	}
	reporter := newProblemLog(klog.FromContext(ctx), problemEvent(recorder))
	return kube.NewSource(kube.Config{Client: client, NodeName: p.node, Sink: sink, Reporter: reporter}), reporter, nil
}
