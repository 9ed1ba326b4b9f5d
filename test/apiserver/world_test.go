//go:build linux

package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/weir-project/weir/internal/kubelab"
	"github.com/weir-project/weir/internal/netlab"
)

// world is a lab whose node has an API server.
type world struct {
	lab     *netlab.Lab
	cluster *kubelab.Cluster
	api     kubernetes.Interface
}

// shared is the world of most tests. TestMain closes it.
var shared world

// require skips a test where it cannot run. With CI=true it fails instead.
func require(t *testing.T) {
	t.Helper()
	netlab.Require(t)
	if testing.Short() {
		t.Skip("-short")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

// theWorld returns the shared world, with nothing in it.
func theWorld(t *testing.T) *world {
	t.Helper()
	require(t)
	w := &shared
	if w.lab == nil {
		if err := w.open(netlab.Config{}, kubelab.Config{}); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := w.clear(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// ownWorld returns a world for one test alone.
func ownWorld(t *testing.T, lab netlab.Config, cluster kubelab.Config) *world {
	t.Helper()
	require(t)
	w := &world{}
	t.Cleanup(func() {
		if err := w.close(); err != nil {
			t.Error(err)
		}
	})
	if err := w.open(lab, cluster); err != nil {
		t.Fatal(err)
	}
	return w
}

const nodeName = "node1"

// backends are the hosts that answer, by TCP and UDP on backendPort.
var backends = []string{"podA", "podB", "podC", "podX", "podY"}

const backendPort = 8080

func (w *world) open(lab netlab.Config, cluster kubelab.Config) (err error) {
	if _, err := netlab.Sweep(); err != nil {
		return err
	}
	if w.lab, err = netlab.New(lab); err != nil {
		return err
	}
	for _, name := range backends {
		for _, f := range w.families() {
			for _, proto := range []netlab.Protocol{netlab.TCP, netlab.UDP} {
				if _, err := w.lab.Host(name).Serve(proto, netip.AddrPortFrom(f.of(w.lab.Host(name)), backendPort)); err != nil {
					return err
				}
			}
		}
	}
	begin := time.Now()
	cluster.Host = w.node()
	if w.cluster, err = kubelab.Start(context.Background(), cluster); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "API server ready in %s\n", time.Since(begin).Round(time.Millisecond))
	w.api = w.cluster.Client()
	return w.register()
}

// register writes the Node object, as a kubelet would.
func (w *world) register() error {
	node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName}}
	node, err := w.api.CoreV1().Nodes().Create(context.Background(), node, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	for _, f := range w.families() {
		node.Status.Addresses = append(node.Status.Addresses, v1.NodeAddress{Type: v1.NodeInternalIP, Address: f.of(w.node()).String()})
	}
	_, err = w.api.CoreV1().Nodes().UpdateStatus(context.Background(), node, metav1.UpdateOptions{})
	return err
}

func (w *world) close() error {
	var errs []error
	if w.cluster != nil {
		errs = append(errs, w.cluster.Close())
	}
	if w.lab != nil {
		errs = append(errs, w.lab.Close())
	}
	return errors.Join(errs...)
}

// clear removes what a test has left in the API and in the node.
func (w *world) clear() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if w.cluster.APIServerPID() == 0 {
		if err := w.cluster.StartAPIServer(ctx); err != nil {
			return err
		}
	}
	services, err := w.api.CoreV1().Services("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	var errs []error
	for _, s := range services.Items {
		if s.Name != "kubernetes" {
			errs = append(errs, w.api.CoreV1().Services(s.Namespace).Delete(ctx, s.Name, metav1.DeleteOptions{}))
		}
	}
	errs = append(errs,
		w.api.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}),
		w.api.EventsV1().Events(metav1.NamespaceDefault).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
	_, err = w.node().Run(binary, "cleanup")
	return errors.Join(append(errs, err)...)
}

func (w *world) node() *netlab.Host { return w.lab.Host("node") }

// tables lists the nftables tables of the node, in order.
func (w *world) tables(t *testing.T) string {
	t.Helper()
	out, err := w.node().Run("nft", "list tables")
	if err != nil {
		t.Fatal(err)
	}
	list := strings.Split(strings.TrimSpace(out), "\n")
	slices.Sort(list)
	return strings.ReplaceAll(strings.Join(list, ", "), "table ", "")
}

// await waits until weir serves an address on port 80, in TCP.
func (w *world) await(t *testing.T, f family, addr netip.Addr) {
	t.Helper()
	table := "ip"
	if f == 6 {
		table = "ip6"
	}
	eventually(t, func() error {
		_, err := w.node().Run("nft", "get", "element", table, "weir", "services", fmt.Sprintf("{ tcp . %s . 80 }", addr))
		return err
	})
}

// family is 4 or 6.
type family int

func (w *world) families() []family {
	if !w.node().Addr6.IsValid() {
		return []family{4}
	}
	return []family{4, 6}
}

// of returns the address of a host.
func (f family) of(h *netlab.Host) netip.Addr {
	if f == 4 {
		return h.Addr4
	}
	return h.Addr6
}

// clusterIP is the address of the lab's service network with the last number n, external of the external
// one.
func (f family) clusterIP(n int) netip.Addr {
	return f.nth(netlab.ServiceCIDR4, netlab.ServiceCIDR6, n)
}
func (f family) external(n int) netip.Addr {
	return f.nth(netlab.ExternalCIDR4, netlab.ExternalCIDR6, n)
}

func (f family) nth(v4, v6 netip.Prefix, n int) netip.Addr {
	p := v4
	if f == 6 {
		p = v6
	}
	b := p.Addr().AsSlice()
	b[len(b)-2], b[len(b)-1] = b[len(b)-2]+byte(n>>8), byte(n)
	a, _ := netip.AddrFromSlice(b)
	return a
}
