package kube

import (
	"fmt"
	"runtime"
	"testing"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-project/weir/endpoints"
)

// TestMemory holds what an engine keeps of 5,000 services with 50 endpoints each, after their API
// objects are gone.
func TestMemory(t *testing.T) {
	const services, each = 5_000, 50
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	e := endpoints.New(endpoints.Config{NodeName: "node-1"})
	for i := range services {
		e.SetService(first(ServiceFrom(largeService(i))))
		e.SetSlice(first(SliceFrom(largeSlice(i, each))))
	}
	e.Take()
	used := heap() - before
	t.Logf("%.1f MB", float64(used)/1e6)
	if used > 20e6 {
		t.Errorf("%.1f MB for %d services with %d endpoints each, want at most 20", float64(used)/1e6, services, each)
	}
	runtime.KeepAlive(e)
}

func first[T any](v T, _ []endpoints.Problem) T { return v }

func largeService(i int) *v1.Service {
	return &v1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: fmt.Sprint("namespace-", i%50), Name: fmt.Sprint("service-", i), UID: "9f3c7ad2-4ad1-4b1c-8d55-0d8a55d8b3b7",
			Labels: map[string]string{"app.kubernetes.io/name": fmt.Sprint("service-", i)},
		},
		Spec: v1.ServiceSpec{
			ClusterIP: fmt.Sprintf("10.96.%d.%d", i/250, 1+i%250), Ports: []v1.ServicePort{{Name: "http", Port: 80}},
		},
	}
}

func largeSlice(i, endpoints int) *discoveryv1.EndpointSlice {
	name, port, yes := "http", int32(8080), true
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: fmt.Sprint("namespace-", i%50), Name: fmt.Sprintf("service-%d-x7k2p", i),
			Labels: map[string]string{discoveryv1.LabelServiceName: fmt.Sprint("service-", i)},
		},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port}},
	}
	for n := range endpoints {
		at := i*endpoints + n
		node, zone := fmt.Sprint("node-", at%1000), fmt.Sprint("zone-", at%3)
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{fmt.Sprintf("10.%d.%d.%d", 1+at>>16, at>>8&255, at&255)}, NodeName: &node, Zone: &zone,
			Conditions: discoveryv1.EndpointConditions{Ready: &yes},
		})
	}
	return s
}

func BenchmarkSliceFrom(b *testing.B) {
	for _, n := range []int{50, 1_000} {
		b.Run(fmt.Sprintf("endpoints=%d", n), func(b *testing.B) {
			s := largeSlice(1, n)
			b.ReportAllocs()
			for b.Loop() {
				SliceFrom(s)
			}
		})
	}
}
