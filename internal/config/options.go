package config

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/validation/field"
	cliflag "k8s.io/component-base/cli/flag"
	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/kube-proxy/config/v1alpha1"
)

// Options are the flags of `weir run`, from New to AddFlags to Complete.
type Options struct {
	file         string
	hostname     string
	nodeIPs      []string
	serviceCIDRs []string
	webAddress   string
	own          Config // what our own flags say, those above aside
	dns          dnsOptions

	// What kube-proxy's flags say.
	proxy                      v1alpha1.KubeProxyConfiguration
	clusterCIDRs               []string
	healthzPort, metricsPort   int32
	bootIDFile, machineIDFile  string
	logging                    logsapi.LoggingConfiguration
	proxyFlags, ownFlags, logs *pflag.FlagSet

	machineName func() (string, error) // os.Hostname
}

// New returns options with their defaults.
func New() *Options {
	o := &Options{machineName: os.Hostname}
	setDefaults(&o.proxy)
	logsapi.SetRecommendedLoggingConfiguration(&o.logging)
	o.proxyFlags = newFlagSet("kube-proxy")
	o.ownFlags = newFlagSet("weir")
	o.logs = newFlagSet("logging")
	o.addProxyFlags(o.proxyFlags, &o.proxy)
	o.addOwnFlags(o.ownFlags)
	o.dns.addFlags(o.ownFlags)
	addLoggingFlags(o.logs, &o.logging)
	return o
}

func newFlagSet(name string) *pflag.FlagSet {
	fs := pflag.NewFlagSet(name, pflag.ContinueOnError)
	fs.SetNormalizeFunc(cliflag.WordSepNormalizeFunc) // kube-proxy takes --proxy_mode too
	return fs
}

// AddFlags adds the flags to fs. They are read by Complete, after fs has been parsed.
func (o *Options) AddFlags(fs *pflag.FlagSet) {
	fs.SetNormalizeFunc(cliflag.WordSepNormalizeFunc)
	for _, set := range o.FlagSets().FlagSets {
		fs.AddFlagSet(set)
	}
}

// FlagSets returns the flags in groups, as a help text or /flagz shows them.
func (o *Options) FlagSets() cliflag.NamedFlagSets {
	return cliflag.NamedFlagSets{
		Order:    []string{"weir", "kube-proxy", "logging"},
		FlagSets: map[string]*pflag.FlagSet{"weir": o.ownFlags, "kube-proxy": o.proxyFlags, "logging": o.logs},
	}
}

// Error is a configuration that cannot be obeyed.
type Error struct {
	File   string          // "" if it came from flags
	Faults field.ErrorList // at least one
}

// Error lists all faults in one line.
func (e *Error) Error() string {
	s := "configuration"
	if e.File != "" {
		s += " " + e.File
	}
	for i, f := range e.Faults {
		if i == 0 {
			s += ": " + f.Error()
		} else {
			s += "; " + f.Error()
		}
	}
	return s
}

// Complete returns what the flags, and the file that they may name, ask for. It may be called
// again: the file is then read anew. The error is an *Error, if not of reading the file.
func (o *Options) Complete() (*Config, []Warning, error) {
	in, r, err := o.input()
	if err != nil {
		return nil, nil, err
	}
	c := r.resolve(in)
	c.File = o.file
	o.overlay(r, c)
	r.machine(c, o.machineName)
	r.logging(c)
	if len(r.faults) > 0 {
		return nil, r.warnings, &Error{o.file, r.faults}
	}
	return c, r.warnings, nil
}

// input returns the file, or what the flags say in its stead.
func (o *Options) input() (*v1alpha1.KubeProxyConfiguration, *resolver, error) {
	if o.file == "" {
		r := &resolver{name: flagName}
		return o.fromFlags(r), r, nil
	}
	data, err := os.ReadFile(o.file)
	if err != nil {
		return nil, nil, fmt.Errorf("configuration: %w", err)
	}
	in, warnings, err := decode(data)
	var refused *Error
	if errors.As(err, &refused) {
		refused.File = o.file
		return nil, nil, refused
	}
	if err != nil {
		return nil, nil, fmt.Errorf("configuration %s: %w", o.file, err)
	}
	r := &resolver{name: func(field string) string { return field }, warnings: warnings}
	if ignored := changed(o.proxyFlags); len(ignored) > 0 {
		r.warn("ignored beside --config: %s", strings.Join(ignored, ", "))
	}
	setDefaults(in)
	o.mergeLogging(r, &in.Logging)
	return in, r, nil
}

// changed returns the names of the flags that were given.
func changed(fs *pflag.FlagSet) []string {
	var names []string
	fs.VisitAll(func(f *pflag.Flag) {
		if f.Changed {
			names = append(names, "--"+f.Name)
		}
	})
	return names
}

// fromFlags returns what kube-proxy's flags say, as a file would.
func (o *Options) fromFlags(r *resolver) *v1alpha1.KubeProxyConfiguration {
	in := o.proxy.DeepCopy()
	in.Logging = *o.logging.DeepCopy()
	in.ClusterCIDR = strings.Join(o.clusterCIDRs, ",")
	in.HealthzBindAddress = o.bindFlag(r, "healthz", in.HealthzBindAddress, o.healthzPort, in.BindAddress)
	in.MetricsBindAddress = o.bindFlag(r, "metrics", in.MetricsBindAddress, o.metricsPort, in.BindAddress)
	if in.Mode == modeNFTables {
		// There are no flags for nftables: those for iptables hold.
		in.NFTables.MasqueradeAll, in.IPTables.MasqueradeAll = in.IPTables.MasqueradeAll, false
		in.NFTables.SyncPeriod, in.IPTables.SyncPeriod = in.IPTables.SyncPeriod, in.NFTables.SyncPeriod
		in.NFTables.MinSyncPeriod, in.IPTables.MinSyncPeriod = in.IPTables.MinSyncPeriod, in.NFTables.MinSyncPeriod
	}
	if o.bootIDFile != "" {
		r.without = append(r.without, "--boot-id-file")
	}
	if o.machineIDFile != "" {
		r.without = append(r.without, "--machine-id-file")
	}
	return in
}

// bindFlag merges an address to bind, as given or "", with its deprecated port flag.
func (o *Options) bindFlag(r *resolver, name, addr string, port int32, bindAddress string) string {
	addrFlag, portFlag := o.proxyFlags.Lookup(name+"-bind-address"), o.proxyFlags.Lookup(name+"-port")
	if port < 0 || port > 65535 {
		r.fault(field.Invalid(field.NewPath("--"+portFlag.Name), port, "must be from 1 to 65535, or 0 to not listen"))
		return ""
	}
	if portFlag.Changed && port == 0 || addrFlag.Changed && addr == "" {
		return bindText(netip.AddrPort{})
	}
	if !portFlag.Changed {
		return addr
	}
	if addr == "" {
		primary, _ := parseAddr(bindAddress)
		addr = unspecified(primary).String()
		if name == "metrics" {
			addr = loopback(primary).String()
		}
	}
	if ip, ok := parseAddr(addr); ok {
		return netip.AddrPortFrom(ip, uint16(port)).String()
	}
	return addr
}

// mergeLogging lays the logging flags that were given over what the file says.
func (o *Options) mergeLogging(r *resolver, c *logsapi.LoggingConfiguration) {
	file := *c.DeepCopy()
	into := newFlagSet("merge")
	addLoggingFlags(into, c)
	*c = file // adding flags has set some fields to the flags' defaults
	c.VModule = nil
	o.logs.VisitAll(func(f *pflag.Flag) {
		if !f.Changed {
			return
		}
		if err := into.Set(f.Name, f.Value.String()); err != nil {
			r.fault(field.Invalid(field.NewPath("--"+f.Name), f.Value.String(), err.Error()))
		}
	})
	c.VModule = append(c.VModule, file.VModule...) // the first that matches holds
}

// overlay lays our own flags over c.
func (o *Options) overlay(r *resolver, c *Config) {
	own := &o.own
	c.Source.Manifests, c.Source.Master = own.Source.Manifests, own.Source.Master
	c.ResetStaleTCP, c.ReplaceKubeProxy, c.Socket = own.ResetStaleTCP, own.ReplaceKubeProxy, own.Socket
	c.SysctlDir = own.SysctlDir
	c.ShowVersion, c.WriteConfigTo, c.Cleanup, c.InitOnly = own.ShowVersion, own.WriteConfigTo, own.Cleanup, own.InitOnly
	if o.webAddress != "" {
		var err error
		if c.WebAddress, err = netip.ParseAddrPort(o.webAddress); err != nil || c.WebAddress.Port() == 0 {
			r.fault(field.Invalid(field.NewPath("--web-bind-address"), o.webAddress, "must be an address and a port, such as 127.0.0.1:10257"))
		}
	}
	if c.ServiceMetrics = own.ServiceMetrics; c.ServiceMetrics < 0 {
		r.fault(field.Invalid(field.NewPath("--service-metrics"), c.ServiceMetrics, "must be a number of services, or 0 to count nothing"))
	}
	if o.ownFlags.Changed("min-sync-period") {
		c.MinSyncPeriod = own.MinSyncPeriod
		r.minSyncPeriod(c, "--min-sync-period")
	}
	if o.hostname != "" {
		c.NodeName = nodeName(o.hostname)
		if c.NodeName == "" {
			r.fault(field.Invalid(field.NewPath("--hostname-override"), o.hostname, "must not be blank"))
		}
	}
	o.overlaySource(r, c)
	o.overlayNodeIPs(r, c)
	o.overlayDNS(r, c)
}

func (o *Options) overlaySource(r *resolver, c *Config) {
	c.Source.ServiceCIDRs = r.cidrs(field.NewPath("--service-cidr"), o.serviceCIDRs)
	if c.Source.Manifests == "" {
		if len(o.serviceCIDRs) > 0 {
			r.fault(field.Forbidden(field.NewPath("--service-cidr"), "goes with --manifests only: an API server has ServiceCIDR objects"))
		}
		return
	}
	const reason = "Services come from --manifests or from an API server, not from both"
	if c.Source.Kubeconfig != "" {
		r.fault(field.Forbidden(r.at("clientConnection.kubeconfig"), reason))
	}
	if c.Source.Master != "" {
		r.fault(field.Forbidden(field.NewPath("--master"), reason))
	}
}

func (o *Options) overlayNodeIPs(r *resolver, c *Config) {
	if len(o.nodeIPs) == 0 {
		return
	}
	path := field.NewPath("--node-ip")
	bound := c.NodeIPs
	c.NodeIPs = nil
	for i, s := range o.nodeIPs {
		a, ok := parseAddr(strings.TrimSpace(s))
		switch {
		case !ok || a.IsUnspecified() || a.IsMulticast():
			r.fault(field.Invalid(path.Index(i), s, "must be an address that this node can have"))
		case slices.ContainsFunc(c.NodeIPs, func(b netip.Addr) bool { return a.Is4() == b.Is4() }):
			r.fault(field.Invalid(path.Index(i), s, "must be the only address of its family"))
		default:
			c.NodeIPs = append(c.NodeIPs, a)
		}
	}
	for _, a := range bound {
		if !slices.Contains(c.NodeIPs, a) {
			r.warn("%s %s is not among --node-ip and ignored", r.at("bindAddress"), a)
		}
	}
}
