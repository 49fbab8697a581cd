package engine

import (
	"time"

	"github.com/beeline-mqtt/beeline/internal/message"
)

// stage gives what is at the front of the queue its place in the window, if it cannot be sent right from the queue:
// because it has QoS 2 and its packet identifier has to be written before, because it was sent on another
// connection under one that it keeps, or because it is behind such.
func (d *durable[T]) stage(now time.Time) {
	for {
		d.tidy(now)
		if d.ordered.n == 0 || !d.windowOpen() {
			return
		}
		e := *d.ordered.at(0)
		r := d.records.at(e.mark)
		switch {
		case r.again:
			d.stageAgain(d.dequeue())
		case e.qos == message.ExactlyOnce:
			d.dequeue()
			r.packetID = d.window.add(e)
			d.block(e.mark)
			d.staged.push(r.packetID)
		case d.staged.n > 0:
			d.staged.push(d.launch(d.dequeue()))
		default:
			return
		}
	}
}

// stageAgain gives what was sent on another connection its place under its own packet identifier.
func (d *durable[T]) stageAgain(e entry[T]) {
	r := d.records.at(e.mark)
	if d.window.find(r.packetID) != nil {
		// No session writes one identifier twice. Should it happen, a new one loses nothing.
		r.packetID = d.window.add(e)
		d.block(e.mark)
	} else {
		d.window.put(e, r.packetID)
	}
	d.window.find(r.packetID).released = r.release != unreleased
	d.staged.push(r.packetID)
}

// launch gives e its place in the window and a packet identifier, which it returns.
func (d *durable[T]) launch(e entry[T]) uint16 {
	r := d.records.at(e.mark)
	r.packetID = d.window.add(e)
	if r.appended {
		d.records.link(unnamed, e.mark)
	}
	return r.packetID
}

// block has the packet identifier of a delivery written, and keeps it from being sent before.
func (d *durable[T]) block(mark uint32) {
	r := d.records.at(mark)
	r.blocked = true
	if r.appended {
		d.nameAll()
		d.name(mark)
		return
	}
	for first := d.records.lists[unstored].first; first != 0 && first != mark; first = d.records.lists[unstored].first {
		if !earlier(d.records.at(first).number, r.number) {
			break
		}
		d.store(first)
	}
	d.records.unlink(mark)
	d.append(mark)
}
