//go:build linux

package nodedns

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/weir-project/weir/internal/netlab"
)

// binary is the weir that is tested, once built has been called, and scratch a directory of the whole
// run.
var binary, scratch string

func TestMain(m *testing.M) {
	var err error
	if scratch, err = os.MkdirTemp("", "weir-nodedns-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(scratch)
	os.Exit(code)
}

// built builds weir, with the race detector if this test has it.
var built = sync.OnceValue(func() error {
	if binary = os.Getenv("WEIR_BINARY"); binary != "" {
		return nil
	}
	binary = filepath.Join(scratch, "weir")
	args := []string{"build", "-o", binary}
	if raceDetector {
		args = append(args, "-race")
	}
	if out, err := exec.Command("go", append(args, "github.com/weir-project/weir/cmd/weir")...).CombinedOutput(); err != nil {
		return fmt.Errorf("build weir: %w\n%s", err, out)
	}
	return nil
})

// require skips a test where there can be no lab. With CI=true it fails instead.
func require(t testing.TB) {
	t.Helper()
	netlab.Require(t)
	if testing.Short() {
		t.Skip("-short")
	}
	if err := built(); err != nil {
		t.Fatal(err)
	}
}
