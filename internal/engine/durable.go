package engine

import (
	"time"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
)

// durable is the outbound half of a durable session, and what is written down of its inbound half.
//
// Its deliveries at QoS 1 and 2 are sent strictly in the order of arrival, which is that of their positions. So the
// entries of the inbox that have a packet identifier are always its first ones, as far as it has been written: before
// an identifier is written, those of all older entries are. The next holder can send them again before it needs an
// identifier of its own.
type durable[T comparable] struct {
	outbound[T]
	records records[T]
	held    int // bytes in ordered
	away    bool
	// as in Counters
	overflowed, confirmations, repetitions uint64

	// staged are the packet identifiers of what has been given a place in the window and has not been sent,
	// because something at its front must be written first or was sent before; releases those whose PUBREL is due.
	staged, releases ring[uint16]
	// resends is how many entries are queued that were sent on a connection before this one.
	resends int

	writes
	spill[T]
	taken
	seen seen
}

func newDurable[T comparable](l Limits, st journal.State) *durable[T] {
	d := &durable[T]{outbound: outbound[T]{limits: l}}
	d.nextPosition = max(st.Next, 1)
	d.stored = d.nextPosition - 1
	if st.First < st.Next {
		d.spilled, d.resuming = true, true
		d.cursor, d.located = max(st.First, 1)-1, true
	}
	d.know(st.Taken)
	return d
}

func (d *durable[T]) offer(x Delivery[T], now time.Time) Outcome {
	if d.away {
		return d.refuse(x)
	}
	size := x.Message.Size()
	if x.QoS == message.AtMostOnce {
		if !d.fits(size) {
			d.tidy(now)
		}
		return d.offerUnordered(newEntry(x, size), now)
	}
	if x.Until == UntilSafe && d.seen.has(x.Message.ID) {
		d.repetitions++
		if x.QoS == message.ExactlyOnce && d.records.awaited(x.Message.ID) {
			// Its publisher has sent it again. What became of the first copy is not known yet, and somebody else waits
			// for that, if anybody still does: nothing can be promised for this one.
			return Moved
		}
		return Queued
	}
	d.unspill()
	full := d.spilled
	if !full && !d.fits(size) {
		d.tidy(now)
		d.shed(size)
		full = !d.fits(size)
	}
	if full && x.Until == UntilAcked {
		return Ended
	}
	return d.keep(x, size, full, now)
}

// refuse answers for a session without a connection.
func (d *durable[T]) refuse(x Delivery[T]) Outcome {
	switch {
	case x.QoS == message.AtMostOnce:
		d.counters.Dropped++
		return Dropped
	case x.Until == UntilAcked:
		return Ended
	}
	return Moved
}

// keep keeps a delivery at QoS 1 or 2: in the queue, or, when that is full, in the inbox.
func (d *durable[T]) keep(x Delivery[T], size int, full bool, now time.Time) Outcome {
	outcome := Waiting
	if x.Ticket == *new(T) || x.Until == UntilQueued && !full {
		x.Ticket = *new(T)
		outcome = Queued
	}
	e := newEntry(x, size)
	e.ticket = *new(T) // the record has it
	e.mark = d.records.add(record[T]{
		message: x.Message, id: x.Message.ID, ids: x.IDs, ticket: x.Ticket, offered: now,
		qos: x.QoS, retain: x.Retain, until: x.Until,
	})
	if x.Until == UntilSafe {
		d.seen.note(x.Message.ID, full)
	}
	if full {
		d.overflow(e)
		return outcome
	}
	d.enqueue(e)
	switch {
	case x.Until != UntilAcked:
		d.records.link(unstored, e.mark)
	case x.QoS == message.ExactlyOnce:
		d.records.link(lent, e.mark)
	}
	return outcome
}

// enqueue puts e, whose reference to its record it takes over, at the end of the queue.
func (d *durable[T]) enqueue(e entry[T]) {
	d.numbered++
	e.number = d.numbered
	d.records.at(e.mark).number = e.number
	d.ordered.push(e)
	d.bytes += int(e.size)
	d.held += int(e.size)
}

// dequeue takes the first entry at QoS 1 or 2 from the queue, with its reference.
func (d *durable[T]) dequeue() entry[T] {
	e := d.take(&d.ordered)
	d.held -= int(e.size)
	return e
}

// tidy drops what is at the front of the queue and has expired, or is not needed any more.
func (d *durable[T]) tidy(now time.Time) {
	for d.unordered.n > 0 && d.unordered.at(0).message.Expired(now) {
		e := d.take(&d.unordered)
		d.counters.Expired++
		d.lose(&e, TooOld)
	}
	for d.ordered.n > 0 {
		e := d.ordered.at(0)
		r := d.records.at(e.mark)
		// What may have been sent before is sent again, expired or not: its packet identifier is in use.
		expired := !r.again && e.message.Expired(now)
		if !r.over && !expired {
			return
		}
		if !r.over {
			d.counters.Expired++
			d.lose(e, TooOld)
			d.finished(e.mark, Expired)
		}
		d.records.drop(d.dequeue().mark)
	}
}

// finished says that nobody needs the delivery any more, and has that written if it is stored.
func (d *durable[T]) finished(mark uint32, o Outcome) {
	r := d.records.at(mark)
	d.settleRecord(r, o)
	d.records.unlink(mark)
	r.over = true
	if r.appended {
		d.write(change{kind: journal.Done, mark: mark})
	}
}

func (d *durable[T]) settleRecord(r *record[T], o Outcome) {
	if r.ticket != *new(T) {
		d.settled = append(d.settled, Settlement[T]{r.ticket, o})
		r.ticket = *new(T)
	}
}
