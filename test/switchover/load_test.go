//go:build linux

package switchover

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-project/weir/internal/netlab"
)

// traffic is what goes on during a switch: new connections at a steady rate, and some that stay.
type traffic struct {
	w     *world
	loads []*load
	talks []*talk
}

type load struct {
	name string
	*netlab.Load
}

// timeout of one exchange. A packet that goes astray is never answered, as conntrack remembers its way; one that only
// waits, for a processor or to be sent again, is.
const timeout = 30 * time.Second

// startTraffic begins 2,500 new connections a second, and opens connections that stay.
func (w *world) startTraffic() *traffic {
	w.t.Helper()
	tr := &traffic{w: w}
	node, podC, client := w.node, w.lab.Host("podC"), w.lab.Host("client")
	masqueraded := []netip.Addr{node.Addr4, node.Addr6}
	nodePort4 := netip.AddrPortFrom(node.Addr4, nodePort)
	nodePort6 := netip.AddrPortFrom(node.Addr6, nodePort)
	for _, l := range []struct {
		name    string
		from    *netlab.Host
		proto   netlab.Protocol
		to      netip.AddrPort
		rate    int
		sources []netip.Addr
	}{
		{"pod to cluster IP", podC, netlab.TCP, web4, 1000, nil},
		{"pod to cluster IP, IPv6", podC, netlab.TCP, web6, 300, nil},
		{"pod to cluster IP, UDP", podC, netlab.UDP, web4, 200, nil},
		{"client to node port", client, netlab.TCP, nodePort4, 600, masqueraded},
		{"client to node port, IPv6", client, netlab.TCP, nodePort6, 200, masqueraded},
		{"node to cluster IP", node, netlab.TCP, web4, 200, nil},
	} {
		running, err := l.from.StartLoad(netlab.LoadConfig{
			Proto: l.proto, Dst: l.to, Rate: l.rate, WantBy: w.endpoints(), WantSources: l.sources, Timeout: timeout})
		if err != nil {
			w.t.Fatal(err)
		}
		tr.loads = append(tr.loads, &load{l.name, running})
	}
	for range 2 {
		tr.talk("pod to cluster IP", podC, "tcp", web4)
		tr.talk("pod to cluster IP, IPv6", podC, "tcp", web6)
		tr.talk("pod to cluster IP, UDP", podC, "udp", web4)
		tr.talk("client to node port", client, "tcp", nodePort4)
		tr.talk("client to node port, IPv6", client, "tcp", nodePort6)
		tr.talk("node to cluster IP", node, "tcp", web4)
	}
	return tr
}

// stop ends the traffic. It returns what went wrong, and a summary.
func (tr *traffic) stop() (failed int, summary string) {
	attempts, rate, slowest := 0, 0.0, time.Duration(0)
	for _, l := range tr.loads {
		r := l.Stop()
		attempts, rate, slowest = attempts+r.Attempts, rate+r.Rate(), max(slowest, r.Max)
		if bad := r.Attempts - r.OK; bad > 0 {
			failed += bad
			summary += fmt.Sprintf("\n%s: %s", l.name, r)
		}
	}
	exchanges := 0
	for _, k := range tr.talks {
		n, err := k.stop()
		exchanges += n
		if err != nil {
			failed++
			summary += fmt.Sprintf("\nlong-lived %s: after %d exchanges: %v", k.name, n, err)
		}
	}
	return failed, fmt.Sprintf("%d new connections (%.0f/s, the slowest took %s) and %d exchanges on %d connections that stayed: %d went wrong%s",
		attempts, rate, slowest.Round(time.Millisecond), exchanges, len(tr.talks), failed, summary)
}

// talk is a connection that stays and exchanges data all along.
type talk struct {
	name string
	conn net.Conn
	quit chan struct{}
	wg   sync.WaitGroup
	n    atomic.Int64
	err  error // once wg is done
}

const talkInterval = 20 * time.Millisecond

// talk opens a connection and begins to talk.
func (tr *traffic) talk(name string, from *netlab.Host, network string, to netip.AddrPort) {
	tr.w.t.Helper()
	conn, err := from.Dial(tr.w.t.Context(), network, to.String())
	if err != nil {
		tr.w.t.Fatalf("%s: %v", name, err)
	}
	k := &talk{name: name, conn: conn, quit: make(chan struct{})}
	tr.talks = append(tr.talks, k)
	k.wg.Go(func() { k.err = k.run(network == "udp") })
}

// run asks until told to quit. Always the same endpoint must answer, and see the same source. A datagram may
// be lost, and is sent again.
func (k *talk) run(datagrams bool) error {
	defer k.conn.Close()
	var first netlab.Reply
	for {
		select {
		case <-k.quit:
			return nil
		case <-time.After(talkInterval):
		}
		reply, err := k.ask(datagrams)
		if err != nil {
			return err
		}
		if k.n.Add(1) == 1 {
			first = reply
		}
		if reply != first {
			return fmt.Errorf("answered by %+v, and before by %+v", reply, first)
		}
	}
}

func (k *talk) ask(datagrams bool) (netlab.Reply, error) {
	wait, tries := timeout, 1
	if datagrams {
		wait, tries = timeout/3, 3
	}
	for try := 1; ; try++ {
		if err := k.conn.SetDeadline(time.Now().Add(wait)); err != nil {
			return netlab.Reply{}, err
		}
		reply, err := netlab.Ask(k.conn)
		if err == nil || try == tries || !errors.Is(err, os.ErrDeadlineExceeded) {
			return reply, err
		}
	}
}

func (k *talk) stop() (int, error) {
	close(k.quit)
	k.wg.Wait()
	return int(k.n.Load()), k.err
}
