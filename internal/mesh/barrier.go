package mesh

// barrier is a call to make when the peer has taken everything up to seq.
type barrier struct {
	seq  uint64
	call func()
}

// Barrier calls f once, when everything that was given to Send before has been answered at least once: whatever
// was not Queued has settled, or was Accepted. It does so, too, when the peer is dead or the mesh has ended. f runs
// on a goroutine of the mesh and must not block.
//
// It is for a sender that has learned that a holder is not the holder: what else was on its way there comes back
// before it goes on elsewhere, so that nothing overtakes.
func (l *Link) Barrier(f func()) {
	l.mu.Lock()
	if (l.estate.state != open || l.out.taken == l.out.last) && !l.telling {
		l.mu.Unlock()
		if !l.m.later(f) {
			f()
		}
		return
	}
	l.barriers = append(l.barriers, barrier{seq: l.out.last, call: f})
	l.mu.Unlock()
	l.prompt()
}

// prompt has the peer return the credit that it may be holding back: a digest is answered with it.
func (l *Link) prompt() {
	l.digestWanted.Store(true)
	l.nudge()
}

// passed removes and returns the barriers that the peer has passed. mu is held.
func (l *Link) passed() []barrier {
	n := 0
	for n < len(l.barriers) && (l.estate.state != open || l.barriers[n].seq <= l.out.taken) {
		n++
	}
	over := l.barriers[:n:n]
	l.barriers = l.barriers[n:]
	if len(l.barriers) == 0 {
		l.barriers = nil
	}
	return over
}
