package broker

import (
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
// known, and refused when nobody is being attached any more.
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
	c := e.b.clients.get(d.Target.ClientID).current
	if c == nil {
		return notHolder(d.Target.ClientID)
	}
	if c.Epoch() == 0 || e.busy.Load() > 0 {
		if r, held := e.hold(d, later); held {
			return r
		}
	}
	return e.b.deliverDirect(c, d, later, t)
}

// hold keeps a message if its receiver is being attached, or others wait for that already.
func (e *early) hold(d mesh.Delivery, later mesh.Later) (r mesh.Receipt, held bool) {
	id := d.Target.ClientID
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.b.clients.get(id).current
	if c == nil || c.Epoch() != 0 && len(e.held[id]) == 0 {
		return mesh.Receipt{}, false
	}
	if e.bytes > 0 && e.bytes+d.Message.Size() > e.b.cfg.UnresolvedBytes {
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
	c.SetEpoch(epoch)
	held := e.held[c.ID]
	for i, x := range held {
		r := e.b.deliverDirect(c, x.d, x.later, &t)
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
	if e.b.clients.get(id).current != nil {
		return // another one has come
	}
	for _, x := range e.held[id] {
		e.bytes -= x.d.Message.Size()
		x.later.Settle(notHolder(id))
	}
	e.keep(id, nil)
}

// deliverDirect gives a message to c, if c has the lease that the sender means, or a later one.
func (b *Broker) deliverDirect(c *client.Client, d mesh.Delivery, later mesh.Later, t *turn.Turn) mesh.Receipt {
	gone := notHolder(d.Target.ClientID)
	if c.Epoch() == 0 || c.Epoch() < d.Target.Epoch {
		return gone
	}
	delivery := client.Delivery{Message: d.Message, QoS: d.Message.QoS, Until: engine.UntilQueued}
	if d.Message.QoS > 0 {
		delivery.Ticket = &arrival{later: later, settled: mesh.Receipt{Outcome: mesh.Queued}, ended: gone}
	}
	switch c.Deliver(delivery, t) {
	case engine.Ended:
		return gone
	case engine.Waiting:
		return mesh.Receipt{Outcome: mesh.Accepted}
	default:
		return mesh.Receipt{Outcome: mesh.Queued}
	}
}
