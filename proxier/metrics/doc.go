// Package metrics keeps the proxy's metrics and serves them, together with what else an operator
// can ask a running proxy.
//
// Metrics that are called kubeproxy_* have the names, types, labels and buckets of those that
// kube-proxy has in its nftables mode, so that dashboards and alerts go on working. What kube-proxy
// lacks is called weir_*. None has a label whose values grow with the cluster. All are kept with
// k8s.io/component-base/metrics in its legacyregistry, as Kubernetes' own components do; that
// brings go_*, process_* and the metrics of the libraries that are imported here.
package metrics

import (
	// These bring metrics that kube-proxy has too. Left out is what counts leader elections, which
	// would link all of client-go's typed clients for something that no proxy does.
	_ "k8s.io/component-base/metrics/prometheus/clientgo/fifo" // informer_*
	_ "k8s.io/component-base/metrics/prometheus/feature"       // kubernetes_feature_enabled, once a gate's AddMetrics was called
	_ "k8s.io/component-base/metrics/prometheus/restclient"    // rest_client_*
	_ "k8s.io/component-base/metrics/prometheus/version"       // kubernetes_build_info
	_ "k8s.io/component-base/metrics/prometheus/workqueue"     // workqueue_*
)
