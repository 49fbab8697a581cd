package engine

import (
	"time"

	"github.com/beeline-mqtt/beeline/internal/journal"
)

// change is a journal.Change before it is given out, and until it is confirmed.
type change struct {
	kind     journal.Kind
	packetID uint16
	mark     uint32 // the record that it is about; 0: it is about a message of the client
}

// writes are the changes of a session that are not durable yet.
type writes struct {
	todo         ring[change] // not given out
	given        ring[change]
	nextPosition journal.Position // of the entry that is appended next
	// stored is the position of the newest entry whose Append is confirmed.
	stored journal.Position
}

// write has c given out, behind all that was before.
func (d *durable[T]) write(c change) {
	if c.mark != 0 {
		d.records.at(c.mark).references++
	}
	d.todo.push(c)
}

func (d *durable[T]) unsafe() (oldest time.Time, ok bool) {
	mark := d.records.lists[unstored].first
	if mark == 0 {
		return time.Time{}, false
	}
	return d.records.at(mark).offered, true
}

func (d *durable[T]) changes(now, before time.Time, dst []journal.Change) []journal.Change {
	for mark := d.records.lists[unstored].first; mark != 0; mark = d.records.lists[unstored].first {
		if d.records.at(mark).offered.After(before) {
			break
		}
		d.store(mark)
	}
	if !d.away {
		d.stage(now) // what must be written before it is sent need not wait until there is room to send it
	}
	return d.giveOut(dst)
}

// store has the oldest unstored delivery appended. A delivery for a shared subscription that is older and has no packet
// identifier is given back, so that it cannot get one later: older entries get theirs first.
func (d *durable[T]) store(mark uint32) {
	d.giveBack(d.records.at(mark).number)
	d.append(mark)
}

// storeAll has everything appended, and gives back what is lent.
func (d *durable[T]) storeAll() {
	for mark := d.records.lists[unstored].first; mark != 0; mark = d.records.lists[unstored].first {
		d.store(mark)
	}
	d.giveBack(d.numbered + 1)
}

// giveBack ends lent deliveries with numbers before number: other members get them.
func (d *durable[T]) giveBack(number uint32) {
	for mark := d.records.lists[lent].first; mark != 0; mark = d.records.lists[lent].first {
		if !earlier(d.records.at(mark).number, number) {
			return
		}
		d.counters.Ended++
		d.finished(mark, Ended)
	}
}

// append has the delivery appended, with its packet identifier if it has one.
func (d *durable[T]) append(mark uint32) {
	d.records.unlink(mark)
	r := d.records.at(mark)
	r.appended = true
	if r.packetID != 0 {
		d.nameAll()
	}
	d.write(change{kind: journal.Append, mark: mark, packetID: r.packetID})
}

// nameAll has the packet identifiers of stored deliveries written.
func (d *durable[T]) nameAll() {
	for mark := d.records.lists[unnamed].first; mark != 0; mark = d.records.lists[unnamed].first {
		d.records.unlink(mark)
		d.name(mark)
	}
}

// name has the packet identifier of a stored delivery written.
func (d *durable[T]) name(mark uint32) {
	r := d.records.at(mark)
	d.write(change{kind: journal.Sent, mark: mark, packetID: r.packetID})
}

// giveOut appends to dst what is to be given out. What became needless meanwhile is left out.
func (d *durable[T]) giveOut(dst []journal.Change) []journal.Change {
	for d.todo.n > 0 {
		c := d.todo.pop()
		x, needed := d.journal(c)
		if !needed {
			// A spilled delivery that turned out to be a repetition, or one that was completed.
			d.settleRecord(d.records.at(c.mark), Queued)
			d.records.drop(c.mark)
			continue
		}
		d.given.push(c)
		dst = append(dst, x)
	}
	return dst
}

// journal returns the change as it is given out.
func (d *durable[T]) journal(c change) (x journal.Change, needed bool) {
	switch c.kind {
	case journal.Taken:
		return journal.Change{Kind: c.kind, PacketID: c.packetID, Message: d.ids[c.packetID].message}, true
	case journal.Completed:
		return journal.Change{Kind: c.kind, PacketID: c.packetID}, true
	}
	r := d.records.at(c.mark)
	if c.kind != journal.Append {
		return journal.Change{Kind: c.kind, Position: r.position, PacketID: c.packetID}, r.position != 0
	}
	if r.over {
		return journal.Change{}, false
	}
	r.position = d.nextPosition
	d.nextPosition++
	if r.spilled && !d.located {
		d.cursor, d.located = r.position-1, true
	}
	x = journal.Change{Kind: c.kind, Entry: journal.Entry{
		Position: r.position, Message: r.message, QoS: r.qos, Retain: r.retain, IDs: r.ids, PacketID: c.packetID,
	}}
	r.message, r.ids = nil, nil
	return x, true
}

func (d *durable[T]) written(n int, in *inbound) {
	for range min(n, d.given.n) {
		c := d.given.pop()
		switch c.kind {
		case journal.Taken:
			d.tookDurably(c.packetID, in)
			continue
		case journal.Completed:
			d.completedDurably(c.packetID, in)
			continue
		}
		d.confirmed(c)
		d.records.drop(c.mark)
	}
}

func (d *durable[T]) leftOut(x journal.LeftOut) {
	for i := range d.given.n {
		c := d.given.at(i)
		if c.kind != journal.Append {
			continue
		}
		r := d.records.at(c.mark)
		if r.position < x.Position {
			continue
		}
		if r.position == x.Position && !r.over {
			d.notAppended(c.mark, x.Duplicate)
		}
		return
	}
}

// notAppended settles a delivery that the inbox has, or has no room for.
func (d *durable[T]) notAppended(mark uint32, duplicate bool) {
	r := d.records.at(mark)
	switch {
	case !duplicate:
		d.seen.remove(r.id) // it may be offered again
		d.settleRecord(r, Refused)
	case r.sent:
		return
	default:
		d.repetitions++
		d.settleRecord(r, Queued)
	}
	if !r.sent {
		d.records.unlink(mark)
		r.over = true
	}
}

// confirmed takes note that a change about a delivery is durable.
func (d *durable[T]) confirmed(c change) {
	r := d.records.at(c.mark)
	switch c.kind {
	case journal.Append:
		d.confirmations++
		d.stored = r.position
		d.settleRecord(r, Stored)
		if c.packetID != 0 {
			r.blocked = false
		}
	case journal.Sent:
		r.blocked = false
	case journal.Released:
		if r.release == releasing && !r.over && !d.away {
			r.release = releaseDue
			d.releases.push(c.packetID)
		}
	}
}
