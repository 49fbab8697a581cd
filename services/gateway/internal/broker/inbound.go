package broker

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/beeline-mqtt/beeline/internal/engine"
	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/internal/trace"
	"github.com/beeline-mqtt/beeline/internal/turn"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
)

// inbound delivers what one peer sends. It belongs to the link's receiving goroutine: what one frame brings to
// a connection is written at once, at the end of the frame.
type inbound struct {
	b     *Broker
	peer  string
	turn  turn.Turn
	local []subscriptions.Match[*client.Client]
}

// Accept makes the receiving end for a peer. It is the mesh's Deps.Accept.
func (b *Broker) Accept(peer string) mesh.Inbound {
	return &inbound{b: b, peer: peer}
}

// Deliver takes one delivery.
func (i *inbound) Deliver(d mesh.Delivery, later mesh.Later) mesh.Receipt {
	if i.turn.Now.IsZero() {
		i.turn.Now = time.Now()
	}
	if i.b.deps.Trace.On() {
		i.b.deps.Trace.Step(trace.Arrived, d.Message, i.peer, "")
	}
	switch d.Target.Kind {
	case mesh.TargetMatch:
		return i.match(d, later)
	case mesh.TargetShare:
		return i.share(d, later)
	case mesh.TargetClient:
		return i.b.early.deliver(d, later, &i.turn)
	}
	return mesh.Receipt{Outcome: mesh.Refused}
}

// Flush ends the turn of a frame.
func (i *inbound) Flush() {
	i.turn.End()
	i.turn.Now = time.Time{}
}

// Close is called when the link is over.
func (i *inbound) Close() {}

// match delivers to everybody who subscribes here.
func (i *inbound) match(x mesh.Delivery, later mesh.Later) mesh.Receipt {
	m := x.Message
	i.local = i.b.subs.Match(m.Topic, nil, i.local[:0])
	if len(i.local) >= fanOut {
		m.Forms = new(message.Forms)
	}
	var a *arrival
	if m.QoS > 0 || x.Reported() {
		a = newArrival(&x, later)
	}
	for k := range i.local {
		to := &i.local[k]
		d := delivery(to, m)
		switch {
		case a == nil:
			to.Key.Deliver(d, &i.turn)
		case a.tally != nil:
			i.b.deliverReported(to.Key, d, a.tally, a, &i.turn)
		default:
			i.b.deliverTo(to.Key, d, a, &i.turn)
		}
	}
	clear(i.local)
	return a.receipt()
}

// share delivers to one local member of a shared subscription.
func (i *inbound) share(d mesh.Delivery, later mesh.Later) mesh.Receipt {
	s := topic.Shared{Group: d.Target.Group, Filter: d.Target.Filter}
	var y *tally
	if d.Reported() {
		y = new(tally)
	}
	if !i.b.deliverShared(s, d.Message, membership{later, y}, y, &i.turn) {
		if d.Message.QoS == 0 {
			i.b.deps.Metrics.dropped(dropNoMember) // nobody at the other end waits for the answer
			i.b.traceDrop(d.Message, dropNoMember)
		}
		return mesh.Receipt{Outcome: mesh.NoMember}
	}
	if d.Message.QoS == 0 {
		return mesh.Receipt{Outcome: mesh.Queued}
	}
	return mesh.Receipt{Outcome: mesh.Accepted}
}

// arrival is a message from a peer whose receipt waits for local sessions.
type arrival struct {
	later   mesh.Later
	waiting atomic.Int32
	tally   *tally // nil for nearly all: the message is not reported
	within  time.Duration

	mu       sync.Mutex // guards the following; receipts are given with it held, for the sake of their order
	moved    []mesh.MovedClient
	refused  bool // a session has no room for it
	accepted bool // the first receipt has been given
}

func newArrival(d *mesh.Delivery, later mesh.Later) *arrival {
	a := &arrival{later: later}
	a.waiting.Store(1)
	if d.Reported() {
		a.tally = &tally{acked: d.UntilAcked}
		a.within = time.Duration(d.ReportWithinMs) * time.Millisecond
	}
	return a
}

// Expect adds a session to wait for.
func (a *arrival) Expect() { a.waiting.Add(1) }

// Done counts a session that has the message, or has nobody to give it to any more.
func (a *arrival) Done(packet.Code, *turn.Turn) {
	if a.waiting.Add(-1) == 0 {
		a.settle()
	}
}

// settle gives the receipt with what is known.
func (a *arrival) settle() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r, first := a.outcome(); first {
		a.later.Settle(r)
	}
}

// Moved counts a session that is somewhere else: the peer sends the message after it, without waiting for the others here.
func (a *arrival) Moved(clientID string, epoch uint64, _ *turn.Turn) {
	a.mu.Lock()
	a.moved = append(a.moved, mesh.MovedClient{ClientID: clientID, Epoch: epoch})
	a.mu.Unlock()
	if a.waiting.Add(-1) == 0 {
		a.settle()
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.accepted && a.tally == nil && len(a.moved) > 0 {
		a.later.Settle(a.interim())
	}
}

// interim is the receipt when others are waited for; that of a reported message names nobody yet. With a.mu held.
func (a *arrival) interim() mesh.Receipt {
	r := mesh.Receipt{Outcome: mesh.Accepted}
	if a.tally == nil {
		r.Moved, a.moved = a.moved, nil
	}
	return r
}

// Settle is the receipt of a session in which the message had to wait.
func (a *arrival) Settle(o engine.Outcome, t *turn.Turn) {
	if o == engine.Refused {
		a.mu.Lock()
		a.refused = true
		a.mu.Unlock()
	}
	a.Done(packet.Success, t)
}

// outcome is the receipt when nothing is waited for any more; first is false when it has been given. With a.mu held.
func (a *arrival) outcome() (r mesh.Receipt, first bool) {
	r.Outcome = mesh.Queued
	if a.tally != nil {
		if r.Clients, first = a.tally.close(mesh.ClientTimedOut); !first {
			return r, false
		}
	}
	switch {
	case a.refused:
		r.Outcome = mesh.Overloaded
	case len(a.moved) > 0:
		r.Outcome, r.Moved, a.moved = mesh.Moved, a.moved, nil
	}
	return r, true
}

// receipt is what is known when all local subscribers have been offered the message.
func (a *arrival) receipt() mesh.Receipt {
	if a == nil {
		return mesh.Receipt{Outcome: mesh.Queued}
	}
	last := a.waiting.Add(-1) == 0
	if !last && a.tally != nil {
		a.tally.arm(a.within, a.settle)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if last {
		r, _ := a.outcome()
		return r
	}
	a.accepted = true
	return a.interim()
}

// personal is the ticket of a delivery that names its receiver.
type personal struct {
	later mesh.Later
	gone  mesh.Receipt // the receiver is not here any more
}

// Settle is the receipt of the receiver's session.
func (p *personal) Settle(o engine.Outcome, _ *turn.Turn) {
	switch o {
	case engine.Ended, engine.Moved:
		p.later.Settle(p.gone)
	case engine.Refused:
		p.later.Settle(mesh.Receipt{Outcome: mesh.Overloaded})
	default:
		p.later.Settle(mesh.Receipt{Outcome: mesh.Queued})
	}
}

// membership is the ticket of a delivery to a member of a shared subscription for a peer.
type membership struct {
	later mesh.Later
	tally *tally // nil when the message is not reported
}

// Settle tells the peer whether the member has acknowledged the message, or somebody else has to get it.
func (s membership) Settle(o engine.Outcome, _ *turn.Turn) {
	if o == engine.Ended || o == engine.Moved {
		s.later.Settle(mesh.Receipt{Outcome: mesh.NoMember})
		return
	}
	r := mesh.Receipt{Outcome: mesh.Acked}
	if s.tally != nil {
		r.Clients, _ = s.tally.close(mesh.ClientTimedOut)
	}
	s.later.Settle(r)
}
