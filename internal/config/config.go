package config

import (
	"net/netip"
	"time"

	logsapi "k8s.io/component-base/logs/api/v1"
)

// Config is everything that `weir run` needs to know. It is not changed once made.
type Config struct {
	File string // what it was read from; "" if flags alone

	Source Source

	NodeName string // lower case, no blanks around
	// NodeIPs are to be taken for this node's own addresses, whatever its Node object says: at most
	// one in each family, the primary one first. Nil: ask the Node object.
	NodeIPs           []netip.Addr
	NodePortAddresses NodePortAddresses

	LocalDetection LocalDetection
	MasqueradeAll  bool // masquerade whatever goes to a cluster IP

	// MinSyncPeriod is a ceiling on the rate of syncs: the least time between the beginnings of
	// two. 0: sync whenever something has changed.
	MinSyncPeriod time.Duration
	// SyncPeriod is how long to wait before something that failed is tried again. Health fails
	// when a change has waited for twice as long.
	SyncPeriod time.Duration

	HealthzAddress      netip.AddrPort // of /healthz and /livez; the zero value: do not serve them
	MetricsAddress      netip.AddrPort // of /metrics; the zero value: do not serve them
	WebAddress          netip.AddrPort // of the page that shows what we do; the zero value: do not serve it
	BindAddressHardFail bool           // exit if one of them cannot be bound
	Profiling           bool           // /debug/pprof at MetricsAddress
	Socket              string         // path of the control socket; "": none

	Conntrack   Conntrack
	SysctlDir   string // where /proc/sys is; "": there
	OOMScoreAdj int    // of this process, -1000 to 1000

	// FeatureGates are those that were set and have an effect here. Ask Enabled.
	FeatureGates map[string]bool
	Logging      logsapi.LoggingConfiguration

	// ServiceMetrics is how many services have a metric of their connections. 0: none are counted.
	ServiceMetrics int

	ResetStaleTCP    bool // reset TCP connections to endpoints that are gone
	ReplaceKubeProxy bool // remove kube-proxy's rules after the first sync

	DNS DNS

	// What to do instead of running, in this order of precedence.
	ShowVersion   bool
	WriteConfigTo string // write the configuration to this file and exit; "": do not
	Cleanup       bool   // remove our tables and exit
	InitOnly      bool   // do what needs full privileges (sysctls) and exit
}

// DefaultSocket is where the control socket is unless it is told otherwise.
const DefaultSocket = "/run/weir/weir.sock"

// Source is where Services and endpoints come from: a directory if Manifests is set, otherwise an
// API server.
type Source struct {
	Manifests    string         // directory of YAML and JSON files
	ServiceCIDRs []netip.Prefix // with Manifests, where there is no ServiceCIDR object

	Kubeconfig         string // path; "": the service account of the pod that we are
	Master             string // the API server's address, in place of the kubeconfig's; "": as it says
	QPS                float32
	Burst              int
	ContentType        string
	AcceptContentTypes string        // "": the client's choice
	Resync             time.Duration // how often objects are handed to us anew (configSyncPeriod)
}

// NodePortAddresses says at which of the node's addresses node ports are served. An address is if
// either says so. Loopback addresses never are.
type NodePortAddresses struct {
	Primary bool           // the primary address of each family
	CIDRs   []netip.Prefix // 0.0.0.0/0 and ::/0 stand for all addresses of their family
}

// allAddresses are the CIDRs of NodePortAddresses that stand for every address.
var allAddresses = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}

// DetectMode is a way of telling connections that pods begin.
type DetectMode string

const (
	DetectNone                DetectMode = "None"
	DetectClusterCIDR         DetectMode = "ClusterCIDR"
	DetectNodeCIDR            DetectMode = "NodeCIDR" // podCIDRs of this machine's Node
	DetectBridgeInterface     DetectMode = "BridgeInterface"
	DetectInterfaceNamePrefix DetectMode = "InterfaceNamePrefix"
)

// LocalDetection is a mode and its parameters. Those of other modes have their zero values.
type LocalDetection struct {
	Mode                DetectMode
	ClusterCIDRs        []netip.Prefix // any number in either family, at least one
	BridgeInterface     string
	InterfaceNamePrefix string
}

// Conntrack is how the kernel's connection tracking is to be set up.
type Conntrack struct {
	MaxPerCore int // connections per CPU; 0: leave the limit alone, whatever Min says
	Min        int // the limit is at least this
	// How long an entry lives without a packet. 0: leave as it is.
	TCPEstablishedTimeout time.Duration
	TCPCloseWaitTimeout   time.Duration
	UDPTimeout            time.Duration // no answer seen yet
	UDPStreamTimeout      time.Duration
	TCPBeLiberal          bool // false: leave as it is
}

// Warning is one thing that the operator should know although we go on.
type Warning string
