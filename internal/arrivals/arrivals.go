// Package arrivals puts messages that came by two ways back into the order in which they were published.
//
// When a durable session has moved, a sender may send a later message straight to the new holder before an older one
// comes back to it from the former holder as moved, and goes to the new holder after all. So a new holder keeps what
// arrives for a while, without receipts, and takes it in the order of each origin then.
//
// A Set is pure: no goroutine, no clock, no I/O. Its owner locks, bounds its bytes, and says when the time has come.
package arrivals

import (
	"cmp"
	"slices"

	"github.com/beeline-mqtt/beeline/internal/message"
)

// Set holds arrivals of type T. The zero value is ready.
type Set[T any] struct {
	items []item[T]
	at    map[message.ID]int
	// origins are numbered in the order of their first arrival.
	origins map[string]int
	bytes   int
}

type item[T any] struct {
	origin int
	seq    uint64
	v      T
}

// Add keeps v, which is the message with that id and counts for size bytes. If a message with the same id is held,
// v is not kept, and held is what came first.
func (s *Set[T]) Add(id message.ID, size int, v T) (held T, duplicate bool) {
	if i, ok := s.at[id]; ok {
		return s.items[i].v, true
	}
	if s.at == nil {
		s.at = make(map[message.ID]int)
		s.origins = make(map[string]int)
	}
	origin, ok := s.origins[id.Origin]
	if !ok {
		origin = len(s.origins)
		s.origins[id.Origin] = origin
	}
	s.at[id] = len(s.items)
	s.items = append(s.items, item[T]{origin: origin, seq: id.Seq, v: v})
	s.bytes += size
	return v, false
}

// Bytes is the sum of the sizes of what is held.
func (s *Set[T]) Bytes() int { return s.bytes }

// Len is the number of messages held.
func (s *Set[T]) Len() int { return len(s.items) }

// Release returns everything and holds nothing afterwards: one origin after the other in the order in which they
// first arrived, the messages of each by their sequence.
func (s *Set[T]) Release() []T {
	slices.SortFunc(s.items, func(a, b item[T]) int {
		return cmp.Or(cmp.Compare(a.origin, b.origin), cmp.Compare(a.seq, b.seq))
	})
	out := make([]T, len(s.items))
	for i := range s.items {
		out[i] = s.items[i].v
	}
	*s = Set[T]{}
	return out
}
