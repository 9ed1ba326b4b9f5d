package config

import (
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// kubeProxyFlags are all flags of kube-proxy on Linux, each with a value that it takes.
var kubeProxyFlags = []string{
	"--bind-address=192.0.2.1",
	"--bind-address-hard-fail",
	"--boot-id-file=/proc/sys/kernel/random/boot_id",
	"--cleanup",
	"--cluster-cidr=10.244.0.0/16,fd00:10:244::/56",
	"--config-sync-period=20m",
	"--conntrack-max-per-core=0",
	"--conntrack-min=1000",
	"--conntrack-tcp-be-liberal",
	"--conntrack-tcp-timeout-close-wait=1h",
	"--conntrack-tcp-timeout-established=24h",
	"--conntrack-udp-timeout=30s",
	"--conntrack-udp-timeout-stream=3m",
	"--detect-local-mode=ClusterCIDR",
	"--feature-gates=WinDSR=true,ContextualLogging=true",
	"--healthz-bind-address=0.0.0.0:10256",
	"--healthz-port=10256",
	"--hostname-override=node-1",
	"--init-only",
	"--iptables-localhost-nodeports=false",
	"--iptables-masquerade-bit=14",
	"--iptables-min-sync-period=1s",
	"--iptables-sync-period=30s",
	"--ipvs-exclude-cidrs=10.0.0.0/8,172.16.0.0/12",
	"--ipvs-min-sync-period=0s",
	"--ipvs-scheduler=rr",
	"--ipvs-strict-arp",
	"--ipvs-sync-period=30s",
	"--ipvs-tcp-timeout=1h",
	"--ipvs-tcpfin-timeout=1m",
	"--ipvs-udp-timeout=1m",
	"--kube-api-burst=10",
	"--kube-api-content-type=application/json",
	"--kube-api-qps=5",
	"--kubeconfig=/etc/kubernetes/kube-proxy.conf",
	"--log-flush-frequency=5s",
	"--log-json-info-buffer-size=0",
	"--log-json-split-stream=false",
	"--log-text-info-buffer-size=0",
	"--log-text-split-stream=false",
	"--logging-format=text",
	"--machine-id-file=/etc/machine-id",
	"--masquerade-all",
	"--master=https://192.0.2.1:6443",
	"--metrics-bind-address=127.0.0.1:10249",
	"--metrics-port=10249",
	"--nodeport-addresses=10.0.0.0/8,fd00::/8",
	"--oom-score-adj=-999",
	"--pod-bridge-interface=cni0",
	"--pod-interface-name-prefix=veth",
	"--profiling",
	"--proxy-mode=ipvs",
	"--show-hidden-metrics-for-version=1.36",
	"--v=2",
	"--version",
	"--vmodule=proxier=4",
	"--write-config-to=/tmp/config.yaml",
	// and --config, which would make it ignore the rest
}

func TestKubeProxyFlags(t *testing.T) {
	for _, arg := range kubeProxyFlags {
		t.Run(strings.TrimLeft(strings.Split(arg, "=")[0], "-"), func(t *testing.T) {
			if _, _, err := parse(t, arg).Complete(); err != nil {
				t.Error(err)
			}
		})
	}
	c, warnings, err := parse(t, kubeProxyFlags...).Complete()
	if err != nil {
		t.Fatalf("all together: %v", err)
	}
	roundTrip(t, c)
	want := []Warning{
		"feature gates without effect: WinDSR",
		"without effect: --boot-id-file, --machine-id-file, --show-hidden-metrics-for-version, --ipvs-scheduler, " +
			"--ipvs-exclude-cidrs, --ipvs-strict-arp, --ipvs-tcp-timeout, --ipvs-tcpfin-timeout, --ipvs-udp-timeout",
	}
	if !slices.Equal(warnings, want) {
		t.Errorf("all together: warnings %q, want %q", warnings, want)
	}
}

func TestFlagsHaveHelp(t *testing.T) {
	o := New()
	for _, fs := range []*pflag.FlagSet{o.ownFlags, o.proxyFlags} {
		fs.VisitAll(func(f *pflag.Flag) {
			// pflag itself shows a default that is not the type's zero value.
			zero := slices.Contains([]string{"", "[]", "0", "0s", "false"}, f.DefValue)
			if zero && !strings.Contains(f.Usage, "Default: ") && !strings.Contains(f.Usage, "by default") {
				t.Errorf("--%s: help does not tell the default: %s", f.Name, f.Usage)
			}
			idle := strings.HasPrefix(f.Usage, "Without effect")
			if f.Value.Type() == "duration" && !idle && !strings.Contains(strings.ToLower(f.Usage), "time") {
				t.Errorf("--%s: help does not tell what time: %s", f.Name, f.Usage)
			}
			if len(f.Usage) < 10 {
				t.Errorf("--%s: help %q", f.Name, f.Usage)
			}
		})
	}
}

// TestFlagNames holds that each of kube-proxy's flags is known by the field that it stands for, so
// that faults name the flag.
func TestFlagNames(t *testing.T) {
	o := New()
	known := map[string]bool{"healthz-port": true, "metrics-port": true, "boot-id-file": true, "machine-id-file": true}
	for path, flag := range flagOf {
		known[flag] = true
		if o.proxyFlags.Lookup(flag) == nil && o.ownFlags.Lookup(flag) == nil {
			t.Errorf("%s stands for --%s, which there is not", path, flag)
		}
	}
	o.proxyFlags.VisitAll(func(f *pflag.Flag) {
		if !known[f.Name] {
			t.Errorf("--%s stands for no field", f.Name)
		}
	})
}

func TestGatesAreSorted(t *testing.T) {
	names := strings.Fields(kubernetesGates)
	if !slices.IsSorted(names) || len(slices.Compact(slices.Clone(names))) != len(names) {
		t.Error("gates.txt must be sorted and without repetition")
	}
	for _, name := range []string{"AllowServiceExternalIPs", "MultiCIDRServiceAllocator", "PreferSameTrafficDistribution", "NFTablesNetlink",
		"KubeProxyNFTablesLocalhostNodePorts", "KubeProxyIPVS", "NativeHistograms", "WinDSR", "WinOverlay", "ComponentFlagz", "ComponentStatusz"} {
		if _, ok := slices.BinarySearch(names, name); !ok {
			t.Errorf("gates.txt lacks %s", name)
		}
	}
}

func TestEnabled(t *testing.T) {
	c, _, err := parse(t, "--feature-gates=ComponentFlagz=false").Complete()
	if err != nil {
		t.Fatal(err)
	}
	if c.Enabled(ComponentFlagz) || !c.Enabled(ComponentStatusz) || !c.Enabled(AllowServiceExternalIPs) {
		t.Errorf("ComponentFlagz %v, ComponentStatusz %v, AllowServiceExternalIPs %v, want false, true, true",
			c.Enabled(ComponentFlagz), c.Enabled(ComponentStatusz), c.Enabled(AllowServiceExternalIPs))
	}
}
