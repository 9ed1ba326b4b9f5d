//go:build linux

package packets

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/weir-project/weir/internal/netlab"
)

// binary is the weir that is tested, and help what it says of weir run. Both are there once built
// has been called.
var binary, help string

// scratch is a directory of the whole run.
var scratch string

func TestMain(m *testing.M) {
	var err error
	if scratch, err = os.MkdirTemp("", "weir-packets-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(scratch)
	os.Exit(code)
}

// built builds weir, with the race detector if this test has it.
var built = sync.OnceValue(func() error {
	if binary = os.Getenv("WEIR_BINARY"); binary == "" {
		binary = filepath.Join(scratch, "weir")
		args := []string{"build", "-o", binary}
		if raceDetector {
			args = append(args, "-race")
		}
		cmd := exec.Command("go", append(args, "github.com/weir-project/weir/cmd/weir")...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build weir: %w\n%s", err, out)
		}
	}
	out, err := exec.Command(binary, "run", "--help").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s run --help: %w", binary, err)
	}
	help = string(out)
	return nil
})

// require skips a test where there is no lab or no nft. With CI=true it fails instead.
func require(t testing.TB) {
	t.Helper()
	netlab.Require(t)
	if testing.Short() {
		t.Skip("-short")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	if err := built(); err != nil {
		t.Fatal(err)
	}
}

// newLab builds a lab in which every host but the clients serves every protocol on two ports, with a witness.
func newLab(t testing.TB, cfg netlab.Config) (*netlab.Lab, *witness) {
	t.Helper()
	require(t)
	lab := netlab.NewForTest(t, cfg)
	for _, h := range lab.Hosts() {
		if strings.HasPrefix(h.Name, "client") {
			continue
		}
		for _, f := range familiesOf(lab) {
			for _, proto := range protocols {
				serve(t, h, proto, f.of(h).String(), 8080, 8081)
			}
		}
	}
	w, err := newWitness(lab)
	if err != nil {
		t.Fatal(err)
	}
	return lab, w
}
