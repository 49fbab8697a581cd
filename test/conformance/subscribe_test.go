package conformance

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// subscribeID subscribes with a Subscription Identifier.
func subscribeID(s *stage, c *rawmqtt.Client, id int, sub packets.Subscription) {
	s.Helper()
	c.Send(packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: c.ID(),
		Properties: packets.Properties{SubscriptionIdentifier: []int{id}}, Filters: packets.Subscriptions{sub},
	})
	if got := c.Expect(packets.Suback).ReasonCodes; len(got) != 1 || got[0] != sub.Qos {
		s.Fatalf("SUBACK %v", got)
	}
}

func TestSubscribe(t *testing.T) {
	t.Parallel()
	everywhere(t, "MQTT-3.8.4-1 SUBACK says that every gateway routes to the subscriber, a hundred times", both, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		for i := range 100 {
			c.MustSubscribe(s.topic(fmt.Sprint(i)), 0)
			p.Publish(s.topic(fmt.Sprint(i)), fmt.Sprint(i), 0)
			c.ReceivePayload(fmt.Sprint(i))
		}
	})
	everywhere(t, "MQTT-3.8.4-2 MQTT-3.8.4-5 MQTT-3.8.4-6 MQTT-3.9.3-1 one SUBACK with one code for each filter, in order", both, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		var subs packets.Subscriptions
		var want []byte
		for i := range 30 {
			qos := byte(i % 3)
			subs, want = append(subs, packets.Subscription{Filter: s.topic(fmt.Sprint(i)), Qos: qos}), append(want, qos)
		}
		c.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: 54321, Filters: subs})
		if d := cmp.Diff(want, c.ExpectAck(packets.Suback, 54321).ReasonCodes); d != "" {
			s.Error(d)
		}
		for i := range 30 {
			p.Publish(s.topic(fmt.Sprint(i)), "x", 2)
			if got := c.ReceivePayload("x").FixedHeader.Qos; got != want[i] {
				s.Errorf("QoS %d, want %d", got, want[i])
			}
		}
	})
	everywhere(t, "MQTT-3.8.4-5 the same filter twice in one packet counts once, the later options hold", both, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		c.Subscribe(packets.Subscription{Filter: s.topic("a"), Qos: 2}, packets.Subscription{Filter: s.topic("a"), Qos: 1})
		p.Publish(s.topic("a"), "x", 2)
		if got := c.ReceivePayload("x").FixedHeader.Qos; got != 1 {
			s.Errorf("QoS %d, want 1", got)
		}
		c.ExpectNothing()
	})
	everywhere(t, "MQTT-3.8.4-3 a subscription made again replaces the former", both, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		for _, qos := range []byte{0, 2, 1, 1, 0} {
			c.MustSubscribe(s.topic("+"), qos)
			p.Publish(s.topic("a"), "x", 2)
			if got := c.ReceivePayload("x").FixedHeader.Qos; got != qos {
				s.Errorf("QoS %d, want %d", got, qos)
			}
			c.ExpectNothing()
		}
	})
	everywhere(t, "MQTT-3.8.4-3 with its Subscription Identifier and No Local", v5, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		for _, id := range []int{1, 7} {
			subscribeID(s, c, id, packets.Subscription{Filter: s.topic("a"), Qos: 1})
			s.confirmed(p, s.topic("a"), "x", 0)
			if d := cmp.Diff([]int{id}, c.ReceivePayload("x").Properties.SubscriptionIdentifier); d != "" {
				s.Error(d)
			}
		}
		c.Subscribe(packets.Subscription{Filter: s.topic("a"), Qos: 1, NoLocal: true})
		s.confirmed(p, s.topic("a"), "x", 0)
		if got := c.ReceivePayload("x").Properties.SubscriptionIdentifier; got != nil {
			s.Errorf("Subscription Identifier %v, want none", got)
		}
		s.confirmed(c, s.topic("a"), "own", 0x10)
		c.MustSubscribe(s.topic("a"), 1)
		c.Send(publishPacket(s.topic("a"), "own", 0, 0))
		c.ReceivePayload("own")
	})
	everywhere(t, "MQTT-3.3.4-2 overlapping subscriptions: once, at the highest QoS", both, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		for i, f := range []string{"#", "a/+", "+/b", "a/b", "+/+/#", "a/#"} {
			c.MustSubscribe(s.topic(f), byte(i%3))
		}
		for qos := range byte(3) {
			p.Publish(s.topic("a/b"), "x", qos)
			if got := c.ReceivePayload("x").FixedHeader.Qos; got != qos {
				s.Errorf("QoS %d, want %d", got, qos)
			}
		}
		c.ExpectNothing()
	})
	everywhere(t, "3.9.3 a client with too many subscriptions is refused more with 0x97, and may change those it has", both, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		for i := range limits.Subscriptions {
			c.MustSubscribe(s.topic(fmt.Sprint(i)), 1)
		}
		want := map[byte]byte{rawmqtt.V311: 0x80, rawmqtt.V5: 0x97}[s.version]
		for _, f := range []string{s.topic("more"), "$share/g/" + s.topic("more")} {
			if got := c.Subscribe(packets.Subscription{Filter: f, Qos: 1}).ReasonCodes[0]; got != want {
				s.Errorf("SUBACK %#x for %q, want %#x", got, f, want)
			}
		}
		s.confirmed(p, s.topic("more"), "x", 0x10)
		c.ExpectNothing()
		c.MustSubscribe(s.topic("0"), 2)
		c.Unsubscribe(s.topic("1"))
		c.MustSubscribe(s.topic("more"), 2)
		s.confirmed(p, s.topic("more"), "x", 0)
		c.ReceivePayload("x")
	})
	everywhere(t, "2.2.1 a subscription may carry user properties", v5, func(s *stage) {
		c := s.subscriber()
		user := prop(0x26, concat(text("a"), text("b")))
		c.SendRaw(frame(packets.Subscribe<<4|2, u16(1), props(user, user), text(s.topic("a")), u8(1)))
		c.ExpectAck(packets.Suback, 1)
		c.SendRaw(frame(packets.Unsubscribe<<4|2, u16(2), props(user, user), text(s.topic("a"))))
		c.ExpectAck(packets.Unsuback, 2)
	})
}

func TestSubscriptionIdentifier(t *testing.T) {
	t.Parallel()
	everywhere(t, "MQTT-3.3.4-3 MQTT-3.3.4-4 one message carries the identifiers of all subscriptions that match", v5, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		for id, f := range map[int]string{1: "a/b", 128: "a/+", 16384: "a/#", 268435455: "+/b", 2: "other"} {
			subscribeID(s, c, id, packets.Subscription{Filter: s.topic(f), Qos: byte(id % 3)})
		}
		c.MustSubscribe(s.topic("#"), 0) // without
		for qos := range byte(3) {
			p.Publish(s.topic("a/b"), "x", qos)
			got := c.ReceivePayload("x").Properties.SubscriptionIdentifier
			slices.Sort(got)
			if d := cmp.Diff([]int{1, 128, 16384, 268435455}, got); d != "" {
				s.Error(d)
			}
		}
		c.ExpectNothing()
		c.Unsubscribe(s.topic("a/+"), s.topic("a/b"))
		s.confirmed(p, s.topic("a/b"), "x", 0)
		got := c.ReceivePayload("x").Properties.SubscriptionIdentifier
		slices.Sort(got)
		if d := cmp.Diff([]int{16384, 268435455}, got); d != "" {
			s.Error(d)
		}
	})
	everywhere(t, "MQTT-3.3.4-3 each receiver gets its own", v5, func(s *stage) {
		p := s.publisher()
		var receivers []*rawmqtt.Client
		for i := range 5 {
			c := s.client(i%gateways, fmt.Sprint("subscriber", i))
			if i > 0 {
				subscribeID(s, c, i, packets.Subscription{Filter: s.topic("a"), Qos: byte(i % 3)})
			} else {
				c.MustSubscribe(s.topic("a"), 1)
			}
			receivers = append(receivers, c)
		}
		s.confirmed(p, s.topic("a"), "x", 0)
		for i, c := range receivers {
			var want []int
			if i > 0 {
				want = []int{i}
			}
			if d := cmp.Diff(want, c.ReceivePayload("x").Properties.SubscriptionIdentifier); d != "" {
				s.Errorf("subscriber %d: %s", i, d)
			}
		}
	})
	everywhere(t, "MQTT-3.3.4-3 a direct message matches no subscription and carries none", v5, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		subscribeID(s, c, 5, packets.Subscription{Filter: s.topic("#")})
		s.confirmed(p, "p2p/"+s.id("subscriber")+"/a", "x", 0)
		if got := c.ReceivePayload("x").Properties.SubscriptionIdentifier; got != nil {
			s.Errorf("Subscription Identifier %v", got)
		}
	})
}

func TestNoLocal(t *testing.T) {
	t.Parallel()
	everywhere(t, "MQTT-3.8.3-3 a message does not come back to its publisher, and reaches all others", v5, func(s *stage) {
		c, other := s.client(0, "both"), s.client(1, "other")
		for _, x := range []*rawmqtt.Client{c, other} {
			x.Subscribe(packets.Subscription{Filter: s.topic("a"), Qos: 1, NoLocal: true})
		}
		for qos := range byte(3) {
			c.Publish(s.topic("a"), "mine", qos)
			other.ReceivePayload("mine")
		}
		c.ExpectNothing()
		s.confirmed(other, s.topic("a"), "yours", 0)
		c.ReceivePayload("yours")
		other.ExpectNothing()
	})
	everywhere(t, "3.8.3.1 it concerns the one subscription that asks for it", v5, func(s *stage) {
		c := s.subscriber()
		subscribeID(s, c, 1, packets.Subscription{Filter: s.topic("a"), Qos: 2, NoLocal: true})
		subscribeID(s, c, 2, packets.Subscription{Filter: s.topic("+"), Qos: 1})
		c.Send(publishPacket(s.topic("a"), "x", 0, 0))
		if d := cmp.Diff([]int{2}, c.ReceivePayload("x").Properties.SubscriptionIdentifier); d != "" {
			s.Error(d)
		}
		c.ExpectNothing()
	})
	everywhere(t, "3.8.3.1 without it a client gets what it publishes", both, func(s *stage) {
		c := s.subscriber()
		c.MustSubscribe(s.topic("a"), 2)
		for qos := range byte(3) {
			pk := publishPacket(s.topic("a"), "x", qos, 100+uint16(qos))
			c.Send(pk)
			got := map[byte]int{}
			for range 1 + min(qos, 1) { // the message, and PUBACK or PUBREC
				in, err := c.Next(rawmqtt.Patience)
				if err != nil {
					s.Fatal(err)
				}
				got[in.FixedHeader.Type]++
				if in.FixedHeader.Type == packets.Publish && in.FixedHeader.Qos == 1 {
					c.Ack(packets.Puback, in.PacketID)
				}
			}
			if got[packets.Publish] != 1 {
				s.Errorf("QoS %d: got %v", qos, got)
			}
		}
	})
}

func TestUnsubscribe(t *testing.T) {
	t.Parallel()
	everywhere(t, "MQTT-3.10.4-2 MQTT-3.10.4-4 after UNSUBACK nothing new comes, wherever it is published", both, func(s *stage) {
		p, c, other := s.publisher(), s.subscriber(), s.client(2, "other")
		other.MustSubscribe(s.topic("a"), 1)
		for range 25 {
			c.MustSubscribe(s.topic("a"), 1)
			s.confirmed(p, s.topic("a"), "x", 0)
			c.ReceivePayload("x")
			c.Unsubscribe(s.topic("a"))
			s.confirmed(p, s.topic("a"), "y", 0)
			c.ExpectNothing()
			other.ReceivePayload("x")
			other.ReceivePayload("y")
		}
	})
	everywhere(t, "MQTT-3.10.4-1 filters are compared character by character", both, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		c.MustSubscribe(s.topic("+"), 1)
		ack := c.Unsubscribe(s.topic("a"), s.topic("#"), s.topic("+/"), "+/a", "$share/g/"+s.topic("+"))
		if s.is5() {
			if d := cmp.Diff([]byte{0x11, 0x11, 0x11, 0x11, 0x11}, ack.ReasonCodes); d != "" {
				s.Error(d)
			}
		}
		s.confirmed(p, s.topic("a"), "x", 0)
		c.ReceivePayload("x")
	})
	everywhere(t, "MQTT-3.10.4-5 MQTT-3.10.4-6 MQTT-3.11.3-1 one UNSUBACK with one code for each filter, in order", both, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		c.MustSubscribe(s.topic("a"), 1)
		c.MustSubscribe("$share/g/"+s.topic("b"), 1)
		pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Unsubscribe}, PacketID: 54321}
		for _, f := range []string{s.topic("x"), s.topic("a"), s.topic("a"), "$share/g/" + s.topic("b")} {
			pk.Filters = append(pk.Filters, packets.Subscription{Filter: f})
		}
		c.Send(pk)
		got := c.ExpectAck(packets.Unsuback, 54321)
		if s.is5() {
			if d := cmp.Diff([]byte{0x11, 0, 0x11, 0}, got.ReasonCodes); d != "" {
				s.Error(d)
			}
		} else if got.FixedHeader.Remaining != 2 {
			s.Errorf("UNSUBACK of %d bytes, want 2", got.FixedHeader.Remaining)
		}
		s.confirmed(p, s.topic("a"), "x", 0x10)
		s.confirmed(p, s.topic("b"), "x", 0x10)
		c.ExpectNothing()
	})
	everywhere(t, "3.10.4 unsubscribing what another client holds is no success", v5, func(s *stage) {
		c, other := s.subscriber(), s.client(2, "other")
		other.MustSubscribe(s.topic("a"), 1)
		if d := cmp.Diff([]byte{0x11}, c.Unsubscribe(s.topic("a")).ReasonCodes); d != "" {
			s.Error(d)
		}
		s.confirmed(s.publisher(), s.topic("a"), "x", 0)
		other.ReceivePayload("x")
	})
	everywhere(t, "MQTT-3.10.4-3 deliveries that have begun are completed", both, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		c.MustSubscribe(s.topic("a"), 2)
		p.Publish(s.topic("a"), "x", 2)
		id := c.Expect(packets.Publish).PacketID
		c.Unsubscribe(s.topic("a"))
		c.Ack(packets.Pubrec, id)
		s.code(c.ExpectAck(packets.Pubrel, id).ReasonCode, 0)
		c.Ack(packets.Pubcomp, id)
		s.serves(c)
	})
	everywhere(t, "3.10.4 one of several subscriptions that match goes, the others stay", both, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		c.MustSubscribe(s.topic("a"), 2)
		c.MustSubscribe(s.topic("+"), 1)
		c.Unsubscribe(s.topic("a"))
		p.Publish(s.topic("a"), "x", 2)
		if got := c.ReceivePayload("x").FixedHeader.Qos; got != 1 {
			s.Errorf("QoS %d, want 1", got)
		}
		c.ExpectNothing()
	})
}
