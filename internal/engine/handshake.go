package engine

import (
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
)

func (o *outbound[T]) acked(a packet.Ack) (reply packet.Ack, send bool, err error) {
	f := o.window.find(a.PacketID)
	if f == nil {
		return o.unmatched(a)
	}
	exactlyOnce := f.qos == message.ExactlyOnce
	switch {
	case a.Type == packet.PUBACK && !exactlyOnce:
		o.complete(f, a.Code.Failure())
	case a.Type == packet.PUBREC && exactlyOnce && a.Code.Failure():
		o.complete(f, true)
	case a.Type == packet.PUBREC && exactlyOnce:
		// A second PUBREC finds nothing to settle or release, and is answered like the first.
		o.settle(&f.entry, Acked)
		o.window.release(f)
		return packet.Ack{Type: packet.PUBREL, PacketID: f.id, Code: packet.Success}, true, nil
	case a.Type == packet.PUBCOMP && f.released:
		// Its only failure is Packet Identifier not found: the client is done with the message already.
		o.complete(f, false)
	default:
		return packet.Ack{}, false, wrongKind(a.Type, exactlyOnce)
	}
	return packet.Ack{}, false, nil
}

// complete ends the delivery f and returns its place in the window.
func (o *outbound[T]) complete(f *flight[T], refused bool) {
	outcome := Acked
	if refused {
		o.counters.Refused++
		outcome = Declined
	} else {
		o.counters.Acknowledged++
	}
	o.settle(&f.entry, outcome)
	o.window.remove(f)
}

// unmatched answers an acknowledgement for a packet identifier that is not in flight.
func (o *outbound[T]) unmatched(a packet.Ack) (reply packet.Ack, send bool, err error) {
	switch a.Type {
	case packet.PUBACK, packet.PUBREC, packet.PUBCOMP:
	default:
		return packet.Ack{}, false, wrongKind(a.Type, false)
	}
	o.counters.Unmatched++
	if a.Type != packet.PUBREC || a.Code.Failure() {
		return packet.Ack{}, false, nil
	}
	return packet.Ack{Type: packet.PUBREL, PacketID: a.PacketID, Code: packet.PacketIdentifierNotFound}, true, nil
}

// wrongKind is the error for a packet of type t that does not answer what is in flight under its identifier.
func wrongKind(t packet.Type, exactlyOnce bool) error {
	detail := "not an acknowledgement of a delivery"
	switch {
	case t == packet.PUBACK:
		detail = "PUBACK for a delivery at QoS 2"
	case t == packet.PUBREC:
		detail = "PUBREC for a delivery at QoS 1"
	case t == packet.PUBCOMP && exactlyOnce:
		detail = "PUBCOMP before PUBREC"
	case t == packet.PUBCOMP:
		detail = "PUBCOMP for a delivery at QoS 1"
	}
	return &packet.Error{Code: packet.ProtocolError, Detail: detail}
}
