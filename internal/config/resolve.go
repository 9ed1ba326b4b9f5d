package config

import (
	"fmt"
	"mime"
	"net/netip"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"
	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/kube-proxy/config/v1alpha1"
)

// Proxy modes of kube-proxy. They do not change what we do, only what a configuration means.
const (
	modeIPTables = v1alpha1.ProxyMode("iptables")
	modeIPVS     = v1alpha1.ProxyMode("ipvs")
	modeNFTables = v1alpha1.ProxyMode("nftables")
)

// resolver turns a KubeProxyConfiguration into a Config, and gathers what is wrong with it.
type resolver struct {
	// name returns what the user calls a field: its path in the file, or a flag.
	name     func(field string) string
	faults   field.ErrorList
	warnings []Warning
	without  []string // what was set and has no effect, in addition to what resolve finds
}

func (r *resolver) at(path string) *field.Path {
	segments := strings.Split(r.name(path), ".")
	return field.NewPath(segments[0], segments[1:]...)
}

func (r *resolver) fault(e *field.Error) { r.faults = append(r.faults, e) }

func (r *resolver) invalid(path string, value any, reason string) {
	r.fault(field.Invalid(r.at(path), value, reason))
}

func (r *resolver) warn(format string, args ...any) {
	r.warnings = append(r.warnings, Warning(fmt.Sprintf(format, args...)))
}

// resolve returns what in asks for. It has been given its defaults. Where in is at fault, the
// result has a zero value.
func (r *resolver) resolve(in *v1alpha1.KubeProxyConfiguration) *Config {
	mode := r.mode(in.Mode)
	rules, sync := sections(in, mode)
	primary := r.bindAddress(in.BindAddress)
	c := &Config{
		Source:              r.source(in),
		NodeName:            nodeName(in.HostnameOverride),
		NodePortAddresses:   r.nodePortAddresses(in.NodePortAddresses, mode),
		LocalDetection:      r.localDetection(in),
		MasqueradeAll:       rules.masqueradeAll,
		MinSyncPeriod:       sync.minSyncPeriod,
		SyncPeriod:          sync.syncPeriod,
		HealthzAddress:      r.listen("healthzBindAddress", in.HealthzBindAddress, unspecified(primary), healthzPort),
		MetricsAddress:      r.listen("metricsBindAddress", in.MetricsBindAddress, loopback(primary), metricsPort),
		BindAddressHardFail: in.BindAddressHardFail,
		Profiling:           in.EnableProfiling,
		Conntrack:           r.conntrack(&in.Conntrack),
		OOMScoreAdj:         int(*in.OOMScoreAdj),
		FeatureGates:        r.gates(in.FeatureGates),
		Logging:             in.Logging,
	}
	if primary.IsValid() && !primary.IsUnspecified() {
		c.NodeIPs = []netip.Addr{primary}
	}
	if in.HostnameOverride != "" && c.NodeName == "" {
		r.invalid("hostnameOverride", in.HostnameOverride, "must not be blank")
	}
	if c.OOMScoreAdj < -1000 || c.OOMScoreAdj > 1000 {
		r.invalid("oomScoreAdj", c.OOMScoreAdj, "must be from -1000 to 1000")
	}
	r.periods(c, sync.name)
	r.localhost(in, mode, c.NodePortAddresses)
	r.idle(in, mode)
	return c
}

func (r *resolver) mode(mode v1alpha1.ProxyMode) v1alpha1.ProxyMode {
	switch mode {
	case "":
		return modeIPTables // kube-proxy's default, for which the rest was written
	case modeIPTables, modeIPVS, modeNFTables:
		return mode
	case "kernelspace":
		r.invalid("mode", mode, "is for Windows; Weir runs on Linux")
	case "userspace":
		r.invalid("mode", mode, "is no longer a mode of kube-proxy; use nftables")
	default:
		r.fault(field.NotSupported(r.at("mode"), mode, []v1alpha1.ProxyMode{modeIPTables, modeIPVS, modeNFTables}))
	}
	return modeNFTables
}

// section is what is common to kube-proxy's sections of each mode.
type section struct {
	name                      string
	masqueradeAll             bool // ipvs has none
	syncPeriod, minSyncPeriod time.Duration
}

// sections returns the sections that hold for a mode: the one with masqueradeAll, and the one with
// the sync periods. The mode ipvs takes the first from iptables.
func sections(in *v1alpha1.KubeProxyConfiguration, mode v1alpha1.ProxyMode) (rules, sync section) {
	iptables := section{"iptables", in.IPTables.MasqueradeAll, in.IPTables.SyncPeriod.Duration, in.IPTables.MinSyncPeriod.Duration}
	switch mode {
	case modeNFTables:
		rules = section{"nftables", in.NFTables.MasqueradeAll, in.NFTables.SyncPeriod.Duration, in.NFTables.MinSyncPeriod.Duration}
		return rules, rules
	case modeIPVS:
		return iptables, section{"ipvs", false, in.IPVS.SyncPeriod.Duration, in.IPVS.MinSyncPeriod.Duration}
	default:
		return iptables, iptables
	}
}

// periods checks the periods of c, which were read from a section.
func (r *resolver) periods(c *Config, section string) {
	syncPeriod, minSyncPeriod := section+".syncPeriod", section+".minSyncPeriod"
	if c.SyncPeriod <= 0 {
		r.invalid(syncPeriod, c.SyncPeriod.String(), "must be more than 0")
	}
	r.minSyncPeriod(c, minSyncPeriod)
	if c.Source.Resync <= 0 {
		r.invalid("configSyncPeriod", c.Source.Resync.String(), "must be more than 0")
	}
}

func (r *resolver) minSyncPeriod(c *Config, path string) {
	if c.MinSyncPeriod < 0 {
		r.invalid(path, c.MinSyncPeriod.String(), "must not be negative")
	}
	if c.SyncPeriod > 0 && c.MinSyncPeriod > c.SyncPeriod {
		r.invalid(path, c.MinSyncPeriod.String(), fmt.Sprintf("must not be longer than syncPeriod, which is %v", c.SyncPeriod))
	}
}

func (r *resolver) source(in *v1alpha1.KubeProxyConfiguration) Source {
	conn := &in.ClientConnection
	if _, _, err := mime.ParseMediaType(conn.ContentType); err != nil {
		r.invalid("clientConnection.contentType", conn.ContentType, "must be a media type, such as "+defaultContentType)
	}
	if conn.Burst < 0 {
		r.invalid("clientConnection.burst", conn.Burst, "must not be negative")
	}
	return Source{
		Kubeconfig:         conn.Kubeconfig,
		QPS:                conn.QPS,
		Burst:              int(conn.Burst),
		ContentType:        conn.ContentType,
		AcceptContentTypes: conn.AcceptContentTypes,
		Resync:             in.ConfigSyncPeriod.Duration,
	}
}

// bindAddress returns kube-proxy's idea of the node's primary address. An unspecified one only
// tells the family; the zero value, nothing at all.
func (r *resolver) bindAddress(s string) netip.Addr {
	if s == "" {
		return netip.Addr{}
	}
	a, ok := parseAddr(s)
	if !ok || a.IsMulticast() {
		r.invalid("bindAddress", s, "must be an address that this node can have, or 0.0.0.0 or ::")
		return netip.Addr{}
	}
	return a
}

func unspecified(like netip.Addr) netip.Addr {
	if like.Is6() {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

func loopback(like netip.Addr) netip.Addr {
	if like.Is6() {
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

func (r *resolver) listen(path, s string, defaultAddr netip.Addr, defaultPort uint16) netip.AddrPort {
	if s == "" {
		return netip.AddrPortFrom(defaultAddr, defaultPort)
	}
	a, reason := parseBind(s, defaultPort)
	if reason != "" {
		r.invalid(path, s, reason)
	}
	return a
}

// cidrs parses a list of CIDRs. One that is there twice is named in a warning.
func (r *resolver) cidrs(path *field.Path, list []string) []netip.Prefix {
	var cidrs []netip.Prefix
	for i, s := range list {
		cidr, ok := parsePrefix(strings.TrimSpace(s))
		switch {
		case !ok:
			at := path
			if len(list) > 1 {
				at = path.Index(i)
			}
			r.fault(field.Invalid(at, s, "must be a CIDR, such as 10.244.0.0/16 or fd00:10:244::/56"))
		case slices.Contains(cidrs, cidr):
			r.warn("%s has %s more than once", path, cidr)
		default:
			cidrs = append(cidrs, cidr)
		}
	}
	return cidrs
}

// Words that stand for CIDRs in nodePortAddresses.
const (
	wordPrimary   = "primary"
	wordAll       = "all"
	wordLocalhost = "localhost"
)

func (r *resolver) nodePortAddresses(list []string, mode v1alpha1.ProxyMode) NodePortAddresses {
	if len(list) == 0 {
		if mode == modeNFTables {
			return NodePortAddresses{Primary: true}
		}
		return NodePortAddresses{CIDRs: allAddresses}
	}
	at := r.at("nodePortAddresses")
	var addrs NodePortAddresses
	for i, s := range list {
		cidr, ok := parsePrefix(s)
		switch {
		case s == wordPrimary:
			addrs.Primary = true
		case s == wordAll:
			addrs.CIDRs = append(addrs.CIDRs, allAddresses...)
		case s == wordLocalhost, ok && cidr.Bits() > 0 && cidr.Addr().IsLoopback():
			r.fault(field.Invalid(at.Index(i), s, "NodePorts are not served on loopback addresses: "+
				"use another address of the node, or a hostPort"))
		case !ok:
			r.fault(field.Invalid(at.Index(i), s, "must be 'primary', 'all' or a CIDR, such as 192.168.0.0/16; they mix freely"))
		case slices.Contains(addrs.CIDRs, cidr):
			r.warn("%s has %s more than once", at, cidr)
		default:
			addrs.CIDRs = append(addrs.CIDRs, cidr)
		}
	}
	addrs.CIDRs = unique(addrs.CIDRs)
	if !addrs.Primary && len(addrs.CIDRs) > 0 {
		addrs.CIDRs = r.bothFamilies(addrs.CIDRs)
	}
	return addrs
}

// bothFamilies adds all addresses of the family that cidrs leaves out, as kube-proxy does.
func (r *resolver) bothFamilies(cidrs []netip.Prefix) []netip.Prefix {
	for _, all := range allAddresses {
		family := "IPv6"
		if all.Addr().Is4() {
			family = "IPv4"
		}
		if !slices.ContainsFunc(cidrs, func(c netip.Prefix) bool { return c.Addr().Is4() == all.Addr().Is4() }) {
			r.warn("%s has no %s range: NodePorts are served on all %s addresses of the node", r.at("nodePortAddresses"), family, family)
			cidrs = append(cidrs, all)
		}
	}
	return cidrs
}

// unique returns list without what is already there earlier.
func unique(list []netip.Prefix) []netip.Prefix {
	var seen []netip.Prefix
	for _, p := range list {
		if !slices.Contains(seen, p) {
			seen = append(seen, p)
		}
	}
	return seen
}

// localhost warns if kube-proxy, so configured, would serve NodePorts on loopback addresses, which
// nobody has asked for by address: it is a default of the mode iptables.
func (r *resolver) localhost(in *v1alpha1.KubeProxyConfiguration, mode v1alpha1.ProxyMode, addrs NodePortAddresses) {
	wide := slices.ContainsFunc(addrs.CIDRs, func(c netip.Prefix) bool { return c.Contains(loopback(netip.Addr{})) })
	if mode == modeIPTables && *in.IPTables.LocalhostNodePorts && wide {
		r.warn("%s is on, the default of the mode iptables: Weir does not serve NodePorts on loopback addresses", r.at("iptables.localhostNodePorts"))
	}
}

// maxInterfaceName is IFNAMSIZ without the 0 at the end.
const maxInterfaceName = 15

func (r *resolver) interfaceName(path, name, mode string) {
	at := r.at(path)
	switch {
	case name == "":
		r.fault(field.Required(at, fmt.Sprintf("the mode %s of %s needs it", mode, r.at("detectLocalMode"))))
	case len(name) > maxInterfaceName:
		r.fault(field.TooLong(at, name, maxInterfaceName))
	case strings.ContainsAny(name, "/ \t\r\n\v\f\x00"):
		r.fault(field.Invalid(at, name, "no interface can have a name with a slash or a blank"))
	}
}

func (r *resolver) localDetection(in *v1alpha1.KubeProxyConfiguration) LocalDetection {
	d := LocalDetection{Mode: DetectMode(in.DetectLocalMode)}
	switch d.Mode {
	case DetectClusterCIDR:
		if in.ClusterCIDR != "" {
			d.ClusterCIDRs = r.cidrs(r.at("clusterCIDR"), strings.Split(in.ClusterCIDR, ","))
		} else {
			d.Mode = DetectNone
			r.warn("%s is not set: pods cannot be told from strangers, so that nothing on its way to a cluster IP is masqueraded", r.at("clusterCIDR"))
		}
	case DetectBridgeInterface:
		d.BridgeInterface = in.DetectLocal.BridgeInterface
		r.interfaceName("detectLocal.bridgeInterface", d.BridgeInterface, string(d.Mode))
	case DetectInterfaceNamePrefix:
		d.InterfaceNamePrefix = in.DetectLocal.InterfaceNamePrefix
		r.interfaceName("detectLocal.interfaceNamePrefix", d.InterfaceNamePrefix, string(d.Mode))
	case DetectNodeCIDR, DetectNone:
	default:
		r.fault(field.NotSupported(r.at("detectLocalMode"), d.Mode,
			[]DetectMode{DetectClusterCIDR, DetectNodeCIDR, DetectBridgeInterface, DetectInterfaceNamePrefix, DetectNone}))
	}
	return d
}

func (r *resolver) conntrack(in *v1alpha1.KubeProxyConntrackConfiguration) Conntrack {
	count := func(name string, n int32) int {
		if n < 0 {
			r.invalid("conntrack."+name, n, "must not be negative")
		}
		return int(n)
	}
	timeout := func(name string, d time.Duration) time.Duration {
		if d < 0 {
			r.invalid("conntrack."+name, d.String(), "must not be negative")
		} else if d%time.Second != 0 {
			r.invalid("conntrack."+name, d.String(), "the kernel takes whole seconds")
		}
		return d
	}
	return Conntrack{
		MaxPerCore:            count("maxPerCore", *in.MaxPerCore),
		Min:                   count("min", *in.Min),
		TCPEstablishedTimeout: timeout("tcpEstablishedTimeout", in.TCPEstablishedTimeout.Duration),
		TCPCloseWaitTimeout:   timeout("tcpCloseWaitTimeout", in.TCPCloseWaitTimeout.Duration),
		UDPTimeout:            timeout("udpTimeout", in.UDPTimeout.Duration),
		UDPStreamTimeout:      timeout("udpStreamTimeout", in.UDPStreamTimeout.Duration),
		TCPBeLiberal:          in.TCPBeLiberal,
	}
}

// logging checks the logging part of c.
func (r *resolver) logging(c *Config) {
	gate, err := newGate(c.FeatureGates)
	if err != nil {
		r.invalid("featureGates", fmt.Sprint(c.FeatureGates), err.Error())
		return
	}
	r.faults = append(r.faults, logsapi.Validate(&c.Logging, gate, field.NewPath("logging"))...)
}

// nodeName is the name of the Node on a host of this name.
func nodeName(host string) string { return strings.ToLower(strings.TrimSpace(host)) }

// machine takes c.NodeName from the machine if nobody else gave it.
func (r *resolver) machine(c *Config, hostname func() (string, error)) {
	if c.NodeName != "" {
		return
	}
	name, err := hostname()
	c.NodeName = nodeName(name)
	if err != nil || c.NodeName == "" {
		r.fault(field.Required(r.at("hostnameOverride"), fmt.Sprintf("this machine does not tell its name: %v", err)))
	}
}

// idle names, in one warning, what was set and has no meaning: here, or in the mode.
func (r *resolver) idle(in *v1alpha1.KubeProxyConfiguration, mode v1alpha1.ProxyMode) {
	names := r.without
	for _, s := range []struct {
		path string
		set  bool
	}{
		{"showHiddenMetricsForVersion", in.ShowHiddenMetricsForVersion != ""},
		{"iptables.masqueradeBit", *in.IPTables.MasqueradeBit != defaultMasqueradeBit},
		{"iptables.masqueradeAll", in.IPTables.MasqueradeAll && mode == modeNFTables},
		{"iptables.syncPeriod", in.IPTables.SyncPeriod.Duration != defaultSyncPeriod && mode != modeIPTables},
		{"iptables.minSyncPeriod", minSet(in.IPTables.MinSyncPeriod.Duration) && mode != modeIPTables},
		{"ipvs.syncPeriod", in.IPVS.SyncPeriod.Duration != defaultSyncPeriod && mode != modeIPVS},
		{"ipvs.minSyncPeriod", minSet(in.IPVS.MinSyncPeriod.Duration) && mode != modeIPVS},
		{"ipvs.scheduler", in.IPVS.Scheduler != ""},
		{"ipvs.excludeCIDRs", len(in.IPVS.ExcludeCIDRs) > 0},
		{"ipvs.strictARP", in.IPVS.StrictARP},
		{"ipvs.tcpTimeout", in.IPVS.TCPTimeout.Duration != 0},
		{"ipvs.tcpFinTimeout", in.IPVS.TCPFinTimeout.Duration != 0},
		{"ipvs.udpTimeout", in.IPVS.UDPTimeout.Duration != 0},
		{"nftables.masqueradeBit", *in.NFTables.MasqueradeBit != defaultMasqueradeBit},
		{"nftables.masqueradeAll", in.NFTables.MasqueradeAll && mode != modeNFTables},
		{"nftables.syncPeriod", in.NFTables.SyncPeriod.Duration != defaultSyncPeriod && mode != modeNFTables},
		{"nftables.minSyncPeriod", minSet(in.NFTables.MinSyncPeriod.Duration) && mode != modeNFTables},
		{"winkernel.networkName", in.Winkernel.NetworkName != ""},
		{"winkernel.sourceVip", in.Winkernel.SourceVip != ""},
		{"winkernel.enableDSR", in.Winkernel.EnableDSR},
		{"winkernel.rootHnsEndpointName", in.Winkernel.RootHnsEndpointName != ""},
		{"winkernel.forwardHealthCheckVip", in.Winkernel.ForwardHealthCheckVip},
		{"portRange", in.PortRange != ""},
		{"windowsRunAsService", in.WindowsRunAsService},
	} {
		if s.set {
			names = append(names, r.at(s.path).String())
		}
	}
	if len(names) > 0 {
		r.warn("without effect: %s", strings.Join(names, ", "))
	}
}

// minSet reports whether d is a minSyncPeriod that kube-proxy would not assume by itself.
func minSet(d time.Duration) bool { return d != 0 && d != defaultMinSyncPeriod }
