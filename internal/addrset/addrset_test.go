package addrset

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
)

func ap(i int) netip.AddrPort {
	if i%3 == 0 {
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte{0: 0xfd, 12: byte(i >> 24), 13: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)}), uint16(i))
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), uint16(80+i%3))
}

func TestZeroValue(t *testing.T) {
	var x Index
	if _, ok := x.Lookup(nil, ap(1)); ok {
		t.Error("Lookup in an empty Index finds something")
	}
	if _, ok := x.Delete(nil, ap(1)); ok {
		t.Error("Delete in an empty Index finds something")
	}
	if x.Move(nil, ap(1), 0) {
		t.Error("Move in an empty Index finds something")
	}
	if i, ok := x.Insert(nil, ap(1), 0); !ok || i != 0 {
		t.Errorf("Insert = %d, %v", i, ok)
	}
	if i, ok := x.Insert([]netip.AddrPort{ap(1)}, ap(1), 1); ok || i != 0 {
		t.Errorf("second Insert = %d, %v, want the first one's position 0 and false", i, ok)
	}
}

// TestAgainstMap holds an Index beside a list that changes, and a map, through a long random
// history.
func TestAgainstMap(t *testing.T) {
	for _, universe := range []int{3, 20, 1000} {
		t.Run(fmt.Sprint("universe=", universe), func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, uint64(universe)))
			var x Index
			var list []netip.AddrPort
			want := map[netip.AddrPort]int32{}
			for range 20_000 {
				key := ap(r.IntN(universe))
				at, present := want[key]
				switch r.IntN(3) {
				case 0:
					i, inserted := x.Insert(list, key, int32(len(list)))
					if inserted == present || present && i != at {
						t.Fatalf("Insert(%v) = %d, %v; the map says %d, %v", key, i, inserted, at, present)
					}
					if inserted {
						want[key] = int32(len(list))
						list = append(list, key)
					}
				case 1:
					i, deleted := x.Delete(list, key)
					if deleted != present || deleted && i != at {
						t.Fatalf("Delete(%v) = %d, %v; the map says %d, %v", key, i, deleted, at, present)
					}
					if !deleted {
						break
					}
					delete(want, key)
					last := int32(len(list) - 1)
					if i != last {
						if !x.Move(list, list[last], i) {
							t.Fatalf("Move(%v) finds nothing", list[last])
						}
						list[i] = list[last]
						want[list[i]] = i
					}
					list = list[:last]
				case 2:
					i, found := x.Lookup(list, key)
					if found != present || found && i != at {
						t.Fatalf("Lookup(%v) = %d, %v; the map says %d, %v", key, i, found, at, present)
					}
				}
				if x.Len() != len(want) {
					t.Fatalf("Len = %d, want %d", x.Len(), len(want))
				}
			}
			for key, at := range want {
				if i, ok := x.Lookup(list, key); !ok || i != at {
					t.Errorf("at the end Lookup(%v) = %d, %v, want %d", key, i, ok, at)
				}
			}
		})
	}
}

// TestReset holds that scratch is empty after Reset, keeps its memory, and stays small for small
// lists.
func TestReset(t *testing.T) {
	var x Index
	x.Reset(100_000)
	large := cap(x.table)
	var list []netip.AddrPort
	allocs := testing.AllocsPerRun(10, func() {
		x.Reset(50)
		list = list[:0]
		for i := range 50 {
			if _, ok := x.Insert(list, ap(i), int32(len(list))); !ok {
				t.Fatal("something is left after Reset")
			}
			list = append(list, ap(i))
		}
	})
	if allocs > 0 {
		t.Errorf("%v allocations, want 0", allocs)
	}
	if len(x.table) != 128 || cap(x.table) != large {
		t.Errorf("table of %d (capacity %d) for 50 entries, want 128 (%d)", len(x.table), cap(x.table), large)
	}
}

func TestResetMakesRoom(t *testing.T) {
	for n := range 300 {
		var x Index
		x.Reset(n)
		size := len(x.table)
		var list []netip.AddrPort
		for i := range n {
			x.Insert(list, ap(i), int32(i))
			list = append(list, ap(i))
		}
		if len(x.table) != size {
			t.Errorf("table for %d entries grew from %d to %d", n, size, len(x.table))
		}
	}
}

func BenchmarkFill(b *testing.B) {
	for _, n := range []int{50, 1_000, 100_000} {
		b.Run(fmt.Sprint("entries=", n), func(b *testing.B) {
			var x Index
			list := make([]netip.AddrPort, n)
			for i := range list {
				list[i] = ap(i)
			}
			b.ReportAllocs()
			for b.Loop() {
				x.Reset(n)
				for i, key := range list {
					x.Insert(list, key, int32(i))
				}
			}
		})
	}
}
