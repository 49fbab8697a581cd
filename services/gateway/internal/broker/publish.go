package broker

import (
	"sync"
	"time"

	"github.com/beeline-mqtt/beeline/internal/engine"
	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/routes"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/internal/turn"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
)

// fanOut is from how many local receivers on the encoded forms of a message are kept for reuse.
const fanOut = 3

// scratch is what one publish needs for its matches.
type scratch struct {
	// underway is held for reading from the look at the routes until the message is on the links. It is never nil.
	underway *sync.RWMutex

	local  []subscriptions.Match[*client.Client]
	peers  []routes.Match[*mesh.Link]
	shares []*routes.Share[*mesh.Link]
}

// Publish sends m to everybody it is for: subscribers here, one frame to each other holder whose routes match,
// one member of each shared subscription; or to one client, for a direct topic. See client.Broker.
func (b *Broker) Publish(from *client.Client, id uint16, m *message.Message, t *turn.Turn) {
	var p *publication
	if m.QoS > 0 {
		p = &publication{b: b, m: m}
		p.Begin(from, id, m.QoS, m.Size(), t.Now)
	}
	b.send(from, m, p, t)
}

// send is Publish for a publication that waits, nil at QoS 0.
func (b *Broker) send(from *client.Client, m *message.Message, p *publication, t *turn.Turn) {
	if b.deps.Trace.On() {
		b.traceReceived(m, p)
	}
	switch {
	case topic.IsDirect(m.Topic):
		b.direct.publish(m, p, t)
	case p != nil && p.clients != nil:
		for _, id := range p.clients {
			b.direct.publishTo(id, m, p, t)
		}
	case b.direct.stall(from, m, p, t):
		p.Pending()
		return
	default:
		b.publish(from, m, p, t)
	}
	if p != nil {
		p.Done(packet.NoMatchingSubscribers, t)
		p.Pending()
	}
}

func (b *Broker) publish(from *client.Client, m *message.Message, p *publication, t *turn.Turn) {
	s, _ := b.scratch.Get().(*scratch) // the pool holds nothing else
	s.local = b.subs.Match(m.Topic, from, s.local[:0])
	if len(s.local) >= fanOut {
		m.Forms = new(message.Forms)
	}
	for i := range s.local {
		if !s.local[i].Key.Forgotten() {
			b.deliver(&s.local[i], m, p, t)
		}
	}
	// Looked up behind the sessions here: when one of these is forgotten, the routes lead to where it is.
	b.publishToPeers(s, m, p, t)
	s.shares = b.deps.Routes.Shares(m.Topic, s.shares[:0])
	for _, sh := range s.shares {
		b.publishShared(sh, m, p, t)
	}
	b.scratch.Put(s.reset())
}

// publishToPeers hands m to the other holders whose routes match.
func (b *Broker) publishToPeers(s *scratch, m *message.Message, p *publication, t *turn.Turn) {
	s.underway.RLock()
	defer s.underway.RUnlock()
	s.peers = b.deps.Routes.Match(m.Topic, s.peers[:0])
	for _, to := range s.peers {
		b.forward(to.Peer, mesh.Delivery{Target: mesh.Target{Kind: mesh.TargetMatch}, Message: m, Durable: to.Durable}, p, t)
	}
}

// reset lets go of what the last publish matched.
func (s *scratch) reset() *scratch {
	clear(s.local)
	clear(s.peers)
	clear(s.shares)
	return s
}

// receiver waits for the receipts of one message: the publication of a local publisher, or the arrival of a
// message from a peer. Deliver asks it to expect a receipt before it hands the message on.
type receiver interface {
	client.Ticket
	Expect()
	Done(code packet.Code, t *turn.Turn)
	// Moved is the receipt of a durable session that was here under that epoch and is somewhere else.
	Moved(clientID string, epoch uint64, t *turn.Turn)
}

// tenant is the ticket of a delivery to a durable session: if it moves on before it has the message, it counts whose it
// was.
type tenant struct {
	r receiver
	c *client.Client
}

// Settle passes the receipt on.
func (x *tenant) Settle(o engine.Outcome, t *turn.Turn) {
	if o == engine.Moved {
		x.r.Moved(x.c.ID, x.c.Epoch(), t)
		return
	}
	x.r.Settle(o, t)
}

// deliver hands m to one local subscriber.
func (b *Broker) deliver(to *subscriptions.Match[*client.Client], m *message.Message, p *publication, t *turn.Turn) {
	d := delivery(to, m)
	switch {
	case p == nil:
		to.Key.Deliver(d, t)
	case p.report != nil:
		b.deliverReported(to.Key, d, &p.report.tally, p, t)
	default:
		b.deliverTo(to.Key, d, p, t)
	}
}

// delivery is m for a subscriber that it matches.
func delivery(to *subscriptions.Match[*client.Client], m *message.Message) client.Delivery {
	return client.Delivery{
		Message: m, QoS: min(m.QoS, to.QoS), Retain: m.Retain && to.RetainAsPublished, IDs: to.IDs, Until: engine.UntilQueued,
	}
}

// deliverTo hands a delivery to c on behalf of r, which gets its receipt now or later.
func (b *Broker) deliverTo(c *client.Client, d client.Delivery, r receiver, t *turn.Turn) {
	r.Expect()
	d.Ticket = r
	if c.Durable() {
		d.Ticket = &tenant{r, c}
	}
	switch c.Deliver(d, t) {
	case engine.Waiting: // the ticket comes back
	case engine.Moved:
		r.Moved(c.ID, c.Epoch(), t)
	case engine.Ended:
		r.Done(packet.NoMatchingSubscribers, t)
	default:
		r.Done(packet.Success, t)
	}
}

// forward sends a delivery to another holder.
func (b *Broker) forward(l *mesh.Link, d mesh.Delivery, p *publication, t *turn.Turn) {
	if p == nil {
		if !l.SendInTurn(t, d, nil) {
			b.deps.Metrics.dropped(dropLinkFull)
			b.traceDrop(d.Message, dropLinkFull)
		}
		return
	}
	p.Expect()
	p.reportOn(l, &d, t.Now)
	if !l.SendInTurn(t, d, p) {
		p.report.unasked(l, true)
		p.Done(packet.QuotaExceeded, t)
	}
}

// publication is a client's publication with what the broker does about its receipts.
type publication struct {
	client.Publication
	b      *Broker
	m      *message.Message
	report *report // nil for nearly all
	// clients are those that the message is sent to by name; nil: its topic says to whom it goes.
	clients []string
}

// over reports whether nobody waits for the message any more. A will has no publisher that could give up.
func (p *publication) over(now time.Time) bool {
	if p.report != nil {
		// Whoever has asked may have been answered already: the message goes on all the same.
		return now.After(p.report.deadline) && now.Sub(p.Since()) > p.b.cfg.ReceiptTimeout
	}
	return p.Overdue() || now.Sub(p.Since()) > p.b.cfg.ReceiptTimeout
}

// Settle takes the receipt of a local delivery that had to wait for room. A session that ended first has
// nobody left to deliver to.
func (p *publication) Settle(o engine.Outcome, t *turn.Turn) {
	switch o {
	case engine.Ended:
		p.Done(packet.NoMatchingSubscribers, t)
	case engine.Refused:
		p.Done(packet.QuotaExceeded, t)
	default:
		p.Done(packet.Success, t)
	}
}

// Moved has the message sent after a durable session that was on this gateway.
func (p *publication) Moved(clientID string, epoch uint64, t *turn.Turn) {
	p.report.again(clientID)
	target := mesh.Target{Kind: mesh.TargetClient, ClientID: clientID, Epoch: epoch}
	p.b.direct.again(nil, mesh.Delivery{Target: target, Message: p.m}, p, t)
}

// sendAfter sends the message after sessions that have moved from where a link leads.
func (p *publication) sendAfter(l *mesh.Link, moved []mesh.MovedClient, t *turn.Turn) {
	for _, m := range moved {
		p.Expect()
		p.report.again(m.ClientID)
		target := mesh.Target{Kind: mesh.TargetClient, ClientID: m.ClientID, Epoch: m.Epoch}
		p.b.direct.again(l, mesh.Delivery{Target: target, Message: p.m}, p, t)
	}
}

// Settled takes the receipt of another holder.
func (p *publication) Settled(l *mesh.Link, d mesh.Delivery, r mesh.Receipt, t *turn.Turn) {
	p.report.answered(l, &d, &r)
	switch r.Outcome {
	case mesh.Queued, mesh.Acked, mesh.Stored:
		p.Done(packet.Success, t)
	case mesh.Accepted:
		p.sendAfter(l, r.Moved, t)
	case mesh.Moved:
		p.sendAfter(l, r.Moved, t)
		p.Done(packet.Success, t)
	case mesh.Gone:
		if d.Target.Kind == mesh.TargetClient {
			p.b.direct.again(l, d, p, t)
			return
		}
		// The holder's transient sessions have ended with it.
		p.Done(packet.NoMatchingSubscribers, t)
	case mesh.NotHolder:
		p.b.direct.again(l, d, p, t)
	case mesh.Overloaded:
		p.sendAfter(l, r.Moved, t)
		p.Done(packet.QuotaExceeded, t)
	default:
		p.Done(packet.ImplementationSpecificError, t)
	}
}
