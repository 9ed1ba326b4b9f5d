package netlab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// netnsDir is where ip netns looks for named namespaces.
const netnsDir = "/run/netns"

// labName matches the namespaces of a lab; the first group is the process that made it.
var labName = regexp.MustCompile(`^weir-([0-9]+)(?:\.[0-9]+)?-`)

// namespace is a named network namespace. The mount keeps it alive, fd too.
type namespace struct {
	name string
	file *os.File
}

func (n *namespace) path() string { return filepath.Join(netnsDir, n.name) }
func (n *namespace) fd() int      { return int(n.file.Fd()) }

// newNamespace makes a network namespace and names it as ip netns add would.
func newNamespace(name string) (*namespace, error) {
	if err := prepareNetnsDir(); err != nil {
		return nil, err
	}
	n := &namespace{name: name}
	mount, err := os.OpenFile(n.path(), os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("name network namespace %s: %w", name, err)
	}
	_ = mount.Close()
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare network namespace: %w", err)
		}
		return unix.Mount(threadNetns, n.path(), "none", unix.MS_BIND, "")
	})
	if err == nil {
		n.file, err = os.Open(n.path())
	}
	if err != nil {
		_ = removeName(name)
		return nil, fmt.Errorf("make network namespace %s: %w", name, err)
	}
	return n, nil
}

func (n *namespace) close() error {
	return errors.Join(n.file.Close(), removeName(n.name))
}

// prepareNetnsDir makes netnsDir a shared mount, as the first ip netns add does. Were it left to a
// later ip netns add, the mounts made before would be hidden below it, and outlive their removal.
func prepareNetnsDir() error {
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return err
	}
	err := unix.Mount("", netnsDir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if errors.Is(err, unix.EINVAL) { // not a mount point yet
		if err := unix.Mount(netnsDir, netnsDir, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("bind %s: %w", netnsDir, err)
		}
		err = unix.Mount("", netnsDir, "none", unix.MS_SHARED|unix.MS_REC, "")
	}
	if err != nil {
		return fmt.Errorf("share %s: %w", netnsDir, err)
	}
	return nil
}

// removeName forgets a named namespace; the kernel frees it once nobody uses it.
func removeName(name string) error {
	path := filepath.Join(netnsDir, name)
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// Sweep removes the namespaces of labs whose process is gone, and returns their names. A lab that is
// closed leaves none; one whose process was killed does.
func Sweep() ([]string, error) {
	entries, err := os.ReadDir(netnsDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var removed []string
	var errs []error
	for _, e := range entries {
		m := labName.FindStringSubmatch(e.Name())
		if m == nil {
			continue
		}
		pid, err := strconv.Atoi(m[1])
		if err != nil || !errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			continue
		}
		if err := removeName(e.Name()); err != nil {
			errs = append(errs, err)
			continue
		}
		removed = append(removed, e.Name())
	}
	return removed, errors.Join(errs...)
}

const threadNetns = "/proc/thread-self/ns/net"

// onThread runs fn on a thread that fn may move to other namespaces, and moves it back. A thread that
// cannot be moved back ends with it.
func onThread(fn func() error) error {
	errc := make(chan error, 1)
	spawn(func() {
		origin, err := os.Open(threadNetns)
		if err != nil {
			errc <- err
			return
		}
		defer origin.Close()
		finished := false
		defer func() { // also if fn panics or calls runtime.Goexit, as t.FailNow does
			restored := unix.Setns(int(origin.Fd()), unix.CLONE_NEWNET) == nil
			if restored {
				runtime.UnlockOSThread()
			}
			if !finished {
				errc <- errors.New("function on a namespace's thread did not return")
			}
		}()
		err = fn()
		finished = true
		errc <- err
	})
	return <-errc
}

// enter moves the calling thread to the namespace.
func (n *namespace) enter() error {
	if err := unix.Setns(n.fd(), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", n.name, err)
	}
	return nil
}

// spawn runs fn on a goroutine that is locked to its thread, never the process's main thread: that
// one cannot end, and /proc/self speaks for it.
func spawn(fn func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			fn()
			return
		}
		locked := make(chan struct{})
		go func() { // gets another thread, for we hold the main one
			runtime.LockOSThread()
			close(locked)
			fn()
		}()
		<-locked
		runtime.UnlockOSThread()
	}()
}
