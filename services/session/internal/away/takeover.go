package away

import (
	"context"
	"slices"
	"strings"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/routes"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

// taken is a session that was taken over, and its state.
type taken struct {
	s  *session
	st journal.State
	// gone: somebody else holds it by now, or it has come here in its own way.
	gone bool
}

// remember has the store remember whose adoption has begun.
func (k *Keeper) remember(ctx context.Context, a *adoption) {
	stored := make(chan struct{}, len(a.incarnations))
	for _, h := range a.incarnations {
		k.pump.push(func() {
			k.deps.Store.AddUnadopted(h, func(err error) {
				_ = k.check("record adoption", err)
				stored <- struct{}{}
			})
		})
	}
	for range a.incarnations {
		select {
		case <-stored:
		case <-ctx.Done():
			return
		}
	}
}

// takeOver makes the store the holder of sessions, and returns those that were taken over, or have gone on.
func (k *Keeper) takeOver(ctx context.Context, a *adoption, sessions []*session) []taken {
	results := make(chan *taken, len(sessions))
	for _, s := range sessions {
		k.with(s.client, func(now *session) { k.takeOne(a, now, func(t *taken) { results <- t }) })
	}
	var all []taken
	for range sessions {
		select {
		case t := <-results:
			if t != nil {
				all = append(all, *t)
			}
		case <-ctx.Done():
			return nil
		}
	}
	return all
}

// takeOne takes one session over, which is locked; done gets nil when there is nothing to take.
func (k *Keeper) takeOne(a *adoption, s *session, done func(*taken)) {
	k.mu.Lock()
	r, stored := s.rec, s.stored
	orphaned := stored && r.Holder != "" && slices.Contains(a.incarnations, r.Holder)
	k.mu.Unlock()
	pass := func() {
		k.release(s)
		done(nil)
	}
	switch {
	case !stored:
		k.work.push(pass)
	case orphaned && r.Session == 0:
		// Only a will is left.
		left, _ := end(r, nil, now())
		k.settleFate(s, left, r.Epoch, fateOf(left, now()), func(error) { pass() })
	case orphaned:
		left, _ := end(r, nil, now())
		left.Former, left.Epoch = r.Holder, r.Epoch+1
		k.put(s, left, func(err error) {
			if err != nil {
				pass()
				return
			}
			k.read(a, s, left, done)
		})
	default:
		k.work.push(func() { k.read(a, s, r, done) })
	}
}

// read reads the state of a session of which r is the record.
func (k *Keeper) read(a *adoption, s *session, r store.Record, done func(*taken)) {
	k.mu.Lock()
	t := &taken{s: s, gone: r.Holder != "" || s.here}
	k.mu.Unlock()
	var err error
	if r.Session != 0 {
		t.st, err = k.state(r)
	}
	if r.Session == 0 || k.check("read session", err) != nil {
		k.release(s)
		done(nil)
		return
	}
	if t.gone {
		k.release(s)
	} else {
		k.mu.Lock()
		a.locked = append(a.locked, s)
		k.mu.Unlock()
	}
	done(t)
}

// show makes sessions known to the peers.
func (k *Keeper) show(a *adoption, sessions []taken) {
	k.announcing.Lock()
	defer k.announcing.Unlock()
	var changes []routes.Route
	var here []*session
	for _, t := range sessions {
		k.mu.Lock()
		from := t.s.from // replaced, never changed
		k.mu.Unlock()
		for _, h := range from {
			for _, sub := range t.st.Subscriptions {
				if x := a.index[h]; x != nil && ordinary(sub) {
					x.Subscribe(sub.Filter, t.s, sub.Options)
				}
			}
		}
		if t.gone {
			continue
		}
		changes = k.subscribe(changes, t.s, t.st.Subscriptions, func() {
			t.s.here, t.s.next, t.s.adopted = true, t.st.Next, a
		})
		here = append(here, t.s)
	}
	k.announce(changes, func() {
		for _, s := range here {
			k.mu.Lock()
			still, epoch := s.here, leaseOf(s.rec)+1
			k.mu.Unlock()
			if still {
				k.deps.Forget(s.client, epoch)
			}
		}
	})
}

// ask has the peers send what they have kept for the dead. The result is closed when all have.
func (k *Keeper) ask(a *adoption) <-chan struct{} {
	all := make(chan struct{})
	left := len(a.incarnations) // guarded by k.mu
	if left == 0 {
		close(all)
		return all
	}
	for _, h := range a.incarnations {
		k.deps.Mesh.Adopt(strings.TrimPrefix(h, ownPrefix), func(peer string) { k.answered(a, peer) }, func(error) {
			k.mu.Lock()
			defer k.mu.Unlock()
			if left--; left == 0 {
				close(all)
			}
		})
	}
	return all
}

// answered: a peer has sent what it had kept for one more of the dead.
func (k *Keeper) answered(a *adoption, peer string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	a.answers[peer]++
	if a.answers[peer] < len(a.incarnations) {
		return
	}
	a.answered[peer] = true
	if !k.closed(peer) {
		k.pass(peer)
	}
}

// finish lets everything go that waited for an adoption.
func (k *Keeper) finish(a *adoption) {
	k.mu.Lock()
	k.adopting = slices.DeleteFunc(k.adopting, func(x *adoption) bool { return x == a })
	for peer := range k.gates {
		if !k.closed(peer) {
			k.pass(peer)
		}
	}
	k.mu.Unlock()
	for _, s := range a.locked {
		k.schedule(s)
		k.release(s)
	}
}

// over forgets an adoption.
func (k *Keeper) over(ctx context.Context, a *adoption) {
	if ctx.Err() != nil {
		return
	}
	k.mu.Lock()
	for _, s := range a.sessions {
		if s.adopted == a {
			s.adopted, s.from = nil, nil
		}
	}
	for _, h := range a.incarnations {
		id := strings.TrimPrefix(h, ownPrefix)
		k.orphans[id] = slices.DeleteFunc(k.orphans[id], func(x *adoption) bool { return x == a })
		if len(k.orphans[id]) == 0 {
			delete(k.orphans, id)
		}
	}
	k.mu.Unlock()
	for _, h := range a.incarnations {
		k.pump.push(func() {
			k.deps.Store.RemoveUnadopted(h, func(err error) { _ = k.check("record adoption", err) })
		})
	}
}

// orphan gives what was kept for a dead holder to the sessions that it held. With mu held.
func (k *Keeper) orphan(d mesh.Delivery, a *arrival) {
	m, id := d.Message, d.Target.Incarnation
	for _, of := range k.orphans[id] {
		way := id
		if of.index[way] == nil {
			way = ownPrefix + id
		}
		matches := of.index[way].Match(m.Topic, k.clients[m.Publisher], nil)
		for i := range matches {
			to := &matches[i]
			s, qos := to.Key, min(m.QoS, to.QoS)
			switch {
			case qos == message.AtMostOnce:
				k.metrics.dropped(dropQoS0)
			case !s.stored || k.clients[s.client] != s:
			case s.here && s.adopted == of && of.gave(s, m.ID):
				k.metrics.dropped(dropDuplicate)
			case s.here:
				k.give(s, &entry{m: m, qos: qos, retain: m.Retain && to.RetainAsPublished, ids: to.IDs}, a)
			default:
				// Whoever holds it now has a newer lease than any before.
				a.movedTo(s.client, s.rec.Epoch-1)
			}
		}
		of.note(m.ID, way)
	}
}
