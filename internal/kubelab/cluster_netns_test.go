//go:build linux

package kubelab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/weir-project/weir/internal/netlab"
)

func TestNetnsAPIServer(t *testing.T) {
	lab := netlab.NewForTest(t, netlab.Config{})
	begin := time.Now()
	c := StartForTest(t, Config{Host: lab.Host("node")})
	t.Logf("ready in %s", time.Since(begin))
	ctx := t.Context()

	p := Population{Services: 1, Endpoints: 3}
	if err := c.Populate(ctx, p); err != nil {
		t.Fatal(err)
	}
	if got := streamSlices(t, c.Client()); strings.Join(got, " ") != "svc-00000-0" {
		t.Errorf("streamed slices %v, want svc-00000-0", got)
	}

	// The proxy's user sees what a proxy needs and nothing more.
	proxy, err := kubernetes.NewForConfig(c.ProxyRESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	if got := streamSlices(t, proxy); len(got) != 1 {
		t.Errorf("streamed slices %v to the proxy, want one", got)
	}
	if _, err := proxy.CoreV1().Secrets("").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("the proxy reads secrets: %v", err)
	}

	for _, end := range []struct {
		name string
		stop func() error
	}{{"stopped", c.StopAPIServer}, {"killed", c.KillAPIServer}} {
		begin = time.Now()
		if err := end.stop(); err != nil {
			t.Fatal(err)
		}
		stopped := time.Since(begin)
		if _, err := c.Client().CoreV1().Services("default").Get(ctx, p.Name(0), metav1.GetOptions{}); err == nil {
			t.Errorf("%s, and still answers", end.name)
		}
		begin = time.Now()
		if err := c.StartAPIServer(ctx); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s in %s, ready again in %s", end.name, stopped, time.Since(begin))
		got, err := c.Client().CoreV1().Services("default").Get(ctx, p.Name(0), metav1.GetOptions{})
		if err != nil || got.Spec.ClusterIP != "10.96.1.0" {
			t.Errorf("after a restart: %v, %v", got, err)
		}
	}
}

// streamSlices lists all EndpointSlices as a reflector does: a watch that begins with what is there.
func streamSlices(t *testing.T, client kubernetes.Interface) (names []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	yes := true
	w, err := client.DiscoveryV1().EndpointSlices("").Watch(ctx, metav1.ListOptions{
		SendInitialEvents: &yes, AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		s, ok := e.Object.(*discoveryv1.EndpointSlice)
		if !ok {
			t.Fatalf("streaming list: %+v", e)
		}
		if e.Type == watch.Bookmark && s.Annotations[metav1.InitialEventsAnnotationKey] == "true" {
			return names
		}
		names = append(names, s.Name)
	}
	t.Fatal("streaming list ended early")
	return nil
}

func TestNetnsAdvertised(t *testing.T) {
	lab := netlab.NewForTest(t, netlab.Config{})
	node := lab.Host("node")
	c := StartForTest(t, Config{Host: node, Advertise: node.Addr4})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		s, err := c.Client().DiscoveryV1().EndpointSlices("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
		if err == nil && len(s.Endpoints) == 1 && s.Endpoints[0].Addresses[0] == node.Addr4.String() {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("EndpointSlice default/kubernetes: %v, %v", s, err)
		}
	}
	conn, err := lab.Host("podA").Dial(t.Context(), "tcp", node.Addr4.String()+":6443")
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}

// No namespaces and no root: on this machine's loopback address.
func TestLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	c, err := Start(t.Context(), Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "plain"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
	if _, err := c.Client().CoreV1().Services("default").Create(t.Context(), svc, metav1.CreateOptions{}); err != nil {
		t.Error(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if left := processesWith(t, dir); len(left) > 0 {
		t.Errorf("still running: %q", left)
	}
	if err := c.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
}

// processesWith returns the command lines that name dir, other than our own.
func processesWith(t *testing.T, dir string) (found []string) {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range lines {
		b, err := os.ReadFile(f)
		if err == nil && strings.Contains(string(b), dir) && f != fmt.Sprintf("/proc/%d/cmdline", os.Getpid()) {
			found = append(found, strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return found
}

func TestFailureQuotesTheLog(t *testing.T) {
	_, err := Start(t.Context(), Config{APIServerArgs: []string{"--no-such-flag"}})
	if err == nil || !strings.Contains(err.Error(), "unknown flag: --no-such-flag") {
		t.Errorf("error %v, want the API server's own words", err)
	}
}

func TestMissingPeers(t *testing.T) {
	t.Setenv("WEIR_PEERS", t.TempDir())
	_, err := Start(t.Context(), Config{})
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "etcd") {
		t.Errorf("error %v, want one that names etcd", err)
	}
}

// What is loaded cannot be told from what went through the API server.
func TestLoad(t *testing.T) {
	c, err := Start(t.Context(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	through, loaded := Population{Services: 1, Endpoints: 120}, Population{First: 1, Services: 150, Endpoints: 120}
	if err := errors.Join(c.Populate(t.Context(), through), c.Load(t.Context(), loaded)); err != nil {
		t.Fatal(err)
	}
	if got := streamSlices(t, c.Client()); len(got) != 302 {
		t.Errorf("%d slices are streamed, want 302", len(got))
	}
	ctx, client := t.Context(), c.Client()
	services := func(name string) any {
		s, err := client.CoreV1().Services("default").Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		plain(&s.ObjectMeta)
		s.Spec.ClusterIP, s.Spec.ClusterIPs = "", nil
		return s
	}
	slices := func(service string) any {
		s, err := client.DiscoveryV1().EndpointSlices("default").Get(ctx, service+"-1", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		plain(&s.ObjectMeta)
		s.Labels[discoveryv1.LabelServiceName], s.Endpoints = "", s.Endpoints[:1]
		s.Endpoints[0].Addresses = nil
		return s
	}
	for what, get := range map[string]func(string) any{"Service": services, "EndpointSlice": slices} {
		if diff := cmp.Diff(get(through.Name(0)), get(loaded.Name(150))); diff != "" {
			t.Errorf("%s (-through the API server +loaded):\n%s", what, diff)
		}
	}
	taken := loaded.Service(150)
	taken.Name = "another"
	if _, err := client.CoreV1().Services("default").Create(ctx, taken, metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), "already allocated") {
		t.Errorf("a second Service with the address of a loaded one: %v", err)
	}
}

// plain takes out what differs between any two objects.
func plain(m *metav1.ObjectMeta) {
	*m = metav1.ObjectMeta{Namespace: m.Namespace, Labels: m.Labels, Annotations: m.Annotations}
}

func TestPopulation(t *testing.T) {
	p := Population{Services: 2, Endpoints: 250}
	slices := p.Slices(1)
	if len(slices) != 3 || len(slices[2].Endpoints) != 50 {
		t.Fatalf("%d slices", len(slices))
	}
	if got := slices[0].Endpoints[0].Addresses[0]; got != "100.64.0.251" {
		t.Errorf("first endpoint of the second service is %s", got)
	}
	if got := p.ClusterIP(300).String(); got != "10.96.2.44" {
		t.Errorf("ClusterIP 300 is %s", got)
	}
}

// BenchmarkPopulate is the cost of preparing a benchmark: 5,000 services are written in n times this.
func BenchmarkPopulate(b *testing.B) {
	c, err := Start(b.Context(), Config{})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	first := 0
	for _, write := range []struct {
		name string
		do   func(context.Context, Population) error
	}{{"through=api-server", c.Populate}, {"through=etcd", c.Load}} {
		for _, services := range []int{500, 5000} {
			b.Run(fmt.Sprintf("%s/services=%d", write.name, services), func(b *testing.B) {
				for b.Loop() {
					if err := write.do(b.Context(), Population{First: first, Services: services, Endpoints: 50}); err != nil {
						b.Fatal(err)
					}
					first += services
				}
				b.ReportMetric(float64(services*b.N)/b.Elapsed().Seconds(), "services/s")
			})
		}
	}
}
