package claims

import (
	"time"

	"github.com/beeline-mqtt/beeline/internal/journal"
)

// Opened is the outcome of Open: what the gateway holds from now on, nil if nothing is stored of the client; or, if
// err is not zero, the Kind of the refusal. The store names the gateway as the holder, at that epoch, or, with an
// error, nobody or whom it named before.
func (q *Queue) Opened(now time.Time, id string, session *journal.State, err Kind) {
	c := q.clients[id]
	if c == nil || !c.opening {
		return
	}
	c.opening = false
	if err != 0 {
		q.answer(now, c, c.held, err)
		c.held = nil
	} else {
		c.held.opened, c.held.session = true, session
		c.ending = nil
	}
	q.advance(now, c)
}

// Leave says that a gateway has given a client up that it held at an epoch; 0: at whichever it did, or that it does
// not want its claim any more. Every leave is answered, unless the stream ends: by Left, when whoever wanted the
// client next has it or has to wait for it no more than for others, or when nothing was to be done; by Unavailable; by
// Superseded, if the gateway repeats the leave on the same stream; or by what becomes of Release. A request of which
// Stream is 0 is not answered.
func (q *Queue) Leave(now time.Time, id string, r Request, epoch uint64, e Ending) {
	h, known := q.look(id)
	c := q.clients[id]
	withdrawn := epoch == 0 && c != nil && q.withdraw(now, c, r.Gateway)
	present := known && h.Gateway == r.Gateway && (epoch == 0 || epoch == h.Epoch)
	leave := &claim{Request: r, came: now, gone: r.Stream == 0}
	switch {
	case withdrawn:
		q.answer(now, c, leave, Left)
		q.advance(now, c)
	case !known || !present && epoch == 0:
		q.effects = append(q.effects, Effect{Kind: Release, Client: id, Gateway: r.Gateway, Request: r, Epoch: epoch})
	case !present || q.adopting[id] || c != nil && c.opening:
		q.answer(now, &client{id: id}, leave, Left)
	default:
		q.left(now, q.client(id), h, leave, e)
	}
}

// left is the leave of the present holder.
func (q *Queue) left(now time.Time, c *client, h Holder, leave *claim, e Ending) {
	q.pay(c.id, h.Gateway, h.Epoch+1)
	q.settle(c, h.Gateway, h.Epoch+1)
	if c.vacant == (Holder{}) {
		c.vacant = h
	}
	if !c.leaving {
		c.ending = &e
	}
	q.answer(now, c, c.leave, Superseded)
	c.leave, c.awayAt = leave, time.Time{}
	q.advance(now, c)
}

// withdraw drops the claims of a gateway that concern the store.
func (q *Queue) withdraw(now time.Time, c *client, gateway string) (withdrawn bool) {
	for _, cl := range []*claim{c.recording, c.held} {
		if cl != nil && cl.stored && cl.Gateway == gateway {
			q.answer(now, c, cl, Superseded)
			cl.gone, withdrawn = true, true
		}
	}
	return withdrawn
}

// AwayDone is the outcome of Away: the store holds the client, or, if err is not zero, its holder is who it was. Then
// it is tried again after EvictTimeout, unless there is a claim.
func (q *Queue) AwayDone(now time.Time, id string, err Kind) {
	c := q.clients[id]
	if c == nil || !c.leaving {
		return
	}
	c.leaving = false
	leave := c.leave
	c.leave = nil
	if err == 0 {
		c.vacant, c.ending, c.awayAt = Holder{}, nil, time.Time{}
		q.answer(now, c, leave, Left)
	} else {
		c.awayAt = now.Add(q.config.EvictTimeout)
		q.awayAt = append(q.awayAt, timer{at: c.awayAt, client: id})
		q.answer(now, c, leave, err)
	}
	q.advance(now, c)
}

// Adopt holds back whatever comes about clients until Adopted: somebody else has them in hand, because their holder
// has died. It returns those that it does not take, because a claim or leave is so far that they are given a holder,
// or put away, without that; and those that are being adopted already.
func (q *Queue) Adopt(ids ...string) (busy []string) {
	for _, id := range ids {
		c := q.clients[id]
		if q.adopting[id] || c != nil && (c.busy() || c.held != nil) {
			busy = append(busy, id)
			continue
		}
		q.adopting[id] = true
	}
	return busy
}

// Adopted ends what Adopt began: the store holds these clients.
func (q *Queue) Adopted(now time.Time, ids ...string) {
	for _, id := range ids {
		if !q.adopting[id] {
			continue
		}
		delete(q.adopting, id)
		if c := q.clients[id]; c != nil {
			c.vacant, c.ending, c.awayAt = Holder{}, nil, time.Time{}
			q.answer(now, c, c.leave, Left)
			c.leave = nil
			q.advance(now, c)
		}
	}
}
