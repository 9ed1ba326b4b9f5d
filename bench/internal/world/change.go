package world

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/weir-project/weir/bench/internal/wire"
)

// Service is a service of our own, outside the population, whose endpoints we change while we look
// where its connections go.
type Service struct {
	w     *World
	name  string
	ip    netip.Addr
	eps   int
	sink  bool // leads to the sink too
	slice []*discoveryv1.EndpointSlice
	next  int // address of the next endpoint that is new
}

// NewService makes service i of our own, with some endpoints.
func (w *World) NewService(ctx context.Context, i, eps int) (*Service, error) {
	s := w.ownService(i, eps)
	return s, s.create(ctx)
}

// NewSinkService is NewService with one endpoint and two ports more, TCP and UDP, that lead to a sink.
func (w *World) NewSinkService(ctx context.Context, i int) (*Service, error) {
	s := w.ownService(i, 1)
	s.sink = true
	return s, s.create(ctx)
}

func (w *World) ownService(i, eps int) *Service {
	return &Service{w: w, name: fmt.Sprintf("own-%02d", i), eps: eps, ip: netip.AddrFrom4([4]byte{10, 96, 0, byte(20 + i)})}
}

// Frontend is where the service greets.
func (s *Service) Frontend() netip.AddrPort { return netip.AddrPortFrom(s.ip, 80) }

// SinkFrontend is where the service leads to a sink, over TCP and UDP.
func (s *Service) SinkFrontend() netip.AddrPort { return netip.AddrPortFrom(s.ip, 81) }

// SinkBackend is the same at an endpoint.
func (s *Service) SinkBackend() netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(s.slice[0].Endpoints[0].Addresses[0]), SinkPort)
}

func (s *Service) address() netip.Addr {
	b := ownNet.As4()
	b[1], b[2], b[3] = b[1]+byte(s.next>>16), byte(s.next>>8), byte(s.next)
	s.next = (s.next + 1) % ownAddrs
	return netip.AddrFrom4(b)
}

func (s *Service) create(ctx context.Context) error {
	client := s.w.Cluster.Client()
	single := v1.IPFamilyPolicySingleStack
	svc := &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: s.name},
		Spec: v1.ServiceSpec{
			ClusterIP: s.ip.String(), ClusterIPs: []string{s.ip.String()},
			IPFamilies: []v1.IPFamily{v1.IPv4Protocol}, IPFamilyPolicy: &single,
			Ports: []v1.ServicePort{{Name: "greet", Protocol: v1.ProtocolTCP, Port: 80, TargetPort: intstr.FromInt32(GreetPort)}},
		},
	}
	if s.sink {
		svc.Spec.Ports = append(svc.Spec.Ports,
			v1.ServicePort{Name: "sink", Protocol: v1.ProtocolTCP, Port: 81, TargetPort: intstr.FromInt32(SinkPort)},
			v1.ServicePort{Name: "sink-udp", Protocol: v1.ProtocolUDP, Port: 81, TargetPort: intstr.FromInt32(SinkPort)})
	}
	if _, err := client.CoreV1().Services("default").Create(ctx, svc, metav1.CreateOptions{}); err != nil {
		return err
	}
	for from := 0; from < s.eps; from += 100 {
		slice, err := client.DiscoveryV1().EndpointSlices("default").Create(ctx, s.newSlice(from, min(100, s.eps-from)), metav1.CreateOptions{})
		if err != nil {
			return err
		}
		s.slice = append(s.slice, slice)
	}
	return nil
}

func (s *Service) newSlice(from, n int) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", s.name, from),
			Labels: map[string]string{discoveryv1.LabelServiceName: s.name, discoveryv1.LabelManagedBy: "bench"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{port("greet", GreetPort, v1.ProtocolTCP)},
	}
	if s.sink {
		slice.Ports = append(slice.Ports, port("sink", SinkPort, v1.ProtocolTCP), port("sink-udp", SinkPort, v1.ProtocolUDP))
	}
	for range n {
		slice.Endpoints = append(slice.Endpoints, s.endpoint())
	}
	return slice
}

func port(name string, number int32, protocol v1.Protocol) discoveryv1.EndpointPort {
	return discoveryv1.EndpointPort{Name: &name, Port: &number, Protocol: &protocol}
}

func (s *Service) endpoint() discoveryv1.Endpoint {
	ready := true
	return discoveryv1.Endpoint{Addresses: []string{s.address().String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &ready}}
}

// update writes slice i of the service.
func (s *Service) update(ctx context.Context, i int) error {
	slice, err := s.w.Cluster.Client().DiscoveryV1().EndpointSlices("default").Update(ctx, s.slice[i], metav1.UpdateOptions{})
	if err == nil {
		s.slice[i] = slice
	}
	return err
}

// Delete removes the service.
func (s *Service) Delete(ctx context.Context) error {
	client := s.w.Cluster.Client()
	errs := []error{client.CoreV1().Services("default").Delete(ctx, s.name, metav1.DeleteOptions{})}
	for _, slice := range s.slice {
		errs = append(errs, client.DiscoveryV1().EndpointSlices("default").Delete(ctx, slice.Name, metav1.DeleteOptions{}))
	}
	return errors.Join(errs...)
}

// Latency is how long something took to reach the packets.
type Latency struct {
	FromWrite    time.Duration // since the request to the API server was sent
	Write        time.Duration // until the API server's response
	FromResponse time.Duration // since its response; 0 if the packets were first
	wire.Answer
}

// ProbeEvery is the interval at which connections look for a change: 2,000 a second.
const ProbeEvery = 500 * time.Microsecond

// Swap replaces the service's only endpoint, and returns how long it took until new connections came
// to the new one.
func (s *Service) Swap(ctx context.Context) (Latency, error) {
	e := s.endpoint()
	s.slice[0].Endpoints[0] = e
	return s.observe(ctx, netip.MustParseAddr(e.Addresses[0]), func() error { return s.update(ctx, 0) })
}

// SwapQuietly replaces the only endpoint and does not look.
func (s *Service) SwapQuietly(ctx context.Context) (want netip.Addr, err error) {
	e := s.endpoint()
	s.slice[0].Endpoints[0] = e
	return netip.MustParseAddr(e.Addresses[0]), s.update(ctx, 0)
}

// Create makes service i of our own, with one endpoint, and returns how long it took until it answered.
func (w *World) Create(ctx context.Context, i int) (s *Service, l Latency, err error) {
	s = w.ownService(i, 1)
	l, err = s.observe(ctx, netip.Addr{}, func() error { return s.create(ctx) })
	return s, l, err
}

// changeTimeout is after how long a change counts as lost.
const changeTimeout = 3 * time.Minute

// observe writes something while it looks for what becomes of it.
func (s *Service) observe(ctx context.Context, want netip.Addr, write func() error) (l Latency, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, changeTimeout, errors.New("nothing for three minutes"))
	defer cancel()
	var sent, responded time.Time
	var writeErr error
	written := make(chan struct{})
	go func() {
		defer close(written)
		time.Sleep(5 * time.Millisecond) // the probing is under way
		sent = time.Now()
		if writeErr = write(); writeErr != nil {
			cancel()
		}
		responded = time.Now()
	}()
	l.Answer, err = wire.Until(ctx, s.w.Client, s.Frontend(), want, ProbeEvery)
	<-written
	if writeErr != nil {
		return l, writeErr
	}
	if err != nil {
		return l, errors.Join(err, context.Cause(ctx))
	}
	l.FromWrite, l.Write, l.FromResponse = l.Start.Sub(sent), responded.Sub(sent), max(0, l.Start.Sub(responded))
	return l, nil
}

// Roll replaces all endpoints of the service, some at a time as a Deployment does, by as many writes,
// one after the other. It does not look.
func (s *Service) Roll(ctx context.Context, atOnce int) (writes int, err error) {
	for i, slice := range s.slice {
		for from := 0; from < len(slice.Endpoints); from += atOnce {
			for e := from; e < min(from+atOnce, len(slice.Endpoints)); e++ {
				s.slice[i].Endpoints[e] = s.endpoint()
			}
			if err := s.update(ctx, i); err != nil {
				return writes, err
			}
			writes++
		}
	}
	return writes, nil
}

// Touch replaces one endpoint in the slice in the middle, and does not look.
func (s *Service) Touch(ctx context.Context) error {
	i := len(s.slice) / 2
	s.slice[i].Endpoints[len(s.slice[i].Endpoints)/2] = s.endpoint()
	return s.update(ctx, i)
}

// Churn changes one endpoint of one service after the other, at random, until ctx ends.
type Churn struct {
	Writes atomic.Int64
	Behind atomic.Int64 // that were due but not made, since the API server did not keep up

	cancel context.CancelFunc
	wg     sync.WaitGroup
	errs   chan error
}

// StartChurn begins to change endpoints of the population at a rate per second.
func (w *World) StartChurn(ctx context.Context, eps, rate int) *Churn {
	ctx, cancel := context.WithCancel(ctx)
	c := &Churn{cancel: cancel, errs: make(chan error, 1)}
	const writers = 16
	due := make(chan int, writers)
	whole := context.WithoutCancel(ctx) // a write that is under way comes to its end
	for range writers {
		c.wg.Go(func() {
			for i := range due {
				if err := w.change(whole, i, eps); err != nil && ctx.Err() == nil {
					select {
					case c.errs <- err:
					default:
					}
				}
				c.Writes.Add(1)
			}
		})
	}
	c.wg.Go(func() {
		defer close(due)
		tick := time.NewTicker(time.Second / time.Duration(rate))
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			select {
			case due <- rand.IntN(w.services):
			default:
				c.Behind.Add(1)
			}
		}
	})
	return c
}

// Stop ends the churn and returns the first error that a write met.
func (c *Churn) Stop() error {
	c.cancel()
	c.wg.Wait()
	select {
	case err := <-c.errs:
		return err
	default:
		return nil
	}
}

// change gives one endpoint of service i a new address, without reading the slice before: what it
// was like is known, but for the one endpoint.
func (w *World) change(ctx context.Context, i, eps int) error {
	slice := population(eps).Slices(i)[0]
	b := ownNet.As4()
	b[1]--
	b[2], b[3] = byte(rand.Uint32()), byte(rand.Uint32())
	slice.Endpoints[rand.IntN(len(slice.Endpoints))].Addresses[0] = netip.AddrFrom4(b).String()
	_, err := w.Cluster.Client().DiscoveryV1().EndpointSlices("default").Update(ctx, slice, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) {
		return nil // another writer was first; that was a change too
	}
	return err
}
