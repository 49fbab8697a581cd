package client

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/turn"
)

// Publication is one PUBLISH with QoS 1 or 2 on its way: it counts the receipts that its publisher's
// acknowledgement waits for. It is settled once: by the last receipt, or by the time-out before.
type Publication struct {
	from  *Client           // nil for a will
	tell  func(packet.Code) // nil: nobody beside the publisher
	id    uint16
	qos   byte
	size  int
	since time.Time

	waiting atomic.Int32
	code    atomic.Uint32
	settled atomic.Bool
}

// Begin makes p ready: it waits for one receipt, that of whoever sends the message on, given with Done when
// all others have been asked with Expect.
func (p *Publication) Begin(from *Client, id uint16, qos byte, size int, now time.Time) {
	p.from, p.id, p.qos, p.size, p.since = from, id, qos, size, now
	p.waiting.Store(1)
	p.code.Store(uint32(packet.NoMatchingSubscribers))
}

// Tell has f told the outcome, as well as whoever was to be told before; the publisher, if there is one, comes last. It is
// called after Begin.
func (p *Publication) Tell(f func(packet.Code)) {
	if first := p.tell; first != nil {
		p.tell = func(code packet.Code) { first(code); f(code) }
		return
	}
	p.tell = f
}

// Expect adds a receipt to wait for.
func (p *Publication) Expect() { p.waiting.Add(1) }

// Overdue reports whether nobody waits for p any more because its time is over.
func (p *Publication) Overdue() bool { return p.settled.Load() }

// Since returns when the message came.
func (p *Publication) Since() time.Time { return p.since }

// Done gives one receipt. The publisher gets the worst code: a failure before Success, Success before No
// matching subscribers.
func (p *Publication) Done(code packet.Code, t *turn.Turn) {
	p.merge(code)
	if p.waiting.Add(-1) == 0 {
		p.settle(t)
	}
}

func (p *Publication) merge(code packet.Code) {
	for {
		was := packet.Code(p.code.Load())
		if was.Failure() || code == packet.NoMatchingSubscribers || (!code.Failure() && was == packet.Success) {
			return
		}
		if p.code.CompareAndSwap(uint32(was), uint32(code)) {
			return
		}
	}
}

func (p *Publication) settle(t *turn.Turn) {
	if !p.settled.CompareAndSwap(false, true) {
		return
	}
	if p.tell != nil {
		p.tell(packet.Code(p.code.Load()))
	}
	c := p.from
	if c == nil {
		return
	}
	c.mu.Lock()
	c.unsettled.remove(p)
	c.mu.Unlock()
	c.acknowledge(p.id, p.qos, packet.Code(p.code.Load()), t)
}

// track has the client remember p until it is settled, which it may be already.
func (c *Client) track(p *Publication) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !p.settled.Load() {
		c.unsettled.add(p)
	}
}

// Pending makes the client wait for p, unless it is settled already; from then on p may time out.
func (p *Publication) Pending() {
	if p.from != nil {
		p.from.track(p)
	}
}

// unsettledList holds the unsettled publications of one client in the order they came.
type unsettledList struct {
	list  []*Publication
	bytes int
}

func (u *unsettledList) add(p *Publication) {
	u.list = append(u.list, p)
	u.bytes += p.size
}

func (u *unsettledList) remove(p *Publication) {
	if i := slices.Index(u.list, p); i >= 0 {
		u.bytes -= p.size
		u.list = slices.Delete(u.list, i, i+1)
	}
}

// overdue returns those that came before deadline.
func (u *unsettledList) overdue(deadline time.Time) []*Publication {
	n := 0
	for n < len(u.list) && u.list[n].since.Before(deadline) {
		n++
	}
	return slices.Clone(u.list[:n])
}
