package conformance

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

func TestVersionsMix(t *testing.T) {
	t.Parallel()
	everywhere(t, "4.3 every version talks to every version", both, func(s *stage) {
		for _, v := range both {
			p := s.client(0, "publisher")
			c := rawmqtt.Connect(s.T, s.address(1), v, s.id("subscriber"))
			c.MustSubscribe(s.topic("a"), 2)
			for qos := range byte(3) {
				p.Publish(s.topic("a"), "x", qos)
				pk := c.ReceivePayload("x")
				if h := pk.FixedHeader; h.Qos != qos || h.Dup || h.Retain || pk.TopicName != s.topic("a") {
					s.Errorf("to version %d: %+v on %q", v, h, pk.TopicName)
				}
			}
			// 3.1.1 has no properties: they stay behind, the message does not.
			if s.is5() {
				pk := publishPacket(s.topic("a"), "y", 1, p.ID())
				pk.Properties.MessageExpiryInterval = 100
				pk.Properties.User = []packets.UserProperty{{Key: "k", Val: "v"}}
				p.Send(pk)
				p.ExpectAck(packets.Puback, pk.PacketID)
				if got := c.ReceivePayload("y").Properties.User; (len(got) == 1) != (v == rawmqtt.V5) {
					s.Errorf("version %d got user properties %v", v, got)
				}
			}
			s.confirmed(c, "p2p/"+s.id("publisher")+"/a", "back", 0)
			p.ReceivePayload("back")
		}
	})
}

func TestOrder(t *testing.T) {
	t.Parallel()
	const messages = 500
	for qos := range byte(3) {
		everywhere(t, fmt.Sprintf("MQTT-4.6.0-5 MQTT-4.6.0-6 MQTT-4.6.0-2 MQTT-4.6.0-3 MQTT-4.6.0-4 %d messages at QoS %d come in order", messages, qos), both, func(s *stage) {
			c := s.subscriber()
			c.MustSubscribe(s.topic("+"), 2)
			got := listen(c)
			p := s.pipeline(s.publisher())
			for i := range messages {
				p.publish(s.topic("a"), strconv.Itoa(i), qos)
			}
			p.finish()
			for i := range messages {
				if pk := s.next(got); string(pk.Payload) != strconv.Itoa(i) || pk.FixedHeader.Qos != qos {
					s.Fatalf("message %d: payload %q at QoS %d", i, pk.Payload, pk.FixedHeader.Qos)
				}
			}
		})
	}
	everywhere(t, "MQTT-4.6.0-2 MQTT-4.6.0-3 acknowledgements wait for those of earlier messages, nothing else does", both, func(s *stage) {
		slow, p := s.subscriber(), s.publisher()
		slow.MustSubscribe("$share/g/"+s.topic("slow"), 2) // a shared message is settled when its member has acknowledged it
		for qos := byte(1); qos <= 2; qos++ {
			kind := [...]byte{1: packets.Puback, 2: packets.Pubrec}[qos]
			p.Send(publishPacket(s.topic("slow"), "x", qos, 1))
			p.Send(publishPacket(s.topic("nobody"), "x", qos, 2))
			p.Send(publishPacket("p2p/"+s.id("subscriber")+"/a", "y", 0, 0))
			got := slow.Expect(packets.Publish)
			slow.ReceivePayload("y")
			p.ExpectNothing()
			p.MustSubscribe(s.topic("b"), qos)
			slow.Ack(kind, got.PacketID)
			for id := uint16(1); id <= 2; id++ {
				p.ExpectAck(kind, id)
			}
			if qos == 2 {
				slow.ExpectAck(packets.Pubrel, got.PacketID)
			}
		}
	})
	everywhere(t, "MQTT-4.6.0-5 to several receivers, with a narrow window, in order to each", v5, func(s *stage) {
		var receivers []<-chan packets.Packet
		for i := range 2 * gateways {
			c := s.client(i%gateways, fmt.Sprint("subscriber", i), receiveMaximum(uint16(1+i)))
			c.MustSubscribe(s.topic("a"), byte(1+i%2))
			receivers = append(receivers, listen(c))
		}
		p := s.pipeline(s.publisher())
		for i := range 200 {
			p.publish(s.topic("a"), strconv.Itoa(i), 2)
		}
		p.finish()
		for _, got := range receivers {
			for i := range 200 {
				if pk := s.next(got); string(pk.Payload) != strconv.Itoa(i) {
					s.Fatalf("payload %q, want %d", pk.Payload, i)
				}
			}
		}
	})
	everywhere(t, "MQTT-4.6.0-5 of several publishers, in order from each", both, func(s *stage) {
		c := s.subscriber()
		c.MustSubscribe(s.topic("#"), 1)
		got := listen(c)
		var publishers [gateways]*pipeline
		for i := range publishers {
			publishers[i] = s.pipeline(s.client(i, fmt.Sprint("publisher", i)))
		}
		for i := range 100 {
			for n, p := range publishers {
				p.publish(s.topic(strconv.Itoa(n)), strconv.Itoa(i), 1)
			}
		}
		next := map[string]int{}
		for range 100 * gateways {
			pk := s.next(got)
			if string(pk.Payload) != strconv.Itoa(next[pk.TopicName]) {
				s.Fatalf("payload %q on %q, want %d", pk.Payload, pk.TopicName, next[pk.TopicName])
			}
			next[pk.TopicName]++
		}
		for _, p := range publishers {
			p.finish()
		}
	})
}
