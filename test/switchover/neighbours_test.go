//go:build linux

package switchover

import (
	"fmt"
	"net/netip"
	"os/exec"
	"regexp"
	"strings"

	"github.com/weir-project/weir/internal/netlab"
)

// Rules that others have on a node. In tables of their own, a host port at the priority at which kube-proxy
// translates, and a firewall behind the filter chains as firewalld has it. The node's INPUT lets pass what the
// test itself needs.
const neighbourTables = `
table ip hostports {
	chain ports { tcp dport 18080 dnat to 10.244.1.10:8081; }
	chain prerouting { type nat hook prerouting priority dstnat; fib daddr type local jump ports; }
	chain output { type nat hook output priority -100; fib daddr type local jump ports; }
	chain postrouting { type nat hook postrouting priority srcnat; ip saddr 10.88.0.0/16 ip daddr != 10.88.0.0/16 masquerade; }
}
table inet firewall {
	chain filter_INPUT {
		type filter hook input priority filter + 10; policy accept;
		ct state { established, related } accept
		ct status dnat accept
		iifname "lo" accept
		meta l4proto { icmp, ipv6-icmp } accept
		reject with icmpx type admin-prohibited
	}
	chain filter_FORWARD {
		type filter hook forward priority filter + 10; policy accept;
		ct state { established, related } accept
		ct status dnat accept
		reject with icmpx type admin-prohibited
	}
}
`

// neighbourChains are in iptables' tables, where kube-proxy's chains are too: CNI's portmap, Docker, and what the
// kubelet makes. Each line is of a table.
const neighbourChains = `
mangle -N KUBE-IPTABLES-HINT
mangle -N KUBE-KUBELET-CANARY
nat -N KUBE-KUBELET-CANARY
filter -N KUBE-KUBELET-CANARY
filter -N KUBE-FIREWALL
filter -I OUTPUT -j KUBE-FIREWALL
filter -I INPUT -j KUBE-FIREWALL
nat -N CNI-HOSTPORT-DNAT
nat -A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
nat -A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
nat -N DOCKER
nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
nat -A OUTPUT -m addrtype --dst-type LOCAL -j DOCKER
nat -A POSTROUTING -m mark --mark 0x10000/0x10000 -j MASQUERADE
filter -N DOCKER-USER
filter -A FORWARD -j DOCKER-USER
filter -A DOCKER-USER -j RETURN
`

// neighbourChains4 are for IPv4 only.
const neighbourChains4 = `
filter -A KUBE-FIREWALL -m comment --comment "block incoming localnet connections" --dst 127.0.0.0/8 ! --src 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
nat -A CNI-HOSTPORT-DNAT -p tcp --dport 18081 -m comment --comment "dnat name: \"pod\" -j KUBE-SERVICES" -j DNAT --to-destination 10.244.1.11:8081
nat -A DOCKER -p tcp --dport 18082 -j DNAT --to-destination 10.244.1.10:8080
nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
`

// mappings are the host ports of the neighbours, and who answers there.
var mappings = map[uint16]string{18080: "10.244.1.10:8081", 18081: "10.244.1.11:8081", 18082: "10.244.1.10:8080"}

// addNeighbours writes the rules of others.
func (w *world) addNeighbours() {
	w.t.Helper()
	w.script("nft -f -", neighbourTables)
	for _, family := range []string{"iptables", "ip6tables"} {
		program := family + "-" + w.mode.iptables
		// All built-in chains of all tables, which otherwise appear when somebody first uses them.
		w.script(program+"-restore --noflush", "*mangle\nCOMMIT\n*filter\nCOMMIT\n*nat\nCOMMIT\n")
		lines := neighbourChains
		if family == "iptables" {
			lines += neighbourChains4
		}
		var script strings.Builder
		for line := range strings.Lines(lines) {
			if line = strings.TrimSpace(line); line != "" {
				fmt.Fprintf(&script, "%s -t %s\n", program, line)
			}
		}
		w.script("sh -e", script.String())
	}
}

// script runs a command in the node, with its standard input.
func (w *world) script(command, input string) {
	w.t.Helper()
	args := strings.Fields(command)
	cmd := exec.Command(args[0], args[1:]...)
	var out strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &out
	p, err := w.node.Start(cmd)
	if err == nil {
		err = p.Wait()
	}
	if err != nil {
		w.t.Fatalf("%s: %v: %s\n%s", command, err, out.String(), input)
	}
}

// firewallRule is the kubelet's rule in KUBE-FIREWALL, which kube-proxy writes anew with every sync.
var firewallRule = regexp.MustCompile(`(?m)^(.* 127\.0\.0\.0/8 .*) # handle \d+$`)

// neighbourhood is the ruleset without kube-proxy's tables and ours, with every handle: a rule that was
// written anew would have another one. Counters are left out.
func (w *world) neighbourhood() string {
	var b strings.Builder
	listing := w.run("nft", "--stateless", "--handle", "list", "ruleset")
	for table := range strings.SplitSeq(listing, "\ntable ") {
		table = strings.TrimPrefix(table, "table ")
		if name := strings.Fields(table); len(name) > 1 && (name[1] == "kube-proxy" || strings.HasPrefix(name[1], "weir")) {
			continue
		}
		fmt.Fprintf(&b, "table %s\n", firewallRule.ReplaceAllString(strings.TrimSpace(table), "$1"))
	}
	if w.mode.iptables == "legacy" {
		for _, family := range []string{"iptables", "ip6tables"} {
			for line := range strings.Lines(w.run(family + "-legacy-save")) {
				if !strings.HasPrefix(line, "#") {
					line, _, _ = strings.Cut(line, " [") // packets and bytes
					b.WriteString(strings.TrimSpace(line) + "\n")
				}
			}
		}
	}
	return b.String()
}

// checkMappings tries the neighbours' host ports: the endpoint must see the client itself.
func (w *world) checkMappings(when string) {
	w.t.Helper()
	client := w.lab.Host("client")
	for port, want := range mappings {
		r := client.Probe(netlab.TCP, netip.AddrPortFrom(w.node.Addr4, port), netlab.ProbeOptions{Timeout: patience})
		if r.Outcome != netlab.Answered || r.By != want || r.SourceSeen != client.Addr4 {
			w.t.Errorf("%s: host port %d: %s, want an answer by %s, who sees %s", when, port, r, want, client.Addr4)
		}
	}
}
