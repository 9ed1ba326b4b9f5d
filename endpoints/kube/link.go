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
	sayEvery    = 30 * time.Second // while the API server cannot be reached
)

// link is our connection to the API server, as far as all reflectors share its fate.
type link struct {
	mu   sync.Mutex
	said time.Time // when we last said that it is down. Zero: it is not
}

// insist repeats call while connections are refused, and logs that: the reflector would do the
// former without an ear for ctx, and not the latter. If the server refuses to give such objects at
// all, refused is told, if not nil, and the call repeated after a long while.
func (l *link) insist(ctx context.Context, refused func(error), call func() error) error {
	for delay := firstWait; ; delay = min(2*delay, longestWait) {
		err := call()
		switch {
		case err == nil:
			l.up(ctx)
			return nil
		case ctx.Err() != nil:
			return io.EOF // which the reflector takes for an end, and does not complain about
		case utilnet.IsConnectionRefused(err):
			l.down(ctx, err)
			pause(ctx, delay/2+rand.N(delay))
		case refused != nil && (apierrors.IsNotFound(err) || apierrors.IsForbidden(err)):
			refused(err)
			pause(ctx, refusedWait)
		default:
			return err
		}
	}
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
	if !l.said.IsZero() {
		l.said = time.Time{}
		klog.FromContext(ctx).Info("The API server can be reached again")
	}
}
