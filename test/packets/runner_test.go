//go:build linux

package packets

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weir-project/weir/internal/netlab"
)

// atOnce is how many checks run at once. Most of them wait for something that does not come.
const atOnce = 24

// familiesOf returns the families that a lab has.
func familiesOf(lab *netlab.Lab) []family {
	if lab.Host("node").Addr6.IsValid() {
		return []family{4, 6}
	}
	return []family{4}
}

func serve(t testing.TB, h *netlab.Host, proto netlab.Protocol, addr string, ports ...uint16) {
	t.Helper()
	for _, port := range ports {
		if _, err := h.Serve(proto, netip.AddrPortFrom(netip.MustParseAddr(addr), port)); err != nil {
			t.Fatal(err)
		}
	}
}

// stage is a lab with a weir in it, which shows one step after the other.
type stage struct {
	lab     *netlab.Lab
	witness *witness
	daemon  *daemon
	held    []netip.Addr // by the node, besides its own
}

// outcome is what came of a packet in a step.
type outcome struct {
	packet
	id     string   // world/step/name, as in the list of what is pending
	faults []string // none: it is as it should be
}

// play shows a step and tries its packets.
func (s *stage) play(w *world, st step) ([]outcome, error) {
	files, err := w.files(st)
	if err != nil {
		return nil, err
	}
	objects, err := read(files)
	if err != nil {
		return nil, err
	}
	moved, err := s.hold(st.addrs)
	if err != nil {
		return nil, err
	}
	if err := s.daemon.show(files); err != nil {
		return nil, err
	}
	deadline := time.Now()
	if moved {
		// The kernel's word of it comes another way than the manifests: there is nothing to wait for but the
		// outcome.
		deadline = deadline.Add(10 * time.Second)
	}
	for {
		outcomes, err := s.try(w, st, objects)
		if err != nil || time.Now().After(deadline) || !slices.ContainsFunc(outcomes, func(o outcome) bool { return len(o.faults) > 0 }) {
			return outcomes, err
		}
	}
}

// hold gives the node addresses besides its own, and takes away others.
func (s *stage) hold(list string) (moved bool, err error) {
	node := s.lab.Host("node")
	var want []netip.Addr
	for _, text := range strings.Fields(list) {
		for _, f := range familiesOf(s.lab) {
			a, err := f.addr(text)
			if err != nil {
				return false, err
			}
			want = append(want, a)
		}
	}
	for _, a := range s.held {
		if !slices.Contains(want, a) {
			moved = true
			err = errors.Join(err, node.DelAddr(a))
		}
	}
	for _, a := range want {
		if !slices.Contains(s.held, a) {
			moved = true
			err = errors.Join(err, node.AddAddr(a), deprecate(node, a))
		}
	}
	s.held = want
	return moved, err
}

// deprecate keeps the kernel from choosing an address of IPv6 as a source: of several, it would choose
// the one that came last.
func deprecate(h *netlab.Host, a netip.Addr) error {
	if a.Is4() {
		return nil
	}
	return h.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		network := &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(128, 128)}
		return netlink.AddrReplace(link, &netlink.Addr{IPNet: network, Flags: unix.IFA_F_NODAD, ValidLft: 1 << 30, PreferedLft: 0})
	})
}

// try tries the packets of a step as it is.
func (s *stage) try(w *world, st step, objects *objects) ([]outcome, error) {
	if err := s.witness.forget(); err != nil {
		return nil, err
	}
	var outcomes []outcome
	var lists [][]check
	for _, p := range st.packets {
		list, err := p.checks(s.lab, objects, familiesOf(s.lab))
		if err != nil {
			return nil, fmt.Errorf("%s: %q: %w", w.name, p.name, err)
		}
		outcomes = append(outcomes, outcome{packet: p, id: id(w, st, p)})
		lists = append(lists, list)
	}
	tickets := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	var mu sync.Mutex
	for i, list := range lists {
		for _, c := range list {
			tickets <- struct{}{}
			wg.Go(func() {
				defer func() { <-tickets }()
				got, fault := c.run()
				var differs string
				if !st.untraced {
					differs = s.daemon.traced(c, got)
				}
				mu.Lock()
				defer mu.Unlock()
				for _, f := range []string{fault, differs} {
					if f != "" {
						outcomes[i].faults = append(outcomes[i].faults, f)
					}
				}
			})
		}
	}
	wg.Wait()
	faults, err := s.hear(lists)
	if err != nil {
		return nil, err
	}
	for i := range outcomes {
		outcomes[i].faults = append(outcomes[i].faults, faults[i]...)
	}
	return outcomes, nil
}

// hear hears the witness about every check. On a busy machine, packets may take longer than probes wait.
func (s *stage) hear(lists [][]check) ([][]string, error) {
	for deadline := time.Now().Add(3 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		passed, err := s.witness.seen()
		if err != nil {
			return nil, err
		}
		missing := false
		faults := make([][]string, len(lists))
		for i, list := range lists {
			for _, c := range list {
				if fault := c.judge(passed); fault != "" {
					faults[i] = append(faults[i], fault)
					missing = missing || c.want.verdict == unserved
				}
			}
		}
		if !missing || time.Now().After(deadline) {
			return faults, nil
		}
	}
}

func id(w *world, st step, p packet) string {
	if st.over == "" && st.addrs == "" {
		return w.name + "/" + p.name
	}
	return w.name + "/" + label(st) + "/" + p.name
}

// label names a step.
func label(st step) string {
	return strings.Trim(st.over+"+"+st.addrs, "+")
}

// report makes a subtest of every outcome.
func report(t *testing.T, outcomes []outcome) {
	t.Helper()
	for _, o := range outcomes {
		t.Run(o.name, func(t *testing.T) {
			why, late := pending[o.id]
			switch {
			case late && len(o.faults) == 0:
				t.Errorf("%q is pending (%s), but is as it should be: take it off the list", o.id, why)
			case late:
				t.Skipf("pending: %s\n%s", why, strings.Join(o.faults, "\n"))
			case len(o.faults) > 0:
				t.Errorf("%s to %s: want %s\n%s", o.from, o.to, o.want, strings.Join(o.faults, "\n"))
			}
		})
	}
}
