package metrics

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/component-base/configz"
	"k8s.io/klog/v2"
)

func get(h http.Handler, path, accept string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", path, nil)
	if accept != "" {
		r.Header.Set("Accept", accept)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestMux(t *testing.T) {
	flags := pflag.NewFlagSet("weir", pflag.ContinueOnError)
	flags.String("cluster-cidr", "10.244.0.0/16", "")
	everythingOn := Mux(Config{Flags: flags, Profiling: true, Version: "v1.2.3"})
	plainMux := Mux(Config{NoStatusz: true})
	const text = "text/plain; charset=utf-8"
	get(plainMux, "/healthz", "")
	tests := []struct {
		name string
		mux  http.Handler
		path string
		code int
		kind string // Content-Type; "": does not matter
		body string // what it contains; with ^ and $ all of it
	}{
		{"metrics", plainMux, "/metrics", 200, "", "go_goroutines "},
		{"SLIs, after healthz", plainMux, "/metrics/slis", 200, "", `kubernetes_healthcheck{name="ping",type="healthz"} 1`},
		{"healthz", plainMux, "/healthz", 200, text, "^ok$"},
		{"healthz, verbose", plainMux, "/healthz?verbose", 200, text, "^[+]ping ok\nhealthz check passed\n$"},
		{"the check in healthz", plainMux, "/healthz/ping", 200, text, "^ok$"},
		{"proxyMode", plainMux, "/proxyMode", 200, text, "^nftables$"},
		{"proxyMode as configured", Mux(Config{ProxyMode: "other"}), "/proxyMode", 200, text, "^other$"},
		{"configz", plainMux, "/configz", 200, "application/json", "{"},
		{"no statusz", plainMux, "/statusz", 404, "", ""},
		{"no flagz", plainMux, "/flagz", 404, "", ""},
		{"no profiling", plainMux, "/debug/pprof/", 404, "", ""},
		{"no verbosity", plainMux, "/debug/flags/v", 404, "", ""},
		{"elsewhere", everythingOn, "/", 404, "", ""},
		{"statusz", everythingOn, "/statusz", 200, text, "Binary version: v1.2.3\nPaths: /configz /flagz /healthz /metrics /proxyMode /statusz\n"},
		{"flagz", everythingOn, "/flagz", 200, text, "\ncluster-cidr=10.244.0.0/16\n"},
		{"profiles", everythingOn, "/debug/pprof/", 200, "text/html; charset=utf-8", "goroutine"},
		{"profiles, without slash", everythingOn, "/debug/pprof", 302, "", ""},
		{"a profile", everythingOn, "/debug/pprof/goroutine?debug=1", 200, text, "goroutine profile"},
		{"flags", everythingOn, "/debug/flags", 200, "", "PUT"},
		{"verbosity is not for reading", everythingOn, "/debug/flags/v", 406, text, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := get(tt.mux, tt.path, "")
			body := w.Body.String()
			if w.Code != tt.code || tt.kind != "" && w.Header().Get("Content-Type") != tt.kind {
				t.Errorf("%d %s, want %d %s\n%s", w.Code, w.Header().Get("Content-Type"), tt.code, tt.kind, body)
			}
			if !strings.Contains("^"+body+"$", tt.body) {
				t.Errorf("body %q, want %q", body, tt.body)
			}
		})
	}
}

func TestVerbosity(t *testing.T) {
	mux := Mux(Config{Profiling: true})
	put := func(level string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest("PUT", "/debug/flags/v", strings.NewReader(level)))
		return w
	}
	defer put("0")
	if w := put("7"); w.Code != 200 || !klog.V(7).Enabled() || klog.V(8).Enabled() {
		t.Errorf("7: %d %s, level 7 %v, level 8 %v", w.Code, w.Body, klog.V(7).Enabled(), klog.V(8).Enabled())
	}
	for _, bad := range []string{"", "much", strings.Repeat("1", 100)} {
		if w := put(bad); w.Code != 400 {
			t.Errorf("%q: %d, want 400", bad, w.Code)
		}
	}
}

func TestZpagesNegotiation(t *testing.T) {
	mux := Mux(Config{Flags: pflag.NewFlagSet("weir", pflag.ContinueOnError)})
	tests := []struct {
		name, path, accept string
		want               string // Content-Type, or 406
	}{
		{"a browser", "/statusz", "text/html,application/xhtml+xml,*/*;q=0.8", "text/plain; charset=utf-8"},
		{"curl", "/statusz", "*/*", "text/plain; charset=utf-8"},
		{"text", "/flagz", "text/plain", "text/plain; charset=utf-8"},
		{"the object", "/statusz", "application/json;v=v1beta1;g=config.k8s.io;as=Statusz", "application/json"},
		{"the object, as before", "/flagz", "application/json;v=v1alpha1;g=config.k8s.io;as=Flagz", "application/json"},
		{"the object or text", "/flagz", "application/json;v=v1;g=config.k8s.io;as=Flagz, text/plain", "text/plain; charset=utf-8"},
		{"another kind", "/flagz", "application/json;v=v1beta1;g=config.k8s.io;as=Statusz", "406"},
		{"another version", "/flagz", "application/json;v=v1;g=config.k8s.io;as=Flagz", "406"},
		{"plain JSON", "/statusz", "application/json", "406"},
		{"YAML", "/statusz", "application/yaml;v=v1beta1;g=config.k8s.io;as=Statusz", "406"},
		{"nonsense", "/statusz", ";;;", "406"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := get(mux, tt.path, tt.accept)
			got := w.Header().Get("Content-Type")
			if w.Code == http.StatusNotAcceptable {
				got = "406"
			}
			if got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

// The objects have the fields of k8s.io/apiserver's pkg/server/{statusz,flagz}/api/v1beta1.
func TestZpagesObjects(t *testing.T) {
	flags := pflag.NewFlagSet("weir", pflag.ContinueOnError)
	flags.String("mode", "nftables", "")
	flags.String("token", "secret", "")
	if err := flags.SetAnnotation("token", "classified", []string{"true"}); err != nil {
		t.Fatal(err)
	}
	mux := Mux(Config{Component: "kube-proxy", Version: "v1.2.3", Flags: flags})

	want := `{"kind":"Flagz","apiVersion":"config.k8s.io/v1beta1","metadata":{"name":"kube-proxy"},"flags":{"mode":"nftables","token":"CLASSIFIED"}}` + "\n"
	got := get(mux, "/flagz", "application/json;v=v1beta1;g=config.k8s.io;as=Flagz").Body.String()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("flagz (-want +got):\n%s", diff)
	}
	if text := get(mux, "/flagz", "").Body.String(); strings.Contains(text, "secret") {
		t.Errorf("flagz shows a secret:\n%s", text)
	}

	var status struct {
		metav1.TypeMeta
		Metadata                 metav1.ObjectMeta
		StartTime                metav1.Time
		UptimeSeconds            int64
		GoVersion, BinaryVersion string
		Paths                    []string
	}
	d := json.NewDecoder(get(mux, "/statusz", "application/json;v=v1beta1;g=config.k8s.io;as=Statusz").Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&status); err != nil {
		t.Fatal(err)
	}
	if status.Kind != "Statusz" || status.Metadata.Name != "kube-proxy" || status.BinaryVersion != "v1.2.3" ||
		status.StartTime.IsZero() || len(status.Paths) == 0 {
		t.Errorf("statusz: %+v", status)
	}
}

func TestConfigz(t *testing.T) {
	c, err := configz.New("kubeproxy.config.k8s.io")
	if err != nil {
		t.Fatal(err)
	}
	defer configz.Delete("kubeproxy.config.k8s.io")
	o := &metav1.Status{Message: "here"}
	o.SetGroupVersionKind(schema.GroupVersionKind{Group: "kubeproxy.config.k8s.io", Version: "v1alpha1", Kind: "KubeProxyConfiguration"})
	if err := c.Set(o); err != nil {
		t.Fatal(err)
	}
	body := get(Mux(Config{}), "/configz", "").Body.Bytes()
	if !bytes.HasPrefix(body, []byte(`{"kubeproxy.config.k8s.io":{`)) || !bytes.Contains(body, []byte(`"here"`)) {
		t.Errorf("configz: %s", body)
	}
}
