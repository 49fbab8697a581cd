package mesh

// barrier is a call to make when the peer has taken everything up to seq, and what of that names the client, at the epoch
// or an older one, has settled.
type barrier struct {
	seq    uint64
	client string
	epoch  uint64
	call   func()
}

// Barrier calls f once, when nothing that was given to Send before can come back any more for a client that the peer held
// at an epoch, or before: everything has been answered at least once, and what names the client, at that epoch or an
// older one, has settled, its waiter told, also if it was Accepted first; nobody, if client is empty. Nothing else that was
// Accepted is waited for: one slow receiver would hold everybody up. f is called, too, when the peer is dead or the mesh has
// ended. It runs on a goroutine of the mesh and must not block.
//
// It is for a sender that has learned that a holder is not the holder: what else was on its way there comes back
// before it goes on elsewhere, so that nothing overtakes.
func (l *Link) Barrier(client string, epoch uint64, f func()) {
	l.mu.Lock()
	b := barrier{seq: l.out.last, client: client, epoch: epoch, call: f}
	waits := true
	if l.telling || l.estate.state == open && l.out.taken < b.seq {
		l.barriers = append(l.barriers, b)
		l.prompt()
	} else {
		waits = l.settles(b)
	}
	l.mu.Unlock()
	if !waits && !l.m.later(f) {
		f()
	}
}

// prompt has the peer return the credit that it may be holding back: a digest is answered with it.
func (l *Link) prompt() {
	l.digestWanted.Store(true)
	l.nudge()
}

// settles keeps a barrier, up to which everything has been taken, if something has to settle first. mu is held.
func (l *Link) settles(b barrier) bool {
	if !l.out.owes(b.client, b.epoch, b.seq) {
		return false
	}
	if l.settling == nil {
		l.settling = make(map[string][]barrier)
	}
	l.settling[b.client] = append(l.settling[b.client], b)
	return true
}

// passed removes and returns the barriers that the peer has passed, now that settled has been told. mu is held.
func (l *Link) passed(settled []settlement) (over []barrier) {
	n := 0
	for n < len(l.barriers) && (l.estate.state != open || l.barriers[n].seq <= l.out.taken) {
		n++
	}
	for _, b := range l.barriers[:n] {
		if !l.settles(b) {
			over = append(over, b)
		}
	}
	if l.barriers = l.barriers[n:]; len(l.barriers) == 0 {
		l.barriers = nil
	}
	for i := 0; i < len(settled) && len(l.settling) > 0; i++ {
		client := settled[i].delivery.Target.ClientID
		waiting := l.settling[client]
		if len(waiting) == 0 {
			continue
		}
		delete(l.settling, client)
		for _, b := range waiting {
			if !l.settles(b) {
				over = append(over, b)
			}
		}
	}
	return over
}
