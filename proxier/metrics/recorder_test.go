package metrics

import (
	"fmt"
	"maps"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	toolsmetrics "k8s.io/client-go/tools/metrics"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/component-base/metrics/prometheus/feature"

	"github.com/weir-project/weir/endpoints"
)

// global is the one Recorder in the process-wide registry.
var global = sync.OnceValue(func() *Recorder {
	return NewRecorder(endpoints.Families[:], legacyregistry.MustRegister)
})

// everything calls every method once, for both families where there is a choice.
func everything(r *Recorder) {
	now := time.Now()
	r.SyncDone(Sync{Full: true, Start: now, Duration: time.Second, Since: now, Triggers: []time.Time{now}, ServiceEvents: 1, SliceEvents: 1})
	r.SyncDone(Sync{Start: now, Duration: time.Second, Failed: true})
	r.Healthz(200)
	r.Livez(503)
	r.Transaction(time.Millisecond, 5)
	r.Kernel(Kernel{Transactions: 1})
	r.ForeignChange()
	r.Sizes(endpoints.Sizes{Services: 1})
	r.Slots(1)
	for _, f := range endpoints.Families {
		r.SyncQueued(f)
		r.NetworkProgramming(f, time.Second)
		r.NoLocalEndpoints(Internal, f, 1)
		r.NoLocalEndpoints(External, f, 1)
		r.CleanupFailed(f)
		r.ConntrackDone(f, time.Second, 1)
		r.ConnectionsReset(f, 1)
		r.Affinity(f, 1, 1<<18)
	}
}

// exported is what /metrics prints, by name.
func exported(t *testing.T) map[string]*dto.MetricFamily {
	t.Helper()
	w := httptest.NewRecorder()
	Mux(Config{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("/metrics: %d %s", w.Code, w.Body)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// describe gives a metric's type, labels and number of buckets, as one line.
func describe(f *dto.MetricFamily) string {
	m := f.GetMetric()[0]
	s := strings.ToLower(f.GetType().String())
	for _, l := range m.GetLabel() { // sorted by name
		s += " " + l.GetName()
	}
	if h := m.GetHistogram(); h != nil {
		b := h.GetBucket()
		s += fmt.Sprintf(" %d buckets %g..%g", len(b)-1, b[0].GetUpperBound(), b[len(b)-2].GetUpperBound()) // but for +Inf
	}
	return s
}

// kubeProxy are the metrics of kube-proxy v1.36 in its nftables mode (pkg/proxy/metrics/metrics.go,
// RegisterMetrics).
var kubeProxy = map[string]string{
	"kubeproxy_sync_proxy_rules_duration_seconds":                "histogram ip_family 15 buckets 0.001..16.384",
	"kubeproxy_sync_full_proxy_rules_duration_seconds":           "histogram ip_family 15 buckets 0.001..16.384",
	"kubeproxy_sync_partial_proxy_rules_duration_seconds":        "histogram ip_family 15 buckets 0.001..16.384",
	"kubeproxy_sync_proxy_rules_last_timestamp_seconds":          "gauge ip_family",
	"kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds":   "gauge ip_family",
	"kubeproxy_network_programming_duration_seconds":             "histogram ip_family 81 buckets 0..300",
	"kubeproxy_sync_proxy_rules_endpoint_changes_pending":        "gauge",
	"kubeproxy_sync_proxy_rules_endpoint_changes_total":          "counter",
	"kubeproxy_sync_proxy_rules_service_changes_pending":         "gauge",
	"kubeproxy_sync_proxy_rules_service_changes_total":           "counter",
	"kubeproxy_sync_proxy_rules_no_local_endpoints_total":        "gauge ip_family traffic_policy",
	"kubeproxy_proxy_healthz_total":                              "counter code",
	"kubeproxy_proxy_livez_total":                                "counter code",
	"kubeproxy_sync_proxy_rules_nftables_sync_failures_total":    "counter ip_family",
	"kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total": "counter ip_family",
	"kubeproxy_conntrack_reconciler_sync_duration_seconds":       "histogram ip_family 15 buckets 0.001..16.384",
	"kubeproxy_conntrack_reconciler_deleted_entries_total":       "counter ip_family",
}

func TestKubeProxyMetrics(t *testing.T) {
	everything(global())
	got := map[string]string{}
	for name, f := range exported(t) {
		if strings.HasPrefix(name, "kubeproxy_") {
			got[name] = describe(f)
			if !strings.HasPrefix(f.GetHelp(), "[ALPHA] ") {
				t.Errorf("%s: help %q, want stability ALPHA", name, f.GetHelp())
			}
		}
	}
	if diff := cmp.Diff(kubeProxy, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
}

// Values of labels are what dashboards select by.
func TestLabelValues(t *testing.T) {
	everything(global())
	values := map[string]map[string]bool{}
	for name, f := range exported(t) {
		if !strings.HasPrefix(name, "kubeproxy_") && !strings.HasPrefix(name, "weir_") {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if values[l.GetName()] == nil {
					values[l.GetName()] = map[string]bool{}
				}
				values[l.GetName()][l.GetValue()] = true
			}
		}
	}
	want := map[string]map[string]bool{
		"ip_family":      {"IPv4": true, "IPv6": true},
		"traffic_policy": {"internal": true, "external": true},
		"code":           {"200": true, "503": true},
	}
	if diff := cmp.Diff(want, values); diff != "" {
		t.Errorf("label values (-want +got):\n%s", diff)
	}
}

func TestMetricsOfLibraries(t *testing.T) {
	feature.RecordFeatureInfo(t.Context(), "ATestGate", "BETA", true)
	toolsmetrics.EnsureRegistered() // as the first REST client does
	toolsmetrics.RequestResult.Increment(t.Context(), "200", "GET", "api")
	got := exported(t)
	for _, name := range []string{
		"go_goroutines", "process_start_time_seconds", "kubernetes_build_info", "kubernetes_feature_enabled",
		"rest_client_requests_total", "rest_client_transport_cache_entries", "registered_metrics_total",
	} {
		if got[name] == nil {
			t.Errorf("no %s", name)
		}
	}
}

func TestReference(t *testing.T) {
	everything(global())
	printed := exported(t)
	ours := maps.Clone(printed)
	maps.DeleteFunc(ours, func(name string, _ *dto.MetricFamily) bool {
		return !strings.HasPrefix(name, "kubeproxy_") && !strings.HasPrefix(name, "weir_")
	})
	all := Reference()
	if !slices.IsSortedFunc(all, func(a, b Metric) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("not in the order of names")
	}
	for _, m := range all {
		f := ours[m.Name]
		delete(ours, m.Name)
		if f == nil {
			t.Errorf("%s is not printed, though every method was called", m.Name)
			continue
		}
		labels := slices.Sorted(slices.Values(m.Labels))
		want := strings.Join(append([]string{m.Type}, labels...), " ")
		if b := m.Buckets; b != nil {
			want += fmt.Sprintf(" %d buckets %g..%g", len(b), b[0], b[len(b)-1])
		}
		if got := describe(f); got != want {
			t.Errorf("%s: printed as %q, described as %q", m.Name, got, want)
		}
		if got := f.GetHelp(); got != "[ALPHA] "+m.Help {
			t.Errorf("%s: help %q, described as %q", m.Name, got, m.Help)
		}
		// Prometheus' conventions, which kube-proxy's do not all keep.
		if strings.HasPrefix(m.Name, "weir_") && (m.Type == counterType) != strings.HasSuffix(m.Name, "_total") {
			t.Errorf("%s is a %s", m.Name, m.Type)
		}
		if m.Help == "" || !strings.HasSuffix(m.Help, ".") {
			t.Errorf("%s: help %q", m.Name, m.Help)
		}
	}
	for name := range ours {
		t.Errorf("%s is printed and not described", name)
	}
}

// own is a Recorder in a registry of its own.
func own(families ...endpoints.Family) (*Recorder, metrics.KubeRegistry) {
	reg := metrics.NewKubeRegistry()
	return NewRecorder(families, reg.MustRegister), reg
}

// value returns a sample, as name or name{label}; of a histogram the number of observations. -1: there
// is none.
func value(t *testing.T, reg metrics.KubeRegistry, sample string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	name, label, _ := strings.Cut(strings.TrimSuffix(sample, "}"), "{")
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() != name || label != "" && m.GetLabel()[0].GetValue() != label {
				continue
			}
			switch {
			case m.Counter != nil:
				return m.GetCounter().GetValue()
			case m.Gauge != nil:
				return m.GetGauge().GetValue()
			default:
				return float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return -1
}

func TestRecorder(t *testing.T) {
	const (
		seen       = "kubeproxy_sync_proxy_rules_service_changes_total"
		pending    = "kubeproxy_sync_proxy_rules_service_changes_pending"
		slicesSeen = "kubeproxy_sync_proxy_rules_endpoint_changes_total"
		v4, v6     = endpoints.IPv4, endpoints.IPv6
	)
	failed := func(services, slices int) Sync {
		return Sync{Failed: true, ServiceEvents: services, SliceEvents: slices}
	}
	tests := []struct {
		name   string
		events func(*Recorder)
		want   map[string]float64
	}{
		{"from the start counters are there, times are not", func(*Recorder) {}, map[string]float64{
			seen: 0, pending: 0, "weir_transactions_refused_total": 0, "weir_conntrack_entries_removed_total{IPv6}": 0,
			"kubeproxy_sync_proxy_rules_nftables_sync_failures_total{IPv4}":  0,
			"kubeproxy_sync_proxy_rules_last_timestamp_seconds{IPv4}":        -1,
			"kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{IPv4}": -1,
		}},
		{"changes of a failing sync are counted once", func(r *Recorder) {
			r.SyncDone(failed(3, 5))
			r.SyncDone(failed(4, 5))
		}, map[string]float64{seen: 4, pending: 4, slicesSeen: 5}},
		{"and are no longer pending when it succeeds", func(r *Recorder) {
			r.SyncDone(failed(3, 5))
			r.SyncDone(Sync{ServiceEvents: 4, SliceEvents: 6})
			r.SyncDone(Sync{ServiceEvents: 1})
		}, map[string]float64{seen: 5, pending: 0, slicesSeen: 6}},
		{"a full sync is counted as one", func(r *Recorder) { r.SyncDone(Sync{Full: true}) }, map[string]float64{
			"kubeproxy_sync_proxy_rules_duration_seconds{IPv4}":         1,
			"kubeproxy_sync_full_proxy_rules_duration_seconds{IPv6}":    1,
			"kubeproxy_sync_partial_proxy_rules_duration_seconds{IPv4}": -1,
			"weir_resyncs_total":                0,  // the first
			"weir_programming_duration_seconds": -1, // nothing had changed
		}},
		{"a partial sync for one family", func(r *Recorder) {
			r.SyncDone(Sync{Families: []endpoints.Family{v6}, Start: time.Unix(100, 0), Duration: time.Second,
				Since: time.Unix(99, 0), Triggers: []time.Time{time.Unix(98, 0), time.Unix(200, 0)}})
		}, map[string]float64{
			"kubeproxy_sync_proxy_rules_duration_seconds{IPv4}":         -1,
			"kubeproxy_sync_partial_proxy_rules_duration_seconds{IPv6}": 1,
			"kubeproxy_network_programming_duration_seconds{IPv4}":      -1,
			"kubeproxy_network_programming_duration_seconds{IPv6}":      2,
			"weir_programming_duration_seconds":                         1,
			"kubeproxy_sync_proxy_rules_last_timestamp_seconds{IPv4}":   101, // nothing to do there: up to date
			"kubeproxy_sync_proxy_rules_last_timestamp_seconds{IPv6}":   101,
		}},
		{"a failed sync", func(r *Recorder) {
			r.SyncDone(Sync{Failed: true, Start: time.Unix(100, 0), Since: time.Unix(99, 0), Triggers: []time.Time{time.Unix(98, 0)}, SetAside: 2})
		}, map[string]float64{
			"kubeproxy_sync_proxy_rules_nftables_sync_failures_total{IPv4}": 1,
			"kubeproxy_sync_proxy_rules_duration_seconds{IPv4}":             1,
			"kubeproxy_sync_proxy_rules_last_timestamp_seconds{IPv4}":       -1,
			"kubeproxy_network_programming_duration_seconds{IPv4}":          -1,
			"weir_programming_duration_seconds":                             -1,
			"weir_services_set_aside":                                       2,
		}},
		{"foreign changes count when they are repaired", func(r *Recorder) {
			r.SyncDone(Sync{Full: true})
			r.ForeignChange()
			r.ForeignChange()
			r.SyncDone(Sync{Full: true, Failed: true})
			r.SyncDone(Sync{Full: true})
			r.SyncDone(Sync{Full: true})
			r.ForeignChange()
		}, map[string]float64{"weir_foreign_changes_repaired_total": 1, "weir_resyncs_total": 2}},
		{"totals of the kernel connection", func(r *Recorder) {
			r.Kernel(Kernel{Transactions: 5, Refused: 1})
			r.Kernel(Kernel{Transactions: 7, Refused: 1, Rebuilt: 2})
			r.Kernel(Kernel{Transactions: 1}) // a new connection
		}, map[string]float64{"weir_transactions_total": 8, "weir_transactions_refused_total": 1, "weir_tables_rebuilt_total": 2}},
		{"conntrack", func(r *Recorder) { r.ConntrackDone(v4, time.Second, 7); r.ConntrackDone(v4, time.Second, 0) }, map[string]float64{
			"kubeproxy_conntrack_reconciler_sync_duration_seconds{IPv4}": 2,
			"kubeproxy_conntrack_reconciler_deleted_entries_total{IPv4}": 7,
			"weir_conntrack_entries_removed_total{IPv4}":                 7,
			"weir_conntrack_entries_removed_total{IPv6}":                 0,
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, reg := own(v4, v6)
			tt.events(r)
			got := map[string]float64{}
			for sample := range tt.want {
				got[sample] = value(t, reg, sample)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestLastQueued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, reg := own(endpoints.IPv4)
		time.Sleep(1500 * time.Millisecond)
		r.SyncQueued(endpoints.IPv4)
		if got, want := value(t, reg, "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{IPv4}"), 946684801.5; got != want {
			t.Errorf("%v, want %v", got, want)
		}
	})
}

func TestNilRecorder(t *testing.T) { everything(nil) }

// For the race detector.
func TestRecorderConcurrently(t *testing.T) {
	r, reg := own(endpoints.Families[:]...)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				everything(r)
			}
		})
	}
	wg.Go(func() {
		for range 20 {
			reg.Gather()
		}
	})
	wg.Wait()
}

func BenchmarkSyncDone(b *testing.B) {
	r, _ := own(endpoints.Families[:]...)
	s := Sync{Start: time.Now(), Duration: time.Millisecond, Since: time.Now(), Triggers: []time.Time{time.Now()}}
	b.ReportAllocs()
	for b.Loop() {
		r.SyncDone(s)
	}
}
