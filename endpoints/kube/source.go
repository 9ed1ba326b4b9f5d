package kube

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/weir-project/weir/endpoints"
)

// What we ask the API server for, unless it is for DNS too, which wants everything. An object that begins or ceases to match arrives as added or
// deleted.
const (
	serviceLabels = "!" + labelProxyName
	serviceFields = "spec.clusterIP!=" + v1.ClusterIPNone
	sliceLabels   = "!" + labelHeadless
)

// Config says what a Source reads, for whom, and where it tells.
type Config struct {
	Client   kubernetes.Interface
	NodeName string // the name of this machine's Node object
	Sink     endpoints.Sink
	Reporter endpoints.Reporter
	// DNS reads what names depend on too: headless services and their slices, services of other
	// proxies and of type ExternalName, hostnames, and Namespaces, which takes the right to list and
	// watch those.
	DNS bool
	// NamesOnly, with DNS, leaves out what only traffic depends on: the node and the ServiceCIDRs.
	NamesOnly bool
}

// Source feeds a sink with what an API server says.
type Source struct {
	Config
}

// NewSource returns a source that has not read anything yet.
func NewSource(c Config) *Source { return &Source{c} }

// Run lists and watches until ctx ends. Whatever goes wrong with the API server, it goes on trying.
func (s *Source) Run(ctx context.Context) error {
	l := &link{}
	var running sync.WaitGroup
	follows := []func(context.Context, *link){s.services, s.slices}
	if s.DNS {
		follows = append(follows, s.namespaces)
	}
	if !s.NamesOnly {
		follows = append(follows, s.node, s.serviceCIDRs)
	}
	for _, run := range follows {
		running.Go(func() { run(ctx, l) })
	}
	running.Wait()
	return nil
}

func (s *Source) services(ctx context.Context, l *link) {
	api := s.Client.CoreV1().Services(metav1.NamespaceAll)
	labels, fields, from := serviceLabels, serviceFields, ServiceFrom
	if s.DNS {
		labels, fields, from = "", "", DNSServiceFrom
	}
	follow(ctx, s, "services", l, &v1.Service{}, nil,
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.LabelSelector, o.FieldSelector = labels, fields
			return api.List(ctx, o)
		},
		func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.LabelSelector, o.FieldSelector = labels, fields
			return api.Watch(ctx, o)
		},
		&store[*v1.Service, *endpoints.Service]{
			convert: func(o *v1.Service) (*endpoints.Service, bool, []endpoints.Problem) {
				v, problems := from(o)
				return v, v != nil, problems
			},
			set:     func(_ endpoints.Name, v *endpoints.Service) { s.Sink.SetService(v) },
			remove:  s.Sink.DeleteService,
			replace: func(items []*item[*endpoints.Service]) { s.Sink.ReplaceServices(values(items)) },
		})
}

func (s *Source) slices(ctx context.Context, l *link) {
	api := s.Client.DiscoveryV1().EndpointSlices(metav1.NamespaceAll)
	labels, from := sliceLabels, SliceFrom
	if s.DNS {
		labels, from = "", DNSSliceFrom
	}
	follow(ctx, s, "endpointslices", l, &discoveryv1.EndpointSlice{}, nil,
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.LabelSelector = labels
			return api.List(ctx, o)
		},
		func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.LabelSelector = labels
			return api.Watch(ctx, o)
		},
		&store[*discoveryv1.EndpointSlice, *endpoints.Slice]{
			convert: func(o *discoveryv1.EndpointSlice) (*endpoints.Slice, bool, []endpoints.Problem) {
				v, problems := from(o)
				return v, v != nil, problems
			},
			set:     func(_ endpoints.Name, v *endpoints.Slice) { s.Sink.SetSlice(v) },
			remove:  s.Sink.DeleteSlice,
			replace: func(items []*item[*endpoints.Slice]) { s.Sink.ReplaceSlices(values(items)) },
		})
}

// namespaces follows the names of all Namespaces. Where we may not read them, those count that have
// a service in them.
func (s *Source) namespaces(ctx context.Context, l *link) {
	api := s.Client.CoreV1().Namespaces()
	var once sync.Once
	refused := func(err error) {
		once.Do(func() {
			klog.FromContext(ctx).Info("Namespaces cannot be read; going on without: "+
				"DNS takes those for existing that have a Service", "err", err)
		})
		s.Sink.ReplaceNamespaces(nil)
	}
	follow(ctx, s, "namespaces", l, &v1.Namespace{}, refused,
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return api.List(ctx, o) },
		func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) { return api.Watch(ctx, o) },
		&store[*v1.Namespace, struct{}]{
			convert: func(*v1.Namespace) (struct{}, bool, []endpoints.Problem) { return struct{}{}, true, nil },
			set:     func(name endpoints.Name, _ struct{}) { s.Sink.SetNamespace(name.Name) },
			remove:  func(name endpoints.Name) { s.Sink.DeleteNamespace(name.Name) },
			replace: func(items []*item[struct{}]) {
				list := make([]string, len(items))
				for n, i := range items {
					list[n] = i.name.Name
				}
				s.Sink.ReplaceNamespaces(list)
			},
		})
}

// node follows this machine's own Node, which is a list of one or none.
func (s *Source) node(ctx context.Context, l *link) {
	if s.NodeName == "" {
		s.Sink.SetNode(nil)
		return
	}
	api := s.Client.CoreV1().Nodes()
	fields := "metadata.name=" + s.NodeName
	follow(ctx, s, "node", l, &v1.Node{}, nil,
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = fields
			return api.List(ctx, o)
		},
		func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = fields
			return api.Watch(ctx, o)
		},
		&store[*v1.Node, *endpoints.Node]{
			convert: func(o *v1.Node) (*endpoints.Node, bool, []endpoints.Problem) {
				v, problems := NodeFrom(o)
				return v, o.Name == s.NodeName, problems
			},
			set: func(_ endpoints.Name, v *endpoints.Node) { s.Sink.SetNode(v) },
			remove: func(name endpoints.Name) {
				if name.Name == s.NodeName {
					s.Sink.SetNode(nil)
				}
			},
			replace: func(items []*item[*endpoints.Node]) {
				if len(items) == 0 {
					s.Sink.SetNode(nil)
					return
				}
				s.Sink.SetNode(items[0].value)
			},
		})
}

// serviceCIDRs follows all ServiceCIDRs. Servers before 1.33 do not have them, and we may not be
// allowed to read them: the ranges are then unknown, and everything else works.
func (s *Source) serviceCIDRs(ctx context.Context, l *link) {
	api := s.Client.NetworkingV1().ServiceCIDRs()
	ranges := map[endpoints.Name][]netip.Prefix{}
	tell := func() { s.Sink.SetServiceCIDRs(JoinServiceCIDRs(slices.Collect(maps.Values(ranges))...)) }
	var once sync.Once
	refused := func(err error) {
		once.Do(func() {
			klog.FromContext(ctx).Info("ServiceCIDRs cannot be read; going on without: "+
				"packets to unused addresses of the service ranges are not dropped", "err", err)
		})
		s.Sink.SetServiceCIDRs(nil)
	}
	follow(ctx, s, "servicecidrs", l, &networkingv1.ServiceCIDR{}, refused,
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return api.List(ctx, o) },
		func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) { return api.Watch(ctx, o) },
		&store[*networkingv1.ServiceCIDR, []netip.Prefix]{
			convert: func(o *networkingv1.ServiceCIDR) ([]netip.Prefix, bool, []endpoints.Problem) {
				v, problems := ServiceCIDRsFrom(o)
				return v, true, problems
			},
			set:    func(name endpoints.Name, v []netip.Prefix) { ranges[name] = v; tell() },
			remove: func(name endpoints.Name) { delete(ranges, name); tell() },
			replace: func(items []*item[[]netip.Prefix]) {
				clear(ranges)
				for _, i := range items {
					ranges[i.name] = i.value
				}
				tell()
			},
		})
}

// follow lists and watches one kind of object, of which example is one, into a store until ctx
// ends. A server that refuses such objects at all is told to refused, if not nil, and asked again
// much later.
func follow[O interface {
	metav1.Object
	runtime.Object
}, V any](
	ctx context.Context, s *Source, name string, l *link, example O, refused func(error),
	list cache.ListWithContextFunc, watchFor cache.WatchFuncWithContext, to *store[O, V],
) {
	to.reporter = s.Reporter
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (objects runtime.Object, err error) {
			err = l.insist(ctx, refused, func() error { objects, err = list(ctx, o); return err })
			return objects, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (w watch.Interface, err error) {
			err = l.insist(ctx, refused, func() error { w, err = watchFor(ctx, o); return err })
			return w, err
		},
	}
	logger := klog.FromContext(ctx)
	cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(lw, s.Client), example, to, cache.ReflectorOptions{
		Logger:  &logger,
		Name:    name,
		Backoff: &wait.Backoff{Duration: 200 * time.Millisecond, Factor: 2, Jitter: 1, Steps: 8, Cap: 30 * time.Second},
	}).RunWithContext(ctx)
}
