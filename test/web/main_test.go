package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// inside marks the process that runs in the namespace.
const inside = "WEIR_WEB_INSIDE"

func TestMain(m *testing.M) {
	if err := prepare(); err != nil {
		if os.Getenv("CI") == "" && errors.Is(err, errMissing) {
			fmt.Println("skipped:", err)
			return
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if os.Getenv(inside) == "" {
		os.Exit(again())
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "ip: %v: %s\n", err, out)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

var errMissing = errors.New("this test needs root, and the commands unshare, ip and chromium")

func prepare() error {
	if os.Geteuid() != 0 {
		return errMissing
	}
	for _, c := range []string{"unshare", "ip", "chromium"} {
		if _, err := exec.LookPath(c); err != nil {
			return fmt.Errorf("%w: %w", errMissing, err)
		}
	}
	return nil
}

// again runs this program in a network namespace of its own, with a weir built beforehand.
func again() int {
	dir, err := os.MkdirTemp("", "weir-web-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary := os.Getenv("WEIR_BINARY")
	if binary == "" {
		binary = filepath.Join(dir, "weir")
		build := exec.Command("go", "build", "-o", binary, "./cmd/weir")
		build.Dir = filepath.Join("..", "..")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build weir: %v\n%s", err, out)
			return 1
		}
	}
	cmd := exec.Command("unshare", append([]string{"--net", "--kill-child", os.Args[0]}, os.Args[1:]...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inside+"="+binary)
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			fmt.Fprintln(os.Stderr, err)
		}
		return 1
	}
	return 0
}

const address = "127.0.0.1:10257"

// weir is one that runs on a directory of manifests.
type weir struct {
	t   *testing.T
	dir string
	cmd *exec.Cmd
	log strings.Builder
}

func startWeir(t *testing.T, manifests map[string]string) *weir {
	t.Helper()
	w := &weir{t: t, dir: t.TempDir()}
	for name, text := range manifests {
		w.write(name, text)
	}
	w.start()
	t.Cleanup(func() {
		w.stop()
		if t.Failed() {
			t.Logf("weir:\n%s", w.log.String())
		}
		if out, err := exec.Command(os.Getenv(inside), "cleanup").CombinedOutput(); err != nil {
			t.Errorf("weir cleanup: %v: %s", err, out)
		}
	})
	return w
}

// write renames a file into place.
func (w *weir) write(name, text string) {
	w.t.Helper()
	hidden := filepath.Join(w.dir, "."+name)
	err := errors.Join(os.WriteFile(hidden, []byte(text), 0o644), os.Rename(hidden, filepath.Join(w.dir, name)))
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *weir) start() {
	w.t.Helper()
	w.cmd = exec.Command(os.Getenv(inside), "run", "--manifests", w.dir, "--hostname-override", "node1", "--socket", "",
		"--cluster-cidr", "10.244.0.0/16", "--web-bind-address", address)
	w.cmd.Stdout, w.cmd.Stderr = &w.log, &w.log
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := w.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		r, err := http.Get("http://127.0.0.1:10256/healthz")
		if err == nil {
			_ = r.Body.Close()
			if r.StatusCode == 200 {
				return
			}
		}
		select {
		case <-ctx.Done():
			w.t.Fatalf("weir is not healthy after a minute: %v\n%s", err, w.log.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (w *weir) stop() {
	if w.cmd.ProcessState != nil {
		return
	}
	_ = w.cmd.Process.Signal(syscall.SIGTERM)
	if err := w.cmd.Wait(); err != nil {
		w.t.Errorf("weir: %v", err)
	}
}
