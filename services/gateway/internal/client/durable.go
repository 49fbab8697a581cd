package client

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/beeline-mqtt/beeline/internal/arrivals"
	"github.com/beeline-mqtt/beeline/internal/engine"
	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/turn"
)

// Errors of a Journal.
var (
	// ErrFenced: the session has a newer holder, or is over.
	ErrFenced = errors.New("the session is held by somebody else, or is over")
	// ErrQuota: as many topics have a retained message as may.
	ErrQuota = errors.New("too many retained messages")
)

// Journal is where the state is kept that outlives connections. None of its methods waits, nor calls done before it
// returns; done is called once, on another goroutine, however long it takes, unless the gateway ends before.
type Journal interface {
	// Write makes changes durable, in the order of the calls for one client. done gets the entries that
	// were not appended, because the inbox has them already or has no room; or ErrFenced when all of w is refused for
	// good, which is the only error.
	Write(w journal.Write, done func(leftOut []journal.LeftOut, err error))
	// ReadInbox reads the page of c's inbox behind a position. ErrFenced is the only error.
	ReadInbox(c *Client, after journal.Position, done func([]journal.Entry, error))
	// Watch has c.Look called when a message that is delivered now is due to be stored.
	Watch(c *Client)
	// Retain stores a retained message, or removes one. ErrQuota is the only error.
	Retain(m *message.Message, done func(error))
	// ReadRetained reads a page, for c, of the retained messages that match a filter; the cursor of the first page is
	// empty, and so is the one behind the last.
	ReadRetained(c *Client, filter string, cursor []byte, done func(page []*message.Message, next []byte))
}

// durable is what a client has beside others whose session outlives its connection. It is made with the session;
// Client.mu guards what changes.
type durable struct {
	id      journal.SessionID
	epoch   uint64 // of the lease
	present bool   // the session continues one that the client had
	watched bool   // Look will be called
	// before is the time of which deliveries are to be stored that have not been acknowledged: they have waited long enough.
	before time.Time
	// early are deliveries that wait for older ones which their senders have sent elsewhere; nil once they need not.
	early *arrivals.Set[*Delivery]
	// inForce: the whole cluster routes to the client here.
	inForce atomic.Bool
	// forgotten: the whole cluster, this gateway too, routes to where the session is now.
	forgotten atomic.Bool
	// forbidden are filters that the session came with, and that the client may not subscribe to any more; nil once they are
	// forgotten.
	forbidden []string
	// suspended: the connection has ended and everything that it owes has been written.
	suspended bool
}

// Terms are what the client asks of the session service with its claim.
type Terms struct {
	// CleanStart ends the session that the client has, if any.
	CleanStart bool
	// Expiry is the Session Expiry Interval in seconds: 0 for a session that ends with the connection.
	Expiry uint32
	// Will is nil when there is none.
	Will *journal.Will
}

// Terms returns what the connection has asked for.
func (c *Client) Terms() Terms {
	return Terms{CleanStart: c.cleanStart, Expiry: c.expiry, Will: willOf(c.will)}
}

// Ending is how a connection has ended, for the session service.
type Ending struct {
	// WithoutWill: the will is not to be published.
	WithoutWill bool
	// Expiry is the Session Expiry Interval from now on, in seconds: 0 when the session is over. NewExpiry is it when
	// DISCONNECT has given it, else nil.
	Expiry    uint32
	NewExpiry *uint32
	// Reason is why it has ended, as those see it who watch; empty: it has not.
	Reason string
}

// Ending is how the connection has ended; to be asked when it has.
func (c *Client) Ending() Ending {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ending()
}

// ending needs c.mu.
func (c *Client) ending() Ending {
	e := Ending{Expiry: c.expiry}
	if c.cause != nil {
		e.WithoutWill, e.Reason = c.cause.NoWill, c.cause.reason.shown()
		if e.NewExpiry = c.cause.expiry; e.NewExpiry != nil {
			e.Expiry = *e.NewExpiry
		}
	}
	return e
}

// Open gives the client its session, under the lease that it is about to be granted: from now on it takes what matches
// the subscriptions that the session came with. s is nil for a session that nobody keeps.
func (c *Client) Open(epoch uint64, s *journal.State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s == nil || c.state != opening {
		return
	}
	c.session = engine.Resume[Ticket](c.sessionLimits, *s)
	c.durable = &durable{id: s.ID, epoch: epoch, present: s.Present}
	if s.Present {
		c.durable.early = new(arrivals.Set[*Delivery])
	}
	c.filters = make(map[string]uint64, len(s.Subscriptions))
	for _, f := range s.Subscriptions {
		c.asked++
		c.filters[f.Filter] = c.asked
		if !c.maySubscribe(f.Filter, f.Options.QoS) {
			c.durable.forbidden = append(c.durable.forbidden, f.Filter)
		}
	}
}

// forgetForbidden drops what the session is subscribed to and the client may not subscribe to any more: other rules are in
// force, or another user has come under its id. What has been stored because of it still comes.
func (c *Client) forgetForbidden() {
	if c.durable == nil || c.durable.forbidden == nil {
		return
	}
	c.changing.Lock()
	defer c.changing.Unlock()
	_, changes := c.unsubscribe(c.durable.forbidden)
	c.durable.forbidden = nil
	if len(changes) > 0 {
		c.record(changes, func() {})
	}
}

// Granted is called by the broker when the lease has been taken and the session opened, before anything that happened to
// the lease later is told. From now on messages are addressed to the client by name.
func (c *Client) Granted(epoch uint64) { c.epoch.Store(epoch) }

// Durable reports whether the client's session is kept by the session service. It does not change once the lease
// has been granted.
func (c *Client) Durable() bool { return c.durable != nil }

// Continued reports whether the session is one that the client had before this connection.
func (c *Client) Continued() bool { return c.durable != nil && c.durable.present }

// SetRoutesInForce says that the whole cluster routes to the client, which is durable, here.
func (c *Client) SetRoutesInForce() { c.durable.inForce.Store(true) }

// RoutesInForce reports whether SetRoutesInForce has been called.
func (c *Client) RoutesInForce() bool { return c.durable != nil && c.durable.inForce.Load() }

// SetForgotten says that the client's session, which is durable, is elsewhere, and that the whole cluster routes to it there.
func (c *Client) SetForgotten() { c.durable.forgotten.Store(true) }

// Forgotten reports whether SetForgotten has been called.
func (c *Client) Forgotten() bool { return c.durable != nil && c.durable.forgotten.Load() }

// SessionID names the durable session.
func (c *Client) SessionID() journal.SessionID { return c.durable.id }

// Continues reports whether the session goes on when the connection is over; to be asked when it is.
func (c *Client) Continues() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.continues()
}

// continues needs c.mu.
func (c *Client) continues() bool { return c.durable != nil && c.ending().Expiry > 0 }

// store gives the journal what has to be durable now, sees to it that what may wait is looked at in time, and asks
// for more of the inbox where there is room. With c.mu held.
func (c *Client) store(now time.Time) {
	d := c.durable
	if d == nil || d.suspended {
		return
	}
	if now.IsZero() {
		now = time.Now()
	}
	c.write(c.session.Changes(now, d.before, nil))
	if _, unsafe := c.session.Unsafe(); unsafe && !d.watched {
		d.watched = true
		c.deps.Journal.Watch(c)
	}
	if c.state != open || c.cause != nil {
		return
	}
	if after, wanted := c.session.Wanted(); wanted {
		c.deps.Journal.ReadInbox(c, after, c.page)
	}
}

// write gives changes of the session engine to the journal. With c.mu held.
func (c *Client) write(changes []journal.Change) {
	if n := len(changes); n > 0 {
		c.deps.Journal.Write(c.writing(changes...), func(leftOut []journal.LeftOut, err error) { c.written(n, leftOut, err) })
	}
}

func (c *Client) writing(changes ...journal.Change) journal.Write {
	return journal.Write{Client: c.ID, Session: c.durable.id, Epoch: c.durable.epoch, Changes: changes}
}

// step does something to the session on a goroutine of the journal's, and what follows from it.
func (c *Client) step(f func(now time.Time)) {
	t := turn.Turn{Now: time.Now()}
	defer t.End()
	err := c.protect(func() error {
		c.stepLocked(&t, f)
		c.sendOn(&t)
		return nil
	})
	if err != nil {
		c.Stop(causeOf(err))
	}
}

func (c *Client) stepLocked(t *turn.Turn, f func(now time.Time)) {
	c.mu.Lock()
	defer c.unlock(t)
	f(t.Now)
	if c.state != ended {
		c.fill(t.Now)
		c.fillAcks()
		c.flag(t)
	}
}

// written is told that n changes of the session are durable, or that the session is not ours any more.
func (c *Client) written(n int, leftOut []journal.LeftOut, err error) {
	if err != nil {
		c.fenced()
		return
	}
	c.step(func(time.Time) {
		for _, x := range leftOut {
			c.session.LeftOut(x)
		}
		c.session.Written(n)
		for _, id := range c.session.Ready(nil) {
			c.publishing.stored(id)
		}
	})
}

// page is a page of the inbox.
func (c *Client) page(entries []journal.Entry, err error) {
	if err != nil {
		c.fenced()
		return
	}
	c.step(func(time.Time) { c.session.Page(entries) })
}

// fenced ends a client whose session somebody else holds: what has not been settled is sent after it.
func (c *Client) fenced() {
	c.LoseLease()
	c.Stop(TakenOver())
	c.step(func(time.Time) { c.session.Abandon() })
}

// Look stores what has waited long enough. It is called after Watch, when there is room for what need not be stored at
// once.
func (c *Client) Look(now time.Time) {
	t := turn.Turn{Now: now}
	defer t.End()
	c.mu.Lock()
	defer c.unlock(&t)
	c.durable.watched = false
	c.durable.before = now.Add(-c.limits.StoreAfter)
}

// hold keeps a delivery back until those that are older have come as well, if it need be. With c.mu held.
func (c *Client) hold(d Delivery, now time.Time) (o engine.Outcome, held bool) {
	early := c.durable.early
	if early == nil {
		return 0, false
	}
	if early.Bytes() > c.sessionLimits.QueueBytes {
		c.giveUpOrder(now)
		return 0, false
	}
	own := new(Delivery)
	*own = d
	if first, twice := early.Add(d.Message, own); twice {
		if d.QoS != message.ExactlyOnce || d.Ticket == nil {
			return engine.Queued, true
		}
		// Its publisher may have sent it again: nothing can be promised before the first copy is safe.
		first.Ticket = both{first.Ticket, d.Ticket}
	}
	return engine.Waiting, true
}

// both are the tickets of one message that has come twice. The first may be nil.
type both [2]Ticket

// Settle passes the outcome on.
func (b both) Settle(o engine.Outcome, t *turn.Turn) {
	for _, x := range b {
		if x != nil {
			x.Settle(o, t)
		}
	}
}

// Settled is called when nothing older can come any more from where the session was before; or, if it is not complete, when
// that has taken too long.
func (c *Client) Settled(complete bool) {
	if complete {
		c.step(c.releaseEarly)
	} else {
		c.step(c.giveUpOrder)
	}
}

// giveUpOrder takes what was held back though older messages may come yet: order is given up, messages are not. With c.mu held.
func (c *Client) giveUpOrder(now time.Time) {
	if c.durable.early != nil {
		c.deps.Metrics.unordered.Inc()
	}
	c.releaseEarly(now)
}

// ForgetSeen is called when nothing can come a second time any more from where the session was before.
func (c *Client) ForgetSeen() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session.ForgetSeen()
}

// releaseEarly takes what was held back. With c.mu held.
func (c *Client) releaseEarly(now time.Time) {
	early := c.durable.early
	if early == nil {
		return
	}
	c.durable.early = nil
	for _, d := range early.Release() {
		if d.Ticket == nil {
			d.Ticket = nobody{}
		}
		if a := c.session.Offer(*d, now); a != engine.Waiting {
			c.owed = append(c.owed, engine.Settlement[Ticket]{Ticket: d.Ticket, Outcome: a})
		}
	}
}

// returnEarly has what was held back sent after the session, to where it is held next: something older may still be on its
// way there, which what is stored here would overtake. With c.mu held.
func (c *Client) returnEarly() {
	early := c.durable.early
	if early == nil {
		return
	}
	c.durable.early = nil
	for _, d := range early.Release() {
		if d.Ticket != nil {
			c.owed = append(c.owed, engine.Settlement[Ticket]{Ticket: d.Ticket, Outcome: engine.Moved})
		}
	}
}

// nobody waits for a delivery that was held back.
type nobody struct{}

// Settle does nothing.
func (nobody) Settle(engine.Outcome, *turn.Turn) {}

// departed answers a delivery to a client whose connection is over: its session is over too, or somewhere else. With
// c.mu held.
func (c *Client) departed(qos byte) engine.Outcome {
	if !c.continues() {
		return engine.Ended
	}
	if qos == message.AtMostOnce {
		c.deps.Metrics.dropped(dropEnded, 1)
		return engine.Dropped
	}
	return engine.Moved
}

// endSession ends the session with the connection, or writes what it still owes the client. With c.mu held.
func (c *Client) endSession(now time.Time) {
	if !c.continues() {
		if c.durable != nil {
			c.releaseEarly(now)
		}
		c.session.End()
		return
	}
	c.returnEarly()
	c.write(c.session.Suspend(now, nil))
	c.durable.suspended = true
}

// willOf is the form in which a will is stored.
func willOf(w *packet.Will) *journal.Will {
	if w == nil {
		return nil
	}
	return &journal.Will{
		Message: &message.Message{Topic: w.Topic, Payload: w.Payload, QoS: w.QoS, Retain: w.Retain, Props: w.Props},
		Expiry:  time.Duration(w.Expiry) * time.Second, HasExpiry: w.HasExpiry,
		Delay: time.Duration(w.Delay) * time.Second,
	}
}
