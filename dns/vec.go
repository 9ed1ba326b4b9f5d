package dns

import "slices"

// chunkLen is how many elements a change of one of them copies.
const chunkLen = 64

// vec is a list that does not change, cut into chunks so that its successor can share most of them.
// All chunks but the last are full.
type vec[T any] struct {
	n      int
	chunks [][]T
	flat   []T // instead of chunks, for a list that has no successor
}

func (v *vec[T]) at(i int) T {
	if v.flat != nil {
		return v.flat[i]
	}
	return v.chunks[i/chunkLen][i%chunkLen]
}

// single makes a vec of a few elements.
func single[T any](list ...T) vec[T] { return vec[T]{n: len(list), flat: list} }

// set is a list of distinct elements that are counted, in no order. What was published does not
// change any more; an element more or less costs the copy of a chunk.
type set[T comparable] struct {
	vec    vec[T]
	places map[T]place
	owned  []bool // chunks that were not published; nil: not even the list of chunks is ours
}

type place struct{ at, count int32 }

// add counts an element, and reports whether it is new.
func (s *set[T]) add(v T) bool {
	p, ok := s.places[v]
	if !ok {
		if s.places == nil {
			s.places = map[T]place{}
		}
		p.at = int32(s.vec.n)
		s.push(v)
	}
	p.count++
	s.places[v] = p
	return !ok
}

// remove undoes one add, and reports whether the element is gone.
func (s *set[T]) remove(v T) bool {
	p := s.places[v]
	if p.count > 1 {
		p.count--
		s.places[v] = p
		return false
	}
	delete(s.places, v)
	last := s.vec.at(s.vec.n - 1)
	if int(p.at) != s.vec.n-1 {
		s.own(int(p.at) / chunkLen)[p.at%chunkLen] = last
		s.places[last] = place{p.at, s.places[last].count}
	}
	s.pop()
	return true
}

func (s *set[T]) push(v T) {
	c := s.vec.n / chunkLen
	if c == len(s.vec.chunks) {
		s.ownList()
		s.vec.chunks = append(s.vec.chunks, []T{v})
		s.owned = append(s.owned, true)
	} else {
		s.own(c)
		s.vec.chunks[c] = append(s.vec.chunks[c], v)
	}
	s.vec.n++
}

func (s *set[T]) pop() {
	s.ownList()
	s.vec.n--
	c := s.vec.n / chunkLen
	if s.vec.n%chunkLen == 0 {
		s.vec.chunks, s.owned = s.vec.chunks[:c], s.owned[:c]
		return
	}
	s.vec.chunks[c] = s.vec.chunks[c][:s.vec.n%chunkLen]
}

// own returns a chunk that may be changed.
func (s *set[T]) own(c int) []T {
	s.ownList()
	if !s.owned[c] {
		s.vec.chunks[c], s.owned[c] = slices.Clone(s.vec.chunks[c]), true
	}
	return s.vec.chunks[c]
}

func (s *set[T]) ownList() {
	if s.owned == nil {
		s.vec.chunks = slices.Clone(s.vec.chunks)
		s.owned = make([]bool, len(s.vec.chunks), len(s.vec.chunks)+1)
	}
}

// publish returns the elements as they are now.
func (s *set[T]) publish() vec[T] {
	s.owned = nil
	return s.vec
}
