package world

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Usage watches what a process and its children take.
type Usage struct {
	pid  int
	quit chan struct{}
	once sync.Once
	done chan struct{}

	mu   sync.Mutex // guards the following
	last Resources
	peak float64 // of Resources.All
}

// Resources are what a process has taken.
type Resources struct {
	CPU  time.Duration // since the start, with children that have ended
	RSS  float64       // MB, of the process itself
	Anon float64       // MB, of it not backed by files
	Peak float64       // MB, the most that RSS has been
	All  float64       // MB, RSS of the process and its children
}

// sampleEvery is how often memory is looked at for the peak with children. The peak of the process
// itself is the kernel's.
const sampleEvery = 100 * time.Millisecond

func watch(pid int) *Usage {
	u := &Usage{pid: pid, quit: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(u.done)
		for {
			u.Now()
			select {
			case <-u.quit:
				return
			case <-time.After(sampleEvery):
			}
		}
	}()
	return u
}

func (u *Usage) stop() {
	u.once.Do(func() { close(u.quit) })
	<-u.done
}

// Now returns what has been taken so far; of a process that has ended, what was seen last.
func (u *Usage) Now() Resources {
	r, err := resources(u.pid)
	u.mu.Lock()
	defer u.mu.Unlock()
	if err == nil {
		u.last, u.peak = r, max(u.peak, r.All)
	}
	return u.last
}

// PeakWithChildren returns the most that a process and its children were seen to hold, in MB.
func (u *Usage) PeakWithChildren() float64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return max(u.peak, u.last.Peak)
}

// Settle waits until the process has had hardly anything to do for a second, at most for limit.
func (u *Usage) Settle(ctx context.Context, limit time.Duration) error {
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); {
		before := u.Now().CPU
		if err := sleep(ctx, time.Second); err != nil {
			return err
		}
		if u.Now().CPU-before <= 30*time.Millisecond {
			return nil
		}
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

func resources(pid int) (Resources, error) {
	cpu, err := cpuTime(pid)
	if err != nil {
		return Resources{}, err
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return Resources{}, err
	}
	r := Resources{CPU: cpu, RSS: megabytes(status, "VmRSS"), Anon: megabytes(status, "RssAnon"), Peak: megabytes(status, "VmHWM")}
	if r.RSS == 0 {
		return Resources{}, fmt.Errorf("process %d has ended", pid)
	}
	r.All = r.RSS
	for _, child := range group(pid) {
		if status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", child)); err == nil {
			r.All += megabytes(status, "VmRSS")
		}
	}
	return r, nil
}

// megabytes returns a field of a status file, of MB of 10^6 bytes.
func megabytes(status []byte, name string) float64 {
	for line := range bytes.Lines(status) {
		f := bytes.Fields(line)
		if len(f) == 3 && string(f[0]) == name+":" {
			kib, _ := strconv.ParseFloat(string(f[1]), 64)
			return kib * 1024 / 1e6
		}
	}
	return 0
}

// clockTicks is the unit of times in /proc, USER_HZ, the same on every Linux machine.
const clockTicks = 100

// cpuTime returns the processor time of a process and of its children that have ended.
func cpuTime(pid int) (time.Duration, error) {
	f, err := stat(pid)
	if err != nil {
		return 0, err
	}
	var ticks int64
	for _, field := range f[11:15] { // utime, stime, cutime, cstime
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / clockTicks, nil
}

// stat returns the fields of /proc/<pid>/stat that follow the name, the process's state first.
func stat(pid int) ([]string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 15 {
		return nil, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(f))
	}
	return f, nil
}

// group returns the other processes of the group that a process leads.
func group(leader int) []int {
	paths, _ := filepath.Glob("/proc/[0-9]*")
	var pids []int
	for _, path := range paths {
		pid, err := strconv.Atoi(filepath.Base(path))
		if err != nil || pid == leader {
			continue
		}
		if f, err := stat(pid); err == nil && f[2] == strconv.Itoa(leader) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// get asks the proxy's metrics server.
func (r *Running) get(w *World, path string) (string, error) {
	transport := &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return w.Node.Dial(ctx, network, address)
		}}
	client := http.Client{Transport: transport, Timeout: 30 * time.Second}
	resp, err := client.Get("http://127.0.0.1:10249" + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s%s: %s", r.Name, path, resp.Status)
	}
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// Profile saves one of Go's profiles of the proxy, such as "heap", into a file.
func (r *Running) Profile(w *World, name, path string) error {
	text, err := r.get(w, "/debug/pprof/"+name)
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o644)
}

// KernelMemory returns what the kernel holds for itself, in MB: slabs that cannot be reclaimed, vmalloc and
// per-CPU memory. The difference between two moments of a quiet machine is what came in between.
func KernelMemory() (float64, error) {
	meminfo, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	return megabytes(meminfo, "SUnreclaim") + megabytes(meminfo, "VmallocUsed") + megabytes(meminfo, "Percpu"), nil
}

// ActiveSlabs returns how many bytes the objects take that are in the kernel's slab caches.
func ActiveSlabs() (float64, error) {
	text, err := os.ReadFile("/proc/slabinfo")
	if err != nil {
		return 0, err
	}
	sum := 0.0
	for line := range bytes.Lines(text) {
		var name string
		var active, all, size float64
		if n, _ := fmt.Sscan(string(line), &name, &active, &all, &size); n == 4 {
			sum += active * size
		}
	}
	return sum, nil
}
