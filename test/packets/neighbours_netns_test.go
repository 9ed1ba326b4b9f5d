//go:build linux

package packets

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/weir-project/weir/internal/netlab"
)

// Rules that others have on a node, in tables of their own: a host port at the priority of
// everybody's DNAT, which also serves a cluster IP that another proxy is in charge of; a firewall that lets through
// what is translated and refuses what strangers begin; and a bridge that masquerades what leaves the cluster.
const neighbourRules = `
table ip hostports {
	chain ports {
		fib daddr type local tcp dport 9090 dnat to 10.244.1.11:8080
		ip daddr 10.96.0.12 tcp dport 80 dnat to 10.244.1.11:8081
	}
	chain prerouting { type nat hook prerouting priority -100; jump ports; }
	chain output { type nat hook output priority -100; jump ports; }
}
table ip6 hostports {
	chain ports {
		fib daddr type local tcp dport 9090 dnat to [fd00:10:244:1::11]:8080
		ip6 daddr fd00:10:96::12 tcp dport 80 dnat to [fd00:10:244:1::11]:8081
	}
	chain prerouting { type nat hook prerouting priority -100; jump ports; }
	chain output { type nat hook output priority -100; jump ports; }
}
table inet firewall {
	chain forward {
		type filter hook forward priority 10; policy accept;
		ct state established,related accept
		ct status dnat accept
		ip saddr 192.168.200.0/24 reject with icmpx type admin-prohibited
		ip6 saddr fd00:c11e::/64 reject with icmpx type admin-prohibited
	}
	chain input {
		type filter hook input priority 10; policy accept;
		ct state established,related accept
		tcp dport 8081 ip saddr 192.168.200.0/24 drop
		tcp dport 8081 ip6 saddr fd00:c11e::/64 drop
	}
}
table ip bridge-masquerade {
	chain postrouting { type nat hook postrouting priority 100; ip saddr 10.244.1.0/24 ip daddr 192.168.200.0/24 masquerade; }
}
table ip6 bridge-masquerade {
	chain postrouting { type nat hook postrouting priority 100; ip6 saddr fd00:10:244:1::/64 ip6 daddr fd00:c11e::/64 masquerade; }
}`

var neighbourTables = []string{"ip hostports", "ip6 hostports", "inet firewall", "ip bridge-masquerade", "ip6 bridge-masquerade"}

// What holds of the neighbours' rules, with weir and without.
var neighbours = []packet{
	{"host port, client", "client", "node:9090 tcp", "podB"},
	{"host port, pod", "podC", "node:9090 tcp", "podB"},
	{"host port, node", "node", "node:9090 tcp", "podB"},
	{"another proxy's cluster IP", "podC", "foreign tcp", "podB:8081"},
	{"another proxy's cluster IP, node", "node", "foreign tcp", "podB:8081"},
	{"firewall refuses strangers", "client", "podA:8080 tcp", "refused"},
	{"firewall drops at the node", "client", "node:8081 tcp", "dropped"},
	{"firewall lets pods through", "podC", "podA:8080 tcp", "podA"},
	{"what leaves the cluster is masqueraded", "podC", "client:8080 tcp udp", "client as node"},
}

// And what holds of ours among them.
var amongNeighbours = []packet{
	{"cluster IP", "podC", "web", "podA podB"},
	{"cluster IP, client", "client", "web", "podA podB as node"},
	{"cluster IP, node", "node", "web", "podA podB"},
	{"node port", "client podC node", "web/node", "podA podB as node"},
	{"external IP", "client podC node", "web/external", "podA podB as node"},
	{"port that the service has not", "podC client", "web:81", "refused"},
	{"address of no service", "podC client", "10.96.0.250:80", "dropped"},
	{"another proxy's cluster IP, where that does nothing", "podC", "foreign udp", "dropped"},
}

func TestNetnsNeighbours(t *testing.T) {
	t.Parallel()
	for _, order := range []string{"neighbours first", "weir first"} {
		t.Run(order, func(t *testing.T) {
			lab, witness := newLab(t, netlab.Config{})
			node, client := lab.Host("node"), lab.Host("client")
			for _, proto := range protocols[:2] {
				serve(t, client, proto, client.Addr4.String(), 8080)
				serve(t, client, proto, client.Addr6.String(), 8080)
			}
			w := world{name: "neighbours", flags: clusterCIDR, steps: []step{{packets: neighbours}}}
			d := newDaemon(t, lab, w.flags...)
			s := &stage{lab: lab, witness: witness, daemon: d}
			settle := func() {
				t.Helper()
				if _, err := node.Run("nft", neighbourRules); err != nil {
					t.Fatal(err)
				}
			}
			try := func(when string, steps ...step) {
				t.Helper()
				var outcomes []outcome
				for _, st := range steps {
					more, err := s.play(&w, st)
					if err != nil {
						t.Fatal(err)
					}
					outcomes = append(outcomes, more...)
				}
				t.Run(when, func(t *testing.T) { report(t, outcomes) })
			}
			theirs := step{packets: neighbours, untraced: true}
			ours, left := step{packets: amongNeighbours}, step{packets: amongNeighbours, untraced: true}
			if order == "neighbours first" {
				settle()
				try("before weir", theirs)
			}
			if err := d.first(&w); err != nil {
				t.Fatal(err)
			}
			if order == "weir first" {
				settle()
			}
			before := listings(t, lab)
			try("with weir", theirs, ours)
			d.stop()
			if err := d.first(&w); err != nil {
				t.Fatal(err)
			}
			try("with weir started again", theirs, ours)
			d.stop()
			try("with weir stopped", theirs, left)
			if err := d.cleanup(); err != nil {
				t.Fatal(err)
			}
			try("after weir", theirs)
			for i, now := range listings(t, lab) {
				if now != before[i] {
					t.Errorf("table %s was\n%s\nand is\n%s", neighbourTables[i], before[i], now)
				}
			}
			d.finish(t)
		})
	}
}

// listings lists the neighbours' tables, with handles: rules that were put in anew would have others.
func listings(t *testing.T, lab *netlab.Lab) (all []string) {
	t.Helper()
	for _, table := range neighbourTables {
		out, err := lab.Host("node").Run("nft", "-a", "-s", "list table "+table)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, out)
	}
	return all
}

// Who looks at the node with nft sees which service it is.
func TestNetnsListing(t *testing.T) {
	t.Parallel()
	lab, _ := newLab(t, netlab.Config{})
	d := newDaemon(t, lab, clusterCIDR...)
	if err := d.first(&world{name: "affinity", steps: []step{{}}}); err != nil {
		t.Fatal(err)
	}
	out, err := lab.Host("node").Run("nft", "list ruleset")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`tcp \. 10\.96\.0\.10 \. 80 comment "default/sticky[^"]*"`,
		`udp \. fd00:10:96::10 \. 80 comment "default/sticky[^"]*"`,
		`sctp \. 10\.96\.0\.14 \. 80 comment "default/empty[^"]*" : (jump|goto) refuse`,
		`tcp \. 172\.31\.0\.11 \. 30580 comment "default/sticky`,
		`10\.96\.0\.10 \. 80 \. 0x0000000[012].* : 10\.244\.(1|2)\.1[01] \. 8080`,
	} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("not in the listing: %s", want)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
	out, err = lab.Host("node").Run("nft", "-j", "list ruleset")
	if err != nil || !json.Valid([]byte(out)) {
		t.Errorf("nft -j list ruleset: %v; %d bytes of JSON", err, len(out))
	}
	// Others may try to flush everything. Where the kernel lets tables have owners, ours stay; elsewhere they are
	// back within a second.
	if _, err := lab.Host("node").Run("nft", "flush ruleset"); err != nil && !strings.Contains(err.Error(), "Operation not permitted") {
		t.Fatal(fmt.Errorf("flush: %w", err))
	}
	if err := d.settle(1); err != nil {
		t.Error(err)
	}
}
