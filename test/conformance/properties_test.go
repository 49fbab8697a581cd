package conformance

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

func TestMessageProperties(t *testing.T) {
	t.Parallel()
	all := packets.Properties{
		PayloadFormat: 1, PayloadFormatFlag: true, ContentType: "application/json; charset=utf-8",
		ResponseTopic: "who/asks", CorrelationData: []byte{0, 0xff, 1},
		User: []packets.UserProperty{{Key: "b", Val: "1"}, {Key: "a", Val: "2"}, {Key: "b", Val: "3"}, {Key: "", Val: ""}, {Key: "b", Val: "1"}},
	}
	everywhere(t, "MQTT-3.3.2-4 MQTT-3.3.2-15 MQTT-3.3.2-16 MQTT-3.3.2-17 MQTT-3.3.2-18 MQTT-3.3.2-20 properties are unaltered and in order", v5, func(s *stage) {
		p, c, others := s.publisher(), s.subscriber(), []*rawmqtt.Client{}
		c.MustSubscribe(s.topic("a"), 2)
		for i := range 4 { // several receivers on one gateway
			o := s.client(1, fmt.Sprint("other", i))
			o.MustSubscribe(s.topic("+"), byte(i%3))
			others = append(others, o)
		}
		for qos := range byte(3) {
			pk := publishPacket(s.topic("a"), "{}", qos, 10+uint16(qos))
			pk.Properties = all
			p.Send(pk)
			for _, x := range append(others, c) {
				if d := cmp.Diff(all, x.ReceivePayload("{}").Properties); d != "" {
					s.Errorf("QoS %d: %s", qos, d)
				}
			}
			if qos > 0 {
				p.ExpectAck([...]byte{1: packets.Puback, 2: packets.Pubrec}[qos], pk.PacketID)
			}
		}
	})
	everywhere(t, "MQTT-2.2.2-1 a message without properties comes without", v5, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		c.MustSubscribe(s.topic("a"), 1)
		s.confirmed(p, s.topic("a"), "x", 0)
		if d := cmp.Diff(packets.Properties{}, c.ReceivePayload("x").Properties); d != "" {
			s.Error(d)
		}
	})
	everywhere(t, "MQTT-3.3.2-16 correlation data may be empty", v5, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		c.MustSubscribe(s.topic("a"), 0)
		p.SendRaw(frame(packets.Publish<<4, text(s.topic("a")), props(prop(9, text(""))), []byte("x")))
		if got := c.ReceivePayload("x").Properties.CorrelationData; got == nil || len(got) != 0 {
			s.Errorf("correlation data %v, want it to be there and empty", got)
		}
	})
	everywhere(t, "3.3.2.3.2 a Payload Format Indicator of 0 is passed on, and payloads are not judged by one of 1", v5, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		c.MustSubscribe(s.topic("a"), 0)
		for _, format := range []byte{0, 1} {
			p.SendRaw(frame(packets.Publish<<4, text(s.topic("a")), props(prop(1, u8(format))), []byte("\xff")))
			if got := c.ReceivePayload("\xff").Properties; !got.PayloadFormatFlag || got.PayloadFormat != format {
				s.Errorf("Payload Format Indicator %d, there: %v; want %d", got.PayloadFormat, got.PayloadFormatFlag, format)
			}
		}
	})
	everywhere(t, "MQTT-1.5.4-3 a byte order mark and any plane of Unicode are characters like others", v5, func(s *stage) {
		const odd = "\ufeffÅ\U0002a6d4\u0001"
		p, c := s.publisher(), s.subscriber()
		c.MustSubscribe(s.topic(odd), 1)
		pk := publishPacket(s.topic(odd), "x", 1, 1)
		pk.Properties = packets.Properties{ContentType: odd, ResponseTopic: odd, User: []packets.UserProperty{{Key: odd, Val: odd}}}
		p.Send(pk)
		got := c.ReceivePayload("x")
		if d := cmp.Diff(pk.Properties, got.Properties); d != "" || got.TopicName != pk.TopicName {
			s.Errorf("topic %q: %s", got.TopicName, d)
		}
	})
	everywhere(t, "4.10 request and response find each other", v5, func(s *stage) {
		asks, answers := s.client(0, "asks"), s.client(1, "answers")
		answers.MustSubscribe(s.topic("question/+"), 1)
		asks.MustSubscribe(s.topic("answer/me"), 1)
		for i := range 5 {
			question := publishPacket(s.topic("question/now"), fmt.Sprint(i), 1, asks.ID())
			question.Properties.ResponseTopic = s.topic("answer/me")
			question.Properties.CorrelationData = []byte{byte(i), 0}
			asks.Send(question)
			asks.ExpectAck(packets.Puback, question.PacketID)

			got := answers.ReceivePayload(fmt.Sprint(i)).Properties
			answer := publishPacket(got.ResponseTopic, "answer", 1, answers.ID())
			answer.Properties.CorrelationData = got.CorrelationData
			answers.Send(answer)
			answers.ExpectAck(packets.Puback, answer.PacketID)
			if got := asks.ReceivePayload("answer").Properties.CorrelationData; !bytes.Equal(got, []byte{byte(i), 0}) {
				s.Errorf("correlation data %v, want %v", got, []byte{byte(i), 0})
			}
		}
	})
	everywhere(t, "4.10 a response may go straight to the client that asked", v5, func(s *stage) {
		asks, answers := s.client(0, "asks"), s.client(1, "answers")
		question := publishPacket("p2p/"+s.id("answers")+"/question", "?", 1, 1)
		question.Properties.ResponseTopic = "p2p/" + s.id("asks") + "/answer"
		asks.Send(question)
		s.confirmed(answers, answers.ReceivePayload("?").Properties.ResponseTopic, "!", 0)
		asks.ExpectAck(packets.Puback, 1)
		asks.ReceivePayload("!")
	})
}

func TestMessageExpiry(t *testing.T) {
	t.Parallel()
	expiring := func(s *stage, p *rawmqtt.Client, payload string, seconds uint32) {
		pk := publishPacket(s.topic("a"), payload, 1, p.ID())
		pk.Properties.MessageExpiryInterval = seconds
		p.Send(pk)
		p.ExpectAck(packets.Puback, pk.PacketID)
	}
	everywhere(t, "MQTT-3.3.2-6 a message comes with what is left of its Message Expiry Interval", v5, func(s *stage) {
		p, c := s.publisher(), s.subscriber(receiveMaximum(1))
		c.MustSubscribe(s.topic("a"), 1)
		began := time.Now()
		expiring(s, p, "at once", 60)
		expiring(s, p, "later", 60)
		queued := time.Now()
		first := c.Expect(packets.Publish)
		if left := first.Properties.MessageExpiryInterval; left < 50 || left > 60 {
			s.Errorf("%d seconds left at once, want about 60", left)
		}
		// The second message waits at the receiver's gateway for the first to be acknowledged.
		<-time.After(time.Until(queued.Add(2100 * time.Millisecond)))
		c.Ack(packets.Puback, first.PacketID)
		left := c.ReceivePayload("later").Properties.MessageExpiryInterval
		if waited := uint32(time.Since(began).Seconds()); left > 58 || left+waited+2 < 60 {
			s.Errorf("%d seconds left after %d, want 60 together", left, waited)
		}
	})
	everywhere(t, "MQTT-3.3.2-5 a message that has expired is not sent", v5, func(s *stage) {
		p, c := s.publisher(), s.subscriber(receiveMaximum(1))
		c.MustSubscribe(s.topic("a"), 1)
		expiring(s, p, "first", 60)
		expiring(s, p, "expires", 1)
		queued := time.Now()
		expiring(s, p, "last", 60)
		first := c.Expect(packets.Publish)
		<-time.After(time.Until(queued.Add(1100 * time.Millisecond)))
		c.Ack(packets.Puback, first.PacketID)
		c.ReceivePayload("last")
	})
	everywhere(t, "MQTT-4.3.3-7 MQTT-4.3.3-13 a message that has been sent does not expire", v5, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		c.MustSubscribe(s.topic("a"), 2)
		pk := publishPacket(s.topic("a"), "x", 2, 1)
		pk.Properties.MessageExpiryInterval = 1
		p.Send(pk)
		p.ExpectAck(packets.Pubrec, 1)
		got := c.Expect(packets.Publish)
		<-time.After(1100 * time.Millisecond)
		c.Ack(packets.Pubrec, got.PacketID)
		s.code(c.ExpectAck(packets.Pubrel, got.PacketID).ReasonCode, 0)
		c.Ack(packets.Pubcomp, got.PacketID)
		p.Ack(packets.Pubrel, 1)
		s.code(p.ExpectAck(packets.Pubcomp, 1).ReasonCode, 0)
		s.serves(c)
	})
	everywhere(t, "3.3.2.3.3 a message without the interval never gets one", v5, func(s *stage) {
		p, c := s.publisher(), s.subscriber(receiveMaximum(1))
		c.MustSubscribe(s.topic("a"), 1)
		for range 2 {
			s.confirmed(p, s.topic("a"), "x", 0)
			if left := c.ReceivePayload("x").Properties.MessageExpiryInterval; left != 0 {
				s.Errorf("Message Expiry Interval %d", left)
			}
		}
	})
}
