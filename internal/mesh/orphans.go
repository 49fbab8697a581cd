package mesh

import (
	"slices"
)

// estate is what has become of a link whose peer is dead. Its link's mu guards it.
type estate struct {
	state linkState
	heir  *Link // adopted: the link to the process that has adopted the peer's sessions

	// renounced: this process has adopted them itself and keeps nothing for them.
	renounced bool
}

// linkState says what becomes of a delivery that is given to a link.
type linkState byte

const (
	open     linkState = iota // it is sent; that the peer is dead may be known, but not worked yet
	orphaned                  // it is kept if it is for durable sessions of the peer
	adopted                   // it goes to the heir
	over                      // it settles as Gone
)

// takes reports whether a delivery goes into the link's window.
func (e *estate) takes(d *Delivery) bool {
	return e.state == open || e.state == orphaned && d.outlives()
}

// claim is what a process says that adopts the sessions of a dead incarnation.
type claim struct {
	incarnation string
	heir        *Link
}

// end closes the inbound half and settles as Gone what nobody is to inherit. Nothing is sent or received any more.
//
// The link of a dead peer is orphaned when the peer has durable routes, and also when it was sent orphans that it has
// not settled: whoever adopts it, adopts those.
func (l *Link) end() {
	l.in.end()
	dead, table := l.dead.Load(), l.m.deps.Routes
	inherit := dead && !l.m.closing()
	durable := inherit && table.DropTransient(l) > 0

	var counts [outcomes]uint64
	var settled []settlement
	l.acquire()
	inherit = inherit && !l.estate.renounced
	if inherit {
		settled = l.out.orphan((*Delivery).outlives, nil, &counts)
	} else {
		settled = l.out.fail(nil, &counts)
	}
	state := over
	if inherit && (durable || l.out.window.len() > 0) {
		state = orphaned
	}
	l.estate.state = state
	l.busy = false
	l.m.counters.settled(&counts)
	l.tell(settled)
	l.endEchoes()

	if state == over {
		l.m.forget(l)
	}
	if dead {
		l.m.dropped(l)
		l.m.notAnswering(l)
		l.m.notSendingOn(l)
	}
	l.m.inherit()
}

// renounce settles as Gone what is kept for the dead peer, now or at its end.
func (l *Link) renounce() {
	var counts [outcomes]uint64
	l.mu.Lock()
	l.estate.renounced = true
	if l.estate.state != orphaned {
		l.mu.Unlock()
		return
	}
	l.estate.state = over
	settled := l.out.fail(nil, &counts)
	l.m.counters.settled(&counts)
	l.tell(settled)
	l.m.forget(l)
	l.m.inherit()
}

// forget drops the routes of a dead peer that nothing is kept for, and the peer.
func (m *Mesh) forget(l *Link) {
	m.deps.Routes.Drop(l)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.gone[l.peer.ID] == l {
		m.gone[l.peer.ID] = nil
	}
}

// endOrphans settles what is left when the mesh ends.
func (m *Mesh) endOrphans() {
	for _, l := range m.buried() {
		l.renounce()
	}
}

// buried returns the links of those dead peers that there is something to know of.
func (m *Mesh) buried() (links []*Link) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, l := range m.gone {
		if l != nil {
			links = append(links, l)
		}
	}
	return links
}

func (m *Mesh) orphaned() (links, bytes int) {
	for _, l := range m.buried() {
		l.mu.Lock()
		if l.estate.state == orphaned {
			links++
			bytes += l.out.bytes
		}
		l.mu.Unlock()
	}
	return links, bytes
}

// adopted works Adopted from the peer of heir. The incarnation is dead also if the registry has not shown it here.
func (m *Mesh) adopted(incarnation string, heir *Link) {
	m.mu.Lock()
	m.bury(incarnation)
	m.broadcast()
	m.mu.Unlock()
	m.inherit(claim{incarnation: incarnation, heir: heir})
}

// inherit takes new claims and works those that wait, in the order in which they came, until none gets any further. It
// is called whenever a link is at its end.
func (m *Mesh) inherit(claims ...claim) {
	m.inheriting.Lock()
	defer m.inheriting.Unlock()
	for _, c := range claims {
		if !slices.Contains(m.claims, c) {
			m.claims = append(m.claims, c)
		}
	}
	for again := true; again; {
		again = false
		var dying []*Link // what their peers claim now must not overtake what they have claimed before
		m.claims = slices.DeleteFunc(m.claims, func(c claim) bool {
			if slices.Contains(dying, c.heir) {
				return false
			}
			switch m.work(c) {
			case claimWaits:
				return false
			case claimWaitsForTheEnd:
				dying = append(dying, c.heir)
				return false
			}
			again = true
			return true
		})
	}
}

// worked is how far a claim has got.
type worked byte

const (
	claimOver           worked = iota // there is nothing more to do
	claimWaits                        // for somebody else to be adopted
	claimWaitsForTheEnd               // of the link of a peer that was found dead just now
)

// work looks for what is held for the incarnation of c: on its own link, or, if it has been adopted before, on that
// of the adopter. From the former it is moved to the heir; on the latter it stays until the adopter is adopted, too,
// which keeps the order. The heir is answered when it is all on the heir's link, or nothing is left of it. An heir that
// is dead gets neither: its successor will claim the same. inheriting is held.
func (m *Mesh) work(c claim) worked {
	m.mu.Lock()
	l := m.gone[c.incarnation]
	m.mu.Unlock()
	for l != nil && l != c.heir {
		l.mu.Lock()
		e := l.estate
		l.mu.Unlock()
		switch {
		case e.state == open && l.dead.Load():
			return claimWaitsForTheEnd
		case e.state == orphaned && l.peer.ID == c.incarnation:
			if !l.bequeath(c.heir) {
				return claimOver
			}
			m.deps.Routes.Drop(l)
			e.heir = c.heir
		case e.state == open, e.state == orphaned:
			if !c.heir.lives() {
				return claimOver
			}
			return claimWaits
		}
		l = e.heir
	}
	c.heir.mu.Lock()
	through := c.heir.out.last
	c.heir.mu.Unlock()
	c.heir.nudge()
	c.heir.in.acknowledgeAdopted(c.incarnation, through)
	return claimOver
}

func (l *Link) lives() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.estate.state == open
}

// bequeath moves what an orphaned link holds to the link of its heir, unless the heir is dead as well. inheriting is
// held: it takes the locks of both.
func (l *Link) bequeath(heir *Link) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	heir.mu.Lock()
	defer heir.mu.Unlock()
	if l.estate.state != orphaned || heir.estate.state != open {
		return false
	}
	l.out.bequeath(l.peer.ID, &heir.out)
	l.estate.state, l.estate.heir = adopted, heir
	return true
}
