//go:build linux

package switchover

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/weir-project/weir/internal/kubelab"
	"github.com/weir-project/weir/internal/netlab"
)

// world is a node on which kube-proxy and weir run, in turn or both.
type world struct {
	t       testing.TB
	lab     *netlab.Lab
	node    *netlab.Host
	cluster *kubelab.Cluster
	dir     string
	mode    mode
	proxy   *daemon // kube-proxy
	weir    *daemon
}

// mode is one of kube-proxy's, with the iptables that it finds.
type mode struct {
	name     string // as kube-proxy's configuration has it
	iptables string // the suffix of the programs: "nft" or "legacy"
}

// patience is how long anything may take on a machine that is busy with other things.
const patience = 60 * time.Second

var (
	web4 = netip.MustParseAddrPort("10.96.7.1:80")
	web6 = netip.MustParseAddrPort("[fd00:10:96::701]:80")
)

const nodePort = 30780

// newWorld starts the API server with its Services, and servers in the pods.
func newWorld(t testing.TB, m mode) *world {
	t.Helper()
	lab := netlab.NewForTest(t, netlab.Config{})
	w := &world{t: t, lab: lab, node: lab.Host("node"), mode: m, dir: t.TempDir()}
	for _, pod := range pods {
		h := lab.Host(pod)
		for _, addr := range []netip.Addr{h.Addr4, h.Addr6} {
			for _, proto := range []netlab.Protocol{netlab.TCP, netlab.UDP} {
				for _, port := range []uint16{8080, 8081} {
					if _, err := h.Serve(proto, netip.AddrPortFrom(addr, port)); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
	w.cluster = kubelab.StartForTest(t, kubelab.Config{Host: w.node})
	w.write()
	bin, err := kubelab.BinDir(t.Context(), os.Stderr, "kube-proxy")
	if err != nil {
		t.Fatal(err)
	}
	w.proxy = &daemon{w: w, name: "kube-proxy", path: filepath.Join(bin, "kube-proxy"), args: []string{"--config", w.proxyConfig(), "-v=2"}, env: w.iptablesPath()}
	w.weir = &daemon{w: w, name: "weir", path: binary, args: []string{"run", "--kubeconfig", w.cluster.ProxyKubeconfig,
		"--hostname-override", "node1", "--cluster-cidr", clusterCIDRs, "--replace-kube-proxy", "-v=2", "--socket", ""}}
	t.Cleanup(func() {
		w.weir.end(syscall.SIGTERM)
		w.proxy.end(syscall.SIGKILL)
		if t.Failed() {
			t.Logf("weir:\n%s\nkube-proxy:\n%s", w.weir.tail(60), w.proxy.tail(30))
		}
	})
	return w
}

// pods are the endpoints of the Service web: two on the node, one on another.
var pods = []string{"podA", "podB", "podX"}

var clusterCIDRs = netlab.ClusterCIDR4.String() + "," + netlab.ClusterCIDR6.String()

// endpoints are the pods' addresses, of both families.
func (w *world) endpoints() (list []netip.AddrPort) {
	for _, pod := range pods {
		h := w.lab.Host(pod)
		list = append(list, netip.AddrPortFrom(h.Addr4, 8080), netip.AddrPortFrom(h.Addr6, 8080))
	}
	return list
}

// write writes the Node, and the Service with its EndpointSlices.
func (w *world) write() {
	w.t.Helper()
	ctx, c := w.t.Context(), w.cluster.Client()
	must := func(err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	node, err := c.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1"}}, metav1.CreateOptions{})
	must(err)
	node.Status.Addresses = []corev1.NodeAddress{
		{Type: corev1.NodeInternalIP, Address: w.node.Addr4.String()}, {Type: corev1.NodeInternalIP, Address: w.node.Addr6.String()}}
	_, err = c.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{})
	must(err)
	dual := corev1.IPFamilyPolicyRequireDualStack
	port := func(p corev1.Protocol) corev1.ServicePort {
		return corev1.ServicePort{Name: strings.ToLower(string(p)), Protocol: p, Port: 80, NodePort: nodePort, TargetPort: intstr.FromInt32(8080)}
	}
	_, err = c.CoreV1().Services("default").Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, IPFamilyPolicy: &dual,
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol},
			ClusterIP:  web4.Addr().String(), ClusterIPs: []string{web4.Addr().String(), web6.Addr().String()},
			Ports: []corev1.ServicePort{port(corev1.ProtocolTCP), port(corev1.ProtocolUDP)}},
	}, metav1.CreateOptions{})
	must(err)
	for _, family := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
		_, err := c.DiscoveryV1().EndpointSlices("default").Create(ctx, w.slice(family), metav1.CreateOptions{})
		must(err)
	}
}

func (w *world) slice(family discoveryv1.AddressType) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: "web-" + strings.ToLower(string(family)),
			Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: family,
	}
	for _, proto := range []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP} {
		name, number, proto := strings.ToLower(string(proto)), int32(8080), proto
		s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: &name, Port: &number, Protocol: &proto})
	}
	for _, e := range w.endpoints() {
		if ready := true; e.Addr().Is4() == (family == discoveryv1.AddressTypeIPv4) {
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
				Addresses: []string{e.Addr().String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &ready}})
		}
	}
	return s
}

// proxyConfig writes kube-proxy's configuration. nf_conntrack_max belongs to the machine, so it is left alone.
func (w *world) proxyConfig() string {
	path := filepath.Join(w.dir, "kube-proxy.yaml")
	text := fmt.Sprintf(`apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: %s
clusterCIDR: %s
hostnameOverride: node1
clientConnection: {kubeconfig: %s}
conntrack: {maxPerCore: 0, min: 0}
`, w.mode.name, clusterCIDRs, w.cluster.ProxyKubeconfig)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// iptablesPath makes the mode's iptables the one that kube-proxy finds.
func (w *world) iptablesPath() []string {
	dir := filepath.Join(w.dir, "bin")
	if err := os.Mkdir(dir, 0o755); err != nil {
		w.t.Fatal(err)
	}
	for _, family := range []string{"iptables", "ip6tables"} {
		for _, program := range []string{"", "-save", "-restore"} {
			path, err := exec.LookPath(family + "-" + w.mode.iptables + program)
			if err == nil {
				err = os.Symlink(path, filepath.Join(dir, family+program))
			}
			if err != nil {
				w.t.Fatal(err)
			}
		}
	}
	return []string{"PATH=" + dir + ":" + os.Getenv("PATH")}
}

// daemon is kube-proxy or weir.
type daemon struct {
	w    *world
	name string
	path string
	args []string
	env  []string
	proc *netlab.Process
}

func (d *daemon) log() string { return filepath.Join(d.w.dir, d.name+".log") }

func (d *daemon) start() {
	d.w.t.Helper()
	log, err := os.OpenFile(d.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		d.w.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(d.path, d.args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), d.env...)
	if d.proc, err = d.w.node.Start(cmd); err != nil {
		d.w.t.Fatal(err)
	}
}

// end ends it by a signal and waits.
func (d *daemon) end(how syscall.Signal) {
	if d.proc == nil {
		return
	}
	_ = d.proc.Signal(how)
	select {
	case <-d.proc.Done():
	case <-time.After(patience):
		d.w.t.Errorf("%s does not end on %s", d.name, how)
		_ = d.proc.Close()
	}
	d.proc = nil
}

func (d *daemon) logged() string {
	b, err := os.ReadFile(d.log())
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func (d *daemon) tail(lines int) string {
	all := strings.Split(strings.TrimSpace(d.logged()), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// await waits until something is true, or fails the test.
func (w *world) await(what string, ok func() bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	for !ok() {
		select {
		case <-ctx.Done():
			w.t.Fatalf("after %s still not: %s", patience, what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// run runs a command in the node.
func (w *world) run(name string, args ...string) string {
	w.t.Helper()
	out, err := w.node.Run(name, args...)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// kubeProxyRules are kube-proxy's chains and tables, as they are listed.
func (w *world) kubeProxyRules() (lines []string) {
	listing := w.run("nft", "list", "chains") + w.run("nft", "list", "tables")
	for _, family := range []string{"iptables", "ip6tables"} {
		if w.mode.iptables == "legacy" {
			for line := range strings.Lines(w.run(family + "-legacy-save")) {
				if strings.HasPrefix(line, ":") { // a chain; a comment can say anything
					listing += line
				}
			}
		}
	}
	for line := range strings.Lines(listing) {
		for _, mark := range []string{"kube-proxy", "KUBE-SERVICES", "KUBE-SVC", "KUBE-SEP", "KUBE-EXT", "KUBE-MARK-MASQ",
			"KUBE-POSTROUTING", "KUBE-FORWARD", "KUBE-NODEPORTS", "KUBE-PROXY", "KUBE-EXTERNAL"} {
			if strings.Contains(line, mark) && !slices.Contains(lines, line) {
				lines = append(lines, strings.TrimSpace(line))
			}
		}
	}
	return lines
}

// complete reports whether kube-proxy has written the Service, for both families.
func (w *world) complete() bool {
	listing := w.run("nft", "list", "ruleset")
	if w.mode.name == "iptables" {
		listing = w.run("iptables-"+w.mode.iptables+"-save") + w.run("ip6tables-"+w.mode.iptables+"-save")
	}
	for _, e := range w.endpoints() {
		found := false
		for line := range strings.Lines(listing) {
			switch w.mode.name {
			case "nftables":
				found = found || strings.Contains(line, "numgen") && strings.Contains(line, " "+e.Addr().String()+" . 8080")
			default:
				found = found || strings.Contains(line, "default/web:tcp -> "+e.String())
			}
		}
		if !found {
			return false
		}
	}
	return true
}
