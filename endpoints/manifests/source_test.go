package manifests

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-project/weir/endpoints"
)

// spy is an engine that remembers what was deleted on the way, and what was reported.
type spy struct {
	*endpoints.Engine

	mu       sync.Mutex
	deleted  []endpoints.Name
	replaced int
	problems []string
}

func (s *spy) DeleteService(n endpoints.Name) {
	s.mu.Lock()
	s.deleted = append(s.deleted, n)
	s.mu.Unlock()
	s.Engine.DeleteService(n)
}

func (s *spy) ReplaceServices(list []*endpoints.Service) {
	s.mu.Lock()
	s.replaced++
	s.mu.Unlock()
	s.Engine.ReplaceServices(list)
}

func (s *spy) Report(p endpoints.Problem) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.problems = append(s.problems, p.Error())
}

func (s *spy) reported() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.problems, "\n")
}

// start runs a source on a directory until the test ends.
func start(t *testing.T, dir string, change ...func(*Config)) *spy {
	t.Helper()
	s := &spy{Engine: endpoints.New(endpoints.Config{NodeName: "here"})}
	c := Config{Dir: dir, Sink: s, Reporter: s, NodeName: "here", Poll: time.Hour}
	for _, f := range change {
		f(&c)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- NewSource(c).Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	s.wait(t, "synced", s.Synced)
	return s
}

func (s *spy) wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s; services %v; reported:\n%s", what, s.Services(), s.reported())
		}
	}
}

// ips returns the cluster IPs of a service in the namespace default; "none" if there is no such
// service.
func (s *spy) ips(name string) string {
	svc := s.Service(endpoints.Name{Namespace: "default", Name: name})
	if svc == nil {
		return "none"
	}
	return fmt.Sprint(svc.ClusterIPs)
}

func (s *spy) waitIPs(t *testing.T, name, want string) {
	t.Helper()
	s.wait(t, name+" has "+want, func() bool { return s.ips(name) == want })
}

func TestFirstLoad(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "web.yaml"), web)
	write(t, filepath.Join(dir, "a.yml"), serviceText("a", "10.96.0.1"))
	write(t, filepath.Join(dir, "b.json"), `{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "b"}}`)
	write(t, filepath.Join(dir, "broken.yaml"), "kind: [\n")
	for _, name := range []string{".hidden.yaml", "#c.yaml", "~c.yaml", "c.yaml~", ".#c.yaml", "c.yaml.swp", "c.txt", "c"} {
		write(t, filepath.Join(dir, name), serviceText("c", "10.96.0.3"))
	}
	must(t, os.Mkdir(filepath.Join(dir, "d.yaml"), 0o755))
	primary := []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	cidrs := []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}
	s := start(t, dir, func(c *Config) {
		c.Primary = func() []netip.Addr { return primary }
		c.ServiceCIDRs = cidrs
	})
	if got := fmt.Sprint(s.Services()); got != "[default/a default/b default/web]" {
		t.Errorf("services %s", got)
	}
	if got := s.Slices(endpoints.Name{Namespace: "default", Name: "web"}); len(got) != 1 || len(got[0].Endpoints) != 2 {
		t.Errorf("slices %v", got)
	}
	c := s.Take()
	if want := (&endpoints.Node{Name: "here", Addrs: primary}); !want.Equal(c.Node) {
		t.Errorf("node %+v, want %+v", c.Node, want)
	}
	if fmt.Sprint(c.ServiceCIDRs) != fmt.Sprint(cidrs) {
		t.Errorf("service CIDRs %v", c.ServiceCIDRs)
	}
	if got, want := s.reported(), filepath.Join(dir, "broken.yaml")+":1: Manifest broken.yaml: "; !strings.HasPrefix(got, want) || strings.Count(got, "\n") > 0 {
		t.Errorf("reported\n%s\nwant one that begins with %s", got, want)
	}
}

func TestNodeAndServiceCIDRs(t *testing.T) {
	dir := t.TempDir()
	primary := make(chan string, 1)
	primary <- "192.0.2.1"
	s := start(t, dir, func(c *Config) {
		c.Poll = 10 * time.Millisecond
		c.Primary = func() []netip.Addr {
			a := <-primary
			primary <- a
			return []netip.Addr{netip.MustParseAddr(a)}
		}
	})
	node := func() string { return fmt.Sprint(s.Node().Addrs) }
	if got := node(); got != "[192.0.2.1]" {
		t.Errorf("node %s", got)
	}
	<-primary
	primary <- "192.0.2.2"
	s.wait(t, "moved", func() bool { return node() == "[192.0.2.2]" })
	put(t, filepath.Join(dir, "node.yaml"), `
{apiVersion: v1, kind: Node, metadata: {name: there}, status: {addresses: [{type: InternalIP, address: 192.0.2.8}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: here}, status: {addresses: [{type: InternalIP, address: 192.0.2.9}]}}
---
{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {name: two}, spec: {cidrs: [10.97.0.0/16, 'fd00::/112']}}
---
{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {name: one}, spec: {cidrs: [10.96.0.0/16, 10.97.0.0/16]}}
`)
	s.wait(t, "node object", func() bool { return node() == "[192.0.2.9]" })
	s.wait(t, "ranges", func() bool { return fmt.Sprint(s.Take().ServiceCIDRs) == "[10.96.0.0/16 10.97.0.0/16 fd00::/112]" })
	must(t, os.Remove(filepath.Join(dir, "node.yaml")))
	s.wait(t, "node object gone", func() bool { return node() == "[192.0.2.2]" })
	s.wait(t, "ranges unknown", func() bool { return s.Take().ServiceCIDRs == nil })
}

func TestLive(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.yaml")
	write(t, path, serviceText("a", "10.96.0.1"))
	s := start(t, dir)
	s.waitIPs(t, "a", "[10.96.0.1]")

	write(t, path, serviceText("a", "10.96.0.2"))
	s.waitIPs(t, "a", "[10.96.0.2]")
	put(t, path, serviceText("a", "10.96.0.3"))
	s.waitIPs(t, "a", "[10.96.0.3]")

	// As editors do: keep the old file under another name, and write a new one piece by piece.
	for range 3 {
		must(t, os.Rename(path, path+"~"))
		f, err := os.Create(path)
		must(t, err)
		for _, b := range []byte(serviceText("a", "10.96.0.4")) {
			_, err := f.Write([]byte{b})
			must(t, err)
		}
		must(t, f.Close())
		must(t, os.Remove(path+"~"))
	}
	s.waitIPs(t, "a", "[10.96.0.4]")
	if len(s.deleted) > 0 {
		t.Errorf("the service was deleted on the way")
	}

	before := s.reported()
	put(t, path, serviceText("a", "10.96.0.5")+"---\nkind: {\n")
	s.wait(t, "reported", func() bool { return s.reported() != before })
	if got := s.reported(); !strings.Contains(got, path+":6: Manifest a.yaml: ") || !strings.Contains(got, "stays in force") {
		t.Errorf("reported\n%s", got)
	}
	if got := s.ips("a"); got != "[10.96.0.4]" {
		t.Errorf("a broken file changed the service to %s", got)
	}
	put(t, filepath.Join(dir, "b.yaml"), serviceText("b", "10.96.0.7"))
	s.waitIPs(t, "b", "[10.96.0.7]")
	if got := s.ips("a"); got != "[10.96.0.4]" {
		t.Errorf("another file's change reached the broken one: %s", got)
	}
	put(t, path, serviceText("a", "10.96.0.6"))
	s.waitIPs(t, "a", "[10.96.0.6]")

	must(t, os.Remove(path))
	s.waitIPs(t, "a", "none")
	must(t, os.Rename(filepath.Join(dir, "b.yaml"), filepath.Join(dir, "c.yaml")))
	put(t, path, serviceText("a", "10.96.0.1"))
	s.waitIPs(t, "a", "[10.96.0.1]")
	if got := fmt.Sprint(s.deleted); got != "[default/a]" {
		t.Errorf("deleted %s: a file's new name must not delete what is in it", got)
	}
	if s.replaced != 1 {
		t.Errorf("services replaced %d times, want once and differences after", s.replaced)
	}
}

func TestBrokenFileRemoved(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.yaml")
	write(t, path, serviceText("a", "10.96.0.1"))
	s := start(t, dir)
	put(t, path, "{")
	s.wait(t, "reported", func() bool { return s.reported() != "" })
	must(t, os.Remove(path))
	s.waitIPs(t, "a", "none")
}

func TestSameObjectTwice(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a.yaml"), filepath.Join(dir, "b.yaml")
	write(t, b, serviceText("x", "10.96.0.2"))
	s := start(t, dir)
	s.waitIPs(t, "x", "[10.96.0.2]")
	put(t, a, "\n"+serviceText("x", "10.96.0.1"))
	s.waitIPs(t, "x", "[10.96.0.1]")
	if got, want := s.reported(), b+":1: Service default/x: metadata.name: is also in "+a+":2, which counts"; got != want {
		t.Errorf("reported\n%s\nwant\n%s", got, want)
	}
	must(t, os.Remove(a))
	s.waitIPs(t, "x", "[10.96.0.2]")
}

// TestSymlinkSwap changes files the way a ConfigMap volume does.
func TestSymlinkSwap(t *testing.T) {
	dir := t.TempDir()
	version := func(n int, ip string) {
		sub := fmt.Sprintf("..version%d", n)
		must(t, os.Mkdir(filepath.Join(dir, sub), 0o755))
		write(t, filepath.Join(dir, sub, "a.yaml"), serviceText("a", ip))
		must(t, os.Symlink(sub, filepath.Join(dir, "..data_tmp")))
		must(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
		must(t, os.RemoveAll(filepath.Join(dir, fmt.Sprintf("..version%d", n-1))))
	}
	version(1, "10.96.0.1")
	must(t, os.Symlink("..data/a.yaml", filepath.Join(dir, "a.yaml")))
	s := start(t, dir)
	s.waitIPs(t, "a", "[10.96.0.1]")
	version(2, "10.96.0.2")
	s.waitIPs(t, "a", "[10.96.0.2]")
	version(3, "10.96.0.3")
	s.waitIPs(t, "a", "[10.96.0.3]")
	if len(s.deleted) > 0 {
		t.Error("the service was deleted on the way")
	}
}

// TestPoll changes what no event tells of: a file outside the directory, and the directory itself
// by a link to it.
func TestPoll(t *testing.T) {
	outside, links := t.TempDir(), t.TempDir()
	must(t, os.Mkdir(filepath.Join(outside, "one"), 0o755))
	must(t, os.Mkdir(filepath.Join(outside, "two"), 0o755))
	write(t, filepath.Join(outside, "target"), serviceText("a", "10.96.0.1"))
	must(t, os.Symlink("../target", filepath.Join(outside, "one", "a.yaml")))
	write(t, filepath.Join(outside, "two", "a.yaml"), serviceText("a", "10.96.0.3"))
	dir := filepath.Join(links, "current")
	must(t, os.Symlink(filepath.Join(outside, "one"), dir))
	s := start(t, dir, func(c *Config) { c.Poll = 10 * time.Millisecond })
	s.waitIPs(t, "a", "[10.96.0.1]")
	write(t, filepath.Join(outside, "target"), serviceText("a", "10.96.0.2"))
	s.waitIPs(t, "a", "[10.96.0.2]")
	must(t, os.Symlink(filepath.Join(outside, "two"), dir+".new"))
	must(t, os.Rename(dir+".new", dir))
	s.waitIPs(t, "a", "[10.96.0.3]")
}

func TestDirectoryRecreated(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "manifests")
	must(t, os.Mkdir(dir, 0o755))
	write(t, filepath.Join(dir, "a.yaml"), serviceText("a", "10.96.0.1"))
	write(t, filepath.Join(dir, "b.yaml"), serviceText("b", "10.96.0.2"))
	s := start(t, dir)
	for i := range 3 {
		must(t, os.Rename(dir, dir+".old"))
		time.Sleep(30 * time.Millisecond)
		if got := s.ips("a") + s.ips("b"); strings.Contains(got, "none") {
			t.Errorf("services went with the directory: %s", got)
		}
		must(t, os.Mkdir(dir, 0o755))
		ip := fmt.Sprintf("10.96.1.%d", i)
		put(t, filepath.Join(dir, "a.yaml"), serviceText("a", ip))
		put(t, filepath.Join(dir, "b.yaml"), serviceText("b", "10.96.0.2"))
		s.waitIPs(t, "a", "["+ip+"]")
		// It is watched again: there are no more polls for an hour.
		put(t, filepath.Join(dir, "a.yaml"), serviceText("a", "10.96.2.1"))
		s.waitIPs(t, "a", "[10.96.2.1]")
		must(t, os.RemoveAll(dir+".old"))
	}
}

func TestNoDirectory(t *testing.T) {
	s := &spy{Engine: endpoints.New(endpoints.Config{})}
	err := NewSource(Config{Dir: filepath.Join(t.TempDir(), "missing"), Sink: s, Reporter: s}).Run(context.Background())
	if err == nil || s.Synced() {
		t.Errorf("Run = %v, synced %v; want an error, and nothing said", err, s.Synced())
	}
}
