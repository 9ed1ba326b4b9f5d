//go:build linux

package names

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/weir-project/weir/dns/dnstest"
	"github.com/weir-project/weir/internal/kubelab"
)

// What TestMain makes for all tests.
var (
	binary   string            // the weir that is tested
	upstream *dnstest.Upstream // for names elsewhere
	shared   *kubelab.Cluster  // made by the first test that wants it
)

func TestMain(m *testing.M) {
	os.Exit(testMain(m))
}

func testMain(m *testing.M) (code int) {
	flag.Parse()
	if testing.Short() {
		return m.Run() // everything skips
	}
	dir, err := os.MkdirTemp("", "weir-names-")
	if err == nil {
		defer os.RemoveAll(dir)
		err = build(dir)
	}
	if err == nil {
		upstream, err = dnstest.Serve(elsewhere)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		err := upstream.Close()
		if shared != nil {
			err = errors.Join(err, shared.Close())
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}()
	return m.Run()
}

// build builds weir, with the race detector if this test has it.
func build(dir string) error {
	if binary = os.Getenv("WEIR_BINARY"); binary != "" {
		return nil
	}
	binary = filepath.Join(dir, "weir")
	args := []string{"build", "-o", binary}
	if raceDetector {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "github.com/weir-project/weir/cmd/weir")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build weir: %w\n%s", err, out)
	}
	return nil
}

// serviceCIDRs hold the cluster IPs in dns/testdata/cluster.
const serviceCIDRs = "10.96.0.0/16,fd00:96::/112"

// apiServer returns the API server that the tests share.
func apiServer(t *testing.T) *kubelab.Cluster {
	t.Helper()
	if shared == nil {
		c, err := kubelab.Start(context.Background(), kubelab.Config{ServiceCIDR: serviceCIDRs})
		if err != nil {
			t.Fatal(err)
		}
		shared = c
	}
	return shared
}
