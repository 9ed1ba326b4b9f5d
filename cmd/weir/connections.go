package main

import (
	"errors"
	"fmt"

	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/weir-project/weir/dataplane"
	"github.com/weir-project/weir/endpoints"
	"github.com/weir-project/weir/proxier/connections"
)

// countConnections begins to count the connections of services, if that is asked for. The first reading
// is over when it returns, so that no connection comes before.
func (d *daemon) countConnections() error {
	limit := d.cfg.Load().ServiceMetrics
	if limit == 0 {
		return nil
	}
	kernel, err := dataplane.OpenCounters(d.kernel)
	if err != nil {
		return fmt.Errorf("count connections: %w", err)
	}
	counter := connections.New(connections.Config{
		Read: kernel.Read, Owner: d.proxy.Owner, Limit: limit,
		Exists: func(name endpoints.Name) bool { return d.engine.Service(name) != nil },
	})
	if err := counter.Update(); err != nil {
		return errors.Join(fmt.Errorf("count connections: %w", err), kernel.Close())
	}
	registry := legacyregistry.Registerer()
	if err := registry.Register(counter); err != nil {
		return errors.Join(fmt.Errorf("count connections: %w", err), kernel.Close())
	}
	d.group.Go(func() error {
		defer registry.Unregister(counter)
		return errors.Join(counter.Run(d.ctx), kernel.Close())
	})
	return nil
}
