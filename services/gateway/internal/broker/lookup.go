package broker

import (
	"context"
	"slices"
	"time"

	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/turn"
)

// run reads leases until ctx ends: what waits is read together.
func (d *direct) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			d.close()
			return
		case <-d.wake:
		}
		for ids := d.next(); len(ids) > 0; ids = d.next() {
			d.lookUp(ctx, ids)
		}
		t := turn.Turn{Now: time.Now()}
		d.sendStalled(&t)
		t.End()
		d.tellSent()
	}
}

// tellSent calls those who have waited for messages to be sent on.
func (d *direct) tellSent() {
	d.mu.Lock()
	sent := d.sent
	d.sent = nil
	d.mu.Unlock()
	for _, f := range sent {
		f()
	}
}

// next returns the clients that are looked up together now, those first that have waited longest.
func (d *direct) next() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := min(len(d.ready), lookUpsTogether)
	ids := d.ready[:n:n]
	if d.ready = d.ready[n:]; len(d.ready) == 0 {
		d.ready = nil
	}
	return ids
}

// close gives up what waits. Nothing waits from then on.
func (d *direct) close() {
	t := turn.Turn{Now: time.Now()}
	defer t.End()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for id, u := range d.waiting {
		for _, x := range u.items {
			d.removed(x)
			d.giveUp(id, x, packet.UnspecifiedError, dropUnresolved, &t)
		}
		d.drop(id)
	}
	for _, x := range d.stalls.close() {
		x.p.Done(packet.UnspecifiedError, &t)
	}
}

func (d *direct) lookUp(ctx context.Context, ids []string) {
	d.b.deps.Metrics.lookUps.Add(float64(len(ids)))
	ctx, cancel := context.WithTimeout(ctx, lookUpTimeout)
	defer cancel()
	leases, err := d.b.deps.LookUp(ctx, ids)
	t := turn.Turn{Now: time.Now()}
	for _, id := range ids {
		lease, held := leases[id]
		switch {
		case err != nil:
			// Not known is not the same as not there: messages wait until their publishers give up.
			d.retry(id, &t)
		case !held:
			d.notHeld(id, &t)
		default:
			d.resolved(id, lease, &t)
		}
	}
	t.End()
}

// notHeld asks the session service about a client that has no lease: it holds the durable sessions of those that are
// away.
func (d *direct) notHeld(id string, t *turn.Turn) {
	if d.b.deps.Keeper == nil {
		d.finish(id, t, func(x unsent) bool {
			d.giveUp(id, x, packet.NoMatchingSubscribers, dropUnknownClient, t)
			return true
		})
		return
	}
	keeper := d.b.deps.Keeper()
	l := d.b.deps.Mesh.Link(keeper)
	if l == nil {
		d.retry(id, t)
		return
	}
	d.cache.Set(id, found{cluster.Lease{Holder: keeper}, l})
	d.finish(id, t, func(x unsent) bool {
		if x.p == nil {
			d.giveUp(id, x, packet.Success, dropAway, t)
			return true
		}
		target := mesh.Target{Kind: mesh.TargetClient, ClientID: id}
		d.ask(l, mesh.Delivery{Target: target, Message: x.m}, asked{x.p}, x.p, t)
		return true
	})
}

// asked waits for what the session service knows of a client that had no lease when it was looked up: that there is no
// session either is the final answer. Later messages are sent in the same way as long as the cache says so, but
// their answers may be older than a lease.
type asked struct{ p *publication }

// Settled takes the answer.
func (a asked) Settled(l *mesh.Link, x mesh.Delivery, r mesh.Receipt, t *turn.Turn) {
	if r.Outcome == mesh.NotHolder && r.Epoch == 0 {
		d := a.p.b.direct
		d.mu.Lock()
		if at, ok := d.cache.GetIfPresent(x.Target.ClientID); ok && at.away() {
			d.cache.Invalidate(x.Target.ClientID)
		}
		d.mu.Unlock()
		a.p.report.answered(l, &x, &r)
		a.p.report.absent(x.Target.ClientID)
		a.p.Done(packet.NoMatchingSubscribers, t)
		return
	}
	a.p.Settled(l, x, r, t)
}

// resolved sends what waits for a client to its holder.
func (d *direct) resolved(id string, lease cluster.Lease, t *turn.Turn) {
	d.mu.Lock()
	u := d.waiting[id]
	stale := u != nil && lease.Epoch <= u.failed && u.tries == 0
	d.mu.Unlock()
	if stale {
		// That holder has just said no: it may be ending the session, or only beginning it.
		d.retry(id, t)
		return
	}
	if lease.Holder == d.b.cfg.Incarnation {
		if c := d.b.clients.get(id).current; c == nil || c.Epoch() < lease.Epoch {
			d.retry(id, t)
			return
		}
		if !d.finish(id, t, func(x unsent) bool { return d.deliverHere(id, lease.Epoch, x.m, x.p, t) }) {
			// Its connection ended or was replaced just now. The lease will tell which.
			d.retry(id, t)
		}
		return
	}
	l := d.b.deps.Mesh.Link(lease.Holder)
	if l == nil {
		d.retry(id, t)
		return
	}
	d.cache.Set(id, found{lease, l})
	d.finish(id, t, func(x unsent) bool {
		d.send(l, id, lease.Epoch, x.m, x.p, t)
		return true
	})
}

// finish passes what waits for id to f, in order, and opens the way for what is published next. From the first
// message on that f cannot send everything goes on waiting; then finish returns false. The lock is held over the
// calls, which only append to queues: nothing may overtake.
func (d *direct) finish(id string, t *turn.Turn, f func(unsent) bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	u := d.waiting[id]
	if u == nil {
		return true
	}
	for i, x := range u.items {
		if x.m.Expired(t.Now) {
			d.giveUp(id, x, packet.Success, dropUnresolved, t)
		} else if !f(x) {
			u.items = slices.Delete(u.items, 0, i)
			return false
		}
		d.removed(x)
	}
	d.drop(id)
	return true
}

// retry looks id up again after a pause. Meanwhile QoS 0 messages are shed, and those whose publishers have
// given up are let go.
func (d *direct) retry(id string, t *turn.Turn) {
	d.mu.Lock()
	u := d.waiting[id]
	if u == nil {
		d.mu.Unlock()
		return
	}
	u.items = slices.DeleteFunc(u.items, func(x unsent) bool {
		over := x.p == nil && u.tries > 0 || x.p != nil && x.p.over(t.Now)
		if over {
			d.removed(x)
			d.giveUp(id, x, packet.UnspecifiedError, dropUnresolved, t)
		}
		return over
	})
	empty := len(u.items) == 0
	if empty {
		d.drop(id)
	}
	pause := min(firstRetry<<min(u.tries, 8), lastRetry)
	if u.failed > 0 && u.tries < movingTries {
		pause = movingRetry
	}
	u.tries++
	d.mu.Unlock()
	if !empty {
		time.AfterFunc(pause, func() { d.lookUpSoon(id) })
	}
}

// unasked is the waiter of QoS 0 messages: nobody waits, but a wrong holder is corrected.
type unasked struct{ d *direct }

// Settled sends the message after its receiver, once more.
func (u unasked) Settled(l *mesh.Link, x mesh.Delivery, r mesh.Receipt, t *turn.Turn) {
	switch r.Outcome {
	case mesh.NotHolder, mesh.Moved:
		u.d.again(l, x, nil, t)
	case mesh.Overloaded, mesh.Refused, mesh.Gone:
		u.d.b.deps.Metrics.dropped(dropUnresolved)
	}
}
