package netlab

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// TB is what this package needs of testing.TB. Programs that are not tests use it too, and are spared the
// testing package.
type TB interface {
	Helper()
	Skip(args ...any)
	Fatal(args ...any)
	Error(args ...any)
	Cleanup(func())
}

// Require skips the test where a lab cannot be built, and says why. With CI=true it fails instead: there
// a skip would look like success.
func Require(t TB) {
	t.Helper()
	err := Available()
	switch {
	case err == nil:
	case os.Getenv("CI") == "true":
		t.Fatal("CI=true, but ", err)
	default:
		t.Skip(err)
	}
}

// Available returns nil where a lab can be built, and otherwise what is missing.
func Available() error {
	if uid := os.Geteuid(); uid != 0 {
		return fmt.Errorf("network namespaces need root, this is uid %d", uid)
	}
	err := onThread(func() error { return unix.Unshare(unix.CLONE_NEWNET) })
	if err != nil {
		return fmt.Errorf("no network namespaces here (CAP_SYS_ADMIN and CONFIG_NET_NS are needed): %w", err)
	}
	if err := prepareNetnsDir(); err != nil {
		return fmt.Errorf("network namespaces cannot be named: %w", err)
	}
	return nil
}

// NewForTest builds a lab that is closed when the test ends, after a Require and a Sweep.
func NewForTest(t TB, cfg Config) *Lab {
	t.Helper()
	Require(t)
	if _, err := Sweep(); err != nil {
		t.Error("sweep leftovers of other labs: ", err)
	}
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error("close lab: ", err)
		}
	})
	return l
}
