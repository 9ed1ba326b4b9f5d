package main

import (
	"sync"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/weir-project/weir/internal/kubeproxy"
)

var takeOverErrors = metrics.NewCounter(&metrics.CounterOpts{
	Name:           "weir_kube_proxy_removal_errors_total",
	Help:           "Failures to find or to remove what kube-proxy left on this node; each is tried again",
	StabilityLevel: metrics.ALPHA,
})

// registerTakeOver is once in the life of the process, whatever becomes of the daemon.
var registerTakeOver = sync.OnceFunc(func() { legacyregistry.MustRegister(takeOverErrors) })

// takeOver tells of a kube-proxy on this node and, if that is asked for, removes what it has left once
// our own rules serve.
func (d *daemon) takeOver() error {
	registerTakeOver()
	replace := d.cfg.Load().ReplaceKubeProxy
	kubeproxy.Warn(d.ctx, replace)
	if !replace || d.proxy.WaitSynced(d.ctx) != nil {
		return nil
	}
	return kubeproxy.TakeOver(d.ctx, kubeproxy.Config{Failed: func(error) { takeOverErrors.Inc() }})
}
