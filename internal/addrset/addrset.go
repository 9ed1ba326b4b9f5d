// Package addrset finds an address and port in a list that somebody else holds.
//
// An [Index] is an open-addressing hash table of positions. It keeps no address: the list is given
// to every call, which makes an entry 8 bytes where a Go map would take 60, and lets one Index serve
// as scratch for lists of any size without allocating.
//
//	var x addrset.Index
//	x.Reset(len(candidates))
//	for _, ap := range candidates {
//		if _, ok := x.Insert(list, ap, int32(len(list))); ok {
//			list = append(list, ap) // not seen before
//		}
//	}
//
// Kept beside a list that changes, it follows the removal of one entry and the move of the last
// into its place, in this order:
//
//	i, _ := x.Delete(list, ap)
//	last := int32(len(list) - 1)
//	if i != last {
//		x.Move(list, list[last], i)
//		list[i] = list[last]
//	}
//	list = list[:last]
package addrset

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"net/netip"
)

// Index holds positions in a list of distinct addresses and ports. The zero value is empty and ready for
// use. The list given to a call must hold, at the positions in the Index, what was inserted for
// them; a call that changes the Index is made before the list is changed accordingly.
//
// An Index is not safe for concurrent use, except for concurrent Lookups.
type Index struct {
	// table has a power of two entries, probed linearly. An entry is the key's hash in the upper
	// half and its position plus one in the lower; 0 is free. The hash lets a table grow and close
	// its gaps without asking the list.
	table []uint64
	len   int
}

// minTable is the smallest table, in entries.
const minTable = 8

// tableSize returns the number of entries of a table for n keys, filled to at most four fifths.
func tableSize(n int) int {
	need := max(minTable, n+n/4+1)
	return 1 << bits.Len(uint(need-1))
}

// Reset empties the Index and makes room for n entries. It takes time proportional to n, however
// large the table has been, and allocates only if the table has never been as large.
func (x *Index) Reset(n int) {
	size := tableSize(n)
	if size <= cap(x.table) {
		x.table = x.table[:size]
		clear(x.table)
	} else {
		x.table = make([]uint64, size)
	}
	x.len = 0
}

// Len returns the number of entries.
func (x *Index) Len() int { return x.len }

// Lookup returns the position of ap in list.
func (x *Index) Lookup(list []netip.AddrPort, ap netip.AddrPort) (int32, bool) {
	if x.len == 0 {
		return 0, false
	}
	at, found := x.find(list, ap, hash(ap))
	if !found {
		return 0, false
	}
	return position(x.table[at]), true
}

// Insert notes that ap stands, or is about to stand, at position i of list. If there is an entry
// for ap already, that stays as it is, and Insert returns its position and false.
func (x *Index) Insert(list []netip.AddrPort, ap netip.AddrPort, i int32) (int32, bool) {
	if len(x.table) == 0 || x.len+x.len/4+2 > len(x.table) {
		x.grow()
	}
	h := hash(ap)
	at, found := x.find(list, ap, h)
	if found {
		return position(x.table[at]), false
	}
	x.table[at] = entry(h, i)
	x.len++
	return i, true
}

// Delete removes the entry for ap and returns the position that it had.
func (x *Index) Delete(list []netip.AddrPort, ap netip.AddrPort) (int32, bool) {
	if x.len == 0 {
		return 0, false
	}
	at, found := x.find(list, ap, hash(ap))
	if !found {
		return 0, false
	}
	i := position(x.table[at])
	x.close(at)
	x.len--
	return i, true
}

// Move notes that ap, which stands somewhere in list, will stand at position i. It reports whether there is an entry
// for ap.
func (x *Index) Move(list []netip.AddrPort, ap netip.AddrPort, i int32) bool {
	if x.len == 0 {
		return false
	}
	h := hash(ap)
	at, found := x.find(list, ap, h)
	if found {
		x.table[at] = entry(h, i)
	}
	return found
}

// find returns where in the table the entry for ap is, or the free place where it would go.
func (x *Index) find(list []netip.AddrPort, ap netip.AddrPort, h uint32) (uint32, bool) {
	mask := uint32(len(x.table) - 1)
	for at := h & mask; ; at = (at + 1) & mask {
		e := x.table[at]
		if e == 0 {
			return at, false
		}
		if uint32(e>>32) == h && list[position(e)] == ap {
			return at, true
		}
	}
}

// close frees a place of the table, and moves what stands behind it so that no probe ends early.
func (x *Index) close(gap uint32) {
	mask := uint32(len(x.table) - 1)
	for at := (gap + 1) & mask; x.table[at] != 0; at = (at + 1) & mask {
		home := uint32(x.table[at]>>32) & mask
		if (at-home)&mask >= (at-gap)&mask {
			x.table[gap] = x.table[at]
			gap = at
		}
	}
	x.table[gap] = 0
}

// grow doubles the table.
func (x *Index) grow() {
	old := x.table
	x.table = make([]uint64, max(minTable, 2*len(old)))
	mask := uint32(len(x.table) - 1)
	for _, e := range old {
		if e == 0 {
			continue
		}
		at := uint32(e>>32) & mask
		for x.table[at] != 0 {
			at = (at + 1) & mask
		}
		x.table[at] = e
	}
}

func entry(h uint32, i int32) uint64 { return uint64(h)<<32 | uint64(uint32(i)+1) }
func position(e uint64) int32        { return int32(uint32(e) - 1) }

// seeds differ in every process: who can name endpoints cannot make them collide.
var seeds = [...]uint64{rand.Uint64(), rand.Uint64(), rand.Uint64() | 1}

// hash mixes the address with one wide multiplication and the port with another beside it. A zone takes no part.
func hash(ap netip.AddrPort) uint32 {
	b := ap.Addr().As16()
	hi, lo := bits.Mul64(binary.BigEndian.Uint64(b[:8])^seeds[0], binary.BigEndian.Uint64(b[8:])^seeds[1])
	return uint32((hi ^ lo + uint64(ap.Port())*seeds[2]) >> 32)
}
