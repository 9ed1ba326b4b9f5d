package config

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
	"k8s.io/klog/v2"
)

// settle is how long a file must have been left alone before it is read: an editor or a ConfigMap
// takes several steps.
const settle = 200 * time.Millisecond

// Watch calls onChange with the new configuration whenever the file of --config comes to say
// something else than current, and then than what onChange was given last. A file that cannot be
// obeyed is logged once and changes nothing. Watch returns when ctx is done; without --config, it
// has nothing else to do.
func (o *Options) Watch(ctx context.Context, current *Config, onChange func(*Config, []Warning)) error {
	if o.file == "" {
		<-ctx.Done()
		return nil
	}
	logger := klog.FromContext(ctx)
	return Watch(ctx, o.file, func() {
		next, warnings, err := o.Complete()
		if err != nil {
			logger.Error(err, "The changed configuration is left aside, the old one holds", "file", o.file)
			return
		}
		if live, restart := Diff(current, next); len(live)+len(restart) > 0 {
			current = next
			onChange(next, warnings)
		}
	})
}

// Watch calls onChange whenever the content of a file has changed, once it has settled, and once at
// the start, because it may have changed since it was read. The file may be replaced, or be a symbolic link whose target is, as with a ConfigMap. It returns when
// ctx is done, or if the file's directory cannot be watched.
func Watch(ctx context.Context, file string, onChange func()) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w", file, err)
	}
	defer w.Close()
	if err := w.Add(filepath.Dir(file)); err != nil {
		return fmt.Errorf("watch %s: %w", file, err)
	}
	v := &watch{file: file, dirs: w}
	v.follow()
	quiet := time.NewTimer(settle)
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-w.Events:
			if !ok {
				return fmt.Errorf("watch %s: ended", file)
			}
			quiet.Reset(settle)
		case err := <-w.Errors:
			// Events may have been lost: look.
			klog.FromContext(ctx).Error(err, "Watching the configuration", "file", file)
			quiet.Reset(settle)
		case <-quiet.C:
			v.follow()
			if v.changed() {
				onChange()
			}
		}
	}
}

// watch is what is known of a watched file.
type watch struct {
	file string
	dirs *fsnotify.Watcher
	sum  [sha256.Size]byte // of the content when last looked at
}

// follow watches the directories that the file really is in, link by link.
func (w *watch) follow() {
	path := w.file
	for range 8 { // links to links
		dir := filepath.Dir(path)
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			dir = real
		}
		if !slices.Contains(w.dirs.WatchList(), dir) {
			_ = w.dirs.Add(dir) // gone in the meantime: there will be an event above it
		}
		target, err := os.Readlink(path)
		if err != nil {
			return
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(path), target)
		}
		path = target
	}
}

// changed reports whether the content differs from when it was asked last. A file that is gone
// for now has not changed.
func (w *watch) changed() bool {
	data, err := os.ReadFile(w.file)
	if err != nil {
		return false
	}
	sum := sha256.Sum256(data)
	changed := sum != w.sum
	w.sum = sum
	return changed
}
