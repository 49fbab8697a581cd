package claims

import (
	"slices"
	"time"
)

// advance does what a client's state allows, and forgets the client when nothing is under way.
func (q *Queue) advance(now time.Time, c *client) {
	if c.leave != nil && !c.leaving && c.claimed() {
		// Whoever claims takes what was left.
		q.answer(now, c, c.leave, Left)
		c.leave = nil
	}
	ready := c.waiting != nil && !now.Before(c.waiting.notBefore) && !q.adopting[c.id]
	if ready && !c.busy() {
		q.start(now, c)
		ready = c.waiting != nil
	}
	if c.held != nil && c.recording == nil && !c.opening && (!ready || !c.held.stored) {
		q.grant(now, c)
	}
	if c.vacant != (Holder{}) && !c.busy() && !c.claimed() && len(c.evictions) == 0 && !q.adopting[c.id] && !now.Before(c.awayAt) {
		c.leaving = true
		q.effects = append(q.effects, Effect{
			Kind: Away, Client: c.id, Gateway: c.vacant.Gateway, Epoch: c.vacant.Epoch, Ending: c.ending,
		})
	}
	if !c.busy() && !c.claimed() && len(c.evictions) == 0 && c.vacant == (Holder{}) {
		delete(q.clients, c.id)
	}
}

// start has the waiting claim recorded. When the store names another holder, that one has to have gone before.
func (q *Queue) start(now time.Time, c *client) {
	next := c.waiting
	h, known := q.look(c.id)
	next.stored = known || next.stores()
	if known && h.Gateway != "" && c.vacant == (Holder{}) {
		c.vacant = h
		if h.Gateway != next.Gateway && !q.dead(h.Gateway, h.Epoch) {
			q.evict(now, c, eviction{gateway: h.Gateway, epoch: h.Epoch + 1, held: h.Epoch})
		}
	}
	if c.vacant != (Holder{}) && len(c.evictions) > 0 {
		return
	}
	c.recording, c.waiting = next, nil
	q.effects = append(q.effects, Effect{Kind: Record, Client: c.id, Gateway: c.recording.Gateway})
}

// grant opens, answers or drops the claim that is held.
func (q *Queue) grant(now time.Time, c *client) {
	h := c.held
	switch {
	case h.stored && (h.gone || q.dead(h.Gateway, h.epoch)):
		c.held = nil
		q.answer(now, c, h, HolderDead)
	case h.stored && !h.opened:
		c.opening = true
		former, _ := q.look(c.id)
		q.effects = append(q.effects, Effect{
			Kind: Open, Client: c.id, Gateway: h.Gateway, Request: h.Request, Epoch: h.epoch, Former: former.Gateway, Ending: c.ending,
		})
	case len(c.evictions) == 0 && len(q.recovering) == 0:
		c.held, c.vacant = nil, Holder{}
		if !h.gone {
			q.effects = append(q.effects, Effect{
				Kind: Claimed, Client: c.id, Gateway: h.Gateway, Request: h.Request,
				Epoch: h.epoch, Former: h.former, Session: h.session, Took: now.Sub(h.came),
			})
		}
	}
}

// answer tells the gateway what has become of its claim or leave.
func (q *Queue) answer(now time.Time, c *client, cl *claim, with Kind) {
	if cl == nil || cl.gone {
		return
	}
	q.effects = append(q.effects, Effect{
		Kind: with, Client: c.id, Gateway: cl.Gateway, Request: cl.Request, Took: now.Sub(cl.came),
	})
}

func (q *Queue) evict(now time.Time, c *client, e eviction) {
	e.by = now.Add(q.config.EvictTimeout)
	at := slices.IndexFunc(c.evictions, func(o eviction) bool { return o.gateway == e.gateway })
	if at >= 0 {
		// Its time is running already.
		e.by = c.evictions[at].by
		c.evictions[at] = e
	} else {
		c.evictions = append(c.evictions, e)
		q.evictBy = append(q.evictBy, timer{at: e.by, client: c.id, gateway: e.gateway})
	}
	q.counters.Evictions++
	owed := q.owed[e.gateway]
	if owed == nil {
		owed = map[string]debt{}
		q.owed[e.gateway] = owed
	}
	if _, known := owed[c.id]; known || len(owed) < q.config.Owed {
		owed[c.id] = debt{epoch: e.epoch, held: e.held}
	}
	if q.attached[e.gateway] {
		q.effects = append(q.effects, Effect{Kind: Evict, Client: c.id, Gateway: e.gateway, Epoch: e.epoch})
	}
}

// settle takes an eviction as answered, up to an epoch. The caller advances.
func (q *Queue) settle(c *client, gateway string, epoch uint64) {
	c.evictions = slices.DeleteFunc(c.evictions, func(e eviction) bool {
		return e.gateway == gateway && e.epoch <= epoch
	})
	if epoch == ^uint64(0) {
		q.forget(gateway, c.id)
	}
}

// pay takes back what a gateway owes, up to an epoch.
func (q *Queue) pay(id, gateway string, epoch uint64) {
	if owed := q.owed[gateway]; owed != nil && owed[id].epoch <= epoch {
		q.forget(gateway, id)
	}
}

func (q *Queue) forget(gateway, id string) {
	owed := q.owed[gateway]
	delete(owed, id)
	if len(owed) == 0 {
		delete(q.owed, gateway)
	}
}
