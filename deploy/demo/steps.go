package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-project/weir/internal/netlab"
)

// requests is how many are made from each client to each address.
const requests = 300

// spread shows that requests spread over the backends, and whom these see.
func (d *demo) spread(ctx context.Context) error {
	s := d.screen
	s.title("1. Requests spread over three backends")
	s.say("%d new connections from each client to each address of the Service web: how many each backend answered, and which source the backends saw.", requests)
	s.line("")
	const columns = "%-7s%-10s%-22s%6s%7s%7s   %s"
	s.row(columns, "from", "", "to", backends[0], backends[1], backends[2], "source seen")
	node := d.lab.Host("node")
	for _, v := range []struct{ from, kind string }{{"pod", "ClusterIP"}, {"pod", "NodePort"}, {"client", "NodePort"}} {
		for _, f := range d.families {
			from := d.lab.Host(v.from)
			to, source, whose := f.web, f.addr(from), "itself"
			if v.kind == "NodePort" {
				to, source, whose = f.nodePort, f.addr(node), "the node"
			}
			sum := from.ProbeMany(requests, netlab.TCP, to, netlab.ProbeOptions{Parallel: 8})
			if err := context.Cause(ctx); err != nil {
				return err
			}
			count := func(i int) string { return strconv.Itoa(sum.Names[backends[i]]) }
			err := checkSpread(sum, backends, source)
			if err != nil {
				whose = "wrong"
			}
			s.claim(err, columns, v.from, v.kind, to, count(0), count(1), count(2), joinAddrs(sum.SourcesSeen())+", "+whose)
		}
	}
	s.note("A pod is seen as itself. What comes in by a node port is seen as the node, through which the answer has to go back.")
	return nil
}

func joinAddrs(addrs []netip.Addr) string {
	var list []string
	for _, a := range addrs {
		list = append(list, a.String())
	}
	return strings.Join(list, " ")
}

// Timing of the live changes.
const (
	straggle = 40 * time.Millisecond // for a second sync, if the first one saw only one family
	again    = 10                    // times that the backend goes and comes once more
)

// live shows a backend going and coming while new connections are made.
func (d *demo) live(ctx context.Context) error {
	s := d.screen
	s.title("2. A backend goes and comes back, live")
	text, err := os.ReadFile(d.web())
	if err != nil {
		return err
	}
	whole := string(text)
	shrunk, cut := without(whole, endpointLine)
	s.say("About a thousand new connections a second from pod to %s, while web.yaml is edited.", d.families[0].web)

	s.line("")
	for _, line := range cut {
		s.row("%s", s.paint(red, "- "+line))
	}
	c, err := d.edit(ctx, shrunk)
	if err != nil {
		return err
	}
	s.claim(checkSmall(c.syncs, perEndpoint), "%s", updated(c))
	_, _, after, hits := c.counts()
	s.claim(checkGone(c), "%d new connections begun after that: %d to %s, none failed%s", after, hits, leaving, cutText(c))
	if at, ok := c.last(); ok {
		s.note("Seen from the packets: %s", lastSeen(at))
	}

	s.line("")
	for _, line := range cut {
		s.row("%s", s.paint(green, "+ "+line))
	}
	if c, err = d.edit(ctx, whole); err != nil {
		return err
	}
	s.claim(checkSmall(c.syncs, perEndpoint), "%s", updated(c))
	_, _, after, hits = c.counts()
	s.claim(checkBack(c), "%d new connections begun after that: %d to %s, none failed", after, hits, leaving)
	if at, ok := c.first(); ok {
		s.note("Seen from the packets: the first new connection to %s began %s after the edit.", leaving, short(at))
	}
	s.line("")
	s.note("The time from the edit to the sync is that of the file: weir is told of it, lets it be quiet for 20 ms lest it reads half a file, and parses it. The sync itself is the work for the kernel: planned, sent as one netlink transaction, acknowledged.")
	return d.repeat(ctx, whole)
}

func lastSeen(at time.Duration) string {
	if at < 0 {
		return fmt.Sprintf("the last new connection to %s began %s before the edit.", leaving, short(-at))
	}
	return fmt.Sprintf("the last new connection to %s began %s after the edit.", leaving, short(at))
}

func cutText(c change) string {
	if n := c.cut(); n > 0 {
		return fmt.Sprintf(" (%d that were under way to it were reset)", n)
	}
	return ""
}

// updated says what a change cost.
func updated(c change) string {
	took, ops := c.took()
	how := "in one sync"
	if n := len(c.syncs); n > 1 {
		how = fmt.Sprintf("in %d syncs", n)
	}
	return fmt.Sprintf("kernel updated in %s: %d map elements %s, done %s after the edit", short(took), ops, how, short(c.synced().Sub(c.written)))
}

// perEndpoint is how many elements one endpoint may cost: five for each frontend, and its entry among those that
// may call themselves. Web has two frontends in each family.
const perEndpoint = 2 * (2*5 + 1)

// edit replaces web.yaml while new connections are made, and returns what was seen.
func (d *demo) edit(ctx context.Context, text string) (change, error) {
	connections := startStream(d.lab.Host("pod"), d.families[0].web)
	defer connections.stop()
	c := change{backend: leaving}
	if err := connections.flow(ctx); err != nil {
		return c, err
	}
	mark := d.log.mark()
	c.written = time.Now()
	if err := replaceFile(d.web(), text); err != nil {
		return c, err
	}
	if _, err := d.synced(ctx, mark); err != nil {
		return c, err
	}
	if err := pass(ctx, straggle); err != nil {
		return c, err
	}
	c.syncs = d.log.since(mark)
	if err := connections.flow(ctx); err != nil {
		return c, err
	}
	c.probes = connections.stop()
	return c, nil
}

// repeat measures more changes, of one endpoint each: in IPv4 alone, so that each is one sync.
func (d *demo) repeat(ctx context.Context, whole string) error {
	host := d.lab.Host(leaving)
	shrunk, _ := without(whole, "["+host.Addr4.String()+"]")
	mark := d.log.mark()
	for range again {
		for _, text := range []string{shrunk, whole} {
			at := d.log.mark()
			if err := replaceFile(d.web(), text); err != nil {
				return err
			}
			if _, err := d.synced(ctx, at); err != nil {
				return err
			}
		}
	}
	syncs := d.log.since(mark)
	var err error
	var times []time.Duration
	for _, sync := range syncs {
		times = append(times, sync.duration)
		if err == nil {
			err = checkSmall([]syncLine{sync}, perEndpoint)
		}
	}
	if err == nil && len(syncs) != 2*again {
		err = unlike(fmt.Sprintf("%d syncs", 2*again), "%d", len(syncs))
	}
	slices.Sort(times)
	d.screen.claim(err, "%d more such changes, in IPv4 alone: kernel updated in %s to %s, median %s",
		2*again, short(times[0]), short(times[len(times)-1]), short(times[len(times)/2]))
	return nil
}

// refuse shows that what nobody serves is refused at once.
func (d *demo) refuse(ctx context.Context) error {
	s := d.screen
	s.title("3. Without endpoints, refused at once")
	s.say("Connections from pod to a Service that has no endpoints, to a port that a Service does not have, and to an address that no Service has.")
	s.line("")
	for _, f := range d.families {
		for _, t := range []struct {
			what string
			to   netip.AddrPort
		}{{"Service empty", f.empty}, {"no port of web", f.undefined}} {
			r, err := d.refusal("pod", t.to)
			if err != nil {
				return err
			}
			if err := context.Cause(ctx); err != nil {
				return err
			}
			s.claim(checkRefused(r), "%-15s%-21s %d refused by TCP reset, after %s (median) to %s",
				t.what, t.to, len(r.results), short(r.median()), short(r.longest()))
		}
	}
	const silence = 300 * time.Millisecond
	unknown := d.families[0].unknown
	r := d.lab.Host("pod").Probe(netlab.TCP, unknown, netlab.ProbeOptions{Timeout: silence})
	s.claim(checkSilent(r), "%-15s%-21s silence, for the %s that we waited", "no Service", unknown, short(silence))
	return context.Cause(ctx)
}

// refusal makes connections one after the other that should be refused.
func (d *demo) refusal(from string, to netip.AddrPort) (r refusal, err error) {
	host := d.lab.Host(from)
	before, err := icmpErrors(host)
	if err != nil {
		return r, err
	}
	for range 20 {
		r.results = append(r.results, host.Probe(netlab.TCP, to, netlab.ProbeOptions{}))
	}
	after, err := icmpErrors(host)
	r.icmp = after - before
	return r, err
}

// icmpErrors returns how many messages that a destination is unreachable a host has received.
func icmpErrors(h *netlab.Host) (n int, err error) {
	err = h.Do(func() error {
		for file, read := range map[string]func(string) int{"snmp": unreachable4, "snmp6": unreachable6} {
			text, err := os.ReadFile("/proc/thread-self/net/" + file)
			if err != nil && !os.IsNotExist(err) { // snmp6: no IPv6
				return err
			}
			n += read(string(text))
		}
		return nil
	})
	return n, err
}

// unreachable4 reads /proc/net/snmp: a line of names, and one of values.
func unreachable4(text string) int {
	var names []string
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "Icmp:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		if i := slices.Index(names, "InDestUnreachs"); i >= 0 && i < len(fields) {
			n, _ := strconv.Atoi(fields[i])
			return n
		}
	}
	return 0
}

// unreachable6 reads /proc/net/snmp6: a name and a value in each line.
func unreachable6(text string) int {
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[0] == "Icmp6InDestUnreachs" {
			n, _ := strconv.Atoi(fields[1])
			return n
		}
	}
	return 0
}

// Timing of the restarts.
const (
	kills = 3
	rate  = 500                    // new connections a second, from each of two clients
	calm  = 250 * time.Millisecond // before, without weir, and after
)

// restart shows that new connections do not notice when weir is killed and started.
func (d *demo) restart(ctx context.Context) error {
	s := d.screen
	s.title("4. weir is killed and started again, under load")
	s.say("%d new connections a second, half of them from pod to the ClusterIP, half from client to the node port, while weir is killed (SIGKILL) %d times. Its rules stay in the kernel and go on working.", 2*rate, kills)
	s.line("")
	loads, err := d.startLoads()
	if err != nil {
		return err
	}
	for i := range kills {
		if err := pass(ctx, calm); err != nil {
			return err
		}
		killed := time.Now()
		if err := d.weirProc.Close(); err != nil {
			return err
		}
		if err := pass(ctx, calm); err != nil {
			return err
		}
		alone := time.Since(killed)
		sync, took, err := d.start(ctx)
		if err != nil {
			return err
		}
		s.row("killed, %s without weir, started: in charge again after %s%s", short(alone), short(took), adopted(i, sync))
	}
	if err := pass(ctx, calm); err != nil {
		return err
	}
	for _, l := range loads {
		r := l.load.Stop()
		s.claim(checkLoad(r, rate), "%-30s%d connections, %d failed, %d went wrong; the longest took %s",
			l.what, r.Attempts, r.Failed, r.BadEndpoint+r.BadSource, short(r.Max))
	}
	return nil
}

func adopted(i int, sync syncLine) string {
	if i > 0 {
		return ""
	}
	return fmt.Sprintf(" (%d elements anew in %s)", sync.ops, short(sync.duration))
}

type namedLoad struct {
	what string
	load *netlab.Load
}

func (d *demo) startLoads() (loads []namedLoad, err error) {
	f := d.families[0]
	var by []netip.AddrPort
	for _, name := range backends {
		by = append(by, netip.AddrPortFrom(f.addr(d.lab.Host(name)), backendPort))
	}
	for _, l := range []struct {
		from string
		to   netip.AddrPort
		seen *netlab.Host
	}{{"pod", f.web, d.lab.Host("pod")}, {"client", f.nodePort, d.lab.Host("node")}} {
		load, err := d.lab.Host(l.from).StartLoad(netlab.LoadConfig{
			Dst: l.to, Rate: rate, Timeout: patience, WantBy: by, WantSources: []netip.Addr{f.addr(l.seen)},
		})
		if err != nil {
			return nil, err
		}
		loads = append(loads, namedLoad{fmt.Sprintf("%s to %s", l.from, l.to), load})
	}
	return loads, nil
}

// maps shows two of the maps as nft does.
func (d *demo) maps(context.Context) error {
	s := d.screen
	s.title("6. The maps, as nft sees them")
	if _, err := exec.LookPath("nft"); err != nil {
		s.say("nft is not installed here. weir does not need it; to look inside, install nftables.")
		return nil
	}
	f := d.families[0]
	var addrs []netip.Addr
	for _, name := range backends {
		addrs = append(addrs, f.addr(d.lab.Host(name)))
	}
	for _, m := range []struct {
		name, what string
		check      func(listing string) error
	}{
		{"services", "which chain serves an address: lb-4 draws one of up to four slots", func(listing string) error {
			return checkVerdicts(listing, map[netip.AddrPort]string{f.web: "goto lb-4", f.nodePort: "goto lb-4", f.empty: "goto refuse"})
		}},
		{"endpoints", "what is in the slots: each backend once for each address of web", func(listing string) error {
			return errors.Join(checkSlots(listing, f.web, addrs), checkSlots(listing, f.nodePort, addrs))
		}},
	} {
		s.line("")
		s.row("%s", "nft list map ip weir "+m.name)
		listing, err := d.lab.Host("node").Run("nft", "list", "map", "ip", "weir", m.name)
		if err != nil {
			return err
		}
		lines := bufio.NewScanner(strings.NewReader(listing))
		for lines.Scan() {
			s.row("%s", s.paint(dim, strings.ReplaceAll(lines.Text(), "\t", "        ")))
		}
		s.claim(m.check(listing), "%s", m.what)
	}
	return nil
}
