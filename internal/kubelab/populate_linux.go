package kubelab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
)

// Population is a number of Services of type ClusterIP, each with one port, 80/TCP named http, and
// its EndpointSlices, written without any controller.
type Population struct {
	Namespace string // default "default"
	Services  int
	Endpoints int // of each Service, all ready

	First     int // number of the first Service, to add to an earlier population
	SliceSize int // endpoints per EndpointSlice, at most 1,000; default 100, as Kubernetes has it

	// EndpointAddr is the address of an endpoint. Default: one after the other in 100.64.0.0/10.
	EndpointAddr func(service, endpoint int) netip.Addr

	Workers int // requests at once; default 32
}

// Name is the name of Service i: svc-00000 is the first.
func (p Population) Name(i int) string { return fmt.Sprintf("svc-%05d", i) }

// ClusterIP is the address of Service i: the first is 10.96.1.0.
func (p Population) ClusterIP(i int) netip.Addr {
	return offset(netip.MustParseAddr("10.96.1.0"), i)
}

func (p Population) withDefaults() Population {
	if p.Namespace == "" {
		p.Namespace = metav1.NamespaceDefault
	}
	if p.SliceSize == 0 {
		p.SliceSize = 100
	}
	if p.Workers == 0 {
		p.Workers = 32
	}
	if p.EndpointAddr == nil {
		n := p.Endpoints
		p.EndpointAddr = func(service, endpoint int) netip.Addr {
			return offset(netip.MustParseAddr("100.64.0.1"), service*n+endpoint)
		}
	}
	return p
}

func offset(a netip.Addr, n int) netip.Addr {
	b := a.As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+uint32(n))
	return netip.AddrFrom4(b)
}

// Service returns Service i.
func (p Population) Service(i int) *corev1.Service {
	p = p.withDefaults()
	single := corev1.IPFamilyPolicySingleStack
	ip := p.ClusterIP(i).String()
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name(i)},
		Spec: corev1.ServiceSpec{
			ClusterIP: ip, ClusterIPs: []string{ip},
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, IPFamilyPolicy: &single,
			Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80, TargetPort: intstr.FromInt32(8080)}},
		},
	}
}

// Slices returns the EndpointSlices of Service i.
func (p Population) Slices(i int) []*discoveryv1.EndpointSlice {
	p = p.withDefaults()
	name, port, proto, ready := "http", int32(8080), corev1.ProtocolTCP, true
	var slices []*discoveryv1.EndpointSlice
	for from := 0; from < p.Endpoints; from += p.SliceSize {
		s := &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: p.Namespace,
				Name:      fmt.Sprintf("%s-%d", p.Name(i), len(slices)),
				Labels:    map[string]string{discoveryv1.LabelServiceName: p.Name(i), discoveryv1.LabelManagedBy: "kubelab"},
			},
			AddressType: discoveryv1.AddressTypeIPv4,
			Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &proto}},
		}
		for e := from; e < min(p.Endpoints, from+p.SliceSize); e++ {
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
				Addresses:  []string{p.EndpointAddr(i, e).String()},
				Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &ready},
			})
		}
		slices = append(slices, s)
	}
	return slices
}

// Populate writes a population. Objects that exist are left as they are.
func (c *Cluster) Populate(ctx context.Context, p Population) error {
	return p.Write(ctx, c.Client())
}

// Write is Populate for any API server.
func (p Population) Write(ctx context.Context, client kubernetes.Interface) error {
	p = p.withDefaults()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range p.Workers {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= p.Services {
					return
				}
				if err := p.writeOne(ctx, client, p.First+i); err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("populate: %w", err)
	}
	return nil
}

func (p Population) writeOne(ctx context.Context, client kubernetes.Interface, i int) error {
	var errs []error
	_, err := client.CoreV1().Services(p.Namespace).Create(ctx, p.Service(i), metav1.CreateOptions{})
	errs = append(errs, err)
	for _, s := range p.Slices(i) {
		_, err := client.DiscoveryV1().EndpointSlices(p.Namespace).Create(ctx, s, metav1.CreateOptions{})
		errs = append(errs, err)
	}
	for n, err := range errs {
		if apierrors.IsAlreadyExists(err) {
			errs[n] = nil
		}
	}
	return errors.Join(errs...)
}
