package kubeproxy

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Process is a kube-proxy that runs in our network namespace.
type Process struct {
	PID     int    // 0: of another PID namespace, known by its port only
	Command string // its command line
	Address string // where it answers, if it was found that way
	Mode    string // as it says itself, "" if it was not asked
}

func (p Process) String() string {
	if p.PID != 0 {
		return fmt.Sprintf("process %d (%s)", p.PID, p.Command)
	}
	mode := ""
	if p.Mode != "" {
		mode = ", mode " + p.Mode
	}
	return fmt.Sprintf("a process that cannot be seen from here, answering on %s%s", p.Address, mode)
}

// Running returns the kube-proxies that run in our network namespace: processes of that name where we see
// them, and else whoever answers as a kube-proxy on its ports: it may be in a container of its own, or
// part of another program as in k3s.
func Running() ([]Process, error) {
	found, err := processes("/proc")
	if err != nil || len(found) > 0 {
		return found, err
	}
	return listeners("/proc")
}

const name = "kube-proxy"

// processes looks for processes. Whose network namespace we may not see is taken to be in ours: better to
// wait in vain than to work against each other.
func processes(proc string) (found []Process, err error) {
	ours, err := os.Readlink(filepath.Join(proc, "thread-self/ns/net"))
	if err != nil {
		return nil, fmt.Errorf("our network namespace: %w", err)
	}
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		dir := filepath.Join(proc, e.Name())
		cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		args := strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00")
		if err != nil || !isKubeProxy(dir, args[0]) {
			continue
		}
		theirs, err := os.Readlink(filepath.Join(dir, "ns/net"))
		if errors.Is(err, fs.ErrNotExist) || err == nil && theirs != ours {
			continue // gone, or elsewhere
		}
		found = append(found, Process{PID: pid, Command: strings.Join(args, " ")})
	}
	return found, nil
}

// isKubeProxy goes by the name of the program that was started, or its file: a process can call itself what
// it likes, a shell script begins with the shell. A dead process has neither.
func isKubeProxy(dir, arg0 string) bool {
	if arg0 == "" {
		return false
	}
	exe, _ := os.Readlink(filepath.Join(dir, "exe"))
	return filepath.Base(arg0) == name || filepath.Base(strings.TrimSuffix(exe, " (deleted)")) == name
}

// Ports on which kube-proxy listens unless told otherwise.
const (
	metricsPort = 10249
	healthzPort = 10256
)

// listeners asks who listens on kube-proxy's ports, other than we ourselves.
func listeners(proc string) ([]Process, error) {
	ours := ownSockets(proc)
	for _, file := range []string{"tcp", "tcp6"} {
		b, err := os.ReadFile(filepath.Join(proc, "thread-self/net", file))
		if errors.Is(err, fs.ErrNotExist) {
			continue // no IPv6
		}
		if err != nil {
			return nil, err
		}
		for _, s := range listening(b) {
			if ours[s.inode] {
				continue
			}
			if p, ok := ask(s.addr); ok {
				return []Process{p}, nil // its other port is not another one
			}
		}
	}
	return nil, nil
}

// ownSockets returns the inodes of our sockets.
func ownSockets(proc string) map[string]bool {
	ours := map[string]bool{}
	files, _ := filepath.Glob(filepath.Join(proc, "self/fd/*"))
	for _, f := range files {
		if to, err := os.Readlink(f); err == nil {
			if inode, ok := strings.CutPrefix(to, "socket:["); ok {
				ours[strings.TrimSuffix(inode, "]")] = true
			}
		}
	}
	return ours
}

type listener struct {
	addr  netip.AddrPort
	inode string
}

// listening finds who listens on kube-proxy's ports in a table as /proc/net/tcp shows it.
func listening(table []byte) (found []listener) {
	const local, state, inode, listen = 1, 3, 9, "0A"
	lines := bufio.NewScanner(bytes.NewReader(table))
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) <= inode || f[state] != listen {
			continue
		}
		addr, ok := parseHexAddr(f[local])
		if ok && (addr.Port() == metricsPort || addr.Port() == healthzPort) {
			found = append(found, listener{addr, f[inode]})
		}
	}
	return found
}

// parseHexAddr reads an address as /proc/net/tcp has it: words of four bytes in this machine's order.
func parseHexAddr(s string) (netip.AddrPort, bool) {
	host, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(host)
	n, portErr := strconv.ParseUint(port, 16, 16)
	if err != nil || portErr != nil || len(b)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for word := range slices.Chunk(b, 4) {
		binary.NativeEndian.PutUint32(word, binary.BigEndian.Uint32(word))
	}
	addr, ok := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(addr.Unmap(), uint16(n)), ok
}

// ask finds out whether a kube-proxy answers: on its port for metrics it says its mode, on the one for
// health when it has last synced.
func ask(addr netip.AddrPort) (Process, bool) {
	to := addr
	if addr.Addr().IsUnspecified() {
		to = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), addr.Port())
	}
	path := "/proxyMode"
	if addr.Port() == healthzPort {
		path = "/healthz"
	}
	body, err := get(to, path)
	if err != nil {
		return Process{}, false
	}
	p := Process{Address: addr.String()}
	if addr.Port() == healthzPort {
		return p, strings.Contains(body, `"lastUpdated"`)
	}
	p.Mode = body
	return p, slices.Contains([]string{"iptables", "ipvs", "nftables"}, body)
}

// askTimeout bounds a question to somebody on this machine.
const askTimeout = time.Second

// get is a plain HTTP request on a socket that is opened on this thread, so in its namespace.
func get(to netip.AddrPort, path string) (string, error) {
	c, err := net.DialTimeout("tcp", to.String(), askTimeout)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(askTimeout)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.0\r\nHost: %s\r\n\r\n", path, to); err != nil {
		return "", err
	}
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 1<<10))
	return strings.TrimSpace(string(body)), err
}
