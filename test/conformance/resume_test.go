package conformance

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// ended ends a connection in one of three ways, in turn, and returns the next one of the client: the server has been
// told, it finds out, or the next connection takes over. All have to be the same to the session.
func (s *stage) ended(i int, c *rawmqtt.Client, role string, opts ...rawmqtt.Option) *rawmqtt.Client {
	s.Helper()
	switch i % 3 {
	case 0:
		c.SendRaw(frame(packets.Disconnect << 4))
		for {
			if _, err := c.Next(rawmqtt.Patience); err != nil {
				break
			}
		}
	case 1:
		c.Close()
	}
	return s.back(i, role, opts...)
}

func TestResend(t *testing.T) {
	t.Parallel()
	everywhere(t, "MQTT-4.4.0-1 MQTT-3.3.1-1 PUBLISH is sent again with DUP and its identifier, until it is acknowledged", both, func(s *stage) {
		p, c := s.publisher(), s.begin(1, "moves")
		c.MustSubscribe(s.topic("a"), 2)
		var ids []uint16
		for i := range 6 {
			p.Publish(s.topic("a"), strconv.Itoa(i), byte(1+i%2))
			pk := c.Expect(packets.Publish)
			if pk.FixedHeader.Dup {
				s.Error("DUP the first time")
			}
			ids = append(ids, pk.PacketID)
		}
		for i := range 6 {
			c = s.ended(i, c, "moves")
			for n := i; n < 6; n++ { // in order (MQTT-4.6.0-1)
				pk := c.Expect(packets.Publish)
				h := pk.FixedHeader
				if string(pk.Payload) != strconv.Itoa(n) || !h.Dup || h.Qos != byte(1+n%2) || pk.PacketID != ids[n] {
					s.Fatalf("round %d: %q %+v with id %d, want %d", i, pk.Payload, h, pk.PacketID, ids[n])
				}
			}
			c.ExpectNothing()
			// One is acknowledged in each round.
			if i%2 == 0 {
				c.Ack(packets.Puback, ids[i])
				c.ExpectNothing()
				continue
			}
			c.Ack(packets.Pubrec, ids[i])
			c.ExpectAck(packets.Pubrel, ids[i])
			c.Ack(packets.Pubcomp, ids[i])
			c.ExpectNothing()
		}
		c = s.ended(2, c, "moves")
		c.ExpectNothing()
	})
	everywhere(t, "MQTT-4.4.0-1 MQTT-4.3.3-5 MQTT-4.3.3-6 after PUBREC it is PUBREL that is sent again, not PUBLISH", both, func(s *stage) {
		p, c := s.publisher(), s.begin(1, "moves")
		c.MustSubscribe(s.topic("a"), 2)
		p.Publish(s.topic("a"), "x", 2)
		id := c.Expect(packets.Publish).PacketID
		c.Ack(packets.Pubrec, id)
		c.ExpectAck(packets.Pubrel, id)
		for i := range 3 {
			c = s.ended(i, c, "moves")
			s.code(c.ExpectAck(packets.Pubrel, id).ReasonCode, 0)
			c.ExpectNothing()
		}
		c.Ack(packets.Pubcomp, id)
		c.ExpectNothing()
		c = s.ended(0, c, "moves")
		c.ExpectNothing()
	})
	everywhere(t, "MQTT-4.4.0-1 a PUBREC that the server may or may not have got", both, func(s *stage) {
		p, c := s.publisher(), s.begin(1, "moves")
		c.MustSubscribe(s.topic("a"), 2)
		for i := range 6 {
			p.Publish(s.topic("a"), "x", 2)
			id := c.Expect(packets.Publish).PacketID
			c.Ack(packets.Pubrec, id)
			c = s.ended(1+i, c, "moves")
			pk, err := c.Next(rawmqtt.Patience)
			if err != nil {
				s.Fatal(err)
			}
			if pk.PacketID != id {
				s.Errorf("%s for %d, want %d", packets.PacketNames[pk.FixedHeader.Type], pk.PacketID, id)
			}
			switch pk.FixedHeader.Type {
			case packets.Publish:
				c.Ack(packets.Pubrec, id)
				c.ExpectAck(packets.Pubrel, id)
			case packets.Pubrel:
			default:
				s.Fatalf("got %s", packets.PacketNames[pk.FixedHeader.Type])
			}
			c.Ack(packets.Pubcomp, id)
			c.ExpectNothing()
		}
	})
	everywhere(t, "MQTT-2.2.1-3 MQTT-2.2.1-4 identifiers of what is sent again and of what is new differ", both, func(s *stage) {
		p, c := s.publisher(), s.begin(1, "moves")
		c.MustSubscribe(s.topic("a"), 2)
		seen := map[uint16]string{}
		for i := range 3 {
			for n := range 4 {
				p.Publish(s.topic("a"), fmt.Sprint(i, n), byte(1+n%2))
			}
			for n := range 4 * (i + 1) {
				pk := c.Expect(packets.Publish)
				was, known := seen[pk.PacketID]
				if want := fmt.Sprint(n/4, n%4); string(pk.Payload) != want || known && was != want || known != (n < 4*i) {
					s.Errorf("%q with id %d, which was %q; want %q", pk.Payload, pk.PacketID, was, want)
				}
				seen[pk.PacketID] = string(pk.Payload)
			}
			c = s.ended(i, c, "moves")
		}
		for n := range 12 {
			c.ReceivePayload(fmt.Sprint(n/4, n%4))
		}
		c.ExpectNothing()
	})
	everywhere(t, "MQTT-3.3.4-9 4.9 what is sent again counts for the Receive Maximum of the new connection", v5, func(s *stage) {
		p, c := s.publisher(), s.begin(1, "moves", receiveMaximum(10))
		c.MustSubscribe(s.topic("a"), 2)
		const n = 20
		for i := range n {
			p.Publish(s.topic("a"), strconv.Itoa(i), byte(1+i%2))
		}
		for range 10 {
			c.Expect(packets.Publish)
		}
		c.ExpectNothing()
		for i, maximum := range []uint16{3, 1, 15} {
			c = s.ended(i, c, "moves", receiveMaximum(maximum))
			for m := range maximum {
				if pk := c.Expect(packets.Publish); string(pk.Payload) != fmt.Sprint(m) || pk.FixedHeader.Dup != (m < 10) {
					s.Fatalf("%q, %+v", pk.Payload, pk.FixedHeader)
				}
			}
			c.ExpectNothing()
		}
		c = s.ended(0, c, "moves", receiveMaximum(2))
		for i := range n {
			c.ReceivePayload(strconv.Itoa(i))
		}
		c.ExpectNothing()
	})
	everywhere(t, "MQTT-3.1.2-24 MQTT-3.1.2-25 what is too large for the new connection is dropped, the rest is not", v5, func(s *stage) {
		p, c := s.publisher(), s.begin(1, "moves")
		c.MustSubscribe(s.topic("a"), 1)
		s.leave(c)
		for i := range 10 {
			s.confirmed(p, s.topic("a"), fmt.Sprintf("%0*d", 1+i%2*500, i), 0)
		}
		c = s.back(2, "moves", maximumPacketSize(200))
		for i := 0; i < 10; i += 2 {
			c.ReceivePayload(strconv.Itoa(i))
		}
		c.ExpectNothing()
	})
}

func TestExpiryWhileAway(t *testing.T) {
	t.Parallel()
	everywhere(t, "MQTT-3.3.2-5 MQTT-3.3.2-6 the Message Expiry Interval goes down while a message is stored", v5, func(s *stage) {
		p, c := s.publisher(), s.begin(1, "away")
		c.MustSubscribe(s.topic("a"), 2)
		s.leave(c)
		for _, m := range []struct {
			payload string
			seconds uint32
		}{{"first", 60}, {"expires", 1}, {"without", 0}, {"last", 60}} {
			pk := publishPacket(s.topic("a"), m.payload, 1, p.ID())
			pk.Properties.MessageExpiryInterval = m.seconds
			p.Send(pk)
			s.code(p.ExpectAck(packets.Puback, pk.PacketID).ReasonCode, 0)
		}
		stored := time.Now()
		<-time.After(time.Until(stored.Add(1100 * time.Millisecond)))
		c = s.back(2, "away")
		for _, m := range []struct {
			payload string
			most    uint32
		}{{"first", 59}, {"without", 0}, {"last", 59}} {
			left := c.ReceivePayload(m.payload).Properties.MessageExpiryInterval
			if left > m.most || m.most > 0 && left < 40 {
				s.Errorf("%s: %d seconds left, want at most %d", m.payload, left, m.most)
			}
		}
		c.ExpectNothing()
	})
	everywhere(t, "MQTT-4.4.0-1 a message that was sent is sent again, whether it has expired or not", v5, func(s *stage) {
		p, c := s.publisher(), s.begin(1, "moves")
		c.MustSubscribe(s.topic("a"), 2)
		pk := publishPacket(s.topic("a"), "x", 2, 1)
		pk.Properties.MessageExpiryInterval = 1
		p.Send(pk)
		p.ExpectAck(packets.Pubrec, 1)
		id := c.Expect(packets.Publish).PacketID
		<-time.After(1100 * time.Millisecond)
		c = s.ended(1, c, "moves")
		got := c.ReceivePayload("x")
		if left := got.Properties.MessageExpiryInterval; got.PacketID != id || !got.FixedHeader.Dup || left > 1 {
			s.Errorf("id %d, want %d; %+v, %d seconds left", got.PacketID, id, got.FixedHeader, left)
		}
	})
}

func TestPublisherReturns(t *testing.T) {
	t.Parallel()
	again := func(pk packets.Packet) packets.Packet {
		pk.FixedHeader.Dup = true
		return pk
	}
	everywhere(t, "MQTT-4.3.3-10 MQTT-4.4.0-1 a QoS 2 message sent again on another connection comes once", both, func(s *stage) {
		c, p := s.begin(1, "stays"), s.begin(0, "returns")
		c.MustSubscribe(s.topic("a"), 2)
		for i := range 9 {
			pk := publishPacket(s.topic("a"), strconv.Itoa(i), 2, 9)
			p.Send(pk)
			if i%2 == 0 { // else PUBREC is lost, perhaps before the server has read PUBLISH
				p.ExpectAck(packets.Pubrec, 9)
			}
			p = s.ended(i, p, "returns")
			p.Send(again(pk))
			s.code(p.ExpectAck(packets.Pubrec, 9).ReasonCode, 0)
			p.Ack(packets.Pubrel, 9)
			if i%3 == 0 { // else PUBCOMP is lost, perhaps before the server has read PUBREL
				s.code(p.ExpectAck(packets.Pubcomp, 9).ReasonCode, 0)
			} else {
				p = s.ended(i+1, p, "returns")
				p.Ack(packets.Pubrel, 9)
				if code := p.ExpectAck(packets.Pubcomp, 9).ReasonCode; code != 0 && code != 0x92 {
					s.Errorf("PUBCOMP %#x", code)
				}
			}
			c.ReceivePayload(strconv.Itoa(i))
		}
		c.ExpectNothing()
	})
	everywhere(t, "MQTT-4.3.3-10 the receiver that is away gets it once as well", both, func(s *stage) {
		c, p := s.begin(1, "away"), s.begin(0, "returns")
		c.MustSubscribe(s.topic("a"), 2)
		s.leave(c)
		pk := publishPacket(s.topic("a"), "x", 2, 9)
		p.Send(pk)
		for i := range 4 {
			p = s.ended(i, p, "returns")
			p.Send(again(pk))
		}
		p.ExpectAck(packets.Pubrec, 9)
		c = s.back(2, "away")
		c.ReceivePayload("x")
		p = s.ended(1, p, "returns")
		p.Send(again(pk))
		p.ExpectAck(packets.Pubrec, 9)
		p.Ack(packets.Pubrel, 9)
		p.ExpectAck(packets.Pubcomp, 9)
		s.confirmed(p, s.topic("a"), "next", 0)
		c.ReceivePayload("next")
		c.ExpectNothing()
	})
	everywhere(t, "MQTT-4.3.3-12 after PUBCOMP the identifier stands for a new message, on another connection too", both, func(s *stage) {
		c, p := s.subscriber(), s.begin(0, "returns")
		c.MustSubscribe(s.topic("a"), 2)
		for i := range 6 {
			p.Send(publishPacket(s.topic("a"), strconv.Itoa(i), 2, 9))
			p.ExpectAck(packets.Pubrec, 9)
			p.Ack(packets.Pubrel, 9)
			p.ExpectAck(packets.Pubcomp, 9)
			c.ReceivePayload(strconv.Itoa(i))
			p = s.ended(i, p, "returns")
		}
	})
	everywhere(t, "MQTT-4.3.3-10 a clean start forgets identifiers: what is sent then is new", both, func(s *stage) {
		c, p := s.subscriber(), s.begin(0, "returns")
		c.MustSubscribe(s.topic("a"), 2)
		for range 3 {
			p.Send(publishPacket(s.topic("a"), "x", 2, 9))
			p.ExpectAck(packets.Pubrec, 9)
			c.ReceivePayload("x")
			p.Close()
			p = s.dial(2)
			p.Hello(s.id("returns"), durable, clean)
		}
	})
	everywhere(t, "MQTT-4.3.2-1 MQTT-4.5.0-1 a QoS 1 message sent again comes at least once", both, func(s *stage) {
		c, p := s.begin(1, "stays"), s.begin(0, "returns")
		c.MustSubscribe(s.topic("a"), 1)
		for i := range 6 {
			pk := publishPacket(s.topic("a"), strconv.Itoa(i), 1, 9)
			p.Send(pk)
			p = s.ended(i, p, "returns")
			p.Send(again(pk))
			p.ExpectAck(packets.Puback, 9)
			s.confirmed(p, s.topic("a"), "next", 0)
			for n := 0; ; n++ {
				payload := string(c.Receive().Payload)
				if payload == "next" && n > 0 {
					break
				}
				if payload != strconv.Itoa(i) || n > 1 {
					s.Fatalf("got %q as message %d of round %d", payload, n, i)
				}
			}
		}
	})
	everywhere(t, "MQTT-4.9.0-1 3.3.4 what has no PUBREL counts for the Receive Maximum on the next connection as well, and may be sent again", v5, func(s *stage) {
		p := s.begin(0, "returns")
		for i := range limits.ReceiveMaximum {
			p.Send(publishPacket(s.topic("a"), "x", 2, uint16(1+i)))
			p.ExpectAck(packets.Pubrec, uint16(1+i))
		}
		p = s.ended(1, p, "returns")
		for i := range limits.ReceiveMaximum {
			p.Send(again(publishPacket(s.topic("a"), "x", 2, uint16(1+i))))
			p.ExpectAck(packets.Pubrec, uint16(1+i))
		}
		for i := range limits.ReceiveMaximum {
			p.Ack(packets.Pubrel, uint16(1+i))
			s.code(p.ExpectAck(packets.Pubcomp, uint16(1+i)).ReasonCode, 0)
		}
		s.serves(p)
	})
}

func TestOrderOfSessions(t *testing.T) {
	t.Parallel()
	for qos := byte(1); qos <= 2; qos++ {
		everywhere(t, fmt.Sprintf("MQTT-4.6.0-1 MQTT-4.6.0-5 MQTT-4.6.0-6 messages at QoS %d keep their order while the receiver moves", qos), both, func(s *stage) {
			const messages, moves = 300, 6
			c, p := s.begin(1, "moves"), s.pipeline(s.publisher())
			c.MustSubscribe(s.topic("+"), 2)
			published := 0
			publish := func(until int) {
				for ; published < until; published++ {
					p.publish(s.topic("a"), strconv.Itoa(published), qos)
				}
			}
			next := 0
			take := func(until int) {
				for next < until {
					pk := c.Receive()
					n, err := strconv.Atoi(string(pk.Payload))
					if err != nil || n > next || n < next && qos == 2 {
						s.Fatalf("got %q, want %d; %+v", pk.Payload, next, pk.FixedHeader)
					}
					next = max(next, n+1)
				}
			}
			for i := range moves {
				publish(published + messages/moves/2)
				take(max(next, published-window)) // some of what is under way
				publish(published + messages/moves/2)
				c = s.ended(i+2, c, "moves")
			}
			p.finish()
			if p.codes[0] != messages {
				s.Errorf("acknowledged with %v, want success %d times", p.codes, messages)
			}
			take(messages)
			c.ExpectNothing()
		})
	}
	// The publisher goes when it has sent the first half of n messages, and sends all of them when it is back; with
	// moves, to a receiver that has moved meanwhile.
	returning := func(n int, moves bool) func(*stage) {
		return func(s *stage) {
			receiver, further := "stays", 0
			if moves {
				receiver, further = "moves", 1
			}
			c, p := s.begin(1, receiver), s.begin(0, "returns")
			c.MustSubscribe(s.topic("a"), 2)
			for round := range 6 {
				flight := make([]packets.Packet, n)
				for i := range flight {
					flight[i] = publishPacket(s.topic("a"), fmt.Sprint(round, i), 2, uint16(1+i))
				}
				for _, pk := range flight[:n/2] {
					p.Send(pk)
				}
				if moves {
					c.Close()
				}
				p = s.ended(round+further, p, "returns")
				for i, pk := range flight {
					pk.FixedHeader.Dup = i < n/2
					p.Send(pk)
				}
				if moves {
					c = s.back(round, receiver)
				}
				for i := range flight {
					p.ExpectAck(packets.Pubrec, uint16(1+i))
					c.ReceivePayload(fmt.Sprint(round, i))
				}
				for i := range flight {
					p.Ack(packets.Pubrel, uint16(1+i))
					p.ExpectAck(packets.Pubcomp, uint16(1+i))
				}
			}
			c.ExpectNothing()
		}
	}
	everywhere(t, "MQTT-4.6.0-1 MQTT-4.6.0-5 what a returning publisher sends again comes in front of what is new", both, returning(10, false))
	everywhere(t, "MQTT-4.6.0-1 MQTT-4.6.0-5 so it does when the receiver moves at the same time", both, returning(20, true))
	everywhere(t, "MQTT-4.6.0-5 a long inbox is read in order, with what comes meanwhile behind it", both, func(s *stage) {
		const n = 1500 // more than the queue of a client holds
		c, p := s.begin(1, "away"), s.pipeline(s.publisher())
		c.MustSubscribe(s.topic("a"), 1)
		s.leave(c)
		for i := range n {
			p.publish(s.topic("a"), strconv.Itoa(i), 1)
		}
		p.finish()
		c = s.back(2, "away")
		got := listen(c)
		for i := n; i < n+200; i++ {
			p.publish(s.topic("a"), strconv.Itoa(i), 1)
		}
		p.finish()
		for i := range n + 200 {
			if pk := s.next(got); string(pk.Payload) != strconv.Itoa(i) {
				s.Fatalf("payload %q, want %d", pk.Payload, i)
			}
		}
	})
}
