package cluster

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-project/weir/deploy/tools/monitoring"
	"github.com/weir-project/weir/deploy/tools/pod"
	"github.com/weir-project/weir/internal/netlab"
)

// kubeProxyConfig is kube-proxy's ConfigMap as kubeadm writes it, but for the size of the conntrack table, which
// only the machine's own network namespace may set.
var kubeProxyConfig = map[string]string{
	"config.conf": `
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: ""
  burst: 0
  contentType: ""
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: ` + netlab.ClusterCIDR4.String() + `,` + netlab.ClusterCIDR6.String() + `
configSyncPeriod: 0s
conntrack:
  maxPerCore: 0
  min: null
  tcpCloseWaitTimeout: 4243s
  tcpEstablishedTimeout: null
detectLocalMode: ""
enableProfiling: false
healthzBindAddress: ""
hostnameOverride: ""
metricsBindAddress: ""
mode: ""
nodePortAddresses: null
oomScoreAdj: 0
portRange: ""
`,
	"kubeconfig.conf": `
apiVersion: v1
kind: Config
clusters:
- cluster:
    certificate-authority: /var/run/secrets/kubernetes.io/serviceaccount/ca.crt
    server: https://127.0.0.1:` + apiPort + `
  name: default
contexts:
- context: {cluster: default, namespace: default, user: default}
  name: default
current-context: default
users:
- name: default
  user:
    tokenFile: /var/run/secrets/kubernetes.io/serviceaccount/token
`,
}

// dnsAddress is what overlays/dns/dns.env says.
var dnsAddress = netip.MustParseAddrPort("10.96.0.10:53")

// TestNetnsDNS installs the overlay dns, which contains replace-kube-proxy, and runs what it says.
func TestNetnsDNS(t *testing.T) {
	w, p := newWorldWithDNS(t, "overlays/dns")
	w.asksFor(w.rightsWithDNS())
	w.noPort53(p)
}

// TestNetnsSearchWalk does the same with the overlay that follows pods.
func TestNetnsSearchWalk(t *testing.T) {
	w, _ := newWorldWithDNS(t, "overlays/dns-search-walk")
	forWalks, err := w.api.RbacV1().ClusterRoles().Get(t.Context(), "weir-search-walk", metav1.GetOptions{})
	w.must(err)
	w.asksFor(append(w.rightsWithDNS(), rightsOf(forWalks.Rules)...))
}

// newWorldWithDNS installs an overlay that has DNS, and runs what it says: with and without streaming lists.
func newWorldWithDNS(t *testing.T, overlay string) (*world, *pod.Pod) {
	w := newWorld(t)
	w.waitNamespace()
	proxy := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kube-proxy"}, Data: kubeProxyConfig}
	_, err := w.api.CoreV1().ConfigMaps(namespace).Create(t.Context(), proxy, metav1.CreateOptions{})
	w.must(err)
	w.apply(w.render(overlay))
	p := w.pod("weir")

	if said, err := w.run(p, "sysctls"); err != nil {
		t.Fatalf("init container: %v\n%s", err, said)
	}
	for n, env := range []string{"", "KUBE_FEATURE_WatchListClient=false"} {
		if env != "" {
			p.Env = []string{env}
		}
		c := w.start(p, "weir")
		c.ready(p)
		name := fmt.Sprintf("web-%d", n)
		w.traffic(name, n+1)
		w.resolves(name+".default.svc.cluster.local.", netip.AddrFrom4([4]byte{10, 96, 1, byte(n + 1)}))
		if n == 0 {
			w.exports()
		}
		w.complaints(c)
		c.stop()
	}

	return w, p
}

// rightsWithDNS are those that the overlay dns gives.
func (w *world) rightsWithDNS() []string {
	w.t.Helper()
	ctx := w.t.Context()
	clusterRole, err := w.api.RbacV1().ClusterRoles().Get(ctx, "weir", metav1.GetOptions{})
	w.must(err)
	forNames, err := w.api.RbacV1().ClusterRoles().Get(ctx, "weir-dns", metav1.GetOptions{})
	w.must(err)
	forConfig, err := w.api.RbacV1().Roles(namespace).Get(ctx, "weir-dns", metav1.GetOptions{})
	w.must(err)
	return slices.Concat(rightsOf(clusterRole.Rules), rightsOf(forNames.Rules), rightsOf(forConfig.Rules))
}

// resolves waits until a pod is told the address of a name.
func (w *world) resolves(name string, want netip.Addr) {
	w.t.Helper()
	w.eventually(func() error {
		conn, err := w.lab.Host("podA").Dial(w.t.Context(), "udp4", dnsAddress.String())
		if err != nil {
			return err
		}
		c := &dns.Conn{Conn: conn}
		defer c.Close()
		w.must(c.SetDeadline(time.Now().Add(2 * time.Second)))
		if err := c.WriteMsg(new(dns.Msg).SetQuestion(name, dns.TypeA)); err != nil {
			return err
		}
		m, err := c.ReadMsg()
		if err != nil {
			return err
		}
		if len(m.Answer) != 1 || !strings.HasSuffix(m.Answer[0].String(), "\t"+want.String()) {
			return fmt.Errorf("%s: %v, want %s", name, m, want)
		}
		return nil
	})
}

// exports looks for every metric of the alerts and the dashboard in what Weir exports, and for every one that
// docs/metrics.md lists.
func (w *world) exports() {
	w.t.Helper()
	_, err := w.get("127.0.0.1:10256", "/livez") // as the kubelet does
	w.must(err)
	page, err := w.get("127.0.0.1:10249", "/metrics")
	w.must(err)
	exported := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^([a-zA-Z_:][a-zA-Z0-9_:]*)[ {]`).FindAllStringSubmatch(page, -1) {
		exported[m[1]] = true
	}
	documented, err := monitoring.Documented()
	w.must(err)
	for _, name := range documented {
		if !exported[name] && !exported[name+"_count"] && !unprovoked.MatchString(name) {
			w.t.Errorf("docs/metrics.md: weir exports no %s", name)
		}
	}
	expressions, err := monitoring.Expressions()
	w.must(err)
	for where, expr := range expressions {
		names := monitoring.Metrics(expr)
		if len(names) == 0 {
			w.t.Errorf("%s: no metric in %s", where, expr)
		}
		for _, name := range names {
			if !exported[name] && !slices.Contains(monitoring.FromPrometheus, name) {
				w.t.Errorf("%s: weir exports no %s", where, name)
			}
		}
	}
}

// unprovoked are metrics that are there once something has happened that does not here: a search for stale flows, a
// query that is forwarded, and anything with --service-metrics. Other tests look at these.
var unprovoked = regexp.MustCompile(`^(kubeproxy_conntrack_reconciler_sync_duration_seconds|coredns_proxy_request_duration_seconds|weir_service_connections_.*)$`)

// noPort53 takes the right to port 53 away.
func (w *world) noPort53(p *pod.Pod) {
	w.t.Helper()
	c := w.start(p, "weir", func(c *corev1.Container) {
		c.SecurityContext.Capabilities.Add = []corev1.Capability{"NET_ADMIN"}
	})
	w.eventually(func() error {
		for line := range strings.Lines(c.said()) {
			if strings.Contains(line, dnsAddress.String()) && strings.Contains(line, "permission denied") {
				return nil
			}
		}
		return fmt.Errorf("without NET_BIND_SERVICE weir does not say that it may not listen on %s", dnsAddress)
	})
	c.stop()
}
