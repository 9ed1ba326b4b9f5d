package api

import (
	"net/netip"
	"time"
)

// Version is the apiVersion of every object here.
const Version = "weir.inspect/v1"

// Meta begins every object.
type Meta struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
}

// Seconds is a duration in seconds.
type Seconds float64

// SecondsOf returns d in seconds.
func SecondsOf(d time.Duration) Seconds { return Seconds(d.Seconds()) }

// Duration is the reverse of SecondsOf.
func (s Seconds) Duration() time.Duration { return time.Duration(float64(s) * float64(time.Second)) }

// Error is the answer to a request that failed.
type Error struct {
	Meta
	Message string `json:"message"`
}

// Build says which program this is.
type Build struct {
	Version   string `json:"version"`          // git describe
	Commit    string `json:"commit,omitempty"` // of git
	Time      string `json:"time,omitempty"`   // of the commit
	Modified  bool   `json:"modified,omitempty"`
	GoVersion string `json:"goVersion"`
	Platform  string `json:"platform"` // GOOS/GOARCH
}

// VersionInfo is what weir version tells.
type VersionInfo struct {
	Meta
	Build
}

// Status is what weir status tells.
type Status struct {
	Meta
	Healthy bool `json:"healthy"`
	// Reasons say why it is not healthy, and Warnings what else somebody should look at.
	Reasons  []string `json:"reasons,omitempty"`
	Warnings []string `json:"warnings,omitempty"`

	Weir    Build     `json:"weir"`
	Node    string    `json:"node"`
	Zone    string    `json:"zone,omitempty"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`

	Source    Source     `json:"source"`
	Syncs     Syncs      `json:"syncs"`
	Sizes     Sizes      `json:"sizes"`
	Kernel    Kernel     `json:"kernel"`
	Memory    Memory     `json:"memory"`
	SetAside  []SetAside `json:"setAside,omitempty"`
	Conflicts []Conflict `json:"conflicts,omitempty"`
	DNS       *DNS       `json:"dns,omitempty"` // absent: not switched on
}

// Source is where Services come from.
type Source struct {
	From     string `json:"from"` // the API server's address, or a directory of manifests
	Synced   bool   `json:"synced"`
	Revision uint64 `json:"revision"` // events so far that changed something
}

// Syncs tell how changes come into the kernel.
type Syncs struct {
	Count  uint64 `json:"count"`  // since the start
	Failed uint64 `json:"failed"` // of them
	// WaitingSince is when the oldest change came that is not in the kernel yet; absent: there is none.
	WaitingSince time.Time `json:"waitingSince,omitzero"`
	Last         *Event    `json:"last,omitempty"`
	LastSuccess  time.Time `json:"lastSuccess,omitzero"` // its end
	// Duration is how long recent syncs took, Delay the time from a change being seen until the kernel
	// had it.
	Duration Latency `json:"duration"`
	Delay    Latency `json:"delay"`
}

// Latency sums up recent measurements.
type Latency struct {
	Count int     `json:"count"` // measurements
	P50   Seconds `json:"p50"`
	P99   Seconds `json:"p99"`
	Max   Seconds `json:"max"`
}

// Sizes counts what there is.
type Sizes struct {
	Services  int `json:"services"`
	Slices    int `json:"endpointSlices"`
	Endpoints int `json:"endpoints"` // of all slices
	Frontends int `json:"frontends"` // in the kernel
	Slots     int `json:"slots"`     // in the kernel: endpoints, once for each frontend
}

// Kernel is about the nftables tables.
type Kernel struct {
	Families     []string `json:"families"` // ip, ip6
	Owned        bool     `json:"owned"`    // the kernel protects the tables from other writers
	Transactions uint64   `json:"transactions"`
	Refused      uint64   `json:"refused"` // transactions
	Rebuilt      uint64   `json:"rebuilt"` // tables that somebody had removed
}

// Memory is what the process uses, in bytes.
type Memory struct {
	Resident uint64 `json:"resident,omitempty"`
	Heap     uint64 `json:"heap"`
}

// SetAside is a Service that the kernel refused and that is kept out of it.
type SetAside struct {
	Service string    `json:"service"` // namespace/name; "" is the service CIDRs
	Reason  string    `json:"reason"`
	Since   time.Time `json:"since"`
	Retry   time.Time `json:"retry"` // if it does not change before
}

// Conflict is a frontend that several Services claim.
type Conflict struct {
	Frontend Frontend `json:"frontend"`
	Winner   string   `json:"winner"` // namespace/name
	Losers   []string `json:"losers"`
}

// Frontend is what a client dials.
type Frontend struct {
	Address  netip.Addr `json:"address"`
	Port     uint16     `json:"port"`
	Protocol string     `json:"protocol"` // TCP, UDP, SCTP
}

// DNS is about the cluster's names.
type DNS struct {
	Addresses []netip.Addr `json:"addresses"` // at which it answers
	Serving   bool         `json:"serving"`
	Alive     bool         `json:"alive"` // the lease in the kernel that sends queries to this node's server
	Domain    string       `json:"domain"`
	Reason    string       `json:"reason,omitempty"` // why it does not serve
}

// ServiceList is what weir services tells.
type ServiceList struct {
	Meta
	Items []Service `json:"items"`
}

// Service is one Service as Weir has it.
type Service struct {
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	Created   time.Time `json:"created,omitzero"`

	// NotProxied says why nothing is done for it: Headless, ExternalName, OtherProxy; "" if it is.
	NotProxied   string `json:"notProxied,omitempty"`
	ExternalName string `json:"externalName,omitempty"`

	InternalTrafficPolicy string  `json:"internalTrafficPolicy"`        // Cluster or Local
	ExternalTrafficPolicy string  `json:"externalTrafficPolicy"`        // Cluster or Local
	SessionAffinity       string  `json:"sessionAffinity"`              // None or ClientIP
	AffinityTimeout       Seconds `json:"affinityTimeout,omitempty"`    // with ClientIP
	HealthCheckPort       uint16  `json:"healthCheckNodePort,omitzero"` // 0: none

	SetAside *SetAside     `json:"setAside,omitempty"`
	Ports    []ServicePort `json:"ports,omitempty"`
}

// ServicePort is one port of a Service in one family.
type ServicePort struct {
	Name     string `json:"name,omitempty"`
	Protocol string `json:"protocol"`
	Port     uint16 `json:"port"`
	NodePort uint16 `json:"nodePort,omitzero"`
	Family   string `json:"family"` // IPv4 or IPv6
	// NoFamily says that this node has no such family: nothing of the port is in the kernel.
	NoFamily bool `json:"noFamily,omitempty"`
	// Topology is how hints narrow the policy Cluster: Anywhere, SameZone, SameNode.
	Topology string `json:"topology"`
	// Terminating says that no endpoint is ready, so that those which still serve stand in.
	Terminating bool `json:"terminating,omitempty"`

	Ready     int               `json:"ready"` // endpoints
	Total     int               `json:"total"`
	Frontends []ServiceFrontend `json:"frontends,omitempty"`
	Endpoints []Endpoint        `json:"endpoints,omitempty"` // absent from lists, unless asked for
}

// ServiceFrontend is a frontend of a service port, and what the kernel does with it.
type ServiceFrontend struct {
	Kind    string     `json:"kind"` // ClusterIP, ExternalIP, LoadBalancerIP, NodePort
	Address netip.Addr `json:"address"`
	Port    uint16     `json:"port"`
	// TakenBy is the older Service that has it; then the rest is absent.
	TakenBy string `json:"takenBy,omitempty"`
	// Verdict is the chain that new connections go to, refuse or drop, and Class the number that slots
	// are drawn below. LocalVerdict and LocalClass hold for clients from outside the cluster, with
	// externalTrafficPolicy Local.
	Verdict      string `json:"verdict,omitempty"`
	Class        int    `json:"class,omitempty"`
	LocalVerdict string `json:"localVerdict,omitempty"`
	LocalClass   int    `json:"localClass,omitempty"`
	// Policy is the one by which the endpoints of Verdict are chosen: Cluster or Local.
	Policy string `json:"policy,omitempty"`
	// Masquerade says whose connections are masqueraded besides hairpins: Always, Node (the node's own),
	// OffCluster (whoever is no pod).
	Masquerade   string         `json:"masquerade,omitempty"`
	SourceRanges []netip.Prefix `json:"sourceRanges,omitempty"`
}

// Endpoint is an endpoint of a service port.
type Endpoint struct {
	Address     netip.Addr `json:"address"`
	Port        uint16     `json:"port"`
	Node        string     `json:"node,omitempty"`
	Zone        string     `json:"zone,omitempty"`
	OnNode      bool       `json:"onNode,omitempty"` // on this node
	Ready       bool       `json:"ready"`
	Serving     bool       `json:"serving"`
	Terminating bool       `json:"terminating,omitempty"`
	ZoneHints   []string   `json:"zoneHints,omitempty"`
	NodeHints   []string   `json:"nodeHints,omitempty"`
	// Slot is its place among those that the policy Cluster leaves, LocalSlot among those that Local
	// does; absent: it gets no connections that way.
	Slot      *uint32 `json:"slot,omitempty"`
	LocalSlot *uint32 `json:"localSlot,omitempty"`
}

// EventList is what weir events tells.
type EventList struct {
	Meta
	Items []Event `json:"items"`
}

// Event is one sync: what came into the kernel, when, and how long that took.
type Event struct {
	ID       uint64    `json:"id"` // ascending by one, since the start
	Time     time.Time `json:"time"`
	Duration Seconds   `json:"duration"`
	// Delay is from the earliest change in it being seen until the kernel had it; absent: nothing that
	// the API said.
	Delay        Seconds         `json:"delay,omitempty"`
	Full         bool            `json:"full,omitempty"` // everything was written
	Error        string          `json:"error,omitempty"`
	Revision     uint64          `json:"revision"`
	Operations   int             `json:"operations"` // elements added and deleted
	Transactions int             `json:"transactions"`
	Services     int             `json:"services"`          // that it was about
	Changes      []ServiceChange `json:"changes,omitempty"` // of the first 32 of them
}

// ServiceChange says what became of one Service.
type ServiceChange struct {
	Service   string `json:"service"`           // namespace/name
	Action    string `json:"action"`            // Added, Removed or Changed
	Added     int    `json:"added,omitempty"`   // endpoints
	Removed   int    `json:"removed,omitempty"` // endpoints
	Endpoints int    `json:"endpoints"`         // that it has now
}

// Trace is what weir trace tells: what would become of a new connection.
type Trace struct {
	Meta
	From TraceFrom `json:"from"`
	// Name and Answer are there if the destination was a name.
	Name   string     `json:"name,omitempty"`
	Answer *DNSAnswer `json:"answer,omitempty"`
	To     Frontend   `json:"to"`

	// Outcome is translated, refused, dropped, untracked (this node's own DNS answers) or unserved: then
	// Weir does nothing about it.
	Outcome string `json:"outcome"`
	// Service and Kind are of the frontend, if there is one.
	Service string   `json:"service,omitempty"`
	Kind    string   `json:"kind,omitempty"`
	Why     []string `json:"why"`
	// Affinity says that the one endpoint is where the client was sent before.
	Affinity  bool            `json:"affinity,omitempty"`
	Endpoints []TraceEndpoint `json:"endpoints,omitempty"`
	// Steps are the rules that the connection's first packet is asked about, in order. Those after
	// routing are for the first of Endpoints.
	Steps []TraceStep `json:"steps"`
}

// TraceFrom is who begins the connection.
type TraceFrom struct {
	Address netip.Addr `json:"address"`
	// Kind is node (the node itself), pod (by the configured detection), or outside.
	Kind      string `json:"kind"`
	Interface string `json:"interface,omitempty"` // by which its packets come in
}

// DNSAnswer is what this node answers to a name.
type DNSAnswer struct {
	Name      string       `json:"name"` // in full
	Rcode     string       `json:"rcode"`
	Addresses []netip.Addr `json:"addresses,omitempty"`
	Alias     string       `json:"alias,omitempty"` // of an ExternalName Service
}

// TraceEndpoint is an endpoint that the connection may get.
type TraceEndpoint struct {
	Address netip.Addr `json:"address"`
	Port    uint16     `json:"port"`
	Node    string     `json:"node,omitempty"`
	Zone    string     `json:"zone,omitempty"`
	// Share is the exact fraction of connections like this one, Percent the same, rounded.
	Share   string  `json:"share"`
	Percent float64 `json:"percent"`
	// Masqueraded says that the endpoint sees Source instead of the sender's own address.
	Masqueraded bool       `json:"masqueraded"`
	Source      netip.Addr `json:"source"`
}

// TraceStep is a rule.
type TraceStep struct {
	Chain  string `json:"chain"`
	Asked  string `json:"asked,omitempty"`
	Result string `json:"result"`
}

// Verification is what weir verify tells.
type Verification struct {
	Meta
	// Fine says that the kernel holds what it should; after a repair, that it does now.
	Fine bool `json:"fine"`
	// Complete says that the kernel's maps did not change while they were read. If they did, something
	// unexpected in them may have been overlooked; what is missing never is.
	Complete bool    `json:"complete"`
	Elements int     `json:"elements"` // read from the kernel
	Duration Seconds `json:"duration"`
	// Differences that were found, the first 1,000 of Count. After a repair, Remaining are those that
	// are still there.
	Differences []Difference `json:"differences,omitempty"`
	Count       int          `json:"count"`
	Repaired    bool         `json:"repaired,omitempty"` // everything was written anew
	Remaining   []Difference `json:"remaining,omitempty"`
}

// Difference is something in the kernel that is not as it should be.
type Difference struct {
	Kind    string `json:"kind"`              // Missing, Unexpected, Changed, or Rules
	Set     string `json:"set,omitempty"`     // of the element
	Element string `json:"element,omitempty"` // in nft's words, as it should be or, if unexpected, as it is
	Found   string `json:"found,omitempty"`   // what is there instead; of Rules, what is wrong
	Service string `json:"service,omitempty"` // whose frontend it is
}

// ConnectionList is what weir connections tells.
type ConnectionList struct {
	Meta
	Items []FrontendConnections `json:"items"`
}

// FrontendConnections counts the connections of one frontend that conntrack knows.
type FrontendConnections struct {
	Service   string                `json:"service"`
	Frontend  Frontend              `json:"frontend"`
	Live      int                   `json:"live"`
	Closing   int                   `json:"closing"` // TCP connections that are over
	Endpoints []EndpointConnections `json:"endpoints"`
}

// EndpointConnections are those of them that go to one endpoint.
type EndpointConnections struct {
	Address netip.Addr `json:"address"`
	Port    uint16     `json:"port"`
	Live    int        `json:"live"`
	Closing int        `json:"closing"`
	// Gone says that the frontend does not send new connections there any more.
	Gone bool `json:"gone,omitempty"`
}
