//go:build linux

package apiserver

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weir-project/weir/inspect/api"
)

// TestNetnsSupportDump looks for secrets in what maintainers are sent: weir's token for the API server,
// and what stands in its kubeconfig.
func TestNetnsSupportDump(t *testing.T) {
	w := theWorld(t)
	dir, err := os.MkdirTemp("", "weir-dump-") // short: it is in the path of a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket, file := filepath.Join(dir, "weir.sock"), filepath.Join(dir, "dump.tar.gz")
	running(t, w, "--socket", socket, "-v", "8") // at which client-go logs headers
	w.put(t, w.service("web", 10))
	w.scale(t, "web", "podB")

	code, out, err := command(w, exec.Command(binary, "status", "-o", "json", "--socket", socket))
	var s api.Status
	if err := errors.Join(err, json.Unmarshal([]byte(out), &s)); code != 0 || err != nil || !s.Healthy || !strings.HasPrefix(s.Source.From, "the API server https://") {
		t.Errorf("exit code %d, %v, %+v\n%s", code, err, s, out)
	}
	if code, out, err := command(w, exec.Command(binary, "support-dump", file, "--socket", socket)); code != 0 || err != nil {
		t.Fatalf("exit code %d, %v\n%s", code, err, out)
	}
	token := w.cluster.ProxyRESTConfig().BearerToken
	if token == "" {
		t.Fatal("weir has no token here: nothing is tried")
	}
	parts := 0
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for in := tar.NewReader(z); ; parts++ {
		head, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{token, "certificate-authority-data", "BEGIN CERTIFICATE", "BEGIN EC PRIVATE", "BEGIN RSA PRIVATE"} {
			if strings.Contains(string(text), secret) {
				t.Errorf("%s has %q in it", head.Name, secret)
			}
		}
	}
	if parts < 13 {
		t.Errorf("%d parts only", parts)
	}
}
