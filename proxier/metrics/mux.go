package metrics

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/pprof"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/pflag"
	"k8s.io/component-base/configz"
	"k8s.io/component-base/logs"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/component-base/metrics/prometheus/slis"
)

// Config says what a Mux has to show. The zero value is fine.
type Config struct {
	// Component is the name on /statusz and /flagz. "": weir.
	Component string
	// Version is the program's, for /statusz. "": unknown.
	Version string
	// ProxyMode is the answer of /proxyMode. "": nftables.
	ProxyMode string
	// Flags are shown on /flagz, with their values; a flag annotated as "classified" without. Nil:
	// there is no /flagz (feature gate ComponentFlagz).
	Flags *pflag.FlagSet
	// NoStatusz leaves out /statusz (feature gate ComponentStatusz).
	NoStatusz bool
	// Profiling adds /debug/pprof and /debug/flags/v (enableProfiling).
	Profiling bool
	// Gatherer has more to show on /metrics. Nil: nothing more.
	Gatherer prometheus.Gatherer
}

// Mux serves what kube-proxy serves on its metrics address (cmd/kube-proxy/app/server.go,
// serveMetrics): /metrics, /metrics/slis, /healthz, /proxyMode, /configz, /statusz, /flagz, and
// /debug when profiling. /configz shows what was given to k8s.io/component-base/configz.
func Mux(c Config) http.Handler {
	defaultTo(&c.Component, "weir")
	defaultTo(&c.Version, "unknown")
	defaultTo(&c.ProxyMode, "nftables")

	m := &listingMux{ServeMux: http.NewServeMux()}
	m.Handle("/metrics", metricsPage(c.Gatherer))
	slis.SLIMetricsWithReset{}.Install(m)
	m.Handle("/healthz", http.HandlerFunc(healthz))
	m.Handle("/healthz/ping", http.HandlerFunc(healthz))
	m.Handle("/proxyMode", text(c.ProxyMode))
	configz.InstallHandler(m)
	if c.Flags != nil {
		m.Handle("/flagz", flagz(c.Component, c.Flags))
	}
	if !c.NoStatusz {
		m.Handle("/statusz", statusz(c, m))
	}
	if c.Profiling {
		profiling(m.ServeMux)
	}
	return m
}

// metricsPage shows what the process counts, and more.
func metricsPage(more prometheus.Gatherer) http.Handler {
	if more == nil {
		return legacyregistry.Handler()
	}
	all := prometheus.Gatherers{legacyregistry.DefaultGatherer, more}
	return promhttp.HandlerFor(all, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
}

func defaultTo(s *string, value string) {
	if *s == "" {
		*s = value
	}
}

// listingMux knows its paths.
type listingMux struct {
	*http.ServeMux
	paths []string
}

// Handle serves a path and lists it.
func (m *listingMux) Handle(path string, h http.Handler) {
	m.paths = append(m.paths, path)
	m.ServeMux.Handle(path, h)
}

// text serves the same text always.
func text(s string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, s) }
}

func plain(w http.ResponseWriter, code int, s string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = io.WriteString(w, s)
}

// healthz says that this server answers, which is all that kube-proxy's says here, and counts that
// in /metrics/slis as kube-proxy does. The proxy's health is on another address.
func healthz(w http.ResponseWriter, r *http.Request) {
	_ = slis.ObserveHealthcheck(context.Background(), "ping", "healthz", slis.Success)
	if r.URL.Query().Has("verbose") {
		plain(w, http.StatusOK, "[+]ping ok\nhealthz check passed\n")
		return
	}
	plain(w, http.StatusOK, "ok")
}

// profiling adds what shows and steers the process. /statusz does not list it, as kube-proxy's.
func profiling(m *http.ServeMux) {
	m.Handle("/debug/pprof", http.RedirectHandler("/debug/pprof/", http.StatusFound))
	m.HandleFunc("/debug/pprof/", pprof.Index)
	m.HandleFunc("/debug/pprof/profile", pprof.Profile)
	m.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	m.HandleFunc("/debug/pprof/trace", pprof.Trace)

	index := http.HandlerFunc(flagIndex)
	m.Handle("/debug/flags", index)
	m.Handle("/debug/flags/", index)
	m.HandleFunc("/debug/flags/v", verbosity)
}

func flagIndex(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = io.WriteString(w, "<html><title>/debug/flags/</title><body>Flags that can be changed with PUT: v</body></html>\n")
}

// verbosity sets the log level to the number that is PUT.
func verbosity(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPut {
		plain(w, http.StatusNotAcceptable, "only PUT changes a flag")
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64))
	if err != nil {
		plain(w, http.StatusBadRequest, fmt.Sprintf("read the level: %v", err))
		return
	}
	said, err := logs.GlogSetter(string(body))
	if err != nil {
		plain(w, http.StatusBadRequest, err.Error())
		return
	}
	plain(w, http.StatusOK, said)
}
