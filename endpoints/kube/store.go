package kube

import (
	"cmp"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/weir-project/weir/endpoints"
)

// item is an API object after conversion, on its way to the sink. While a list is streamed in, the
// reflector collects items instead of the objects, which are larger by far.
type item[V any] struct {
	name     endpoints.Name
	uid      types.UID
	version  string // metadata.resourceVersion
	value    V
	present  bool // value is for the sink; otherwise the object is as good as absent
	problems []endpoints.Problem
}

// The reflector's check that a streamed list is what a list would have been (an option of its
// tests) wants items to be objects.
var _ runtime.Object = &item[any]{}

// GetObjectKind implements runtime.Object.
func (*item[V]) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// DeepCopyObject implements runtime.Object. An item does not change, so it is its own copy.
func (i *item[V]) DeepCopyObject() runtime.Object { return i }

// GetObjectMeta implements metav1.ObjectMetaAccessor.
func (i *item[V]) GetObjectMeta() metav1.Object {
	return &metav1.ObjectMeta{Namespace: i.name.Namespace, Name: i.name.Name, UID: i.uid, ResourceVersion: i.version}
}

// store is what a reflector of objects O writes to. It keeps nothing of them, but passes them on as
// values V.
type store[O metav1.Object, V any] struct {
	// convert reads an object. It returns false if the object is not for us.
	convert func(O) (V, bool, []endpoints.Problem)
	set     func(endpoints.Name, V)
	remove  func(endpoints.Name)
	replace func([]*item[V])

	reporter endpoints.Reporter
	// reported has, for each object with problems, the version whose problems have been reported.
	reported map[endpoints.Name]string
}

// Transformer implements cache.TransformingStore.
func (s *store[O, V]) Transformer() cache.TransformFunc {
	return func(obj any) (any, error) { return s.item(obj) }
}

// item converts an object, unless that has been done.
func (s *store[O, V]) item(obj any) (*item[V], error) {
	switch o := obj.(type) {
	case *item[V]:
		return o, nil
	case O:
		i := &item[V]{name: nameOf(o), uid: o.GetUID(), version: o.GetResourceVersion()}
		i.value, i.present, i.problems = s.convert(o)
		return i, nil
	}
	return nil, fmt.Errorf("convert %T: unexpected type", obj)
}

// Add implements cache.ReflectorStore.
func (s *store[O, V]) Add(obj any) error {
	i, err := s.item(obj)
	if err != nil {
		return err
	}
	s.report(i)
	if i.present {
		s.set(i.name, i.value)
	} else {
		s.remove(i.name)
	}
	return nil
}

// Update implements cache.ReflectorStore.
func (s *store[O, V]) Update(obj any) error { return s.Add(obj) }

// Delete implements cache.ReflectorStore.
func (s *store[O, V]) Delete(obj any) error {
	m, err := meta.Accessor(obj)
	if err != nil {
		return fmt.Errorf("delete %T: %w", obj, err)
	}
	delete(s.reported, nameOf(m))
	s.remove(nameOf(m))
	return nil
}

// Replace implements cache.ReflectorStore.
func (s *store[O, V]) Replace(list []any, _ string) error {
	items := make([]*item[V], 0, len(list))
	for _, obj := range list {
		i, err := s.item(obj)
		if err != nil {
			return err
		}
		items = append(items, i)
	}
	slices.SortFunc(items, func(a, b *item[V]) int {
		return cmp.Or(a.name.Compare(b.name), cmp.Compare(a.uid, b.uid))
	})
	before := s.reported
	s.reported = map[endpoints.Name]string{}
	for _, i := range items {
		if version, ok := before[i.name]; ok {
			s.reported[i.name] = version
		}
		s.report(i)
	}
	s.replace(slices.DeleteFunc(items, func(i *item[V]) bool { return !i.present }))
	return nil
}

// Resync implements cache.ReflectorStore. There is nothing to do: the sink forgets nothing.
func (s *store[O, V]) Resync() error { return nil }

// report tells of an object's problems, unless that has been done for this version.
func (s *store[O, V]) report(i *item[V]) {
	version, known := s.reported[i.name]
	if known && version == i.version && version != "" {
		return
	}
	delete(s.reported, i.name)
	if len(i.problems) == 0 {
		return
	}
	s.reported[i.name] = i.version
	for _, p := range i.problems {
		s.reporter.Report(p)
	}
}

func values[V any](items []*item[V]) []V {
	list := make([]V, len(items))
	for n, i := range items {
		list[n] = i.value
	}
	return list
}
