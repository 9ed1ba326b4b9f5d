package inspect

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"
)

// Part writes something that a maintainer needs, as text.
type Part func(io.Writer) error

// Goroutines is the Part that tells what every goroutine is doing.
func Goroutines(w io.Writer) error { return pprof.Lookup("goroutine").WriteTo(w, 1) }

// sysctls are what connections through a node depend on, besides the rules.
var sysctls = []string{
	"kernel/osrelease", "kernel/version",
	"net/core/rmem_max", "net/core/wmem_max", "net/core/somaxconn",
	"net/ipv4/ip_forward", "net/ipv4/ip_local_port_range", "net/ipv4/conf/all/*", "net/ipv4/conf/default/rp_filter",
	"net/ipv6/conf/all/forwarding", "net/ipv6/conf/all/disable_ipv6",
	"net/netfilter/*", "net/nf_conntrack_max",
}

// Sysctls is the Part with the kernel's parameters in this network namespace.
func Sysctls(w io.Writer) error {
	const root = "/proc/sys/"
	for _, pattern := range sysctls {
		files, err := filepath.Glob(root + pattern)
		if err != nil {
			return err
		}
		for _, file := range files {
			value, err := os.ReadFile(file)
			if err != nil {
				continue // write-only, or a directory
			}
			name := strings.ReplaceAll(strings.TrimPrefix(file, root), "/", ".")
			if _, err := fmt.Fprintf(w, "%s = %s\n", name, strings.TrimSpace(string(value))); err != nil {
				return err
			}
		}
	}
	return nil
}

// networkFiles tell of links, addresses and routes.
var networkFiles = []string{"dev", "fib_trie", "ipv6_route", "if_inet6", "sockstat", "stat/nf_conntrack"}

// Network is the Part with this network namespace's links, addresses and routes, as the kernel lists them.
func Network(w io.Writer) error {
	for _, name := range networkFiles {
		text, err := os.ReadFile("/proc/self/net/" + name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "# /proc/net/%s\n%s\n", name, text); err != nil {
			return err
		}
	}
	return nil
}

// serveDebug writes one part.
func (i *Inspector) serveDebug(w http.ResponseWriter, r *http.Request) {
	part := i.cfg.Debug[r.PathValue("part")]
	if part == nil {
		refuse(w, notFound("no part %s", r.PathValue("part")))
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if err := part(w); err != nil {
		fmt.Fprintf(w, "# failed: %v\n", err)
	}
}
