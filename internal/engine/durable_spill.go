package engine

import (
	"github.com/beeline-mqtt/beeline/internal/journal"
)

// spill is what a session knows of an inbox that it reads.
//
// The newest spilled deliveries stay in memory as well, the tail, as many as half a queue takes: when what is
// older has been read they go into the queue at once. Without it a session that gets a message during each read
// would never be done with reading.
type spill[T comparable] struct {
	spilled bool
	paging  bool             // a page is outstanding
	asked   journal.Position // the newest entry that was stored when it was asked for
	located bool             // cursor is known
	cursor  journal.Position // of the last entry that was read or is in memory before the tail
	// resuming is set until it is known that all entries have been read that were sent before.
	resuming  bool
	tail      ring[entry[T]]
	tailBytes int
}

// overflow takes a delivery for which there is no room.
func (d *durable[T]) overflow(e entry[T]) {
	if !d.spilled {
		d.spilled, d.located = true, false
		d.storeAll()
	}
	d.overflowed++
	d.records.at(e.mark).spilled = true
	d.append(e.mark)
	full := d.tail.n+1 > d.limits.QueueMessages/2 || d.tailBytes+int(e.size) > d.limits.QueueBytes/2
	if d.tail.n > 0 && full {
		d.dropTail()
	}
	d.tail.push(e)
	d.tailBytes += int(e.size)
}

func (d *durable[T]) dropTail() {
	for d.tail.n > 0 {
		d.records.drop(d.tail.pop().mark)
	}
	d.tailBytes = 0
}

func (d *durable[T]) wanted() (after journal.Position, want bool) {
	d.unspill()
	if !d.spilled || d.paging || !d.located || d.cursor >= d.stored || !d.halfEmpty() {
		return 0, false
	}
	d.paging, d.asked = true, d.stored
	return d.cursor, true
}

// halfEmpty reports whether less than half of the bounds is queued at QoS 1 and 2.
func (d *durable[T]) halfEmpty() bool {
	return d.ordered.n == 0 || 2*d.ordered.n < d.limits.QueueMessages && 2*d.held < d.limits.QueueBytes
}

func (d *durable[T]) page(entries []journal.Entry) {
	if !d.paging || d.away {
		return
	}
	d.paging = false
	last := d.beforeTail()
	for i := range entries {
		if p := entries[i].Position; p > d.cursor && p <= last {
			d.cursor = p
			d.read(&entries[i])
		}
	}
	switch n := len(entries); {
	case n == 0:
		d.cursor = max(d.cursor, min(d.asked, last))
	case entries[n-1].Position > last:
		d.cursor = last
	}
	d.unspill()
}

// beforeTail returns the position behind which everything is in the tail.
func (d *durable[T]) beforeTail() journal.Position {
	if d.tail.n > 0 {
		if p := d.records.at(d.tail.at(0).mark).position; p != 0 {
			return p - 1
		}
	}
	return d.nextPosition - 1
}

// read puts an entry of the inbox into the queue.
func (d *durable[T]) read(x *journal.Entry) {
	e := entry[T]{qos: x.QoS, retain: x.Retain, ids: x.IDs, until: UntilSafe}
	r := record[T]{
		position: x.Position, qos: x.QoS, until: UntilSafe, packetID: x.PacketID,
		appended: true, again: x.PacketID != 0,
	}
	if x.Released {
		r.release = releaseDue
	} else {
		e.message, e.size = x.Message, uint32(x.Message.Size())
	}
	e.mark = d.records.add(r)
	twice := e.message != nil && d.seen.read(e.message.ID)
	switch {
	case r.again:
		d.resends++
	case twice:
		d.repeated(e.mark)
		return
	default:
		d.resuming = false
	}
	for d.unordered.n > 0 && !d.hasRoom(int(e.size)) {
		first := d.take(&d.unordered)
		d.counters.Shed++
		d.lose(&first, MadeWay)
	}
	d.enqueue(e)
}

// repeated drops a delivery that was stored and turns out to be in memory already. Its ticket settles when its own
// entry is confirmed: the other may have gone by then.
func (d *durable[T]) repeated(mark uint32) {
	d.repetitions++
	d.records.at(mark).over = true
	d.write(change{kind: journal.Done, mark: mark})
	d.records.drop(mark)
}

// unspill makes the session live again when everything before the tail has been read and there is room for that.
func (d *durable[T]) unspill() {
	if !d.spilled || d.paging || !d.located || !d.halfEmpty() {
		return
	}
	if d.cursor < d.beforeTail() || d.tail.n > 0 && d.records.at(d.tail.at(0).mark).position == 0 {
		return
	}
	for d.tail.n > 0 {
		e := d.tail.pop()
		r := d.records.at(e.mark)
		r.spilled = false
		switch {
		case r.over: // it was left out
			d.records.drop(e.mark)
		case r.until == UntilSafe && d.seen.read(e.message.ID):
			d.repeated(e.mark)
		default:
			d.enqueue(e)
		}
	}
	d.tailBytes = 0
	d.spilled, d.resuming, d.located = false, false, false
	if d.seen.forget {
		d.seen = seen{off: true}
	}
}
