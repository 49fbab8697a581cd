// Package pages collects pages of things that lie in no order, as in a hash map, and are shown in the order of their ids:
// a whole walk over them is made for each page, but no more than a page is kept. It is pure; its values belong to one
// goroutine at a time.
package pages

import (
	"container/heap"
	"slices"
	"strings"
)

// Range is which ids are wanted.
type Range struct {
	// Prefix is what the ids begin with.
	Prefix string
	// After is the id behind which they lie.
	After string
}

// Has reports whether an id is wanted.
func (r Range) Has(id string) bool { return id > r.After && strings.HasPrefix(id, r.Prefix) }

// Entry is one thing with its id.
type Entry[V any] struct {
	ID    string
	Value V
}

// Lowest keeps the entries with the lowest ids of all that it is offered.
type Lowest[V any] struct {
	most int
	kept entries[V]
	left bool
}

// NewLowest returns one that keeps at most so many, at least one.
func NewLowest[V any](most int) *Lowest[V] { return &Lowest[V]{most: max(most, 1)} }

// Offer takes an entry, if it is among the lowest so far. An id that is offered twice is kept twice.
func (l *Lowest[V]) Offer(id string, v V) {
	if len(l.kept) < l.most {
		heap.Push(&l.kept, Entry[V]{id, v})
		return
	}
	l.left = true
	if id < l.kept[0].ID {
		l.kept[0] = Entry[V]{id, v}
		heap.Fix(&l.kept, 0)
	}
}

// Take returns what was kept, in the order of ids, and whether there was more. Nothing is kept any more then.
func (l *Lowest[V]) Take() (page []Entry[V], more bool) {
	page, more = l.kept, l.left
	l.kept, l.left = nil, false
	slices.SortFunc(page, func(a, b Entry[V]) int { return strings.Compare(a.ID, b.ID) })
	return page, more
}

// entries is a heap with the highest id on top.
type entries[V any] []Entry[V]

// Len implements heap.Interface.
func (e entries[V]) Len() int { return len(e) }

// Less implements heap.Interface.
func (e entries[V]) Less(i, j int) bool { return e[i].ID > e[j].ID }

// Swap implements heap.Interface.
func (e entries[V]) Swap(i, j int) { e[i], e[j] = e[j], e[i] }

// Push implements heap.Interface.
func (e *entries[V]) Push(x any) {
	*e = append(*e, x.(Entry[V])) //nolint:errcheck,forcetypeassert // nothing else is pushed
}

// Pop implements heap.Interface. Nothing is taken out one by one.
func (e *entries[V]) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	*e = (*e)[:last]
	return x
}
