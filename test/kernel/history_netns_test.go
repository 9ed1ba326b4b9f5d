//go:build linux

package kernel

import (
	"flag"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
)

// enough is how long histories are followed at most, unless it is said how many.
const enough = 30 * time.Second

// workers is how many histories are followed at once, whatever the number of processors. Half of the
// time goes by waiting for the kernel, which frees what is unused only when no packet can be looking
// at it.
const workers = 4

func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", strconv.Itoa(workers)); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

func TestNetnsHistories(t *testing.T) {
	require(t)
	first, histories, bound := uint64(0), int64(300), enough
	if testing.Short() {
		histories = 20
	}
	if seed, err := strconv.ParseUint(os.Getenv("WEIR_KERNEL_SEED"), 10, 64); err == nil {
		first, histories = seed, 1
	}
	if n, err := strconv.ParseInt(os.Getenv("WEIR_KERNEL_HISTORIES"), 10, 64); err == nil {
		histories, bound = n, time.Hour
	}
	var next, done atomic.Int64
	begin := time.Now()
	t.Cleanup(func() {
		t.Logf("%d histories from seed %d in %s", done.Load(), first, time.Since(begin).Round(time.Millisecond))
		if !t.Failed() && done.Load() < min(histories, 10) {
			t.Errorf("too few to tell anything")
		}
	})
	for worker := range min(histories, workers) {
		t.Run(strconv.FormatInt(worker, 10), func(t *testing.T) {
			t.Parallel()
			var c counts
			for time.Since(begin) < bound {
				n := next.Add(1) - 1
				if n >= histories {
					break
				}
				newSubject(t, first+uint64(n), &c).run(8)
				done.Add(1)
			}
			t.Logf("%+v", c)
		})
	}
}
