package pebble

import (
	"sync"

	"github.com/beeline-mqtt/beeline/internal/journal"
)

// latelyRead bounds what is known of entries that were read. It is a few pages for each of some hundred sessions that
// are being read at the same time.
const latelyRead = 1 << 17

// lately remembers of entries what their end needs, from the page that they were read in: who reads a page is about to
// say of each of its entries that it is done, and to look each of them up again would cost more than everything else.
//
// An entry never changes, so what is known of one is true until it is removed. That it was removed is remembered
// likewise: a page may be read slowly, and remembered after the end of its entries.
type lately struct {
	mu    sync.Mutex
	known map[spot]*entry // nil: it is gone
	order []spot          // a ring, when it is full
	next  int
}

// spot names an entry.
type spot struct {
	session journal.SessionID
	at      journal.Position
}

// add remembers an entry, but for its message.
func (r *lately) add(id journal.SessionID, at journal.Position, e entry) {
	e.inline, e.ids = reader{}, nil
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.known[spot{id, at}]; !known {
		r.put(spot{id, at}, &e)
	}
}

// gone remembers that there is no such entry any more.
func (r *lately) gone(id journal.SessionID, at journal.Position) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.known[spot{id, at}]; known {
		r.known[spot{id, at}] = nil
		return
	}
	r.put(spot{id, at}, nil)
}

// put needs mu.
func (r *lately) put(p spot, e *entry) {
	if r.known == nil {
		r.known = make(map[spot]*entry)
	}
	if len(r.order) < latelyRead {
		r.order = append(r.order, p)
	} else {
		delete(r.known, r.order[r.next])
		r.order[r.next] = p
		r.next = (r.next + 1) % latelyRead
	}
	r.known[p] = e
}

// get returns an entry, nil if it is gone; known is false when it has to be looked up.
func (r *lately) get(id journal.SessionID, at journal.Position) (e *entry, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, known = r.known[spot{id, at}]
	return e, known
}
