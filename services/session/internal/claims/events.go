package claims

import (
	"maps"
	"slices"
	"time"
)

// Claim is a new claim. The gateway has ended its own older connection of the client.
func (q *Queue) Claim(now time.Time, id string, r Request) {
	c := q.client(id)
	q.settle(c, r.Gateway, ^uint64(0))
	next := &claim{Request: r, came: now, notBefore: now}
	switch {
	case c.waiting != nil:
		q.answer(now, c, c.waiting, Superseded)
		next.notBefore = c.waiting.notBefore
	case q.flaps.hot(now, id):
		next.notBefore = now.Add(q.config.FlapDelay)
		q.recordAt = append(q.recordAt, timer{at: next.notBefore, client: id})
		q.counters.Delayed++
	}
	c.waiting = next
	q.advance(now, c)
	if c.waiting != next || c.vacant != (Holder{}) {
		return
	}
	if h, known := q.look(id); known && h.Gateway == r.Gateway {
		// It has let the client go, whatever becomes of its claim.
		c.vacant = h
	}
}

// Recorded is the outcome of Record.
func (q *Queue) Recorded(now time.Time, id string, o Outcome) {
	c := q.clients[id]
	if c == nil || c.recording == nil {
		return
	}
	next := c.recording
	c.recording = nil
	if o.Err != 0 {
		q.answer(now, c, next, o.Err)
		q.advance(now, c)
		return
	}
	unanswered := uint64(0)
	if c.held != nil {
		unanswered = c.held.epoch
		q.answer(now, c, c.held, Superseded)
	}
	next.epoch, next.former = o.Epoch, o.Former
	c.held = next
	former := Holder{Gateway: o.Former, Epoch: o.FormerEpoch}
	if o.Former != "" && !q.dead(o.Former, o.FormerEpoch) {
		q.flaps.replaced(now, id)
		// Who was never answered has nothing to end, a gateway ends its own connections itself, and whom the store
		// named was told before.
		if o.Former != next.Gateway && o.FormerEpoch != unanswered && former != c.vacant {
			q.evict(now, c, eviction{gateway: o.Former, epoch: o.Epoch, held: o.FormerEpoch})
		}
	}
	if next.stored {
		c.vacant = Holder{Gateway: next.Gateway, Epoch: o.Epoch}
	}
	q.advance(now, c)
}

// Stale says that a gateway has shown a holding at an epoch that is not in force any more; older connections than
// epoch are to end.
func (q *Queue) Stale(now time.Time, id, gateway string, held, epoch uint64) {
	c := q.client(id)
	q.evict(now, c, eviction{gateway: gateway, epoch: epoch, held: held})
	q.advance(now, c)
}

// Evicted says that a gateway has no connection of the client under an epoch older than this.
func (q *Queue) Evicted(now time.Time, id, gateway string, epoch uint64) {
	q.pay(id, gateway, epoch)
	if c := q.clients[id]; c != nil {
		q.settle(c, gateway, epoch)
		q.advance(now, c)
	}
}

// Attached says that a gateway has opened a stream. Evictions that it has not answered are repeated.
func (q *Queue) Attached(gateway string) {
	q.attached[gateway] = true
	owed := q.owed[gateway]
	for _, id := range slices.Sorted(maps.Keys(owed)) {
		q.effects = append(q.effects, Effect{Kind: Evict, Client: id, Gateway: gateway, Epoch: owed[id].epoch})
	}
}

// Detached says that a gateway's stream has ended. It repeats the claims and leaves that it still wants.
func (q *Queue) Detached(now time.Time, gateway string) {
	delete(q.attached, gateway)
	for _, c := range q.clients {
		if c.waiting != nil && c.waiting.Gateway == gateway {
			c.waiting = nil
		}
		for _, cl := range []*claim{c.recording, c.held, c.leave} {
			if cl != nil && cl.Gateway == gateway {
				cl.gone = true
			}
		}
		q.advance(now, c)
	}
}

// Compared says that all holdings of a gateway have been compared with the records, and Stale called.
func (q *Queue) Compared(now time.Time, gateway string) {
	if q.recovering[gateway] {
		delete(q.recovering, gateway)
		q.recovered(now)
	}
}

// View is a new list of living gateways, complete up to a revision: of the same scale as epochs. Whoever adopts the
// clients of one that has died calls Adopt before.
func (q *Queue) View(now time.Time, gateways []string, revision int64) {
	q.alive, q.revision = set(gateways), revision
	for gateway := range q.owed {
		for id := range q.owed[gateway] {
			if q.dead(gateway, q.owed[gateway][id].held) {
				q.forget(gateway, id)
			}
		}
	}
	for gateway := range q.recovering {
		if !q.alive[gateway] {
			delete(q.recovering, gateway)
		}
	}
	for _, c := range q.clients {
		c.evictions = slices.DeleteFunc(c.evictions, func(e eviction) bool { return q.dead(e.gateway, e.held) })
		q.advance(now, c)
	}
}

// dead: whoever was recorded at an epoch was alive then. If it is not in a list that is complete up to that
// revision or a later one, it has died.
func (q *Queue) dead(holder string, epoch uint64) bool {
	return !q.alive[holder] && int64(epoch) <= q.revision
}

func (q *Queue) recovered(now time.Time) {
	if len(q.recovering) > 0 {
		return
	}
	for _, id := range slices.Sorted(maps.Keys(q.clients)) {
		q.advance(now, q.clients[id])
	}
}
