package kube

import (
	"context"
	"sync"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/klog/v2"

	"github.com/weir-project/weir/endpoints"
)

// FollowConfigMap tells set what a ConfigMap says, at first and whenever that changes, until ctx
// ends: nil if there is none, or if we may not read it. It takes the right to list and watch that
// one ConfigMap.
func (s *Source) FollowConfigMap(ctx context.Context, namespace, name string, set func(map[string]string)) error {
	api := s.Client.CoreV1().ConfigMaps(namespace)
	fields := "metadata.name=" + name
	var once sync.Once
	refused := func(err error) {
		once.Do(func() {
			klog.FromContext(ctx).Info("ConfigMap cannot be read; going on without", "name", namespace+"/"+name, "err", err)
		})
		set(nil)
	}
	follow(ctx, s, "configmap", &link{}, &v1.ConfigMap{}, refused,
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = fields
			return api.List(ctx, o)
		},
		func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = fields
			return api.Watch(ctx, o)
		},
		&store[*v1.ConfigMap, map[string]string]{
			convert: func(o *v1.ConfigMap) (map[string]string, bool, []endpoints.Problem) {
				return o.Data, o.Name == name, nil
			},
			set: func(_ endpoints.Name, data map[string]string) { set(data) },
			remove: func(gone endpoints.Name) {
				if gone.Name == name {
					set(nil)
				}
			},
			replace: func(items []*item[map[string]string]) {
				if len(items) == 0 {
					set(nil)
					return
				}
				set(items[0].value)
			},
		})
	return nil
}
