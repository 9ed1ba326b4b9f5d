//go:build linux

package packets

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/weir-project/weir/internal/netlab"
)

// daemon is a weir that runs in the node of a lab, on a directory of manifests.
type daemon struct {
	t      testing.TB
	lab    *netlab.Lab
	args   []string
	dir    string            // of manifests
	files  map[string]string // what is in it, without the marker
	log    string            // path
	socket string            // path of the control socket
	proc   *netlab.Process   // nil: stopped
}

// sockets numbers control sockets: their paths must be short.
var sockets atomic.Uint32

// newDaemon returns a weir that is not started yet.
func newDaemon(t testing.TB, lab *netlab.Lab, flags ...string) *daemon {
	t.Helper()
	dir := t.TempDir()
	d := &daemon{t: t, lab: lab, dir: filepath.Join(dir, "manifests"), files: map[string]string{}, log: filepath.Join(dir, "weir.log")}
	d.socket = filepath.Join(scratch, fmt.Sprintf("%d.sock", sockets.Add(1)))
	if err := os.Mkdir(d.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	d.args = []string{"run", "--manifests", d.dir, "--hostname-override", "node1", "-v=2"}
	if strings.Contains(help, "--socket") { // several weirs run here, and one file system is below them all
		d.args = append(d.args, "--socket", d.socket)
	}
	d.args = append(d.args, flags...)
	t.Cleanup(func() {
		d.stop()
		if t.Failed() {
			t.Logf("weir %s\n%s", strings.Join(d.args, " "), d.tail(40))
		}
	})
	return d
}

// start starts weir and waits until it has synced.
func (d *daemon) start() {
	d.t.Helper()
	if err := d.tryStart(); err != nil {
		d.t.Fatal(err)
	}
	if err := d.settle(1); err != nil {
		d.t.Fatal(err)
	}
}

func (d *daemon) tryStart() error {
	log, err := os.OpenFile(d.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(binary, d.args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "GORACE=halt_on_error=1")
	d.proc, err = d.lab.Host("node").Start(cmd)
	return err
}

// stop ends weir as systemd or the kubelet would. Its rules stay.
func (d *daemon) stop() {
	d.t.Helper()
	if d.proc == nil {
		return
	}
	_ = d.proc.Signal(syscall.SIGTERM)
	select {
	case <-d.proc.Done():
		if err := d.proc.Wait(); err != nil {
			d.t.Errorf("weir ended on SIGTERM: %v", err)
		}
	case <-time.After(20 * time.Second):
		d.t.Error("weir does not end on SIGTERM")
		_ = d.proc.Close()
	}
	d.proc = nil
}

// kill ends weir as nobody should.
func (d *daemon) kill() {
	_ = d.proc.Close()
	d.proc = nil
}

// cleanup removes what a stopped weir has left in the node.
func (d *daemon) cleanup() error {
	_, err := d.lab.Host("node").Run(binary, "cleanup")
	return err
}

// tail returns the end of the log.
func (d *daemon) tail(lines int) string {
	all := strings.Split(strings.TrimSpace(d.logged()), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

func (d *daemon) logged() string {
	text, err := os.ReadFile(d.log)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// finish stops weir and fails the test if there is anything in the log that no test wants to see.
func (d *daemon) finish(t *testing.T) {
	t.Helper()
	d.stop()
	for _, line := range d.troubles() {
		t.Error("weir logs ", line)
	}
}

func (d *daemon) troubles() (list []string) {
	for line := range strings.Lines(d.logged()) {
		panicked := strings.HasPrefix(line, "panic:") || strings.HasPrefix(line, "fatal error:") || strings.Contains(line, "DATA RACE")
		klogError := len(line) > 5 && (line[0] == 'E' || line[0] == 'F') && line[1] >= '0' && line[1] <= '9'
		if panicked || klogError {
			list = append(list, strings.TrimSpace(line))
		}
	}
	return list
}

// put makes files the manifests, without waiting for anything. What is there no longer is removed.
func (d *daemon) put(files map[string]string) (removed bool, err error) {
	for name, text := range files {
		if old, ok := d.files[name]; ok && old == text {
			continue
		}
		if err := d.write(name, text); err != nil {
			return removed, err
		}
	}
	for name := range d.files {
		if _, ok := files[name]; !ok {
			removed = true
			if err := os.Remove(filepath.Join(d.dir, name)); err != nil {
				return removed, err
			}
		}
	}
	d.files = files
	return removed, nil
}

// write renames a file into place, as kubectl and editors do not, but ConfigMaps.
func (d *daemon) write(name, text string) error {
	path := filepath.Join(d.dir, name)
	hidden := filepath.Join(d.dir, "."+name)
	if err := os.WriteFile(hidden, []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(hidden, path)
}

// show makes files the manifests and waits until the kernel has them.
func (d *daemon) show(files map[string]string) error {
	removed, err := d.put(files)
	if err != nil || d.proc == nil {
		return err
	}
	// Once more than seems to be needed: see settle.
	rounds := 2
	if removed {
		rounds = 3
	}
	return d.settle(rounds)
}

// markers numbers the ports of the marker, a service that shows by answering that its file was
// read and what was in it is in the kernel.
var markers atomic.Uint32

const marker = `# Written by the test, after everything else.
apiVersion: v1
kind: Service
metadata: {name: marker, namespace: zz-test}
spec: {clusterIPs: [198.18.0.1, "fd00:18::1"], ports: [{port: %d}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: marker-4, namespace: zz-test, labels: {kubernetes.io/service-name: marker}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.244.1.10]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: marker-6, namespace: zz-test, labels: {kubernetes.io/service-name: marker}}
addressType: IPv6
ports: [{port: 8080}]
endpoints: [{addresses: ["fd00:10:244:1::10"]}]
`

// first starts weir with the files of a world's first step.
func (d *daemon) first(w *world) error {
	files, err := w.files(w.steps[0])
	if err == nil {
		_, err = d.put(files)
	}
	if err == nil {
		err = d.tryStart()
	}
	if err == nil {
		err = d.settle(1)
	}
	return err
}

// turn lays a world's subdirectory over it, in place of the one before; "" is the world itself.
func (d *daemon) turn(t *testing.T, w *world, over string) {
	t.Helper()
	files, err := w.files(step{over: over})
	if err == nil {
		err = d.show(files)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// settle writes a marker and waits until it answers, some times over. A marker is written when everything
// else has been, and its name makes it the file that is read first: then what is read after it is not
// older. That it answers tells that services of the same reading have got through, the second one that
// everything of the reading before has. Removed files count when they are found missing for the
// second time, hence a third.
func (d *daemon) settle(rounds int) error {
	for range rounds {
		port := uint16(10000 + markers.Add(1)%20000)
		if err := d.write("00-marker.yaml", fmt.Sprintf(marker, port)); err != nil {
			return err
		}
		for _, a := range []string{"198.18.0.1", "fd00:18::1"} {
			if err := d.await(netip.AddrPortFrom(netip.MustParseAddr(a), port)); err != nil {
				return err
			}
		}
	}
	return nil
}

// patience is how long weir may take for anything, on a machine that is busy with other things.
const patience = 30 * time.Second

// await waits until a frontend answers.
func (d *daemon) await(frontend netip.AddrPort) error {
	from := d.lab.Host("podC")
	if frontend.Addr().Is6() && !from.Addr6.IsValid() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		r := from.Probe(netlab.TCP, frontend, netlab.ProbeOptions{Timeout: 500 * time.Millisecond})
		if r.Outcome == netlab.Answered {
			return nil
		}
		select {
		case <-d.proc.Done():
			err := d.proc.Wait()
			d.proc = nil
			return fmt.Errorf("%w: %w\n%s", errEnded, err, d.tail(20))
		case <-ctx.Done():
			return fmt.Errorf("the marker %s does not answer after %s: %s", frontend, patience, r)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

var errEnded = errors.New("weir ended of itself")
