package main

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"

	"github.com/weir-project/weir/endpoints"
)

// captured runs f and returns what it wrote to standard error.
func captured(t *testing.T, f func()) string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	old := os.Stderr
	os.Stderr = w
	text := make(chan string)
	go func() {
		b, _ := io.ReadAll(r)
		text <- string(b)
	}()
	f()
	os.Stderr = old
	w.Close()
	return <-text
}

func TestExitCodes(t *testing.T) {
	for _, tt := range []struct {
		name string
		args string
		code int
		says string
	}{
		{"version", "version", 0, ""},
		{"help", "run --help", 0, ""},
		{"unknown command", "serve", 2, `unknown command "serve"`},
		{"unknown flag", "run --no-such-flag", 2, "no-such-flag"},
		{"argument too many", "cleanup now", 2, "now"},
		{"flag that makes no sense", "run --manifests /nonexistent --cluster-cidr 10.244.0.0/99", 2, "10.244.0.0/99"},
		{"two sources", "run --manifests /nonexistent --kubeconfig /nonexistent", 2, "kubeconfig"},
		{"file that is not there", "run --config /nonexistent/weir.conf", 1, "/nonexistent/weir.conf"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var code int
			got := captured(t, func() { code = execute(strings.Fields(tt.args)) })
			if code != tt.code || !strings.Contains(got, tt.says) {
				t.Errorf("weir %s: exit code %d and %q, want %d and %q in it", tt.args, code, got, tt.code, tt.says)
			}
			if lines := strings.Count(got, "\n"); tt.code != 0 && lines > 2 {
				t.Errorf("weir %s: %d lines of error:\n%s", tt.args, lines, got)
			}
		})
	}
}

func TestProblemLogTellsOnce(t *testing.T) {
	var out bytes.Buffer
	events := 0
	l := newProblemLog(funcr.New(func(_, args string) { out.WriteString(args + "\n") }, funcr.Options{}), func(endpoints.Problem) { events++ })
	p := endpoints.Problem{Kind: "Service", Object: endpoints.Name{Namespace: "a", Name: "b"}, Field: "spec.clusterIPs[0]", Reason: "no address"}
	for range 3 {
		l.Report(p)
	}
	p.Field = "spec.externalIPs[0]"
	l.Report(p)
	if lines := strings.Count(out.String(), "\n"); lines != 2 || events != 2 {
		t.Errorf("%d lines and %d events for two problems:\n%s", lines, events, out.String())
	}
	if !strings.Contains(out.String(), "spec.clusterIPs[0]") || !strings.Contains(out.String(), "a/b") {
		t.Errorf("a line does not name object and field:\n%s", out.String())
	}
	if !l.news(p, time.Now().Add(2*repeatAfter)) {
		t.Error("after two hours the problem is not news again")
	}
}
