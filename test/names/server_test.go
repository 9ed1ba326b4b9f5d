//go:build linux

package names

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-project/weir/dns/dnstest"
	"github.com/weir-project/weir/internal/netlab"
)

// patience is how long anything may take on a machine that is busy with other things.
const patience = 30 * time.Second

// server is a process that answers at one port of 127.0.0.1 and ::1.
type server struct {
	name    string
	port    int
	process *netlab.Process
	log     string
	conns   map[string]*dns.Conn
}

// transports are the ways to ask.
var transports = []string{"udp4", "tcp4", "udp6", "tcp6"}

// freePort returns a port of 127.0.0.1 that nobody has, over TCP and UDP.
func freePort(t *testing.T) int {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		u, err := net.ListenPacket("udp", l.Addr().String())
		l.Close()
		if err == nil {
			u.Close()
			return l.Addr().(*net.TCPAddr).Port
		}
	}
	t.Fatal("no free port")
	return 0
}

// startWeir starts weir dns and waits for nothing.
func startWeir(t *testing.T, flags ...string) *server {
	t.Helper()
	port := freePort(t)
	args := []string{"dns", "--listen", fmt.Sprintf("127.0.0.1:%d,[::1]:%d", port, port), "--upstream", upstream.Addr.String(),
		"--metrics-bind-address", ""}
	return start(t, "weir", port, exec.Command(binary, append(args, flags...)...))
}

// start starts a server, which ends with the test.
func start(t *testing.T, name string, port int, cmd *exec.Cmd) *server {
	t.Helper()
	s := &server{name: name, port: port, log: filepath.Join(t.TempDir(), name+".log"), conns: map[string]*dns.Conn{}}
	log, err := os.Create(s.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "GORACE=halt_on_error=1")
	if s.process, err = netlab.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.stop(t) })
	return s
}

// stop ends the server, and looks for what may never be in its log.
func (s *server) stop(t *testing.T) {
	for _, c := range s.conns {
		c.Close()
	}
	_ = s.process.Signal(syscall.SIGTERM)
	select {
	case <-s.process.Done():
		if err := s.process.Wait(); err != nil && s.name == "weir" {
			t.Errorf("weir ended: %v, want exit code 0 upon SIGTERM", err)
		}
	case <-time.After(patience):
		t.Errorf("%s does not end upon SIGTERM", s.name)
		_ = s.process.Close()
	}
	b, err := os.ReadFile(s.log)
	if err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "panic:") || strings.HasPrefix(line, "fatal error:") || strings.Contains(line, "DATA RACE") ||
			s.name == "weir" && strings.Contains(line, "forbidden") {
			t.Errorf("%s says: %s", s.name, line)
		}
	}
	if t.Failed() {
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		t.Logf("%s\n%s", s.name, strings.Join(lines[max(0, len(lines)-30):], "\n"))
	}
}

// ask sends a message and returns the response to it. Of a connection that is no longer there, it
// makes another.
func (s *server) ask(transport string, query []byte) (response []byte, err error) {
	for range 2 {
		c := s.conns[transport]
		if c == nil {
			if c, err = s.dial(transport); err != nil {
				return nil, err
			}
			s.conns[transport] = c
		}
		if response, err = exchange(c, query); err == nil {
			return response, nil
		}
		c.Close()
		delete(s.conns, transport)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break // it was heard
		}
	}
	return nil, fmt.Errorf("%s over %s: %w", s.name, transport, err)
}

func (s *server) dial(transport string) (*dns.Conn, error) {
	addr := netip.MustParseAddr("127.0.0.1")
	if transport[3] == '6' {
		addr = netip.IPv6Loopback()
	}
	c, err := net.Dial(transport, netip.AddrPortFrom(addr, uint16(s.port)).String())
	if err != nil {
		return nil, err
	}
	return &dns.Conn{Conn: c, UDPSize: dns.MaxMsgSize}, nil
}

// exchange asks over one connection. What answers an earlier question is passed over.
func exchange(c *dns.Conn, query []byte) ([]byte, error) {
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write(query); err != nil {
		return nil, err
	}
	b := make([]byte, dns.MaxMsgSize)
	for {
		n, err := c.Read(b)
		if err != nil {
			return nil, err
		}
		if n >= 12 && [2]byte(b) == [2]byte(query) {
			return b[:n], nil
		}
	}
}

// answers waits until the server answers at all, and returns its first answer.
func (s *server) answers(t *testing.T, transport string, query []byte) (first []byte) {
	t.Helper()
	eventually(t, func() (err error) {
		select {
		case <-s.process.Done():
			t.Fatalf("%s ended: %v", s.name, s.process.Wait())
		default:
		}
		first, err = s.ask(transport, query)
		return err
	})
	return first
}

// describe asks as a table has it.
func (s *server) describe(transport, name, qtype string) ([]string, error) {
	query, err := dnstest.Query(name, qtype, false)
	if err != nil {
		return nil, err
	}
	response, err := s.ask(transport, query)
	if err != nil {
		return nil, err
	}
	return dnstest.Describe(response)
}

// eventually waits until check finds nothing wrong.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatalf("after %s: %v", patience, err)
}
