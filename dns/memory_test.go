package dns

import (
	"runtime"
	"testing"
)

// TestMemory holds what a zone takes beside the objects that it was made from.
func TestMemory(t *testing.T) {
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for _, tt := range []struct {
		name               string
		services, headless int
		most               uint64 // bytes
	}{
		{"5,000 services", 5_000, 0, 8 << 20},
		{"10,000 headless endpoints", 0, 10_000, 8 << 20},
	} {
		c := newCluster(t)
		if tt.services > 0 {
			c.services(tt.services)
		} else {
			c.headless(tt.headless)
		}
		with := heap()
		runtime.KeepAlive(c.zone)
		c.zone = nil
		without := heap()
		runtime.KeepAlive(c)
		used := with - without
		t.Logf("%s: %.1f MB", tt.name, float64(used)/1e6)
		if used > tt.most {
			t.Errorf("%s: %.1f MB, want at most %.1f", tt.name, float64(used)/1e6, float64(tt.most)/1e6)
		}
	}
}
