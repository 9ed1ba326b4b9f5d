package config

import (
	"github.com/spf13/pflag"
	cliflag "k8s.io/component-base/cli/flag"
	logsapi "k8s.io/component-base/logs/api/v1"
	_ "k8s.io/component-base/logs/json/register" // --logging-format=json
	"k8s.io/kube-proxy/config/v1alpha1"
)

// flagOf says which flag of kube-proxy stands for a field of its file.
var flagOf = map[string]string{
	"featureGates":                    "feature-gates",
	"clientConnection.kubeconfig":     "kubeconfig",
	"clientConnection.contentType":    "kube-api-content-type",
	"clientConnection.qps":            "kube-api-qps",
	"clientConnection.burst":          "kube-api-burst",
	"hostnameOverride":                "hostname-override",
	"bindAddress":                     "bind-address",
	"healthzBindAddress":              "healthz-bind-address",
	"metricsBindAddress":              "metrics-bind-address",
	"bindAddressHardFail":             "bind-address-hard-fail",
	"enableProfiling":                 "profiling",
	"showHiddenMetricsForVersion":     "show-hidden-metrics-for-version",
	"mode":                            "proxy-mode",
	"iptables.masqueradeBit":          "iptables-masquerade-bit",
	"iptables.masqueradeAll":          "masquerade-all",
	"iptables.localhostNodePorts":     "iptables-localhost-nodeports",
	"iptables.syncPeriod":             "iptables-sync-period",
	"iptables.minSyncPeriod":          "iptables-min-sync-period",
	"nftables.masqueradeAll":          "masquerade-all",
	"nftables.syncPeriod":             "iptables-sync-period",
	"nftables.minSyncPeriod":          "iptables-min-sync-period",
	"ipvs.syncPeriod":                 "ipvs-sync-period",
	"ipvs.minSyncPeriod":              "ipvs-min-sync-period",
	"ipvs.scheduler":                  "ipvs-scheduler",
	"ipvs.excludeCIDRs":               "ipvs-exclude-cidrs",
	"ipvs.strictARP":                  "ipvs-strict-arp",
	"ipvs.tcpTimeout":                 "ipvs-tcp-timeout",
	"ipvs.tcpFinTimeout":              "ipvs-tcpfin-timeout",
	"ipvs.udpTimeout":                 "ipvs-udp-timeout",
	"detectLocalMode":                 "detect-local-mode",
	"detectLocal.bridgeInterface":     "pod-bridge-interface",
	"detectLocal.interfaceNamePrefix": "pod-interface-name-prefix",
	"clusterCIDR":                     "cluster-cidr",
	"nodePortAddresses":               "nodeport-addresses",
	"oomScoreAdj":                     "oom-score-adj",
	"conntrack.maxPerCore":            "conntrack-max-per-core",
	"conntrack.min":                   "conntrack-min",
	"conntrack.tcpEstablishedTimeout": "conntrack-tcp-timeout-established",
	"conntrack.tcpCloseWaitTimeout":   "conntrack-tcp-timeout-close-wait",
	"conntrack.tcpBeLiberal":          "conntrack-tcp-be-liberal",
	"conntrack.udpTimeout":            "conntrack-udp-timeout",
	"conntrack.udpStreamTimeout":      "conntrack-udp-timeout-stream",
	"configSyncPeriod":                "config-sync-period",
}

// flagName is the name, for the user, of a field that was filled by a flag.
func flagName(field string) string {
	if flag, ok := flagOf[field]; ok {
		return "--" + flag
	}
	return field
}

// addProxyFlags adds kube-proxy's flags for what its file says as well. With --config they are
// ignored. c holds the defaults.
func (o *Options) addProxyFlags(fs *pflag.FlagSet, c *v1alpha1.KubeProxyConfiguration) {
	fs.Var(cliflag.NewMapStringBool(&c.FeatureGates), "feature-gates",
		"Feature gates of Kubernetes, as Name=true|false, comma-separated. With an effect here: "+
			"AllowServiceExternalIPs, ComponentFlagz, ComponentStatusz, ContextualLogging, LoggingAlphaOptions, LoggingBetaOptions (all on by default but LoggingAlphaOptions).")

	fs.StringVar(&c.ClientConnection.Kubeconfig, "kubeconfig", "", "Path of the kubeconfig for the API server. Default: the service account of the pod.")
	fs.StringVar(&c.ClientConnection.ContentType, "kube-api-content-type", c.ClientConnection.ContentType, "Media type of requests to the API server.")
	fs.Float32Var(&c.ClientConnection.QPS, "kube-api-qps", c.ClientConnection.QPS, "Requests per second to the API server, in the long run. Negative: no limit.")
	fs.Int32Var(&c.ClientConnection.Burst, "kube-api-burst", c.ClientConnection.Burst, "Requests to the API server that may be sent at once.")

	fs.StringVar(&c.BindAddress, "bind-address", "0.0.0.0", "The node's primary IP address, in place of the one in its Node object. "+
		"Nothing is bound to it. 0.0.0.0 or ::: the Node object's, and the family of the next two flags' defaults.")
	fs.StringVar(&c.HealthzBindAddress, "healthz-bind-address", "", "IP or IP:port of /healthz and /livez. Empty, or port 0: do not serve them. "+
		"Default: 0.0.0.0:10256, or [::]:10256 if --bind-address is IPv6.")
	fs.StringVar(&c.MetricsBindAddress, "metrics-bind-address", "", "IP or IP:port of /metrics. Empty, or port 0: do not serve it. "+
		"Default: 127.0.0.1:10249, or [::1]:10249 if --bind-address is IPv6.")
	fs.BoolVar(&c.BindAddressHardFail, "bind-address-hard-fail", false, "Exit if a port cannot be bound. Default: false, try again.")
	fs.BoolVar(&c.EnableProfiling, "profiling", false, "Serve /debug/pprof at --metrics-bind-address. Default: false.")
	fs.StringVar(&c.ShowHiddenMetricsForVersion, "show-hidden-metrics-for-version", "", "Without effect: no metric is hidden. Default: none.")
	fs.Int32Var(&o.healthzPort, "healthz-port", healthzPort, "Port of --healthz-bind-address if that has none. 0: do not serve.")
	fs.Int32Var(&o.metricsPort, "metrics-port", metricsPort, "Port of --metrics-bind-address if that has none. 0: do not serve.")
	deprecate(fs, "healthz-port", "use --healthz-bind-address")
	deprecate(fs, "metrics-port", "use --metrics-bind-address")

	fs.StringVar((*string)(&c.Mode), "proxy-mode", string(modeNFTables), "The mode that the other flags were written for: iptables, ipvs or nftables. "+
		"Weir itself always works with nftables.")
	fs.BoolVar(&c.IPTables.MasqueradeAll, "masquerade-all", false, "Masquerade all connections to cluster IPs. Default: false, only those that no pod begins.")
	fs.DurationVar(&c.IPTables.SyncPeriod.Duration, "iptables-sync-period", defaultSyncPeriod, "Time until something that failed is tried again, such as 30s. For every mode but ipvs.")
	fs.DurationVar(&c.IPTables.MinSyncPeriod.Duration, "iptables-min-sync-period", 0, "Least time between two syncs, such as 1s; see --min-sync-period. For every mode but ipvs. Default: 0s.")
	fs.DurationVar(&c.IPVS.SyncPeriod.Duration, "ipvs-sync-period", defaultSyncPeriod, "Time until something that failed is tried again, such as 30s. For the mode ipvs.")
	fs.DurationVar(&c.IPVS.MinSyncPeriod.Duration, "ipvs-min-sync-period", 0, "Least time between two syncs, such as 1s; see --min-sync-period. For the mode ipvs. Default: 0s.")
	fs.Int32Var(c.IPTables.MasqueradeBit, "iptables-masquerade-bit", defaultMasqueradeBit, "Without effect: no packet is marked.")
	fs.BoolVar(c.IPTables.LocalhostNodePorts, "iptables-localhost-nodeports", true, "Without effect: NodePorts are not served on loopback addresses.")
	fs.StringVar(&c.IPVS.Scheduler, "ipvs-scheduler", "", "Without effect: endpoints are drawn at random. Default: none.")
	fs.StringSliceVar(&c.IPVS.ExcludeCIDRs, "ipvs-exclude-cidrs", nil, "Without effect: IPVS is not touched. Default: none.")
	fs.BoolVar(&c.IPVS.StrictARP, "ipvs-strict-arp", false, "Without effect: ARP is not touched. Default: false.")
	fs.DurationVar(&c.IPVS.TCPTimeout.Duration, "ipvs-tcp-timeout", 0, "Without effect: see --conntrack-tcp-timeout-established. Default: 0s.")
	fs.DurationVar(&c.IPVS.TCPFinTimeout.Duration, "ipvs-tcpfin-timeout", 0, "Without effect. Default: 0s.")
	fs.DurationVar(&c.IPVS.UDPTimeout.Duration, "ipvs-udp-timeout", 0, "Without effect: see --conntrack-udp-timeout. Default: 0s.")

	fs.StringVar((*string)(&c.DetectLocalMode), "detect-local-mode", string(DetectClusterCIDR), "How connections that pods begin are told: "+
		"ClusterCIDR (--cluster-cidr), NodeCIDR (podCIDRs of the Node), BridgeInterface (--pod-bridge-interface), InterfaceNamePrefix (--pod-interface-name-prefix) or None.")
	fs.StringSliceVar(&o.clusterCIDRs, "cluster-cidr", nil, "The pods' addresses: any number of CIDRs of either family, comma-separated or the flag repeated. Default: none.")
	fs.StringVar(&c.DetectLocal.BridgeInterface, "pod-bridge-interface", "", "The name of the bridge that pods are on. Default: none.")
	fs.StringVar(&c.DetectLocal.InterfaceNamePrefix, "pod-interface-name-prefix", "", "What the names of the pods' interfaces begin with. Default: none.")
	fs.StringSliceVar(&c.NodePortAddresses, "nodeport-addresses", nil, "The node's addresses on which NodePorts are served: CIDRs, 'primary' (the node's primary address in each family) "+
		"and 'all', in any mixture. Loopback addresses never are. Default: primary; with --proxy-mode iptables or ipvs, all.")

	fs.Int32Var(c.OOMScoreAdj, "oom-score-adj", defaultOOMScoreAdj, "How willingly the kernel kills this process when memory runs out, -1000 (never) to 1000.")
	fs.Int32Var(c.Conntrack.MaxPerCore, "conntrack-max-per-core", defaultMaxPerCore, "Connections tracked, per CPU core. 0: leave the limit alone, whatever --conntrack-min says.")
	fs.Int32Var(c.Conntrack.Min, "conntrack-min", defaultMin, "Connections tracked, at least.")
	fs.DurationVar(&c.Conntrack.TCPEstablishedTimeout.Duration, "conntrack-tcp-timeout-established", defaultEstablished, "Time until an idle TCP connection is forgotten, in whole seconds. 0s: leave as it is.")
	fs.DurationVar(&c.Conntrack.TCPCloseWaitTimeout.Duration, "conntrack-tcp-timeout-close-wait", defaultCloseWait, "Time until a TCP connection in CLOSE_WAIT is forgotten, in whole seconds. 0s: leave as it is.")
	fs.BoolVar(&c.Conntrack.TCPBeLiberal, "conntrack-tcp-be-liberal", false, "Do not take TCP packets outside the window for invalid. Default: false, leave as it is.")
	fs.DurationVar(&c.Conntrack.UDPTimeout.Duration, "conntrack-udp-timeout", 0, "Time until an unanswered UDP flow is forgotten, in whole seconds. Default: 0s, leave as it is.")
	fs.DurationVar(&c.Conntrack.UDPStreamTimeout.Duration, "conntrack-udp-timeout-stream", 0, "Time until an answered UDP flow is forgotten, in whole seconds. Default: 0s, leave as it is.")
	fs.DurationVar(&c.ConfigSyncPeriod.Duration, "config-sync-period", defaultResync, "Time after which all objects of the API server are looked at anew.")

	fs.StringVar(&o.bootIDFile, "boot-id-file", "", "Without effect. Default: none.")
	fs.StringVar(&o.machineIDFile, "machine-id-file", "", "Without effect. Default: none.")
}

// addOwnFlags adds the flags that hold beside --config as well.
func (o *Options) addOwnFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.file, "config", "", "Path of a KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1). "+
		"It is watched. kube-proxy's flags for what it could say are then ignored. Default: none.")
	fs.StringVar(&o.own.WriteConfigTo, "write-config-to", "", "Write the effective configuration to this file and exit. Default: do not.")
	fs.BoolVar(&o.own.Cleanup, "cleanup", false, "Remove Weir's tables and exit, as 'weir cleanup' does. Default: false.")
	fs.BoolVar(&o.own.InitOnly, "init-only", false, "Set the kernel's parameters (sysctls) and exit. Then it can be run again where it may not write to them. Default: false.")
	fs.StringVar(&o.own.SysctlDir, "sysctl-dir", "", "Directory in which to set the kernel's parameters, for a container whose own /proc/sys is read-only. Default: /proc/sys.")
	fs.BoolVar(&o.own.ShowVersion, "version", false, "Print the version and exit. Default: false.")

	fs.StringVar(&o.hostname, "hostname-override", "", "The name of this machine's Node. Default: the host name, in lower case.")
	fs.StringSliceVar(&o.nodeIPs, "node-ip", nil, "The node's own addresses, in place of those in its Node object: "+
		"at most one in each family, the primary one first, comma-separated. Default: none.")
	fs.StringVar(&o.own.Source.Master, "master", "", "Address of the API server, in place of the kubeconfig's. Default: none.")
	fs.StringVar(&o.own.Source.Manifests, "manifests", "", "Directory of YAML and JSON files with Services, EndpointSlices and so on, in place of an API server. It is watched. Default: none.")
	fs.StringSliceVar(&o.serviceCIDRs, "service-cidr", nil, "The ranges that cluster IPs are allocated from, comma-separated, where --manifests has no ServiceCIDR object. Default: none.")
	fs.DurationVar(&o.own.MinSyncPeriod, "min-sync-period", 0, "Least time between the beginnings of two syncs, such as 500ms: a ceiling on their rate. "+
		"It is taken before that of --config. Default: 0s, sync whenever something has changed.")
	fs.StringVar(&o.own.Socket, "socket", DefaultSocket, "Path of the control socket, which weir status, services, trace and the like ask. For root alone. Empty: none.")
	fs.StringVar(&o.webAddress, "web-bind-address", "", "IP:port of a page that shows what Weir does, such as 127.0.0.1:10257. Whoever reaches it can read the names and addresses of all Services. Empty: do not serve it. Default: none.")
	fs.IntVar(&o.own.ServiceMetrics, "service-metrics", 0, "How many services have a metric of their new connections, weir_service_connections_total; "+
		"those of further ones are counted together. Default: 0, no connection is counted.")
	fs.BoolVar(&o.own.ResetStaleTCP, "reset-stale-tcp", false, "Reset TCP connections to endpoints that are gone, in place of letting them hang. Default: false.")
	fs.BoolVar(&o.own.ReplaceKubeProxy, "replace-kube-proxy", false, "Remove the rules that a stopped kube-proxy has left behind, after the first sync. Default: false.")
}

func deprecate(fs *pflag.FlagSet, name, instead string) {
	if err := fs.MarkDeprecated(name, instead); err != nil {
		panic(err) // no flag of this name
	}
}

// addLoggingFlags adds component-base's flags. c holds the defaults.
func addLoggingFlags(fs *pflag.FlagSet, c *logsapi.LoggingConfiguration) {
	logsapi.AddFlags(c, fs)
}
