package kubeproxy

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	vishvananda "github.com/vishvananda/netlink"

	"github.com/weir-project/weir/internal/netlab"
)

// newNode returns a network namespace, and another one.
func newNode(t *testing.T) (node, other *netlab.Host) {
	lab := netlab.NewForTest(t, netlab.Config{LocalPods: []string{}, RemotePods: []string{}, Clients: []string{"client"}})
	return lab.Host("node"), lab.Host("client")
}

func start(t *testing.T, h *netlab.Host, cmd *exec.Cmd) *netlab.Process {
	t.Helper()
	p, err := h.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// running returns who is found running in the host, once that is n.
func running(t *testing.T, h *netlab.Host, n int) (found []Process) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := h.Do(func() (err error) {
			found, err = Running()
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(found) == n {
			return found
		}
		if time.Now().After(deadline) {
			t.Fatalf("in %s run %v, want %d", h.Name, found, n)
		}
	}
}

func TestNetnsRunningProcess(t *testing.T) {
	node, other := newNode(t)
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "kube-proxy")
	b, err := os.ReadFile(sleep)
	if err == nil {
		err = os.WriteFile(program, b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	running(t, node, 0)
	p := start(t, node, exec.Command(program, "1000"))
	start(t, node, exec.Command(sleep, "1001")) // of another name
	got := running(t, node, 1)
	if got[0].PID != p.Pid || got[0].Command != program+" 1000" {
		t.Errorf("found %s, want process %d", got[0], p.Pid)
	}
	running(t, other, 0) // another network namespace
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	running(t, node, 0)
}

func TestNetnsRunningListener(t *testing.T) {
	node, other := newNode(t)
	l, err := node.Listen("tcp4", "127.0.0.1:10256") // our own, as weir's
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
			t.Error("asked itself")
		}
	}()
	running(t, node, 0)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serveEnv+"=ipvs")
	start(t, node, cmd)
	got := running(t, node, 1)
	if want := (Process{Address: "127.0.0.1:10249", Mode: "ipvs"}); got[0] != want {
		t.Errorf("found %+v, want %+v", got[0], want)
	}
	running(t, other, 0)
}

const savedFilter = `*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER-USER - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-POD-FW-NPX46M4PTMTKRN6Y - [0:0]
-A INPUT -m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS
-A INPUT -j KUBE-FIREWALL
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A FORWARD -j DOCKER-USER
-A FORWARD -j KUBE-POD-FW-NPX46M4PTMTKRN6Y
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
*mangle
:KUBE-IPTABLES-HINT - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-PROXY-CANARY - [0:0]
COMMIT
`

// What stays of savedNAT with a rule that uses KUBE-MARK-MASQ, and of savedFilter.
const savedAfter = `*mangle
:KUBE-IPTABLES-HINT
:KUBE-KUBELET-CANARY
*filter
:DOCKER-USER
:KUBE-FIREWALL
:KUBE-POD-FW-NPX46M4PTMTKRN6Y
-A INPUT -j KUBE-FIREWALL
-A FORWARD -j DOCKER-USER
-A FORWARD -j KUBE-POD-FW-NPX46M4PTMTKRN6Y
*nat
:CNI-HOSTPORT-SETMARK
:DOCKER
:KUBE-KUBELET-CANARY
:KUBE-MARK-MASQ
:KUBE-POSTROUTING
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A CNI-HOSTPORT-SETMARK -j KUBE-MARK-MASQ
-A DOCKER -p tcp -m comment --comment "a trap: \" -j KUBE-SERVICES" -j DNAT --to-destination 10.0.0.1:80
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
`

// saved returns what iptables-save prints, without built-in chains, counters and comments, tables in a fixed order.
func saved(t *testing.T, h *netlab.Host, program string) string {
	t.Helper()
	var b strings.Builder
	for _, table := range []string{"mangle", "filter", "nat"} {
		out, err := h.Run(program, "-t", table)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out) {
			line = strings.TrimSpace(line)
			if chain, counts, ok := strings.Cut(line, " "); ok && chain[0] == ':' {
				if !strings.HasPrefix(counts, "-") {
					continue
				}
				line = chain
			}
			if line != "COMMIT" && !strings.HasPrefix(line, "#") {
				b.WriteString(line + "\n")
			}
		}
	}
	return b.String()
}

func TestNetnsRemove(t *testing.T) {
	for _, kind := range []string{"nft", "legacy"} {
		t.Run("iptables-"+kind, func(t *testing.T) {
			node, _ := newNode(t)
			restore := "iptables-" + kind + "-restore"
			if _, err := exec.LookPath(restore); err != nil {
				t.Skip(err)
			}
			cmd := exec.Command(restore)
			cmd.Stdin = strings.NewReader(savedFilter + strings.Replace(savedNAT, "COMMIT\n", "-A CNI-HOSTPORT-SETMARK -j KUBE-MARK-MASQ\nCOMMIT\n", 1))
			var out strings.Builder
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := start(t, node, cmd).Wait(); err != nil {
				t.Fatal(err, out.String())
			}
			report := takeAll(t, node)
			if diff := cmp.Diff(strings.Split(savedAfter, "\n"), strings.Split(saved(t, node, "iptables-"+kind+"-save"), "\n")); diff != "" {
				t.Errorf("what stays (-want +got):\n%s", diff)
			}
			notes := strings.Join(report.Notes, "\n")
			for _, want := range []string{"chain KUBE-MARK-MASQ of iptables stays, because chain CNI-HOSTPORT-SETMARK needs it",
				"chain KUBE-POSTROUTING of iptables stays", "iptables drops forwarded packets that no rule accepts"} {
				if !strings.Contains(notes, want) {
					t.Errorf("notes %q do not say %q", notes, want)
				}
			}
		})
	}
}

// takeAll removes what is found in the host; after that nothing is found.
func takeAll(t *testing.T, h *netlab.Host) (report Report) {
	t.Helper()
	err := h.Do(func() error {
		left, err := Find()
		if err != nil {
			return err
		}
		t.Log("found: ", left)
		if left.Empty() {
			t.Error("nothing found")
		}
		if report, err = left.Remove(context.Background()); err != nil {
			return err
		}
		t.Log("removed: ", strings.Join(report.Removed, ", "))
		again, err := Find()
		if err == nil && !again.Empty() {
			t.Error("left over: ", again)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func TestNetnsRemoveLegacyWithoutTool(t *testing.T) {
	node, _ := newNode(t)
	path, err := exec.LookPath("iptables-legacy-restore")
	if err != nil {
		t.Skip(err)
	}
	cmd := exec.Command(path)
	cmd.Stdin = strings.NewReader(savedNAT)
	if err := start(t, node, cmd).Wait(); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", t.TempDir())
	err = node.Do(func() error {
		left, err := Find()
		if err != nil {
			t.Fatal(err)
		}
		_, err = left.Remove(context.Background())
		return err
	})
	const want = "7 chains of kube-proxy are left in iptables-legacy (tables nat), and iptables-legacy-save is not installed here"
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %q", err, want)
	}
}

func TestNetnsRemoveTables(t *testing.T) {
	node, _ := newNode(t)
	const rules = `
table ip kube-proxy {
	map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; elements = { 10.96.0.1 . tcp . 443 : goto service } }
	chain service { meta l4proto tcp dnat to 172.31.0.11:6443; }
	chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }
	chain nat-prerouting { type nat hook prerouting priority -100; jump services; }
	chain nat-output { type nat hook output priority -100; jump services; }
	chain nat-postrouting { type nat hook postrouting priority 100; masquerade; }
	chain filter-input { type filter hook input priority 0; }
}
table ip6 kube-proxy { chain filter-input { type filter hook input priority 0; }; }
table inet kube-proxy { chain c { }; }
table ip other { chain kube-proxy { }; chain nat-prerouting { type nat hook prerouting priority -100; ip daddr 10.96.0.1 accept; }; }
`
	cmd := exec.Command("nft", "-f", "-")
	var out strings.Builder
	cmd.Stdin, cmd.Stderr = strings.NewReader(rules), &out
	if err := start(t, node, cmd).Wait(); err != nil {
		t.Fatal(err, out.String())
	}
	other, err := node.Run("nft", "-a", "list", "table", "ip", "other")
	if err != nil {
		t.Fatal(err)
	}
	report := takeAll(t, node)
	if diff := cmp.Diff([]string{"table ip kube-proxy", "table ip6 kube-proxy"}, report.Removed); diff != "" {
		t.Errorf("removed (-want +got):\n%s", diff)
	}
	tables, err := node.Run("nft", "list", "tables")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("table inet kube-proxy\ntable ip other\n", tables); diff != "" {
		t.Errorf("tables (-want +got):\n%s", diff)
	}
	if after, err := node.Run("nft", "-a", "list", "table", "ip", "other"); err != nil || after != other {
		t.Errorf("the table of others was\n%sand is, with error %v,\n%s", other, err, after)
	}
}

// This kernel may have neither dummy links nor IPVS, so the link is not there, or is somebody's of that name.
func TestNetnsRemoveIPVS(t *testing.T) {
	node, _ := newNode(t)
	err := node.Do(func() error {
		attrs := vishvananda.NewLinkAttrs()
		attrs.Name = dummyLink
		if err := vishvananda.LinkAdd(&vishvananda.Bridge{LinkAttrs: attrs}); err != nil {
			return err
		}
		for _, set := range []string{"KUBE-CLUSTER-IP", "KUBE-6-CLUSTER-IP", "OTHER", "KUBE-MINE"} {
			if err := vishvananda.IpsetCreate(set, "hash:ip", vishvananda.IpsetCreateOptions{}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Skip("ipsets are needed: ", err)
	}
	report := takeAll(t, node)
	if diff := cmp.Diff([]string{"ipset KUBE-CLUSTER-IP", "ipset KUBE-6-CLUSTER-IP"}, report.Removed); diff != "" {
		t.Errorf("removed (-want +got):\n%s", diff)
	}
	err = node.Do(func() error {
		_, err := net.InterfaceByName(dummyLink)
		return err
	})
	if err != nil {
		t.Errorf("a link that only has the name: %v", err)
	}
}
