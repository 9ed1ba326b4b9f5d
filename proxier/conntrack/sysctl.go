package conntrack

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// SysctlConfig is the section conntrack of a KubeProxyConfiguration. What is nil, zero or negative
// leaves the kernel's value alone.
type SysctlConfig struct {
	MaxPerCore            *int32 // entries for each CPU
	Min                   *int32 // entries in total, where MaxPerCore comes to less
	TCPEstablishedTimeout *time.Duration
	TCPCloseWaitTimeout   *time.Duration
	UDPTimeout            *time.Duration
	UDPStreamTimeout      *time.Duration
	TCPBeLiberal          bool // false leaves it alone

	Dir  string // where /proc/sys is; default there
	CPUs int    // default: what the machine has
}

// maxEntries is what MaxPerCore comes to at most, as in kube-proxy: machines with many CPUs would
// set memory aside for tables that nobody fills.
const maxEntries = 1 << 20

// bucketsPer is how many entries there may be for each bucket of the hash table.
const bucketsPer = 4

// Setup makes the kernel's parameters what cfg says. It writes only what differs, and goes on after an
// error: the error names every file that could not be set, the value, and what to do.
//
// The size of the table is the machine's; the others belong to the caller's network namespace.
func Setup(cfg SysctlConfig) error {
	var errs []error
	set := func(name string, value int64) {
		errs = append(errs, cfg.set(name, value, false))
	}
	if n := cfg.entries(); n > 0 {
		set("nf_conntrack_max", n)
		errs = append(errs, cfg.set("nf_conntrack_buckets", n/bucketsPer, true))
	}
	for _, timeout := range []struct {
		name  string
		value *time.Duration
	}{
		{"nf_conntrack_tcp_timeout_established", cfg.TCPEstablishedTimeout},
		{"nf_conntrack_tcp_timeout_close_wait", cfg.TCPCloseWaitTimeout},
		{"nf_conntrack_udp_timeout", cfg.UDPTimeout},
		{"nf_conntrack_udp_timeout_stream", cfg.UDPStreamTimeout},
	} {
		if d := timeout.value; d != nil && *d > 0 {
			set(timeout.name, max(1, int64(*d/time.Second)))
		}
	}
	if cfg.TCPBeLiberal {
		set("nf_conntrack_tcp_be_liberal", 1)
	}
	return errors.Join(errs...)
}

// entries returns how many entries the table is to hold; 0: leave it alone. As in kube-proxy, the limit
// is on what follows from the number of CPUs, not on an explicit Min.
func (cfg *SysctlConfig) entries() int64 {
	if cfg.MaxPerCore == nil || *cfg.MaxPerCore <= 0 {
		return 0
	}
	cpus := cfg.CPUs
	if cpus == 0 {
		cpus = runtime.NumCPU()
	}
	n := int64(*cfg.MaxPerCore) * int64(cpus)
	switch {
	case n > maxEntries:
		return maxEntries
	case cfg.Min != nil:
		return max(n, int64(*cfg.Min))
	}
	return n
}

// set writes a value to a file unless it is there already, or, with atLeast, more than that.
func (cfg *SysctlConfig) set(name string, value int64, atLeast bool) error {
	dir := cfg.Dir
	if dir == "" {
		dir = "/proc/sys"
	}
	path := filepath.Join(dir, "net/netfilter", name)
	text := strconv.FormatInt(value, 10)
	b, err := os.ReadFile(path)
	if err == nil {
		old, perr := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
		if perr == nil && (old == value || atLeast && old > value) {
			return nil
		}
		err = write(path, text)
	}
	if err != nil {
		return fmt.Errorf("set %s to %s: %w; %s", path, text, err, remedy(err))
	}
	return nil
}

// write does not create the file: what the kernel does not offer cannot be set.
func write(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

func remedy(err error) string {
	if errors.Is(err, fs.ErrNotExist) {
		return "load the kernel module nf_conntrack first"
	}
	return "mount the host's /proc/sys/net/netfilter somewhere in the container and name that with --sysctl-dir, or set the value on the host and leave the setting out of the configuration (maxPerCore: 0, timeouts: 0s)"
}
