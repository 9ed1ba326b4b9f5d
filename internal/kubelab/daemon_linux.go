package kubelab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/weir-project/weir/internal/netlab"
)

// daemon is a server that runs, or does not, and appends to a log.
type daemon struct {
	name string
	path string
	args []string
	host *netlab.Host // nil: this machine
	log  string

	mu      sync.Mutex // guards proc
	proc    *netlab.Process
	logFrom int64 // where the log of the present run begins
}

func newDaemon(host *netlab.Host, binDir, dir, name string, args ...string) *daemon {
	return &daemon{name: name, path: filepath.Join(binDir, name), args: args, host: host, log: filepath.Join(dir, name+".log")}
}

func (d *daemon) start() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.proc != nil {
		return fmt.Errorf("%s runs already", d.name)
	}
	log, err := os.OpenFile(d.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close() // the child has its own
	if info, err := log.Stat(); err == nil {
		d.logFrom = info.Size()
	}
	cmd := exec.Command(d.path, d.args...)
	cmd.Stdout, cmd.Stderr = log, log
	// Its own process group: Ctrl-C is for us, who stop it in good order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if d.host != nil {
		d.proc, err = d.host.Start(cmd)
	} else {
		d.proc, err = netlab.Start(cmd)
	}
	return err
}

// stop asks the daemon to end and kills it when that takes longer than grace. It is no error if it
// does not run; if it ended by itself, the error says so and quotes its log.
func (d *daemon) stop(grace time.Duration) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.proc == nil {
		return nil
	}
	proc := d.proc
	d.proc = nil
	select {
	case <-proc.Done():
		return d.died(proc)
	default:
	}
	if grace > 0 {
		_ = proc.Signal(syscall.SIGTERM)
		select {
		case <-proc.Done():
		case <-time.After(grace):
		}
	}
	return proc.Close()
}

// died describes an end that nobody asked for.
func (d *daemon) died(proc *netlab.Process) error {
	return fmt.Errorf("%s ended by itself: %v%s", d.name, proc.Wait(), d.quote())
}

// check returns an error if the daemon should run and does not.
func (d *daemon) check() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.proc == nil {
		return fmt.Errorf("%s is stopped", d.name)
	}
	select {
	case <-d.proc.Done():
		return d.died(d.proc)
	default:
		return nil
	}
}

// quote returns the last lines that the present run has logged.
func (d *daemon) quote() string {
	b, err := os.ReadFile(d.log)
	if err != nil {
		return err.Error()
	}
	return tail(b[min(d.logFrom, int64(len(b))):])
}

func (d *daemon) pid() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.proc == nil {
		return 0
	}
	return d.proc.Pid
}
