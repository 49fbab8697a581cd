package away

import (
	"errors"
	"sync"
	"time"

	"github.com/beeline-mqtt/beeline/internal/arrivals"
	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

// entry is a message for one session, before it has a position.
type entry struct {
	m      *message.Message
	qos    byte
	retain bool
	ids    []uint32
	// arrivals wait for it to be stored: several when it came by two ways.
	arrivals []*arrival
}

// arrival is a message from a peer whose receipt waits until it is stored for everybody here.
type arrival struct {
	k      *Keeper
	settle func(mesh.Receipt)
	// client is set when the message is for that client alone.
	client string
	size   int64
	since  time.Time

	mu       sync.Mutex // receipts are given with it held, for the sake of their order
	waiting  int        // guarded by mu, as the following are
	report   *report    // nil for nearly all
	accepted bool       // the first receipt has been given
	given    bool       // the last one has
	stored   bool
	refused  bool
	moved    []mesh.MovedClient
}

// heldDelivery waits until a peer has answered.
type heldDelivery struct {
	d      mesh.Delivery
	settle func(mesh.Receipt)
}

// gate keeps what a peer sends while sessions are being adopted: what it has kept for the dead holder comes first.
type gate struct {
	held  []heldDelivery
	bytes int
}

// Deliver takes a delivery of a peer; settle gets its receipt if that is not known at once. For each peer it is called
// in the order of its deliveries.
func (k *Keeper) Deliver(peer string, d mesh.Delivery, settle func(mesh.Receipt)) mesh.Receipt {
	switch {
	case d.Message.QoS == message.AtMostOnce && d.Target.Kind != mesh.TargetClient && !d.Reported():
		k.metrics.dropped(dropQoS0)
		return mesh.Receipt{Outcome: mesh.Queued}
	case k.unsaved.Load() > int64(k.cfg.Backlog):
		k.metrics.dropped(dropBacklog)
		return mesh.Receipt{Outcome: mesh.Overloaded}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if d.Target.Kind != mesh.TargetOrphans && k.hold(peer, d, settle) {
		return mesh.Receipt{Outcome: mesh.Accepted}
	}
	return k.take(d, settle)
}

// hold keeps a delivery behind the orphans that its sender has. With mu held.
func (k *Keeper) hold(peer string, d mesh.Delivery, settle func(mesh.Receipt)) bool {
	g := k.gates[peer]
	if !k.closed(peer) && g == nil {
		return false
	}
	if g == nil {
		g = &gate{}
		k.gates[peer] = g
	}
	g.held = append(g.held, heldDelivery{d, settle})
	g.bytes += d.Message.Size()
	k.unsaved.Add(int64(d.Message.Size()))
	k.metrics.heldBack.Inc()
	if g.bytes > 16*k.cfg.HoldBytes {
		k.metrics.unordered.Inc()
		k.pass(peer)
	}
	return true
}

// closed says whether what a peer sends has to wait. With mu held.
func (k *Keeper) closed(peer string) bool {
	for _, a := range k.adopting {
		if !a.answered[peer] {
			return true
		}
	}
	return false
}

// pass lets go what is held of a peer. With mu held.
func (k *Keeper) pass(peer string) {
	g := k.gates[peer]
	if g == nil {
		return
	}
	delete(k.gates, peer)
	for _, h := range g.held {
		k.unsaved.Add(-int64(h.d.Message.Size()))
		if r := k.take(h.d, h.settle); r.Outcome != mesh.Accepted || len(r.Moved) > 0 {
			h.settle(r)
		}
	}
}

// take gives a delivery to those it is for. With mu held.
func (k *Keeper) take(d mesh.Delivery, settle func(mesh.Receipt)) mesh.Receipt {
	a := &arrival{k: k, settle: settle, size: int64(d.Message.Size()), since: time.Now(), waiting: 1, report: newReport(&d)}
	k.unsaved.Add(a.size)
	switch d.Target.Kind {
	case mesh.TargetMatch:
		k.match(d.Message, a)
	case mesh.TargetOrphans:
		k.orphan(d, a)
	case mesh.TargetClient:
		if r, answered := k.direct(d, a); answered {
			k.unsaved.Add(-a.size)
			return r
		}
	case mesh.TargetShare:
		if !k.keepShared(d, a) {
			k.unsaved.Add(-a.size)
			return mesh.Receipt{Outcome: mesh.NoMember}
		}
	}
	return a.offered()
}

// match gives m to every absent session that subscribes to it. With mu held.
func (k *Keeper) match(m *message.Message, a *arrival) {
	k.matches = k.index.Match(m.Topic, k.clients[m.Publisher], k.matches[:0])
	for i := range k.matches {
		to := &k.matches[i]
		s, qos := to.Key, min(m.QoS, to.QoS)
		switch {
		case qos == message.AtMostOnce:
			k.metrics.dropped(dropQoS0)
			if s.here {
				a.missed(s)
			}
		case !s.stored:
		case s.here && s.adopted != nil && s.adopted.gave(s, m.ID):
			k.metrics.dropped(dropDuplicate)
		case s.here:
			k.give(s, &entry{m: m, qos: qos, retain: m.Retain && to.RetainAsPublished, ids: to.IDs}, a)
		default:
			a.movedTo(s.client, s.ghost)
		}
	}
	for i := range k.matches {
		if s := k.matches[i].Key; s.here && s.adopted != nil {
			s.adopted.note(m.ID, live)
		}
	}
	clear(k.matches)
}

// direct gives a delivery to one client; answered is false when the arrival has the receipt. With mu held.
func (k *Keeper) direct(d mesh.Delivery, a *arrival) (r mesh.Receipt, answered bool) {
	id, m := d.Target.ClientID, d.Message
	a.client = id
	s := k.clients[id]
	known := uint64(0)
	if s != nil && s.stored {
		known = leaseOf(s.rec)
	}
	if s == nil || !s.here || d.Target.Epoch != 0 && d.Target.Epoch != known && d.Target.Epoch != s.rec.Epoch {
		return mesh.Receipt{Outcome: mesh.NotHolder, ClientID: id, Epoch: known}, true
	}
	e := &entry{m: m, qos: m.QoS}
	if !topic.IsAddressed(m.Topic) && !s.subscribes(e) {
		return mesh.Receipt{Outcome: mesh.Queued}, true
	}
	if e.qos == message.AtMostOnce {
		k.metrics.dropped(dropQoS0)
		a.missed(s)
		return mesh.Receipt{Outcome: mesh.Queued, Clients: a.report.close()}, true
	}
	k.give(s, e, a)
	return mesh.Receipt{}, false
}

// subscribes looks for the subscriptions of s that match a message, and completes its entry. With mu held.
func (s *session) subscribes(e *entry) bool {
	found := false
	qos := byte(0)
	for _, sub := range s.subs {
		o := sub.Options
		if !ordinary(sub) || !topic.Match(sub.Filter, e.m.Topic) || o.NoLocal && e.m.Publisher == s.client {
			continue
		}
		found = true
		qos = max(qos, o.QoS)
		e.retain = e.retain || e.m.Retain && o.RetainAsPublished
		if o.ID != 0 {
			e.ids = append(e.ids, o.ID)
		}
	}
	e.qos = min(e.qos, qos)
	return found
}

// give takes e for a session that is here: it is held back, or appended. With mu held.
func (k *Keeper) give(s *session, e *entry, a *arrival) {
	of := s.settling
	if of != nil && e.qos == message.AtLeastOnce {
		if _, twice := of.had[e.m.ID]; twice {
			// Whoever sent it waits for the receipt of the first copy, too.
			k.metrics.dropped(dropDuplicate)
			return
		}
	}
	a.expect(s)
	e.arrivals = []*arrival{a}
	switch {
	case of == nil:
		k.append(s, e)
	case of.hold == nil:
		of.remember(e.m.ID)
		k.append(s, e)
	default:
		k.metrics.heldBack.Inc()
		if held, twice := of.hold.Add(e.m, e); twice {
			k.metrics.dropped(dropDuplicate)
			held.arrivals = append(held.arrivals, a)
		} else if of.hold.Bytes() > k.cfg.HoldBytes && !of.leaving { // else it is for the bound on everything
			k.metrics.unordered.Inc()
			k.letGo(s)
		}
	}
}

func (of *settling) remember(id message.ID) {
	if len(of.had) < maxHad {
		of.had[id] = struct{}{}
	}
}

// letGo appends what s has held back, unless it is leaving. With mu held.
func (k *Keeper) letGo(s *session) {
	of := s.settling
	if of == nil || of.hold == nil || of.leaving {
		return
	}
	entries := of.hold.Release()
	of.hold, of.until = nil, now().Add(k.cfg.Late)
	k.after(k.cfg.Late, s, of)
	for _, e := range entries {
		of.remember(e.m.ID)
		k.append(s, e)
	}
}

// leave has s keep what is given to it from now on, until sendAfter. With mu held.
func (s *session) leave() {
	if s.settling == nil {
		s.settling = &settling{had: map[message.ID]struct{}{}}
	}
	if s.settling.hold == nil {
		s.settling.hold = new(arrivals.Set[*entry])
	}
	s.settling.leaving = true
}

// sendAfter has what s has held back sent after it, to where it is held now: something older may still be on its way there,
// which what goes into the inbox here would overtake. With mu held.
func (k *Keeper) sendAfter(s *session) {
	of := s.settling
	s.settling = nil
	if of == nil || of.hold == nil {
		return
	}
	entries := of.hold.Release()
	of.hold = nil
	for _, e := range entries {
		for _, a := range e.arrivals {
			a.movedTo(s.client, s.ghost)
			a.settled()
		}
	}
}

// append hands e to the store, at the next position of s. With mu held.
func (k *Keeper) append(s *session, e *entry) {
	w := journal.Write{Client: s.client, Session: s.rec.Session, Epoch: s.rec.Epoch, Changes: []journal.Change{{
		Kind: journal.Append,
		Entry: journal.Entry{
			Position: s.next, Message: e.m, QoS: e.qos, Retain: e.retain, IDs: e.ids,
		},
	}}}
	s.next++
	lease := leaseOf(s.rec)
	k.pump.push(func() {
		k.deps.Store.Write(w, func(left []journal.LeftOut, err error) {
			for _, a := range e.arrivals {
				a.appended(w.Client, lease, left, err)
			}
		})
	})
}

// expect counts one more session that has to have the message.
func (a *arrival) expect(s *session) {
	a.mu.Lock()
	a.waiting++
	if a.report != nil && !a.given {
		a.report.waiting[s.client] = leaseOf(s.rec)
	}
	a.mu.Unlock()
}

// missed notes a session that is not given a QoS 0 message.
func (a *arrival) missed(s *session) {
	a.mu.Lock()
	a.report.note(s.client, leaseOf(s.rec), mesh.ClientEnded)
	a.mu.Unlock()
}

// movedTo notes a session that has gone.
func (a *arrival) movedTo(client string, epoch uint64) {
	a.mu.Lock()
	a.report.note(client, epoch, 0)
	a.moved = append(a.moved, mesh.MovedClient{ClientID: client, Epoch: epoch})
	a.mu.Unlock()
}

// appended is what has become of the message in one inbox.
func (a *arrival) appended(client string, epoch uint64, left []journal.LeftOut, err error) {
	switch {
	case errors.Is(err, store.ErrFenced):
		a.movedTo(client, epoch)
	case err != nil:
		// Nobody knows whether it is stored. There is no receipt: the sender keeps it for this term's successor.
		_ = a.k.check("append to inbox", err)
		return
	case len(left) > 0 && !left[0].Duplicate:
		a.k.metrics.dropped(dropInbox)
		a.refuse(client, epoch)
	default:
		a.mu.Lock()
		a.stored = true
		a.report.note(client, epoch, mesh.ClientStored)
		a.mu.Unlock()
		a.k.metrics.appended.Inc()
	}
	a.settled()
}

func (a *arrival) refuse(client string, epoch uint64) {
	a.mu.Lock()
	a.refused = true
	a.report.note(client, epoch, mesh.ClientNoRoom)
	a.mu.Unlock()
}

// offered is the answer when everybody has been offered the message.
func (a *arrival) offered() mesh.Receipt {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r, given := a.counted(); given {
		return r
	}
	a.accepted = true
	if !a.given {
		a.report.arm(a.timeUp)
	}
	return a.interim()
}

// timeUp gives the receipt of a reported message with what is known.
func (a *arrival) timeUp() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.given {
		a.given = true
		a.settle(a.receipt())
	}
}

// settled counts one that needs not be waited for any more, and gives the receipt when it was the last, or has gone and the
// others are waited for.
func (a *arrival) settled() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r, given := a.counted(); given {
		a.settle(r)
	} else if a.accepted && !a.given && a.report == nil && len(a.moved) > 0 && a.client == "" {
		a.settle(a.interim())
	}
}

// counted counts one that needs not be waited for any more, and returns the receipt when it was the last. With mu held.
func (a *arrival) counted() (mesh.Receipt, bool) {
	a.waiting--
	if a.waiting > 0 {
		return mesh.Receipt{}, false
	}
	a.k.unsaved.Add(-a.size)
	if a.given {
		return mesh.Receipt{}, false
	}
	a.given = true
	return a.receipt(), true
}

// interim is the receipt when others are waited for; that of a reported message names nobody yet. With mu held.
func (a *arrival) interim() mesh.Receipt {
	r := mesh.Receipt{Outcome: mesh.Accepted}
	if a.report == nil && a.client == "" {
		r.Moved, a.moved = a.moved, nil
	}
	if len(r.Moved) > 0 {
		a.k.metrics.movedOn.Inc()
	}
	return r
}

// receipt is what is known. With mu held.
func (a *arrival) receipt() mesh.Receipt {
	r := mesh.Receipt{Outcome: mesh.Queued, Clients: a.report.close()}
	switch {
	case a.refused:
		r.Outcome = mesh.Overloaded
	case len(a.moved) > 0 && a.client != "":
		return mesh.Receipt{Outcome: mesh.NotHolder, ClientID: a.client, Epoch: a.moved[0].Epoch}
	case len(a.moved) > 0:
		r.Outcome, r.Moved = mesh.Moved, a.moved
		a.k.metrics.movedOn.Inc()
	case a.stored:
		r.Outcome = mesh.Stored
		a.k.metrics.latency.Observe(time.Since(a.since).Seconds())
	}
	return r
}
