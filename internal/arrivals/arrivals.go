// Package arrivals puts messages that came by two ways back into the order in which they were published.
//
// When a durable session has moved, a sender may send a later message straight to the new holder before an older one
// comes back to it from the former holder as moved, and goes to the new holder after all. So a new holder keeps what
// arrives for a while, without receipts, and takes it in the order of each process that sends on then.
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

// Add keeps v, which is m or about it. If a message with the same id is held, v is not kept, and held is what came first.
func (s *Set[T]) Add(m *message.Message, v T) (held T, duplicate bool) {
	if i, ok := s.at[m.ID]; ok {
		if again := s.item(m, v); again.origin < s.items[i].origin {
			// It has been sent again, and what is behind it there has come first.
			s.items[i].origin, s.items[i].seq = again.origin, again.seq
		}
		return s.items[i].v, true
	}
	if s.at == nil {
		s.at = make(map[message.ID]int)
		s.origins = make(map[string]int)
	}
	s.at[m.ID] = len(s.items)
	s.items = append(s.items, s.item(m, v))
	s.bytes += m.Size()
	return v, false
}

func (s *Set[T]) item(m *message.Message, v T) item[T] {
	place := m.Place()
	origin, ok := s.origins[place.Origin]
	if !ok {
		origin = len(s.origins)
		s.origins[place.Origin] = origin
	}
	return item[T]{origin: origin, seq: place.Seq, v: v}
}

// Bytes is the sum of the sizes of what is held.
func (s *Set[T]) Bytes() int { return s.bytes }

// Len is the number of messages held.
func (s *Set[T]) Len() int { return len(s.items) }

// Release returns everything and holds nothing afterwards: one origin after the other in the order in which they
// first arrived, the messages of each by their places.
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
