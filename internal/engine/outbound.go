package engine

import (
	"time"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
)

// entry is a delivery in the queue or in flight.
type entry[T comparable] struct {
	message *message.Message
	ids     []uint32
	ticket  T      // zero when nobody waits, or no longer
	number  uint32 // counts what is queued at QoS 1 and 2; wraps. At QoS 0, that of the one before
	size    uint32 // message.Size(), so that a message is measured once
	mark    uint32 // its record in a durable session
	qos     byte
	retain  bool
	until   Until
}

// outbound is what the server owes the client.
//
// The queue is two rings, because QoS 0 messages may overtake the others and may be shed from between them. The
// last waits.n entries of ordered are beyond the bound. As long as there are any, unordered is empty: its messages
// have made way, and new ones are dropped.
type outbound[T comparable] struct {
	limits    Limits
	unordered ring[entry[T]] // QoS 0
	ordered   ring[entry[T]] // QoS 1 and 2
	bytes     int            // of what is queued within the bound
	numbered  uint32

	waits  ring[time.Time] // when the entries beyond the bound were offered
	beyond int             // their bytes
	// starved is when the first QoS 0 message was dropped since any message last left the queue.
	starved time.Time

	window   window[T]
	settled  []Settlement[T]
	lost     []Loss
	counters tally
}

// tally is the part of Counters that every session has. Fields are as there.
type tally struct {
	Sent, Acknowledged, Refused, Dropped, Shed, Expired, Ended, Unmatched uint64
}

func (o *outbound[T]) offer(d Delivery[T], now time.Time) Outcome {
	size := d.Message.Size()
	if !o.fits(size) {
		o.dropExpired(now)
	}
	// As newEntry, which the compiler does not put here.
	e := entry[T]{
		message: d.Message, ids: d.IDs, ticket: d.Ticket, size: uint32(size),
		qos: d.QoS, retain: d.Retain, until: d.Until,
	}
	if e.qos == message.AtMostOnce {
		return o.offerUnordered(e, now)
	}
	return o.offerOrdered(e, now)
}

func newEntry[T comparable](d Delivery[T], size int) entry[T] {
	return entry[T]{
		message: d.Message, ids: d.IDs, ticket: d.Ticket, size: uint32(size),
		qos: d.QoS, retain: d.Retain, until: d.Until,
	}
}

func (o *outbound[T]) offerUnordered(e entry[T], now time.Time) Outcome {
	if !o.fits(int(e.size)) {
		o.counters.Dropped++
		o.lose(&e, NoRoom)
		if o.starved.IsZero() {
			o.starved = now
		}
		return Dropped
	}
	e.ticket = *new(T)
	e.number = o.numbered
	o.unordered.push(e)
	o.bytes += int(e.size)
	return Queued
}

func (o *outbound[T]) offerOrdered(e entry[T], now time.Time) Outcome {
	if o.unordered.n > 0 {
		o.shed(int(e.size))
	}
	o.numbered++
	e.number = o.numbered
	if !o.fits(int(e.size)) {
		o.ordered.push(e)
		o.beyond += int(e.size)
		o.waits.push(now)
		return Waiting
	}
	outcome := Waiting
	if e.until != UntilAcked || e.ticket == *new(T) {
		e.ticket = *new(T)
		outcome = Queued
	}
	o.ordered.push(e)
	o.bytes += int(e.size)
	return outcome
}

// shed drops QoS 0 messages, oldest first, until one of the given size fits or there are none.
func (o *outbound[T]) shed(size int) {
	for o.unordered.n > 0 && !o.fits(size) {
		e := o.take(&o.unordered)
		o.counters.Shed++
		o.lose(&e, MadeWay)
	}
}

// lose says that the message of e is not delivered.
func (o *outbound[T]) lose(e *entry[T], why LossReason) {
	o.lost = append(o.lost, Loss{Message: e.message, QoS: e.qos, Why: why})
}

// fits reports whether a message of the given size may be queued now, within the bound and behind nobody who
// waits for room.
func (o *outbound[T]) fits(size int) bool {
	return o.waits.n == 0 && o.hasRoom(size)
}

// hasRoom reports whether the bound leaves room for a message of the given size.
func (o *outbound[T]) hasRoom(size int) bool {
	queued := o.unordered.n + o.ordered.n - o.waits.n
	return queued == 0 || queued < o.limits.QueueMessages && o.bytes+size <= o.limits.QueueBytes
}

// take removes the first entry of r and gives its room to those who wait for it. The first entry is never
// beyond the bound, because an empty queue has room for any message.
func (o *outbound[T]) take(r *ring[entry[T]]) entry[T] {
	e := r.pop()
	o.bytes -= int(e.size)
	o.starved = time.Time{}
	for o.waits.n > 0 {
		first := o.ordered.at(o.ordered.n - o.waits.n)
		if !o.hasRoom(int(first.size)) {
			break
		}
		o.waits.pop()
		o.beyond -= int(first.size)
		o.bytes += int(first.size)
		if first.until != UntilAcked {
			o.settle(first, Queued)
		}
	}
	return e
}

// dropExpired drops the messages at the front that have expired. Those further behind have their turn when they
// get there.
func (o *outbound[T]) dropExpired(now time.Time) {
	for _, r := range [...]*ring[entry[T]]{&o.unordered, &o.ordered} {
		for r.n > 0 && r.at(0).message.Expired(now) {
			e := o.take(r)
			o.settle(&e, Expired)
			o.counters.Expired++
			o.lose(&e, TooOld)
		}
	}
}

func (o *outbound[T]) next(now time.Time) (Outgoing, bool) {
	o.dropExpired(now)
	ordered := o.ordered.n > 0 && o.windowOpen()
	var e entry[T]
	switch {
	case o.unordered.n > 0 && (!ordered || earlier(o.unordered.at(0).number, o.ordered.at(0).number)):
		e = o.take(&o.unordered)
	case ordered:
		e = o.take(&o.ordered)
	default:
		return Outgoing{}, false
	}
	o.counters.Sent++
	out := Outgoing{Type: packet.PUBLISH, Message: e.message, QoS: e.qos, Retain: e.retain, IDs: e.ids}
	if e.qos != message.AtMostOnce {
		out.PacketID = o.window.add(e)
	}
	return out, true
}

// earlier reports whether number a was given before b.
func earlier(a, b uint32) bool { return int32(a-b) < 0 }

// windowOpen reports whether the first entry of ordered may be sent.
func (o *outbound[T]) windowOpen() bool {
	w := &o.window
	return w.n < o.limits.SendMaximum &&
		(w.n == 0 || w.bytes+int(o.ordered.at(0).size) <= o.limits.QueueBytes)
}

// settle settles the ticket of e, if it has one that has not settled.
func (o *outbound[T]) settle(e *entry[T], outcome Outcome) {
	if e.ticket != *new(T) {
		o.settled = append(o.settled, Settlement[T]{e.ticket, outcome})
		e.ticket = *new(T)
	}
}

func (o *outbound[T]) drainSettled(dst []Settlement[T]) []Settlement[T] {
	return drain(dst, &o.settled)
}

func (o *outbound[T]) drainLost(dst []Loss) []Loss { return drain(dst, &o.lost) }

// drain appends what is in from to dst and empties it.
func drain[E any](dst []E, from *[]E) []E {
	dst = append(dst, *from...)
	if cap(*from) > keep {
		*from = nil
		return dst
	}
	clear(*from)
	*from = (*from)[:0]
	return dst
}

func (o *outbound[T]) fullSince() time.Time {
	if o.waits.n == 0 {
		return o.starved
	}
	longest := *o.waits.at(0)
	if !o.starved.IsZero() && o.starved.Before(longest) {
		return o.starved
	}
	return longest
}

// end settles whatever waits, oldest first, and lets go of everything but settlements and counters.
func (o *outbound[T]) end() {
	for _, f := range o.window.oldestFirst() {
		outcome := Ended
		if !f.released {
			o.counters.Ended++
			if f.qos == message.ExactlyOnce {
				outcome = Interrupted
			}
		}
		o.settle(&f.entry, outcome)
	}
	for i := range o.ordered.n {
		o.settle(o.ordered.at(i), Ended)
	}
	o.counters.Ended += uint64(o.unordered.n + o.ordered.n)
	*o = outbound[T]{limits: o.limits, settled: o.settled, lost: o.lost, counters: o.counters}
}
