package kubeproxy

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/ktesting"
)

// node is what takeOver sees of one.
type node struct {
	running  []Process
	rules    int // how often something must be removed until it is gone
	broken   error
	waiting  bool
	removals int
}

func (n *node) Empty() bool    { return n.rules == 0 }
func (n *node) String() string { return "rules" }

func (n *node) Remove(context.Context) (Report, error) {
	n.removals++
	if n.broken != nil {
		return Report{}, n.broken
	}
	if n.waiting {
		return Report{Waiting: true, Notes: []string{"later"}}, nil
	}
	n.rules--
	return Report{Removed: []string{"rules"}}, nil
}

func TestTakeOver(t *testing.T) {
	proxy := []Process{{PID: 7, Command: "kube-proxy --v=2"}}
	tests := []struct {
		name     string
		before   node
		then     func(*node) // after 10 s
		removals int
		failures int
		logged   []string
	}{
		{name: "nothing there", logged: nil},
		{name: "rules of a stopped one", before: node{rules: 1}, removals: 1, logged: []string{"Removed what kube-proxy has left"}},
		{
			name:   "running, and stopped later",
			before: node{rules: 1, running: proxy}, then: func(n *node) { n.running = nil }, removals: 1,
			logged: []string{"Waiting for kube-proxy to end before its rules are removed", "Removed what kube-proxy has left"},
		},
		{
			name:   "running all the time",
			before: node{rules: 1, running: proxy},
			logged: []string{"Waiting for kube-proxy to end before its rules are removed"},
		},
		{
			name:   "back after the removal: left alone",
			before: node{rules: 1}, then: func(n *node) { n.rules = 1 }, removals: 1,
			logged: []string{"Removed what kube-proxy has left", "kube-proxy's rules are there again"},
		},
		{
			name:   "refused for a while: logged once",
			before: node{rules: 1, broken: errors.New("busy")}, then: func(n *node) { n.broken = nil }, removals: 5, failures: 4,
			logged: []string{"Taking over from kube-proxy; trying again", "Removed what kube-proxy has left"},
		},
		{
			name:   "connections that depend on it",
			before: node{rules: 1, waiting: true}, then: func(n *node) { n.waiting = false }, removals: 11,
			logged: []string{"kube-proxy: later", "Removed what kube-proxy has left"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := test.before
				logger := ktesting.NewLogger(t, ktesting.NewConfig(ktesting.BufferLogs(true)))
				ctx, cancel := context.WithTimeout(klog.NewContext(t.Context(), logger), 5*time.Minute)
				defer cancel()
				failures := 0
				begin, then := time.Now(), test.then
				take := takeOver{logger: logger, cfg: Config{Failed: func(error) { failures++ }}.withDefaults(),
					find: func() (leftovers, error) { return &n, nil }, running: func() ([]Process, error) {
						if then != nil && time.Since(begin) >= 10*time.Second {
							then(&n)
							then = nil
						}
						return n.running, nil
					}}
				if err := take.run(ctx); err != nil {
					t.Error(err)
				}
				if n.removals != test.removals || failures != test.failures {
					t.Errorf("%d removals and %d failures, want %d and %d", n.removals, failures, test.removals, test.failures)
				}
				var got []string
				for _, entry := range logger.GetSink().(ktesting.Underlier).GetBuffer().Data() {
					message, _, _ := strings.Cut(entry.Message, ", although")
					got = append(got, message)
				}
				if diff := cmp.Diff(test.logged, got); diff != "" {
					t.Errorf("logged (-want +got):\n%s", diff)
				}
			})
		})
	}
}
