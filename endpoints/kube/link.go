package kube

import (
	"context"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/klog/v2"
)

// How long to wait after a refusal. A refused connection costs nobody much, and an API server that
// restarts should find us soon.
const (
	firstWait   = 100 * time.Millisecond
	longestWait = 5 * time.Second
	refusedWait = 5 * time.Minute
	doubt       = 10 * time.Second // how long "forbidden" may be said by mistake
	sayEvery    = 30 * time.Second // while the API server cannot be reached
)

// link is our connection to the API server, as far as all reflectors share its fate.
type link struct {
	mu    sync.Mutex // guards the following
	said  time.Time  // when we last said that it is down. Zero: it is not
	given time.Time  // when it last gave us anything
}

// insist repeats call while connections are refused, and logs that: the reflector would do the
// former without an ear for ctx, and not the latter. If the server refuses to give such objects at
// all, refused is told, if not nil, and the call repeated after longer and longer whiles.
func (l *link) insist(ctx context.Context, refused func(error), call func() error) error {
	var forbidden time.Time // when a row of such answers began. Zero: there is none
	again := longestWait    // after a refusal
	for delay := firstWait; ; delay = min(2*delay, longestWait) {
		asked := time.Now()
		err := call()
		if !apierrors.IsForbidden(err) {
			forbidden = time.Time{}
		} else if forbidden.IsZero() {
			forbidden = asked
		}
		switch {
		case err == nil:
			l.up(ctx)
			return nil
		case ctx.Err() != nil:
			return io.EOF // which the reflector takes for an end, and does not complain about
		case utilnet.IsConnectionRefused(err):
			l.down(ctx, err)
			pause(ctx, delay/2+rand.N(delay))
		case refused != nil && !forbidden.IsZero() && !l.means(forbidden, asked):
			pause(ctx, delay)
		case refused != nil && (apierrors.IsNotFound(err) || apierrors.IsForbidden(err)):
			refused(err)
			pause(ctx, again)
			again = min(2*again, refusedWait)
		default:
			return err
		}
	}
}

// means reports whether the server means it when it forbids something, to which it was asked first
// and last at those times. One that has just started forbids everything until it has read its
// roles; so it must have given us something else in between, or have forbidden it for long.
func (l *link) means(first, last time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.given.After(first) && l.given.Before(last) || last.Sub(first) >= doubt
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func (l *link) down(ctx context.Context, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); now.Sub(l.said) > sayEvery {
		l.said = now
		klog.FromContext(ctx).Error(err, "The API server cannot be reached; trying again")
	}
}

func (l *link) up(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.given = time.Now()
	if !l.said.IsZero() {
		l.said = time.Time{}
		klog.FromContext(ctx).Info("The API server can be reached again")
	}
}
