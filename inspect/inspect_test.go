package inspect

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-project/weir/inspect/api"
)

func TestParseQuestion(t *testing.T) {
	for _, tt := range []struct {
		name            string
		from, proto, to string
		want            string // what the error says; "": none
	}{
		{"addresses", "10.244.1.5", "tcp", "10.96.0.10:80", ""},
		{"IPv6", "fd00::5", "UDP", "[fd00:10:96::10]:53", ""},
		{"node", "node", "sctp", "10.96.0.10:80", ""},
		{"name", "node", "tcp", "web.default:80", ""},
		{"name in full", "10.244.1.5", "tcp", "web.default.svc.cluster.local.:80", ""},
		{"no address", "pod-1", "tcp", "10.96.0.10:80", `FROM "pod-1"`},
		{"everybody", "0.0.0.0", "tcp", "10.96.0.10:80", `FROM "0.0.0.0"`},
		{"no protocol", "node", "icmp", "10.96.0.10:80", `PROTO "icmp": not one of tcp, udp, sctp`},
		{"no port", "node", "tcp", "10.96.0.10", "no port"},
		{"port 0", "node", "tcp", "10.96.0.10:0", `port "0" is not from 1 to 65535`},
		{"port too high", "node", "tcp", "10.96.0.10:70000", `port "70000"`},
		{"port by name", "node", "tcp", "10.96.0.10:http", `port "http"`},
		{"no brackets", "node", "tcp", "fd00::10:80", "brackets"},
		{"half a bracket", "node", "tcp", "[fd00::10:80", "bracket"},
		{"address gone wrong", "node", "tcp", "10.96.0.300:80", "neither an address nor a name"},
		{"nothing", "node", "tcp", ":80", "neither an address nor a name"},
		{"two families", "10.244.1.5", "tcp", "[fd00::10]:80", "different families"},
		{"multicast", "node", "udp", "224.0.0.1:80", "no address to connect to"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseQuestion(tt.from, tt.proto, tt.to)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("%v, want %q", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %v", err)
			}
		})
	}
}

func FuzzParseQuestion(f *testing.F) {
	f.Add("node", "tcp", "web.default:80")
	f.Add("10.244.1.5", "udp", "[fd00::10%eth0]:53")
	f.Add("::ffff:10.0.0.1", "sctp", "10.96.0.10:1")
	f.Fuzz(func(t *testing.T, from, proto, to string) {
		q, err := ParseQuestion(from, proto, to)
		if err != nil {
			return
		}
		if q.To.Port() == 0 || q.Proto == 0 || q.To.Addr().IsValid() == (q.Name != "") {
			t.Errorf("%q %q %q: %+v", from, proto, to, q)
		}
		if q.To.Addr().Zone()+q.From.Zone() != "" || q.To.Addr().Is4In6() || q.From.Is4In6() {
			t.Errorf("%q %q %q: not a plain address: %+v", from, proto, to, q)
		}
	})
}

func TestRing(t *testing.T) {
	r := newRing()
	for k := range remembered + 10 {
		r.add(api.Event{Duration: api.Seconds(k)}, k == 5)
	}
	all, more := r.after(0)
	if len(all) != remembered || all[0].ID != 11 || all[len(all)-1].ID != remembered+10 {
		t.Errorf("%d events from %d to %d", len(all), all[0].ID, all[len(all)-1].ID)
	}
	for k := 1; k < len(all); k++ {
		if all[k].ID != all[k-1].ID+1 || all[k].Duration != api.Seconds(all[k].ID-1) {
			t.Fatalf("event %d follows %d, with %v", all[k].ID, all[k-1].ID, all[k].Duration)
		}
	}
	for _, tt := range []struct {
		after uint64
		want  int
	}{{remembered + 9, 1}, {remembered + 10, 0}, {remembered + 99, 0}, {5, remembered}} {
		if got, _ := r.after(tt.after); len(got) != tt.want {
			t.Errorf("after %d: %d events, want %d", tt.after, len(got), tt.want)
		}
	}
	select {
	case <-more:
		t.Error("there is more, though nothing came")
	default:
	}
	r.add(api.Event{}, false)
	<-more
	if s := r.syncs(); s.Count != remembered+11 || s.Failed != 1 {
		t.Errorf("%d syncs, %d failed", s.Count, s.Failed)
	}
}

func TestLatency(t *testing.T) {
	var list []api.Seconds
	for k := 100; k > 0; k-- {
		list = append(list, api.Seconds(k))
	}
	if got, want := latency(list), (api.Latency{Count: 100, P50: 50, P99: 99, Max: 100}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := latency(nil); got != (api.Latency{}) {
		t.Errorf("of nothing: %+v", got)
	}
	if got, want := latency([]api.Seconds{3}), (api.Latency{Count: 1, P50: 3, P99: 3, Max: 3}); got != want {
		t.Errorf("of one: %+v", got)
	}
}

func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &Inspector{events: newRing()}
		i.events.add(api.Event{}, false)
		ctx, cancel := context.WithCancel(t.Context())
		var seen []uint64
		done := make(chan error)
		go func() {
			done <- i.Follow(ctx, 0, func(e api.Event) error { seen = append(seen, e.ID); return nil })
		}()
		synctest.Wait()
		i.events.add(api.Event{}, false)
		synctest.Wait()
		i.events.add(api.Event{}, false)
		synctest.Wait()
		cancel()
		if err := <-done; err != nil || len(seen) != 3 || seen[2] != 3 {
			t.Errorf("%v, %v", seen, err)
		}
		broken := errors.New("broken")
		if err := i.Follow(t.Context(), 0, func(api.Event) error { return broken }); !errors.Is(err, broken) {
			t.Errorf("%v, want the error of who was told", err)
		}
	})
}

// serve runs a server until the test ends.
func serve(t *testing.T, path string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	s := Server{Path: path, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w, api.Status{Node: path}) })}
	go func() { done <- s.Run(ctx) }()
	stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	return stop
}

// awaitAnswer waits until somebody answers.
func awaitAnswer(t *testing.T, path string) {
	t.Helper()
	c := NewClient(path)
	defer c.Close()
	var err error
	for range 200 {
		var s api.Status
		if err = c.Get(t.Context(), "/v1/status", nil, &s); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal(err)
}

func TestServer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "weir.sock")
	stop := serve(t, path)
	awaitAnswer(t, path)
	for file, want := range map[string]os.FileMode{path: 0o600 | os.ModeSocket, filepath.Dir(path): 0o700 | os.ModeDir} {
		if info, err := os.Stat(file); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v, want %v", file, info.Mode(), err, want)
		}
	}
	if _, err := listen(path); !errors.Is(err, errInUse) {
		t.Errorf("a second one: %v, want %v", err, errInUse)
	}
	awaitAnswer(t, path) // the first one has not noticed
	stop()

	// What a killed process leaves is replaced.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
	stop = serve(t, path)
	awaitAnswer(t, path)
	stop()

	// A file that is no socket is not touched.
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	l2, err := listen(path)
	if text, _ := os.ReadFile(path); err == nil || string(text) != "mine" {
		t.Errorf("%v, %v, and the file is %q", l2, err, text)
	}
}

func TestClientErrors(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
	for _, tt := range []struct{ name, path, want string }{
		{"not there", filepath.Join(dir, "none.sock"), "is weir run running on this node"},
		{"nobody listens", stale, "is weir run running on this node"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := NewClient(tt.path)
			defer c.Close()
			var s api.Status
			if err := c.Get(t.Context(), "/v1/status", nil, &s); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

func TestFullName(t *testing.T) {
	for _, tt := range []struct{ name, full, service, err string }{
		{"web.default", "web.default.svc.cluster.local", "default/web", ""},
		{"web.default.svc", "web.default.svc.cluster.local", "default/web", ""},
		{"web.default.svc.cluster.local.", "web.default.svc.cluster.local", "default/web", ""},
		{"pod-1.web.default.svc.cluster.local", "pod-1.web.default.svc.cluster.local", "default/web", ""},
		{"cluster.local", "cluster.local", "", ""},
		{"web", "", "", "web.NAMESPACE"},
		{"www.example.com", "", "", "not one of the cluster's names"},
	} {
		full, service, err := fullName(tt.name, "cluster.local")
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: %v, want %q", tt.name, err, tt.err)
			}
			continue
		}
		if err != nil || full != tt.full || service.String() != tt.service {
			t.Errorf("%s: %s, %s, %v; want %s, %s", tt.name, full, service, err, tt.full, tt.service)
		}
	}
}
