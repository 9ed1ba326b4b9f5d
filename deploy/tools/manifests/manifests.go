// Package manifests renders the kustomizations in deploy/kustomize, as kubectl does.
package manifests

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// Dir finds deploy/kustomize in the source tree around the working directory.
func Dir() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		found := filepath.Join(dir, "deploy/kustomize")
		if _, err := os.Stat(found); err == nil {
			return found, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("no deploy/kustomize above the working directory: run inside the source tree")
		}
	}
}

// Render returns the objects of one kustomization, a path below deploy/kustomize such as overlays/plain,
// in the order in which they are to be created.
func Render(name string) ([]*unstructured.Unstructured, error) {
	dir, err := Dir()
	if err != nil {
		return nil, err
	}
	options := krusty.MakeDefaultOptions()
	options.Reorder = krusty.ReorderOptionLegacy
	resources, err := krusty.MakeKustomizer(options).Run(filesys.MakeFsOnDisk(), filepath.Join(dir, name))
	if err != nil {
		return nil, fmt.Errorf("render %s: %w", name, err)
	}
	var objects []*unstructured.Unstructured
	for _, r := range resources.Resources() {
		m, err := r.Map()
		if err != nil {
			return nil, fmt.Errorf("render %s: %s: %w", name, r.CurId(), err)
		}
		objects = append(objects, &unstructured.Unstructured{Object: m})
	}
	return objects, nil
}

// Find returns the object of a kind and a name, as a T of that kind. Fields that a T does not have are an error.
func Find[T any](objects []*unstructured.Unstructured, kind, name string) (*T, error) {
	for _, o := range objects {
		if o.GetKind() != kind || o.GetName() != name {
			continue
		}
		typed := new(T)
		if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(o.Object, typed, true); err != nil {
			return nil, fmt.Errorf("%s %s: %w", kind, name, err)
		}
		return typed, nil
	}
	return nil, fmt.Errorf("no %s %s", kind, name)
}

// DaemonSet returns the DaemonSet weir.
func DaemonSet(objects []*unstructured.Unstructured) (*appsv1.DaemonSet, error) {
	return Find[appsv1.DaemonSet](objects, "DaemonSet", "weir")
}
