package config

import (
	"encoding/json"
	"reflect"
)

// setting is one thing that can change while we run.
type setting struct {
	name string            // as kube-proxy's file has it, or our flag
	live bool              // can be applied without a restart
	of   func(*Config) any // to be compared by reflect.DeepEqual
}

// settings are all fields of Config, but those that say what to do instead of running.
var settings = []setting{
	{"clientConnection", false, func(c *Config) any { return c.Source }},
	{"hostnameOverride", false, func(c *Config) any { return c.NodeName }},
	{"bindAddress", false, func(c *Config) any { return c.NodeIPs }},
	{"nodePortAddresses", true, func(c *Config) any { return c.NodePortAddresses }},
	{"detectLocal", false, func(c *Config) any { return c.LocalDetection }},
	{"masqueradeAll", false, func(c *Config) any { return c.MasqueradeAll }},
	{"minSyncPeriod", true, func(c *Config) any { return c.MinSyncPeriod }},
	{"syncPeriod", false, func(c *Config) any { return c.SyncPeriod }},
	{"healthzBindAddress", false, func(c *Config) any { return c.HealthzAddress }},
	{"metricsBindAddress", false, func(c *Config) any { return c.MetricsAddress }},
	{"bindAddressHardFail", false, func(c *Config) any { return c.BindAddressHardFail }},
	{"enableProfiling", false, func(c *Config) any { return c.Profiling }},
	{"conntrack", true, func(c *Config) any { return c.Conntrack }},
	{"--sysctl-dir", false, func(c *Config) any { return c.SysctlDir }},
	{"oomScoreAdj", true, func(c *Config) any { return c.OOMScoreAdj }},
	{"featureGates", false, func(c *Config) any { return c.FeatureGates }},
	{"logging.verbosity", true, func(c *Config) any { return c.Logging.Verbosity }},
	{"logging.vmodule", true, func(c *Config) any { return vmoduleText(c) }},
	{"logging", false, func(c *Config) any { return loggingText(c) }},
	{"--web-bind-address", false, func(c *Config) any { return c.WebAddress }},
	{"--service-metrics", false, func(c *Config) any { return c.ServiceMetrics }},
	{"--reset-stale-tcp", false, func(c *Config) any { return c.ResetStaleTCP }},
	{"--socket", false, func(c *Config) any { return c.Socket }},
	{"--replace-kube-proxy", false, func(c *Config) any { return c.ReplaceKubeProxy }},
	{"--dns-address", false, func(c *Config) any { return c.DNS }},
}

// loggingText is the part of the logging configuration that is applied once.
func loggingText(c *Config) string {
	l := c.Logging
	l.Verbosity, l.VModule = 0, nil
	text, err := json.Marshal(l)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Diff names the settings that differ between two configurations: those that can be applied
// while we run, and those that need a clean restart. Live are minSyncPeriod, nodePortAddresses,
// conntrack, oomScoreAdj, logging.verbosity and logging.vmodule (see ApplyLogLevel).
func Diff(old, new *Config) (live, restart []string) {
	for _, s := range settings {
		switch {
		case reflect.DeepEqual(s.of(old), s.of(new)):
		case s.live:
			live = append(live, s.name)
		default:
			restart = append(restart, s.name)
		}
	}
	return live, restart
}
