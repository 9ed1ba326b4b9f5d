package metrics

import (
	"strconv"
	"sync"
	"time"

	"k8s.io/component-base/metrics"

	"github.com/weir-project/weir/endpoints"
)

// Labels.
const (
	ipFamily      = "ip_family" // IPv4 or IPv6
	trafficPolicy = "traffic_policy"
	statusCode    = "code"
)

// Policy is which of a Service's traffic policies something is about.
type Policy string

// The policies: internalTrafficPolicy and externalTrafficPolicy.
const (
	Internal Policy = "internal"
	External Policy = "external"
)

var (
	// syncBuckets are kube-proxy's (pkg/proxy/metrics): 1 ms to 16 s.
	syncBuckets = metrics.ExponentialBuckets(0.001, 2, 15)
	// programmingBuckets are kube-proxy's, made for a service level of whole seconds. MergeBuckets puts
	// a bucket of 0 before them, there as here.
	programmingBuckets = metrics.MergeBuckets(
		metrics.LinearBuckets(0.25, 0.25, 2),
		metrics.LinearBuckets(1, 1, 59),
		metrics.LinearBuckets(60, 5, 12),
		metrics.LinearBuckets(120, 30, 7),
	)
	quickBuckets   = metrics.ExponentialBuckets(0.0001, 2, 18) // 0.1 ms to 13 s
	elementBuckets = metrics.ExponentialBuckets(1, 4, 10)      // 1 to 262144
)

// Recorder takes down what happens. Its methods may be called concurrently, and those of a nil
// Recorder do nothing.
type Recorder struct {
	families []endpoints.Family

	// kube-proxy's.
	syncDuration, fullDuration, partialDuration *metrics.HistogramVec
	lastSync, lastQueued                        *metrics.GaugeVec
	programming                                 *metrics.HistogramVec
	endpointPending, servicePending             *metrics.GaugeVec
	endpointChanges, serviceChanges             *metrics.CounterVec
	noLocalEndpoints                            *metrics.GaugeVec
	healthz, livez                              *metrics.CounterVec
	syncFailures, cleanupFailures               *metrics.CounterVec
	conntrackDuration                           *metrics.HistogramVec
	conntrackDeleted                            *metrics.CounterVec

	// Ours.
	delay                                         *metrics.HistogramVec
	txDuration, txElements                        *metrics.HistogramVec
	transactions, refused, rebuilt                *metrics.CounterVec
	resyncs, repaired                             *metrics.CounterVec
	services, slices, endpoints, frontends, slots *metrics.GaugeVec
	contested, aside                              *metrics.GaugeVec
	conntrackRemoved, connectionsReset            *metrics.CounterVec
	affinity, affinityLimit                       *metrics.GaugeVec

	// mu guards what follows.
	mu      sync.Mutex
	synced  bool                           // a sync has succeeded
	foreign bool                           // somebody changed the ruleset, and it has not been put right
	kernel  Kernel                         // as last told
	counted struct{ services, slices int } // changes of the sync that is failing, already counted
}

// NewRecorder returns a Recorder for the families that are served, and registers its metrics with
// register: legacyregistry.MustRegister, once in a process, or that of a registry of one's own.
func NewRecorder(families []endpoints.Family, register func(...metrics.Registerable)) *Recorder {
	var d definer
	r := newRecorder(&d)
	r.families = families
	register(d.collectors...)
	r.start()
	return r
}

func newRecorder(d *definer) *Recorder {
	return &Recorder{
		syncDuration: d.histogram("kubeproxy_sync_proxy_rules_duration_seconds",
			"How long syncs took, full and partial ones, failed ones included.", syncBuckets, ipFamily),
		fullDuration: d.histogram("kubeproxy_sync_full_proxy_rules_duration_seconds",
			"How long those syncs took that wrote everything.", syncBuckets, ipFamily),
		partialDuration: d.histogram("kubeproxy_sync_partial_proxy_rules_duration_seconds",
			"How long those syncs took that wrote what had changed.", syncBuckets, ipFamily),
		lastSync: d.gauge("kubeproxy_sync_proxy_rules_last_timestamp_seconds",
			"When a sync last succeeded, in Unix time.", ipFamily),
		lastQueued: d.gauge("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
			"When a sync was last asked for, in Unix time. If this is much later than the last sync, something hangs.", ipFamily),
		programming: d.histogram("kubeproxy_network_programming_duration_seconds",
			"From the change of a Service or Pod, as its EndpointSlice tells, until the kernel had it. "+
				"Includes what controllers and the API server took, and differences between clocks.", programmingBuckets, ipFamily),
		endpointPending: d.gauge("kubeproxy_sync_proxy_rules_endpoint_changes_pending",
			"EndpointSlice changes that were taken up and are not in the kernel, because syncs fail."),
		endpointChanges: d.counter("kubeproxy_sync_proxy_rules_endpoint_changes_total",
			"EndpointSlice changes taken up."),
		servicePending: d.gauge("kubeproxy_sync_proxy_rules_service_changes_pending",
			"Service changes that were taken up and are not in the kernel, because syncs fail."),
		serviceChanges: d.counter("kubeproxy_sync_proxy_rules_service_changes_total",
			"Service changes taken up."),
		noLocalEndpoints: d.gauge("kubeproxy_sync_proxy_rules_no_local_endpoints_total",
			"Service ports with the traffic policy Local that have endpoints, but none on this node.", trafficPolicy, ipFamily),
		healthz: d.counter("kubeproxy_proxy_healthz_total",
			"Answers of /healthz, by HTTP status code.", statusCode),
		livez: d.counter("kubeproxy_proxy_livez_total",
			"Answers of /livez, by HTTP status code.", statusCode),
		syncFailures: d.counter("kubeproxy_sync_proxy_rules_nftables_sync_failures_total",
			"Syncs that failed and were to be tried again.", ipFamily),
		cleanupFailures: d.counter("kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total",
			"Failed attempts to remove what is no longer used.", ipFamily),
		conntrackDuration: d.histogram("kubeproxy_conntrack_reconciler_sync_duration_seconds",
			"How long the searches for stale conntrack entries took.", syncBuckets, ipFamily),
		conntrackDeleted: d.counter("kubeproxy_conntrack_reconciler_deleted_entries_total",
			"Stale conntrack entries removed.", ipFamily),

		delay: d.histogram("weir_programming_duration_seconds",
			"From the arrival of the earliest change in a sync until the kernel had it.", quickBuckets),
		txDuration: d.histogram("weir_transaction_duration_seconds",
			"How long the kernel took for a transaction that added or deleted elements of sets and maps. Refused ones and leases of DNS do not count.", quickBuckets),
		txElements: d.histogram("weir_transaction_elements",
			"Elements of sets and maps that a transaction added or deleted.", elementBuckets),
		transactions: d.counter("weir_transactions_total",
			"Transactions sent to the kernel, refused ones included."),
		refused: d.counter("weir_transactions_refused_total",
			"Transactions that the kernel refused. A refused transaction changes nothing."),
		rebuilt: d.counter("weir_tables_rebuilt_total",
			"Tables that were built again because somebody had removed them."),
		resyncs: d.counter("weir_resyncs_total",
			"Times that everything was written to the kernel again, after the first time."),
		repaired: d.counter("weir_foreign_changes_repaired_total",
			"Changes of our ruleset by somebody else that were put right."),
		services: d.gauge("weir_services",
			"Services known from the API."),
		slices: d.gauge("weir_endpoint_slices",
			"EndpointSlices known from the API."),
		endpoints: d.gauge("weir_endpoints",
			"Endpoints known from the API, in all EndpointSlices."),
		frontends: d.gauge("weir_frontends",
			"Frontends served: an address, protocol and port each."),
		slots: d.gauge("weir_slots",
			"Slots in use: one for each endpoint and list of endpoints in which it is."),
		contested: d.gauge("weir_frontends_contested",
			"Frontends that several Services claim. The oldest Service has it."),
		aside: d.gauge("weir_services_set_aside",
			"Services that the kernel refused, and that are not served until they change or a retry succeeds."),
		conntrackRemoved: d.counter("weir_conntrack_entries_removed_total",
			"Conntrack entries removed because they led to an endpoint that is gone, or past a frontend that is new.", ipFamily),
		connectionsReset: d.counter("weir_connections_reset_total",
			"TCP connections to endpoints that are gone whose clients were sent a reset.", ipFamily),
		affinity: d.gauge("weir_affinity_entries",
			"Clients remembered for session affinity, as counted twice a minute.", ipFamily),
		affinityLimit: d.gauge("weir_affinity_entries_limit",
			"Clients that can be remembered for session affinity. When as many are, new ones have no affinity.", ipFamily),
	}
}

// start makes counters appear with the value 0, so that rates are right from the first event on.
func (r *Recorder) start() {
	for _, c := range []*metrics.CounterVec{
		r.endpointChanges, r.serviceChanges, r.transactions, r.refused, r.rebuilt, r.resyncs, r.repaired,
	} {
		c.WithLabelValues().Add(0)
	}
	for _, f := range r.families {
		for _, c := range []*metrics.CounterVec{r.syncFailures, r.cleanupFailures, r.conntrackDeleted, r.conntrackRemoved, r.connectionsReset} {
			c.WithLabelValues(f.String()).Add(0)
		}
	}
	r.endpointPending.WithLabelValues().Set(0)
	r.servicePending.WithLabelValues().Set(0)
}

// SyncQueued takes down that there is something to sync for a family.
func (r *Recorder) SyncQueued(f endpoints.Family) {
	if r == nil {
		return
	}
	r.lastQueued.WithLabelValues(f.String()).Set(unix(time.Now()))
}

func unix(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }

// Sync is what there is to say of a sync that has ended.
type Sync struct {
	// Families are those that it was about. Nil: all that are served.
	Families []endpoints.Family
	Start    time.Time
	Duration time.Duration
	Full     bool // everything was written
	Failed   bool

	// Since is when the earliest change in it came. Zero: there was none.
	Since time.Time
	// Triggers are the causes of the changes in it, as EndpointSlices tell them.
	Triggers []time.Time
	// ServiceEvents and SliceEvents count changes in it. When it fails, those of the next sync
	// include them.
	ServiceEvents, SliceEvents int

	// Frontends, Contested and SetAside are what there is after it.
	Frontends, Contested, SetAside int
}

// SyncDone takes down that a sync has ended.
func (r *Recorder) SyncDone(s Sync) {
	if r == nil {
		return
	}
	if s.Families == nil {
		s.Families = r.families
	}
	kind := r.partialDuration
	if s.Full {
		kind = r.fullDuration
	}
	for _, f := range s.Families {
		r.syncDuration.WithLabelValues(f.String()).Observe(s.Duration.Seconds())
		kind.WithLabelValues(f.String()).Observe(s.Duration.Seconds())
	}
	r.changes(s)
	r.frontends.WithLabelValues().Set(float64(s.Frontends))
	r.contested.WithLabelValues().Set(float64(s.Contested))
	r.aside.WithLabelValues().Set(float64(s.SetAside))
	if s.Failed {
		for _, f := range s.Families {
			r.syncFailures.WithLabelValues(f.String()).Inc()
		}
		return
	}
	r.succeeded(s)
}

// changes counts the changes in a sync that have not been counted, and those that still wait.
func (r *Recorder) changes(s Sync) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.serviceChanges.WithLabelValues().Add(float64(max(0, s.ServiceEvents-r.counted.services)))
	r.endpointChanges.WithLabelValues().Add(float64(max(0, s.SliceEvents-r.counted.slices)))
	if !s.Failed {
		s.ServiceEvents, s.SliceEvents = 0, 0
	}
	r.counted.services, r.counted.slices = s.ServiceEvents, s.SliceEvents
	r.servicePending.WithLabelValues().Set(float64(s.ServiceEvents))
	r.endpointPending.WithLabelValues().Set(float64(s.SliceEvents))
}

func (r *Recorder) succeeded(s Sync) {
	end := s.Start.Add(s.Duration)
	for _, f := range r.families { // also those that nothing was written for are up to date
		r.lastSync.WithLabelValues(f.String()).Set(unix(end))
	}
	for _, f := range s.Families {
		for _, t := range s.Triggers {
			r.NetworkProgramming(f, end.Sub(t))
		}
	}
	if !s.Since.IsZero() {
		r.delay.WithLabelValues().Observe(end.Sub(s.Since).Seconds())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.Full && r.synced {
		r.resyncs.WithLabelValues().Inc()
	}
	if s.Full && r.foreign {
		r.repaired.WithLabelValues().Inc()
		r.foreign = false
	}
	r.synced = true
}

// NetworkProgramming takes down how long after its cause a change was in the kernel. SyncDone does
// it for a sync's Triggers.
func (r *Recorder) NetworkProgramming(f endpoints.Family, d time.Duration) {
	if r == nil {
		return
	}
	r.programming.WithLabelValues(f.String()).Observe(max(0, d).Seconds())
}

// NoLocalEndpoints takes down how many service ports of a family have endpoints, but none on this
// node, where their policy wants only those.
func (r *Recorder) NoLocalEndpoints(p Policy, f endpoints.Family, n int) {
	if r == nil {
		return
	}
	r.noLocalEndpoints.WithLabelValues(string(p), f.String()).Set(float64(n))
}

// CleanupFailed takes down that something no longer used could not be removed.
func (r *Recorder) CleanupFailed(f endpoints.Family) {
	if r == nil {
		return
	}
	r.cleanupFailures.WithLabelValues(f.String()).Inc()
}

// Healthz counts an answer of /healthz.
func (r *Recorder) Healthz(code int) {
	if r == nil {
		return
	}
	r.healthz.WithLabelValues(strconv.Itoa(code)).Inc()
}

// Livez counts an answer of /livez.
func (r *Recorder) Livez(code int) {
	if r == nil {
		return
	}
	r.livez.WithLabelValues(strconv.Itoa(code)).Inc()
}

// Transaction takes down one transaction of elements that the kernel took: how long the kernel took, and how many elements it added
// or deleted.
func (r *Recorder) Transaction(d time.Duration, elements int) {
	if r == nil {
		return
	}
	r.txDuration.WithLabelValues().Observe(d.Seconds())
	r.txElements.WithLabelValues().Observe(float64(elements))
}

// Kernel is what was done to the kernel since the start.
type Kernel struct {
	Transactions uint64 // sent, refused ones included
	Refused      uint64 // of them
	Rebuilt      uint64 // tables built again because somebody had removed them
}

// Kernel takes down what was done since the last call.
func (r *Recorder) Kernel(k Kernel) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	add(r.transactions, r.kernel.Transactions, k.Transactions)
	add(r.refused, r.kernel.Refused, k.Refused)
	add(r.rebuilt, r.kernel.Rebuilt, k.Rebuilt)
	r.kernel = k
}

// add counts from was to is. Less than before means that somebody began again at 0.
func add(c *metrics.CounterVec, was, is uint64) {
	if is < was {
		was = 0
	}
	c.WithLabelValues().Add(float64(is - was))
}

// ForeignChange takes down that somebody else has changed our ruleset. It counts when a full sync
// has put it right.
func (r *Recorder) ForeignChange() {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.foreign = true
}

// Sizes takes down how much the API says there is.
func (r *Recorder) Sizes(s endpoints.Sizes) {
	if r == nil {
		return
	}
	r.services.WithLabelValues().Set(float64(s.Services))
	r.slices.WithLabelValues().Set(float64(s.Slices))
	r.endpoints.WithLabelValues().Set(float64(s.Endpoints))
}

// Slots takes down how many slots are in use.
func (r *Recorder) Slots(n int) {
	if r == nil {
		return
	}
	r.slots.WithLabelValues().Set(float64(n))
}

// ConntrackDone takes down a search for stale conntrack entries.
func (r *Recorder) ConntrackDone(f endpoints.Family, d time.Duration, deleted int) {
	if r == nil {
		return
	}
	r.conntrackDuration.WithLabelValues(f.String()).Observe(d.Seconds())
	r.conntrackDeleted.WithLabelValues(f.String()).Add(float64(deleted))
	r.conntrackRemoved.WithLabelValues(f.String()).Add(float64(deleted))
}

// ConnectionsReset takes down TCP connections whose clients were sent a reset. Their conntrack
// entries are among those of ConntrackDone.
func (r *Recorder) ConnectionsReset(f endpoints.Family, n int) {
	if r == nil {
		return
	}
	r.connectionsReset.WithLabelValues(f.String()).Add(float64(n))
}

// Affinity takes down how many clients are remembered, and how many can be.
func (r *Recorder) Affinity(f endpoints.Family, entries, limit int) {
	if r == nil {
		return
	}
	r.affinity.WithLabelValues(f.String()).Set(float64(entries))
	r.affinityLimit.WithLabelValues(f.String()).Set(float64(limit))
}
