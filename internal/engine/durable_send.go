package engine

import (
	"time"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
)

func (d *durable[T]) nextPacket(now time.Time) (Outgoing, bool) {
	for d.releases.n > 0 {
		if f := d.window.find(d.releases.pop()); f != nil {
			d.records.at(f.mark).release = releaseSent
			return Outgoing{Type: packet.PUBREL, PacketID: f.id}, true
		}
	}
	f := d.ready(now)
	direct := f == nil && d.staged.n == 0 && d.ordered.n > 0 && d.windowOpen()
	switch {
	case d.unordered.n > 0 && (f == nil || earlier(d.unordered.at(0).number, f.number)) &&
		(!direct || earlier(d.unordered.at(0).number, d.ordered.at(0).number)):
		e := d.take(&d.unordered)
		d.counters.Sent++
		return Outgoing{Type: packet.PUBLISH, Message: e.message, Retain: e.retain, IDs: e.ids}, true
	case f != nil:
		d.staged.pop()
		return d.sendStaged(f), true
	case direct:
		e := d.dequeue()
		id := d.launch(e)
		d.records.at(e.mark).sent = true
		d.counters.Sent++
		return Outgoing{Type: packet.PUBLISH, PacketID: id, Message: e.message, QoS: e.qos, Retain: e.retain, IDs: e.ids}, true
	}
	return Outgoing{}, false
}

// ready returns the first that is staged, if it may be sent now.
func (d *durable[T]) ready(now time.Time) *flight[T] {
	for {
		d.stage(now)
		if d.staged.n == 0 {
			return nil
		}
		f := d.window.find(*d.staged.at(0))
		r := d.records.at(f.mark)
		switch {
		case r.over: // it was left out
			d.staged.pop()
			d.records.drop(f.mark)
			d.window.remove(f)
			continue
		case r.blocked:
			return nil
		case r.again || !f.message.Expired(now):
			return f
		}
		d.staged.pop()
		d.counters.Expired++
		d.lose(&f.entry, TooOld)
		d.remove(f, Expired)
	}
}

func (d *durable[T]) sendStaged(f *flight[T]) Outgoing {
	r := d.records.at(f.mark)
	r.sent = true
	if r.again {
		d.resends--
	}
	if f.released {
		r.release = releaseSent
		return Outgoing{Type: packet.PUBREL, PacketID: f.id}
	}
	d.counters.Sent++
	return Outgoing{
		Type: packet.PUBLISH, PacketID: f.id, Dup: r.again,
		Message: f.message, QoS: f.qos, Retain: f.retain, IDs: f.ids,
	}
}

// remove ends the delivery f and returns its place in the window.
func (d *durable[T]) remove(f *flight[T], o Outcome) {
	mark := f.mark
	d.finished(mark, o)
	d.window.remove(f)
	d.records.drop(mark)
}

func (d *durable[T]) acked(a packet.Ack) (reply packet.Ack, send bool, err error) {
	f := d.window.find(a.PacketID)
	if f == nil || !d.records.at(f.mark).sent {
		return d.stray(a)
	}
	r := d.records.at(f.mark)
	exactlyOnce := f.qos == message.ExactlyOnce
	switch {
	case a.Type == packet.PUBACK && !exactlyOnce, a.Type == packet.PUBREC && exactlyOnce && a.Code.Failure() && !f.released:
		d.completed(f, a.Code.Failure())
	case a.Type == packet.PUBREC && exactlyOnce:
		return d.received(f)
	case a.Type == packet.PUBCOMP && r.release == releaseSent:
		d.completed(f, false)
	default:
		return packet.Ack{}, false, wrongKind(a.Type, exactlyOnce)
	}
	return packet.Ack{}, false, nil
}

func (d *durable[T]) completed(f *flight[T], refused bool) {
	outcome := Acked
	if refused {
		d.counters.Refused++
		outcome = Declined
	} else {
		d.counters.Acknowledged++
	}
	d.remove(f, outcome)
}

// received takes a PUBREC: its PUBREL comes out of Next once it is written; a second one is answered only when
// that has been sent.
func (d *durable[T]) received(f *flight[T]) (reply packet.Ack, send bool, err error) {
	r := d.records.at(f.mark)
	d.settleRecord(r, Acked)
	if r.release == unreleased {
		r.release = releasing
		d.window.release(f)
		d.write(change{kind: journal.Released, mark: f.mark, packetID: f.id})
	}
	return packet.Ack{Type: packet.PUBREL, PacketID: f.id, Code: packet.Success}, r.release == releaseSent, nil
}

// stray answers an acknowledgement for a packet identifier that is not in flight. As long as not everything has been
// sent again that was sent before, it may be for that, which then comes again: a PUBREL with Packet Identifier
// not found would make the client take it twice.
func (d *durable[T]) stray(a packet.Ack) (reply packet.Ack, send bool, err error) {
	reply, send, err = d.unmatched(a)
	if d.resuming || d.resends > 0 || d.window.find(a.PacketID) != nil {
		return packet.Ack{}, false, err
	}
	return reply, send, err
}
