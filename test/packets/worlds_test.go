//go:build linux

package packets

// The usual flags: the pods of all nodes are pods.
var clusterCIDR = []string{"--cluster-cidr", "10.244.0.0/16,fd00:10:244::/48"}

// worlds is the specification. See the package's story for how to read it.
var worlds = []world{
	{name: "cluster-ip", flags: clusterCIDR, steps: []step{{packets: []packet{
		{"pod on the node", "podC", "web", "podA podB podX"},
		{"pod on another node", "podY", "near", "podA podB"},
		{"node itself", "node", "web", "podA podB podX"},
		{"client off the cluster is masqueraded", "client client2", "web", "podA podB podX as node"},
		{"another node is masqueraded", "remote", "web", "podA podB podX as node"},
		{"hairpin is masqueraded", "podA", "self", "podA as node"},
		{"hairpin among others", "podA", "web", "podA as node, podB podX"},
		{"pod to a process on the node", "podC", "host", "node remote"},
		{"node to a process on the node", "node", "host", "node remote"},
		{"what stays on the node is not masqueraded", "client", "host", "node, remote as node"},
		{"no endpoints", "podC podY node client", "empty", "refused"},
		{"no slices", "podC podY node client", "bare", "refused"},
		{"no ready endpoints", "podC podY node client", "unready", "refused"},
		{"port that the service has not", "podC podY node client", "web:81", "refused"},
		{"protocol that the service has not", "podC podY node client", "tcponly udp sctp", "refused"},
		{"address of no service", "podC podY node client", "10.96.0.250:80", "dropped"},
		{"named port with a number for each pod", "podC node", "named", "podA podB:8081"},
		{"first of two ports", "podC", "multi:80", "podA"},
		{"second of two ports", "podC", "multi:81", "podA:8081"},
		{"IPv4 alone", "podC", "only4 v4", "podA"},
		{"IPv6 alone", "podC", "only6 v6", "podA"},
		{"port without a name", "podC", "unnamed", "podA"},
	}}}},

	{name: "node-port", flags: clusterCIDR, steps: []step{{packets: []packet{
		{"client", "client", "web/node", "podA podB podX as node"},
		{"pod on the node", "podC", "web/node", "podA podB podX as node"},
		{"pod that is an endpoint", "podA", "web/node", "podA podB podX as node"},
		{"pod on another node", "podY", "web/node", "podA podB podX as node"},
		{"node itself", "node", "web/node", "podA podB podX as node"},
		{"another node", "remote", "web/node", "podA podB podX as node"},
		{"number shared by two services, TCP", "client podC node", "tcp53/node tcp", "podA as node"},
		{"number shared by two services, UDP", "client podC node", "udp53/node udp", "podB as node"},
		{"number shared by two services, SCTP is nobody's", "client podC node", "node:30053 sctp", "unserved"},
		{"process on the node", "client", "host/node", "node, remote as node"},
		{"no endpoints", "client podC podY node remote", "empty/node", "refused"},
		{"number of no service", "client podC node remote", "node:30084", "unserved"},
		{"service port on the node's address", "client podC node", "node:80", "unserved"},
		{"address of another node", "podC node", "remote:30080", "unserved"},
		{"loopback address", "node", "127.0.0.1:30080", "unserved"},
		{"number at the cluster IP", "podC client node", "web:30080", "refused"},
		{"cluster IP", "podC", "web", "podA podB podX"},
	}}}},

	{name: "external-ip", flags: clusterCIDR, steps: []step{
		{packets: []packet{
			{"client", "client", "web/external", "podA podB podX as node"},
			{"pod on the node", "podC", "web/external", "podA podB podX as node"},
			{"pod that is an endpoint", "podA", "web/external", "podA podB podX as node"},
			{"pod on another node", "podY", "web/external", "podA podB podX as node"},
			{"node itself", "node", "web/external", "podA podB podX as node"},
			{"another node", "remote", "web/external", "podA podB podX as node"},
			{"second address", "client podC node", "web/external2", "podA podB podX as node"},
			{"address shared by two services, TCP", "client podC node", "tcp53/external tcp", "podA as node"},
			{"address shared by two services, UDP", "client podC node", "udp53/external udp", "podB as node"},
			{"no endpoints", "client podC podY node", "empty/external", "refused"},
			{"port that the service has not", "client podC node", "web/external:81", "unserved"},
			{"address of no service", "client podC node", "203.0.113.250:80", "unserved"},
			{"cluster IP", "podC", "web", "podA podB podX"},
		}},
		{addrs: "172.31.0.111", packets: []packet{
			{"address that the node has", "client podC remote", "held/external", "podA podX as node"},
			{"node to itself", "node", "held/external", "podA podX as node"},
		}},
	}},

	{name: "no-external-ips", dir: "external-ip", flags: append([]string{"--feature-gates", "AllowServiceExternalIPs=false"}, clusterCIDR...), steps: []step{{packets: []packet{
		{"external IP", "client podC node", "web/external", "unserved"},
		{"external IP without endpoints", "client podC node", "empty/external", "unserved"},
		{"cluster IP", "podC", "web", "podA podB podX"},
	}}}},

	{name: "load-balancer", flags: clusterCIDR, steps: []step{
		{packets: []packet{
			{"client", "client", "web/lb", "podA podB podX as node"},
			{"pod on the node", "podC", "web/lb", "podA podB podX as node"},
			{"node itself", "node", "web/lb", "podA podB podX as node"},
			{"another node", "remote", "web/lb", "podA podB podX as node"},
			{"second address", "client podC node", "web/lb2", "podA podB podX as node"},
			{"ipMode Proxy is left to the balancer", "client podC node", "203.0.113.24:80", "unserved"},
			{"without a node port", "client podC", "node:80", "unserved"},
			{"with a node port", "client podC", "ported/node", "podA as node"},
			{"no endpoints", "client podC node", "empty/lb", "refused"},
			{"port that the service has not", "client podC node", "web/lb:81", "unserved"},
			{"within the source ranges", "client", "ranges/lb", "podA podX as node"},
			{"outside of the source ranges", "client2 podC podY node remote", "ranges/lb", "dropped"},
			{"source ranges and the node port", "client2 podC", "ranges/node", "podA podX as node"},
			{"source ranges and the external IP", "client2 podC", "ranges/external", "podA podX as node"},
			{"source ranges and the cluster IP", "client2", "ranges", "podA podX as node"},
			{"range in one family, IPv4", "client", "range4/lb v4", "podA podX as node"},
			{"range in one family, outside of it", "client2", "range4/lb v4", "dropped"},
			{"range in one family leaves the other open", "client client2", "range4/lb v6", "podA podX as node"},
			{"range of everybody", "client client2 podC node", "open/lb", "podA podX as node"},
			{"source ranges and externalTrafficPolicy Local", "client", "preserving/lb", "podA"},
			{"source ranges and externalTrafficPolicy Local, outside", "client2 podC node", "preserving/lb", "dropped"},
		}},
		{addrs: "203.0.113.30 203.0.113.26", packets: []packet{
			{"balancer's address as a source of the node", "node@203.0.113.30", "nodes/lb", "podA podX as node"},
			{"balancer's address where the ranges have no node", "node@203.0.113.26", "ranges/lb", "dropped"},
			{"node in the ranges", "node@172.31.0.11", "nodes/lb", "podA podX as node"},
			{"client outside of the node's range", "client", "nodes/lb", "dropped"},
		}},
		{over: "changed", packets: []packet{
			{"ranges that have changed let in", "client2", "ranges/lb", "podA podX as node"},
			{"ranges that have changed shut out", "client", "ranges/lb", "dropped"},
			{"ipMode that became VIP", "client podC", "203.0.113.24:80", "podA podB podX as node"},
			{"ipMode that became Proxy", "client podC", "203.0.113.20:80", "unserved"},
			{"ingress that is gone", "client podC", "203.0.113.21:80", "unserved"},
		}},
		{over: "lifted", packets: []packet{
			{"ranges that are gone", "client client2 podC node", "ranges/lb", "podA podX as node"},
		}},
	}},

	{name: "external-local", flags: clusterCIDR, steps: []step{
		{packets: []packet{
			{"client keeps its source, node port", "client client2 remote", "both/node", "podA"},
			{"client keeps its source, external IP", "client client2 remote", "both/external", "podA"},
			{"client keeps its source, load balancer", "client client2 remote", "both/lb", "podA"},
			{"pod reaches all, node port", "podC", "both/node", "podA podX"},
			{"pod reaches all, external IP", "podC", "both/external", "podA podX"},
			{"pod reaches all, load balancer", "podC", "both/lb", "podA podX"},
			{"pod that is an endpoint", "podA", "both/node", "podA as node, podX"},
			{"pod on another node", "podY", "near/node", "podA podB"},
			{"node reaches all, node port", "node", "both/node", "podA podX as node"},
			{"node reaches all, external IP", "node", "both/external", "podA podX as node"},
			{"node reaches all, load balancer", "node", "both/lb", "podA podX as node"},
			{"no local endpoint, node port", "client remote", "away/node", "dropped"},
			{"no local endpoint, external IP", "client remote", "away/external", "dropped"},
			{"no local endpoint, load balancer", "client remote", "away/lb", "dropped"},
			{"no local endpoint, pod", "podC", "away/node", "podX"},
			{"no local endpoint, pod to the load balancer", "podC", "away/lb", "podX"},
			{"no local endpoint, node", "node", "away/node", "podX as node"},
			{"no local endpoint, node to the load balancer", "node", "away/lb", "podX as node"},
			{"no endpoint anywhere, node port", "client remote podC node", "empty/node", "refused"},
			{"no endpoint anywhere, external IP", "client remote podC node", "empty/external", "refused"},
			{"no endpoint anywhere, load balancer", "client remote podC node", "empty/lb", "refused"},
			{"process on the node", "client remote", "host/node", "node"},
			{"cluster IP is not concerned", "client", "both", "podA podX as node"},
			{"cluster IP is not concerned, pod", "podC", "both", "podA podX"},
		}},
		{over: "cluster", packets: []packet{
			{"policy became Cluster", "client podC node", "both/node", "podA podX as node"},
			{"policy became Cluster, load balancer", "client podC node", "both/lb", "podA podX as node"},
		}},
		{over: "came", packets: []packet{
			{"local endpoint came", "client", "away/node", "podB"},
			{"local endpoint came, load balancer", "client", "away/lb", "podB"},
			{"local endpoint went", "client", "both/node", "dropped"},
			{"local endpoint went, pod", "podC", "both/node", "podX"},
		}},
	}},

	{name: "internal-local", flags: clusterCIDR, steps: []step{
		{packets: []packet{
			{"pod", "podC", "both", "podA"},
			{"pod that is the endpoint", "podA", "both", "podA as node"},
			{"node itself", "node", "both", "podA"},
			{"client", "client", "both", "podA as node"},
			{"no local endpoint", "podC podA node client", "away", "dropped"},
			{"no endpoint anywhere", "podC node client", "empty", "refused"},
			{"node port is not concerned", "client podC node", "both/node", "podA podX as node"},
			{"node port without a local endpoint", "client podC node", "away/node", "podX as node"},
			{"both policies Local, cluster IP", "podC", "strict", "podA"},
			{"both policies Local, node port", "client", "strict/node", "podA"},
			{"both policies Local, pod to the node port", "podC", "strict/node", "podA podX"},
		}},
		{over: "cluster", packets: []packet{
			{"policy became Cluster", "podC", "both", "podA podX"},
			{"local endpoint came", "podC", "away", "podB"},
		}},
	}},

	{name: "terminating", flags: clusterCIDR, steps: []step{
		{packets: []packet{
			{"ready ones are preferred", "podC", "somewhere", "podA podX"},
			{"none ready, terminating ones that serve", "podC", "nowhere", "podA podX"},
			{"none ready, terminating ones that serve, client", "client", "nowhere", "podA podX as node"},
			{"terminating ones that do not serve", "podC client", "gone", "refused"},
			{"neither ready nor terminating", "podC", "unready", "podA"},
			{"serving alone is not ready", "podC client", "warming", "refused"},
			{"conditions that are not set", "podC", "unset", "podA podB podX"},
			{"published though not ready", "podC", "published", "podA podX"},
			{"Local, the only local one terminates", "client", "here/node", "podA"},
			{"Local, the only local one terminates, pod", "podC", "here/node", "podX"},
			{"Local, the only local one does not serve", "client", "heredying/node", "dropped"},
			{"Local, the only local one does not serve, pod", "podC", "heredying/node", "podX"},
			{"Local, one is ready", "client", "hereready/node", "podA"},
			{"Local, all terminate", "client", "everywhere/node", "podA"},
			{"Local, all terminate, pod", "podC", "everywhere/node", "podA podX"},
			{"internal Local, the only local one terminates", "podC", "inside", "podA"},
			{"internal Local, the only local one does not serve", "podC", "insidedying", "dropped"},
		}},
		{over: "later", packets: []packet{
			{"the last ready one began to terminate", "podC", "somewhere", "podB podX"},
			{"one became ready", "podC", "nowhere", "podB"},
			{"Local, the ready one is gone", "client", "hereready/node", "podB"},
		}},
	}},

	{name: "topology", flags: clusterCIDR, steps: []step{
		{packets: []packet{
			{"zone", "podC node", "zone", "podA podX"},
			{"one without a hint", "podC", "unhinted", "podA podB"},
			{"none for this zone", "podC", "elsewhere", "podA podX"},
			{"node before zone", "podC", "nodes", "podA"},
			{"none for this node", "podC", "othernode", "podA"},
			{"one without a hint of a node", "podC", "somenodes", "podX"},
			{"hints of two zones", "podC", "twozones", "podA"},
			{"one that is not ready has no say", "podC", "unready", "podA"},
			{"externalTrafficPolicy Local has no use for hints", "client", "here/node", "podA"},
			{"externalTrafficPolicy Local, pod", "podC", "here/node", "podX"},
			{"internalTrafficPolicy Local has no use for hints", "podC", "inside", "podA"},
			{"none ready, hints do not count", "podC", "leaving", "podA podX"},
			{"node port", "client", "outside/node", "podB podX as node"},
			{"external IP", "client", "outside/external", "podB podX as node"},
		}},
		{over: "zone-b", packets: []packet{
			{"zone", "podC node", "zone", "podB"},
			{"now for this zone", "podC", "elsewhere", "podA"},
			{"node before zone", "podC", "nodes", "podA"},
			{"none for this node", "podC", "othernode", "podB"},
			{"hints of two zones", "podC", "twozones", "podA podB"},
			{"node port", "client", "outside/node", "podA as node"},
		}},
		{over: "no-zone", packets: []packet{
			{"zone", "podC", "zone", "podA podB podX"},
			{"node", "podC", "nodes", "podA"},
			{"none for this node", "podC", "othernode", "podA podB"},
		}},
		{over: "hints", packets: []packet{
			{"hints that have changed", "podC", "zone", "podX"},
			{"a node's hint that is gone", "podC", "nodes", "podA podX"},
		}},
	}},

	{name: "affinity", flags: clusterCIDR, steps: []step{
		{packets: []packet{
			{"cluster IP", "podC node", "sticky", "one of podA podB podX"},
			{"cluster IP, client", "client", "sticky", "one of podA podB podX as node"},
			{"node port", "client podC node", "sticky/node", "one of podA podB podX as node"},
			{"external IP", "client podC node", "sticky/external", "one of podA podB podX as node"},
			{"load balancer", "client podC node", "sticky/lb", "one of podA podB podX as node"},
			{"externalTrafficPolicy Local", "client", "local/node", "one of podA podB"},
			{"externalTrafficPolicy Local, cluster IP", "podC", "local", "one of podA podB podX"},
			{"the longest timeout", "podC", "capital", "one of podA podB podX"},
			{"without affinity", "podC", "plain", "podA podB podX"},
			{"no endpoints", "podC", "empty", "refused"},
		}},
	}},

	{name: "skip", flags: clusterCIDR, steps: []step{
		{packets: []packet{
			{"headless", "client podC node", "headless/external", "unserved"},
			{"ExternalName", "client podC node", "name/external", "unserved"},
			{"another proxy's, cluster IP", "podC node client", "foreign", "dropped"},
			{"another proxy's, external IP", "client podC node", "foreign/external", "unserved"},
			{"another proxy's, load balancer", "client podC node", "foreign/lb", "unserved"},
			{"another proxy's, node port", "client podC node", "foreign/node", "unserved"},
			{"slices for headless use", "podC", "ours", "refused"},
			{"slices for headless use and others", "podC", "partly", "podB"},
			{"ordinary", "podC", "web", "podA"},
		}},
		{over: "changed", packets: []packet{
			{"another proxy's became ours", "podC", "foreign", "podA"},
			{"another proxy's became ours, outside", "client podC node", "foreign/external", "podA as node"},
			{"another proxy's became ours, node port", "client podC node", "foreign/node", "podA as node"},
			{"ours became another proxy's", "podC node client", "web", "dropped"},
			{"slices became ordinary", "podC", "ours", "podA"},
			{"ExternalName became ClusterIP", "podC", "name", "podA"},
			{"ExternalName became ClusterIP, outside", "client", "name/external", "podA as node"},
			{"headless became ClusterIP", "podC", "headless", "podA"},
			{"headless became ClusterIP, outside", "client", "headless/external", "podA as node"},
		}},
	}},

	{name: "service-cidr", flags: clusterCIDR, steps: []step{
		{packets: []packet{
			{"service in the range", "podC", "web", "podA"},
			{"service outside of the range", "podC", "outside", "podA"},
			{"port that the service outside has not", "podC node", "outside:81", "refused"},
			{"address of no service in the range", "podC node client", "10.96.0.250:80", "dropped"},
			{"address of no service outside", "podC node", "10.97.0.250:80", "unserved"},
		}},
		{over: "second", packets: []packet{
			{"first range", "podC node client", "10.96.0.250:80", "dropped"},
			{"second range", "podC node", "10.97.0.250:80", "dropped"},
			{"service in the first", "podC", "web", "podA"},
			{"service in the second", "podC", "outside", "podA"},
		}},
		{over: "moved", packets: []packet{
			{"range of before", "podC node client", "10.96.0.250:80", "unserved"},
			{"range of now", "podC node", "10.97.0.250:80", "dropped"},
			{"service in the range of before", "podC", "web", "podA"},
		}},
		{over: "none", packets: []packet{
			{"nobody knows the range", "podC node client", "10.96.0.250:80", "unserved"},
			{"service", "podC", "web", "podA"},
			{"port that the service has not", "podC node", "web:81", "refused"},
		}},
	}},

	{name: "service-cidr-flag", dir: "service-cidr", flags: append([]string{"--service-cidr", "10.97.0.0/24,fd00:10:97::/112"}, clusterCIDR...), steps: []step{
		{over: "none", packets: []packet{
			{"the flag's range", "podC node", "10.97.0.250:80", "dropped"},
			{"outside of it", "podC node", "10.96.0.250:80", "unserved"},
		}},
		{packets: []packet{
			{"an object counts before the flag", "podC node", "10.97.0.250:80", "unserved"},
			{"the object's range", "podC node", "10.96.0.250:80", "dropped"},
		}},
	}},

	{name: "conflicts", flags: clusterCIDR, logs: []string{"default/a-new", "default/tie-b", "default/external"}, steps: []step{
		{packets: []packet{
			{"the older one wins, external IP", "client podC node", "a-new/external", "podA as node"},
			{"the older one wins, node port", "client podC node", "a-new/node", "podA as node"},
			{"the loser's own cluster IP", "podC", "a-new", "podB"},
			{"of the same age, the first by name wins", "client podC", "tie-b/external", "podA as node"},
			{"load balancer and external IP", "client podC", "external/external", "podA as node"},
			{"a cluster IP as another's external IP", "podC", "squatted", "podA as node"},
		}},
		{over: "winners-go", packets: []packet{
			{"the loser takes over, external IP", "client podC node", "a-new/external", "podB as node"},
			{"the loser takes over, node port", "client podC node", "a-new/node", "podB as node"},
			{"the second by name takes over", "client podC", "tie-b/external", "podB as node"},
			{"external IP takes over from a load balancer", "client podC", "external/external", "podB as node"},
			{"the cluster IP is its owner's again", "podC", "squatted", "podB"},
		}},
		{over: "winners-let-go", packets: []packet{
			{"the winner gives up the external IP", "client podC node", "a-new/external", "podB as node"},
			{"the winner gives up the node port", "client podC node", "a-new/node", "podB as node"},
			{"the winner's cluster IP", "podC", "z-old", "podA"},
		}},
		{over: "older-comes", packets: []packet{
			{"a still older one takes over, external IP", "client podC node", "a-new/external", "podX as node"},
			{"a still older one takes over, node port", "client podC node", "a-new/node", "podX as node"},
		}},
	}},

	{name: "live", flags: clusterCIDR, steps: []step{
		{packets: []packet{
			{"at first", "podC", "web", "podA podB"},
			{"at first, node port", "client", "web/node", "podA podB as node"},
		}},
		{over: "endpoint-added", packets: []packet{
			{"cluster IP", "podC", "web", "podA podB podX"},
			{"node port", "client", "web/node", "podA podB podX as node"},
		}},
		{over: "endpoint-removed", packets: []packet{
			{"cluster IP", "podC", "web", "podB"},
			{"node port", "client", "web/node", "podB as node"},
		}},
		{over: "endpoint-replaced", packets: []packet{
			{"cluster IP", "podC", "web", "podX"},
			{"external IP", "client", "web/external", "podX as node"},
		}},
		{over: "scaled-up", packets: []packet{
			{"cluster IP", "podC", "web", "podA podB podX podY, podC as node"},
			{"external IP", "client", "web/external", "podA podB podC podX podY as node"},
		}},
		{over: "scaled-to-zero", packets: []packet{
			{"cluster IP", "podC node client", "web", "refused"},
			{"node port", "podC node client", "web/node", "refused"},
			{"external IP", "podC node client", "web/external", "refused"},
		}},
		{packets: []packet{
			{"back from zero", "podC", "web", "podA podB"},
		}},
		{over: "slices-gone", packets: []packet{
			{"cluster IP", "podC node client", "web", "refused"},
		}},
		{over: "service-removed", packets: []packet{
			{"cluster IP", "podC node client", "10.96.0.10:80", "dropped"},
			{"external IP", "podC node client", "203.0.113.90:80", "unserved"},
			{"node port", "podC node client", "node:30980", "unserved"},
			{"the other one", "podC", "other", "podA"},
		}},
		{over: "slices-alone", packets: []packet{
			{"cluster IP", "podC node client", "10.96.0.10:80", "dropped"},
			{"node port", "podC node client", "node:30980", "unserved"},
		}},
		{over: "service-added", packets: []packet{
			{"cluster IP", "podC", "added", "podB"},
			{"node port", "client", "added/node", "podB as node"},
		}},
		{over: "port-changed", packets: []packet{
			{"new port", "podC", "web:81", "podA:8081 podB:8081"},
			{"old port", "podC", "web:80", "refused"},
			{"new node port", "client", "web/node", "podA:8081 podB:8081 as node"},
			{"old node port", "client podC", "node:30980", "unserved"},
			{"old port of the external IP", "client podC", "web/external:80", "unserved"},
		}},
		{over: "address-changed", packets: []packet{
			{"new cluster IP", "podC", "web", "podA podB"},
			{"old cluster IP", "podC", "10.96.0.10:80", "dropped"},
			{"new external IP", "client", "web/external", "podA podB as node"},
			{"old external IP", "client podC", "203.0.113.90:80", "unserved"},
		}},
		{over: "target-changed", packets: []packet{
			{"cluster IP", "podC", "web", "podA:8081 podB:8081"},
			{"node port", "client", "web/node", "podA:8081 podB:8081 as node"},
		}},
		{over: "protocol-dropped", packets: []packet{
			{"what stays", "podC", "web tcp", "podA podB"},
			{"what goes", "podC", "web udp sctp", "refused"},
			{"what goes, node port", "podC client", "node:30980 udp sctp", "unserved"},
		}},
	}},

	{name: "odd", flags: clusterCIDR, logs: []string{"127.0.0.1"}, steps: []step{{packets: []packet{
		{"IPv4 with zeros in front", "podC", "10.96.0.10:80 v4", "podA"},
		{"the same endpoints in two slices", "podC", "twice", "podA podB"},
		{"slices that disagree", "podC", "disagree", "podA podB"},
		{"the first address of an endpoint", "podC", "first", "podA"},
		{"slice of names", "podC", "fqdn", "podA"},
		{"endpoint on a loopback address", "podC", "loopback", "podA"},
		{"defaults are filled in", "podC", "defaults v4 tcp", "podA"},
		{"IPv4 written as IPv6", "podC", "10.96.0.18:80 v4 tcp", "podA"},
		{"the longest names", "podC", "10.96.0.19:80 tcp", "podA"},
		{"slice of no service", "podC", "10.96.0.250:80", "dropped"},
	}}}},

	// How connections of pods are told from others, and what follows from it.
	{name: "several-cidrs", dir: "masquerade", flags: []string{"--cluster-cidr", "10.244.1.0/24,192.168.200.11/32,fd00:10:244:1::/64,fd00:c11e::11/128"}, steps: []step{{packets: []packet{
		{"first range", "podC", "web", "podA podB"},
		{"second range", "client2", "web", "podA podB"},
		{"neither", "client podY", "web", "podA podB as node"},
		{"hairpin", "podA", "self", "podA as node"},
		{"externalTrafficPolicy Local, a pod", "podC", "local/external", "podA podX"},
		{"externalTrafficPolicy Local, neither", "client podY", "local/external", "podA"},
	}}}},
	{name: "no-detection", dir: "masquerade", steps: []step{{packets: []packet{
		{"nobody is masqueraded", "podC podY client", "web", "podA podB"},
		{"hairpin", "podA", "self", "podA as node"},
		{"externalTrafficPolicy Local, everybody is a stranger", "podC client", "local/external", "podA"},
		{"externalTrafficPolicy Local, but the node", "node", "local/external", "podA podX as node"},
	}}}},
	{name: "masquerade-all", dir: "masquerade", flags: append([]string{"--masquerade-all"}, clusterCIDR...), steps: []step{{packets: []packet{
		{"everybody is masqueraded", "podC podY client node", "web", "podA podB as node"},
		{"everybody is masqueraded, to all nodes", "podC client node", "wide", "podA podX as node"},
		{"hairpin", "podA", "self", "podA as node"},
		{"externalTrafficPolicy Local keeps the source", "client", "local/external", "podA"},
		{"externalTrafficPolicy Local, pod", "podC", "local/external", "podA podX"},
	}}}},
	{name: "interface-prefix", dir: "masquerade", flags: []string{"--detect-local-mode", "InterfaceNamePrefix", "--pod-interface-name-prefix", "veth"}, steps: []step{{packets: []packet{
		{"pod on the node", "podC", "web", "podA podB"},
		{"others", "podY client", "web", "podA podB as node"},
		{"hairpin", "podA", "self", "podA as node"},
		{"node itself", "node", "web", "podA podB"},
		{"externalTrafficPolicy Local, pod", "podC", "local/external", "podA podX"},
		{"externalTrafficPolicy Local, others", "podY client", "local/external", "podA"},
	}}}},
	{name: "bridge-interface", dir: "masquerade", flags: []string{"--detect-local-mode", "BridgeInterface", "--pod-bridge-interface", "vethpodC"}, steps: []step{{packets: []packet{
		{"by the interface", "podC", "web", "podA podB"},
		{"by another one", "podY client", "web", "podA podB as node"},
		{"by another pod's", "podB", "self", "podA as node"},
		{"externalTrafficPolicy Local, by the interface", "podC", "local/external", "podA podX"},
		{"externalTrafficPolicy Local, by another one", "podB", "local/external", "podA"},
	}}}},
	{name: "node-cidr", dir: "masquerade", flags: []string{"--detect-local-mode", "NodeCIDR"}, steps: []step{
		{packets: []packet{
			{"pod on the node", "podC", "web", "podA podB"},
			{"others", "podY client", "web", "podA podB as node"},
		}},
		{over: "moved", packets: []packet{
			{"pod in the range of before", "podC", "web", "podA podB as node"},
			{"pod in the range of now", "podY", "web", "podA podB"},
			{"others", "client", "web", "podA podB as node"},
		}},
	}},

	// Which of the node's addresses serve node ports.
	{name: "primary-address", dir: "node-addresses", flags: clusterCIDR, steps: []step{
		{packets: []packet{
			{"primary", "client podC node", "web/node", "podA podX as node"},
		}},
		{addrs: "172.31.0.111", packets: []packet{
			{"primary", "client podC node", "web/node", "podA podX as node"},
			{"secondary", "client podC node", "172.31.0.111:30080", "unserved"},
		}},
		{over: "other-primary", addrs: "172.31.0.111", packets: []packet{
			{"primary of before", "client podC node", "172.31.0.11:30080", "unserved"},
			{"primary of now", "client podC node", "172.31.0.111:30080", "podA podX as node"},
		}},
		{over: "no-node", packets: []packet{
			{"address of the default route", "client podC node", "web/node", "podA podX as node"},
		}},
	}},
	{name: "address-ranges", dir: "node-addresses", flags: append([]string{"--nodeport-addresses", "172.31.0.96/27,fd00:31::100/120"}, clusterCIDR...), steps: []step{
		{packets: []packet{
			{"primary is outside", "client podC node", "web/node", "unserved"},
		}},
		{addrs: "172.31.0.111", packets: []packet{
			{"an address came", "client podC node", "172.31.0.111:30080", "podA podX as node"},
			{"primary is outside", "client podC node", "web/node", "unserved"},
		}},
		{addrs: "172.31.0.112", packets: []packet{
			{"another one came", "client podC node", "172.31.0.112:30080", "podA podX as node"},
			{"the first one went", "podC node", "172.31.0.111:30080", "unserved"},
		}},
	}},
	{name: "all-addresses", dir: "node-addresses", flags: append([]string{"--nodeport-addresses", "0.0.0.0/0,::/0"}, clusterCIDR...), steps: []step{
		{packets: []packet{
			{"primary", "client podC node", "web/node", "podA podX as node"},
			{"loopback", "node", "127.0.0.1:30080", "unserved"},
		}},
		{addrs: "172.31.0.111 203.0.113.100", packets: []packet{
			{"primary", "client podC node", "web/node", "podA podX as node"},
			{"an address came", "client podC node", "172.31.0.111:30080", "podA podX as node"},
			{"an address of another network", "client podC node", "203.0.113.100:30080", "podA podX as node"},
		}},
	}},
}
