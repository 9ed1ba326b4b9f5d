// Package addrset finds an address and port in a list that somebody else holds.
//
// An [Index] is an open-addressing hash table of positions. It keeps no address: the list is given
// to every call, which makes an entry 4 bytes where a Go map would take 60, and lets one Index
// serve as scratch for lists of any size without allocating.
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

// Index holds positions in a list of distinct addresses and ports. The zero value is empty and
// ready for use. The list given to a call must hold, at the positions in the Index, what was
// inserted for them; a call that changes the Index is made before the list is changed accordingly.
//
// An Index is not safe for concurrent use, except for concurrent Lookups.
type Index struct {
	// table has 2^n entries, probed linearly. An entry holds its position plus one in the lower n
	// bits; 0 is free. The bits above them are those of the key's hash, so that the list is
	// asked for few keys but the right one.
	table []uint32
	len   int
}

// minTable is the smallest table, in entries.
const minTable = 8

// tableSize returns the number of entries of a table for n keys, filled to at most two thirds.
func tableSize(n int) int {
	return 1 << bits.Len(uint(max(minTable, n+n/2+1)-1))
}

// Reset empties the Index and makes room for n entries. It takes time proportional to n, however
// large the table has been, and allocates only if the table has never been as large.
func (x *Index) Reset(n int) {
	size := tableSize(n)
	if size <= cap(x.table) {
		x.table = x.table[:size]
		clear(x.table)
	} else {
		x.table = make([]uint32, size)
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
	return x.position(at), true
}

// Insert notes that ap stands, or is about to stand, at position i of list. If there is an entry
// for ap already, that stays as it is, and Insert returns its position and false.
func (x *Index) Insert(list []netip.AddrPort, ap netip.AddrPort, i int32) (int32, bool) {
	if size := tableSize(max(x.len, int(i)) + 1); size > len(x.table) {
		x.grow(list, size)
	}
	h := hash(ap)
	at, found := x.find(list, ap, h)
	if found {
		return x.position(at), false
	}
	x.set(at, h, i)
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
	i := x.position(at)
	x.close(list, at)
	x.len--
	return i, true
}

// Move notes that ap, which stands somewhere in list, will stand at position i, which is in the
// list too. It reports whether there is an entry for ap.
func (x *Index) Move(list []netip.AddrPort, ap netip.AddrPort, i int32) bool {
	if x.len == 0 {
		return false
	}
	h := hash(ap)
	at, found := x.find(list, ap, h)
	if found {
		x.set(at, h, i)
	}
	return found
}

// find returns where in the table the entry for ap is, or the free place where it would go.
func (x *Index) find(list []netip.AddrPort, ap netip.AddrPort, h uint32) (uint32, bool) {
	table := x.table
	mask := uint32(len(table) - 1)
	for at := h & mask; ; at = (at + 1) & mask {
		e := table[at]
		if e == 0 {
			return at, false
		}
		if (e^h)&^mask == 0 && list[e&mask-1] == ap {
			return at, true
		}
	}
}

// position returns what the entry at a place of the table says.
func (x *Index) position(at uint32) int32 { return int32(x.table[at]&uint32(len(x.table)-1)) - 1 }

// set writes an entry.
func (x *Index) set(at, h uint32, i int32) {
	x.table[at] = h&^uint32(len(x.table)-1) | uint32(i) + 1
}

// close frees a place of the table, and moves what stands behind it so that no probe ends early.
func (x *Index) close(list []netip.AddrPort, gap uint32) {
	mask := uint32(len(x.table) - 1)
	for at := (gap + 1) & mask; x.table[at] != 0; at = (at + 1) & mask {
		home := hash(list[x.position(at)]) & mask
		if (at-home)&mask >= (at-gap)&mask {
			x.table[gap] = x.table[at]
			gap = at
		}
	}
	x.table[gap] = 0
}

// grow moves to a table of that size.
func (x *Index) grow(list []netip.AddrPort, size int) {
	old := *x
	x.table = make([]uint32, size)
	mask := uint32(size - 1)
	for from := range old.table {
		if old.table[from] == 0 {
			continue
		}
		i := old.position(uint32(from))
		h := hash(list[i])
		at := h & mask
		for x.table[at] != 0 {
			at = (at + 1) & mask
		}
		x.set(at, h, i)
	}
}

// seeds differ in every process: who can name endpoints cannot make them collide.
var seeds = [...]uint64{rand.Uint64(), rand.Uint64(), rand.Uint64() | 1}

// hash mixes the address with one wide multiplication and the port with another beside it. A zone
// takes no part.
func hash(ap netip.AddrPort) uint32 {
	hi, lo := Halves(ap.Addr())
	hi, lo = bits.Mul64(hi^seeds[0], lo^seeds[1])
	return uint32((hi ^ lo + uint64(ap.Port())*seeds[2]) >> 32)
}

// Halves returns the upper and the lower 64 bits of an address, of an IPv4 address as if it were
// IPv4-mapped.
func Halves(a netip.Addr) (hi, lo uint64) {
	if a.Is4() {
		// As16 is correct here too, but copies 16 bytes right after writing them as two times 8,
		// for which the processor has to wait.
		b := a.As4()
		return 0, 0xffff<<32 | uint64(binary.BigEndian.Uint32(b[:]))
	}
	b := a.As16()
	return binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
}
