package config

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	logsapi "k8s.io/component-base/logs/api/v1"
)

func TestDiff(t *testing.T) {
	base := "clusterCIDR: 10.0.0.0/8\n"
	tests := []struct {
		name          string
		file          string
		live, restart []string
	}{
		{"nothing", base, nil, nil},
		{"the same in other words", "clusterCIDR: 10.1.2.3/8\nnodePortAddresses: [all]\nmode: iptables", nil, nil},
		{"live", base + "iptables: {minSyncPeriod: 1s}\nnodePortAddresses: [primary]\noomScoreAdj: 0\nconntrack: {min: 1}\nlogging: {verbosity: 3, vmodule: [{filePattern: a, verbosity: 1}]}",
			[]string{"nodePortAddresses", "minSyncPeriod", "conntrack", "oomScoreAdj", "logging.verbosity", "logging.vmodule"}, nil},
		{"restart", "clusterCIDR: 11.0.0.0/8\nclientConnection: {qps: 1}\nlogging: {format: json}\nmetricsBindAddress: '[::]:1'",
			nil, []string{"clientConnection", "detectLocal", "metricsBindAddress", "logging"}},
		{"both", "detectLocalMode: NodeCIDR\noomScoreAdj: 1", []string{"oomScoreAdj"}, []string{"detectLocal"}},
	}
	old, _, err := fromFile(t, base).Complete()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			next, _, err := fromFile(t, test.file).Complete()
			if err != nil {
				t.Fatal(err)
			}
			live, restart := Diff(old, next)
			if diff := cmp.Diff([][]string{test.live, test.restart}, [][]string{live, restart}); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestDiffSeesEveryField changes each field of Config by itself.
func TestDiffSeesEveryField(t *testing.T) {
	ignored := []string{"File", "ShowVersion", "WriteConfigTo", "Cleanup", "InitOnly"}
	for f := range reflect.TypeFor[Config]().Fields() {
		if slices.Contains(ignored, f.Name) {
			continue
		}
		old, next := new(Config), new(Config)
		v := reflect.ValueOf(next).Elem().FieldByIndex(f.Index)
		switch v.Interface().(type) {
		case string:
			v.SetString("x")
		case bool:
			v.SetBool(true)
		case int, time.Duration:
			v.SetInt(1)
		case netip.AddrPort:
			v.Set(reflect.ValueOf(listenAt("192.0.2.1:1")))
		case []netip.Addr:
			v.Set(reflect.ValueOf(addrs("192.0.2.1")))
		case map[string]bool:
			v.Set(reflect.ValueOf(map[string]bool{"x": true}))
		case Source:
			next.Source.Resync = 1
		case NodePortAddresses:
			next.NodePortAddresses.CIDRs = prefixes("10.0.0.0/8")
		case LocalDetection:
			next.LocalDetection.ClusterCIDRs = prefixes("10.0.0.0/8")
		case Conntrack:
			next.Conntrack.TCPBeLiberal = true
		case DNS:
			next.DNS.Addrs = addrs("192.0.2.1")
		case logsapi.LoggingConfiguration:
			next.Logging.Format = "json"
		default:
			t.Errorf("%s: no way to change a %v", f.Name, f.Type)
		}
		if live, restart := Diff(old, next); len(live)+len(restart) != 1 {
			t.Errorf("%s changed: %v, %v, want one", f.Name, live, restart)
		}
	}
}
