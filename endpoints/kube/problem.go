package kube

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-project/weir/endpoints"
)

// findings gathers the problems of one object. Of each kind of field only the first is kept, the
// others are counted: an object may have a thousand endpoints.
type findings struct {
	kind string
	meta *metav1.ObjectMeta
	list []finding
}

type finding struct {
	format string // of the field: its kind
	field  string
	reason string
	more   int
}

// add notes that a field is set aside. Format and args give its path.
func (f *findings) add(reason, format string, args ...any) {
	for i := range f.list {
		if f.list[i].format == format {
			f.list[i].more++
			return
		}
	}
	f.list = append(f.list, finding{format, fmt.Sprintf(format, args...), reason, 0})
}

// problems returns what was found.
func (f *findings) problems() []endpoints.Problem {
	var problems []endpoints.Problem
	for _, found := range f.list {
		if found.more > 0 {
			found.reason += fmt.Sprintf(" (and %d more like it)", found.more)
		}
		problems = append(problems, endpoints.Problem{
			Kind: f.kind, Object: nameOf(f.meta), UID: string(f.meta.UID), Field: found.field, Reason: found.reason,
		})
	}
	return problems
}

func nameOf(o metav1.Object) endpoints.Name {
	return endpoints.Name{Namespace: o.GetNamespace(), Name: o.GetName()}
}
