package broker

import (
	"sync"
	"time"

	"github.com/beeline-mqtt/beeline/internal/engine"
	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/turn"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
)

// tally collects what becomes of a reported message at the clients of this gateway.
type tally struct {
	acked bool // a transient session settles when its client has acknowledged the message

	mu      sync.Mutex // guards the following
	clients []mesh.ClientReceipt
	waiting []*reported // some of them may have settled
	timer   *time.Timer
	closed  bool
}

// arm has f called after some time, unless the tally is closed by then.
func (y *tally) arm(after time.Duration, f func()) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if !y.closed {
		y.timer = time.AfterFunc(after, f)
	}
}

// close returns what is known; what has not settled counts as unsettled says. first is false from the second call on.
func (y *tally) close(unsettled mesh.ClientOutcome) (clients []mesh.ClientReceipt, first bool) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.closed {
		return nil, false
	}
	y.closed = true
	if y.timer != nil {
		y.timer.Stop()
	}
	for _, x := range y.waiting {
		if !x.settled {
			y.clients = append(y.clients, mesh.ClientReceipt{ClientID: x.c.ID, Outcome: unsettled, Epoch: x.c.Epoch()})
		}
	}
	clients = y.clients
	y.clients, y.waiting = nil, nil
	return clients, true
}

// add notes what became of the message at a client.
func (y *tally) add(c *client.Client, o mesh.ClientOutcome) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if !y.closed {
		y.clients = append(y.clients, mesh.ClientReceipt{ClientID: c.ID, Outcome: o, Epoch: c.Epoch()})
	}
}

// reported is the ticket of a reported delivery to one client.
type reported struct {
	y       *tally
	r       receiver
	c       *client.Client
	settled bool // guarded by y.mu
}

// settle notes what became of the message, once.
func (x *reported) settle(o mesh.ClientOutcome) {
	y := x.y
	y.mu.Lock()
	defer y.mu.Unlock()
	if !x.settled && !y.closed {
		y.clients = append(y.clients, mesh.ClientReceipt{ClientID: x.c.ID, Outcome: o, Epoch: x.c.Epoch()})
	}
	x.settled = true
}

// drop says that the client is reported on by somebody else.
func (x *reported) drop() {
	x.y.mu.Lock()
	defer x.y.mu.Unlock()
	x.settled = true
}

// Settle takes the receipt of the client's session.
func (x *reported) Settle(o engine.Outcome, t *turn.Turn) {
	if o == engine.Moved {
		x.drop()
		x.r.Moved(x.c.ID, x.c.Epoch(), t)
		return
	}
	x.settle(outcomeOf(o))
	x.r.Settle(o, t)
}

// outcomeOf is what the receipt of a session says of its client.
func outcomeOf(o engine.Outcome) mesh.ClientOutcome {
	switch o {
	case engine.Acked:
		return mesh.ClientAcked
	case engine.Stored:
		return mesh.ClientStored
	case engine.Expired:
		return mesh.ClientExpired
	case engine.Ended, engine.Interrupted:
		return mesh.ClientEnded
	case engine.Refused, engine.Dropped:
		return mesh.ClientNoRoom
	case engine.Declined:
		return mesh.ClientDeclined
	}
	return mesh.ClientQueued
}

// expect has the tally wait for x.
func (x *reported) expect() {
	x.y.mu.Lock()
	defer x.y.mu.Unlock()
	x.y.waiting = append(x.y.waiting, x)
}

// offer hands the delivery to the client, behind expect. An answer other than Waiting has not been settled.
func (x *reported) offer(d client.Delivery, t *turn.Turn) engine.Outcome {
	if !x.c.Takes(&d) {
		x.settle(mesh.ClientTooLarge)
	}
	d.Ticket = x
	if x.y.acked && d.QoS > message.AtMostOnce && !x.c.Durable() {
		d.Until = engine.UntilAcked
	}
	o := x.c.Deliver(d, t)
	if o == engine.Dropped && x.c.Stopping() {
		return engine.Ended
	}
	return o
}

// deliverReported hands a reported delivery to c on behalf of r, which gets its receipt now or later.
func (b *Broker) deliverReported(c *client.Client, d client.Delivery, y *tally, r receiver, t *turn.Turn) {
	r.Expect()
	x := &reported{y: y, r: r, c: c}
	x.expect()
	if o := x.offer(d, t); o != engine.Waiting {
		x.Settle(o, t)
	}
}

// memberReport is the ticket of a reported delivery to a member of a shared subscription.
type memberReport struct {
	client.Ticket

	y *tally
	c *client.Client
}

// Settle notes the member that has got the message, and passes the receipt on.
func (x *memberReport) Settle(o engine.Outcome, t *turn.Turn) {
	if o != engine.Ended && o != engine.Moved {
		x.y.add(x.c, outcomeOf(o))
	}
	x.Ticket.Settle(o, t)
}

// reportHere hands m to its receiver, which is connected here. False: it has gone just now.
func (d *direct) reportHere(c *client.Client, delivery client.Delivery, p *publication, t *turn.Turn) bool {
	x := &reported{y: &p.report.tally, r: p, c: c}
	takeBack := p.report.hand(x)
	switch o := x.offer(delivery, t); o {
	case engine.Ended, engine.Moved:
		takeBack()
		return false
	case engine.Waiting:
		p.report.accepted()
	default:
		x.settle(outcomeOf(o))
		p.report.accepted()
		p.Done(packet.Success, t)
	}
	return true
}
