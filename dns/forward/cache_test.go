package forward

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// answerOf packs an answer to a question of name, and reads it as newEntry does.
func answerOf(t testing.TB, name string, qtype uint16, records ...string) (*question, *entry) {
	t.Helper()
	m := question4(name, qtype)
	query, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	q := new(question)
	if !q.parse(query) {
		t.Fatalf("%q is no question", name)
	}
	m.Response, m.Compress = true, true
	for _, s := range records {
		m.Answer = append(m.Answer, mustRR(s))
	}
	msg, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	e, err := newEntry(msg, q, limits{max: 3600, maxDenial: 30, failure: 1})
	if err != nil {
		t.Fatal(err)
	}
	return q, e
}

func (c *cache) put(q *question, e *entry, now time.Duration) {
	s := c.shard(q.bytes())
	s.mu.Lock()
	defer s.mu.Unlock()
	c.putLocked(s, e, now, time.Second)
}

func (c *cache) get(q *question, now time.Duration) (*entry, state) {
	s := c.shard(q.bytes())
	s.mu.Lock()
	defer s.mu.Unlock()
	e, st := c.findLocked(s, q.bytes(), now)
	if e != nil {
		s.hitLocked(e)
	}
	return e, st
}

var noClient netip.AddrPort

// checkCache compares what a cache counts with what it holds.
func checkCache(t *testing.T, c *cache) {
	t.Helper()
	for i := range c.shards {
		s := &c.shards[i]
		bytes, n := 0, 0
		for e := s.oldest; e != nil; e = e.newer {
			if s.entries[e.key] != e || e.newer == nil && s.newest != e || e.newer != nil && e.newer.older != e {
				t.Fatalf("shard %d: the list is broken at %q", i, e.key)
			}
			bytes += e.cost()
			n++
		}
		if n != len(s.entries) || bytes != s.bytes || s.bytes > s.limit || n != s.stats.EntriesSuccess+s.stats.EntriesDenial {
			t.Fatalf("shard %d: %d in the list, %d in the map, %d bytes, counted as %d of %d, %+v", i, n, len(s.entries), bytes, s.bytes, s.limit, s.stats)
		}
	}
}

// Under random load the cache stays within its bytes, in its own count and on the heap.
func TestCacheIsBounded(t *testing.T) {
	const limit = 4 << 20
	r := rand.New(rand.NewPCG(1, 2))
	base := heap()
	c := newCache(limit, 3, time.Hour)
	now := time.Duration(0)
	for i := range 60000 {
		name := fmt.Sprintf("name-%d.example.org.", r.IntN(30000))
		records := make([]string, 1+r.IntN(3)*r.IntN(4))
		for j := range records {
			records[j] = fmt.Sprintf("%s %d A 192.0.2.%d", name, r.IntN(100), j)
		}
		if r.IntN(4) == 0 {
			records = []string{name + " 60 TXT " + strings.Repeat("x", r.IntN(250))}
		}
		q, e := answerOf(t, name, dns.TypeA, records...)
		c.put(q, e, now)
		c.get(q, now)
		now += 10 * time.Millisecond
		if i%20000 == 0 {
			checkCache(t, c)
			c.purge(func(string) bool { return r.IntN(50) == 0 })
		}
	}
	checkCache(t, c)
	st := c.stats()
	if st.Bytes > limit || st.Bytes < limit*8/10 || st.EvictionsSuccess == 0 {
		t.Errorf("%+v", st)
	}
	if used := heap() - base; used > limit*5/4 {
		t.Errorf("%d bytes on the heap, %d counted, the limit is %d", used, st.Bytes, limit)
	} else {
		t.Logf("%d bytes on the heap, %d counted, %d answers", used, st.Bytes, st.EntriesSuccess)
	}
	runtime.KeepAlive(c)
}

func heap() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// What is asked for again and again survives a flood of names asked once.
func TestPopularSurvives(t *testing.T) {
	c := newCache(1<<20, 0, 0)
	q, e := answerOf(t, "popular.example.org.", dns.TypeA, "popular.example.org. 3600 A 192.0.2.1")
	c.put(q, e, 0)
	for i := range 20000 {
		name := fmt.Sprintf("once-%d.example.org.", i)
		r, f := answerOf(t, name, dns.TypeA, name+" 3600 A 192.0.2.1")
		c.put(r, f, 0)
		if i%100 == 0 {
			if _, st := c.get(q, 0); st != fresh {
				t.Fatalf("gone after %d others", i)
			}
		}
	}
	checkCache(t, c)
}

func TestNoCache(t *testing.T) {
	c := newCache(0, 0, 0)
	q, e := answerOf(t, "example.org.", dns.TypeA, "example.org. 3600 A 192.0.2.1")
	c.put(q, e, 0)
	if _, st := c.get(q, 0); st != absent {
		t.Error("kept")
	}
}

func BenchmarkCached(b *testing.B) {
	for _, bc := range []struct {
		name    string
		records int
	}{{"addresses=1", 1}, {"addresses=8", 8}} {
		records := make([]string, bc.records)
		for i := range records {
			records[i] = fmt.Sprintf("www.example.org. 3600 A 192.0.2.%d", i)
		}
		q, e := answerOf(b, "www.example.org.", dns.TypeA, records...)
		f := New(Options{}, Config{})
		f.cache.put(q, e, f.now())
		m := question4("www.Example.org.", dns.TypeA)
		m.SetEdns0(1232, false)
		query, _ := m.Pack()
		b.Run("append/"+bc.name, func(b *testing.B) {
			b.ReportAllocs()
			buf := make([]byte, 0, 1232)
			for b.Loop() {
				if _, ok := f.AppendCached(buf, query); !ok {
					b.Fatal("not cached")
				}
			}
		})
		b.Run("forward/"+bc.name, func(b *testing.B) {
			b.ReportAllocs()
			reply := func([]byte) {}
			for b.Loop() {
				f.Forward(b.Context(), query, noClient, false, reply)
			}
		})
	}
}

// BenchmarkCachedNames draws from many names, so that they are not all in the processor's cache.
func BenchmarkCachedNames(b *testing.B) {
	const names = 10000
	f := New(Options{}, Config{})
	queries := make([][]byte, names)
	for i := range queries {
		name := fmt.Sprintf("name-%d.some.example.org.", i)
		q, e := answerOf(b, name, dns.TypeA, name+" 3600 A 192.0.2.1")
		f.cache.put(q, e, f.now())
		queries[i], _ = question4(name, dns.TypeA).Pack()
	}
	b.ReportAllocs()
	buf := make([]byte, 0, 1232)
	i := 0
	for b.Loop() {
		i = (i + 7919) % names
		if _, ok := f.AppendCached(buf, queries[i]); !ok {
			b.Fatal("not cached")
		}
	}
}

// BenchmarkForwarded asks a real upstream on this machine each time; its own cost is in it.
func BenchmarkForwarded(b *testing.B) {
	s := startServer(b, func(w dns.ResponseWriter, r *dns.Msg) { send(w, r, 0, r.Question[0].Name+" 0 A 192.0.2.1") })
	f := start(b, Options{}, upstreams(s))
	query, _ := question4("www.example.org.", dns.TypeA).Pack()
	b.ReportAllocs()
	done := make(chan struct{})
	for b.Loop() {
		f.Forward(b.Context(), query, noClient, false, func([]byte) { done <- struct{}{} })
		<-done
	}
}
