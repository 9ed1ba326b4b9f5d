package conntrack

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-project/weir/internal/netlab"
)

func TestNetnsUDP(t *testing.T) {
	l := newLab(t, Config{})
	for _, fam := range families {
		a := l.serve("podB", netlab.UDP, l.addr("podB", fam.v6), 5353)
		b := l.serve("podC", netlab.UDP, l.addr("podC", fam.v6), 5353)
		f := frontend(fam.vip, protoUDP)
		count := func(n int) Count {
			if fam.v6 {
				return Count{IPv6: n}
			}
			return Count{IPv4: n}
		}
		run := func(name string, fn func(t *testing.T, l *lab)) {
			t.Run(fam.name+" "+name, func(t *testing.T) {
				l := *l
				l.t = t
				fn(t, &l)
				l.forget(f)
				l.clean(Job{Frontend: f, Appeared: true})
			})
		}
		deleted := func(t *testing.T, r Result, n int) {
			t.Helper()
			if r.Deleted != count(n) || r.Odd != 0 {
				t.Errorf("%+v, want %d deleted", r, n)
			}
		}
		run("endpoint replaced", func(t *testing.T, l *lab) {
			l.set(f, a)
			pod, node := l.dial("podA", f), l.dial("node", f)
			pod.want("podB")
			node.want("podB")
			l.set(f, b)
			pod.want("podB") // as if nothing had happened
			deleted(t, l.clean(Job{Frontend: f, Keep: addrPorts(b)}), 2)
			pod.want("podC")
			node.want("podC")
			deleted(t, l.clean(Job{Frontend: f, Keep: addrPorts(b)}), 0)
			pod.want("podC")
		})
		run("scaled to zero", func(t *testing.T, l *lab) {
			l.set(f, a)
			c := l.dial("podA", f)
			c.want("podB")
			l.set(f)
			deleted(t, l.clean(Job{Frontend: f}), 1)
			c.want("refused")
			l.set(f, b)
			deleted(t, l.clean(Job{Frontend: f, Keep: addrPorts(b)}), 0)
			c.want("podC")
		})
		run("frontend deleted", func(t *testing.T, l *lab) {
			l.set(f, a)
			c := l.dial("podA", f)
			c.want("podB")
			l.forget(f)
			deleted(t, l.clean(Job{Frontend: f}), 1)
			c.want("silence")
		})
		run("frontend appeared", func(t *testing.T, l *lab) {
			c := l.dial("podA", f)
			c.want("silence")
			l.set(f, a)
			c.want("silence")
			deleted(t, l.clean(Job{Frontend: f, Keep: addrPorts(a)}), 0)
			c.want("silence") // that it is untranslated is remembered
			deleted(t, l.clean(Job{Frontend: f, Keep: addrPorts(a), Appeared: true}), 1)
			c.want("podB")
			deleted(t, l.clean(Job{Frontend: f, Keep: addrPorts(a), Appeared: true}), 0)
		})
		run("other frontends, ports and protocols are left alone", func(t *testing.T, l *lab) {
			others := []flow{}
			for _, o := range []struct {
				proto netlab.Protocol
				vip   netip.AddrPort
			}{
				{netlab.UDP, netip.AddrPortFrom(f.Addr, 54)},
				{netlab.UDP, netip.AddrPortFrom(f.Addr.Next(), 53)},
				{netlab.TCP, netip.AddrPortFrom(f.Addr, 53)},
			} {
				of := frontend(o.vip.String(), 17)
				ep := a
				if o.proto == netlab.TCP {
					of.Protocol = protoTCP
					ep = l.serve("podB", netlab.TCP, a.Addr(), 5353)
				}
				l.set(of, ep)
				c := l.dial("podA", of)
				c.want("podB")
				l.set(of, b)
				others = append(others, c)
				defer l.forget(of)
			}
			l.set(f, a)
			c := l.dial("podA", f)
			c.want("podB")
			l.set(f, b)
			deleted(t, l.clean(Job{Frontend: f, Keep: addrPorts(b)}), 1)
			c.want("podC")
			for _, o := range others {
				o.want("podB")
			}
		})
		run("a NodePort number on another host", func(t *testing.T, l *lab) {
			const port = 30053
			np := frontend(netip.AddrPortFrom(l.addr("node", fam.v6), port).String(), protoUDP)
			l.serve("client", netlab.UDP, l.addr("client", fam.v6), port)
			// Another host's port of that number, dialled through our node, and translated by
			// others to boot: its flows are none of our business.
			elsewhere := frontend(netip.AddrPortFrom(l.addr("client", fam.v6), port).String(), protoUDP)
			there := l.dial("podA", elsewhere)
			there.want("client")
			l.set(np, a)
			c := l.dial("client2", np)
			c.want("podB")
			l.set(np)
			r := l.clean(Job{Frontend: np, Appeared: true})
			deleted(t, r, 1)
			c.want("refused")
			before := len(entries(t, l.conn, scan{}))
			there.want("client")
			if after := len(entries(t, l.conn, scan{})); after != before {
				t.Errorf("the flow to another host was removed: %d entries, then %d", before, after)
			}
			l.forget(np)
		})
		run("a process of the host listens on the NodePort", func(t *testing.T, l *lab) {
			const port = 30054
			np := frontend(netip.AddrPortFrom(l.addr("node", fam.v6), port).String(), protoUDP)
			l.serve("node", netlab.UDP, np.Addr, port)
			c := l.dial("client", np)
			c.want("node")
			l.set(np, a)
			c.want("node") // a running flow stays with the process until it is cleaned
			deleted(t, l.clean(Job{Frontend: np, Keep: addrPorts(a), Appeared: true}), 1)
			c.want("podB")
			l.forget(np)
			deleted(t, l.clean(Job{Frontend: np}), 1)
			c.want("node")
			deleted(t, l.clean(Job{Frontend: np}), 0)
		})
	}
}

// A Cleaner at work, under a client that never stops.
func TestNetnsCleaner(t *testing.T) {
	l := newLab(t, Config{})
	a := l.serve("podB", netlab.UDP, l.addr("podB", false), 5353)
	b := l.serve("podC", netlab.UDP, l.addr("podC", false), 5353)
	f := frontend("10.96.0.10:53", protoUDP)
	reports := make(chan Report, 10)
	cleaner := NewCleaner(l.conn, CleanerConfig{Again: 200 * time.Millisecond, Observe: func(r Report) { reports <- r }})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- cleaner.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	l.set(f, a)
	c := l.dial("podA", f)
	c.want("podB")
	l.set(f, b)
	cleaner.Enqueue([]Job{{Frontend: f, Keep: addrPorts(b)}})
	for i, want := range []int{1, 0} {
		r := <-reports
		if r.Err != nil || r.Deleted.IPv4 != want || r.Jobs != 1 || r.Waiting != 1-i {
			t.Errorf("round %d: %+v", i, r)
		}
	}
	c.want("podC")
}

func TestNetnsSysctls(t *testing.T) {
	netlab.Require(t)
	d := func(d time.Duration) *time.Duration { return &d }
	err := inNamespace(namespace(t), func() error {
		cfg := SysctlConfig{
			TCPEstablishedTimeout: d(24 * time.Hour), TCPCloseWaitTimeout: d(time.Hour),
			UDPTimeout: d(31 * time.Second), UDPStreamTimeout: d(121 * time.Second), TCPBeLiberal: true,
		}
		err := Setup(cfg)
		for name, want := range map[string]string{
			"tcp_timeout_established": "86400", "tcp_timeout_close_wait": "3600",
			"udp_timeout": "31", "udp_timeout_stream": "121", "tcp_be_liberal": "1",
		} {
			b, rerr := os.ReadFile(filepath.Join("/proc/sys/net/netfilter", "nf_conntrack_"+name))
			if err = errors.Join(err, rerr); rerr == nil && strings.TrimSpace(string(b)) != want {
				t.Errorf("%s is %s, want %s", name, b, want)
			}
		}
		return errors.Join(err, Setup(cfg))
	})
	if err != nil {
		t.Fatal(err)
	}
}
