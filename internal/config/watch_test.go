package config

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/klog/v2"
	"k8s.io/klog/v2/ktesting"
)

// watching runs Watch on a file and returns what it reports.
func watching(t *testing.T, file string) (changes <-chan *Config, logged func() string) {
	t.Helper()
	o := parse(t, "--config="+file)
	current, _, err := o.Complete()
	if err != nil {
		t.Fatal(err)
	}
	logger := ktesting.NewLogger(t, ktesting.NewConfig(ktesting.BufferLogs(true)))
	ctx, cancel := context.WithCancel(klog.NewContext(t.Context(), logger))
	c := make(chan *Config)
	done := make(chan error)
	go func() {
		done <- o.Watch(ctx, current, func(next *Config, _ []Warning) { c <- next })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return c, func() string { return logger.GetSink().(ktesting.Underlier).GetBuffer().String() }
}

func expectOOMScore(t *testing.T, changes <-chan *Config, want int) {
	t.Helper()
	select {
	case c := <-changes:
		if c.OOMScoreAdj != want {
			t.Fatalf("oomScoreAdj %d, want %d", c.OOMScoreAdj, want)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("no change seen, want oomScoreAdj %d", want)
	}
}

func expectNothing(t *testing.T, changes <-chan *Config) {
	t.Helper()
	select {
	case c := <-changes:
		t.Fatalf("reported %+v", c)
	case <-time.After(4 * settle):
	}
}

func TestWatchFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	write(t, file, header+"oomScoreAdj: 1")
	changes, logged := watching(t, file)
	expectNothing(t, changes) // it has not changed

	write(t, file, header+"oomScoreAdj: 2")
	expectOOMScore(t, changes, 2)

	// As editors do.
	write(t, file+".new", header+"oomScoreAdj: 3")
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
	expectOOMScore(t, changes, 3)

	write(t, file, header+"oomScoreAdj: 3 # another comment")
	expectNothing(t, changes)
	write(t, file, header+"oomScoreAdj: 5000")
	expectNothing(t, changes)
	if log := logged(); strings.Count(log, "left aside") != 1 || !strings.Contains(log, "oomScoreAdj: Invalid value: 5000") {
		t.Errorf("a broken file must be logged once, with the reason:\n%s", log)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	expectNothing(t, changes)
	write(t, file, header+"oomScoreAdj: 4")
	expectOOMScore(t, changes, 4)
}

// TestWatchConfigMap changes a file as kubelet changes a mounted ConfigMap.
func TestWatchConfigMap(t *testing.T) {
	dir := t.TempDir()
	publish := func(version, content string) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, version, "config.conf"), header+content)
		old, _ := os.Readlink(filepath.Join(dir, "..data"))
		if err := os.Symlink(version, filepath.Join(dir, "..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
		if old != "" {
			if err := os.RemoveAll(filepath.Join(dir, old)); err != nil {
				t.Fatal(err)
			}
		}
	}
	publish("..1", "oomScoreAdj: 1")
	file := filepath.Join(dir, "config.conf")
	if err := os.Symlink("..data/config.conf", file); err != nil {
		t.Fatal(err)
	}
	// And a link to that from elsewhere.
	link := filepath.Join(t.TempDir(), "link.conf")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	direct, _ := watching(t, file)
	linked, _ := watching(t, link)
	for n, version := range []string{"..2", "..3", "..4"} {
		publish(version, "oomScoreAdj: "+version[2:])
		expectOOMScore(t, direct, n+2)
		expectOOMScore(t, linked, n+2)
	}
}

func TestWatchWithoutDirectory(t *testing.T) {
	err := Watch(t.Context(), filepath.Join(t.TempDir(), "gone", "config.yaml"), func() {})
	if err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("error %v", err)
	}
}
