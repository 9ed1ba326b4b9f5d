package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/weir-project/weir/internal/netlab"
)

// theatre is what the demo is shown in: its own programs and temporary directory.
type theatre struct {
	demo, weir string
	tmp        string
}

// programs is where the demo and weir are built, once for all tests.
var programs string

func TestMain(m *testing.M) {
	code := 1
	var err error
	if programs, err = os.MkdirTemp("", "weir-demo-test-"); err == nil {
		code = m.Run()
		err = os.RemoveAll(programs)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// build builds the demo and weir, unless another test has.
func build(t *testing.T) theatre {
	t.Helper()
	netlab.Require(t)
	dependOnSources(t)
	th := theatre{filepath.Join(programs, "demo"), filepath.Join(programs, "weir"), t.TempDir()}
	for out, pkg := range map[string]string{th.demo: ".", th.weir: "../../cmd/weir"} {
		if _, err := os.Stat(out); err == nil {
			continue
		}
		cmd := exec.Command("go", "build", "-o", out, pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", pkg, err, text)
		}
	}
	return th
}

// dependOnSources looks at every source file, so that go test does not take a result from its cache after weir has
// changed, which is no import of this test.
func dependOnSources(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), ".git") {
			return fs.SkipDir
		}
		if err == nil && filepath.Ext(path) == ".go" {
			_, err = os.Stat(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// showing is one run of the demo.
type showing struct {
	*exec.Cmd
	theatre theatre
	out     *os.File // what it says
	err     bytes.Buffer
	log     bytes.Buffer
}

// show starts the demo.
func (th theatre) show(t *testing.T, stdin io.Reader, args ...string) *showing {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	s := &showing{Cmd: exec.Command(th.demo, args...), theatre: th, out: r}
	s.Stdin, s.Stdout, s.Stderr = stdin, w, &s.err
	s.Env = append(os.Environ(), "TMPDIR="+th.tmp)
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close(); _ = s.Process.Kill() })
	return s
}

// until reads what the demo says until a line has text in it.
func (s *showing) until(t *testing.T, text string) {
	t.Helper()
	for lines := bufio.NewReader(io.TeeReader(s.out, &s.log)); ; {
		line, err := lines.ReadString('\n')
		if strings.Contains(line, text) {
			return
		}
		if err != nil {
			t.Fatalf("the demo ended without %q:\n%s%s", text, &s.log, &s.err)
		}
	}
}

// end reads to the end and returns everything that was said, and the exit code. It fails the test if anything
// is left behind.
func (s *showing) end(t *testing.T) (out string, code int) {
	t.Helper()
	_, _ = s.log.ReadFrom(s.out)
	return s.log.String(), s.exit(t)
}

func (s *showing) exit(t *testing.T) int {
	t.Helper()
	late := time.AfterFunc(time.Minute, func() { _ = s.Process.Signal(syscall.SIGQUIT) })
	defer late.Stop()
	err := s.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	s.nothingLeft(t)
	return s.ProcessState.ExitCode()
}

func (s *showing) nothingLeft(t *testing.T) {
	t.Helper()
	if left, _ := filepath.Glob(fmt.Sprintf("/run/netns/weir-%d[-.]*", s.Process.Pid)); len(left) > 0 {
		t.Errorf("namespaces are left: %s", left)
	}
	if left, _ := filepath.Glob(s.theatre.tmp + "/*"); len(left) > 0 {
		t.Errorf("files are left: %s", left)
	}
	exes, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, exe := range exes {
		if target, _ := os.Readlink(exe); target == s.theatre.weir {
			t.Errorf("a process is left: %s", filepath.Dir(exe))
		}
	}
}

// TestNetnsDemo shows everything.
func TestNetnsDemo(t *testing.T) {
	th := build(t)
	out, code := th.show(t, nil, "-weir", th.weir).endLogged(t)
	if code != 0 {
		t.Fatalf("exit code %d", code)
	}
	claims := []string{
		`weir runs: all was in the kernel \d+ ms after the process was started`,
		`pod +ClusterIP 10\.96\.0\.10:80 +\d+ +\d+ +\d+   10\.244\.1\.12, itself`,
		`pod +NodePort +172\.31\.0\.11:30080 +\d+ +\d+ +\d+   172\.31\.0\.11, the node`,
		`client +NodePort +172\.31\.0\.11:30080 +\d+ +\d+ +\d+   172\.31\.0\.11, the node`,
		`kernel updated in [\d.]+ [µm]s: \d+ map elements in .*, done [\d.]+ ms after the edit`,
		`\d+ new connections begun after that: 0 to web-2, none failed`,
		`\d+ new connections begun after that: [1-9]\d* to web-2, none failed`,
		`20 more such changes, in IPv4 alone: kernel updated in .*, median [\d.]+ [µm]s`,
		`Service empty +10\.96\.0\.20:80 +20 refused by TCP reset, after [\d.]+ [µm]s`,
		`no port of web +10\.96\.0\.10:81 +20 refused by TCP reset`,
		`no Service +10\.96\.200\.200:80 +silence, for the 300 ms`,
		`pod to 10\.96\.0\.10:80 +\d{3,} connections, 0 failed, 0 went wrong`,
		`client to 172\.31\.0\.11:30080 +\d{3,} connections, 0 failed, 0 went wrong`,
		`weir says that it is healthy`,
		`it has the Service web with its frontends, and all backends in slots`,
		`the rules lead where the packets went: to each backend, which sees the pod itself`,
	}
	if hasIPv6() {
		claims = append(claims,
			`pod +ClusterIP \[fd00:10:96::10\]:80 +\d+ +\d+ +\d+   fd00:10:244:1::12, itself`,
			`client +NodePort +\[fd00:31::11\]:30080 +\d+ +\d+ +\d+   fd00:31::11, the node`,
			`Service empty +\[fd00:10:96::20\]:80 +20 refused by TCP reset`,
		)
	}
	if _, err := exec.LookPath("nft"); err == nil {
		claims = append(claims, `which chain serves an address`, `what is in the slots`)
	}
	for _, c := range claims {
		if !regexp.MustCompile(`(?m)^ ✓ ` + c).MatchString(out) {
			t.Errorf("no claim that %s", c)
		}
	}
	for _, line := range []string{
		`ip netns exec weir-[-.\w]+ \\$`,
		`\S+/weir status \\$`,
		`healthy$`,
		`\S+/weir services web \\$`,
		`  default/web$`,
		`10\.244\.1\.10:8080 +node \(this\) +- +ready +0`,
		`\S+/weir trace 10\.244\.1\.12 tcp 10\.96\.0\.10:80 \\$`,
		`10\.244\.1\.12 \(pod, comes in by \S+\) to tcp 10\.96\.0\.10:80: TRANSLATED`,
		`--socket \S+/weir\.sock$`,
	} {
		if !regexp.MustCompile(`(?m)^ +` + line).MatchString(out) {
			t.Errorf("no line like %s", line)
		}
	}
	if !regexp.MustCompile(`(?m)^All \d+ claims hold\. Nothing is left behind\.$`).MatchString(out) {
		t.Error("no word that all claims hold")
	}
	for _, line := range strings.Split(out, "\n") {
		if n := utf8.RuneCountInString(line); n > columns || strings.Contains(line, "\x1b") {
			t.Errorf("%d columns, or colour in a pipe: %q", n, line)
		}
	}
}

func (s *showing) endLogged(t *testing.T) (string, int) {
	t.Helper()
	out, code := s.end(t)
	t.Logf("%s%s", out, &s.err)
	return out, code
}

func TestNetnsWithoutIPv6AndNFT(t *testing.T) {
	th := build(t)
	t.Setenv("PATH", th.tmp)
	out, code := th.show(t, nil, "-weir", th.weir, "-ipv4-only").end(t)
	if code != 0 || strings.Contains(out, "[fd00:") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	for _, words := range []string{"nft is not installed here", "not in the kernel: this node has no IPv6"} {
		if !strings.Contains(out, words) {
			t.Errorf("does not say %q\n%s", words, out)
		}
	}
}

// A weir that does something else than what is shown is found out.
func TestNetnsSabotage(t *testing.T) {
	th := build(t)
	for _, tc := range []struct {
		name, script string
		out, err     string
	}{
		{"other manifests", "sed -i /web-3/d $3/web.yaml; exec " + th.weir + ` "$@"`, " ✗ pod    ClusterIP", "The end of weir's log:"},
		{"masquerades the pods", "exec " + th.weir + ` "${@/10.244.0.0\/16/10.9.0.0\/16}"`, "wanted: the backends see 10.244.1.12", ""},
		{"does not start", "echo no nf_tables here; exit 1", "", "weir ended on its own: exit status 1"},
		{"dies after a while", "(sleep 1; kill -9 $$) & exec " + th.weir + ` "$@"`, "", "weir ended on its own: signal: killed"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			fake := filepath.Join(t.TempDir(), "weir")
			if err := os.WriteFile(fake, []byte("#!/bin/bash\n"+tc.script+"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			s := th.show(t, nil, "-weir", fake)
			out, code := s.end(t)
			if code != 1 || !strings.Contains(out, tc.out) || !strings.Contains(s.err.String(), tc.err) {
				t.Errorf("exit code %d, want 1, %q and %q\n%s%s", code, tc.out, tc.err, out, &s.err)
			}
			if strings.Contains(out, "claims hold.") {
				t.Error("says that all claims hold")
			}
		})
	}
}

// Ctrl-C at any moment leaves nothing behind.
func TestNetnsInterrupt(t *testing.T) {
	th := build(t)
	for _, tc := range []struct {
		name   string
		when   string // a line with this
		after  time.Duration
		signal syscall.Signal
		code   int
	}{
		{"while the network is made", "Making a small cluster", 20 * time.Millisecond, unix.SIGINT, 130},
		{"while weir starts", "Starting weir", 10 * time.Millisecond, unix.SIGINT, 130},
		{"while a backend goes", "2. A backend", 250 * time.Millisecond, unix.SIGINT, 130},
		{"under load, without weir", "4. weir is killed", 400 * time.Millisecond, unix.SIGINT, 130},
		{"asked to terminate", "1. Requests", 10 * time.Millisecond, unix.SIGTERM, 143},
		{"the terminal is gone", "3. Without", 100 * time.Millisecond, unix.SIGHUP, 129},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := th.show(t, nil, "-weir", th.weir)
			s.until(t, tc.when)
			time.Sleep(tc.after)
			if err := s.Process.Signal(tc.signal); err != nil {
				t.Fatal(err)
			}
			_ = s.Process.Signal(tc.signal) // as somebody does who is in a hurry
			out, code := s.end(t)
			if code != tc.code || !strings.Contains(out, "Stopped: signal: ") || !strings.HasSuffix(out, "Nothing is left behind.\n") {
				t.Errorf("exit code %d, want %d\n%s%s", code, tc.code, out, &s.err)
			}
		})
	}
}

func TestNetnsStdoutClosed(t *testing.T) {
	th := build(t)
	s := th.show(t, nil, "-weir", th.weir)
	s.until(t, "1. Requests")
	if err := s.out.Close(); err != nil {
		t.Fatal(err)
	}
	if code := s.exit(t); code != 1 || !strings.Contains(s.err.String(), "broken pipe") {
		t.Errorf("exit code %d, want 1 and a word about the pipe\n%s", code, &s.err)
	}
}

func TestNetnsPause(t *testing.T) {
	th := build(t)
	stdin, keyboard, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	defer keyboard.Close()
	for _, tc := range []struct {
		name string
		end  func(*showing) error
	}{
		{"enter", func(*showing) error { _, err := keyboard.WriteString("\n"); return err }},
		{"ctrl-c", func(s *showing) error { return s.Process.Signal(unix.SIGINT) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := th.show(t, stdin, "-weir", th.weir, "-pause")
			s.until(t, "Enter or Ctrl-C")
			// The commands it prints, but for the one that follows the log for ever and the one that starts weir.
			for _, c := range commandsIn(t, s.log.String()) {
				if text, err := exec.Command("bash", "-c", c).CombinedOutput(); err != nil || len(text) == 0 {
					t.Errorf("%s: %v\n%s", c, err, text)
				}
			}
			if err := tc.end(s); err != nil {
				t.Fatal(err)
			}
			if out, code := s.end(t); code != 0 {
				t.Errorf("exit code %d, want 0\n%s%s", code, out, &s.err)
			}
		})
	}
}

// commandsIn returns the commands that stand in what the demo says, such that each comes to an end.
func commandsIn(t *testing.T, out string) (list []string) {
	t.Helper()
	_, nft := exec.LookPath("nft")
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "ip netns exec") && strings.Contains(line, " nft list") && nft == nil,
			strings.HasPrefix(line, "ip netns exec") && strings.Contains(line, "/dev/tcp/"):
			list = append(list, line)
		case strings.HasPrefix(line, "tail -f "):
			list = append(list, strings.Replace(line, "-f", "-n 3", 1))
		}
	}
	if len(list) < 2 {
		t.Errorf("only the commands %q in\n%s", list, out)
	}
	return list
}
