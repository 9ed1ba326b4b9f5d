package config

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	logsapi "k8s.io/component-base/logs/api/v1"
)

var update = flag.Bool("update", false, "write the golden files anew")

// parse returns options after a command line.
func parse(t testing.TB, args ...string) *Options {
	t.Helper()
	o := New()
	o.machineName = func() (string, error) { return "Machine-1\n", nil }
	fs := pflag.NewFlagSet("run", pflag.ContinueOnError)
	fs.SetOutput(&bytes.Buffer{}) // notes about deprecated flags
	o.AddFlags(fs)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return o
}

// fromFile returns options with --config and the content of a file, without apiVersion and kind.
func fromFile(t testing.TB, content string, args ...string) *Options {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.yaml")
	write(t, file, header+content)
	return parse(t, append(args, "--config="+file)...)
}

const header = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"

func write(t testing.TB, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

var equal = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

// TestGolden reads configurations as they are found in the world, and shows what becomes of them.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	lines, err := filepath.Glob("testdata/*.args")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range slices.Concat(files, lines) {
		t.Run(filepath.Base(file), func(t *testing.T) {
			args := []string{"--config=" + file}
			if strings.HasSuffix(file, ".args") {
				data, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				args = strings.Split(strings.TrimSpace(string(data)), "\n")
			}
			c, warnings, err := parse(t, args...).Complete()
			var got strings.Builder
			for _, w := range warnings {
				fmt.Fprintln(&got, "# warning:", w)
			}
			if err != nil {
				fmt.Fprintln(&got, "# error:", strings.ReplaceAll(err.Error(), "; ", ";\n# "))
			} else {
				data, err := c.Marshal()
				if err != nil {
					t.Fatal(err)
				}
				got.Write(data)
				roundTrip(t, c)
			}
			golden := strings.TrimSuffix(file, filepath.Ext(file)) + ".golden"
			if *update {
				write(t, golden, got.String())
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// roundTrip checks that c, written, reads back as it was.
func roundTrip(t testing.TB, c *Config) {
	t.Helper()
	written := *c
	written.WriteConfigTo = filepath.Join(t.TempDir(), "written.yaml")
	if err := written.Write(); err != nil {
		t.Fatal(err)
	}
	again, warnings, err := parse(t, append(c.ownFlags(), "--config="+written.WriteConfigTo)...).Complete()
	if err != nil {
		t.Fatalf("what was written is refused: %v", err)
	}
	for _, w := range warnings {
		if !strings.Contains(string(w), "clusterCIDR is not set") {
			t.Errorf("what was written brings a warning: %s", w)
		}
	}
	want := *c
	want.File = written.WriteConfigTo
	want.ShowVersion, want.WriteConfigTo, want.Cleanup, want.InitOnly = false, "", false, false
	if diff := cmp.Diff(&want, again, equal); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}
	if live, restart := Diff(&want, again); len(live)+len(restart) > 0 {
		t.Errorf("read back: %v, %v differ", live, restart)
	}
}

func prefixes(s ...string) []netip.Prefix {
	var list []netip.Prefix
	for _, p := range s {
		list = append(list, netip.MustParsePrefix(p))
	}
	return list
}

func addrs(s ...string) []netip.Addr {
	var list []netip.Addr
	for _, a := range s {
		list = append(list, netip.MustParseAddr(a))
	}
	return list
}

func listenAt(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// TestDefaults holds what no flag and an empty file mean.
func TestDefaults(t *testing.T) {
	want := Config{
		Source: Source{
			QPS: 5, Burst: 10, ContentType: "application/vnd.kubernetes.protobuf", Resync: 15 * time.Minute,
		},
		NodeName:          "machine-1",
		NodePortAddresses: NodePortAddresses{Primary: true},
		LocalDetection:    LocalDetection{Mode: DetectNone},
		SyncPeriod:        30 * time.Second,
		HealthzAddress:    listenAt("0.0.0.0:10256"),
		MetricsAddress:    listenAt("127.0.0.1:10249"),
		Socket:            "/run/weir/weir.sock",
		Conntrack: Conntrack{
			MaxPerCore: 32768, Min: 131072, TCPEstablishedTimeout: 24 * time.Hour, TCPCloseWaitTimeout: time.Hour,
		},
		OOMScoreAdj: -999,
		Logging:     New().logging,
	}
	got, _, err := parse(t).Complete()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&want, got, equal); diff != "" {
		t.Errorf("flags (-want +got):\n%s", diff)
	}

	// A file without a mode was written for iptables.
	o := fromFile(t, "")
	want.File = o.file
	want.NodePortAddresses = NodePortAddresses{CIDRs: prefixes("0.0.0.0/0", "::/0")}
	if got, _, err = o.Complete(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&want, got, equal); diff != "" {
		t.Errorf("file (-want +got):\n%s", diff)
	}
}

// TestMeaning holds what each setting means: how it changes the configuration of the same command
// line, or of an empty file, without it.
func TestMeaning(t *testing.T) {
	all := NodePortAddresses{CIDRs: prefixes("0.0.0.0/0", "::/0")}
	tests := []struct {
		name string
		file string // none if empty
		args []string
		want func(c *Config)
	}{
		{"sync periods of iptables", "iptables: {syncPeriod: 1m, minSyncPeriod: 3s, masqueradeAll: true}\nipvs: {syncPeriod: 2m}\nnftables: {syncPeriod: 2m}", nil, func(c *Config) {
			c.SyncPeriod, c.MinSyncPeriod, c.MasqueradeAll = time.Minute, 3*time.Second, true
		}},
		{"sync periods of ipvs", "mode: ipvs\niptables: {syncPeriod: 2m, masqueradeAll: true}\nipvs: {syncPeriod: 1m, minSyncPeriod: 3s}", nil, func(c *Config) {
			c.SyncPeriod, c.MinSyncPeriod, c.MasqueradeAll = time.Minute, 3*time.Second, true
		}},
		{"sync periods of nftables", "mode: nftables\niptables: {syncPeriod: 2m, masqueradeAll: true}\nnftables: {syncPeriod: 1m, minSyncPeriod: 3s}", nil, func(c *Config) {
			c.SyncPeriod, c.MinSyncPeriod = time.Minute, 3*time.Second
			c.NodePortAddresses = NodePortAddresses{Primary: true}
		}},
		{"min-sync-period is before the file's", "iptables: {minSyncPeriod: 3s}", []string{"--min-sync-period=0s"}, func(*Config) {}},
		{"node ports of iptables", "mode: iptables", nil, func(*Config) {}},
		{"node ports of ipvs", "mode: ipvs", nil, func(*Config) {}},
		{"node ports of nftables", "mode: nftables", nil, func(c *Config) { c.NodePortAddresses = NodePortAddresses{Primary: true} }},
		{"node ports: all", "nodePortAddresses: [all]", nil, func(c *Config) { c.NodePortAddresses = all }},
		{"node ports: a mixture", "nodePortAddresses: [10.0.1.2/8, primary, 0.0.0.0/0, all]", nil, func(c *Config) {
			c.NodePortAddresses = NodePortAddresses{Primary: true, CIDRs: prefixes("10.0.0.0/8", "0.0.0.0/0", "::/0")}
		}},
		{"node ports: all of the family left out", "nodePortAddresses: [10.0.0.0/8]", nil, func(c *Config) {
			c.NodePortAddresses = NodePortAddresses{CIDRs: prefixes("10.0.0.0/8", "::/0")}
		}},
		{"node ports: primary leaves no family out", "nodePortAddresses: [10.0.0.0/8, primary]", nil, func(c *Config) {
			c.NodePortAddresses = NodePortAddresses{Primary: true, CIDRs: prefixes("10.0.0.0/8")}
		}},
		{"several cluster CIDRs in a family", "clusterCIDR: 10.0.0.0/16, 10.2.0.0/16,fd00::/48,10.0.0.0/16,::ffff:10.3.0.0/112,010.4.0.0/16", nil, func(c *Config) {
			c.LocalDetection = LocalDetection{Mode: DetectClusterCIDR, ClusterCIDRs: prefixes("10.0.0.0/16", "10.2.0.0/16", "fd00::/48", "10.3.0.0/16", "10.4.0.0/16")}
		}},
		{"parameters of other modes are dropped", "detectLocalMode: NodeCIDR\nclusterCIDR: nonsense\ndetectLocal: {bridgeInterface: cni0}", nil, func(c *Config) {
			c.LocalDetection = LocalDetection{Mode: DetectNodeCIDR}
		}},
		{"interface name prefix", "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: veth}", nil, func(c *Config) {
			c.LocalDetection = LocalDetection{Mode: DetectInterfaceNamePrefix, InterfaceNamePrefix: "veth"}
		}},
		{"bind address is the node's", "bindAddress: 192.0.2.7", nil, func(c *Config) { c.NodeIPs = addrs("192.0.2.7") }},
		{"bind address decides the family", "bindAddress: 2001:db8::7", nil, func(c *Config) {
			c.NodeIPs, c.HealthzAddress, c.MetricsAddress = addrs("2001:db8::7"), listenAt("[::]:10256"), listenAt("[::1]:10249")
		}},
		{"node-ip is before the bind address", "bindAddress: 192.0.2.7", []string{"--node-ip=2001:db8::7,192.0.2.8"}, func(c *Config) {
			c.NodeIPs = addrs("2001:db8::7", "192.0.2.8")
		}},
		{"addresses without a port", "healthzBindAddress: 127.0.0.1\nmetricsBindAddress: \"::\"", nil, func(c *Config) {
			c.HealthzAddress, c.MetricsAddress = listenAt("127.0.0.1:10256"), listenAt("[::]:10249")
		}},
		{"port 0 does not listen", "healthzBindAddress: 127.0.0.1:0\nmetricsBindAddress: \"[::]:0\"", nil, func(c *Config) {
			c.HealthzAddress, c.MetricsAddress = netip.AddrPort{}, netip.AddrPort{}
		}},
		{"hostname in the file", "hostnameOverride: \" NODE-2 \"", nil, func(c *Config) { c.NodeName = "node-2" }},
		{"hostname override beside the file", "hostnameOverride: node-2", []string{"--hostname-override=NODE-3"}, func(c *Config) { c.NodeName = "node-3" }},
		{"other flags beside the file are ignored", "mode: iptables", []string{"--masquerade-all", "--proxy-mode=nftables", "--kubeconfig=x", "--bind-address=192.0.2.1"}, func(*Config) {}},
		{"logging flags beside the file", "logging: {verbosity: 1, format: json, vmodule: []}", []string{"-v=5"}, func(c *Config) {
			c.Logging.Verbosity, c.Logging.Format = 5, "json"
		}},
		{"logging of the file that no flag names", "logging: {vmodule: [{filePattern: a, verbosity: 1}], options: {text: {splitStream: true}}}\nfeatureGates: {LoggingAlphaOptions: true}", []string{"--vmodule=b=2"}, func(c *Config) {
			c.FeatureGates = map[string]bool{"LoggingAlphaOptions": true}
			c.Logging.Options.Text.SplitStream = true
			c.Logging.VModule = logsapi.VModuleConfiguration{{FilePattern: "b", Verbosity: 2}, {FilePattern: "a", Verbosity: 1}}
		}},
		{"feature gates", "featureGates: {AllowServiceExternalIPs: false, NFTablesProxyMode: true}", nil, func(c *Config) {
			c.FeatureGates = map[string]bool{"AllowServiceExternalIPs": false}
		}},

		{"flag: proxy-mode iptables", "", []string{"--proxy-mode=iptables"}, func(c *Config) { c.NodePortAddresses = all }},
		{"flag: sync periods of iptables hold for nftables", "", []string{"--iptables-sync-period=1m", "--iptables-min-sync-period=3s", "--masquerade-all"}, func(c *Config) {
			c.SyncPeriod, c.MinSyncPeriod, c.MasqueradeAll = time.Minute, 3*time.Second, true
		}},
		{"flag: sync periods of ipvs", "", []string{"--proxy-mode=ipvs", "--iptables-sync-period=2m", "--ipvs-sync-period=1m", "--ipvs-min-sync-period=3s", "--masquerade-all"}, func(c *Config) {
			c.SyncPeriod, c.MinSyncPeriod, c.MasqueradeAll, c.NodePortAddresses = time.Minute, 3*time.Second, true, all
		}},
		{"flag: empty addresses do not listen", "", []string{"--healthz-bind-address=", "--metrics-bind-address="}, func(c *Config) {
			c.HealthzAddress, c.MetricsAddress = netip.AddrPort{}, netip.AddrPort{}
		}},
		{"flag: cluster-cidr repeated", "", []string{"--cluster-cidr=10.0.0.0/16,fd00::/48", "--cluster-cidr=10.1.0.0/16"}, func(c *Config) {
			c.LocalDetection = LocalDetection{Mode: DetectClusterCIDR, ClusterCIDRs: prefixes("10.0.0.0/16", "fd00::/48", "10.1.0.0/16")}
		}},
		{"flag: old ports", "", []string{"--healthz-port=1", "--metrics-port=2", "--metrics-bind-address=0.0.0.0"}, func(c *Config) {
			c.HealthzAddress, c.MetricsAddress = listenAt("0.0.0.0:1"), listenAt("0.0.0.0:2")
		}},
		{"flag: old ports, IPv6", "", []string{"--bind-address=::", "--healthz-port=1", "--metrics-port=2"}, func(c *Config) {
			c.HealthzAddress, c.MetricsAddress = listenAt("[::]:1"), listenAt("[::1]:2")
		}},
		{"flag: old ports do not replace one", "", []string{"--healthz-port=1", "--healthz-bind-address=127.0.0.1:3"}, func(c *Config) {
			c.HealthzAddress = listenAt("127.0.0.1:3")
		}},
		{"flag: old ports 0 do not listen", "", []string{"--healthz-port=0", "--metrics-port=0"}, func(c *Config) {
			c.HealthzAddress, c.MetricsAddress = netip.AddrPort{}, netip.AddrPort{}
		}},
		{"flag: manifests", "", []string{"--manifests=/m", "--service-cidr=10.96.0.0/12", "--service-cidr=fd00::/112"}, func(c *Config) {
			c.Source.Manifests, c.Source.ServiceCIDRs = "/m", prefixes("10.96.0.0/12", "fd00::/112")
		}},
		{"flag: sysctls elsewhere", "", []string{"--sysctl-dir=/host/proc/sys"}, func(c *Config) { c.SysctlDir = "/host/proc/sys" }},
		{"flag: what to do", "", []string{"--init-only", "--cleanup", "--write-config-to=/w", "--version"}, func(c *Config) {
			c.InitOnly, c.Cleanup, c.WriteConfigTo, c.ShowVersion = true, true, "/w", true
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			without, with := parse(t), parse(t, test.args...)
			if test.file != "" {
				without, with = fromFile(t, ""), fromFile(t, test.file, test.args...)
			}
			want, _, err := without.Complete()
			if err != nil {
				t.Fatal(err)
			}
			want.File = with.file
			test.want(want)
			got, warnings, err := with.Complete()
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("warnings: %q", warnings)
			if diff := cmp.Diff(want, got, equal); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			roundTrip(t, got)
		})
	}
}

// TestWarnings holds what the operator is told.
func TestWarnings(t *testing.T) {
	const (
		noCIDR    = "clusterCIDR is not set: pods cannot be told from strangers, so that nothing on its way to a cluster IP is masqueraded"
		localhost = "iptables.localhostNodePorts is on, the default of the mode iptables: Weir does not serve NodePorts on loopback addresses"
	)
	tests := []struct {
		name string
		file string
		args []string
		want []Warning
	}{
		{"nothing", "mode: nftables\nclusterCIDR: 10.0.0.0/8", nil, nil},
		{"defaults of kube-proxy written out", "mode: nftables\nclusterCIDR: 10.0.0.0/8\niptables: {syncPeriod: 30s, minSyncPeriod: 1s, masqueradeBit: 14, localhostNodePorts: true}", nil, nil},
		{"loopback by default", "clusterCIDR: 10.0.0.0/8", nil, []Warning{localhost}},
		{"loopback asked for", "mode: iptables\nclusterCIDR: 10.0.0.0/8\niptables: {localhostNodePorts: true}", nil, []Warning{localhost}},
		{"loopback off", "clusterCIDR: 10.0.0.0/8\niptables: {localhostNodePorts: false}", nil, nil},
		{"loopback not among the addresses", "clusterCIDR: 10.0.0.0/8\nnodePortAddresses: [10.0.0.0/8, 'fd00::/8']", nil, nil},
		{"no CIDR", "mode: nftables", nil, []Warning{noCIDR}},
		{"no CIDR, and it is meant", "mode: nftables\ndetectLocalMode: None", nil, nil},
		{"without effect", "mode: nftables\nclusterCIDR: 10.0.0.0/8\nportRange: 1-2\nipvs: {scheduler: rr}\nnftables: {masqueradeBit: 3}\nwinkernel: {sourceVip: 1.2.3.4}", nil,
			[]Warning{"without effect: ipvs.scheduler, nftables.masqueradeBit, winkernel.sourceVip, portRange"}},
		{"a section of another mode", "mode: nftables\nclusterCIDR: 10.0.0.0/8\niptables: {masqueradeAll: true, minSyncPeriod: 10s}", nil,
			[]Warning{"without effect: iptables.masqueradeAll, iptables.minSyncPeriod"}},
		{"feature gates", "mode: nftables\nclusterCIDR: 10.0.0.0/8\nfeatureGates: {WinDSR: false, ComponentFlagz: true, KubeProxyIPVS: true}", nil,
			[]Warning{"feature gates without effect: KubeProxyIPVS, WinDSR"}},
		{"flags beside a file", "mode: nftables\nclusterCIDR: 10.0.0.0/8", []string{"--cluster-cidr=1.0.0.0/8", "--healthz-port=1", "-v=2"},
			[]Warning{"ignored beside --config: --cluster-cidr, --healthz-port"}},
		{"flags without effect", "", []string{"--cluster-cidr=1.0.0.0/8", "--iptables-masquerade-bit=3", "--ipvs-strict-arp", "--boot-id-file=x", "--ipvs-sync-period=1s"},
			[]Warning{"without effect: --boot-id-file, --iptables-masquerade-bit, --ipvs-sync-period, --ipvs-strict-arp"}},
		{"a bind address that is not the node's", "", []string{"--cluster-cidr=1.0.0.0/8", "--node-ip=192.0.2.1", "--bind-address=192.0.2.2"},
			[]Warning{"--bind-address 192.0.2.2 is not among --node-ip and ignored"}},
		{"twice", "", []string{"--cluster-cidr=1.0.0.0/8,1.2.3.4/8"}, []Warning{"--cluster-cidr has 1.0.0.0/8 more than once"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			o := parse(t, test.args...)
			if test.file != "" {
				o = fromFile(t, test.file, test.args...)
			}
			_, got, err := o.Complete()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestFaults holds what is refused, by field or flag. More are in testdata/faults.yaml.
func TestFaults(t *testing.T) {
	tests := []struct {
		name string
		file string
		args []string
		want []string // fields
	}{
		{"all at once", "", []string{"--cluster-cidr=10.0.0.0/8,x", "--bind-address=x", "--node-ip=192.0.2.1,192.0.2.2,::", "--oom-score-adj=-1001", "--iptables-sync-period=0s", "--healthz-port=-1"},
			[]string{"--healthz-port", "--bind-address", "--cluster-cidr[1]", "--oom-score-adj", "--iptables-sync-period", "--node-ip[1]", "--node-ip[2]"}},
		{"two sources", "", []string{"--manifests=/m", "--kubeconfig=/k", "--master=x"}, []string{"--kubeconfig", "--master"}},
		{"two sources, one in the file", "clientConnection: {kubeconfig: /k}", []string{"--manifests=/m"}, []string{"clientConnection.kubeconfig"}},
		{"service CIDR of an API server", "", []string{"--service-cidr=10.0.0.0/8"}, []string{"--service-cidr"}},
		{"mode without its parameter", "", []string{"--detect-local-mode=InterfaceNamePrefix"}, []string{"--pod-interface-name-prefix"}},
		{"name longer than an interface's", "", []string{"--detect-local-mode=BridgeInterface", "--pod-bridge-interface=abcdefghijklmnop"}, []string{"--pod-bridge-interface"}},
		{"unknown detection", "", []string{"--detect-local-mode=Guess"}, []string{"--detect-local-mode"}},
		{"unknown mode", "mode: ebpf", nil, []string{"mode"}},
		{"mode of old", "mode: userspace", nil, []string{"mode"}},
		{"loopback", "", []string{"--nodeport-addresses=::1/128,localhost,127.0.0.0/8"}, []string{"--nodeport-addresses[0]", "--nodeport-addresses[1]", "--nodeport-addresses[2]"}},
		{"min-sync-period longer than sync period", "", []string{"--min-sync-period=31s"}, []string{"--min-sync-period"}},
		{"min-sync-period is negative", "", []string{"--min-sync-period=-1s"}, []string{"--min-sync-period"}},
		{"unknown feature gate", "", []string{"--feature-gates=Nope=true,ComponentFlagz=true"}, []string{"--feature-gates[Nope]"}},
		{"hostname of blanks", "", []string{"--hostname-override= "}, []string{"--hostname-override"}},
		{"log options without their gate", "logging: {options: {text: {splitStream: true}}}", nil, []string{"logging.options.text.splitStream"}},
		{"CIDR list that is empty", "clusterCIDR: ','", nil, []string{"clusterCIDR[0]", "clusterCIDR[1]"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			o := parse(t, test.args...)
			if test.file != "" {
				o = fromFile(t, test.file, test.args...)
			}
			_, _, err := o.Complete()
			var refused *Error
			if !errors.As(err, &refused) {
				t.Fatalf("error %v, want *Error", err)
			}
			var got []string
			for _, f := range refused.Faults {
				got = append(got, f.Field)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s\n%v", diff, err)
			}
		})
	}
}

func TestMachineWithoutName(t *testing.T) {
	o := parse(t)
	o.machineName = func() (string, error) { return "", errors.New("uname failed") }
	if _, _, err := o.Complete(); err == nil || !strings.Contains(err.Error(), "--hostname-override: Required value") {
		t.Errorf("error %v", err)
	}
}

// TestWrittenForManyMachines holds that a name that came from the machine is not written.
func TestWrittenForManyMachines(t *testing.T) {
	o := parse(t)
	o.machineName = os.Hostname
	c, _, err := o.Complete()
	if err != nil {
		t.Fatal(err)
	}
	data, err := c.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), "\nhostnameOverride: \"\"\n") {
		t.Errorf("written:\n%s", data)
	}
}
