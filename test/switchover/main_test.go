//go:build linux

package switchover

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/weir-project/weir/internal/netlab"
)

// binary is the weir that is tested: WEIR_BINARY, or one that TestMain builds.
var binary string

func TestMain(m *testing.M) {
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	flag.Parse()
	if netlab.Available() != nil || testing.Short() {
		return m.Run() // what needs a lab skips
	}
	dir, err := os.MkdirTemp("", "weir-switchover-")
	if err == nil {
		defer os.RemoveAll(dir)
		err = buildWeir(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func buildWeir(dir string) error {
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

// require skips the test where something that it needs is missing. With CI=true it fails instead.
func require(t testing.TB, commands ...string) {
	t.Helper()
	netlab.Require(t)
	if testing.Short() {
		t.Skip("-short")
	}
	for _, c := range commands {
		if _, err := exec.LookPath(c); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
}
