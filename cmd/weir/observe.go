package main

import (
	"net/netip"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/weir-project/weir/endpoints"
	"github.com/weir-project/weir/internal/config"
	"github.com/weir-project/weir/proxier"
	"github.com/weir-project/weir/proxier/conntrack"
	"github.com/weir-project/weir/proxier/health"
	"github.com/weir-project/weir/proxier/metrics"
)

// The daemon observes its sync loop (proxier.Observer): it tells health, metrics, the flows that a
// sync leaves behind, and the health checks of services.

// Queued is told that there is something to be written.
func (d *daemon) Queued() {
	for _, f := range d.families {
		d.health.QueuedUpdate(f)
		d.metrics.SyncQueued(f)
	}
}

// SyncStarted is told that a sync begins.
func (d *daemon) SyncStarted() { d.health.SyncStarted() }

// Progress is told of every transaction that the kernel took.
func (d *daemon) Progress() { d.health.Progress() }

// SyncDone is told how a sync went.
func (d *daemon) SyncDone(r proxier.SyncReport) {
	if r.Err == nil {
		for _, f := range d.families {
			d.health.Updated(f)
		}
	}
	d.health.SyncEnded()
	d.inspector.SyncDone(r)
	d.record(r)
	d.cleanFlows(r)
	if r.Err == nil {
		for _, name := range r.Changed {
			d.setCheck(name)
		}
	}
}

// sent is told of every transaction of elements. The first may come before there is a recorder.
func (d *daemon) sent(took time.Duration, elements int) { d.metrics.Transaction(took, elements) }

func (d *daemon) record(r proxier.SyncReport) {
	var families []endpoints.Family // nil is all
	if r.OpsIPv4 > 0 && r.OpsIPv6 == 0 {
		families = []endpoints.Family{endpoints.IPv4}
	}
	if r.OpsIPv6 > 0 && r.OpsIPv4 == 0 {
		families = []endpoints.Family{endpoints.IPv6}
	}
	d.metrics.SyncDone(metrics.Sync{
		Families: families, Start: r.Start, Duration: r.Duration, Full: r.Full, Failed: r.Err != nil,
		Since: r.Since, Triggers: r.Triggers, ServiceEvents: r.ServiceEvents, SliceEvents: r.SliceEvents,
		Frontends: r.Frontends, Contested: r.Contested, SetAside: r.SetAside,
	})
	stats := d.kernel.Stats()
	d.metrics.Kernel(metrics.Kernel{Transactions: stats.Transactions, Refused: stats.Refused, Rebuilt: stats.Rebuilt})
	d.metrics.Sizes(d.engine.Sizes())
	d.metrics.Slots(r.Slots)
	n := r.NoLocal
	d.metrics.NoLocalEndpoints(metrics.Internal, endpoints.IPv4, n.Internal.IPv4)
	d.metrics.NoLocalEndpoints(metrics.Internal, endpoints.IPv6, n.Internal.IPv6)
	d.metrics.NoLocalEndpoints(metrics.External, endpoints.IPv4, n.External.IPv4)
	d.metrics.NoLocalEndpoints(metrics.External, endpoints.IPv6, n.External.IPv6)
}

// cleanFlows has the flows removed that go where the rules no longer lead.
func (d *daemon) cleanFlows(r proxier.SyncReport) {
	if r.Err != nil {
		return // the next report has them
	}
	var jobs []conntrack.Job
	for _, f := range r.Flows {
		job := conntrack.Job{Frontend: f.Frontend, Appeared: f.Appeared}
		protocol := endpoints.Protocol(f.Frontend.Protocol)
		switch {
		case !f.Gone:
			job.Now = func() []netip.AddrPort {
				return d.engine.Serving(f.Service, f.Port, protocol, endpoints.FamilyOf(f.Frontend.Addr))
			}
			job.Keep = job.Now()
		case protocol == endpoints.TCP:
			continue // without a frontend, connections to endpoints that live go on as they are
		}
		jobs = append(jobs, job)
	}
	d.cleaner.Enqueue(jobs)
}

func (d *daemon) flowsCleaned(r conntrack.Report) {
	if r.Err != nil && d.ctx.Err() == nil { // that we are stopped in the middle of it is no failure
		d.logger.Error(r.Err, "Removing stale flows", "frontends", r.Jobs)
	}
	for f, n := range map[endpoints.Family][2]int{
		endpoints.IPv4: {r.Deleted.IPv4, r.Reset.IPv4}, endpoints.IPv6: {r.Deleted.IPv6, r.Reset.IPv6}} {
		d.metrics.ConntrackDone(f, r.Duration, n[0])
		d.metrics.ConnectionsReset(f, n[1])
	}
	if n := r.Deleted.IPv4 + r.Deleted.IPv6; n > 0 {
		d.logger.V(2).Info("Removed stale flows", "flows", n, "frontends", r.Jobs, "duration", r.Duration)
	}
}

// setCheck opens, changes or closes the health check of one service.
func (d *daemon) setCheck(name endpoints.Name) {
	check := health.ServiceCheck{}
	if s := d.engine.Service(name); s != nil {
		check.Port = s.HealthCheckPort
	}
	if check.Port != 0 {
		check.LocalReady = d.engine.LocalReady(name)
	}
	d.checks.Set(name, check)
}

// checkFailed tells of a health check port that cannot be opened.
func (d *daemon) checkFailed(service endpoints.Name, port uint16, err error) {
	s := d.engine.Service(service)
	if s == nil || d.events == nil {
		return // it is in the log
	}
	d.events.Eventf(reference(endpoints.Problem{Kind: "Service", Object: service, UID: s.UID}), nil, v1.EventTypeWarning,
		"FailedToStartServiceHealthcheck", "Listen", "node %s failed to start healthcheck %q on port %d: %v", d.cfg.Load().NodeName, service, port, err)
}

// NodeChanged is told what the API says of this machine, before the sync that it is for.
func (d *daemon) NodeChanged(node *endpoints.Node) {
	d.health.SetNode(node)
	d.addresses.setNode(node)
	if d.cfg.Load().LocalDetection.Mode != config.DetectNodeCIDR {
		return
	}
	l := layout(d.cfg.Load())
	if node != nil {
		l.Local.CIDRs = node.PodCIDRs
	}
	if len(l.Local.CIDRs) == 0 {
		d.logger.Info("The Node object has no podCIDRs: pods cannot be told from strangers until it has", "node", d.cfg.Load().NodeName)
	}
	if d.kernel.SetLayout(l) {
		d.proxy.Invalidate()
	}
}

// nodeReference is what events about this machine are about.
func (d *daemon) nodeReference() runtime.Object {
	name := d.cfg.Load().NodeName
	return &v1.ObjectReference{Kind: "Node", Name: name}
}

// nodeEvent returns what makes an event on the Node of a failure.
func (d *daemon) nodeEvent(reason string) func(error) {
	return func(err error) {
		if d.events != nil {
			d.events.Eventf(d.nodeReference(), nil, v1.EventTypeWarning, reason, "Listen", "%s", cut(err.Error()))
		}
	}
}

// cut shortens a text to what an event's note may hold (1024 bytes, events.k8s.io/v1).
func cut(s string) string { return s[:min(len(s), 1024)] }
