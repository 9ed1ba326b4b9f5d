//go:build linux

package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const namespace = metav1.NamespaceDefault

// service returns a Service of both families with the cluster IPs that end in n, and the ports 80/TCP
// and 80/UDP.
func (w *world) service(name string, n int) *v1.Service {
	s := &v1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1.ServiceSpec{
		Ports: []v1.ServicePort{
			{Name: "tcp", Protocol: v1.ProtocolTCP, Port: 80},
			{Name: "udp", Protocol: v1.ProtocolUDP, Port: 80},
		},
	}}
	policy := v1.IPFamilyPolicySingleStack
	for _, f := range w.families() {
		s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, f.clusterIP(n).String())
		s.Spec.IPFamilies = append(s.Spec.IPFamilies, f.api())
	}
	if len(s.Spec.IPFamilies) > 1 {
		policy = v1.IPFamilyPolicyRequireDualStack
	}
	s.Spec.ClusterIP, s.Spec.IPFamilyPolicy = s.Spec.ClusterIPs[0], &policy
	return s
}

// nodePort makes a Service one of type NodePort. The UDP port is the next number.
func nodePort(s *v1.Service, port int32) *v1.Service {
	s.Spec.Type = v1.ServiceTypeNodePort
	for i := range s.Spec.Ports {
		s.Spec.Ports[i].NodePort = port + int32(i)
	}
	return s
}

func (f family) api() v1.IPFamily {
	if f == 4 {
		return v1.IPv4Protocol
	}
	return v1.IPv6Protocol
}

// slice returns an EndpointSlice of a service of ours in one family, with those hosts as ready endpoints.
func (w *world) slice(service string, f family, hosts ...string) *discoveryv1.EndpointSlice {
	s := bareSlice(fmt.Sprintf("%s-v%d", service, f), service, f)
	s.Ports = []discoveryv1.EndpointPort{slicePort("tcp", v1.ProtocolTCP, backendPort), slicePort("udp", v1.ProtocolUDP, backendPort)}
	for _, h := range hosts {
		s.Endpoints = append(s.Endpoints, endpoint(f.of(w.lab.Host(h)).String(), true))
	}
	return s
}

// bareSlice returns an EndpointSlice without ports and endpoints.
func bareSlice(name, service string, f family) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressType(f.api()),
	}
}

func slicePort(name string, proto v1.Protocol, number int32) discoveryv1.EndpointPort {
	return discoveryv1.EndpointPort{Name: &name, Protocol: &proto, Port: &number}
}

func endpoint(addr string, ready bool) discoveryv1.Endpoint {
	return discoveryv1.Endpoint{Addresses: []string{addr}, Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &ready}}
}

// try creates or updates objects, whatever version of them is there.
func (w *world) try(ctx context.Context, objects ...any) error {
	var errs []error
	for _, o := range objects {
		switch o := o.(type) {
		case *v1.Service:
			errs = append(errs, w.putService(ctx, o))
		case *discoveryv1.EndpointSlice:
			api := w.api.DiscoveryV1().EndpointSlices(namespace)
			_, err := api.Update(ctx, o, metav1.UpdateOptions{})
			if apierrors.IsNotFound(err) {
				_, err = api.Create(ctx, o, metav1.CreateOptions{})
			}
			errs = append(errs, err)
		default:
			panic(fmt.Sprintf("what is a %T?", o))
		}
	}
	return errors.Join(errs...)
}

func (w *world) putService(ctx context.Context, s *v1.Service) error {
	api := w.api.CoreV1().Services(namespace)
	old, err := api.Get(ctx, s.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = api.Create(ctx, s, metav1.CreateOptions{})
		return err
	}
	if err != nil {
		return err
	}
	s = s.DeepCopy()
	s.ResourceVersion = old.ResourceVersion
	_, err = api.Update(ctx, s, metav1.UpdateOptions{})
	return err
}

// put is try for what must succeed.
func (w *world) put(t *testing.T, objects ...any) {
	t.Helper()
	if err := w.try(t.Context(), objects...); err != nil {
		t.Fatal(err)
	}
}

// scale makes hosts the endpoints of a service, in every family.
func (w *world) scale(t *testing.T, service string, hosts ...string) {
	t.Helper()
	for _, f := range w.families() {
		w.put(t, w.slice(service, f, hosts...))
	}
}

// remove deletes a service and its slices.
func (w *world) remove(t *testing.T, service string) {
	t.Helper()
	if err := w.tryRemove(t.Context(), service); err != nil {
		t.Fatal(err)
	}
}

func (w *world) tryRemove(ctx context.Context, service string) error {
	err := w.api.CoreV1().Services(namespace).Delete(ctx, service, metav1.DeleteOptions{})
	return errors.Join(err, w.api.DiscoveryV1().EndpointSlices(namespace).DeleteCollection(ctx, metav1.DeleteOptions{},
		metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + service}))
}

// event waits for an event of weir's about an object, and returns what it says.
func (w *world) event(t *testing.T, kind, name string) (note string) {
	t.Helper()
	eventually(t, func() error {
		list, err := w.api.EventsV1().Events("").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, e := range list.Items {
			if e.Regarding.Kind == kind && e.Regarding.Name == name && e.ReportingController == "weir" {
				note = e.Type + " " + e.Reason + ": " + e.Note
				return nil
			}
		}
		return fmt.Errorf("no event of weir's about %s %s among %d", kind, name, len(list.Items))
	})
	return note
}

// clusterIP is the frontend of a service at its port 80.
func clusterIP(f family, n int) netip.AddrPort { return netip.AddrPortFrom(f.clusterIP(n), 80) }

// putStatus writes the status of a Service.
func (w *world) putStatus(t *testing.T, s *v1.Service) {
	t.Helper()
	api := w.api.CoreV1().Services(namespace)
	now, err := api.Get(t.Context(), s.Name, metav1.GetOptions{})
	if err == nil {
		now.Status = s.Status
		_, err = api.UpdateStatus(t.Context(), now, metav1.UpdateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
}
