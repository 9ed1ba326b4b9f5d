package kube

import (
	"context"
	"net/netip"
	"slices"
	"strconv"
	"sync"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/klog/v2"

	"github.com/weir-project/weir/endpoints"
)

// PodFrom returns how a pod looks names up, and which of its fields are set aside. The result is nil
// if its address says nothing of that: it has none yet, it has the node's, it has ended, so that
// another one may have the address already, or it uses the node's resolver.
func PodFrom(p *v1.Pod) (*endpoints.Pod, []endpoints.Problem) {
	if p.Spec.HostNetwork || p.Spec.DNSPolicy == v1.DNSDefault ||
		p.Status.Phase == v1.PodSucceeded || p.Status.Phase == v1.PodFailed {
		return nil, nil
	}
	found := findings{kind: "Pod", meta: &p.ObjectMeta}
	out := &endpoints.Pod{Name: nameOf(p), ClusterFirst: p.Spec.DNSPolicy != v1.DNSNone, NDots: -1}
	out.Addrs = podAddrs(&found, &p.Status)
	if len(out.Addrs) == 0 {
		return nil, found.problems()
	}
	if c := p.Spec.DNSConfig; c != nil {
		out.Searches = slices.Clone(c.Searches)
		out.NDots = ndots(&found, c.Options)
	}
	return out, found.problems()
}

func podAddrs(found *findings, s *v1.PodStatus) (list []netip.Addr) {
	ips := s.PodIPs
	if len(ips) == 0 && s.PodIP != "" {
		ips = []v1.PodIP{{IP: s.PodIP}}
	}
	for i, ip := range ips {
		a, reason := parseUsable(ip.IP)
		if reason != "" {
			found.add(reason, "status.podIPs[%d].ip", i)
		} else if !slices.Contains(list, a) {
			list = append(list, a)
		}
	}
	return list
}

// maxNDots is what resolvers make of more.
const maxNDots = 15

// ndots returns the option of that name, the last one if there are several; -1 if there is none.
func ndots(found *findings, options []v1.PodDNSConfigOption) int {
	n := -1
	for i, o := range options {
		if o.Name != "ndots" || o.Value == nil {
			continue
		}
		v, err := strconv.Atoi(*o.Value)
		if err != nil || v < 0 {
			found.add(strconv.Quote(*o.Value)+" is not a number of dots", "spec.dnsConfig.options[%d].value", i)
			continue
		}
		n = min(v, maxNDots)
	}
	return n
}

// FollowPods tells a sink of the pods of one node until ctx ends; that there are none, if we may not
// read them. It takes the right to list and watch pods.
func (s *Source) FollowPods(ctx context.Context, node string, sink endpoints.PodSink) error {
	api := s.Client.CoreV1().Pods(metav1.NamespaceAll)
	fields := "spec.nodeName=" + node
	var once sync.Once
	refused := func(err error) {
		once.Do(func() {
			klog.FromContext(ctx).Info("Pods cannot be read; going on without: their search lists cost a query for each domain", "err", err)
		})
		sink.ReplacePods(nil)
	}
	follow(ctx, s, "pods", &link{}, &v1.Pod{}, refused,
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = fields
			return api.List(ctx, o)
		},
		func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = fields
			return api.Watch(ctx, o)
		},
		&store[*v1.Pod, *endpoints.Pod]{
			convert: func(o *v1.Pod) (*endpoints.Pod, bool, []endpoints.Problem) {
				v, problems := PodFrom(o)
				return v, v != nil && o.Spec.NodeName == node, problems
			},
			set:     func(_ endpoints.Name, v *endpoints.Pod) { sink.SetPod(v) },
			remove:  sink.DeletePod,
			replace: func(items []*item[*endpoints.Pod]) { sink.ReplacePods(values(items)) },
		})
	return nil
}
