//go:build linux

package lookups

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"k8s.io/klog/v2"
)

// weir is the program that is tested, once TestMain has built it.
var weir string

// goLookup names what this test does instead, in a process of its own: look a name up with Go's
// resolver, as the resolv.conf there says.
const goLookup = "WEIR_TEST_LOOKUP"

func TestMain(m *testing.M) {
	if name := os.Getenv(goLookup); name != "" {
		os.Exit(lookUp(name))
	}
	os.Exit(testMain(m))
}

func lookUp(name string) int {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	addrs, err := (&net.Resolver{PreferGo: true}).LookupHost(ctx, name)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	slices.Sort(addrs)
	for _, a := range addrs {
		fmt.Println(a)
	}
	return 0
}

func testMain(m *testing.M) int {
	flag.Parse()
	if testing.Short() {
		return m.Run() // everything skips
	}
	klog.SetLogger(klog.Logger{}) // client-go has much to say while an API server is away
	dir, err := os.MkdirTemp("", "weir-lookups-")
	if err == nil {
		defer os.RemoveAll(dir)
		err = build(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// build builds weir, with the race detector if this test has it.
func build(dir string) error {
	if weir = os.Getenv("WEIR_BINARY"); weir != "" {
		return nil
	}
	weir = filepath.Join(dir, "weir")
	args := []string{"build", "-o", weir}
	if raceDetector {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "github.com/weir-project/weir/cmd/weir")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build weir: %w\n%s", err, out)
	}
	return nil
}

// patience is how long anything may take on a machine that is busy with other things.
const patience = 60 * time.Second

// eventually waits until check finds nothing wrong.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatalf("never right: %v", err)
}
