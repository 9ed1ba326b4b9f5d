//go:build linux

package packets

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weir-project/weir/inspect/api"
	"github.com/weir-project/weir/internal/netlab"
)

// said is what a command of weir has said.
type said struct {
	code     int
	out, err string
}

// ask runs a command of weir in the node, as a user.
func (d *daemon) ask(t *testing.T, uid uint32, args ...string) said {
	t.Helper()
	cmd := exec.Command(binary, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	proc, err := d.lab.Host("node").Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	err = proc.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return said{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// asking adds the socket to the words of a command.
func (d *daemon) asking(line string) []string {
	return append(strings.Fields(line), "--socket", d.socket)
}

// look asks for an object.
func (d *daemon) look(t *testing.T, line string, into any) said {
	t.Helper()
	s := d.ask(t, 0, append(d.asking(line), "-o", "json")...)
	if err := json.Unmarshal([]byte(s.out), into); err != nil {
		t.Fatalf("weir %s: %v\n%+v", line, err, s)
	}
	return s
}

// inside is a weir with the Services of a world, to look into.
func inside(t *testing.T, name string) *daemon {
	t.Helper()
	lab, _ := newLab(t, netlab.Config{})
	w := world{name: name, steps: []step{{}}}
	d := newDaemon(t, lab, clusterCIDR...)
	if err := d.first(&w); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.stop()
		if err := d.cleanup(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// What commands say when they are used well.
func TestNetnsCommands(t *testing.T) {
	t.Parallel()
	d := inside(t, "node-port")

	t.Run("status", func(t *testing.T) {
		var s api.Status
		if got := d.look(t, "status", &s); got.code != 0 || !s.Healthy || s.Node != "node1" || s.Sizes.Services == 0 || s.Sizes.Slots == 0 ||
			s.Syncs.Last == nil || s.Syncs.Duration.Count == 0 || s.Syncs.Delay.P99 <= 0 || s.Memory.Resident == 0 {
			t.Errorf("%+v\n%+v", got, s)
		}
		if text := d.ask(t, 0, d.asking("status")...); text.code != 0 || !strings.HasPrefix(text.out, "healthy\n") {
			t.Errorf("%+v", text)
		}
	})
	t.Run("services", func(t *testing.T) {
		var all, one api.ServiceList
		d.look(t, "services", &all)
		d.look(t, "services -n default web", &one)
		if len(all.Items) < 5 || len(one.Items) != 1 || one.Items[0].Name != "web" {
			t.Fatalf("%d Services, and %d called web", len(all.Items), len(one.Items))
		}
		p := one.Items[0].Ports[0]
		slots := map[uint32]bool{}
		for _, e := range p.Endpoints {
			if e.Slot != nil {
				slots[*e.Slot] = true
			}
			if !e.Ready || e.Node == "" || e.OnNode != (e.Node == "node1") {
				t.Errorf("%+v", e)
			}
		}
		if len(slots) != 3 || p.Ready != 3 || len(p.Frontends) < 2 || p.Frontends[0].Class != 4 || p.Frontends[0].Kind != "ClusterIP" {
			t.Errorf("%+v", p)
		}
		if text := d.ask(t, 0, d.asking("services")...); !strings.Contains(text.out, "NodePort 172.31.0.11:30080") {
			t.Errorf("%+v", text)
		}
		if text := d.ask(t, 0, append(d.asking("services web"), "-o", "yaml")...); !strings.Contains(text.out, "apiVersion: weir.inspect/v1\n") {
			t.Errorf("%+v", text)
		}
	})
	t.Run("trace of a name", func(t *testing.T) {
		var tr api.Trace
		got := d.look(t, "trace 10.244.1.12 tcp web.default:80", &tr)
		if got.code != 0 || tr.Answer == nil || tr.Answer.Name != "web.default.svc.cluster.local" || len(tr.Endpoints) != 3 || tr.Service != "default/web" {
			t.Errorf("%+v\n%+v", got, tr)
		}
		got = d.look(t, "trace node tcp empty.default:80", &tr)
		if got.code != 1 || tr.Outcome != "refused" {
			t.Errorf("%+v\n%+v", got, tr)
		}
	})
	t.Run("verify", func(t *testing.T) {
		var v api.Verification
		if got := d.look(t, "verify", &v); got.code != 0 || !v.Fine || v.Elements < 20 {
			t.Errorf("%+v\n%+v", got, v)
		}
		if got := d.look(t, "verify --repair", &v); got.code != 0 || !v.Fine || v.Repaired {
			t.Errorf("%+v\n%+v", got, v)
		}
	})
	t.Run("connections", func(t *testing.T) { testConnections(t, d) })
	t.Run("events", func(t *testing.T) { testEvents(t, d) })
	t.Run("support-dump", func(t *testing.T) { testSupportDump(t, d) })
	d.finish(t)
}

// Connections that are held open are counted at their endpoints.
func testConnections(t *testing.T, d *daemon) {
	client := d.lab.Host("podC")
	const n = 7
	for range n {
		conn, err := client.Dial(t.Context(), "tcp", "10.96.0.10:80")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	var list api.ConnectionList
	d.look(t, "connections default/web", &list)
	live := 0
	for _, f := range list.Items {
		if f.Service != "default/web" {
			t.Errorf("%+v", f)
		}
		if f.Frontend.Address == netip.MustParseAddr("10.96.0.10") {
			for _, e := range f.Endpoints {
				live += e.Live
				if e.Gone || e.Port != 8080 {
					t.Errorf("%+v", e)
				}
			}
		}
	}
	if live < n {
		t.Errorf("%d live connections, want at least %d: %+v", live, n, list)
	}
}

// A change is told in Service names, to who follows too.
func testEvents(t *testing.T, d *daemon) {
	cmd := exec.Command(binary, append(d.asking("events -f"), "-o", "json")...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	defer time.AfterFunc(patience, func() { _ = cmd.Process.Kill() }).Stop()
	if err := d.settle(1); err != nil {
		t.Fatal(err)
	}
	for in := json.NewDecoder(out); ; {
		var e api.Event
		if err := in.Decode(&e); err != nil {
			t.Fatalf("no event about the marker: %v", err)
		}
		if len(e.Changes) > 0 && e.Changes[0].Service == "zz-test/marker" && e.Changes[0].Action == "Changed" && e.Delay > 0 && e.Duration > 0 {
			break
		}
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("interrupted: %v", err)
	}
}

func testSupportDump(t *testing.T, d *daemon) {
	file := filepath.Join(t.TempDir(), "dump.tar.gz")
	if got := d.ask(t, 0, append(d.asking("support-dump"), file)...); got.code != 0 || !strings.Contains(got.out, "wrote "+file) {
		t.Fatalf("%+v", got)
	}
	parts := unpack(t, file)
	for name, want := range map[string]string{
		"version.json": "goVersion", "status.json": `"healthy":true`, "services.json": `"name":"web"`, "events.json": "EventList",
		"verify.json": `"fine":true`, "connections.json": "ConnectionList", "ruleset.txt": "services { tcp . 10.96.0.10 . 80 : goto lb-4 }",
		"config.json": "--cluster-cidr", "log.txt": "Synced", "metrics.txt": "kubeproxy_sync_proxy_rules", "goroutines.txt": "goroutine profile",
		"sysctls.txt": "net.netfilter.nf_conntrack_max = ", "network.txt": "# /proc/net/fib_trie", "nft.txt": "table ip weir",
	} {
		if name == "config.json" {
			want = "cluster-cidr"
		}
		if name == "ruleset.txt" {
			want = "services { tcp . 10.96.0.10 . 80 : lb-4 }"
		}
		if !strings.Contains(parts[name], want) {
			t.Errorf("%s: no %q in\n%.300s", name, want, parts[name])
		}
	}
	if got := d.ask(t, 0, append(d.asking("support-dump"), file)...); got.code != 1 || !strings.Contains(got.err, "is there already") {
		t.Errorf("over an old one: %+v", got)
	}
}

// unpack reads an archive.
func unpack(t *testing.T, file string) map[string]string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v; want 0600", info.Mode(), err)
	}
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	parts := map[string]string{}
	for in := tar.NewReader(z); ; {
		head, err := in.Next()
		if errors.Is(err, io.EOF) {
			return parts
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		parts[strings.TrimPrefix(head.Name, "weir/")] = string(text)
	}
}

// What commands say when they are not used well, or cannot do what is wanted: one line that tells what to
// do, one more about usage if it is that, and an exit code.
func TestNetnsCommandsRefuse(t *testing.T) {
	t.Parallel()
	d := inside(t, "node-port")
	nobody := filepath.Join(t.TempDir(), "nobody.sock")
	const other = 65534
	for _, tt := range []struct {
		name string
		uid  uint32
		args []string
		code int
		want string
	}{
		{"unknown Service", 0, d.asking("services nosuch"), 1, "no Service nosuch in any namespace"},
		{"unknown Service in a namespace", 0, d.asking("services -n default nosuch"), 1, "no Service default/nosuch"},
		{"empty namespace", 0, d.asking("services -n nosuch"), 1, "no Services in namespace nosuch"},
		{"half a name", 0, d.asking("services default/"), 2, "neither a name nor namespace/name"},
		{"two namespaces", 0, d.asking("services -n other default/web"), 2, "is not in namespace other"},
		{"too many words", 0, d.asking("services web api"), 2, "accepts at most 1 arg(s), received 2"},
		{"no such form", 0, append(d.asking("status"), "-o", "xml"), 2, `-o "xml": not one of table, json, yaml`},
		{"word too many", 0, d.asking("status now"), 2, "now"},
		{"trace of too little", 0, d.asking("trace 10.244.1.12 tcp"), 2, "accepts 3 arg(s), received 2"},
		{"trace from nobody", 0, d.asking("trace pod tcp 10.96.0.10:80"), 2, `FROM "pod"`},
		{"trace with no protocol", 0, d.asking("trace node icmp 10.96.0.10:80"), 2, `PROTO "icmp"`},
		{"trace to no port", 0, d.asking("trace node tcp 10.96.0.10:99999"), 2, `port "99999" is not from 1 to 65535`},
		{"trace to no name", 0, d.asking("trace node tcp nosuch.default:80"), 1, "NXDOMAIN"},
		{"trace to a bare name", 0, d.asking("trace node tcp web:80"), 1, "say web.NAMESPACE"},
		{"trace to a name outside", 0, d.asking("trace node tcp www.example.com:80"), 1, "not one of the cluster's names"},
		{"connections of an unknown Service", 0, d.asking("connections default/nosuch"), 1, "no Service default/nosuch"},
		{"no weir, status", 0, []string{"status", "--socket", nobody}, 1, "no weir listens at " + nobody},
		{"no weir, services", 0, []string{"services", "--socket", nobody}, 1, "is weir run running on this node"},
		{"no weir, trace", 0, []string{"trace", "node", "tcp", "10.96.0.10:80", "--socket", nobody}, 1, "no weir listens at"},
		{"no weir, verify", 0, []string{"verify", "--socket", nobody}, 1, "no weir listens at"},
		{"no weir, connections", 0, []string{"connections", "--socket", nobody}, 1, "no weir listens at"},
		{"no weir, events", 0, []string{"events", "-f", "--socket", nobody}, 1, "no weir listens at"},
		{"no socket", 0, []string{"status", "--socket", ""}, 2, `--socket "": a running weir can be asked at a socket only`},
		{"no permission, status", other, d.asking("status"), 1, "is for root alone: try again with sudo"},
		{"no permission, verify", other, d.asking("verify --repair"), 1, "is for root alone"},
		{"no permission, events", other, d.asking("events"), 1, "is for root alone"},
		{"no file to dump to", 0, append(d.asking("support-dump"), "/nonexistent/dump"), 1, "/nonexistent/dump"},
		{"dump to nothing", 0, d.asking("support-dump"), 2, "accepts 1 arg(s), received 0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := d.ask(t, tt.uid, tt.args...)
			lines := strings.Count(got.err, "\n")
			if got.code != tt.code || !strings.Contains(got.err, tt.want) || got.out != "" || lines != tt.code {
				t.Errorf("exit code %d, %d lines, want %d and %q:\n%s%s", got.code, lines, tt.code, tt.want, got.out, got.err)
			}
		})
	}
	t.Run("dump without a weir", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "dump.tar.gz")
		got := d.ask(t, 0, "support-dump", file, "--socket", nobody)
		parts := unpack(t, file)
		if got.code != 1 || !strings.Contains(got.err, "not complete: no weir listens at") || !strings.Contains(parts["sysctls.txt"], "net.ipv4.ip_forward = ") {
			t.Errorf("%+v\n%.300s", got, parts["sysctls.txt"])
		}
	})
}

// A socket that cannot be opened is told of once, and does not keep weir from its work.
func TestNetnsSocketInTheWay(t *testing.T) {
	t.Parallel()
	lab, _ := newLab(t, netlab.Config{})
	w := world{name: "node-port", steps: []step{{}}}
	d := newDaemon(t, lab, clusterCIDR...)
	if err := os.WriteFile(d.socket, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.first(&w); err != nil { // which has packets answered
		t.Fatal(err)
	}
	told := func() int { return strings.Count(d.logged(), "Opening the control socket") }
	time.Sleep(7 * time.Second) // it has tried twice
	if n := told(); n != 1 || !strings.Contains(d.logged(), "is no socket") {
		t.Errorf("told %d times:\n%s", n, d.tail(10))
	}
	if err := os.Remove(d.socket); err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		if got := d.ask(t, 0, d.asking("status")...); got.code == 0 {
			break
		} else if time.Since(began) > patience {
			t.Fatalf("%+v\n%s", got, d.tail(10))
		}
	}
	if n := told(); n != 1 {
		t.Errorf("told %d times", n)
	}
	// One that was killed leaves its file, and is replaced.
	d.kill()
	d.start()
	if got := d.ask(t, 0, d.asking("status")...); got.code != 0 {
		t.Errorf("after a crash: %+v", got)
	}
	d.stop()
	if err := d.cleanup(); err != nil {
		t.Error(err)
	}
}
