package conntrack

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const netfilter = "net/netfilter/"

func TestSetup(t *testing.T) {
	before := map[string]string{
		netfilter + "nf_conntrack_max":                     "262144",
		netfilter + "nf_conntrack_buckets":                 "65536",
		netfilter + "nf_conntrack_tcp_timeout_established": "432000",
		netfilter + "nf_conntrack_tcp_timeout_close_wait":  "60",
		netfilter + "nf_conntrack_udp_timeout":             "30",
		netfilter + "nf_conntrack_udp_timeout_stream":      "120",
		netfilter + "nf_conntrack_tcp_be_liberal":          "0",
	}
	const (
		maxFile  = netfilter + "nf_conntrack_max"
		hashFile = netfilter + "nf_conntrack_buckets"
	)
	size := func(perCore, min int32, cpus int) SysctlConfig {
		return SysctlConfig{MaxPerCore: &perCore, Min: &min, CPUs: cpus}
	}
	noMin := size(40000, 0, 2)
	noMin.Min = nil
	d := func(d time.Duration) *time.Duration { return &d }
	tests := []struct {
		name string
		cfg  SysctlConfig
		want map[string]string // what is written
	}{
		{"nothing asked", SysctlConfig{}, nil},
		{"maxPerCore 0", size(0, 500000, 8), nil},
		{"by CPUs", size(32768, 131072, 16), map[string]string{maxFile: "524288", hashFile: "131072"}},
		{"by the minimum", size(32768, 131072, 2), map[string]string{maxFile: "131072"}},
		{"no minimum", noMin, map[string]string{maxFile: "80000"}},
		{"at most 1048576", size(32768, 131072, 64), map[string]string{maxFile: "1048576", hashFile: "262144"}},
		{"an explicit minimum above that", size(32768, 2000000, 2), map[string]string{maxFile: "2000000", hashFile: "500000"}},
		{"no overflow", size(1<<30, 0, 1024), map[string]string{maxFile: "1048576", hashFile: "262144"}},
		{"as it is", size(32768, 131072, 8), nil},
		{"timeouts", SysctlConfig{
			TCPEstablishedTimeout: d(24 * time.Hour), TCPCloseWaitTimeout: d(time.Hour),
			UDPTimeout: d(30 * time.Second), UDPStreamTimeout: d(500 * time.Millisecond), TCPBeLiberal: true,
		}, map[string]string{
			netfilter + "nf_conntrack_tcp_timeout_established": "86400",
			netfilter + "nf_conntrack_tcp_timeout_close_wait":  "3600",
			netfilter + "nf_conntrack_udp_timeout_stream":      "1",
			netfilter + "nf_conntrack_tcp_be_liberal":          "1",
		}},
		{"timeouts of 0", SysctlConfig{TCPEstablishedTimeout: d(0), UDPTimeout: d(0)}, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.cfg.Dir = t.TempDir()
			for path, value := range before {
				path = filepath.Join(test.cfg.Dir, path)
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(value+"\n"), 0o644)); err != nil {
					t.Fatal(err)
				}
			}
			if err := Setup(test.cfg); err != nil {
				t.Fatal(err)
			}
			want, got := maps.Clone(before), map[string]string{}
			maps.Copy(want, test.want)
			for path := range want {
				b, err := os.ReadFile(filepath.Join(test.cfg.Dir, path))
				if err != nil {
					t.Fatal(err)
				}
				got[path] = strings.TrimSpace(string(b))
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestSetupNames(t *testing.T) {
	n := int32(1000)
	err := Setup(SysctlConfig{MaxPerCore: &n, CPUs: 3, TCPBeLiberal: true, Dir: t.TempDir()})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, want := range []string{"nf_conntrack_max to 3000", "nf_conntrack_buckets to 750", "nf_conntrack_tcp_be_liberal to 1", "load the kernel module"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nlacks %q", err, want)
		}
	}
}
