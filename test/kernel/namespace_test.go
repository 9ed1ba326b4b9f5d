//go:build linux

package kernel

import (
	"errors"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// namespace makes a network namespace, which has no name and goes when its file descriptor is closed.
func namespace() (fd int, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // the thread ends with the goroutine
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
	}()
	<-done
	return fd, err
}

// require skips a test where it cannot make network namespaces. With CI=true it fails instead.
func require(t testing.TB) {
	t.Helper()
	fd, err := namespace()
	switch {
	case err == nil:
		_ = unix.Close(fd)
	case os.Getenv("CI") != "true" && errors.Is(err, unix.EPERM):
		t.Skip("needs network namespaces (CAP_SYS_ADMIN): run as root")
	default:
		t.Fatal(err)
	}
}
