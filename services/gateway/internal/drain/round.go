package drain

import "iter"

// Round goes round those who are here, as long as there is anybody to be told. It is for one goroutine.
type Round[C any] struct {
	all  func() iter.Seq[C]
	next func() (C, bool)
	stop func()
}

// NewRound begins. all yields those who are here, each time anew; those that have been told and are not gone yet may be
// among them. The caller calls Stop at the end.
func NewRound[C any](all func() iter.Seq[C]) *Round[C] {
	r := &Round[C]{all: all}
	r.next, r.stop = iter.Pull(all())
	return r
}

// Stop ends it.
func (r *Round[C]) Stop() { r.stop() }

// Tell tells most of them, and returns how many it were. tell reports whether one had not been told before.
func (r *Round[C]) Tell(most int, tell func(C) bool) (told int) {
	for again := true; told < most; {
		one, ok := r.next()
		switch {
		case ok:
			if tell(one) {
				told++
			}
			continue
		case !again:
			return told
		}
		// Some may have come while the others were told.
		again = false
		r.stop()
		r.next, r.stop = iter.Pull(r.all())
	}
	return told
}
