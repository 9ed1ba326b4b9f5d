//go:build linux

package apiserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weir-project/weir/internal/netlab"
)

// patience is how long anything may take on a machine that is busy with other things.
const patience = 30 * time.Second

// daemon is a weir that runs in the node of a world, or does not.
type daemon struct {
	t    *testing.T
	w    *world
	args []string
	log  string // path
	proc *netlab.Process

	// forbidden says that the API server starts while weir runs: it then forbids everything until
	// it has read its roles.
	forbidden bool
}

// newDaemon returns a weir that is not started yet.
func newDaemon(t *testing.T, w *world, flags ...string) *daemon {
	t.Helper()
	d := &daemon{t: t, w: w, log: filepath.Join(t.TempDir(), "weir.log")}
	d.args = append([]string{"run", "--kubeconfig", w.cluster.ProxyKubeconfig, "--hostname-override", nodeName, "--cluster-cidr",
		netlab.ClusterCIDR4.String() + "," + netlab.ClusterCIDR6.String(), "--conntrack-max-per-core", "0", "-v", "2",
		"--socket", ""}, flags...)
	t.Cleanup(func() {
		if d.proc != nil {
			d.terminate()
		}
		d.inspect()
	})
	return d
}

// running returns a weir that has synced.
func running(t *testing.T, w *world, flags ...string) *daemon {
	t.Helper()
	d := newDaemon(t, w, flags...)
	d.start()
	return d
}

// inspect looks for what may never be in the log.
func (d *daemon) inspect() {
	d.t.Helper()
	for line := range strings.Lines(d.logged(0)) {
		if strings.Contains(line, "forbidden") && !d.forbidden || strings.HasPrefix(line, "panic:") ||
			strings.HasPrefix(line, "fatal error:") || strings.Contains(line, "DATA RACE") {
			d.t.Errorf("weir says: %s", line)
		}
	}
	if d.t.Failed() {
		lines := strings.Split(strings.TrimSpace(d.logged(0)), "\n")
		d.t.Logf("weir %s\n%s", strings.Join(d.args, " "), strings.Join(lines[max(0, len(lines)-40):], "\n"))
	}
}

// start starts weir and waits until it has synced.
func (d *daemon) start() {
	d.t.Helper()
	from := d.size()
	d.launch()
	d.waitSyncs(from, 1)
}

// launch starts weir and waits for nothing.
func (d *daemon) launch() {
	d.t.Helper()
	d.launchAs(binary, d.args)
}

// launchAs starts weir by means of another command.
func (d *daemon) launchAs(name string, args []string) {
	d.t.Helper()
	log, err := os.OpenFile(d.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		d.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "GORACE=halt_on_error=1")
	if d.proc, err = d.w.node().Start(cmd); err != nil {
		d.t.Fatal(err)
	}
}

// kill ends weir by SIGKILL.
func (d *daemon) kill() {
	d.t.Helper()
	select {
	case <-d.proc.Done():
		d.t.Errorf("weir ended by itself: %v", d.proc.Wait())
	default:
	}
	_ = d.proc.Close()
	d.proc = nil
}

// terminate ends weir in good order.
func (d *daemon) terminate() {
	d.t.Helper()
	_ = d.proc.Signal(syscall.SIGTERM)
	select {
	case <-d.proc.Done():
		if err := d.proc.Wait(); err != nil {
			d.t.Errorf("weir ended: %v, want exit code 0 upon SIGTERM", err)
		}
	case <-time.After(patience):
		d.t.Error("weir does not end upon SIGTERM")
		_ = d.proc.Close()
	}
	d.proc = nil
}

// size is how much weir has logged.
func (d *daemon) size() int64 {
	info, err := os.Stat(d.log)
	if err != nil {
		return 0
	}
	return info.Size()
}

// logged returns what weir has logged since the log had that size.
func (d *daemon) logged(from int64) string {
	f, err := os.Open(d.log)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, from, 1<<40))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// waitLog waits until weir has logged something with that in it, and returns the line.
func (d *daemon) waitLog(from int64, text string) (line string) {
	d.t.Helper()
	eventually(d.t, func() error {
		for line = range strings.Lines(d.logged(from)) {
			if strings.Contains(line, text) && strings.HasSuffix(line, "\n") {
				return nil
			}
		}
		return fmt.Errorf("weir does not say %q", text)
	})
	return line
}

// synced is what weir says after a sync.
type synced struct {
	full          bool
	services, ops int
	duration      time.Duration
}

var syncedLine = regexp.MustCompile(`"Synced" revision=\d+ full=(\w+) services=(\d+) ops=(\d+) duration="([^"]+)"\n`)

// syncs returns the syncs that weir has logged since the log had that size.
func (d *daemon) syncs(from int64) (list []synced) {
	for _, m := range syncedLine.FindAllStringSubmatch(d.logged(from), -1) {
		s := synced{full: m[1] == "true"}
		s.services, _ = strconv.Atoi(m[2])
		s.ops, _ = strconv.Atoi(m[3])
		s.duration, _ = time.ParseDuration(m[4])
		list = append(list, s)
	}
	return list
}

// waitSyncs waits until weir has logged n syncs since the log had that size.
func (d *daemon) waitSyncs(from int64, n int) (list []synced) {
	d.t.Helper()
	eventually(d.t, func() error {
		if list = d.syncs(from); len(list) >= n {
			return nil
		}
		select {
		case <-d.proc.Done():
			d.t.Fatalf("weir ended: %v\n%s", d.proc.Wait(), d.logged(from))
		default:
		}
		return fmt.Errorf("%d syncs, want %d", len(list), n)
	})
	return list
}

// eventually waits until check finds nothing wrong.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatalf("after %s: %v", patience, err)
}

// get asks weir's own HTTP servers.
func (d *daemon) get(url string) (status int, body string, err error) {
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return d.w.node().Dial(ctx, network, address)
		},
	}
	client := http.Client{Transport: transport, Timeout: 5 * time.Second}
	r, err := client.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return r.StatusCode, string(b), err
}

const (
	healthz = "http://127.0.0.1:10256/healthz"
	metrics = "http://127.0.0.1:10249/metrics"
)

// metric returns the sum of a metric over its labels.
func (d *daemon) metric(name string) float64 {
	d.t.Helper()
	status, body, err := d.get(metrics)
	if err != nil || status != http.StatusOK {
		d.t.Fatalf("%s: status %d, %v", metrics, status, err)
	}
	sum, found := 0.0, false
	for line := range strings.Lines(body) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest[0] != '{' && rest[0] != ' ' {
			continue
		}
		fields := strings.Fields(line)
		v, err := strconv.ParseFloat(fields[len(fields)-1], 64)
		if err != nil {
			d.t.Fatal(err)
		}
		sum, found = sum+v, true
	}
	if !found {
		d.t.Fatalf("no metric %s", name)
	}
	return sum
}

// command runs weir in the node until it ends by itself.
func command(w *world, cmd *exec.Cmd) (code int, output string, err error) {
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	p, err := w.node().Start(cmd)
	if err != nil {
		return 0, "", err
	}
	select {
	case <-p.Done():
	case <-time.After(patience):
		_ = p.Close()
		return 0, out.String(), errors.New("it does not end")
	}
	var exit *exec.ExitError
	if err := p.Wait(); errors.As(err, &exit) {
		return exit.ExitCode(), out.String(), nil
	}
	return 0, out.String(), p.Wait()
}
