//go:build tools

// Package kubernetes pins the Kubernetes commands that tests and benchmarks run beside Weir. It is
// a module of its own, so that none of their dependencies reaches the product.
package kubernetes

import (
	_ "go.etcd.io/etcd/server/v3"
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kube-controller-manager"
	_ "k8s.io/kubernetes/cmd/kube-proxy"
	_ "k8s.io/kubernetes/cmd/kubectl"
)
