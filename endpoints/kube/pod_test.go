package kube

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/weir-project/weir/endpoints"
)

func testPod(name string, change func(*v1.Pod)) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	p.Spec.NodeName, p.Spec.DNSPolicy = "here", v1.DNSClusterFirst
	p.Status.Phase, p.Status.PodIP, p.Status.PodIPs = v1.PodRunning, "10.0.0.1", []v1.PodIP{{IP: "10.0.0.1"}, {IP: "fd00::1"}}
	if change != nil {
		change(p)
	}
	return p
}

func options(kv ...string) (list []v1.PodDNSConfigOption) {
	for i := 0; i < len(kv); i += 2 {
		list = append(list, v1.PodDNSConfigOption{Name: kv[i], Value: &kv[i+1]})
	}
	return list
}

func TestPodFrom(t *testing.T) {
	for _, tt := range []struct {
		name     string
		change   func(*v1.Pod)
		want     string
		problems string
	}{
		{"an ordinary one", nil, "[10.0.0.1 fd00::1] true [] -1", ""},
		{"only podIP", func(p *v1.Pod) { p.Status.PodIPs = nil }, "[10.0.0.1] true [] -1", ""},
		{"pending, with an address", func(p *v1.Pod) { p.Status.Phase = v1.PodPending }, "[10.0.0.1 fd00::1] true [] -1", ""},
		{"without an address", func(p *v1.Pod) { p.Status.PodIP, p.Status.PodIPs = "", nil }, "", ""},
		{"succeeded", func(p *v1.Pod) { p.Status.Phase = v1.PodSucceeded }, "", ""},
		{"failed", func(p *v1.Pod) { p.Status.Phase = v1.PodFailed }, "", ""},
		{"of the node's network", func(p *v1.Pod) { p.Spec.HostNetwork = true; p.Spec.DNSPolicy = v1.DNSClusterFirstWithHostNet }, "", ""},
		{"Default", func(p *v1.Pod) { p.Spec.DNSPolicy = v1.DNSDefault }, "", ""},
		{"ClusterFirstWithHostNet without the node's network", func(p *v1.Pod) { p.Spec.DNSPolicy = v1.DNSClusterFirstWithHostNet },
			"[10.0.0.1 fd00::1] true [] -1", ""},
		{"None", func(p *v1.Pod) {
			p.Spec.DNSPolicy, p.Spec.DNSConfig = v1.DNSNone, &v1.PodDNSConfig{Searches: []string{"a.example", "b.example"}}
		}, "[10.0.0.1 fd00::1] false [a.example b.example] -1", ""},
		{"options", func(p *v1.Pod) {
			p.Spec.DNSConfig = &v1.PodDNSConfig{Options: append(options("ndots", "2", "timeout", "1", "ndots", "1"), v1.PodDNSConfigOption{Name: "ndots"})}
		}, "[10.0.0.1 fd00::1] true [] 1", ""},
		{"more dots than a resolver counts", func(p *v1.Pod) { p.Spec.DNSConfig = &v1.PodDNSConfig{Options: options("ndots", "99")} },
			"[10.0.0.1 fd00::1] true [] 15", ""},
		{"no number of dots", func(p *v1.Pod) { p.Spec.DNSConfig = &v1.PodDNSConfig{Options: options("ndots", "many")} },
			"[10.0.0.1 fd00::1] true [] -1", `Pod default/p: spec.dnsConfig.options[0].value: "many" is not a number of dots`},
		{"addresses that make no sense", func(p *v1.Pod) { p.Status.PodIPs = []v1.PodIP{{IP: "nonsense"}, {IP: "127.0.0.1"}, {IP: "10.0.0.2"}} },
			"[10.0.0.2] true [] -1", `Pod default/p: status.podIPs[0].ip: "nonsense" is not an IP address (and 1 more like it)`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, problems := PodFrom(testPod("p", tt.change))
			got := ""
			if p != nil {
				got = fmt.Sprint(p.Addrs, " ", p.ClusterFirst, " ", p.Searches, " ", p.NDots)
			}
			if got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
			var list []string
			for _, p := range problems {
				list = append(list, p.Error())
			}
			if diff := cmp.Diff(tt.problems, strings.Join(list, "\n")); diff != "" {
				t.Errorf("problems (-want +got)\n%s", diff)
			}
		})
	}
}

// podSpy writes down what it is told.
type podSpy chan string

func (s podSpy) ReplacePods(list []*endpoints.Pod) {
	var names []string
	for _, p := range list {
		names = append(names, p.Name.Name)
	}
	s <- fmt.Sprint("replace ", names)
}
func (s podSpy) SetPod(p *endpoints.Pod)       { s <- fmt.Sprint("set ", p.Name.Name, " ", p.Addrs) }
func (s podSpy) DeletePod(name endpoints.Name) { s <- fmt.Sprint("delete ", name.Name) }

// TestFollowPods follows the pods of a node, one of which ends before it goes.
func TestFollowPods(t *testing.T) {
	api := newAPIServer()
	api.set(pathPods, testPod("a", nil))
	api.set(pathPods, testPod("host", func(p *v1.Pod) { p.Spec.HostNetwork = true }))
	spy := followPods(t, api)
	spy.expect(t, "replace [a]")
	api.mu.Lock()
	if asked := api.asked[pathPods]; asked != "spec.nodeName=here" {
		t.Errorf("asked for %q", asked)
	}
	api.mu.Unlock()
	api.set(pathPods, testPod("b", func(p *v1.Pod) { p.Status.PodIPs = []v1.PodIP{{IP: "10.0.0.2"}} }))
	spy.expect(t, "set b [10.0.0.2]")
	api.set(pathPods, testPod("a", func(p *v1.Pod) { p.Status.Phase = v1.PodSucceeded }))
	spy.expect(t, "delete a")
	api.delete(pathPods, "default", "b")
	spy.expect(t, "delete b")
}

// TestPodsForbidden goes on without pods that it may not read.
func TestPodsForbidden(t *testing.T) {
	api := newAPIServer()
	api.refuse[pathPods] = http.StatusForbidden
	followPods(t, api).expect(t, "replace []")
}

func followPods(t *testing.T, api *apiServer) podSpy {
	client, err := kubernetes.NewForConfig(&rest.Config{Host: serve(t, api).URL, QPS: 1000, Burst: 1000})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	spy, done := make(podSpy, 100), make(chan error)
	go func() { done <- NewSource(Config{Client: client, Reporter: &reports{}}).FollowPods(ctx, "here", spy) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return spy
}

func (s podSpy) expect(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-s:
		if got != want {
			t.Errorf("told %q, want %q", got, want)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("never told %q", want)
	}
}
