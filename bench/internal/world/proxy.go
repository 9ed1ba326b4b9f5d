package world

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/weir-project/weir/internal/netlab"
)

// Proxy is something that can program Services on a node.
type Proxy struct {
	Name string
	// Command returns the command line that runs it in the foreground.
	Command func(*World) ([]string, error)
	// Gap is how long it wants to have passed since a change before it takes up the next at once.
	Gap time.Duration
}

const clusterCIDR = "10.244.0.0/16,fd00:10:244::/48"

// Weir is the proxy in a binary.
func Weir(binary string) Proxy {
	return Proxy{Name: "weir", Gap: 20 * time.Millisecond, Command: func(w *World) ([]string, error) {
		return []string{binary, "run", "--kubeconfig", w.Cluster.ProxyKubeconfig, "--hostname-override", "node",
			"--cluster-cidr", clusterCIDR, "--conntrack-max-per-core", "0", "--profiling"}, nil
	}}
}

// KubeProxy is kube-proxy in its nftables mode, with its defaults. These hold a second between two syncs.
func KubeProxy(binary string) Proxy {
	return Proxy{Name: "kube-proxy", Gap: 1100 * time.Millisecond, Command: func(w *World) ([]string, error) {
		config := filepath.Join(w.dir, "kube-proxy.yaml")
		text := fmt.Sprintf(`apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
hostnameOverride: node
clusterCIDR: %s
clientConnection: {kubeconfig: %s}
conntrack: {maxPerCore: 0, min: 0}
`, clusterCIDR, w.Cluster.ProxyKubeconfig)
		return []string{binary, "--config", config}, os.WriteFile(config, []byte(text), 0o644)
	}}
}

// Other is a proxy that a shell command runs, in the node's network namespace. What it may need to know is
// in its environment.
func Other(name, command string) Proxy {
	return Proxy{Name: name, Gap: 1100 * time.Millisecond, Command: func(w *World) ([]string, error) {
		return []string{"env", "KUBECONFIG=" + w.Cluster.ProxyKubeconfig, "API_SERVER=" + w.Cluster.URL, "NODE_NAME=node",
			"NODE_IP=" + w.Node.Addr4.String(), "CLUSTER_CIDR=" + clusterCIDR, "SERVICE_CIDR=" + netlab.ServiceCIDR4.String(),
			"sh", "-c", command}, nil
	}}
}

// Running is a proxy that runs.
type Running struct {
	Proxy
	*Usage
	Began time.Time

	process *netlab.Process
	log     string
}

// Start starts a proxy in the node.
func (w *World) Start(p Proxy) (*Running, error) {
	argv, err := p.Command(w)
	if err != nil {
		return nil, err
	}
	r := &Running{Proxy: p, log: filepath.Join(w.dir, p.Name+".log")}
	log, err := os.Create(r.log)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the child has its own
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	// A group of its own: its children are found by it, and Ctrl-C is for us.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	r.Began = time.Now()
	if r.process, err = w.Node.Start(cmd); err != nil {
		return nil, err
	}
	r.Usage = watch(r.process.Pid)
	return r, nil
}

// Alive returns an error, with the end of the log, if the proxy has ended.
func (r *Running) Alive() error {
	select {
	case <-r.process.Done():
		return fmt.Errorf("%s ended: %v%s", r.Name, r.process.Wait(), r.LogTail())
	default:
		return nil
	}
}

// While returns a context that ends when the proxy does, or ctx.
func (r *Running) While(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-r.process.Done():
			cancel(r.Alive())
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}

// Stop asks the proxy to end, and kills it and its children if that takes ten seconds. Usage keeps
// what was seen last.
func (r *Running) Stop() error {
	r.Usage.stop()
	_ = r.process.Signal(syscall.SIGTERM)
	select {
	case <-r.process.Done():
	case <-time.After(10 * time.Second):
	}
	return r.Kill()
}

// Kill ends the proxy at once.
func (r *Running) Kill() error {
	r.Usage.stop()
	if err := syscall.Kill(-r.process.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return r.process.Close()
}

// Metric returns the sum of a metric over its labels, as the proxy serves it on its usual port. A
// histogram's are name_sum and name_count.
func (r *Running) Metric(w *World, name string) (float64, error) {
	text, err := r.get(w, "/metrics")
	if err != nil {
		return 0, err
	}
	sum, found := 0.0, false
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name); ok && (strings.HasPrefix(rest, "{") || strings.HasPrefix(rest, " ")) {
			var v float64
			if _, err := fmt.Sscan(rest[strings.LastIndexByte(rest, ' '):], &v); err == nil {
				sum, found = sum+v, true
			}
		}
	}
	if !found {
		return 0, fmt.Errorf("%s has no metric %s", r.Name, name)
	}
	return sum, nil
}

// LogTail returns the last lines of the log, indented.
func (r *Running) LogTail() string {
	b, err := os.ReadFile(r.log)
	if err != nil {
		return "\n\t" + err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
	return "\n\t" + string(bytes.Join(lines[max(0, len(lines)-15):], []byte("\n\t")))
}
