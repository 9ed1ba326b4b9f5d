package forward

import (
	"hash/maphash"
	"sync"
	"time"
)

const shardCount = 16 // a power of two

// entryOverhead is what an entry costs beside its key, body and offsets, in bytes: itself, its
// place in the map, and what the allocator rounds up.
const entryOverhead = 216

func (e *entry) cost() int {
	return entryOverhead + (len(e.key)+len(e.body)+2*len(e.ttlAt))*9/8
}

// cache holds answers by question, within a number of bytes. When it is full it gives up the oldest
// answer that nobody has asked for of late (SIEVE).
type cache struct {
	seed     maphash.Seed
	prefetch uint32        // how many hits make an answer worth a prefetch; 0: none is
	maxStale time.Duration // how long an answer may be used after its end
	shards   [shardCount]shard
}

// shard is a part of the cache, with the questions under way that belong to it.
type shard struct {
	mu      sync.Mutex // guards what follows, and what the cache counts in entries
	entries map[string]*entry
	flights map[string]*flight
	newest  *entry
	oldest  *entry
	hand    *entry // the next to be considered; nil: the oldest
	bytes   int
	limit   int
	stats   CacheStats
	_       [64]byte // the next shard's lock is elsewhere
}

func newCache(bytes int, prefetch uint32, maxStale time.Duration) *cache {
	c := &cache{seed: maphash.MakeSeed(), prefetch: prefetch, maxStale: maxStale}
	for i := range c.shards {
		s := &c.shards[i]
		s.entries, s.flights, s.limit = map[string]*entry{}, map[string]*flight{}, bytes/shardCount
	}
	return c
}

func (c *cache) shard(key []byte) *shard {
	return &c.shards[maphash.Bytes(c.seed, key)%shardCount]
}

// state is what the cache can do for a question.
type state uint8

const (
	absent state = iota
	fresh
	ageing // fresh, and to be asked for again soon
	stale  // to be used if nothing better comes
	old    // stale, and nothing better can be expected now
)

// findLocked looks for an answer to key at the time now.
func (c *cache) findLocked(s *shard, key []byte, now time.Duration) (*entry, state) {
	e := s.entries[string(key)]
	if e == nil {
		return nil, absent
	}
	switch {
	case now < e.expires && c.wantsRefresh(e, now):
		return e, ageing
	case now < e.expires:
		return e, fresh
	case e.kind == failure || now >= e.expires+c.maxStale:
		s.removeLocked(e)
		return nil, absent
	case now < e.recheck:
		return e, old
	}
	return e, stale
}

// wantsRefresh reports whether e is popular and in the last tenth of its time.
func (c *cache) wantsRefresh(e *entry, now time.Duration) bool {
	return c.prefetch > 0 && e.hits >= c.prefetch && e.kind != failure && !e.refreshing && now >= e.recheck &&
		(e.expires-now)*10 <= e.expires-e.stored
}

// hitLocked counts that e was used.
func (s *shard) hitLocked(e *entry) {
	e.visited = true
	e.hits++
	if e.kind == success {
		s.stats.HitsSuccess++
	} else {
		s.stats.HitsDenial++
	}
}

// putLocked keeps e from now on, instead of what there was for its key. A failure does not replace
// what can still be used: it only tells when to ask again.
func (c *cache) putLocked(s *shard, e *entry, now, retry time.Duration) {
	before := s.entries[e.key]
	if before != nil && e.kind == failure && before.kind != failure && now < before.expires+c.maxStale {
		before.refreshing, before.recheck = false, now+retry
		return
	}
	if e.ttl == 0 {
		if before != nil && e.kind != failure && !e.truncated {
			s.removeLocked(before) // it is no longer so
		}
		return
	}
	if before != nil {
		s.removeLocked(before)
	}
	if e.cost() > s.limit {
		return
	}
	e.stored, e.expires = now, now+time.Duration(e.ttl)*time.Second
	s.addLocked(e)
	for s.bytes > s.limit {
		s.evictLocked()
	}
}

func (s *shard) addLocked(e *entry) {
	s.entries[e.key] = e
	e.older = s.newest
	if s.newest != nil {
		s.newest.newer = e
	} else {
		s.oldest = e
	}
	s.newest = e
	s.countLocked(e, 1)
}

func (s *shard) removeLocked(e *entry) {
	delete(s.entries, e.key)
	if s.hand == e {
		s.hand = e.newer
	}
	if e.newer != nil {
		e.newer.older = e.older
	} else {
		s.newest = e.older
	}
	if e.older != nil {
		e.older.newer = e.newer
	} else {
		s.oldest = e.newer
	}
	e.newer, e.older = nil, nil
	s.countLocked(e, -1)
}

func (s *shard) countLocked(e *entry, n int) {
	s.bytes += n * e.cost()
	if e.kind == success {
		s.stats.EntriesSuccess += n
	} else {
		s.stats.EntriesDenial += n
	}
}

// evictLocked gives up one answer: the hand goes from the oldest to the newest, spares once whatever
// was asked for since it passed, and takes the first that was not.
func (s *shard) evictLocked() {
	e := s.hand
	for {
		if e == nil {
			e = s.oldest
		}
		if e == nil {
			return
		}
		if !e.visited {
			break
		}
		e.visited = false
		e = e.newer
	}
	s.hand = e
	s.removeLocked(e)
	if e.kind == success {
		s.stats.EvictionsSuccess++
	} else {
		s.stats.EvictionsDenial++
	}
}

// purge gives up every answer whose key is chosen. Questions under way are asked anew if they come
// again.
func (c *cache) purge(chosen func(key string) bool) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		for key, e := range s.entries {
			if chosen(key) {
				s.removeLocked(e)
			}
		}
		for key := range s.flights {
			if chosen(key) {
				delete(s.flights, key)
			}
		}
		s.mu.Unlock()
	}
}

func (c *cache) stats() CacheStats {
	var sum CacheStats
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		sum.add(s.stats)
		sum.Bytes += s.bytes
		s.mu.Unlock()
	}
	return sum
}
