package mesh

import "slices"

// Adopt tells every living peer that the durable sessions of a dead incarnation have a new holder, this process, and
// that its routes for them are in force; again after a break, until the peer has answered. What a peer has held for
// the dead incarnation it then sends as TargetOrphans, before anything newer.
//
// answered is called once for each peer that has answered and of which everything has been taken that it held: the
// calls to Inbound.Deliver have returned. A peer that dies before is not reported. done is called once, after the
// last call of answered has returned: with nil when each of the peers has answered or is dead, with ErrClosed when
// the mesh ends. Both are called on goroutines of the mesh, answered possibly on several at once, and must not block.
// It is for the caller to stop waiting. Peers that join later are not asked: they never knew the incarnation.
//
// TargetOrphans may still come after answered, from a publisher that looked for routes just before; it has sent
// nothing newer by then.
//
// For this process, too, the incarnation is dead for good. What it has itself sent there and is not settled settles
// as Gone.
//
// Of several dead ones adopt first that which died first, and so the incarnation that was to adopt the others after
// these: a peer that had not been told by it yet gives what is older first. One that had gives everything with the
// latter, in the same order.
func (m *Mesh) Adopt(incarnation string, answered func(peer string), done func(error)) {
	m.routesMu.Lock()
	version := m.routes.version
	m.routesMu.Unlock()
	a := &adoption{
		adopt:    adopt{incarnation: incarnation, routes: version},
		answered: answered, done: done, peers: make(map[*Link]answering),
	}
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		done(ErrClosed)
		return
	}
	own := m.bury(incarnation)
	m.broadcast()
	for _, l := range m.links {
		a.peers[l] = asked
	}
	alone := len(a.peers) == 0
	if !alone {
		m.adopts = append(m.adopts, a)
	}
	m.mu.Unlock()

	if own != nil {
		own.renounce()
	}
	for _, l := range m.living() {
		l.adoptions.Store(true)
		l.nudge()
	}
	if alone && !m.later(func() { done(nil) }) {
		done(ErrClosed)
	}
}

// adopt is what a peer is told: that an incarnation is adopted, behind a version of the routes.
type adopt struct {
	incarnation string
	routes      uint64
}

// adoption waits for the answers of peers. The mesh's mu guards peers.
type adoption struct {
	adopt
	answered func(string)
	done     func(error)
	peers    map[*Link]answering // those that have not answered
}

// answering is how far a peer has got with its answer.
type answering byte

const (
	asked     answering = iota
	acked               // its answer is here, but not yet everything that it held
	reporting           // answered is being called
)

// unanswered returns what l's peer is to be told on a new stream, in the order of Adopt.
func (m *Mesh) unanswered(l *Link) (adopts []adopt) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, a := range m.adopts {
		if stage, ok := a.peers[l]; ok && stage == asked {
			adopts = append(adopts, a.adopt)
		}
	}
	return adopts
}

// adoptedAcked takes a peer's AdoptedAck.
func (m *Mesh) adoptedAcked(l *Link, incarnation string, through uint64) {
	var here []*adoption
	m.mu.Lock()
	for _, a := range m.adopts {
		if stage, ok := a.peers[l]; ok && stage == asked && a.incarnation == incarnation {
			a.peers[l] = acked
			here = append(here, a)
		}
	}
	m.mu.Unlock()
	if len(here) == 0 {
		return
	}
	l.in.expect(through, func() {
		for _, a := range here {
			m.report(a, l)
		}
	})
}

// report tells a that a peer has answered and given everything.
func (m *Mesh) report(a *adoption, l *Link) {
	m.mu.Lock()
	stage, ok := a.peers[l]
	if !ok || stage != acked {
		m.mu.Unlock()
		return
	}
	a.peers[l] = reporting
	m.mu.Unlock()
	a.answered(l.peer.ID)
	m.mu.Lock()
	delete(a.peers, l)
	over := m.answeredByAll()
	m.mu.Unlock()
	call(over)
}

// notAnswering forgets a peer that is dead.
func (m *Mesh) notAnswering(l *Link) {
	m.mu.Lock()
	for _, a := range m.adopts {
		if a.peers[l] != reporting {
			delete(a.peers, l)
		}
	}
	over := m.answeredByAll()
	m.mu.Unlock()
	call(over)
}

// answeredByAll removes the adoptions that nobody has to answer any more. mu is held.
func (m *Mesh) answeredByAll() (over []finished) {
	m.adopts = slices.DeleteFunc(m.adopts, func(a *adoption) bool {
		if len(a.peers) > 0 {
			return false
		}
		over = append(over, finished{done: a.done})
		return true
	})
	return over
}

// endAdoptions ends what still waits when the mesh ends.
func (m *Mesh) endAdoptions() {
	m.mu.Lock()
	var over []finished
	for _, a := range m.adopts {
		over = append(over, finished{done: a.done, err: ErrClosed})
	}
	m.adopts = nil
	m.mu.Unlock()
	call(over)
}
