package conformance

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"
)

func TestQoS(t *testing.T) {
	t.Parallel()
	everywhere(t, "MQTT-3.8.4-8 MQTT-4.3.1-1 MQTT-4.3.2-1 MQTT-4.3.3-1 delivery at the lower QoS of message and subscription", both, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		for granted := range byte(3) {
			c.MustSubscribe(s.topic("a"), granted)
			for qos := range byte(3) {
				payload := fmt.Sprintf("%d on %d", qos, granted)
				if ack := p.Publish(s.topic("a"), payload, qos); ack.ReasonCode != 0 {
					s.Errorf("%s: acknowledged with %#x", payload, ack.ReasonCode)
				}
				pk := c.ReceivePayload(payload)
				h := pk.FixedHeader
				if h.Qos != min(qos, granted) || h.Dup || h.Retain || pk.TopicName != s.topic("a") {
					s.Errorf("%s: got %+v on %q", payload, h, pk.TopicName)
				}
			}
		}
	})
	everywhere(t, "MQTT-4.3.2-4 MQTT-4.3.3-8 nobody subscribes: acknowledged all the same", both, func(s *stage) {
		p := s.publisher()
		for qos := range byte(3) {
			if got := p.Publish(s.topic("a"), "x", qos).ReasonCode; qos > 0 {
				s.code(got, 0x10)
			}
		}
		s.serves(p)
	})
	everywhere(t, "MQTT-2.2.1-5 acknowledgements carry the identifier of their message", both, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		c.MustSubscribe(s.topic("a"), 2)
		for _, id := range []uint16{65535, 1, 256, 40000} {
			p.Send(publishPacket(s.topic("a"), "x", 1, id))
			p.ExpectAck(packets.Puback, id)
			p.Send(publishPacket(s.topic("a"), "x", 2, id))
			p.ExpectAck(packets.Pubrec, id)
			p.Ack(packets.Pubrel, id)
			p.ExpectAck(packets.Pubcomp, id)
			c.ReceivePayload("x")
			c.ReceivePayload("x")
		}
	})
	everywhere(t, "MQTT-2.2.1-4 MQTT-4.3.2-1 messages in flight have identifiers that differ and are not 0", both, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		c.MustSubscribe(s.topic("a"), 2)
		for i := range 20 {
			p.Publish(s.topic("a"), "x", byte(1+i%2))
		}
		seen := map[uint16]bool{0: true}
		for range 20 {
			id := c.Expect(packets.Publish).PacketID
			if seen[id] {
				s.Errorf("identifier %d, before %v", id, seen)
			}
			seen[id] = true
		}
	})
	everywhere(t, "MQTT-4.3.2-3 MQTT-4.4.0-1 nothing is sent again while the connection lives", both, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		c.MustSubscribe(s.topic("a"), 2)
		for qos := range byte(2) {
			p.Publish(s.topic("a"), "x", qos+1)
			c.Expect(packets.Publish)
		}
		c.ExpectNothing()
	})
	everywhere(t, "3.3.3 payloads of any size and content pass unaltered", both, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		c.MustSubscribe(s.topic("a"), 1)
		for _, size := range []int{0, 1, 127, 128, 4096, 16384, 100_000, 1 << 20} {
			payload := bytes.Repeat([]byte{0, 0xff, 'x', 0x80}, size/4+1)[:size]
			s.confirmed(p, s.topic("a"), string(payload), 0)
			if got := c.Receive().Payload; !bytes.Equal(got, payload) {
				s.Errorf("%d bytes became %d, or others", size, len(got))
			}
		}
	})
	everywhere(t, "4.1 identifiers of the two directions are apart", both, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		c.MustSubscribe(s.topic("a"), 2)
		s.confirmed(p, s.topic("a"), "held", 0)
		held := c.Expect(packets.Publish)
		// The client uses the same identifier for messages and for a subscription of its own.
		c.Send(publishPacket(s.topic("b"), "x", 1, held.PacketID))
		c.ExpectAck(packets.Puback, held.PacketID)
		c.Send(publishPacket(s.topic("b"), "x", 2, held.PacketID))
		c.ExpectAck(packets.Pubrec, held.PacketID)
		c.SendRaw(frame(packets.Subscribe<<4|2, u16(held.PacketID), s.props5(), text(s.topic("c")), u8(0)))
		if got := c.ExpectAck(packets.Suback, held.PacketID).ReasonCodes; len(got) != 1 || got[0] != 0 {
			s.Errorf("SUBACK %v", got)
		}
		c.Ack(packets.Pubrel, held.PacketID)
		c.ExpectAck(packets.Pubcomp, held.PacketID)
		// The delivery is still there to be acknowledged, and the next has another identifier.
		s.confirmed(p, s.topic("a"), "next", 0)
		if next := c.Expect(packets.Publish); next.PacketID == held.PacketID || string(next.Payload) != "next" {
			s.Errorf("got %q with identifier %d", next.Payload, next.PacketID)
		}
		c.Ack(packets.Puback, held.PacketID)
		s.serves(c)
	})
}

func TestDuplicates(t *testing.T) {
	t.Parallel()
	everywhere(t, "MQTT-3.3.1-3 DUP is not passed on", both, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		c.MustSubscribe(s.topic("a"), 2)
		for qos := byte(1); qos <= 2; qos++ {
			pk := publishPacket(s.topic("a"), "x", qos, 5)
			pk.FixedHeader.Dup = true
			p.Send(pk)
			if c.ReceivePayload("x").FixedHeader.Dup {
				s.Errorf("DUP is set at QoS %d", qos)
			}
			p.ExpectAck([...]byte{1: packets.Puback, 2: packets.Pubrec}[qos], 5)
		}
	})
	everywhere(t, "MQTT-4.3.3-10 MQTT-4.3.3-12 a QoS 2 message is not forwarded again before PUBREL, and is after", both, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		c.MustSubscribe(s.topic("a"), 2)
		first := publishPacket(s.topic("a"), "first", 2, 9)
		p.Send(first)
		p.ExpectAck(packets.Pubrec, 9)
		c.ReceivePayload("first")
		for range 3 {
			again := first
			again.FixedHeader.Dup = true
			p.Send(again)
			// A second PUBREC says the same: success.
			s.code(p.ExpectAck(packets.Pubrec, 9).ReasonCode, 0)
		}
		p.Ack(packets.Pubrel, 9)
		p.ExpectAck(packets.Pubcomp, 9)
		p.Send(publishPacket(s.topic("a"), "second", 2, 9))
		p.ExpectAck(packets.Pubrec, 9)
		c.ReceivePayload("second")
		p.Ack(packets.Pubrel, 9)
		p.ExpectAck(packets.Pubcomp, 9)
	})
	everywhere(t, "MQTT-4.3.2-5 after PUBACK the identifier stands for a new message", both, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		c.MustSubscribe(s.topic("a"), 1)
		for _, payload := range []string{"first", "second", "third"} {
			p.Send(publishPacket(s.topic("a"), payload, 1, 9))
			p.ExpectAck(packets.Puback, 9)
			c.ReceivePayload(payload)
		}
	})
	everywhere(t, "MQTT-4.3.3-11 MQTT-3.7.2-1 PUBREL is answered, whether its identifier is known or not", both, func(s *stage) {
		p := s.publisher()
		p.Ack(packets.Pubrel, 77)
		s.code(p.ExpectAck(packets.Pubcomp, 77).ReasonCode, 0x92)
		p.Publish(s.topic("a"), "x", 2)
		s.serves(p)
	})
}

func TestReceiverAcknowledges(t *testing.T) {
	t.Parallel()
	everywhere(t, "MQTT-4.3.3-4 MQTT-3.6.2-1 PUBREC is answered with PUBREL, each time, and for an unknown identifier too", both, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		c.MustSubscribe(s.topic("a"), 2)
		p.Publish(s.topic("a"), "x", 2)
		id := c.Expect(packets.Publish).PacketID
		for range 2 {
			c.Ack(packets.Pubrec, id)
			s.code(c.ExpectAck(packets.Pubrel, id).ReasonCode, 0)
		}
		c.Ack(packets.Pubcomp, id)
		c.Ack(packets.Pubrec, id+1)
		s.code(c.ExpectAck(packets.Pubrel, id+1).ReasonCode, 0x92)
		c.Ack(packets.Pubcomp, id+1)
		s.serves(c)
	})
	everywhere(t, "3.7.2.1 a PUBCOMP that finds nothing ends the delivery as well", v5, func(s *stage) {
		p, c := s.publisher(), s.subscriber(receiveMaximum(1))
		c.MustSubscribe(s.topic("a"), 2)
		p.Publish(s.topic("a"), "first", 2)
		p.Publish(s.topic("a"), "second", 2)
		id := c.Expect(packets.Publish).PacketID
		c.Ack(packets.Pubrec, id)
		c.ExpectAck(packets.Pubrel, id)
		c.Send(ack(packets.Pubcomp, id, 0x92))
		c.ReceivePayload("second")
	})
	everywhere(t, "MQTT-4.3.3-4 a PUBREC of 0x80 or more ends the delivery", v5, func(s *stage) {
		p, c := s.publisher(), s.subscriber(receiveMaximum(1))
		c.MustSubscribe(s.topic("a"), 2)
		p.Publish(s.topic("a"), "first", 2)
		p.Publish(s.topic("a"), "second", 2)
		c.Send(ack(packets.Pubrec, c.Expect(packets.Publish).PacketID, 0x97))
		c.ReceivePayload("second")
	})
	everywhere(t, "3.4.2.1 a PUBACK of 0x80 or more ends the delivery", v5, func(s *stage) {
		p, c := s.publisher(), s.subscriber(receiveMaximum(1))
		c.MustSubscribe(s.topic("a"), 1)
		p.Publish(s.topic("a"), "first", 1)
		p.Publish(s.topic("a"), "second", 1)
		c.Send(ack(packets.Puback, c.Expect(packets.Publish).PacketID, 0x80))
		c.ReceivePayload("second")
	})
	everywhere(t, "4.3.2 4.3.3 acknowledgements for what was never sent are ignored", both, func(s *stage) {
		c := s.subscriber()
		c.Ack(packets.Puback, 1234)
		c.Ack(packets.Pubcomp, 1234)
		s.serves(c)
	})
	everywhere(t, "4.3.3 PUBACK for a QoS 2 message is a protocol error", both, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		c.MustSubscribe(s.topic("a"), 2)
		p.Publish(s.topic("a"), "x", 2)
		c.Ack(packets.Puback, c.Expect(packets.Publish).PacketID)
		s.closes(c, 0x82)
		s.serves(p)
	})
	everywhere(t, "MQTT-4.5.0-1 a receiver that goes away takes nothing from the others", both, func(s *stage) {
		p, c, gone := s.publisher(), s.subscriber(), s.client(2, "gone")
		c.MustSubscribe(s.topic("a"), 1)
		gone.MustSubscribe(s.topic("a"), 1)
		s.confirmed(p, s.topic("a"), "first", 0)
		gone.Expect(packets.Publish)
		gone.Close()
		for i := range 20 {
			s.confirmed(p, s.topic("a"), fmt.Sprint(i), 0)
		}
		c.ReceivePayload("first")
		for i := range 20 {
			c.ReceivePayload(fmt.Sprint(i))
		}
	})
}
