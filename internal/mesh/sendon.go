package mesh

import (
	"cmp"
	"slices"
	"time"
)

// SendOn asks every living peer that has routes of this process and is not quiet, and this process itself (Deps.SendOn), to
// send on what is older than the routes that are in force now for a durable session that has come here; again after a break,
// until the peer has answered.
// done is called once: with true when each of them is dead or has answered, and everything has been taken that it had sent on
// by then; with false when patience is over, or the mesh ends. It runs on any goroutine, possibly before SendOn returns, and
// must not block.
//
// It is for what publishers have sent to where the session was before: also when its routes are in force everywhere, that
// may still be on its way back to them, and comes here after what they publish now.
func (m *Mesh) SendOn(client string, patience time.Duration, done func(complete bool)) {
	s := &sendOn{client: client, done: done, waits: map[*Link]struct{}{nil: {}}}
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		done(false)
		return
	}
	m.lastSendOn++
	s.number = m.lastSendOn
	s.enough = time.AfterFunc(patience, func() { m.giveUp(s) })
	m.sendOns = append(m.sendOns, s)
	for _, l := range m.links {
		if !l.peer.Quiet && l.announced.Load() {
			s.waits[l] = struct{}{}
			l.sendOns.Store(true)
			l.nudge()
		}
	}
	m.mu.Unlock()
	m.sendOn(nil, client, func() { m.sentOnBy(nil, s.number) })
}

// sendOn is one SendOn that is waited for. The mesh's mu guards waits: the peers that have not answered, and nil for this
// process.
type sendOn struct {
	number uint64
	client string
	done   func(complete bool)
	enough *time.Timer
	waits  map[*Link]struct{}
}

// sendOn calls done when this process has sent on what is older than now for a client, as the peer of l has asked; nil is
// this process.
func (m *Mesh) sendOn(l *Link, client string, done func()) {
	if m.deps.SendOn == nil {
		done()
		return
	}
	m.deps.SendOn(l, client, done)
}

// sentOn answers a SendOn of the peer: what was older is on the link, up to what was given to Send last.
func (l *Link) sentOn(number uint64) {
	l.mu.Lock()
	through := l.out.last
	l.mu.Unlock()
	l.in.acknowledgeSendOn(number, through)
}

// unsentOn appends to dst what the peer has to be asked beyond the number asked, and returns that of the last.
func (m *Mesh) unsentOn(l *Link, dst []*sendOn, asked uint64) ([]*sendOn, uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i, _ := slices.BinarySearchFunc(m.sendOns, asked+1, byNumber)
	for _, s := range m.sendOns[i:] {
		if _, waits := s.waits[l]; waits {
			dst = append(dst, s)
		}
		asked = s.number
	}
	return dst, asked
}

func byNumber(s *sendOn, number uint64) int { return cmp.Compare(s.number, number) }

// sentOn takes a peer's SentOn.
func (m *Mesh) sentOn(l *Link, number, through uint64) {
	l.in.expect(through, func() { m.sentOnBy(l, number) })
}

// sentOnBy takes note that a peer has sent everything on, and that it has been taken here. l is nil for this process.
func (m *Mesh) sentOnBy(l *Link, number uint64) {
	m.mu.Lock()
	i, found := slices.BinarySearchFunc(m.sendOns, number, byNumber)
	if !found { // nobody waits for it any more
		m.mu.Unlock()
		return
	}
	s := m.sendOns[i]
	delete(s.waits, l)
	over := len(s.waits) == 0
	if over {
		m.sendOns = slices.Delete(m.sendOns, i, i+1)
	}
	m.mu.Unlock()
	if over {
		s.enough.Stop()
		s.done(true)
	}
}

// giveUp ends the wait for what has taken too long.
func (m *Mesh) giveUp(s *sendOn) {
	m.mu.Lock()
	i := slices.Index(m.sendOns, s)
	if i >= 0 {
		m.sendOns = slices.Delete(m.sendOns, i, i+1)
	}
	m.mu.Unlock()
	if i >= 0 {
		s.done(false)
	}
}

// notSendingOn forgets a peer that is dead.
func (m *Mesh) notSendingOn(l *Link) {
	m.mu.Lock()
	numbers := make([]uint64, len(m.sendOns))
	for i, s := range m.sendOns {
		numbers[i] = s.number
	}
	m.mu.Unlock()
	for _, n := range numbers {
		m.sentOnBy(l, n)
	}
}

// endSendOns ends what still waits when the mesh ends.
func (m *Mesh) endSendOns() {
	m.mu.Lock()
	over := m.sendOns
	m.sendOns = nil
	m.mu.Unlock()
	for _, s := range over {
		s.enough.Stop()
		s.done(false)
	}
}
