package conformance

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// retain publishes a message with RETAIN 1 and waits for its acknowledgement, if there is one.
func (s *stage) retain(p *rawmqtt.Client, topic, payload string, qos byte, change ...rawmqtt.Option) {
	s.Helper()
	pk := publishPacket(topic, payload, qos, 0)
	pk.FixedHeader.Retain = true
	for _, f := range change {
		f(&pk)
	}
	if qos == 0 {
		p.Send(pk)
		return
	}
	pk.PacketID = p.ID()
	p.Send(pk)
	if code := p.ExpectAck([...]byte{1: packets.Puback, 2: packets.Pubrec}[qos], pk.PacketID).ReasonCode; code >= 0x80 {
		s.Fatalf("acknowledged with %#x", code)
	}
	if qos == 2 {
		p.Ack(packets.Pubrel, pk.PacketID)
		p.ExpectAck(packets.Pubcomp, pk.PacketID)
	}
}

// retained has a new client subscribe and returns what of retained messages it gets, by topic.
func (s *stage) retained(n int, role string, sub packets.Subscription) map[string]packets.Packet {
	s.Helper()
	c := s.client(n, role)
	c.Subscribe(sub)
	defer s.leave(c)
	return s.retainedNow(c)
}

// retainedNow returns what c gets, by topic, until everything retained has come that it has subscribed to.
func (s *stage) retainedNow(c *rawmqtt.Client) map[string]packets.Packet {
	s.Helper()
	got := make(map[string]packets.Packet)
	// The last thing that the client subscribes to has one retained message.
	end := "end/" + s.name
	p := s.client(0, "ends")
	s.retain(p, end, "end", 1)
	c.Send(packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: c.ID(),
		Filters: packets.Subscriptions{{Filter: end, Qos: 1}},
	})
	for {
		pk, err := c.Next(rawmqtt.Patience)
		if err != nil {
			s.Fatalf("after %d messages: %v", len(got), err)
		}
		switch pk.FixedHeader.Type {
		case packets.Suback:
			continue
		case packets.Publish:
		default:
			s.Fatalf("got %s", packets.PacketNames[pk.FixedHeader.Type])
		}
		switch pk.FixedHeader.Qos {
		case 1:
			c.Ack(packets.Puback, pk.PacketID)
		case 2:
			c.Ack(packets.Pubrec, pk.PacketID)
			c.ExpectAck(packets.Pubrel, pk.PacketID)
			c.Ack(packets.Pubcomp, pk.PacketID)
		}
		if pk.TopicName == end {
			c.Unsubscribe(end)
			s.retain(p, end, "", 1)
			s.leave(p)
			return got
		}
		if _, twice := got[pk.TopicName]; twice {
			s.Errorf("%q comes twice", pk.TopicName)
		}
		got[pk.TopicName] = pk
	}
}

func topics(got map[string]packets.Packet) []string {
	var names []string
	for name := range got {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func TestRetained(t *testing.T) {
	t.Parallel()
	everywhere(t, "MQTT-3.3.1-5 MQTT-3.3.1-8 MQTT-3.3.1-9 a retained message comes to later subscriptions with RETAIN, the last one of each topic", both, func(s *stage) {
		p := s.publisher()
		for qos := range byte(3) {
			s.retain(p, s.topic("a"), "old", qos)
			s.retain(p, s.topic("a"), fmt.Sprint(qos), qos)
			// What comes behind it is acknowledged after it has been stored.
			s.confirmed(p, s.topic("a"), "not retained", 0x10)
			for granted := range byte(3) {
				c := s.client(1+int(granted)%2, "late")
				c.MustSubscribe(s.topic("a"), granted)
				pk := c.ReceivePayload(fmt.Sprint(qos))
				if h := pk.FixedHeader; !h.Retain || h.Dup || h.Qos != min(qos, granted) || pk.TopicName != s.topic("a") {
					s.Errorf("%+v on %q", h, pk.TopicName)
				}
				c.ExpectNothing()
			}
		}
		s.retain(p, s.topic("a"), "", 1)
	})
	everywhere(t, "MQTT-3.3.1-12 3.1.1 MQTT-3.3.1-9 a retained message comes to those who are subscribed without RETAIN", both, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		c.MustSubscribe(s.topic("a"), 2)
		s.retainedNow(c) // nothing, but it is over
		for qos := range byte(3) {
			s.retain(p, s.topic("a"), "x", qos)
			if got := c.ReceivePayload("x").FixedHeader; got.Retain || got.Qos != qos {
				s.Errorf("%+v", got)
			}
		}
		s.retain(p, s.topic("a"), "", 1)
		if c.ReceivePayload("").FixedHeader.Retain {
			s.Error("the empty message has RETAIN")
		}
		c.ExpectNothing()
	})
	everywhere(t, "MQTT-3.3.1-12 MQTT-3.3.1-13 RETAIN is that of the message, or 0, as the subscription asks", v5, func(s *stage) {
		p := s.publisher()
		for i, asPublished := range []bool{true, false} {
			c := s.client(1+i, fmt.Sprint("subscriber", i))
			c.Subscribe(packets.Subscription{Filter: s.topic("a"), Qos: 2, RetainAsPublished: asPublished, RetainHandling: 2})
			for qos := range byte(3) {
				s.retain(p, s.topic("a"), "x", qos)
				if got := c.ReceivePayload("x").FixedHeader.Retain; got != asPublished {
					s.Errorf("RETAIN %v, Retain As Published is %v", got, asPublished)
				}
				p.Publish(s.topic("a"), "y", qos)
				if c.ReceivePayload("y").FixedHeader.Retain {
					s.Errorf("RETAIN on a message without, Retain As Published is %v", asPublished)
				}
			}
		}
		s.retain(p, s.topic("a"), "", 1)
	})
	everywhere(t, "MQTT-3.3.1-6 MQTT-3.3.1-7 an empty message clears what was retained, and is not retained", both, func(s *stage) {
		p := s.publisher()
		for qos := range byte(3) {
			s.retain(p, s.topic("a"), "x", 1)
			s.retain(p, s.topic("a"), "", qos)
			s.confirmed(p, s.topic("b"), "x", 0x10)
			late := s.client(1, "late")
			late.MustSubscribe(s.topic("a"), 1)
			if got := s.retainedNow(late); len(got) != 0 {
				s.Errorf("QoS %d: got %v", qos, topics(got))
			}
		}
	})
	everywhere(t, "MQTT-3.3.1-5 wildcards find all retained messages, in their topics, once", both, func(s *stage) {
		p := s.publisher()
		names := []string{"a", "a/b", "a/b/c", "a/c", "b", "a//c"}
		for _, name := range names {
			s.retain(p, s.topic(name), name, 1)
		}
		for filter, want := range map[string][]string{
			"#": names, "a/#": {"a", "a/b", "a/b/c", "a/c", "a//c"}, "a/+": {"a/b", "a/c"}, "+": {"a", "b"}, "+/+/c": {"a/b/c", "a//c"},
			"a/b": {"a/b"}, "a/": nil, "a/+/+/+": nil,
		} {
			got := s.retained(2, "late", packets.Subscription{Filter: s.topic(filter), Qos: 1})
			var full []string
			for _, name := range want {
				full = append(full, s.topic(name))
			}
			slices.Sort(full)
			if d := cmp.Diff(full, topics(got)); d != "" {
				s.Errorf("%q: %s", filter, d)
			}
		}
		for _, name := range names {
			s.retain(p, s.topic(name), "", 1)
		}
	})
	everywhere(t, "MQTT-4.7.2-1 retained messages below $ are found by filters that begin so", both, func(s *stage) {
		p := s.publisher()
		topic := "$" + s.name + "/b"
		s.retain(p, topic, "x", 1)
		if got := s.retained(1, "late", packets.Subscription{Filter: "$" + s.name + "/#", Qos: 1}); len(got) != 1 {
			s.Errorf("got %v", topics(got))
		}
		s.retain(p, topic, "", 1)
	})
	everywhere(t, "MQTT-3.3.2-6 a retained message has its properties, and is stored with them", v5, func(s *stage) {
		p := s.publisher()
		want := packets.Properties{
			PayloadFormat: 1, PayloadFormatFlag: true, ContentType: "c", ResponseTopic: "r", CorrelationData: []byte{0, 0xff},
			User: []packets.UserProperty{{Key: "b", Val: "1"}, {Key: "a", Val: "2"}, {Key: "b", Val: "3"}},
		}
		s.retain(p, s.topic("a"), "x", 2, func(pk *packets.Packet) { pk.Properties = want })
		c := s.subscriber()
		subscribeID(s, c, 77, packets.Subscription{Filter: s.topic("+"), Qos: 1})
		want.SubscriptionIdentifier = []int{77}
		if d := cmp.Diff(want, c.ReceivePayload("x").Properties); d != "" {
			s.Error(d)
		}
		s.retain(p, s.topic("a"), "", 1)
	})
	everywhere(t, "p2p/ is never retained", both, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		s.retain(p, "p2p/"+s.id("subscriber")+"/a", "x", 1)
		c.ReceivePayload("x")
		c = s.client(2, "subscriber")
		c.ExpectNothing()
	})
}

func TestRetainHandling(t *testing.T) {
	t.Parallel()
	everywhere(t, "MQTT-3.3.1-9 MQTT-3.3.1-10 MQTT-3.3.1-11 Retain Handling 0 always, 1 for a new subscription, 2 never", v5, func(s *stage) {
		p := s.publisher()
		s.retain(p, s.topic("a"), "x", 1)
		for handling, want := range [][]bool{{true, true, true}, {true, false, false}, {false, false, false}} {
			c := s.client(1, "late")
			for i, comes := range want {
				c.Subscribe(packets.Subscription{Filter: s.topic("a"), Qos: byte(i), RetainHandling: byte(handling)})
				if got := s.retainedNow(c); len(got) == 1 != comes {
					s.Errorf("Retain Handling %d, subscription %d: got %v", handling, i, topics(got))
				}
			}
			c.Unsubscribe(s.topic("a"))
			c.Subscribe(packets.Subscription{Filter: s.topic("a"), RetainHandling: byte(handling)})
			if got := s.retainedNow(c); len(got) == 1 != want[0] {
				s.Errorf("Retain Handling %d, subscribed anew: got %v", handling, topics(got))
			}
		}
		s.retain(p, s.topic("a"), "", 1)
	})
	everywhere(t, "MQTT-3.3.1-10 Retain Handling 1: the subscription of a session that goes on is not new", v5, func(s *stage) {
		p, c := s.publisher(), s.begin(1, "moves")
		s.retain(p, s.topic("a"), "x", 1)
		sub := packets.Subscription{Filter: s.topic("a"), Qos: 1, RetainHandling: 1}
		c.Subscribe(sub)
		c.ReceivePayload("x")
		s.leave(c)
		c = s.back(2, "moves")
		c.Subscribe(sub)
		if got := s.retainedNow(c); len(got) != 0 {
			s.Errorf("got %v", topics(got))
		}
		s.retain(p, s.topic("a"), "", 1)
	})
	everywhere(t, "MQTT-3.8.4-3 in 3.1.1 subscribing again brings retained messages again, resuming a session does not", v311, func(s *stage) {
		p, c := s.publisher(), s.begin(1, "moves")
		s.retain(p, s.topic("a"), "x", 1)
		for range 3 {
			c.MustSubscribe(s.topic("a"), 1)
			if !c.ReceivePayload("x").FixedHeader.Retain {
				s.Error("without RETAIN")
			}
		}
		s.leave(c)
		c = s.back(2, "moves")
		if got := s.retainedNow(c); len(got) != 0 {
			s.Errorf("got %v", topics(got))
		}
		s.retain(p, s.topic("a"), "", 1)
	})
	everywhere(t, "4.8.2 a shared subscription brings no retained messages", both, func(s *stage) {
		p := s.publisher()
		s.retain(p, s.topic("a"), "x", 1)
		if got := s.retained(1, "member", packets.Subscription{Filter: "$share/g/" + s.topic("#"), Qos: 1}); len(got) != 0 {
			s.Errorf("got %v", topics(got))
		}
		s.retain(p, s.topic("a"), "", 1)
	})
	everywhere(t, "MQTT-3.8.4-5 MQTT-3.3.1-9 each filter of a SUBSCRIBE brings its own", v5, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		s.retain(p, s.topic("a"), "a", 2)
		s.retain(p, s.topic("b"), "b", 2)
		c.Subscribe(packets.Subscription{Filter: s.topic("a"), Qos: 1}, packets.Subscription{Filter: s.topic("b"), Qos: 2},
			packets.Subscription{Filter: "a#"}, packets.Subscription{Filter: s.topic("c"), Qos: 2})
		if got := c.ReceivePayload("a").FixedHeader.Qos; got != 1 {
			s.Errorf("QoS %d, want 1", got)
		}
		if got := c.ReceivePayload("b").FixedHeader.Qos; got != 2 {
			s.Errorf("QoS %d, want 2", got)
		}
		for _, name := range []string{"a", "b"} {
			s.retain(p, s.topic(name), "", 1)
			c.ReceivePayload("")
		}
		c.ExpectNothing()
	})
}

func TestRetainedSessions(t *testing.T) {
	t.Parallel()
	everywhere(t, "3.1.1 MQTT-3.1.2-7 retained messages outlive the session of their publisher", both, func(s *stage) {
		p := s.publisher()
		s.retain(p, s.topic("a"), "x", 1)
		s.leave(p)
		s.client(2, "publisher").Disconnect() // a clean start
		if got := s.retained(1, "late", packets.Subscription{Filter: s.topic("a"), Qos: 1}); len(got) != 1 {
			s.Errorf("got %v", topics(got))
		}
		s.retain(s.publisher(), s.topic("a"), "", 1)
	})
	everywhere(t, "MQTT-4.4.0-1 a retained message that is not acknowledged is sent again, with RETAIN", both, func(s *stage) {
		p, c := s.publisher(), s.begin(1, "moves")
		s.retain(p, s.topic("a"), "x", 2)
		for i, qos := range []byte{1, 2} {
			c.MustSubscribe(s.topic("a"), qos)
			first := c.Expect(packets.Publish)
			c.Close()
			c = s.back(2-i, "moves")
			again := c.ReceivePayload("x")
			if h := again.FixedHeader; !h.Retain || !h.Dup || h.Qos != qos || again.PacketID != first.PacketID {
				s.Errorf("%+v with id %d, first %d", h, again.PacketID, first.PacketID)
			}
		}
		s.retain(p, s.topic("a"), "", 1)
	})
	everywhere(t, "MQTT-3.3.2-5 MQTT-3.3.2-6 a retained message expires, and says what is left", v5, func(s *stage) {
		p := s.publisher()
		expires := func(seconds uint32) rawmqtt.Option {
			return func(pk *packets.Packet) { pk.Properties.MessageExpiryInterval = seconds }
		}
		s.retain(p, s.topic("long"), "x", 1, expires(100))
		s.retain(p, s.topic("short"), "x", 1, expires(1))
		stored := time.Now()
		<-time.After(time.Until(stored.Add(1100 * time.Millisecond)))
		got := s.retained(1, "late", packets.Subscription{Filter: s.topic("+"), Qos: 1})
		if d := cmp.Diff([]string{s.topic("long")}, topics(got)); d != "" {
			s.Fatal(d)
		}
		if left := got[s.topic("long")].Properties.MessageExpiryInterval; left > 99 || left < 80 {
			s.Errorf("%d seconds are left", left)
		}
		s.retain(p, s.topic("long"), "", 1)
	})
	everywhere(t, "MQTT-3.3.1-8 everybody who subscribes while it changes ends with the last", both, func(s *stage) {
		const n = 100
		p := s.publisher()
		done := make(chan struct{})
		go func() {
			defer close(done)
			for i := range n {
				pk := rawmqtt.PublishPacket(s.topic("a"), fmt.Sprint(i), 1)
				pk.FixedHeader.Retain, pk.PacketID, pk.ProtocolVersion = true, uint16(1+i), s.version
				_, _ = p.Conn().Write(rawmqtt.Bytes(s.T, pk))
				if pk, err := p.Next(rawmqtt.Patience); err != nil || pk.FixedHeader.Type != packets.Puback {
					s.Errorf("no PUBACK: %v", err)
					return
				}
			}
		}()
		for i := range 8 {
			c := s.client(i, fmt.Sprint("subscriber", i))
			messages := listen(c) // they may come in front of SUBACK
			c.SendRaw(frame(packets.Subscribe<<4|2, u16(1), s.props5(), text(s.topic("a")), u8(1)))
			last := -1
			for last < n-1 {
				var got int
				if _, err := fmt.Sscan(string(s.next(messages).Payload), &got); err != nil || got < last {
					s.Fatalf("got %d after %d: %v", got, last, err)
				}
				last = got
			}
		}
		<-done
		s.retain(p, s.topic("a"), "", 1)
	})
}
