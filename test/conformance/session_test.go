package conformance

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/test/clustertest"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// nobodyLeft waits until a message to the topic is for nobody: whoever was subscribed has no session any more.
func (s *stage) nobodyLeft(topic string) {
	s.Helper()
	p := rawmqtt.Connect(s.T, s.address(0), rawmqtt.V5, s.id("nobody left"))
	clustertest.Eventually(s.T, "nobody subscribes", func() bool { return p.Publish(topic, "nobody left", 1).ReasonCode == 0x10 })
}

func TestSessionPresent(t *testing.T) {
	t.Parallel()
	everywhere(t, "MQTT-3.1.2-4 MQTT-3.1.2-5 MQTT-3.1.2-6 MQTT-3.2.2-2 MQTT-3.2.2-3 CONNACK says whether there was a session", both, func(s *stage) {
		for i, step := range []struct {
			opts []rawmqtt.Option
			want bool
		}{
			{[]rawmqtt.Option{durable}, false},
			{[]rawmqtt.Option{durable}, true},
			{[]rawmqtt.Option{durable}, true},
			{[]rawmqtt.Option{clean}, false}, // ends it, and the new one ends with its connection
			{[]rawmqtt.Option{durable}, false},
			{[]rawmqtt.Option{durable}, true},
		} {
			c := s.dial(i)
			ack := c.Hello(s.id("a"), step.opts...)
			if ack.ReasonCode != 0 || ack.SessionPresent != step.want {
				s.Errorf("connection %d: CONNACK %#x, session present: %v, want %v", i, ack.ReasonCode, ack.SessionPresent, step.want)
			}
			if i%2 == 0 {
				c.Disconnect()
			} else {
				c.Close()
			}
		}
	})
	everywhere(t, "MQTT-3.1.2-4 a clean start with an expiry begins a session that goes on", v5, func(s *stage) {
		s.begin(0, "a")
		for i := range 3 {
			c := s.dial(i)
			if ack := c.Hello(s.id("a"), durable, clean); ack.SessionPresent {
				s.Error("a session is present after a clean start")
			}
			s.back(i+1, "a")
		}
	})
	everywhere(t, "MQTT-3.1.2-5 MQTT-4.1.0-1 a session goes from one version of the protocol to the other", both, func(s *stage) {
		c := s.begin(1, "a")
		c.MustSubscribe(s.topic("a"), 1)
		s.leave(c)
		p := s.publisher()
		for i, v := range []byte{rawmqtt.V311 + rawmqtt.V5 - s.version, s.version} {
			s.confirmed(p, s.topic("a"), fmt.Sprint(i), 0)
			c = rawmqtt.Dial(s.T, s.address(2-i), v)
			if ack := c.Hello(s.id("a"), durable); ack.ReasonCode != 0 || !ack.SessionPresent {
				s.Fatalf("CONNACK %#x, session present: %v", ack.ReasonCode, ack.SessionPresent)
			}
			c.ReceivePayload(fmt.Sprint(i))
			c.Disconnect()
		}
	})
	everywhere(t, "MQTT-3.1.4-3 MQTT-3.1.2-5 a session is taken over again and again", both, func(s *stage) {
		p, c := s.publisher(), s.begin(0, "twin")
		c.MustSubscribe(s.topic("a"), 1)
		for i := range 12 {
			next := s.back(i+1, "twin")
			s.closes(c, 0x8e)
			c = next
			s.confirmed(p, s.topic("a"), fmt.Sprint(i), 0)
			c.ReceivePayload(fmt.Sprint(i))
		}
		c.ExpectNothing()
	})
	everywhere(t, "MQTT-3.2.2-2 an assigned client id may have a session", v5, func(s *stage) {
		id := s.dial(1).Hello("", rawmqtt.Durable(60)).Properties.AssignedClientID
		if ack := s.dial(2).Hello(id, rawmqtt.Durable(60)); !ack.SessionPresent {
			s.Error("no session is present")
		}
	})
}

func TestSessionState(t *testing.T) {
	t.Parallel()
	everywhere(t, "MQTT-3.1.2-5 MQTT-4.5.0-1 what comes while the client is away is there when it returns, in order", both, func(s *stage) {
		p, c := s.publisher(), s.begin(1, "away")
		c.MustSubscribe(s.topic("#"), 2)
		for round := range 3 {
			s.leave(c)
			for i := range 30 {
				qos := byte(1 + i%2)
				if got := p.Publish(s.topic("a"), fmt.Sprint(round, i), qos).ReasonCode; got != 0 {
					s.Fatalf("acknowledged with %#x", got)
				}
			}
			c = s.back(2-round, "away")
			for i := range 30 {
				pk := c.ReceivePayload(fmt.Sprint(round, i))
				if h := pk.FixedHeader; h.Qos != byte(1+i%2) || h.Dup || h.Retain || pk.TopicName != s.topic("a") {
					s.Errorf("message %d: %+v on %q", i, h, pk.TopicName)
				}
			}
			s.confirmed(p, s.topic("a"), "live", 0)
			c.ReceivePayload("live")
			c.ExpectNothing()
		}
	})
	everywhere(t, "4.1 QoS 0 is not kept for a client that is away, and what it was granted holds", both, func(s *stage) {
		p, c := s.publisher(), s.begin(1, "away")
		c.MustSubscribe(s.topic("0"), 0)
		c.MustSubscribe(s.topic("1"), 1)
		s.leave(c)
		for qos := range byte(3) {
			p.Publish(s.topic("0"), "dropped", qos)
			p.Publish(s.topic("1"), fmt.Sprint(qos), qos)
		}
		c = s.back(2, "away")
		for _, payload := range []string{"1", "2"} {
			if got := c.ReceivePayload(payload).FixedHeader.Qos; got != 1 {
				s.Errorf("QoS %d, want 1", got)
			}
		}
		c.ExpectNothing()
	})
	everywhere(t, "MQTT-3.1.2-5 properties come along", v5, func(s *stage) {
		p, c := s.publisher(), s.begin(1, "away")
		c.MustSubscribe(s.topic("a"), 2)
		s.leave(c)
		want := packets.Properties{
			PayloadFormat: 1, PayloadFormatFlag: true, ContentType: "c", ResponseTopic: "r", CorrelationData: []byte{0, 0xff},
			User: []packets.UserProperty{{Key: "b", Val: "1"}, {Key: "a", Val: "2"}, {Key: "b", Val: "3"}},
		}
		for qos := byte(1); qos <= 2; qos++ {
			pk := publishPacket(s.topic("a"), "x", qos, uint16(qos))
			pk.Properties = want
			p.Send(pk)
			p.ExpectAck([...]byte{1: packets.Puback, 2: packets.Pubrec}[qos], pk.PacketID)
		}
		c = s.back(2, "away")
		for range 2 {
			if d := cmp.Diff(want, c.ReceivePayload("x").Properties); d != "" {
				s.Error(d)
			}
		}
	})
	everywhere(t, "MQTT-3.1.2-4 a clean start ends subscriptions and messages", both, func(s *stage) {
		p, c := s.publisher(), s.begin(1, "away")
		c.MustSubscribe(s.topic("a"), 2)
		s.leave(c)
		s.confirmed(p, s.topic("a"), "old", 0)
		c = s.client(2, "away") // clean
		s.confirmed(p, s.topic("a"), "nobody", 0x10)
		c.ExpectNothing()
		c.MustSubscribe(s.topic("a"), 2)
		s.confirmed(p, s.topic("a"), "new", 0)
		c.ReceivePayload("new")
		c.Disconnect()
		s.begin(0, "away").ExpectNothing()
		s.confirmed(p, s.topic("a"), "nobody", 0x10)
	})
	everywhere(t, "MQTT-3.1.2-4 a clean start ends the session of a connection that is still there", both, func(s *stage) {
		p, old := s.publisher(), s.begin(1, "twin")
		old.MustSubscribe(s.topic("a"), 1)
		s.confirmed(p, s.topic("a"), "old", 0)
		c := s.client(2, "twin")
		c.ExpectNothing()
		s.confirmed(p, s.topic("a"), "nobody", 0x10)
		c.ExpectNothing()
	})
	everywhere(t, "p2p/ reaches a client that is away, if it has a session", both, func(s *stage) {
		p, c := s.publisher(), s.begin(1, "away")
		topic := "p2p/" + s.id("away") + "/a"
		s.leave(c)
		for qos := byte(1); qos <= 2; qos++ {
			if got := p.Publish(topic, fmt.Sprint(qos), qos).ReasonCode; got != 0 {
				s.Errorf("acknowledged with %#x", got)
			}
		}
		c = s.back(2, "away")
		c.ReceivePayload("1")
		c.ReceivePayload("2")
		c.ExpectNothing()
	})
	everywhere(t, "4.8.2 members that are away get nothing, and are members when they return", both, func(s *stage) {
		p, c, other := s.publisher(), s.begin(1, "away"), s.client(2, "other")
		for _, x := range []*rawmqtt.Client{c, other} {
			x.MustSubscribe("$share/g/"+s.topic("a"), 1)
		}
		s.leave(c)
		for i := range 10 {
			p.Send(publishPacket(s.topic("a"), fmt.Sprint(i), 1, uint16(1+i)))
			other.ReceivePayload(fmt.Sprint(i))
			p.ExpectAck(packets.Puback, uint16(1+i))
		}
		s.leave(other)
		c = s.back(2, "away")
		c.ExpectNothing()
		got := listen(c)
		clustertest.Eventually(s.T, "the member is back", func() bool {
			p.Publish(s.topic("a"), "x", 0)
			return len(got) > 0
		})
	})
}

func TestSessionSubscriptions(t *testing.T) {
	t.Parallel()
	everywhere(t, "4.1 MQTT-3.1.2-5 subscriptions keep their QoS, options and identifiers", v5, func(s *stage) {
		p, c := s.publisher(), s.begin(1, "moves")
		subscribeID(s, c, 7, packets.Subscription{Filter: s.topic("a/+"), Qos: 1, RetainAsPublished: true})
		subscribeID(s, c, 268435455, packets.Subscription{Filter: s.topic("a/#"), Qos: 2, NoLocal: true})
		c.Subscribe(packets.Subscription{Filter: s.topic("mine"), Qos: 2, NoLocal: true})
		check := func(c *rawmqtt.Client) {
			s.Helper()
			pk := c.ReceivePayload("x")
			ids := pk.Properties.SubscriptionIdentifier
			slices.Sort(ids)
			if d := cmp.Diff([]int{7, 268435455}, ids); d != "" || pk.FixedHeader.Qos != 2 || !pk.FixedHeader.Retain {
				s.Errorf("%+v %s", pk.FixedHeader, d)
			}
		}
		for i := range 3 {
			s.leave(c)
			s.retain(p, s.topic("a/b"), "x", 2) // while it is away
			c = s.back(i, "moves")
			check(c)
			s.retain(p, s.topic("a/b"), "x", 2)
			check(c)
			c.Publish(s.topic("mine"), "own", 1)
			c.ExpectNothing()
		}
		s.retain(p, s.topic("a/b"), "", 1)
	})
	everywhere(t, "MQTT-3.10.4-2 what was unsubscribed does not come back", both, func(s *stage) {
		p, c := s.publisher(), s.begin(1, "moves")
		for _, f := range []string{"a", "b", "c"} {
			c.MustSubscribe(s.topic(f), 1)
		}
		c.Unsubscribe(s.topic("a"))
		s.leave(c)
		s.confirmed(p, s.topic("a"), "wrong", 0x10)
		s.confirmed(p, s.topic("b"), "b", 0)
		c = s.back(2, "moves")
		c.ReceivePayload("b")
		c.Unsubscribe(s.topic("b"))
		c.Close()
		c = s.back(0, "moves")
		s.confirmed(p, s.topic("b"), "wrong", 0x10)
		s.confirmed(p, s.topic("c"), "c", 0)
		c.ReceivePayload("c")
		c.ExpectNothing()
	})
	everywhere(t, "MQTT-3.8.4-3 a subscription that was replaced comes back as it was last", both, func(s *stage) {
		p, c := s.publisher(), s.begin(1, "moves")
		for i, qos := range []byte{0, 2, 1} {
			c.MustSubscribe(s.topic("a"), qos)
			c.Close()
			c = s.back(i, "moves")
			p.Publish(s.topic("a"), "x", 2)
			if got := c.ReceivePayload("x").FixedHeader.Qos; got != qos {
				s.Errorf("QoS %d, want %d", got, qos)
			}
		}
	})
	everywhere(t, "3.9.3 the limit of subscriptions counts those that the session has", both, func(s *stage) {
		c := s.begin(1, "moves")
		for i := range limits.Subscriptions {
			c.MustSubscribe(s.topic(fmt.Sprint(i)), 1)
		}
		s.leave(c)
		c = s.back(2, "moves")
		want := map[byte]byte{rawmqtt.V311: 0x80, rawmqtt.V5: 0x97}[s.version]
		if got := c.Subscribe(packets.Subscription{Filter: s.topic("more")}).ReasonCodes[0]; got != want {
			s.Errorf("SUBACK %#x, want %#x", got, want)
		}
		c.MustSubscribe(s.topic("0"), 2)
		if got := c.Unsubscribe(s.topic("1"), s.topic("more")).ReasonCodes; s.is5() {
			if d := cmp.Diff([]byte{0, 0x11}, got); d != "" {
				s.Error(d)
			}
		}
		s.serves(s.client(0, "moves")) // and forget them
	})
}

func TestSessionExpiry(t *testing.T) {
	t.Parallel()
	everywhere(t, "3.1.2.11.2 a Session Expiry Interval of 0 at CONNECT ends the session with the connection", v5, func(s *stage) {
		p, c := s.publisher(), s.begin(1, "a")
		c.MustSubscribe(s.topic("a"), 1)
		s.leave(c)
		s.confirmed(p, s.topic("a"), "x", 0)
		// It takes up the session that is there, and ends it.
		c = s.back(2, "a", rawmqtt.Durable(0))
		c.ReceivePayload("x")
		s.leave(c)
		s.nobodyLeft(s.topic("a"))
		s.begin(0, "a").ExpectNothing()
	})
	everywhere(t, "MQTT-3.1.2-23 without a Session Expiry Interval a session ends with its connection", v5, func(s *stage) {
		for i := range 3 {
			c := s.dial(i)
			ack := c.Hello(s.id("a"), func(p *packets.Packet) { p.Connect.Clean = false })
			if ack.SessionPresent {
				s.Error("a session is present")
			}
			c.Close()
		}
	})
	everywhere(t, "3.14.2.2.2 DISCONNECT changes the interval: 0 ends the session", v5, func(s *stage) {
		c := s.begin(1, "a")
		c.MustSubscribe(s.topic("a"), 1)
		c.SendRaw(frame(packets.Disconnect<<4, u8(0), props(prop(0x11, u32(0)))))
		s.closes(c, 0)
		s.nobodyLeft(s.topic("a"))
		s.begin(2, "a").ExpectNothing()
	})
	everywhere(t, "3.14.2.2.2 DISCONNECT changes the interval: longer", v5, func(s *stage) {
		c := s.begin(1, "a", rawmqtt.Durable(1))
		c.SendRaw(frame(packets.Disconnect<<4, u8(0), props(prop(0x11, u32(3600)))))
		s.closes(c, 0)
		<-time.After(1500 * time.Millisecond)
		// Each connection says anew how long.
		c = s.back(2, "a", rawmqtt.Durable(1))
		s.leave(c)
		<-time.After(1500 * time.Millisecond)
		s.begin(1, "a")
	})
	everywhere(t, "3.14.2.2.2 an interval that was 0 cannot be changed: 0x82", v5, func(s *stage) {
		c := s.subscriber()
		c.SendRaw(frame(packets.Disconnect<<4, u8(0), props(prop(0x11, u32(60)))))
		s.closes(c, 0x82)
		s.begin(2, "subscriber")
	})
	everywhere(t, "MQTT-4.1.0-2 a session ends when its interval has passed, and not before", v5, func(s *stage) {
		p, c := s.publisher(), s.begin(1, "a", rawmqtt.Durable(1))
		c.MustSubscribe(s.topic("a"), 1)
		<-time.After(1100 * time.Millisecond) // the connection is open: the interval does not run (MQTT-4.1.0-1)
		c.Close()
		c = s.back(2, "a", rawmqtt.Durable(1))
		s.confirmed(p, s.topic("a"), "x", 0)
		c.ReceivePayload("x")
		began := time.Now()
		s.leave(c)
		s.nobodyLeft(s.topic("a"))
		if took := time.Since(began); took < time.Second {
			s.Errorf("the session ended after %v", took)
		}
		s.begin(0, "a").ExpectNothing()
	})
	everywhere(t, "3.2.2.3.2 an interval that is too long becomes the longest, and the client is told", v5, func(s *stage) {
		most := uint32(limits.SessionExpiryMaximum / time.Second)
		for asked, want := range map[uint32]uint32{1: 0, 3600: 0, most: 0, most + 1: most, 0xffffffff: most} {
			p := s.dial(1).Hello(fmt.Sprintf("%s-%d", s.name, asked), rawmqtt.Durable(asked)).Properties
			if p.SessionExpiryIntervalFlag != (want != 0) || p.SessionExpiryInterval != want {
				s.Errorf("asked for %d, got %d (there: %v), want %d", asked, p.SessionExpiryInterval, p.SessionExpiryIntervalFlag, want)
			}
		}
	})
}
