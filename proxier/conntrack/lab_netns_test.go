package conntrack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weir-project/weir/dataplane"
	"github.com/weir-project/weir/internal/netlab"
)

// lab is a node that runs Weir's rules, with pods and neighbours, and a Conn to its table.
type lab struct {
	*netlab.Lab
	t     *testing.T
	node  *netlab.Host
	rules *dataplane.Conn
	conn  *Conn
	now   map[dataplane.Frontend][]dataplane.Op // what the rules hold
}

func newLab(t *testing.T, cfg Config) *lab {
	t.Helper()
	l := &lab{Lab: netlab.NewForTest(t, netlab.Config{}), t: t, now: map[dataplane.Frontend][]dataplane.Op{}}
	l.node = l.Host("node")
	cfg.NetNS = netns(t, l.node)
	var err error
	l.rules, err = dataplane.Open(t.Context(), dataplane.Config{NetNS: cfg.NetNS, Layout: dataplane.Layout{
		Local: dataplane.LocalDetection{CIDRs: []netip.Prefix{netlab.PodCIDR4, netlab.PodCIDR6}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.rules.Close() })
	if err := l.rules.Replace(t.Context(), slices.Values([]dataplane.Op(nil)), slices.Values([]dataplane.Op(nil))); err != nil {
		t.Fatal(err)
	}
	if l.conn, err = Open(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.conn.Close() })
	return l
}

func netns(t *testing.T, h *netlab.Host) int {
	t.Helper()
	f, err := os.Open(h.NetNS())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return int(f.Fd())
}

// set makes the rules serve a frontend with endpoints, and without any refuse it.
func (l *lab) set(f dataplane.Frontend, endpoints ...netip.AddrPort) {
	l.t.Helper()
	var ops []dataplane.Op
	for i, ep := range endpoints {
		ops = append(ops, dataplane.Op{Set: dataplane.Endpoints, Elem: dataplane.Element{Frontend: f, Slot: uint32(i), Endpoint: ep}})
	}
	verdict := dataplane.Refuse
	if len(endpoints) > 0 {
		verdict = dataplane.Balance(len(endpoints))
	}
	ops = append(ops, dataplane.Op{Set: dataplane.Services, Elem: dataplane.Element{Frontend: f, Verdict: verdict}})
	l.apply(f, ops)
}

// forget takes a frontend out of the rules.
func (l *lab) forget(f dataplane.Frontend) { l.t.Helper(); l.apply(f, nil) }

func (l *lab) apply(f dataplane.Frontend, ops []dataplane.Op) {
	l.t.Helper()
	var all []dataplane.Op
	for _, op := range l.now[f] {
		op.Delete = true
		all = append(all, op)
	}
	all = append(all, ops...)
	if err := l.rules.Apply(l.t.Context(), all); err != nil {
		l.t.Fatal(err)
	}
	l.now[f] = ops
}

func (l *lab) clean(jobs ...Job) Result {
	l.t.Helper()
	r, err := l.conn.Clean(l.t.Context(), jobs)
	if err != nil {
		l.t.Fatal(err)
	}
	return r
}

// serve starts a server in a host and returns where it listens.
func (l *lab) serve(host string, proto netlab.Protocol, a netip.Addr, port uint16) netip.AddrPort {
	l.t.Helper()
	ap := netip.AddrPortFrom(a, port)
	if _, err := l.Host(host).Serve(proto, ap); err != nil {
		l.t.Fatal(err)
	}
	return ap
}

func (l *lab) addr(host string, v6 bool) netip.Addr {
	if v6 {
		return l.Host(host).Addr6
	}
	return l.Host(host).Addr4
}

// flow is a client that keeps its source port.
type flow struct {
	t *testing.T
	net.Conn
}

func (l *lab) dial(host string, f dataplane.Frontend) flow {
	l.t.Helper()
	c, err := l.Host(host).Dial(l.t.Context(), f.Protocol.String(), netip.AddrPortFrom(f.Addr, f.Port).String())
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { c.Close() })
	return flow{l.t, c}
}

// ask returns who answers, by host, or "refused" or "silence".
func (f flow) ask() string {
	f.t.Helper()
	if err := f.SetDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
		f.t.Fatal(err)
	}
	reply, err := netlab.Ask(f.Conn)
	switch {
	case err == nil:
		return reply.Name
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "silence"
	}
	var ne *net.OpError
	if errors.As(err, &ne) && strings.Contains(err.Error(), "refused") {
		return "refused"
	}
	return err.Error()
}

func (f flow) want(who string) {
	f.t.Helper()
	if got := f.ask(); got != who {
		f.t.Errorf("%s to %s: %s, want %s", f.LocalAddr(), f.RemoteAddr(), got, who)
	}
}

// reset waits for the connection to be reset while the client says nothing, and returns how long
// that took.
func (f flow) reset(patience time.Duration) (time.Duration, error) {
	start := time.Now()
	if err := f.SetReadDeadline(start.Add(patience)); err != nil {
		f.t.Fatal(err)
	}
	_, err := f.Read(make([]byte, 1))
	switch {
	case err == nil:
		return 0, errors.New("data instead of a reset")
	case errors.Is(err, io.EOF), errors.Is(err, os.ErrDeadlineExceeded):
		return 0, err
	}
	return time.Since(start), nil
}

// flows lists the table of the node as text, for failures.
func (l *lab) flows() string {
	out, err := l.node.Run("conntrack", "-L")
	return fmt.Sprint(out, err)
}

func frontend(s string, p dataplane.Protocol) dataplane.Frontend {
	ap := netip.MustParseAddrPort(s)
	return dataplane.Frontend{Addr: ap.Addr(), Port: ap.Port(), Protocol: p}
}

var families = []struct {
	name string
	v6   bool
	vip  string
}{{"IPv4", false, "10.96.0.10:53"}, {"IPv6", true, "[fd00:10:96::10]:53"}}

// entries reads what a scan finds.
func entries(t testing.TB, c *Conn, s scan) []entry {
	t.Helper()
	var got []entry
	c.table.out.reset()
	c.table.out.dump(s)
	err := c.table.list(context.Background(), func(body []byte) {
		var e entry
		if err := e.decode(body); err != nil {
			t.Errorf("decode % x: %v", body, err)
			return
		}
		got = append(got, e)
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func addrPorts(a ...netip.AddrPort) []netip.AddrPort { return a }

func isReset(answer string) bool { return strings.Contains(answer, "reset by peer") }
