package dns

import (
	"hash/maphash"
	"iter"
	"sync/atomic"
)

// table is a hash table that one goroutine writes to while any number read, without a lock. The zero
// value is empty.
type table[V any] struct {
	buckets atomic.Pointer[[]bucket[V]]
	n       int // entries; the writer's
}

type bucket[V any] = atomic.Pointer[entry[V]]

// entry is immutable but for its value and its place in the chain. One that was taken out still
// leads a reader who stands on it back into the chain.
type entry[V any] struct {
	hash  uint64
	key   string
	value atomic.Pointer[V]
	next  atomic.Pointer[entry[V]]
}

// seed is one for all tables, chosen by the process, so that nobody can choose names that collide.
var seed = maphash.MakeSeed()

// get returns the value of a key, nil if there is none.
func (t *table[V]) get(key []byte) *V {
	buckets := t.buckets.Load()
	if buckets == nil {
		return nil
	}
	hash := maphash.Bytes(seed, key)
	for e := (*buckets)[hash&uint64(len(*buckets)-1)].Load(); e != nil; e = e.next.Load() {
		if e.hash == hash && e.key == string(key) {
			return e.value.Load()
		}
	}
	return nil
}

// set gives a key a value.
func (t *table[V]) set(key string, v *V) {
	hash := maphash.String(seed, key)
	if buckets := t.buckets.Load(); buckets != nil {
		for e := (*buckets)[hash&uint64(len(*buckets)-1)].Load(); e != nil; e = e.next.Load() {
			if e.hash == hash && e.key == key {
				e.value.Store(v)
				return
			}
		}
	}
	t.grow()
	insert(*t.buckets.Load(), hash, key, v)
	t.n++
}

func insert[V any](buckets []bucket[V], hash uint64, key string, v *V) {
	b := &buckets[hash&uint64(len(buckets)-1)]
	e := &entry[V]{hash: hash, key: key}
	e.value.Store(v)
	e.next.Store(b.Load())
	b.Store(e)
}

// grow makes room for one more entry. Readers go on in the old buckets until the new ones are full.
func (t *table[V]) grow() {
	old := t.buckets.Load()
	if old != nil && t.n < len(*old) {
		return
	}
	buckets := make([]bucket[V], max(1, 2*t.n))
	for key, v := range t.all() {
		insert(buckets, maphash.String(seed, key), key, v)
	}
	t.buckets.Store(&buckets)
}

// remove takes a key out.
func (t *table[V]) remove(key string) {
	buckets := t.buckets.Load()
	if buckets == nil {
		return
	}
	hash := maphash.String(seed, key)
	at := &(*buckets)[hash&uint64(len(*buckets)-1)]
	for e := at.Load(); e != nil; e = at.Load() {
		if e.hash == hash && e.key == key {
			at.Store(e.next.Load())
			t.n--
			return
		}
		at = &e.next
	}
}

// all yields everything, in no order. For the writer.
func (t *table[V]) all() iter.Seq2[string, *V] {
	return func(yield func(string, *V) bool) {
		buckets := t.buckets.Load()
		if buckets == nil {
			return
		}
		for i := range *buckets {
			for e := (*buckets)[i].Load(); e != nil; e = e.next.Load() {
				if !yield(e.key, e.value.Load()) {
					return
				}
			}
		}
	}
}
