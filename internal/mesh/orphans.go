package mesh

import (
	"slices"
)

// estate is what has become of a link whose peer is dead. Its link's mu guards it.
type estate struct {
	state   linkState
	durable bool  // orphaned: the peer has durable routes in the table
	heir    *Link // adopted: the link to the process that has adopted the peer's sessions

	// renounced: this process has adopted them itself and keeps nothing for them.
	renounced bool
	// claims wait for the end of the peer, or for its own adoption.
	claims []claim
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
	return e.state == open || e.state == orphaned && d.outlives() && (e.durable || d.Target.Kind == TargetOrphans)
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
	if inherit && !l.estate.renounced {
		settled = l.out.orphan(func(d *Delivery) bool {
			return d.outlives() && (d.Target.Kind == TargetOrphans || durable && table.MatchesDurable(l, d.Message.Topic))
		}, nil, &counts)
		l.estate.durable = durable
	} else {
		settled = l.out.fail(nil, &counts)
	}
	state := over
	if l.estate.durable || l.out.window.len() > 0 {
		state = orphaned
	}
	l.estate.state = state
	claims := l.estate.claims
	l.estate.claims = nil
	l.busy = false
	l.m.counters.settled(&counts)
	l.tell(settled)

	if state == over {
		l.m.forget(l)
	}
	if dead {
		l.m.dropped(l)
		l.m.notAnswering(l)
	}
	l.m.inherit(claims...)
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
	claims := l.estate.claims
	l.estate.claims = nil
	l.m.counters.settled(&counts)
	l.tell(settled)
	l.m.forget(l)
	l.m.inherit(claims...)
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

// inherit works claims, and those that had to wait for them.
func (m *Mesh) inherit(claims ...claim) {
	if len(claims) == 0 {
		return
	}
	m.inheriting.Lock()
	defer m.inheriting.Unlock()
	for len(claims) > 0 {
		claims = append(claims[1:], m.work(claims[0])...)
	}
}

// work looks for what is held for the incarnation of c: on its own link, or, if it has been adopted before, on that
// of the adopter. From the former it is moved to the heir; on the latter it stays until the adopter is adopted, too,
// which keeps the order. The heir is answered when it is all on the heir's link, or nothing is left of it. work
// returns claims that may be worked now.
func (m *Mesh) work(c claim) (more []claim) {
	m.mu.Lock()
	l := m.gone[c.incarnation]
	m.mu.Unlock()
	for l != nil && l != c.heir {
		l.mu.Lock()
		e := &l.estate
		switch {
		case e.state == open, e.state == orphaned && l.peer.ID != c.incarnation:
			if !slices.Contains(e.claims, c) {
				e.claims = append(e.claims, c)
			}
			l.mu.Unlock()
			return more
		case e.state == orphaned:
			if !l.bequeath(c.heir) {
				l.mu.Unlock()
				return more
			}
			more, e.claims = append(more, e.claims...), nil
			l.mu.Unlock()
			m.deps.Routes.Drop(l)
			l.mu.Lock()
		}
		next := e.heir
		l.mu.Unlock()
		l = next
	}
	c.heir.mu.Lock()
	through := c.heir.out.last
	c.heir.mu.Unlock()
	c.heir.nudge()
	c.heir.in.acknowledgeAdopted(c.incarnation, through)
	return more
}

// bequeath moves what an orphaned link holds to the link of its heir, unless the heir is dead as well: then its
// successor will ask for the same. mu is held, and inheriting.
func (l *Link) bequeath(heir *Link) bool {
	heir.mu.Lock()
	defer heir.mu.Unlock()
	if heir.estate.state != open {
		return false
	}
	l.out.bequeath(l.peer.ID, &heir.out)
	l.estate.state, l.estate.heir = adopted, heir
	return true
}
