package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/weir-project/weir/inspect/api"
)

// margin stands before what row writes.
const margin = "   "

func (d *demo) socket() string { return filepath.Join(d.dir, "weir.sock") }

// within is how a command is run in a host, for people.
func (d *demo) within(host string) string {
	return "ip netns exec " + filepath.Base(d.lab.Host(host).NetNS()) + " "
}

// question is a command that looks inside the running weir, and what its answer must be.
type question struct {
	args  []string
	claim string
	check func(json []byte) error
}

// questions are those that the demo asks. The last one is about what step 1 did with real packets.
func (d *demo) questions() []question {
	f := d.families[0]
	pod := f.addr(d.lab.Host("pod"))
	return []question{
		{[]string{"status"}, "weir says that it is healthy", checkHealthy},
		{[]string{"services", "web"}, "it has the Service web with its frontends, and all backends in slots", d.checkServices},
		{[]string{"trace", pod.String(), "tcp", f.web.String()}, "the rules lead where the packets went: to each backend, which sees the pod itself", func(b []byte) error {
			return checkTrace(b, d.backendAddrs(), pod)
		}},
	}
}

func (d *demo) backendAddrs() []netip.Addr {
	var addrs []netip.Addr
	for _, name := range backends {
		addrs = append(addrs, d.families[0].addr(d.lab.Host(name)))
	}
	return addrs
}

// inside asks weir about itself, as people may do.
func (d *demo) inside(ctx context.Context) error {
	s := d.screen
	s.title("7. Look inside: weir status, weir services, weir trace")
	s.say("A running weir answers on a socket of the machine, for root. These are commands for you; with -o json they are for scripts.")
	for _, q := range d.questions() {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		text, err := d.ask(q.args...)
		if err != nil {
			return err
		}
		s.line("")
		s.row("%s", strings.Join(d.inviting(q.args), " \\\n"+margin+"  "))
		for line := range strings.Lines(text) {
			s.row("%s", s.paint(dim, cutLine(strings.TrimRight(line, "\n"))))
		}
		answer, err := d.ask(append(q.args, "-o", "json")...)
		if err != nil {
			return err
		}
		s.claim(q.check([]byte(answer)), "%s", q.claim)
	}
	if !d.pause {
		s.note("To try these and others yourself, with everything left running: sudo make demo DEMO_PAUSE=1")
	}
	return nil
}

// inviting is how a reader asks the same, in lines that fit the screen.
func (d *demo) inviting(args []string) []string {
	return []string{strings.TrimSpace(d.within("node")), d.weir + " " + strings.Join(args, " "), "--socket " + d.socket()}
}

// cutLine makes a line fit the screen.
func cutLine(line string) string {
	if runes := []rune(line); len(runes) > columns-len(margin) {
		return string(runes[:columns-len(margin)-1]) + "…"
	}
	return line
}

// ask runs a command of weir in the node.
func (d *demo) ask(args ...string) (string, error) {
	out, err := d.lab.Host("node").Run(d.weir, append(args, "--socket", d.socket())...)
	if err != nil {
		return "", fmt.Errorf("weir %s: %w", strings.Join(args, " "), err)
	}
	return out, nil
}

func checkHealthy(b []byte) error {
	var s api.Status
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	if !s.Healthy || s.Sizes.Services == 0 {
		return unlike("a healthy weir with Services", "healthy %t, %d Services: %s", s.Healthy, s.Sizes.Services, strings.Join(s.Reasons, "; "))
	}
	return nil
}

// checkServices wants every backend in a slot, and the frontends that were dialled.
func (d *demo) checkServices(b []byte) error {
	var list api.ServiceList
	if err := json.Unmarshal(b, &list); err != nil {
		return err
	}
	if len(list.Items) != 1 || len(list.Items[0].Ports) == 0 {
		return unlike("one Service with ports", "%d Services", len(list.Items))
	}
	p := list.Items[0].Ports[0]
	slots := map[netip.Addr]bool{}
	for _, e := range p.Endpoints {
		slots[e.Address] = e.Slot != nil
	}
	for _, a := range d.backendAddrs() {
		if !slots[a] {
			return unlike("every backend in a slot", "none has %s", a)
		}
	}
	dialled := map[netip.AddrPort]bool{}
	for _, f := range p.Frontends {
		dialled[netip.AddrPortFrom(f.Address, f.Port)] = f.Class == 4
	}
	if f := d.families[0]; !dialled[f.web] || !dialled[f.nodePort] {
		return unlike(fmt.Sprintf("frontends %s and %s of class 4", f.web, f.nodePort), "%v", p.Frontends)
	}
	return nil
}

// checkTrace wants a way to each backend, by about equal shares, and that they see the source.
func checkTrace(b []byte, want []netip.Addr, source netip.Addr) error {
	var t api.Trace
	if err := json.Unmarshal(b, &t); err != nil {
		return err
	}
	seen := map[netip.Addr]bool{}
	for _, e := range t.Endpoints {
		fair := 100 / float64(len(want))
		seen[e.Address] = e.Source == source && !e.Masqueraded && e.Percent > fair-0.5 && e.Percent < fair+0.5
	}
	for _, a := range want {
		if !seen[a] || len(t.Endpoints) != len(want) || t.Outcome != "translated" {
			return unlike(fmt.Sprintf("equal shares for %v, which see %s", want, source), "%s %+v", t.Outcome, t.Endpoints)
		}
	}
	return nil
}
