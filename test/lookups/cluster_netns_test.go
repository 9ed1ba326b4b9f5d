//go:build linux

package lookups

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/weir-project/weir/internal/kubelab"
)

// allow gives system:kube-proxy the right to list and watch a resource, in one namespace or ("") all.
func allow(t *testing.T, api kubernetes.Interface, namespace, group, resource string) {
	t.Helper()
	meta := metav1.ObjectMeta{Name: "weir-" + resource, Namespace: namespace}
	rules := []rbacv1.PolicyRule{{APIGroups: []string{group}, Resources: []string{resource}, Verbs: []string{"list", "watch"}}}
	subjects := []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: "system:kube-proxy"}}
	var err error
	if namespace == "" {
		if _, err = api.RbacV1().ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{}); err == nil {
			ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: meta.Name}
			_, err = api.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects}, metav1.CreateOptions{})
		}
	} else {
		if _, err = api.RbacV1().Roles(namespace).Create(t.Context(), &rbacv1.Role{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{}); err == nil {
			ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: meta.Name}
			_, err = api.RbacV1().RoleBindings(namespace).Create(t.Context(), &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects}, metav1.CreateOptions{})
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// makePod writes a pod that runs on a node with addresses, and changes its status again later.
func makePod(t *testing.T, api kubernetes.Interface, namespace, name, node string, addrs ...netip.Addr) *v1.Pod {
	t.Helper()
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: v1.PodSpec{NodeName: node, Containers: []v1.Container{{Name: "c", Image: "i"}}}}
	pod, err := api.CoreV1().Pods(namespace).Create(t.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pod.Status.Phase = v1.PodRunning
	for _, a := range addrs {
		pod.Status.PodIPs = append(pod.Status.PodIPs, v1.PodIP{IP: a.String()})
	}
	pod.Status.PodIP = pod.Status.PodIPs[0].IP
	if pod, err = api.CoreV1().Pods(namespace).UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	return pod
}

func service(name, ip string) *v1.Service {
	s := &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: v1.ServiceSpec{ClusterIP: ip, Ports: []v1.ServicePort{{Port: 80}}}}
	return s
}

// TestNetnsCluster has weir dns follow a real API server, with the rights that docs/dns.md asks for.
func TestNetnsCluster(t *testing.T) {
	w := newWorld(t, elsewhere)
	cluster := kubelab.StartForTest(t, kubelab.Config{Host: w.node})
	api := cluster.Client()
	for _, name := range []string{"default", "kube-system", "other"} {
		eventually(t, func() error {
			_, err := api.CoreV1().Namespaces().Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				_, err = api.CoreV1().Namespaces().Create(t.Context(), &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
			}
			return err
		})
	}
	allow(t, api, "", "", "namespaces")
	allow(t, api, "kube-system", "", "configmaps")
	if _, err := api.CoreV1().Services("default").Create(t.Context(), service("web", ""), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	node := resolvConf(t, "nameserver 127.0.0.1\n")
	w.start(t, "--kubeconfig", cluster.ProxyKubeconfig, "--search-walk", "--node-name", "here", "--resolv-conf", node)
	t.Run("pods", func(t *testing.T) { testPods(t, w, api) })
	t.Run("kube-dns", func(t *testing.T) { testKubeDNS(t, w, api) })
	t.Run("latency", func(t *testing.T) { testLatency(t, w, api) })
	t.Run("API server gone", func(t *testing.T) { testGone(t, w, cluster) })
}

// testPods has pods come, end and go.
func testPods(t *testing.T, w *world, api kubernetes.Interface) {
	podA, podB := w.lab.Host("podA"), w.lab.Host("podB")
	const name = "www.example.org."
	const walked = "NOERROR " + name + "%s.svc.cluster.local. CNAME " + name + " " + name + " A 192.0.2.1"
	is := func(want, namespace string) func() error {
		return func() error {
			got := summary(askFrom(podA, w.weir, name+namespace+".svc.cluster.local.", dns.TypeA))
			if strings.Contains(want, "%s") {
				want = fmt.Sprintf(want, namespace)
			}
			if got != want {
				return fmt.Errorf("%s, want %s", got, want)
			}
			return nil
		}
	}
	pod := makePod(t, api, "default", "a", "here", podA.Addr4, podA.Addr6)
	makePod(t, api, "default", "b", "elsewhere", podB.Addr4)
	// Pods may not be read yet: everything else works.
	if err := is("NXDOMAIN", "default")(); err != nil {
		t.Fatal(err)
	}
	if got := summary(w.ask("web.default.svc.cluster.local.", dns.TypeA)); !strings.HasPrefix(got, "NOERROR web.default") {
		t.Fatal(got)
	}
	allow(t, api, "", "", "pods")
	eventually(t, is(walked, "default"))
	if err := is("NXDOMAIN", "other")(); err != nil {
		t.Error(err)
	}
	if got := summary(askFrom(podB, w.weir, name+"default.svc.cluster.local.", dns.TypeA)); got != "NXDOMAIN" {
		t.Errorf("a pod of another node is answered %s", got)
	}

	// The pod ends, and another has its address.
	pod.Status.Phase = v1.PodSucceeded
	if _, err := api.CoreV1().Pods("default").UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, is("NXDOMAIN", "default"))
	makePod(t, api, "other", "successor", "here", podA.Addr4)
	eventually(t, is(walked, "other"))
	if err := is("NXDOMAIN", "default")(); err != nil {
		t.Error(err)
	}
	zero := int64(0)
	if err := api.CoreV1().Pods("other").Delete(t.Context(), "successor", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		t.Fatal(err)
	}
	eventually(t, is("NXDOMAIN", "other"))
}

// testKubeDNS has the ConfigMap kube-system/kube-dns come, change and go.
func testKubeDNS(t *testing.T, w *world, api kubernetes.Interface) {
	says := func(addr string) answer {
		return func(m *dns.Msg, q dns.Question) {
			rr, _ := dns.NewRR(q.Name + " 0 A " + addr)
			m.Answer = append(m.Answer, rr)
		}
	}
	w.upstream(t, 5401, says("192.0.2.101"))
	w.upstream(t, 5402, says("192.0.2.102"))
	is := func(name, want string) {
		t.Helper()
		eventually(t, func() error {
			if got := summary(w.ask(name, dns.TypeA)); got != want {
				return fmt.Errorf("%s is %s, want %s", name, got, want)
			}
			return nil
		})
	}
	config := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kube-dns"}}
	config.Data = map[string]string{"stubDomains": `{"acme.local": ["127.0.0.1:5401"]}`}
	maps := api.CoreV1().ConfigMaps("kube-system")
	is("x.acme.local.", "NXDOMAIN")
	if _, err := maps.Create(t.Context(), config, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	is("x.acme.local.", "NOERROR x.acme.local. A 192.0.2.101")
	is("www.example.org.", "NOERROR www.example.org. A 192.0.2.1")
	config.Data = map[string]string{"upstreamNameservers": `["127.0.0.1:5402"]`}
	if _, err := maps.Update(t.Context(), config, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	is("x.acme.local.", "NOERROR x.acme.local. A 192.0.2.102")
	is("www.example.org.", "NOERROR www.example.org. A 192.0.2.102")
	if err := maps.Delete(t.Context(), "kube-dns", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	is("www.example.org.", "NOERROR www.example.org. A 192.0.2.1")
	is("x.acme.local.", "NXDOMAIN")
}

// testLatency writes what names depend on, each right after a negative answer for the name, and measures
// from the API server's answer to the write until the answer is right. Only that it becomes right is asserted.
func testLatency(t *testing.T, w *world, api kubernetes.Interface) {
	const rounds = 100
	var appear, endpoints []time.Duration
	conn, err := w.dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	until := func(name string, right func(*dns.Msg) bool) time.Duration {
		t.Helper()
		began := time.Now()
		for time.Since(began) < patience {
			r, err := exchange(conn, name, dns.TypeA)
			if err != nil {
				t.Fatal(err)
			}
			if right(r) {
				return time.Since(began)
			}
		}
		t.Fatalf("%s is never right", name)
		return 0
	}
	for i := range rounds {
		name := fmt.Sprintf("new-%d.default.svc.cluster.local.", i)
		if r, err := exchange(conn, name, dns.TypeA); err != nil || r.Rcode != dns.RcodeNameError {
			t.Fatalf("before: %s", summary(r, err))
		}
		s, err := api.CoreV1().Services("default").Create(t.Context(), service(fmt.Sprintf("new-%d", i), ""), metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		appear = append(appear, until(name, func(r *dns.Msg) bool {
			return len(r.Answer) == 1 && r.Answer[0].(*dns.A).A.String() == s.Spec.ClusterIP
		}))
	}
	headless := service("headless", "None")
	if _, err := api.CoreV1().Services("default").Create(t.Context(), headless, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "headless-1",
		Labels: map[string]string{discoveryv1.LabelServiceName: "headless"}}, AddressType: discoveryv1.AddressTypeIPv4}
	slice, err = api.DiscoveryV1().EndpointSlices("default").Create(t.Context(), slice, metav1.CreateOptions{})
	for i := range rounds {
		if err != nil {
			t.Fatal(err)
		}
		addr := fmt.Sprintf("10.244.3.%d", i+1)
		slice.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{addr}}}
		if slice, err = api.DiscoveryV1().EndpointSlices("default").Update(t.Context(), slice, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		endpoints = append(endpoints, until("headless.default.svc.cluster.local.", func(r *dns.Msg) bool {
			return len(r.Answer) == 1 && r.Answer[0].(*dns.A).A.String() == addr
		}))
	}
	report := func(what string, list []time.Duration) {
		slices.Sort(list)
		t.Logf("%s: from the API server's answer until the answer is right: p50 %v, p99 %v, most %v", what,
			list[len(list)/2], list[len(list)*99/100], list[len(list)-1])
	}
	report("a new Service, after a negative answer", appear)
	report("an endpoint that changes", endpoints)
}

// testGone kills the API server for a while. Names go on as they were; what is written afterwards counts.
func testGone(t *testing.T, w *world, cluster *kubelab.Cluster) {
	api := cluster.Client()
	before := summary(w.ask("web.default.svc.cluster.local.", dns.TypeA))
	if !strings.HasPrefix(before, "NOERROR web.") {
		t.Fatal(before)
	}
	if err := cluster.KillAPIServer(); err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); time.Since(began) < 3*time.Second; time.Sleep(10 * time.Millisecond) {
		for name, want := range map[string]string{"web.default.svc.cluster.local.": before, "missing.default.svc.cluster.local.": "NXDOMAIN",
			"www.example.org.": "NOERROR www.example.org. A 192.0.2.1"} {
			if got := summary(w.ask(name, dns.TypeA)); got != want {
				t.Fatalf("without an API server %s is %s, want %s", name, got, want)
			}
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	if err := cluster.StartAPIServer(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		return api.CoreV1().Services("default").Delete(ctx, "web", metav1.DeleteOptions{})
	})
	eventually(t, func() error {
		if got := summary(w.ask("web.default.svc.cluster.local.", dns.TypeA)); got != "NXDOMAIN" {
			return fmt.Errorf("web, which is gone, is %s", got)
		}
		return nil
	})
	if got := summary(w.ask("headless.default.svc.cluster.local.", dns.TypeA)); !strings.HasPrefix(got, "NOERROR headless.") {
		t.Errorf("headless, which stays, is %s", got)
	}
}
