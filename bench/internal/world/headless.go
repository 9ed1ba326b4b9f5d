package world

import (
	"context"
	"errors"
	"fmt"
	"net"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ServiceName and ServiceAddr are name and cluster IP of a service of the population.
func (w *World) ServiceName(i int) string { return population(1).Name(i) }

// ServiceAddr is the cluster IP of service i.
func (w *World) ServiceAddr(i int) net.IP { return population(1).ClusterIP(i).AsSlice() }

// Headless is a headless Service whose endpoints have no other use than that there are names for them.
type Headless struct {
	w      *World
	name   string
	slices []*discoveryv1.EndpointSlice
	next   int
}

// NewHeadless makes a headless Service with some endpoints.
func (w *World) NewHeadless(ctx context.Context, name string, eps int) (*Headless, error) {
	h := &Headless{w: w, name: "headless-" + name}
	svc := &v1.Service{ObjectMeta: metav1.ObjectMeta{Name: h.name}, Spec: v1.ServiceSpec{ClusterIP: v1.ClusterIPNone,
		Ports: []v1.ServicePort{{Name: "greet", Port: GreetPort}}}}
	client := w.Cluster.Client()
	if _, err := client.CoreV1().Services("default").Create(ctx, svc, metav1.CreateOptions{}); err != nil {
		return nil, err
	}
	for from := 0; from < eps; from += 100 {
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", h.name, from), Labels: map[string]string{
				discoveryv1.LabelServiceName: h.name, discoveryv1.LabelManagedBy: "bench", v1.IsHeadlessService: ""}},
			AddressType: discoveryv1.AddressTypeIPv4,
			Ports:       []discoveryv1.EndpointPort{port("greet", GreetPort, v1.ProtocolTCP)},
		}
		for range min(100, eps-from) {
			slice.Endpoints = append(slice.Endpoints, h.endpoint())
		}
		slice, err := client.DiscoveryV1().EndpointSlices("default").Create(ctx, slice, metav1.CreateOptions{})
		if err != nil {
			return nil, err
		}
		h.slices = append(h.slices, slice)
	}
	return h, nil
}

func (h *Headless) endpoint() discoveryv1.Endpoint {
	h.next++
	ready := true
	addr := fmt.Sprintf("10.244.%d.%d", h.next/250%250, 1+h.next%250)
	return discoveryv1.Endpoint{Addresses: []string{addr}, Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &ready}}
}

// Name is the service's name in DNS.
func (h *Headless) Name() string { return h.name + ".default.svc.cluster.local." }

// Addr is the first address in slice i.
func (h *Headless) Addr(i int) net.IP {
	return net.ParseIP(h.slices[i].Endpoints[0].Addresses[0]).To4()
}

// Move gives the first endpoint another address, and returns it once the API server has it.
func (h *Headless) Move(ctx context.Context) (net.IP, error) {
	slice := h.slices[0].DeepCopy()
	slice.Endpoints[0] = h.endpoint()
	slice, err := h.w.Cluster.Client().DiscoveryV1().EndpointSlices("default").Update(ctx, slice, metav1.UpdateOptions{})
	if err != nil {
		return nil, err
	}
	h.slices[0] = slice
	return h.Addr(0), nil
}

// Delete removes the service.
func (h *Headless) Delete(ctx context.Context) error {
	client := h.w.Cluster.Client()
	errs := []error{client.CoreV1().Services("default").Delete(ctx, h.name, metav1.DeleteOptions{})}
	for _, s := range h.slices {
		errs = append(errs, client.DiscoveryV1().EndpointSlices("default").Delete(ctx, s.Name, metav1.DeleteOptions{}))
	}
	return errors.Join(errs...)
}

// Name is a Service of which only the name is of interest.
type Name struct {
	w    *World
	name string
}

// NewName returns a Service that is not there yet.
func (w *World) NewName(name string) *Name { return &Name{w, name} }

// Name is the service's name in DNS.
func (n *Name) Name() string { return n.name + ".default.svc.cluster.local." }

// Create makes the service, and returns its cluster IP, which the API server chooses.
func (n *Name) Create(ctx context.Context) (net.IP, error) {
	svc := &v1.Service{ObjectMeta: metav1.ObjectMeta{Name: n.name}, Spec: v1.ServiceSpec{Ports: []v1.ServicePort{{Name: "http", Port: 80}}}}
	svc, err := n.w.Cluster.Client().CoreV1().Services("default").Create(ctx, svc, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	return net.ParseIP(svc.Spec.ClusterIP).To4(), nil
}

// Delete removes the service.
func (n *Name) Delete(ctx context.Context) error {
	return n.w.Cluster.Client().CoreV1().Services("default").Delete(ctx, n.name, metav1.DeleteOptions{})
}
