package engine

import (
	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
)

// taken is what is written down of the client's own QoS 2 messages: the id under which each is sent on, from before
// that until the client has released it. It works beside inbound, which knows them from their PUBLISH on this
// connection.
type taken struct {
	ids         map[uint16]taking
	forwardable ring[uint16] // may be sent on
	completions ring[uint16] // their PUBCOMP is due
}

// taking is one message.
type taking struct {
	message message.ID
	// completing says that its end is being written: PUBREL has come, or, with refused, it is to be refused.
	completing, refused bool
}

func (k *taken) know(ids map[uint16]message.ID) {
	if len(ids) == 0 {
		return
	}
	k.ids = make(map[uint16]taking, len(ids))
	for id, m := range ids {
		k.ids[id] = taking{message: m}
	}
}

// published is inbound.published, for a session in which messages may be known from a connection before.
func (k *taken) published(id uint16, qos byte, in *inbound) Verdict {
	x, known := k.ids[id]
	if in.has(id) || !known {
		return in.published(id, qos)
	}
	if qos != message.ExactlyOnce {
		return IdentifierInUse
	}
	if x.completing {
		in.duplicates++
		return Duplicate
	}
	verdict := in.published(id, qos)
	if verdict == Forward {
		verdict = Again
	}
	return verdict
}

func (d *durable[T]) took(id uint16, m message.ID, in *inbound) {
	p, ok := in.ids[id]
	if _, known := d.ids[id]; known || !ok || p.qos != message.ExactlyOnce || p.stage != forwarded {
		return
	}
	if d.ids == nil {
		d.ids = make(map[uint16]taking)
	}
	d.ids[id] = taking{message: m}
	d.write(change{kind: journal.Taken, packetID: id})
}

// tookDurably takes note that a Taken is durable.
func (d *durable[T]) tookDurably(id uint16, in *inbound) {
	if d.away || d.ids[id].completing {
		return
	}
	if p, ok := in.ids[id]; ok && p.stage == forwarded {
		d.forwardable.push(id)
	}
}

func (d *durable[T]) drainReady(dst []uint16) []uint16 {
	for d.forwardable.n > 0 {
		dst = append(dst, d.forwardable.pop())
	}
	return dst
}

// forwarded is inbound.forwarded. A message that is refused leaves no trace, so that the client can use its identifier
// for another, which must not be taken for it: its end is written before the client learns of it.
func (d *durable[T]) forwarded(id uint16, qos byte, code packet.Code, in *inbound) {
	x, known := d.ids[id]
	p, here := in.ids[id]
	if !known || !here || qos != message.ExactlyOnce || p.stage != forwarded || !code.Failure() {
		if !x.refused {
			in.forwarded(id, qos, code)
		}
		return
	}
	s := in.at(p.slot)
	if x.completing || s.due {
		return
	}
	s.code = code
	d.complete(id, true)
}

func (d *durable[T]) complete(id uint16, refused bool) {
	x := d.ids[id]
	x.completing, x.refused = true, refused
	d.ids[id] = x
	d.write(change{kind: journal.Completed, packetID: id})
}

// completedDurably takes note that a Completed is durable.
func (d *durable[T]) completedDurably(id uint16, in *inbound) {
	refused := d.ids[id].refused
	delete(d.ids, id)
	if d.away {
		return
	}
	if !refused {
		d.completions.push(id)
	}
	if in == nil {
		return
	}
	switch p, here := in.ids[id]; {
	case !here:
	case refused:
		in.at(p.slot).due = true
	default:
		delete(in.ids, id)
	}
}

// release takes a PUBREL.
func (d *durable[T]) release(id uint16, in *inbound) (reply packet.Ack, send bool) {
	x, known := d.ids[id]
	if x.completing && !x.refused {
		return packet.Ack{}, false // its PUBCOMP comes
	}
	code := packet.Success
	if here := in != nil && in.has(id); here || !known {
		code = packet.PacketIdentifierNotFound
		if here {
			code = in.release(id, known)
		}
	}
	if known && code == packet.Success {
		d.complete(id, false)
		return packet.Ack{}, false
	}
	return packet.Ack{Type: packet.PUBCOMP, PacketID: id, Code: code}, true
}
