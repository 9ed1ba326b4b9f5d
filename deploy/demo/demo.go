package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-project/weir/internal/netlab"
)

// The cast, as the manifests have it.
const (
	backendPort = 8080
	servicePort = 80
	nodePort    = 30080
	dnsPort     = 53
	leaving     = "web-2" // the backend that goes and comes back

	endpointLine = "name: " + leaving + "}" // what its lines in web.yaml have
)

var backends = []string{"web-1", "web-2", "web-3"}

// family is what there is to talk to in IPv4, or in IPv6.
type family struct {
	name                           string
	web, empty, undefined, unknown netip.AddrPort
	nodePort, dns                  netip.AddrPort
	addr                           func(*netlab.Host) netip.Addr
}

func addrPort(addr string, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(addr), port)
}

var families = []family{{
	name:      "IPv4",
	web:       addrPort("10.96.0.10", servicePort),
	empty:     addrPort("10.96.0.20", servicePort),
	undefined: addrPort("10.96.0.10", servicePort+1),
	unknown:   addrPort("10.96.200.200", servicePort),
	nodePort:  addrPort("172.31.0.11", nodePort),
	dns:       addrPort("10.96.0.53", dnsPort),
	addr:      func(h *netlab.Host) netip.Addr { return h.Addr4 },
}, {
	name:      "IPv6",
	web:       addrPort("fd00:10:96::10", servicePort),
	empty:     addrPort("fd00:10:96::20", servicePort),
	undefined: addrPort("fd00:10:96::10", servicePort+1),
	unknown:   addrPort("fd00:10:96::c8c8", servicePort),
	nodePort:  addrPort("fd00:31::11", nodePort),
	dns:       addrPort("fd00:10:96::35", dnsPort),
	addr:      func(h *netlab.Host) netip.Addr { return h.Addr6 },
}}

// demo is one showing.
type demo struct {
	options
	screen *screen
	stdin  *os.File

	dir      string // of everything below
	logFile  *os.File
	log      *journal
	lab      *netlab.Lab
	weirProc *netlab.Process
	families []family

	shown    bool  // everything, to the end
	leftover error // what could not be cleaned up
}

// patience is how long anything may take that should be done in milliseconds: the machine may be busy.
const patience = 20 * time.Second

// run shows everything, and removes it whatever happens. Its error is why it could not go on.
func (d *demo) run(ctx context.Context) error {
	defer d.clean()
	if err := d.setUp(ctx); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{d.spread, d.live, d.refuse, d.restart, d.names, d.maps, d.inside} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if d.shown = context.Cause(ctx) == nil; d.shown && d.pause {
		d.wait(ctx) // a signal is as good as Enter
		return nil
	}
	return context.Cause(ctx)
}

// setUp makes the network and starts weir in it.
func (d *demo) setUp(ctx context.Context) error {
	d.screen.line(d.screen.paint(bold, "Weir: Kubernetes Services in nftables maps, shown with real packets"))
	d.screen.line("")
	d.screen.say("Making a small cluster of network namespaces: a node, two clients, three backends.")
	if _, err := netlab.Sweep(); err != nil { // of a demo that was killed
		return err
	}
	if err := d.files(); err != nil {
		return err
	}
	if err := d.network(); err != nil {
		return err
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	d.cast()
	d.screen.say("Starting weir in the node, on a copy of deploy/demo/manifests:")
	s, took, err := d.start(ctx)
	if err != nil {
		return err
	}
	d.screen.claim(nil, "weir runs: all was in the kernel %s after the process was started (first sync: %s, %d elements)",
		short(took), short(s.duration), s.ops)
	return nil
}

// files makes the directory with the manifests and the log.
func (d *demo) files() (err error) {
	if d.dir, err = os.MkdirTemp("", "weir-demo-"); err != nil {
		return err
	}
	if err = copyManifests(d.manifests()); err != nil {
		return err
	}
	d.logFile, err = os.Create(d.logPath())
	d.log = newJournal(d.logFile)
	return err
}

func (d *demo) manifests() string { return filepath.Join(d.dir, "manifests") }
func (d *demo) web() string       { return filepath.Join(d.manifests(), "web.yaml") }
func (d *demo) logPath() string   { return filepath.Join(d.dir, "weir.log") }

// network builds the lab, and a server in each backend.
func (d *demo) network() (err error) {
	d.families = families
	if d.ipv4Only {
		d.families = families[:1]
	}
	d.lab, err = netlab.New(netlab.Config{
		LocalPods:  []string{"web-1", "web-2", "pod"},
		RemotePods: []string{"web-3"},
		Clients:    []string{"client"},
		IPv4Only:   d.ipv4Only,
	})
	if err != nil {
		return err
	}
	for _, name := range backends {
		host := d.lab.Host(name)
		for _, f := range d.families {
			if _, err := host.Serve(netlab.TCP, netip.AddrPortFrom(f.addr(host), backendPort)); err != nil {
				return err
			}
		}
	}
	return nil
}

// cast introduces who is there.
func (d *demo) cast() {
	d.screen.line("")
	for _, r := range []struct{ host, what string }{
		{"node", "the node, where weir runs"},
		{"pod", "a client: a pod on the node"},
		{"client", "a client outside the cluster"},
		{"web-1", "a backend: a pod on the node"},
		{"web-2", "a backend: a pod on the node"},
		{"web-3", "a backend: a pod on another node"},
	} {
		h := d.lab.Host(r.host)
		addr6 := ""
		if h.Addr6.IsValid() {
			addr6 = h.Addr6.String()
		}
		d.screen.row("%-7s %-15s %-18s %s", r.host, h.Addr4, addr6, r.what)
	}
	d.screen.line("")
}

// weirArgs is how weir is started.
func (d *demo) weirArgs() []string {
	var dns []string
	for _, f := range d.families {
		dns = append(dns, f.dns.Addr().String())
	}
	return []string{
		"run", "--manifests", d.manifests(), "--hostname-override", "node", "--dns-address", strings.Join(dns, ","),
		"--cluster-cidr", netlab.ClusterCIDR4.String() + "," + netlab.ClusterCIDR6.String(), "-v=2",
		"--socket", d.socket(),
	}
}

// start starts weir and waits until the kernel has everything. It returns weir's first sync, and how long it
// took from the start of the process.
func (d *demo) start(ctx context.Context) (s syncLine, took time.Duration, err error) {
	mark := d.log.mark()
	cmd := exec.Command(d.weir, d.weirArgs()...)
	cmd.Stdout, cmd.Stderr = d.log, d.log
	// A process group of its own: Ctrl-C is for us, and we end weir when its time has come.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	began := time.Now()
	if d.weirProc, err = d.lab.Host("node").Start(cmd); err != nil {
		return s, 0, err
	}
	s, err = d.synced(ctx, mark)
	return s, s.at.Sub(began), err
}

// synced returns weir's first sync after mark.
func (d *demo) synced(ctx context.Context, mark int) (syncLine, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("weir's log tells of no sync within %s", patience))
	defer cancel()
	ctx, ended := context.WithCancelCause(ctx)
	defer ended(nil)
	proc := d.weirProc
	go func() {
		select {
		case <-proc.Done():
			ended(fmt.Errorf("weir ended on its own: %v", proc.Wait()))
		case <-ctx.Done():
		}
	}()
	return d.log.wait(ctx, mark)
}

// clean ends weir and removes the network and the files.
func (d *demo) clean() {
	var errs []error
	if d.weirProc != nil {
		_ = d.weirProc.Signal(syscall.SIGTERM)
		select {
		case <-d.weirProc.Done():
		case <-time.After(time.Second): // the lab kills it
		}
	}
	if d.lab != nil {
		errs = append(errs, d.lab.Close())
	}
	if d.logFile != nil {
		errs = append(errs, d.logFile.Close())
	}
	if d.dir != "" {
		errs = append(errs, os.RemoveAll(d.dir))
	}
	d.leftover = errors.Join(errs...)
}

// wait keeps everything as it is until Enter or a signal.
func (d *demo) wait(ctx context.Context) {
	s := d.screen
	s.title("Everything stays up. Look inside from another terminal:")
	for _, c := range d.commands() {
		s.line("")
		s.note("%s", c.what)
		s.row("%s", c.command)
	}
	s.line("")
	s.say("Enter or Ctrl-C ends the demo and removes everything.")
	for !entered(d.stdin) && pass(ctx, 100*time.Millisecond) == nil {
	}
}

// entered reports whether there is a line to read, or never will be. A job in the background would be stopped for
// reading from the terminal, and its servers with it.
func entered(in *os.File) bool {
	owner, err := unix.IoctlGetInt(int(in.Fd()), unix.TIOCGPGRP)
	if isTerminal := err == nil; isTerminal && owner != unix.Getpgrp() {
		return false
	}
	ready, err := unix.Poll([]unix.PollFd{{Fd: int32(in.Fd()), Events: unix.POLLIN}}, 0)
	if err == nil && ready > 0 {
		_, _ = in.Read(make([]byte, 1024)) // or the shell would get it
		return true
	}
	return false
}

type command struct{ what, command string }

func (d *demo) commands() []command {
	in := d.within
	var list []command
	for _, q := range d.questions() {
		list = append(list, command{"What weir says of itself:", strings.Join(d.inviting(q.args), " ")})
	}
	return append(list, []command{
		{"All rules and maps:", in("node") + "nft list ruleset"},
		{"A request from outside the cluster: the answer names the backend and whom it saw.",
			in("client") + fmt.Sprintf("bash -c 'exec 3<>/dev/tcp/%s/%d; echo hi >&3; head -1 <&3'", families[0].nodePort.Addr(), nodePort)},
		{"What weir does, while you edit " + d.web() + ":", "tail -f " + d.logPath()},
		{"How weir was started:", in("node") + d.weir + " " + strings.Join(d.weirArgs(), " ")},
	}...)
}

// pass waits, and returns why ctx ended if it does.
func pass(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
