package kubelab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// BinDir returns the directory that holds the named peers (etcd, kube-apiserver, kube-proxy …), and
// builds those that are missing; progress goes to log. WEIR_PEERS names a directory to use as it is.
func BinDir(ctx context.Context, log io.Writer, names ...string) (string, error) {
	if dir := os.Getenv("WEIR_PEERS"); dir != "" {
		for _, name := range names {
			if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
				return "", fmt.Errorf("WEIR_PEERS: %w", err)
			}
		}
		return dir, nil
	}
	script, err := buildScript()
	if err != nil {
		return "", err
	}
	var out, errOut bytes.Buffer
	cmd := exec.CommandContext(ctx, script, names...)
	cmd.Stdout, cmd.Stderr = &out, io.MultiWriter(&errOut, log)
	// Interrupted, the script would leave its compilers behind.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("build peers: %w: %s", err, tail(errOut.Bytes()))
	}
	return strings.TrimSpace(out.String()), nil
}

// buildScript finds the script in the source tree around the working directory, which for a test is
// that of its package.
func buildScript() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		script := filepath.Join(dir, "bench/peers/build.sh")
		if _, err := os.Stat(script); err == nil {
			return script, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("no bench/peers/build.sh above the working directory: run inside the source tree, or set WEIR_PEERS")
		}
	}
}

// tail returns the last lines of a log, indented.
func tail(b []byte) string {
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return "\n\t" + strings.Join(lines[max(0, len(lines)-25):], "\n\t")
}
