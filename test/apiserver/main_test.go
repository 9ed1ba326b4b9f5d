//go:build linux

package apiserver

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"k8s.io/klog/v2"

	"github.com/weir-project/weir/internal/netlab"
)

// binary is the weir that is tested, once TestMain has built it.
var binary string

func TestMain(m *testing.M) {
	os.Exit(testMain(m))
}

func testMain(m *testing.M) (code int) {
	flag.Parse()
	if netlab.Available() != nil || testing.Short() {
		return m.Run() // what needs a lab skips
	}
	// client-go has much to say while an API server is away, and we stop it on purpose.
	klog.SetLogger(klog.Logger{})
	dir, err := os.MkdirTemp("", "weir-apiserver-")
	if err == nil {
		defer os.RemoveAll(dir)
		err = errors.Join(os.Chmod(dir, 0o755), build(dir)) // another user runs it, too
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		if err := shared.close(); err != nil {
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
