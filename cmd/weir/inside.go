package main

import (
	"encoding/json"
	"io"
	"net/url"

	"github.com/prometheus/common/expfmt"
	"github.com/spf13/pflag"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/weir-project/weir/inspect"
	"github.com/weir-project/weir/inspect/api"
)

// logged is the end of this process's log.
var logged logRing

// inspected returns what there is to look at in the daemon.
func (d *daemon) inspected() inspect.Config {
	return inspect.Config{
		Build: build(), Node: d.cfg.Load().NodeName, Source: d.from,
		Engine: d.engine, Proxy: d.proxy, Kernel: d.kernel, Health: d.health, DNS: d.tellDNS,
		Debug: map[string]inspect.Part{
			"config": d.writeConfig, "log": logged.write, "metrics": writeMetrics,
			"goroutines": inspect.Goroutines, "sysctls": inspect.Sysctls, "network": inspect.Network,
		},
	}
}

// tellDNS tells how the cluster's DNS on this node is; nil: it is not switched on.
func (d *daemon) tellDNS() *api.DNS {
	if d.dns == nil {
		return nil
	}
	t := &api.DNS{Addresses: d.dns.addrs, Serving: d.dns.names.server.Serving(), Alive: true, Domain: d.dns.names.zone.Domain()}
	if err := d.dns.keeper.Err(); err != nil {
		t.Alive, t.Reason = false, err.Error()
	}
	return t
}

// writeConfig writes the configuration in force and the flags that were given. Neither holds a secret:
// of the kubeconfig they have the path.
func (d *daemon) writeConfig(w io.Writer) error {
	flags := map[string]string{}
	d.flags.Visit(func(f *pflag.Flag) {
		flags[f.Name] = f.Value.String()
		if f.Name == "master" {
			flags[f.Name] = withoutPassword(f.Value.String())
		}
	})
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(map[string]any{"flags": flags, "config": d.cfg.Load().KubeProxy()})
}

// withoutPassword leaves out the password that somebody may have put into an address.
func withoutPassword(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.User == nil {
		return address
	}
	return u.Redacted()
}

func writeMetrics(w io.Writer) error {
	families, err := legacyregistry.DefaultGatherer.Gather()
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(w, f); err != nil {
			return err
		}
	}
	return err
}
