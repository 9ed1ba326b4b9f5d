package conntrack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/weir-project/weir/dataplane"
)

// fakeTable writes down what it is asked.
type fakeTable struct {
	start time.Time
	takes time.Duration
	fail  func() error
	log   []string
	busy  bool
}

func (f *fakeTable) Wants(p dataplane.Protocol) bool { return p == protoUDP }

func (f *fakeTable) Clean(_ context.Context, jobs []Job) (Result, error) {
	if f.busy {
		panic("two rounds at a time")
	}
	f.busy = true
	line := time.Since(f.start).String()
	slices.SortFunc(jobs, func(a, b Job) int { return cmp.Compare(a.Frontend.Port, b.Frontend.Port) })
	for _, j := range jobs {
		line += fmt.Sprintf(" %d/%d", j.Frontend.Port, len(j.Keep))
		if j.Appeared {
			line += "!"
		}
	}
	f.log = append(f.log, line)
	time.Sleep(f.takes)
	f.busy = false
	if f.fail != nil {
		return Result{}, f.fail()
	}
	return Result{Deleted: Count{IPv4: len(jobs)}}, nil
}

func TestCleaner(t *testing.T) {
	job := func(port uint16, keep int) Job {
		return Job{Frontend: dataplane.Frontend{Addr: netip.MustParseAddr("10.96.0.1"), Port: port, Protocol: protoUDP}, Keep: make([]netip.AddrPort, keep)}
	}
	appeared := func(j Job) Job { j.Appeared = true; return j }
	tests := []struct {
		name string
		fake fakeTable
		do   func(*Cleaner)
		want []string
	}{
		{"nothing to do", fakeTable{}, func(*Cleaner) {}, nil},
		{"at once, and again after a second", fakeTable{}, func(c *Cleaner) {
			c.Enqueue([]Job{job(1, 0), job(2, 3)})
		}, []string{"0s 1/0 2/3", "1s 1/0 2/3"}},
		{"other protocols", fakeTable{}, func(c *Cleaner) {
			j := job(1, 0)
			j.Frontend.Protocol = protoTCP
			c.Enqueue([]Job{j})
		}, nil},
		{"gathered while busy, the last wins", fakeTable{takes: 100 * time.Millisecond}, func(c *Cleaner) {
			c.Enqueue([]Job{job(1, 1)})
			time.Sleep(50 * time.Millisecond)
			c.Enqueue([]Job{appeared(job(2, 1))})
			c.Enqueue([]Job{job(2, 2), job(1, 2)})
		}, []string{"0s 1/1", "400ms 1/2 2/2!", "1.05s 1/2 2/2!"}},
		{"a repetition waits for no other, but takes near ones along", fakeTable{}, func(c *Cleaner) {
			c.Enqueue([]Job{job(1, 1)})
			time.Sleep(200 * time.Millisecond)
			c.Enqueue([]Job{job(2, 1)})
			time.Sleep(200 * time.Millisecond)
			c.Enqueue([]Job{job(3, 1)})
		}, []string{"0s 1/1", "200ms 2/1", "400ms 3/1", "1s 1/1 2/1", "1.4s 3/1"}},
		{"began late enough to need no repetition", fakeTable{takes: time.Second}, func(c *Cleaner) {
			c.Enqueue([]Job{job(1, 1)})
			time.Sleep(100 * time.Millisecond)
			c.Enqueue([]Job{job(2, 1)})
		}, []string{"0s 1/1", "2s 1/1 2/1"}},
		{"tried again, and given up", fakeTable{fail: func() error { return errors.New("no") }}, func(c *Cleaner) {
			c.Enqueue([]Job{job(1, 1)})
		}, []string{"0s 1/1", "1s 1/1", "2s 1/1", "3s 1/1", "4s 1/1"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				test.fake.start = time.Now()
				var reports []Report
				c := newCleaner(&test.fake, CleanerConfig{Observe: func(r Report) { reports = append(reports, r) }})
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error)
				go func() { done <- c.Run(ctx) }()
				test.do(c)
				time.Sleep(time.Minute)
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
				if diff := gocmp.Diff(test.want, test.fake.log); diff != "" {
					t.Errorf("rounds (-want +got)\n%s", diff)
				}
				if len(c.jobs) > 0 {
					t.Errorf("%d jobs are left", len(c.jobs))
				}
				if len(reports) != len(test.want) || len(reports) > 0 && reports[len(reports)-1].Waiting != 0 {
					t.Errorf("reports: %+v", reports)
				}
			})
		})
	}
}

// What a round is to keep follows what is told while it is under way.
func TestCleanerKnowsOfLaterJobs(t *testing.T) {
	a, b := netip.MustParseAddrPort("10.244.1.1:53"), netip.MustParseAddrPort("10.244.1.2:53")
	f := dataplane.Frontend{Addr: netip.MustParseAddr("10.96.0.1"), Port: 53, Protocol: protoUDP}
	c := newCleaner(&fakeTable{}, CleanerConfig{})
	c.Enqueue([]Job{{Frontend: f}})
	round, _ := c.take(time.Now())
	if got := c.now(round[0]); len(got) != 0 {
		t.Errorf("at first: %v", got)
	}
	c.Enqueue([]Job{{Frontend: f, Keep: []netip.AddrPort{a}}})
	if got := c.now(round[0]); !slices.Equal(got, []netip.AddrPort{a}) {
		t.Errorf("after a later job: %v", got)
	}
	c.Enqueue([]Job{{Frontend: f, Now: func() []netip.AddrPort { return []netip.AddrPort{a, b} }}})
	if got := c.now(round[0]); !slices.Equal(got, []netip.AddrPort{a, b}) {
		t.Errorf("after a later job that asks: %v", got)
	}
}

// However often a frontend changes, there is one job, and a round is under way for a quarter of
// the time.
func TestCleanerUnderChurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := fakeTable{start: time.Now(), takes: 50 * time.Millisecond}
		c := newCleaner(&fake, CleanerConfig{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		f := frontend("10.96.0.1:53", protoUDP)
		for range 10_000 {
			c.Enqueue([]Job{{Frontend: f}})
			time.Sleep(time.Millisecond)
		}
		c.mu.Lock()
		if len(c.jobs) != 1 {
			t.Errorf("%d jobs for one frontend", len(c.jobs))
		}
		c.mu.Unlock()
		cancel()
		<-done
		if n := len(fake.log); n < 45 || n > 51 {
			t.Errorf("%d rounds of 50 ms in 10 s, want some 50", n)
		}
	})
}
