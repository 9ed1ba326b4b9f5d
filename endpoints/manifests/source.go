package manifests

import (
	"context"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
	"k8s.io/klog/v2"

	"github.com/weir-project/weir/endpoints"
)

// How long to wait.
const (
	quiet       = 20 * time.Millisecond // after a file's last change, before it is read
	defaultPoll = 5 * time.Second
	missingPoll = 200 * time.Millisecond // while the directory is gone
	firstLoad   = time.Second            // at most for files that are being written when we start
)

// Config says what a Source reads, for whom, and where it tells.
type Config struct {
	Dir      string
	Sink     endpoints.Sink
	Reporter endpoints.Reporter

	NodeName string
	// ServiceCIDRs holds while there is no ServiceCIDR object. Nil: unknown.
	ServiceCIDRs []netip.Prefix
	// Primary gives the node's addresses while there is no Node object of its name. It is asked at
	// every look at the directory. Nil: there are none.
	Primary func() []netip.Addr

	// DNS reads what names depend on too, as kube.Config says. Namespaces of services and slices are
	// there even if no manifest says so.
	DNS bool
	// Pods is told of the pods on NodeName. Nil: they are not read.
	Pods endpoints.PodSink

	// Poll is how often the directory is looked at although nobody said that anything changed: what
	// a link in it points to may. 0: every 5 s.
	Poll time.Duration
}

// Source feeds a sink with what the manifests in a directory say. It is for one Run.
type Source struct {
	Config
	log     klog.Logger
	files   []*file // by name
	applied state
	started bool // applied has been told to the sink
	missing bool // the directory could not be listed last time

	watcher *fsnotify.Watcher // nil: it is not to be had
	watched fs.FileInfo       // the directory that it watches
}

// NewSource returns a source that has not read anything yet.
func NewSource(c Config) *Source {
	if c.Poll <= 0 {
		c.Poll = defaultPoll
	}
	c.Dir = filepath.Clean(c.Dir)
	return &Source{Config: c}
}

// podsOf returns the node whose pods are read; "": none is.
func (s *Source) podsOf() string {
	if s.Pods == nil {
		return ""
	}
	return s.NodeName
}

// Run reads the directory and follows it until ctx ends. It fails only if the directory cannot be
// read at the start.
func (s *Source) Run(ctx context.Context) error {
	s.log = klog.FromContext(ctx)
	if w, err := fsnotify.NewWatcher(); err != nil {
		s.log.Error(err, "Manifests cannot be watched, only looked at now and then", "interval", s.Poll)
	} else {
		s.watcher = w
		defer w.Close()
	}
	if err := s.load(ctx); err != nil {
		return err
	}
	s.follow(ctx)
	return nil
}

// load reads everything for the first time.
func (s *Source) load(ctx context.Context) error {
	s.watch()
	for deadline := time.Now().Add(firstLoad); ; {
		_, again, err := s.scan()
		if err != nil {
			return err
		}
		if again == 0 || time.Now().After(deadline) {
			s.apply()
			return nil
		}
		select {
		case <-time.After(again):
		case <-ctx.Done():
			return nil
		}
	}
}

// follow looks at the directory whenever there is reason to: at once after a quiet time, and not
// more often than every quiet time in a busy one.
func (s *Source) follow(ctx context.Context) {
	var events chan fsnotify.Event
	var faults chan error
	if s.watcher != nil {
		events, faults = s.watcher.Events, s.watcher.Errors
	}
	last := time.Now()
	next := time.NewTimer(s.Poll)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case event := <-events:
			if event.Name == s.Dir && event.Op&(fsnotify.Remove|fsnotify.Rename) != 0 {
				s.watched = nil // what has this name next is another directory, even if it gets the same number
			}
			next.Reset(max(0, quiet-time.Since(last)))
		case err := <-faults:
			s.log.Error(err, "Watching manifests: looking at all of them", "dir", s.Dir)
			next.Reset(max(0, quiet-time.Since(last)))
		case <-next.C:
			next.Reset(s.refresh())
			last = time.Now()
		}
	}
}

// refresh takes in what has changed, and returns how long to wait for the next time if nobody
// calls.
func (s *Source) refresh() time.Duration {
	s.watch()
	changed, again, err := s.scan()
	if err != nil {
		s.watched = nil
		if !s.missing {
			s.log.Error(err, "What the manifests said last stays in force", "dir", s.Dir)
		}
		s.missing = true
		return min(missingPoll, s.Poll)
	}
	if s.missing {
		s.log.Info("Manifests are back", "dir", s.Dir)
		s.missing = false
	}
	if changed || s.moved() {
		s.apply()
	}
	if again > 0 {
		return again
	}
	return s.Poll
}

// watch sees to it that the directory is watched which has its name now.
func (s *Source) watch() {
	info, err := os.Stat(s.Dir)
	if s.watcher == nil || err != nil || s.watched != nil && os.SameFile(s.watched, info) {
		return
	}
	_ = s.watcher.Remove(s.Dir) // the one before, which may have gone with the directory
	if err := s.watcher.Add(s.Dir); err != nil {
		s.log.Error(err, "Manifests cannot be watched, only looked at now and then", "dir", s.Dir, "interval", s.Poll)
		return
	}
	s.watched = info
}
