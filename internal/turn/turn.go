// Package turn gathers writes. A goroutine that handles a burst of work, one read from a socket or one frame
// from a peer, appends its output to many connections and links; its Turn remembers which, so that each is
// flushed once, at the end, with one system call.
//
// A Turn belongs to one goroutine. End it before anything that may block.
package turn

import "time"

// Flusher is something with output that waits to be written.
type Flusher interface {
	// Flush writes what waits, without blocking. It may add further flushers to t.
	Flush(t *Turn)
}

// keep is the largest list that a turn holds on to: a fan-out to thousands must not stay in memory for ever.
const keep = 64

// Turn is the list of what has to be flushed. The zero value is ready.
type Turn struct {
	// Now is the time at which the burst arrived, set by the owner: one look at the clock serves all of it.
	Now time.Time

	waiting []Flusher
}

// Add has f flushed at the end of the turn. Callers keep a mark of their own so that they add themselves once.
func (t *Turn) Add(f Flusher) {
	t.waiting = append(t.waiting, f)
}

// End flushes everything, including what is added while it does, and leaves the turn ready for the next one. After
// a panic in a Flush, End goes on with the one after it.
func (t *Turn) End() {
	for i := 0; i < len(t.waiting); i++ {
		if f := t.waiting[i]; f != nil {
			t.waiting[i] = nil
			f.Flush(t)
		}
	}
	t.waiting = t.waiting[:0]
	if cap(t.waiting) > keep {
		t.waiting = nil
	}
}
