package kubeproxy

import (
	"context"
	"fmt"
	"strings"
	"time"

	"k8s.io/klog/v2"
)

// Config says how to take over. The zero value is fine.
type Config struct {
	// Failed is told of every failure to look or to remove. It is logged already, and tried again. Nil:
	// nobody is.
	Failed func(error)

	// BusyInterval is the time between two looks while there is something to wait for: default 1 s.
	BusyInterval time.Duration
	// IdleInterval is the time between two looks when there is not: default 1 min.
	IdleInterval time.Duration
}

// Warn logs who runs as kube-proxy beside us, and what one that was stopped has left if nobody is
// going to remove it.
func Warn(ctx context.Context, replace bool) {
	logger := klog.FromContext(ctx)
	running, err := Running()
	if err != nil {
		logger.Error(err, "Looking for a running kube-proxy")
	}
	if len(running) > 0 {
		advice := "stop it and remove its rules: start weir with --replace-kube-proxy, or run kube-proxy --cleanup"
		if replace {
			advice = "stop it: its rules are removed then"
		}
		logger.Info("kube-proxy is running in this network namespace too. New connections go by Weir's rules", "kubeProxy", names(running), "todo", advice)
		return
	}
	if replace {
		return
	}
	left, err := Find()
	if err != nil {
		logger.Error(err, "Looking for kube-proxy's rules")
	} else if !left.Empty() {
		logger.Info("A stopped kube-proxy has left rules, which get out of date: remove them with --replace-kube-proxy", "found", left.String())
	}
}

func names(running []Process) string {
	var list []string
	for _, p := range running {
		list = append(list, p.String())
	}
	return strings.Join(list, ", ")
}

// TakeOver removes what kube-proxy has left, once, and then tells if it comes back. It is to be called when
// Weir's own rules serve. While a kube-proxy runs it only waits, for that one would write its rules
// again. It returns when ctx ends.
func TakeOver(ctx context.Context, cfg Config) error {
	t := takeOver{logger: klog.FromContext(ctx), cfg: cfg.withDefaults(), find: findLeftovers, running: Running}
	return t.run(ctx)
}

func (c Config) withDefaults() Config {
	if c.BusyInterval == 0 {
		c.BusyInterval = time.Second
	}
	if c.IdleInterval == 0 {
		c.IdleInterval = time.Minute
	}
	return c
}
func findLeftovers() (leftovers, error) { return Find() }

// leftovers is what a takeOver needs of Leftovers.
type leftovers interface {
	Empty() bool
	String() string
	Remove(context.Context) (Report, error)
}

// takeOver is a take-over under way.
type takeOver struct {
	logger  klog.Logger
	cfg     Config
	find    func() (leftovers, error)
	running func() ([]Process, error)

	done     bool // all was removed once
	told     map[string]bool
	failures int // one after the other
}

func (t *takeOver) run(ctx context.Context) error {
	for {
		wait := t.step(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// step does what can be done now, and returns how long to wait with the next.
func (t *takeOver) step(ctx context.Context) time.Duration {
	running, err := t.running()
	if err != nil {
		return t.failed(fmt.Errorf("look for a running kube-proxy: %w", err))
	}
	if len(running) > 0 {
		t.tell("Waiting for kube-proxy to end before its rules are removed", "kubeProxy", names(running))
		return t.interval()
	}
	left, err := t.find()
	if err != nil {
		return t.failed(fmt.Errorf("look for kube-proxy's rules: %w", err))
	}
	switch {
	case left.Empty():
		t.done, t.failures = true, 0
		return t.cfg.IdleInterval
	case t.done:
		// Whoever wrote them will again; and perhaps the operator is just going back.
		t.tell("kube-proxy's rules are there again, although none is seen to run. They stay this time: "+
			"stop it and start weir anew, or go on to stop weir", "found", left.String())
		return t.cfg.IdleInterval
	}
	report, err := left.Remove(ctx)
	if len(report.Removed) > 0 {
		t.logger.Info("Removed what kube-proxy has left", "removed", strings.Join(report.Removed, ", "))
	}
	for _, note := range report.Notes {
		t.tell("kube-proxy: "+note, "", "")
	}
	if err != nil {
		return t.failed(err)
	}
	t.failures = 0
	if report.Waiting {
		return t.interval()
	}
	return 0 // look whether it is all gone
}

func (t *takeOver) interval() time.Duration {
	if t.done {
		return t.cfg.IdleInterval
	}
	return t.cfg.BusyInterval
}

// failed logs an error, the same one once, and returns how long to wait before the next try.
func (t *takeOver) failed(err error) time.Duration {
	if t.told == nil {
		t.told = map[string]bool{}
	}
	if !t.told[err.Error()] {
		t.told[err.Error()] = true
		t.logger.Error(err, "Taking over from kube-proxy; trying again")
	}
	if t.cfg.Failed != nil {
		t.cfg.Failed(err)
	}
	wait := min(t.cfg.BusyInterval<<min(t.failures, 10), t.cfg.IdleInterval)
	t.failures++
	return wait
}

// tell logs something once.
func (t *takeOver) tell(message, key, value string) {
	if t.told == nil {
		t.told = map[string]bool{}
	}
	if t.told[message+value] {
		return
	}
	t.told[message+value] = true
	if key == "" {
		t.logger.Info(message)
		return
	}
	t.logger.Info(message, key, value)
}
