package conformance

import (
	"fmt"
	"strings"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

func TestReceiveMaximumOfTheClient(t *testing.T) {
	t.Parallel()
	everywhere(t, "MQTT-3.3.4-9 MQTT-4.9.0-2 no more messages are in flight than the client takes", v5, func(s *stage) {
		p, c := s.publisher(), s.subscriber(receiveMaximum(3))
		c.MustSubscribe(s.topic("a"), 2)
		for i := range 10 {
			if got := p.Publish(s.topic("a"), fmt.Sprint(i), byte(1+i%2)).ReasonCode; got != 0 {
				s.Errorf("acknowledged with %#x", got)
			}
		}
		var flight []packets.Packet
		for range 3 {
			flight = append(flight, c.Expect(packets.Publish))
		}
		c.ExpectNothing()
		// One comes for each that is done: at QoS 2 with PUBCOMP.
		for i := range 10 {
			pk := flight[0]
			flight = flight[1:]
			if string(pk.Payload) != fmt.Sprint(i) {
				s.Errorf("payload %q, want %d", pk.Payload, i)
			}
			if pk.FixedHeader.Qos == 1 {
				c.Ack(packets.Puback, pk.PacketID)
			} else {
				c.Ack(packets.Pubrec, pk.PacketID)
				c.ExpectAck(packets.Pubrel, pk.PacketID)
				c.ExpectNothing()
				c.Ack(packets.Pubcomp, pk.PacketID)
			}
			if i < 7 {
				flight = append(flight, c.Expect(packets.Publish))
			}
		}
		c.ExpectNothing()
	})
	everywhere(t, "MQTT-3.3.4-10 MQTT-4.9.0-3 everything else goes on while the window is closed", v5, func(s *stage) {
		p, c := s.publisher(), s.subscriber(receiveMaximum(1))
		c.MustSubscribe(s.topic("a"), 1)
		s.confirmed(p, s.topic("a"), "held", 0)
		held := c.Expect(packets.Publish)
		s.confirmed(p, s.topic("a"), "later", 0)
		p.Publish(s.topic("a"), "at once", 0)
		c.ReceivePayload("at once")
		c.MustSubscribe(s.topic("b"), 0)
		c.Publish(s.topic("nobody"), "x", 2)
		c.ExpectNothing()
		c.Ack(packets.Puback, held.PacketID)
		c.ReceivePayload("later")
	})
}

func TestReceiveMaximumOfTheServer(t *testing.T) {
	t.Parallel()
	everywhere(t, "MQTT-3.3.4-7 3.3.4 as many messages as announced may be in flight, one more closes with 0x93", v5, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		c.MustSubscribe(s.topic("a"), 0)
		got := listen(c)
		for i := range limits.ReceiveMaximum {
			p.Send(publishPacket(s.topic("a"), "x", 2, uint16(1+i)))
		}
		for i := range limits.ReceiveMaximum {
			p.ExpectAck(packets.Pubrec, uint16(1+i))
			s.next(got)
		}
		// At QoS 0 there is no limit, and what is done makes room.
		p.Send(publishPacket(s.topic("a"), "x", 0, 0))
		s.next(got)
		p.Ack(packets.Pubrel, 1)
		p.ExpectAck(packets.Pubcomp, 1)
		p.Send(publishPacket(s.topic("a"), "x", 2, 1000))
		p.ExpectAck(packets.Pubrec, 1000)
		p.Send(publishPacket(s.topic("a"), "x", 1, 2000))
		s.closes(p, 0x93)
	})
	everywhere(t, "4.9 3.1.1 knows no such limit", v311, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		c.MustSubscribe(s.topic("a"), 0)
		got := listen(c)
		for i := range 2 * limits.ReceiveMaximum {
			p.Send(publishPacket(s.topic("a"), "x", 2, uint16(1+i)))
			p.ExpectAck(packets.Pubrec, uint16(1+i))
			s.next(got)
		}
	})
}

func TestTopicAliasOfTheClient(t *testing.T) {
	t.Parallel()
	withAlias := func(topic string, alias uint16) packets.Packet {
		pk := publishPacket(topic, "x", 0, 0)
		pk.Properties.TopicAlias, pk.Properties.TopicAliasFlag = alias, true
		return pk
	}
	everywhere(t, "MQTT-3.3.2-12 3.3.2.3.4 every alias up to the maximum is understood, and may be given anew", v5, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		c.MustSubscribe(s.topic("#"), 0)
		most := uint16(limits.TopicAliases)
		for alias := most; alias > 0; alias-- {
			p.Send(withAlias(s.topic(fmt.Sprint(alias)), alias))
		}
		p.Send(withAlias(s.topic("new"), 1))
		for alias := uint16(1); alias <= most; alias++ {
			p.Send(withAlias("", alias))
		}
		for alias := most; alias > 0; alias-- {
			if got := c.Receive().TopicName; got != s.topic(fmt.Sprint(alias)) {
				s.Errorf("topic %q for alias %d", got, alias)
			}
		}
		if got := c.Receive().TopicName; got != s.topic("new") {
			s.Errorf("topic %q for the new alias", got)
		}
		for alias := uint16(1); alias <= most; alias++ {
			pk := c.Receive()
			want := s.topic(fmt.Sprint(alias))
			if alias == 1 {
				want = s.topic("new")
			}
			if pk.TopicName != want || pk.Properties.TopicAliasFlag {
				s.Errorf("topic %q, alias %d; want %q", pk.TopicName, pk.Properties.TopicAlias, want)
			}
		}
	})
	everywhere(t, "MQTT-3.3.2-12 an alias works at QoS 1 and 2 and for p2p/", v5, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		for qos := byte(1); qos <= 2; qos++ {
			for i, topic := range []string{"p2p/" + s.id("subscriber") + "/a", ""} {
				pk := withAlias(topic, uint16(qos))
				pk.FixedHeader.Qos, pk.PacketID = qos, uint16(10*qos)+uint16(i)
				p.Send(pk)
				if got := c.ReceivePayload("x"); got.TopicName != "p2p/"+s.id("subscriber")+"/a" {
					s.Errorf("topic %q", got.TopicName)
				}
				p.ExpectAck([...]byte{1: packets.Puback, 2: packets.Pubrec}[qos], pk.PacketID)
			}
		}
	})
	everywhere(t, "MQTT-3.3.2-9 an alias above the maximum closes with 0x94", v5, func(s *stage) {
		p := s.publisher()
		p.Send(withAlias(s.topic("a"), uint16(limits.TopicAliases+1)))
		s.closes(p, 0x94)
	})
	everywhere(t, "MQTT-3.3.2-8 the alias 0 closes with 0x94", v5, func(s *stage) {
		p := s.publisher()
		p.SendRaw(frame(packets.Publish<<4, text(s.topic("a")), props(prop(0x23, u16(0)))))
		s.closes(p, 0x94)
	})
	everywhere(t, "3.3.2.1 an alias that stands for nothing closes with 0x82", v5, func(s *stage) {
		p := s.publisher()
		p.Send(withAlias("", 1))
		s.closes(p, 0x82)
	})
	everywhere(t, "MQTT-3.3.2-7 aliases end with the connection", v5, func(s *stage) {
		p := s.publisher()
		p.Send(withAlias(s.topic("a"), 1))
		s.serves(p)
		p = s.client(1, "publisher")
		p.Send(withAlias("", 1))
		s.closes(p, 0x82)
	})
}

func TestTopicAliasOfTheServer(t *testing.T) {
	t.Parallel()
	everywhere(t, "MQTT-3.1.2-26 MQTT-3.3.2-11 aliases are given up to the client's maximum", v5, func(s *stage) {
		p, c := s.publisher(), s.subscriber(topicAliasMaximum(2))
		c.MustSubscribe(s.topic("#"), 2)
		topics := map[uint16]string{}
		for i := range 12 {
			topic := s.topic(fmt.Sprint(i % 4))
			p.Publish(topic, "x", byte(i%3))
			pk := c.ReceivePayload("x")
			alias := pk.Properties.TopicAlias
			switch {
			case alias > 2 || pk.Properties.TopicAliasFlag && alias == 0:
				s.Fatalf("alias %d", alias)
			case pk.TopicName != "" && alias > 0:
				topics[alias] = pk.TopicName
			case pk.TopicName == "":
				pk.TopicName = topics[alias]
			}
			if pk.TopicName != topic {
				s.Errorf("topic %q by alias %d, want %q", pk.TopicName, alias, topic)
			}
		}
	})
	everywhere(t, "MQTT-3.1.2-27 no aliases for a client that did not ask for them", v5, func(s *stage) {
		for i, opts := range [][]rawmqtt.Option{nil, {topicAliasMaximum(0)}} {
			p, c := s.publisher(), s.client(1, fmt.Sprint("subscriber", i), opts...)
			c.MustSubscribe(s.topic("a"), 1)
			for range 3 {
				s.confirmed(p, s.topic("a"), "x", 0)
				if pk := c.ReceivePayload("x"); pk.Properties.TopicAliasFlag || pk.TopicName != s.topic("a") {
					s.Errorf("alias %d for %q", pk.Properties.TopicAlias, pk.TopicName)
				}
			}
		}
	})
	everywhere(t, "MQTT-3.3.2-7 aliases given begin anew with each connection", v5, func(s *stage) {
		for i := range 2 {
			p, c := s.publisher(), s.client(1+i, "subscriber", topicAliasMaximum(5))
			c.MustSubscribe(s.topic("a"), 1)
			s.confirmed(p, s.topic("a"), "x", 0)
			if pk := c.ReceivePayload("x"); pk.TopicName != s.topic("a") {
				s.Errorf("the first message came by alias %d alone", pk.Properties.TopicAlias)
			}
		}
	})
}

func TestMaximumPacketSizeOfTheClient(t *testing.T) {
	t.Parallel()
	for _, aliases := range []uint16{0, 10} {
		everywhere(t, fmt.Sprintf("MQTT-3.1.2-24 MQTT-3.1.2-25 what is too large is dropped as if it had been sent, topic aliases %d", aliases), v5, func(s *stage) {
			const most = 100
			p, c := s.publisher(), s.subscriber(maximumPacketSize(most), topicAliasMaximum(aliases))
			c.MustSubscribe(s.topic("a"), 2)
			exact := most - (1 + 1 + 2 + len(s.topic("a")) + 1) // fixed header, topic, no properties
			for qos := range byte(3) {
				size := exact
				if qos > 0 {
					size -= 2 // packet identifier
				}
				if got := p.Publish(s.topic("a"), strings.Repeat("y", size+1), qos).ReasonCode; got != 0 {
					s.Errorf("acknowledged with %#x", got)
				}
				p.Publish(s.topic("a"), strings.Repeat("x", size), qos)
				pk := c.ReceivePayload(strings.Repeat("x", size))
				if got := 2 + pk.FixedHeader.Remaining; got > most {
					s.Errorf("a packet of %d bytes at QoS %d", got, qos)
				}
			}
			c.ExpectNothing()
		})
	}
	everywhere(t, "MQTT-3.1.2-25 others get what is too large for one", both, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		small := rawmqtt.Connect(s.T, s.address(1), rawmqtt.V5, s.id("small"), maximumPacketSize(200))
		for _, x := range []*rawmqtt.Client{c, small} {
			x.MustSubscribe(s.topic("a"), 1)
		}
		large := strings.Repeat("x", 1000)
		s.confirmed(p, s.topic("a"), large, 0)
		c.ReceivePayload(large)
		small.ExpectNothing()
	})
	everywhere(t, "MQTT-3.14.2-3 MQTT-3.1.2-24 a DISCONNECT leaves its Reason String out where it would be too long", v5, func(s *stage) {
		c := s.subscriber(maximumPacketSize(30))
		c.SendRaw(frame(packets.Pingresp << 4))
		pk := c.Expect(packets.Disconnect)
		if size := 2 + pk.FixedHeader.Remaining; pk.ReasonCode != 0x82 || size > 30 {
			s.Errorf("DISCONNECT %#x of %d bytes", pk.ReasonCode, size)
		}
	})
}

func TestMaximumPacketSizeOfTheServer(t *testing.T) {
	t.Parallel()
	everywhere(t, "MQTT-3.2.2-15 a packet above the server's maximum closes with 0x95, unread", both, func(s *stage) {
		p := s.publisher()
		p.SendRaw(concat(u8(packets.Publish<<4), varint(int(limits.PacketBytes)-3)))
		s.closes(p, 0x95)
	})
	everywhere(t, "3.2.2.3.6 a packet of exactly the maximum is taken", both, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		c.MustSubscribe(s.topic("a"), 1)
		head := concat(text(s.topic("a")), u16(1), s.props5())
		payload := strings.Repeat("x", int(limits.PacketBytes)-1-4-len(head))
		p.SendRaw(frame(packets.Publish<<4|2, head, []byte(payload)))
		p.ExpectAck(packets.Puback, 1)
		if got := len(c.Receive().Payload); got != len(payload) {
			s.Errorf("%d bytes, want %d", got, len(payload))
		}
	})
}
