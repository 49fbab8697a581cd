package broker

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/beeline-mqtt/beeline/internal/engine"
	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/turn"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
)

// early holds direct messages of peers for clients that are being attached here. A peer may read in etcd that this
// gateway is the holder before the gateway has heard so itself. Were its first messages refused then, those behind
// them on the link would come when the lease is known, and overtake them.
//
// While something is held for a client, whatever else comes for it is held too. It is delivered when the lease is
// known, and refused when nobody is being attached any more, or somebody else has had the client meanwhile.
type early struct {
	b    *Broker
	busy atomic.Int64 // len(held), to be read without mu

	mu    sync.Mutex
	held  map[string][]heldBack
	bytes int
}

// heldBack is one message, which has been answered with Accepted.
type heldBack struct {
	d     mesh.Delivery
	later mesh.Later
}

func notHolder(clientID string) mesh.Receipt {
	return mesh.Receipt{Outcome: mesh.NotHolder, ClientID: clientID}
}

// deliver gives a message to its receiver, if that is held here or on its way.
func (e *early) deliver(d mesh.Delivery, later mesh.Later, t *turn.Turn) mesh.Receipt {
	if e.busy.Load() > 0 || e.b.clients.get(d.Target.ClientID).attaching() {
		if r, answered := e.hold(d, later); answered {
			return r
		}
	}
	return e.b.deliverDirect(d, later, t)
}

// hold keeps a message if its receiver is being attached, or others wait for that already. answered is false when it
// can be delivered at once.
func (e *early) hold(d mesh.Delivery, later mesh.Later) (r mesh.Receipt, answered bool) {
	id := d.Target.ClientID
	e.mu.Lock()
	defer e.mu.Unlock()
	x := e.b.clients.get(id)
	switch {
	case !x.attaching() && len(e.held[id]) == 0:
		return mesh.Receipt{}, false
	case x.current == nil || !x.covers(d.Target.Epoch):
		return notHolder(id), true
	case e.bytes > 0 && e.bytes+d.Message.Size() > e.b.cfg.UnresolvedBytes:
		return mesh.Receipt{Outcome: mesh.Overloaded}, true
	}
	e.bytes += d.Message.Size()
	e.keep(id, append(e.held[id], heldBack{d, later}))
	return mesh.Receipt{Outcome: mesh.Accepted}, true
}

// keep sets what is held for a client. With e.mu held.
func (e *early) keep(id string, held []heldBack) {
	if len(held) == 0 {
		delete(e.held, id)
	} else {
		e.held[id] = held
	}
	e.busy.Store(int64(len(e.held)))
}

// granted tells a client its epoch and delivers what has been held for it, before anything else can be delivered.
// If a newer connection replaces it meanwhile, the rest waits for that.
func (e *early) granted(c *client.Client, epoch uint64) {
	t := turn.Turn{Now: time.Now()}
	defer t.End()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.b.clients.granted(c.ID, epoch)
	c.Granted(epoch)
	held := e.held[c.ID]
	for i, x := range held {
		r := e.b.deliverDirect(x.d, x.later, &t)
		if r.Outcome == mesh.NotHolder && e.b.clients.get(c.ID).current != c {
			e.keep(c.ID, slices.Clone(held[i:]))
			return
		}
		e.bytes -= x.d.Message.Size()
		if r.Outcome != mesh.Accepted {
			x.later.Settle(r)
		}
	}
	e.keep(c.ID, nil)
}

// refuse answers what is held for a client of whom no connection is here any more.
func (e *early) refuse(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.b.clients.get(id).current == nil { // else another one has come
		e.refuseOlder(id, math.MaxUint64)
	}
}

// evicted answers what is held for a client that another gateway has taken at epoch: what comes here from now on has
// to be under a newer lease.
func (e *early) evicted(id string, epoch uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.b.clients.evicted(id, epoch)
	e.refuseOlder(id, epoch)
}

// refuseOlder refuses what is held for id under leases older than epoch. With e.mu held.
func (e *early) refuseOlder(id string, epoch uint64) {
	e.keep(id, slices.DeleteFunc(e.held[id], func(x heldBack) bool {
		older := x.d.Target.Epoch < epoch
		if older {
			e.bytes -= x.d.Message.Size()
			x.later.Settle(notHolder(id))
		}
		return older
	}))
}

// deliverDirect gives a message to its receiver, if that is here since the lease that the sender means.
func (b *Broker) deliverDirect(d mesh.Delivery, later mesh.Later, t *turn.Turn) mesh.Receipt {
	gone := notHolder(d.Target.ClientID)
	x := b.clients.get(d.Target.ClientID)
	if x.current == nil || x.attaching() || x.since == 0 || !x.covers(d.Target.Epoch) || x.current.Epoch() < d.Target.Epoch {
		return gone
	}
	delivery, wanted := b.addressed(x.current, d.Message)
	if !wanted {
		return mesh.Receipt{Outcome: mesh.Queued}
	}
	if d.Reported() {
		return deliverPersonally(x.current, &d, delivery, later, gone, t)
	}
	if d.Message.QoS > 0 {
		delivery.Ticket = &personal{later: later, gone: gone}
	}
	switch x.current.Deliver(delivery, t) {
	case engine.Ended, engine.Moved:
		return gone
	case engine.Waiting:
		return mesh.Receipt{Outcome: mesh.Accepted}
	default:
		return mesh.Receipt{Outcome: mesh.Queued}
	}
}

// deliverPersonally gives a reported message to its receiver. A session that ends later than this has had it.
func deliverPersonally(
	c *client.Client, d *mesh.Delivery, to client.Delivery, later mesh.Later, gone mesh.Receipt, t *turn.Turn,
) mesh.Receipt {
	a := newArrival(d, later)
	x := &reported{y: a.tally, r: a, c: c}
	a.Expect()
	x.expect()
	switch o := x.offer(to, t); o {
	case engine.Ended, engine.Moved:
		return gone
	case engine.Waiting:
	default:
		x.Settle(o, t)
	}
	return a.receipt()
}
