package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/weir-project/weir/internal/netlab"
)

// stream makes one new connection after the other and remembers when each was begun and who answered.
type stream struct {
	quit chan struct{}
	once sync.Once
	wg   sync.WaitGroup

	mu     sync.Mutex // guards probes
	probes []probe
}

// Workers of a stream, and how often each begins a connection: a thousand a second together.
const (
	workers = 4
	pace    = 4 * time.Millisecond

	flowTime = 150 * time.Millisecond
)

func startStream(from *netlab.Host, to netip.AddrPort) *stream {
	s := &stream{quit: make(chan struct{})}
	for i := range workers {
		s.wg.Go(func() {
			time.Sleep(pace * time.Duration(i) / workers)
			s.work(from, to)
		})
	}
	return s
}

func (s *stream) work(from *netlab.Host, to netip.AddrPort) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-s.quit:
			return
		case <-tick.C:
		}
		p := probe{begun: time.Now()}
		r := from.Probe(netlab.TCP, to, netlab.ProbeOptions{})
		p.by, p.err = r.Name, r.Err
		s.mu.Lock()
		s.probes = append(s.probes, p)
		s.mu.Unlock()
	}
}

// flow waits until as many connections have come to their end as it takes to say something, and a moment at least.
func (s *stream) flow(ctx context.Context) error {
	over := time.After(patience)
	for had := s.count(); ; {
		if err := pass(ctx, flowTime); err != nil {
			return err
		}
		if s.count() >= had+enough+workers {
			return nil
		}
		select {
		case <-over:
			return fmt.Errorf("only %d new connections in %s", s.count()-had, patience)
		default:
		}
	}
}

func (s *stream) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.probes)
}

// stop ends the stream and returns its connections in the order in which they were begun.
func (s *stream) stop() []probe {
	s.once.Do(func() { close(s.quit) })
	s.wg.Wait()
	slices.SortStableFunc(s.probes, func(a, b probe) int { return a.begun.Compare(b.begun) })
	return s.probes
}
