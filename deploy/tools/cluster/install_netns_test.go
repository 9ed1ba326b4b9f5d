package cluster

import (
	"errors"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/weir-project/weir/deploy/tools/pod"
	"github.com/weir-project/weir/internal/netlab"
)

var overlays = []string{"overlays/plain", "overlays/replace-kube-proxy", "overlays/dns", "overlays/dns-search-walk", "overlays/cleanup"}

// TestNetnsManifests has the API server look at every manifest, strictly.
func TestNetnsManifests(t *testing.T) {
	w := newWorld(t)
	dryRun := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	w.waitNamespace()
	for _, name := range overlays {
		for _, o := range w.render(name) {
			if err := w.create(o, dryRun); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}

	// It would notice.
	o := w.daemonSet("overlays/plain")
	w.must(unstructured.SetNestedField(o.Object, "x", "spec", "template", "spec", "hostNetwrok"))
	if err := w.create(o, dryRun); !apierrors.IsBadRequest(err) && (err == nil || !strings.Contains(err.Error(), "hostNetwrok")) {
		t.Errorf("a typing error passes: %v", err)
	}
	o = w.daemonSet("overlays/plain")
	w.must(unstructured.SetNestedField(o.Object, int64(1), "spec", "updateStrategy", "rollingUpdate", "maxSurge"))
	if err := w.create(o, dryRun); !apierrors.IsInvalid(unwrapAll(err)) {
		t.Errorf("a surge with maxUnavailable passes: %v", err)
	}
}

// TestNetnsPlain installs the overlay plain, and runs what its DaemonSet says in the node.
func TestNetnsPlain(t *testing.T) {
	w := newWorld(t)
	w.waitNamespace()
	objects := w.render("overlays/plain")
	for _, o := range objects { // what the overlay says is to be edited
		switch {
		case o.GetKind() != "ConfigMap":
		case strings.HasPrefix(o.GetName(), "weir-api-server"):
			w.must(unstructured.SetNestedField(o.Object, "127.0.0.1", "data", "KUBERNETES_SERVICE_HOST"))
		default:
			// Only the machine's own network namespace may set the size of the table.
			config, _, err := unstructured.NestedString(o.Object, "data", "config.conf")
			w.must(err)
			config = strings.Replace(config, "oomScoreAdj: -997", "oomScoreAdj: 0", 1) // what runc has given it
			w.must(unstructured.SetNestedField(o.Object, config+conntrackSection, "data", "config.conf"))
		}
	}
	w.apply(objects)
	p := w.pod("weir")

	said, err := w.run(p, "sysctls")
	if err != nil || said != "" {
		t.Fatalf("init container: %v\n%s", err, said)
	}
	if got, err := w.node().Run("cat", "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait"); err != nil || got != "4242\n" {
		t.Errorf("close_wait timeout %q, %v; want what the configuration says, 4242", got, err)
	}

	c := w.start(p, "weir")
	c.ready(p)
	w.traffic("first", 1)
	w.complaints(c)
	c.stop()

	// What a client does that knows nothing of streaming lists.
	p.Env = []string{"KUBE_FEATURE_WatchListClient=false"}
	again := w.start(p, "weir")
	again.ready(p)
	w.traffic("second", 2)
	w.complaints(again)
	again.stop()

	role, err := w.api.RbacV1().ClusterRoles().Get(t.Context(), "weir", metav1.GetOptions{})
	w.must(err)
	w.asksFor(rightsOf(role.Rules))
	proxy, err := w.api.RbacV1().ClusterRoles().Get(t.Context(), "system:node-proxier", metav1.GetOptions{})
	w.must(err)
	kubeProxys := rightsOf(proxy.Rules)
	for _, right := range rightsOf(role.Rules) {
		if !slices.Contains(kubeProxys, right) {
			t.Errorf("kube-proxy has no right to %s", right)
		}
	}

	w.refused(p)
}

const conntrackSection = `
conntrack:
  maxPerCore: 0
  tcpCloseWaitTimeout: 4242s
`

// waitNamespace waits until the API server has made the namespace, which it does after it is ready.
func (w *world) waitNamespace() {
	w.t.Helper()
	w.eventually(func() error {
		_, err := w.api.CoreV1().Namespaces().Get(w.t.Context(), namespace, metav1.GetOptions{})
		return err
	})
}

// daemonSet returns the DaemonSet of a kustomization.
func (w *world) daemonSet(name string) *unstructured.Unstructured {
	w.t.Helper()
	for _, o := range w.render(name) {
		if o.GetKind() == "DaemonSet" {
			return o
		}
	}
	w.t.Fatalf("no DaemonSet in %s", name)
	return nil
}

func unwrapAll(err error) error {
	for u, ok := err.(interface{ Unwrap() error }); ok; u, ok = err.(interface{ Unwrap() error }) {
		err = u.Unwrap()
	}
	return err
}

// traffic creates a Service, and connects to it from a pod.
func (w *world) traffic(name string, n int) {
	w.t.Helper()
	backend := netip.AddrPortFrom(w.lab.Host("podX").Addr4, uint16(8080+n))
	_, err := w.lab.Host("podX").Serve(netlab.TCP, backend)
	w.must(err)
	ip := netlab.ServiceCIDR4.Masked().Addr().As4()
	ip[2], ip[3] = 1, byte(n)
	frontend := netip.AddrPortFrom(netip.AddrFrom4(ip), 80)
	w.service(name, frontend.Addr().String(), external, backend)
	w.eventually(func() error {
		return w.lab.Host("podA").Probe(netlab.TCP, frontend, netlab.ProbeOptions{}).Err
	})
}

// external is claimed by every Service of these tests: Weir tells those that do not get it.
const external = "198.18.0.1"

// complaints looks for those about missing rights.
func (w *world) complaints(c *container) {
	w.t.Helper()
	for line := range strings.Lines(c.said()) {
		if strings.Contains(strings.ToLower(line), "forbidden") || strings.Contains(line, "Kernel parameters") {
			w.t.Errorf("weir complains: %s", line)
		}
	}
	for _, r := range w.requests() {
		if r.Response.Code == http.StatusForbidden || r.Response.Code == http.StatusUnauthorized {
			w.t.Errorf("the API server refuses: %+v", r)
		}
	}
}

// asksFor compares what roles allow with what has been asked for.
func (w *world) asksFor(rights []string) {
	w.t.Helper()
	slices.Sort(rights)
	w.eventually(func() error { // a repeated event is sent some time after
		asked := map[string]bool{}
		for _, r := range w.requests() {
			asked[r.Verb+" "+r.ObjectRef.APIGroup+"/"+r.ObjectRef.Resource] = true
		}
		if diff := cmp.Diff(rights, slices.Sorted(maps.Keys(asked))); diff != "" {
			return errors.New("rights and requests (-rights +requests):\n" + diff)
		}
		return nil
	})
}

// rightsOf returns rules as "verb group/resource", without regard to names.
func rightsOf(rules []rbacv1.PolicyRule) (rights []string) {
	for _, rule := range rules {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					rights = append(rights, verb+" "+group+"/"+resource)
				}
			}
		}
	}
	return rights
}

// refused takes away what the container is given, one thing at a time.
func (w *world) refused(p *pod.Pod) {
	w.t.Helper()
	said, err := w.run(p, "weir", func(c *corev1.Container) { c.SecurityContext.Capabilities.Add = nil })
	if err == nil || !strings.Contains(said, "CAP_NET_ADMIN") {
		w.t.Errorf("without NET_ADMIN: %v\n%s", err, said)
	}
	w.must(w.node().Sysctl("net/netfilter/nf_conntrack_tcp_timeout_close_wait", "60"))
	said, err = w.run(p, "sysctls", func(c *corev1.Container) { c.Args = append(c.Args, "--sysctl-dir=") }) // its own
	if err == nil || !strings.Contains(said, "read-only file system") || !strings.Contains(said, "--sysctl-dir") {
		w.t.Errorf("without the host's /proc/sys: %v\n%s", err, said)
	}
}
