package broker

import (
	"slices"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/engine"
	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/internal/turn"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
)

const (
	// lookUpTimeout bounds one read of leases.
	lookUpTimeout = 2 * time.Second
	// firstRetry and lastRetry bound the pause before a receiver is looked up again.
	firstRetry = 25 * time.Millisecond
	lastRetry  = 400 * time.Millisecond
	// movingRetry is the pause for a client that has just gone from where it was, for so many tries: it is about to be
	// somewhere else, and what it gets there waits for what comes after it from here.
	movingRetry = 10 * time.Millisecond
	movingTries = 20
	// lookUpsTogether bounds one read of leases, so that its time-out says something about etcd and not about the
	// length of the line.
	lookUpsTogether = 500
	// mostUnresolved bounds the clients that are being looked up: whoever writes to names that nobody has must not
	// make everybody else wait behind them.
	mostUnresolved = 8192
	// moveTimeout is how long messages for a client that has come here wait for those that were sent to where it
	// was. Then order is given up: the client is here, and the other gateway may be out of reach for long.
	moveTimeout = time.Second
)

// direct sends messages to clients by id: the receiver is found in local memory, in a cache of leases, or in
// etcd. The cache is never told of changes: a holder that does not hold the client any more says so, and then
// it is looked up again.
//
// While a client is being looked up, everything for it waits, in order. When a holder has answered that it is
// not, has died, or this gateway has become the holder, the look-up begins only when everything sent to the
// former holder has been answered: what was on its way comes back first and is put before what was published later.
type direct struct {
	b     *Broker
	cache *otter.Cache[string, found]
	wake  chan struct{} // one element: there is something in ready

	patience time.Duration // moveTimeout, but for tests

	// mu is held for reading by whoever sends to where the cache says, from the look at waiting until the message is on
	// the link: when a client begins to wait, all that had been sent before is there, and a Barrier waits for it.
	mu      sync.RWMutex
	waiting map[string]*unresolved
	ready   []string // to be looked up
	sent    []func() // to be called: what they waited for has been sent on
	// watching are those who want to know of what is sent on, by client.
	watching map[string][]*sendingOn
	bytes    int
	closed   bool // nobody looks up any more
	stalls   stalls
}

// found is a holder in the cache. link may be that of a holder that has died since.
type found struct {
	lease cluster.Lease
	link  *mesh.Link
}

// away reports whether the client has no lease, and its session, if there is one, is held by the session service.
func (f found) away() bool { return f.lease.Epoch == 0 }

// unresolved is a client that is being looked up, with the messages that wait for it.
type unresolved struct {
	items  []unsent
	failed uint64 // epoch whose holder has answered that it does not hold the client
	tries  int
	sent   []func() // to be called when nothing waits any more
}

// unsent is one message. p is nil for QoS 0.
type unsent struct {
	m *message.Message
	p *publication
}

func newDirect(b *Broker) *direct {
	return &direct{
		b:        b,
		cache:    otter.Must(&otter.Options[string, found]{MaximumSize: max(b.cfg.CachedLeases, 1)}),
		wake:     make(chan struct{}, 1),
		patience: moveTimeout,
		waiting:  make(map[string]*unresolved),
	}
}

// publish sends m to the client that its topic names. It may wait, without blocking the caller.
func (d *direct) publish(m *message.Message, p *publication, t *turn.Turn) {
	id, err := topic.ParseDirect(m.Topic)
	if err != nil {
		return // a will: nobody else gets here with a topic that does not parse
	}
	d.publishTo(id, m, p, t)
}

// publishTo sends m to a client.
func (d *direct) publishTo(id string, m *message.Message, p *publication, t *turn.Turn) {
	if p != nil {
		p.Expect()
		p.report.await(id)
	}
	if !d.sendNow(id, m, p, t) {
		d.queue(id, unsent{m, p}, t)
	}
}

// sendNow sends m to where its receiver is known to be. It reports false when that is not known, or others wait.
func (d *direct) sendNow(id string, m *message.Message, p *publication, t *turn.Turn) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.waiting[id] != nil {
		return false
	}
	if d.deliverHere(id, 0, m, p, t) {
		return true
	}
	at, ok := d.cache.GetIfPresent(id)
	if !ok || d.b.deps.Mesh.Link(at.lease.Holder) == nil {
		return false
	}
	if at.away() && p == nil {
		d.giveUp(id, unsent{m, p}, packet.Success, dropAway, t)
		return true
	}
	d.send(at.link, id, at.lease.Epoch, m, p, t)
	return true
}

// queue has a message wait for its receiver to be looked up, behind others for the same client.
func (d *direct) queue(id string, x unsent, t *turn.Turn) {
	d.mu.Lock()
	if !d.admit(id, x, t) {
		d.mu.Unlock()
		return
	}
	u, first := d.entry(id)
	d.insert(u, x)
	var former found
	if first {
		former = d.forget(id)
	}
	d.mu.Unlock()
	if first {
		d.lookUpBehind(former.link, id, former.lease.Epoch, d.b.cfg.ReceiptTimeout)
	}
}

// forget takes id out of the cache, and returns where it was, without a link if it was not there. With d.mu held until
// something waits for id: else somebody could take it for unknown and have it looked up without waiting for what is on its
// way.
func (d *direct) forget(id string) found {
	at, ok := d.cache.GetIfPresent(id)
	if ok {
		d.cache.Invalidate(id)
	}
	return at
}

// entry returns what waits for id, and whether that is new: then the caller has it looked up. With d.mu held.
func (d *direct) entry(id string) (u *unresolved, first bool) {
	u = d.waiting[id]
	if u == nil {
		u, first = new(unresolved), true
		d.waiting[id] = u
	}
	return u, first
}

// drop forgets what waits for id, because it has been sent on or given up. With d.mu held.
func (d *direct) drop(id string) {
	for _, s := range d.watching[id] {
		s.sent = true
	}
	if sent := d.waiting[id].sent; len(sent) > 0 {
		d.sent = append(d.sent, sent...)
		d.nudge()
	}
	delete(d.waiting, id)
	d.b.deps.Metrics.unresolved.Set(float64(d.bytes))
}

// admit gives up a message that has just been published if there is no room for it. QoS 0 may have half of the
// room, and one message always finds some. With d.mu held.
func (d *direct) admit(id string, x unsent, t *turn.Turn) bool {
	bound, line := d.b.cfg.UnresolvedBytes, mostUnresolved
	if x.p == nil {
		bound, line = bound/2, line/2
	}
	full := d.bytes > 0 && d.bytes+x.m.Size() > bound || d.waiting[id] == nil && len(d.waiting) >= line
	if d.closed || full {
		d.giveUp(id, x, packet.QuotaExceeded, dropUnresolved, t)
		return false
	}
	return true
}

// insert keeps the items in the order in which they were published, and reports false if x is one of them: several former
// holders have sent it back.
func (d *direct) insert(u *unresolved, x unsent) bool {
	place := x.m.Place().Seq
	i := len(u.items)
	for i > 0 && u.items[i-1].m.Place().Seq > place {
		i--
	}
	for k := i; k > 0 && x.p != nil && u.items[k-1].m.Place().Seq == place; k-- {
		if u.items[k-1] == x {
			return false
		}
	}
	u.items = slices.Insert(u.items, i, x)
	d.bytes += x.m.Size()
	d.stalls.add(x.m)
	d.b.deps.Metrics.unresolved.Set(float64(d.bytes))
	return true
}

// removed lets go of a message that was inserted. With d.mu held.
func (d *direct) removed(x unsent) {
	d.bytes -= x.m.Size()
	if d.stalls.remove(x.m) {
		d.nudge()
	}
}

// nudge wakes the goroutine that looks up leases.
func (d *direct) nudge() {
	select {
	case d.wake <- struct{}{}:
	default: // it has been woken already
	}
}

// lookUpBehind has id looked up when nothing can come back any more that was sent on a link to its holder at an epoch, or
// patience is over; at once when the link is nil.
func (d *direct) lookUpBehind(l *mesh.Link, id string, epoch uint64, patience time.Duration) {
	if l == nil {
		d.lookUpSoon(id)
		return
	}
	begin := sync.OnceFunc(func() { d.lookUpSoon(id) })
	enough := time.AfterFunc(patience, begin)
	l.Barrier(id, epoch, func() {
		enough.Stop()
		begin()
	})
}

// lookUpSoon hands id to the goroutine that reads leases.
func (d *direct) lookUpSoon(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ready = append(d.ready, id)
	d.nudge()
}

// deliverHere delivers m if its receiver is connected to this gateway under that epoch or a later one.
func (d *direct) deliverHere(id string, epoch uint64, m *message.Message, p *publication, t *turn.Turn) bool {
	c := d.b.clients.get(id).current
	if c == nil || c.Epoch() == 0 || c.Epoch() < epoch {
		return false
	}
	x, wanted := d.b.addressed(c, m)
	switch {
	case !wanted && p != nil:
		p.report.unwanted(id)
		p.Done(packet.Success, t)
		return true
	case !wanted:
		return true
	case p == nil:
		return c.Deliver(x, t) != engine.Ended
	case p.report != nil:
		return d.reportHere(c, x, p, t)
	}
	x.Ticket = p
	if c.Durable() {
		x.Ticket = &tenant{p, c}
	}
	switch c.Deliver(x, t) {
	case engine.Ended, engine.Moved:
		return false
	case engine.Waiting:
		return true
	}
	p.Done(packet.Success, t)
	return true
}

// send sends m to the holder that was found at epoch.
func (d *direct) send(l *mesh.Link, id string, epoch uint64, m *message.Message, p *publication, t *turn.Turn) {
	x := mesh.Delivery{Target: mesh.Target{Kind: mesh.TargetClient, ClientID: id, Epoch: epoch}, Message: m}
	if p == nil {
		if !l.SendInTurn(t, x, unasked{d}) {
			d.b.deps.Metrics.dropped(dropLinkFull)
			d.b.traceDrop(m, dropLinkFull)
		}
		return
	}
	d.ask(l, x, p, p, t)
}

// ask sends x, for which p waits, on a link. w takes its receipt.
func (d *direct) ask(l *mesh.Link, x mesh.Delivery, w mesh.Waiter, p *publication, t *turn.Turn) {
	p.reportOn(l, &x, t.Now)
	if l.SendInTurn(t, x, w) {
		p.report.sentTo(x.Target.ClientID, l.Peer().ID, x.Target.Epoch)
		return
	}
	p.report.unasked(l, false)
	p.report.lostFor(x.Target.ClientID, packet.QuotaExceeded)
	p.Done(packet.QuotaExceeded, t)
}

// arrived is called when this gateway is about to hold a client: what was sent to its former holder and comes back
// is delivered before what is published from now on.
func (d *direct) arrived(id string) {
	d.mu.Lock()
	former := d.forget(id)
	if former.link == nil {
		d.mu.Unlock()
		return
	}
	_, first := d.entry(id)
	d.mu.Unlock()
	if first {
		d.lookUpBehind(former.link, id, former.lease.Epoch, d.patience)
	}
}

// again takes back a message whose holder was not the holder any more. Later messages for the same client
// wait behind it.
func (d *direct) again(l *mesh.Link, x mesh.Delivery, p *publication, t *turn.Turn) {
	id := x.Target.ClientID
	back := unsent{x.Message, p}
	d.mu.Lock()
	if d.closed || p != nil && p.over(t.Now) {
		d.giveUp(id, back, packet.UnspecifiedError, dropUnresolved, t)
		d.mu.Unlock()
		return
	}
	u, first := d.entry(id)
	u.failed = max(u.failed, x.Target.Epoch)
	if !d.insert(u, back) {
		p.Done(packet.NoMatchingSubscribers, t) // the other one gets the receipt
	}
	if at, ok := d.cache.GetIfPresent(id); ok && at.lease.Epoch <= x.Target.Epoch {
		d.cache.Invalidate(id)
	}
	d.mu.Unlock()
	if first {
		// What comes back later than this is not sent again.
		d.lookUpBehind(l, id, x.Target.Epoch, d.b.cfg.ReceiptTimeout)
	}
}

// addressed is m as a delivery to the one client that it is sent to: by a direct topic, or by what the client subscribes
// to, because its session has moved. wanted is false when it subscribes to nothing that matches.
func (b *Broker) addressed(c *client.Client, m *message.Message) (d client.Delivery, wanted bool) {
	if topic.IsAddressed(m.Topic) {
		return client.Delivery{Message: m, QoS: m.QoS, Until: engine.UntilQueued}, true
	}
	if !c.Continued() {
		return client.Delivery{}, false // what was for a session that has ended is not for the one after it
	}
	var publisher *client.Client
	if m.Publisher == c.ID {
		publisher = c
	}
	for _, to := range b.subs.Match(m.Topic, publisher, nil) {
		if to.Key == c {
			return delivery(&to, m), true
		}
	}
	return client.Delivery{}, false
}

// giveUp ends the waiting of one message.
func (d *direct) giveUp(id string, x unsent, code packet.Code, reason dropReason, t *turn.Turn) {
	d.b.traceDrop(x.m, reason)
	if x.p == nil {
		d.b.deps.Metrics.dropped(reason)
		return
	}
	x.p.report.lostFor(id, code)
	x.p.Done(code, t)
}
