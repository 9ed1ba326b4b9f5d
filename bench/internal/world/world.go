package world

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-project/weir/bench/internal/wire"
	"github.com/weir-project/weir/internal/kubelab"
	"github.com/weir-project/weir/internal/netlab"
)

// Ports of the pod that is every endpoint.
const (
	GreetPort = 8080
	SinkPort  = 8081
)

// endpointNet is where all endpoints are. Its upper end is for endpoints of services of our own.
var (
	endpointNet = netip.MustParsePrefix("100.64.0.0/10")
	ownNet      = netip.MustParseAddr("100.112.0.0")
)

// ownAddrs is how many addresses there are from ownNet on.
const ownAddrs = 1 << 20

// World is the scene. Its hosts are the node, where proxies run, a pod that is the client, and a
// pod that is every endpoint.
type World struct {
	Node, Client *netlab.Host
	Cluster      *kubelab.Cluster
	Sink         *wire.Sink

	lab      *netlab.Lab
	closers  []io.Closer
	dir      string // for logs
	services int    // in the cluster
}

// New builds an empty world. Logs of proxies go to dir, progress to log.
func New(ctx context.Context, dir string, log io.Writer) (*World, error) {
	w := &World{dir: dir}
	if err := w.build(ctx, log); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

func (w *World) build(ctx context.Context, log io.Writer) (err error) {
	w.lab, err = netlab.New(netlab.Config{LocalPods: []string{"client", "backend"}, RemotePods: []string{}, Clients: []string{"outside"}})
	if err != nil {
		return err
	}
	w.closers = append(w.closers, w.lab)
	w.Node, w.Client = w.lab.Host("node"), w.lab.Host("client")
	if err := w.addEndpoints(w.lab.Host("backend")); err != nil {
		return err
	}
	// Connections that were reset would fill the table at a rate at which no cluster makes them.
	if err := w.Node.Sysctl("net/netfilter/nf_conntrack_tcp_timeout_close", "1"); err != nil {
		return err
	}
	if w.Cluster, err = kubelab.Start(ctx, kubelab.Config{Host: w.Node, Log: log}); err != nil {
		return err
	}
	w.closers = append(w.closers, w.Cluster)
	return w.addNode(ctx)
}

// addEndpoints makes a pod the endpoint at every address.
func (w *World) addEndpoints(pod *netlab.Host) (err error) {
	dst := &net.IPNet{IP: endpointNet.Addr().AsSlice(), Mask: net.CIDRMask(endpointNet.Bits(), 32)}
	err = w.Node.Do(func() error {
		link, err := netlink.LinkByName("veth" + pod.Name)
		if err != nil {
			return err
		}
		// By way of the pod's own address: one neighbour, not one for each endpoint.
		return netlink.RouteAdd(&netlink.Route{Dst: dst, LinkIndex: link.Attrs().Index, Gw: pod.Addr4.AsSlice(), Flags: int(netlink.FLAG_ONLINK)})
	})
	if err != nil {
		return fmt.Errorf("route endpoints to %s: %w", pod.Name, err)
	}
	err = pod.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		local := &netlink.Route{Dst: dst, LinkIndex: lo.Attrs().Index, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST}
		return netlink.RouteAdd(local)
	})
	if err != nil {
		return fmt.Errorf("give endpoints to %s: %w", pod.Name, err)
	}
	greeter, err := wire.Greet(pod, GreetPort)
	if err != nil {
		return err
	}
	w.closers = append(w.closers, greeter)
	if w.Sink, err = wire.Swallow(pod, SinkPort); err != nil {
		return err
	}
	w.closers = append(w.closers, w.Sink)
	return nil
}

// addNode makes the Node object that kube-proxy waits for.
func (w *World) addNode(ctx context.Context) error {
	nodes := w.Cluster.Client().CoreV1().Nodes()
	node, err := nodes.Create(ctx, &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	node.Status.Addresses = []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: w.Node.Addr4.String()}}
	_, err = nodes.UpdateStatus(ctx, node, metav1.UpdateOptions{})
	return err
}

// Close ends everything.
func (w *World) Close() error {
	var errs []error
	for _, c := range slices.Backward(w.closers) {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// Grow adds services until there are n, each new one with eps endpoints.
func (w *World) Grow(ctx context.Context, n, eps int) error {
	if n <= w.services {
		return nil
	}
	p := population(eps)
	p.First, p.Services = w.services, n-w.services
	if err := w.Cluster.Load(ctx, p); err != nil {
		return err
	}
	w.services = n
	return nil
}

func population(eps int) kubelab.Population {
	return kubelab.Population{Endpoints: eps}
}

// Frontends returns some of the services' frontends, spread evenly over all: the first and the
// last are among them.
func (w *World) Frontends(some int) []netip.AddrPort {
	some = min(some, w.services)
	dsts := make([]netip.AddrPort, some)
	for i := range dsts {
		n := 0
		if some > 1 {
			n = i * (w.services - 1) / (some - 1)
		}
		dsts[i] = netip.AddrPortFrom(population(1).ClusterIP(n), 80)
	}
	return dsts
}

// Backends returns an endpoint of each of as many services, to be asked directly.
func (w *World) Backends(some, eps int) []netip.AddrPort {
	dsts := make([]netip.AddrPort, min(some, w.services))
	for i := range dsts {
		s := population(eps).Slices(i)[0]
		dsts[i] = netip.AddrPortFrom(netip.MustParseAddr(s.Endpoints[0].Addresses[0]), GreetPort)
	}
	return dsts
}

// Clean removes what a proxy has left in the kernel, and gives the kernel some time to free it.
func (w *World) Clean(wait time.Duration) error {
	if _, err := w.Node.Run("nft", "flush", "ruleset"); err != nil {
		return err
	}
	if err := w.Forget(); err != nil {
		return err
	}
	time.Sleep(wait)
	return nil
}

// Forget makes the node forget all connections, those that left it untranslated before there was a
// proxy among them: their ports would lead nowhere for two minutes.
func (w *World) Forget() error {
	return w.Node.Do(func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) })
}

// Connections returns how many the node's conntrack table holds.
func (w *World) Connections() (n int, err error) {
	err = w.Node.Do(func() error {
		text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
		if err != nil {
			return err
		}
		n, err = strconv.Atoi(strings.TrimSpace(string(text)))
		return err
	})
	return n, err
}
