package health

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weir-project/weir/endpoints"
)

// step is something that the sync loop or the clock does.
type step func(*Proxy)

func after(d time.Duration) step       { return func(*Proxy) { time.Sleep(d) } }
func queued(f endpoints.Family) step   { return func(p *Proxy) { p.QueuedUpdate(f) } }
func updated(f endpoints.Family) step  { return func(p *Proxy) { p.Updated(f) } }
func started(p *Proxy)                 { p.SyncStarted() }
func ended(p *Proxy)                   { p.SyncEnded() }
func progress(p *Proxy)                { p.Progress() }
func node(n *endpoints.Node) step      { return func(p *Proxy) { p.SetNode(n) } }
func repeat(n int, steps ...step) step { return func(p *Proxy) { run(p, n, steps) } }
func run(p *Proxy, n int, steps []step) { // n times
	for range n {
		for _, s := range steps {
			s(p)
		}
	}
}

// synced is the start of most stories: both families written, the node there.
var synced = repeat(1, node(&endpoints.Node{}), started, updated(endpoints.IPv4), updated(endpoints.IPv6), ended)

func TestHealthzAndLivez(t *testing.T) {
	const v4, v6 = endpoints.IPv4, endpoints.IPv6
	tests := []struct {
		name  string
		steps []step
		// want is "healthz livez", as codes, then the families' health in healthz.
		want string
	}{
		{"nothing has happened", nil, "503 200 IPv4:false IPv6:false"},
		{"starting takes an hour, changes come in", []step{queued(v4), after(time.Hour)}, "503 200 IPv4:false IPv6:false"},
		{"first sync is long and gets on", []step{node(&endpoints.Node{}), queued(v4), started,
			repeat(100, after(time.Minute), progress)}, "503 200 IPv4:false IPv6:false"},
		{"first sync is one transaction of four minutes", []step{node(&endpoints.Node{}), queued(v4), started,
			after(4 * time.Minute)}, "503 200 IPv4:false IPv6:false"},
		{"first sync hangs", []step{queued(v4), started, after(5 * time.Minute)}, "503 503 IPv4:false IPv6:false"},
		{"first sync done for one family", []step{node(&endpoints.Node{}), started, updated(v4)}, "503 200 IPv4:true IPv6:false"},
		{"synced", []step{synced}, "200 200 IPv4:true IPv6:true"},
		{"nothing to do for a day", []step{synced, after(24 * time.Hour)}, "200 200 IPv4:true IPv6:true"},

		{"no Node object", []step{synced, node(nil)}, "503 200 IPv4:true IPv6:true"},
		{"Node on its way out", []step{synced, node(&endpoints.Node{Deleting: true})}, "503 200 IPv4:true IPv6:true"},
		{"Node back", []step{synced, node(nil), node(&endpoints.Node{})}, "200 200 IPv4:true IPv6:true"},

		{"a change is not yet late", []step{synced, queued(v4), after(time.Minute - 1)}, "200 200 IPv4:true IPv6:true"},
		{"the loop does not look at a change", []step{synced, queued(v4), after(time.Minute)}, "503 503 IPv4:false IPv6:true"},
		{"the oldest change counts", []step{synced, queued(v6), after(40 * time.Second), queued(v6), after(20 * time.Second)},
			"503 503 IPv4:true IPv6:false"},
		{"after an idle day a change has its minute", []step{synced, after(24 * time.Hour), queued(v4), after(59 * time.Second)},
			"200 200 IPv4:true IPv6:true"},
		{"a late change is written", []step{synced, queued(v4), after(time.Hour), started, updated(v4), ended}, "200 200 IPv4:true IPv6:true"},
		{"the sync for a late change runs", []step{synced, queued(v4), after(time.Hour), started}, "503 200 IPv4:false IPv6:true"},

		{"a sync is long and gets on", []step{synced, queued(v4), started, repeat(60, after(time.Minute), progress)},
			"503 200 IPv4:false IPv6:true"},
		{"a sync hangs", []step{synced, queued(v4), started, progress, after(5 * time.Minute)}, "503 503 IPv4:false IPv6:true"},
		{"syncs fail and are tried again", []step{synced, queued(v4), repeat(100, started, after(time.Second), ended, after(30*time.Second))},
			"503 200 IPv4:false IPv6:true"},
		{"a sync has failed, and is not tried again", []step{synced, queued(v4), started, ended, after(time.Minute)},
			"503 503 IPv4:false IPv6:true"},
		{"one family fails", []step{synced, queued(v4), queued(v6), started, updated(v4), ended, after(59 * time.Second), started, ended, after(time.Second)},
			"503 200 IPv4:true IPv6:false"},

		{"a change during a sync waits on after it", []step{synced, queued(v4), started, queued(v4), updated(v4), ended, after(time.Minute)},
			"503 503 IPv4:false IPv6:true"},
		{"and is written by the next", []step{synced, queued(v4), started, queued(v4), updated(v4), ended, started, updated(v4), ended, after(time.Hour)},
			"200 200 IPv4:true IPv6:true"},
		{"updated outside of a sync", []step{synced, queued(v4), updated(v4), after(time.Hour)}, "200 200 IPv4:true IPv6:true"},
		{"a family that is not served", []step{synced, queued(0), updated(0), after(time.Hour)}, "200 200 IPv4:true IPv6:true"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := NewProxy(ProxyConfig{Families: endpoints.Families[:]})
				run(p, 1, tt.steps)
				health, _ := p.Healthz()
				got := fmt.Sprintf("%d %d IPv4:%v IPv6:%v", code(p, "/healthz"), code(p, "/livez"),
					health.Status["IPv4"].Healthy, health.Status["IPv6"].Healthy)
				if got != tt.want {
					t.Errorf("got %s, want %s", got, tt.want)
				}
				if p.Healthy() != health.Healthy {
					t.Errorf("Healthy() = %v, healthz says %v", p.Healthy(), health.Healthy)
				}
			})
		})
	}
}

func code(p *Proxy, path string) int { return get(p, path).Code }

func get(p *Proxy, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	p.Handler().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	return w
}

// The bodies are spelled out, so that a change of the JSON is seen. The bubble's clock begins at
// midnight UTC, 2000-01-01.
func TestProxyPayload(t *testing.T) {
	v4 := []endpoints.Family{endpoints.IPv4}
	tests := []struct {
		name     string
		families []endpoints.Family
		steps    []step
		path     string
		want     string
	}{
		{"healthz before the first sync", v4, []step{after(time.Second)}, "/healthz",
			`{"lastUpdated":"0001-01-01T00:00:00Z","currentTime":"2000-01-01T00:00:01Z","nodeEligible":false,"healthy":false,` +
				`"status":{"IPv4":{"lastUpdated":"0001-01-01T00:00:00Z","healthy":false}}}`},
		{"livez before the first sync", v4, []step{after(time.Second)}, "/livez",
			`{"lastUpdated":"2000-01-01T00:00:01Z","currentTime":"2000-01-01T00:00:01Z","healthy":true,` +
				`"status":{"IPv4":{"lastUpdated":"0001-01-01T00:00:00Z","healthy":true}}}`},
		{"healthz of both families", endpoints.Families[:], []step{synced, after(3 * time.Second)}, "/healthz",
			`{"lastUpdated":"2000-01-01T00:00:03Z","currentTime":"2000-01-01T00:00:03Z","nodeEligible":true,"healthy":true,` +
				`"status":{"IPv4":{"lastUpdated":"2000-01-01T00:00:00Z","healthy":true},"IPv6":{"lastUpdated":"2000-01-01T00:00:00Z","healthy":true}}}`},
		{"healthz of a node that goes", v4, []step{synced, node(nil), after(3 * time.Second)}, "/healthz",
			`{"lastUpdated":"2000-01-01T00:00:00Z","currentTime":"2000-01-01T00:00:03Z","nodeEligible":false,"healthy":true,` +
				`"status":{"IPv4":{"lastUpdated":"2000-01-01T00:00:00Z","healthy":true}}}`},
		{"livez of a stuck loop", endpoints.Families[:], []step{synced, queued(endpoints.IPv6), after(time.Minute)}, "/livez",
			`{"lastUpdated":"2000-01-01T00:00:00Z","currentTime":"2000-01-01T00:01:00Z","healthy":false,` +
				`"status":{"IPv4":{"lastUpdated":"2000-01-01T00:00:00Z","healthy":true},"IPv6":{"lastUpdated":"2000-01-01T00:00:00Z","healthy":false}}}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := NewProxy(ProxyConfig{Families: tt.families})
				run(p, 1, tt.steps)
				w := get(p, tt.path)
				if diff := cmp.Diff(tt.want, utc(t, w.Body.String())); diff != "" {
					t.Errorf("body (-want +got):\n%s", diff)
				}
				for header, want := range map[string]string{"Content-Type": "application/json", "X-Content-Type-Options": "nosniff"} {
					if got := w.Header().Get(header); got != want {
						t.Errorf("%s: %q, want %q", header, got, want)
					}
				}
			})
		})
	}
}

// utc gives a body the bubble's clock in UTC, wherever the test runs.
func utc(t *testing.T, body string) string {
	var r Report
	d := json.NewDecoder(strings.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	r.LastUpdated, r.CurrentTime = r.LastUpdated.UTC(), r.CurrentTime.UTC()
	for f, s := range r.Status {
		s.LastUpdated = s.LastUpdated.UTC()
		r.Status[f] = s
	}
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestProbesAreCounted(t *testing.T) {
	got := map[string]int{}
	p := NewProxy(ProxyConfig{
		Families: endpoints.Families[:],
		Healthz:  func(code int) { got[fmt.Sprint("healthz ", code)]++ },
		Livez:    func(code int) { got[fmt.Sprint("livez ", code)]++ },
	})
	code(p, "/healthz")
	code(p, "/livez")
	synced(p)
	code(p, "/healthz")
	if c := code(p, "/elsewhere"); c != 404 {
		t.Errorf("/elsewhere: %d, want 404", c)
	}
	want := map[string]int{"healthz 503": 1, "healthz 200": 1, "livez 200": 1}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
}

// For the race detector.
func TestProxyConcurrently(t *testing.T) {
	p := NewProxy(ProxyConfig{Families: endpoints.Families[:]})
	var wg sync.WaitGroup
	for _, s := range []step{queued(endpoints.IPv4), updated(endpoints.IPv6), started, progress, ended, node(nil),
		func(p *Proxy) { p.Healthy() }, func(p *Proxy) { get(p, "/healthz") }, func(p *Proxy) { get(p, "/livez") }} {
		wg.Go(func() { run(p, 200, []step{s}) })
	}
	wg.Wait()
}
