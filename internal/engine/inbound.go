package engine

import (
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
)

// inbound is what the server owes the client for the messages that the client has published.
//
// Every message that is forwarded takes the next slot in one queue for both QoS, and its acknowledgement leaves
// when all slots before it have left. An identifier has at most one slot that counts, so resending cannot make
// the queue grow.
type inbound struct {
	receiveMaximum       int
	ids                  map[uint16]publication // all that count against Receive Maximum
	slots                ring[slot]
	first                uint32 // number of the first slot; wraps
	received, duplicates uint64
}

// publication is an unfinished message of the client.
type publication struct {
	slot  uint32 // number of its slot, unless stage is answered
	qos   byte
	stage stage
}

type stage byte

const (
	forwarded stage = iota // its acknowledgement has not left
	answered               // QoS 2: PUBREC has left, PUBREL has not come
	repeated               // QoS 2: as answered, and a second PUBREC is due because the client sent the message again
	released               // QoS 2 in a durable session: PUBREL has come, which is being written
)

// slot is a place in the order of acknowledgements.
type slot struct {
	id   uint16
	code packet.Code
	due  bool // the code is known
	void bool // nothing is to be sent any more
}

func newInbound(receiveMaximum int) *inbound {
	return &inbound{receiveMaximum: receiveMaximum, ids: make(map[uint16]publication)}
}

// published absorbs a message that is sent again at QoS 1 too. Clients send again only after a reconnect, or, before
// MQTT 5, after a time-out; in both cases the acknowledgement of the first answers the second.
func (in *inbound) published(id uint16, qos byte) Verdict {
	p, known := in.ids[id]
	switch {
	case !known && len(in.ids) >= in.receiveMaximum:
		return OverReceiveMaximum
	case !known:
		in.received++
		in.ids[id] = publication{slot: in.enqueue(slot{id: id}), qos: qos}
		return Forward
	case p.qos != qos:
		return IdentifierInUse
	case p.stage == answered:
		p.stage = repeated
		p.slot = in.enqueue(slot{id: id, code: packet.Success, due: true})
		in.ids[id] = p
	}
	in.duplicates++
	return Duplicate
}

func (in *inbound) forwarded(id uint16, qos byte, code packet.Code) {
	p, known := in.ids[id]
	if !known || p.qos != qos || p.stage != forwarded {
		return
	}
	if s := in.at(p.slot); !s.due {
		s.code, s.due = code, true
	}
}

func (in *inbound) has(id uint16) bool {
	_, ok := in.ids[id]
	return ok
}

// release takes a PUBREL. With keep, the identifier stays in use.
func (in *inbound) release(id uint16, keep bool) packet.Code {
	p, known := in.ids[id]
	if !known || p.qos != message.ExactlyOnce || p.stage == forwarded {
		return packet.PacketIdentifierNotFound
	}
	if p.stage == repeated {
		// The client may use the identifier for another message now, and must not take this PUBREC for its.
		in.at(p.slot).void = true
	}
	if keep {
		p.stage = released
		in.ids[id] = p
		return packet.Success
	}
	delete(in.ids, id)
	return packet.Success
}

func (in *inbound) nextAck() (packet.Ack, bool) {
	for in.slots.n > 0 {
		s := *in.slots.at(0)
		if !s.due && !s.void {
			break
		}
		in.slots.pop()
		in.first++
		if !s.void {
			return packet.Ack{Type: in.acknowledge(s), PacketID: s.id, Code: s.code}, true
		}
	}
	return packet.Ack{}, false
}

// acknowledge moves the message of s on, because its acknowledgement leaves, and returns the type of that.
func (in *inbound) acknowledge(s slot) packet.Type {
	p := in.ids[s.id]
	if p.qos != message.ExactlyOnce {
		delete(in.ids, s.id)
		return packet.PUBACK
	}
	if s.code.Failure() {
		delete(in.ids, s.id)
		return packet.PUBREC
	}
	p.stage = answered
	in.ids[s.id] = p
	return packet.PUBREC
}

// enqueue adds s at the end of the order and returns its number.
func (in *inbound) enqueue(s slot) uint32 {
	in.slots.push(s)
	return in.first + uint32(in.slots.n-1)
}

// at returns the slot with the given number.
func (in *inbound) at(number uint32) *slot {
	return in.slots.at(int(number - in.first))
}

func (in *inbound) end() {
	in.ids = nil
	in.slots = ring[slot]{}
}
