package main

import (
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/weir-project/weir/endpoints"
)

// repeatAfter is how long a problem is not told again, and maxRemembered how many are remembered.
const (
	repeatAfter   = time.Hour
	maxRemembered = 10000
)

// problemLog tells of problems with objects: one log line each, and an event where there is
// somebody to take it. A problem that comes again with each version of an object is told once.
type problemLog struct {
	logger klog.Logger
	event  func(endpoints.Problem) // nil: nobody

	mu   sync.Mutex
	told map[endpoints.Problem]time.Time
}

func newProblemLog(logger klog.Logger, event func(endpoints.Problem)) *problemLog {
	return &problemLog{logger: logger, event: event, told: map[endpoints.Problem]time.Time{}}
}

// Report implements endpoints.Reporter.
func (l *problemLog) Report(p endpoints.Problem) {
	if !l.news(p, time.Now()) {
		return
	}
	keys := []any{"kind", p.Kind, "object", p.Object, "field", p.Field, "reason", p.Reason}
	if p.Source != "" {
		keys = append(keys, "source", p.Source)
	}
	l.logger.Info("Not served as asked", keys...)
	if l.event != nil {
		l.event(p)
	}
}

func (l *problemLog) news(p endpoints.Problem, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at, ok := l.told[p]; ok && now.Sub(at) < repeatAfter {
		return false
	}
	if len(l.told) >= maxRemembered {
		clear(l.told) // rather tell twice than remember without bound
	}
	l.told[p] = now
	return true
}
