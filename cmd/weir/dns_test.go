package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestDNSUsage refuses what makes no sense.
func TestDNSUsage(t *testing.T) {
	for _, args := range [][]string{
		{"--listen", "localhost"},
		{"--listen", "127.0.0.1"},
		{"--upstream", "dns.example"},
		{"--pods", "verified"},
		{"--cluster-domain", "a..b"},
		{"--ttl", "3601"},
		{"--ttl", "-1"},
		{"--manifests", "x", "--kubeconfig", "y"},
		{"--manifests", "x", "--search-walk"},
		{"argument"},
	} {
		if got := execute(append([]string{"dns"}, args...)); got != 2 {
			t.Errorf("weir dns %s ends with %d", strings.Join(args, " "), got)
		}
	}
}

// TestDNS asks weir dns for a service, and for a name that it has to ask another one for.
func TestDNS(t *testing.T) {
	dir := t.TempDir()
	const service = "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}"
	if err := os.WriteFile(filepath.Join(dir, "web.yaml"), []byte(service), 0o600); err != nil {
		t.Fatal(err)
	}
	upstream, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer upstream.Close()
	go func() { // answers with its question and no record: refused
		b := make([]byte, 1500)
		for {
			n, from, err := upstream.ReadFrom(b)
			if err != nil {
				return
			}
			b[2] |= 0x80
			b[3] = b[3]&^0xf | 5
			_, _ = upstream.WriteTo(b[:n], from)
		}
	}()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().String()
	free.Close()

	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	root := newRoot()
	root.SetArgs([]string{"dns", "--manifests", dir, "--listen", addr, "--upstream", upstream.LocalAddr().String(), "--metrics-bind-address", ""})
	go func() { done <- root.ExecuteContext(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()

	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}}
	var got []string
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if got, err = resolver.LookupHost(ctx, "web.default.svc.cluster.local."); err == nil {
			break
		}
	}
	if fmt.Sprint(got) != "[10.96.0.1]" {
		t.Fatalf("web is %v, %v", got, err)
	}
	if names, err := resolver.LookupAddr(ctx, "10.96.0.1"); fmt.Sprint(names) != "[web.default.svc.cluster.local.]" {
		t.Errorf("10.96.0.1 is %v, %v", names, err)
	}
	if got, err := resolver.LookupHost(ctx, "example.org."); err == nil {
		t.Errorf("example.org is %v", got)
	}
}

// TestDNSHelp names what there is.
func TestDNSHelp(t *testing.T) {
	root := newRoot()
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetArgs([]string{"dns", "--help"})
	if err := root.Execute(); err != nil || !strings.Contains(out.String(), "--cluster-domain") {
		t.Errorf("%v\n%s", err, out.String())
	}
}
