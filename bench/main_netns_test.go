package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weir-project/weir/bench/internal/report"
	"github.com/weir-project/weir/internal/kubelab"
	"github.com/weir-project/weir/internal/netlab"
)

// asCommand in the environment makes the test binary the command itself.
const asCommand = "WEIR_BENCH_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// command returns a run of the benchmark, very small, in a process of its own.
func command(t *testing.T, results string, env []string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	if err := netlab.Available(); err != nil {
		if os.Getenv("CI") == "" {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], append([]string{"--quick", "--section", "control", "--results", results,
		"--services", "5", "--endpoints", "2", "--rounds", "1", "--changes", "2"}, args...)...)
	cmd.Env = append(append(os.Environ(), asCommand+"=1"), env...)
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &text
	return cmd, &text
}

func TestNetnsPeersThatFail(t *testing.T) {
	built, err := kubelab.BinDir(t.Context(), os.Stderr, "etcd", "kube-apiserver")
	if err != nil {
		t.Fatal(err)
	}
	peers := t.TempDir() // without kube-proxy
	for _, name := range []string{"etcd", "kube-apiserver"} {
		if err := os.Symlink(filepath.Join(built, name), filepath.Join(peers, name)); err != nil {
			t.Fatal(err)
		}
	}
	results := t.TempDir()
	cmd, text := command(t, results, []string{"WEIR_PEERS=" + peers}, "--part", "change",
		"--proxy", "broken=echo it cannot be started >&2; exit 3")
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	run, err := report.ReadOne(filepath.Join(results, "control-partial.json"))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	for proxy, says := range map[string]string{"kube-proxy": "no such file", "broken": "it cannot be started"} {
		if !slices.ContainsFunc(run.Failures, func(f report.Failure) bool { return f.Proxy == proxy && strings.Contains(f.Error, says) }) {
			t.Errorf("no failure of %s that says %q: %+v", proxy, says, run.Failures)
		}
		if !strings.Contains(text.String(), "FAILED") || !strings.Contains(text.String(), proxy) {
			t.Errorf("%s is not named as failed:\n%s", proxy, text)
		}
	}
	measured := func(r report.Result) bool { return r.Proxy == "weir" && r.Metric == changeMetric && r.N == 2 }
	if !slices.ContainsFunc(run.Results, measured) {
		t.Errorf("Weir was not measured beside them:\n%s", text)
	}
}

func TestNetnsInterruptLeavesNothing(t *testing.T) {
	// Where processes and files of this run can be told from those of others.
	tmp := t.TempDir()
	cmd, text := command(t, filepath.Join(tmp, "results"), []string{"TMPDIR=" + tmp}, "--only", "sleeper",
		"--proxy", "sleeper=echo sleeps >$KUBECONFIG.sleeper; sleep 1000 & wait")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }()
	pid := cmd.Process.Pid
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	begun := func() bool {
		found, _ := filepath.Glob(filepath.Join(tmp, "*", "*.sleeper"))
		return len(found) > 0
	}
	for deadline := time.Now().Add(5 * time.Minute); !begun(); time.Sleep(50 * time.Millisecond) {
		select {
		case err := <-ended:
			t.Fatalf("ended by itself: %v\n%s", err, text)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal("the proxy did not start within five minutes")
		}
	}
	processes := descendants(t, pid)
	if len(processes) < 4 { // etcd, the API server, the proxy's shell and what it runs
		t.Errorf("only %v run", processes)
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(text.String(), "interrupted") {
			t.Errorf("ended with %v:\n%s", err, text)
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("does not end within two minutes of SIGINT")
	}
	for _, p := range processes {
		if now, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid)); err == nil && string(now) == p.cmdline {
			t.Errorf("still runs: %q", now)
		}
	}
	for _, pattern := range []string{fmt.Sprintf("/run/netns/weir-%d-*", pid), filepath.Join(tmp, "weir-bench-*"), filepath.Join(tmp, "kubelab-*")} {
		if left, err := filepath.Glob(pattern); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

type process struct {
	pid     int
	cmdline string
}

// descendants returns the processes that a process has started, and theirs.
func descendants(t *testing.T, of int) (found []process) {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", of))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range tasks {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // a thread that has ended
		}
		for _, field := range strings.Fields(string(text)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			found = append(append(found, process{pid, string(cmdline)}), descendants(t, pid)...)
		}
	}
	return found
}
