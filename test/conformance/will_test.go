package conformance

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// disconnectWith is a DISCONNECT of MQTT 5 with a reason code.
func disconnectWith(code byte) packets.Packet {
	return packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}, ReasonCode: code}
}

// mourner connects a client that gets the wills of the stage, and subscribes it.
func (s *stage) mourner() *rawmqtt.Client {
	s.Helper()
	c := s.subscriber()
	c.MustSubscribe(s.topic("will/#"), 2)
	return c
}

func TestWillIsPublished(t *testing.T) {
	t.Parallel()
	for _, end := range []struct {
		name     string
		versions []byte
		f        func(s *stage, c *rawmqtt.Client)
	}{
		{"MQTT-3.1.2-8 when the connection breaks", both, func(_ *stage, c *rawmqtt.Client) { c.Close() }},
		{"MQTT-3.1.2-8 when the server closes because of an error", both, func(s *stage, c *rawmqtt.Client) {
			c.SendRaw(frame(packets.Pingresp << 4))
			s.closes(c, 0x82)
		}},
		{"MQTT-3.1.2-8 when a packet is malformed", both, func(s *stage, c *rawmqtt.Client) {
			c.SendRaw([]byte{packets.Subscribe << 4, 0})
			s.closes(c, 0x81)
		}},
		{"3.1.4 when the client connects again", both, func(s *stage, c *rawmqtt.Client) {
			s.client(1, "mortal")
			s.closes(c, 0x8e)
		}},
		{"3.14.2.1 after DISCONNECT with 0x04", v5, func(s *stage, c *rawmqtt.Client) {
			c.Send(disconnectWith(4))
			s.closes(c, 0)
		}},
		{"3.14.2.1 after DISCONNECT with 0x04 and nothing behind it", v5, func(s *stage, c *rawmqtt.Client) {
			c.SendRaw([]byte{packets.Disconnect << 4, 1, 4})
			s.closes(c, 0)
		}},
		{"3.14.2.1 after DISCONNECT with an error", v5, func(s *stage, c *rawmqtt.Client) {
			c.Send(disconnectWith(0x83))
			s.closes(c, 0)
		}},
	} {
		everywhere(t, end.name, end.versions, func(s *stage) {
			m := s.mourner()
			c := s.client(0, "mortal", will(s.topic("will/a"), "gone", 1))
			end.f(s, c)
			pk := m.ReceivePayload("gone")
			if h := pk.FixedHeader; pk.TopicName != s.topic("will/a") || h.Qos != 1 || h.Retain || h.Dup {
				s.Errorf("topic %q, %+v", pk.TopicName, h)
			}
			// MQTT-3.1.2-10: it is published once.
			s.confirmed(s.client(0, "witness"), s.topic("will/b"), "more", 0)
			m.ReceivePayload("more")
		})
	}
}

func TestWillAfterSilence(t *testing.T) {
	t.Parallel()
	everywhere(t, "MQTT-3.1.2-8 MQTT-3.1.2-22 a will is published after silence", both, func(s *stage) {
		m := s.mourner()
		s.closes(s.client(0, "mortal", will(s.topic("will/a"), "gone", 1), keepAlive(1)), 0x8d)
		m.ReceivePayload("gone")
	})
}

func TestWillIsNotPublished(t *testing.T) {
	t.Parallel()
	for _, end := range []struct {
		name     string
		versions []byte
		packet   func(s *stage) []byte
	}{
		{"after DISCONNECT", both, func(s *stage) []byte { return frame(packets.Disconnect << 4) }},
		{"after DISCONNECT with 0x00", v5, func(s *stage) []byte { return frame(packets.Disconnect<<4, u8(0)) }},
		{"after DISCONNECT with 0x00 and properties", v5, func(s *stage) []byte {
			return frame(packets.Disconnect<<4, u8(0), props(prop(0x1f, text("bye")), prop(0x26, concat(text("a"), text("b")))))
		}},
	} {
		everywhere(t, "MQTT-3.1.2-10 MQTT-3.14.4-3 "+end.name, end.versions, func(s *stage) {
			m := s.mourner()
			c := s.client(0, "mortal", will(s.topic("will/a"), "wrong", 1))
			c.SendRaw(end.packet(s))
			s.closes(c, 0)
			// The next life of the client begins when the last is over, and ends with a will.
			s.client(0, "mortal", will(s.topic("will/a"), "right", 1)).Close()
			m.ReceivePayload("right")
		})
	}
	everywhere(t, "3.14.2.2.2 after DISCONNECT with 0x00 that changes the expiry asked for", v5, func(s *stage) {
		m := s.mourner()
		c := s.client(0, "mortal", will(s.topic("will/a"), "wrong", 1), durable)
		c.SendRaw(frame(packets.Disconnect<<4, u8(0), props(prop(0x11, u32(60)))))
		s.closes(c, 0)
		s.client(0, "mortal", will(s.topic("will/a"), "right", 1)).Close()
		m.ReceivePayload("right")
	})
}

func TestWillMessage(t *testing.T) {
	t.Parallel()
	everywhere(t, "MQTT-3.1.2-9 MQTT-3.1.3-10 a will has its properties, in order", v5, func(s *stage) {
		m := s.mourner()
		c := s.client(0, "mortal", will(s.topic("will/a"), "gone", 2), func(p *packets.Packet) {
			p.Mods.AllowResponseInfo = true
			p.Connect.WillProperties = packets.Properties{
				PayloadFormat: 1, PayloadFormatFlag: true, MessageExpiryInterval: 100, ContentType: "text/plain",
				ResponseTopic: "who/asks", CorrelationData: []byte{0, 1, 0xff},
				User: []packets.UserProperty{{Key: "b", Val: "1"}, {Key: "a", Val: "2"}, {Key: "b", Val: "3"}},
			}
		})
		c.Close()
		got := m.ReceivePayload("gone").Properties
		if left := got.MessageExpiryInterval; left < 90 || left > 100 {
			s.Errorf("Message Expiry Interval %d, want about 100", left)
		}
		got.MessageExpiryInterval = 0
		want := packets.Properties{
			PayloadFormat: 1, PayloadFormatFlag: true, ContentType: "text/plain",
			ResponseTopic: "who/asks", CorrelationData: []byte{0, 1, 0xff},
			User: []packets.UserProperty{{Key: "b", Val: "1"}, {Key: "a", Val: "2"}, {Key: "b", Val: "3"}},
		}
		if d := cmp.Diff(want, got); d != "" {
			s.Error(d)
		}
	})
	everywhere(t, "MQTT-3.1.2-9 a will may be empty", both, func(s *stage) {
		m := s.mourner()
		s.client(0, "mortal", will(s.topic("will/a"), "", 0)).Close()
		m.ReceivePayload("")
	})
	everywhere(t, "MQTT-3.1.2-8 a Will Delay Interval is over when the session is", v5, func(s *stage) {
		m := s.mourner()
		s.client(0, "mortal", will(s.topic("will/a"), "gone", 1), func(p *packets.Packet) {
			p.Connect.WillProperties.WillDelayInterval = 3600
		}).Close()
		m.ReceivePayload("gone")
	})
	everywhere(t, "4.3 a will comes at its QoS", both, func(s *stage) {
		m := s.mourner()
		for qos := range byte(3) {
			s.client(0, "mortal", will(s.topic("will/a"), "gone", qos)).Close()
			if got := m.ReceivePayload("gone").FixedHeader.Qos; got != qos {
				s.Errorf("QoS %d, want %d", got, qos)
			}
		}
	})
	everywhere(t, "4.8.2 a will reaches shared subscriptions and clients by their id", both, func(s *stage) {
		m := s.subscriber()
		m.MustSubscribe("$share/g/"+s.topic("will/#"), 1)
		s.client(0, "mortal", will(s.topic("will/a"), "shared", 1)).Close()
		m.ReceivePayload("shared")
		s.client(0, "mortal", will("p2p/"+s.id("subscriber")+"/a", "direct", 1)).Close()
		m.ReceivePayload("direct")
	})
	everywhere(t, "3.8.3.1 a will is not kept from another connection by No Local", v5, func(s *stage) {
		m := s.subscriber()
		m.Subscribe(packets.Subscription{Filter: s.topic("will/a"), Qos: 1, NoLocal: true})
		s.client(0, "mortal", will(s.topic("will/a"), "gone", 1)).Close()
		m.ReceivePayload("gone")
	})
}

func TestWillIsRefused(t *testing.T) {
	t.Parallel()
	everywhere(t, "MQTT-3.1.3-11 MQTT-4.7.0-1 a will for no topic name is refused", both, func(s *stage) {
		for _, topic := range []string{"a/#", "+/a", ""} {
			c := s.dial(1)
			c.Send(rawmqtt.ConnectPacket(s.version, s.id("a"), will(topic, "x", 0)))
			if code := refused(s, c); s.is5() && code >= 0 && code < 0x80 {
				s.Errorf("CONNACK %#x for %q", code, topic)
			}
		}
		c := s.dial(1)
		c.SendRaw(connectBytes("MQTT", s.version, 0x06, s.props5(), text(s.id("a")), s.props5(), text("\xff"), text("x")))
		refused(s, c)
	})
	everywhere(t, "3.1.3.2 a will with a property that is wrong is refused", v5, func(s *stage) {
		for _, b := range [][]byte{
			prop(0x01, u8(2)), prop(0x23, u16(1)), concat(prop(0x18, u32(1)), prop(0x18, u32(1))), prop(0x08, text("a/#")),
		} {
			c := s.dial(1)
			c.SendRaw(connectBytes("MQTT", 5, 0x06, props(), text(s.id("a")), props(b), text(s.topic("will")), text("x")))
			refused(s, c)
		}
	})
}

// delayed is a will with a Will Delay Interval.
func delayed(topic, payload string, seconds uint32) rawmqtt.Option {
	w := will(topic, payload, 1)
	return func(p *packets.Packet) {
		w(p)
		p.Connect.WillProperties.WillDelayInterval = seconds
	}
}

func retainedWill(topic, payload string, qos byte) rawmqtt.Option {
	w := will(topic, payload, qos)
	return func(p *packets.Packet) {
		w(p)
		p.Connect.WillRetain = true
	}
}

func TestWillOfASession(t *testing.T) {
	t.Parallel()
	everywhere(t, "MQTT-3.1.2-8 MQTT-3.1.2-10 the will of each connection is published when it ends, the session goes on", both, func(s *stage) {
		m := s.mourner()
		for i := range 4 {
			c, _ := s.come(i, "mortal", will(s.topic("will/a"), fmt.Sprint(i), 1))
			if i%2 == 0 {
				c.Close()
			} else {
				s.back(i+1, "mortal") // with no will: that of the connection before is due now
				s.closes(c, 0x8e)
			}
			m.ReceivePayload(fmt.Sprint(i))
		}
		m.ExpectNothing()
	})
	everywhere(t, "MQTT-3.1.2-10 MQTT-3.14.4-3 after DISCONNECT the will is removed: neither the end of the session nor another connection brings it", v5, func(s *stage) {
		m := s.mourner()
		c := s.begin(0, "mortal", will(s.topic("will/a"), "wrong", 1), rawmqtt.Durable(1))
		c.MustSubscribe(s.topic("a"), 1)
		s.leave(c)
		s.nobodyLeft(s.topic("a"))
		s.client(1, "mortal", will(s.topic("will/a"), "right", 1)).Close()
		m.ReceivePayload("right")
		m.ExpectNothing()
	})
	everywhere(t, "MQTT-3.1.2-8 a client that is away receives a will", both, func(s *stage) {
		m := s.begin(1, "away")
		m.MustSubscribe(s.topic("will/#"), 2)
		s.leave(m)
		for qos := byte(1); qos <= 2; qos++ {
			c := s.client(0, "mortal", will(s.topic("will/a"), fmt.Sprint(qos), qos))
			c.SendRaw(frame(packets.Pingresp << 4))
			s.closes(c, 0x82)
			// It is there when somebody else has got it.
			witness := s.client(2, fmt.Sprint("witness", qos))
			witness.MustSubscribe(s.topic("will/b"), qos)
			s.client(0, "mortal", will(s.topic("will/b"), "seen", qos)).Close()
			witness.ReceivePayload("seen")
		}
		m = s.back(2, "away")
		got := map[string]int{} // there is no order between the wills of two clients
		for range 4 {
			got[string(m.Receive().Payload)]++
		}
		if d := cmp.Diff(map[string]int{"1": 1, "2": 1, "seen": 2}, got); d != "" {
			s.Error(d)
		}
		m.ExpectNothing()
	})
	everywhere(t, "p2p/ a will waits for the client that it is for", both, func(s *stage) {
		c := s.begin(1, "away")
		s.leave(c)
		s.client(0, "mortal", will("p2p/"+s.id("away")+"/a", "direct", 1)).Close()
		c = s.back(2, "away")
		c.ReceivePayload("direct")
	})
}

func TestRetainedWill(t *testing.T) {
	t.Parallel()
	everywhere(t, "MQTT-3.1.2-15 3.1.1 MQTT-3.1.2-17 a will with Will Retain is retained, and comes live without RETAIN", both, func(s *stage) {
		m := s.mourner()
		s.retainedNow(m) // nothing, but it is over
		for qos := range byte(3) {
			s.client(0, "mortal", retainedWill(s.topic("will/a"), fmt.Sprint(qos), qos)).Close()
			if h := m.ReceivePayload(fmt.Sprint(qos)).FixedHeader; h.Retain || h.Qos != qos {
				s.Errorf("%+v", h)
			}
			got := s.retained(2, "late", packets.Subscription{Filter: s.topic("will/+"), Qos: 2})
			pk := got[s.topic("will/a")]
			if len(got) != 1 || string(pk.Payload) != fmt.Sprint(qos) || pk.FixedHeader.Qos != qos || !pk.FixedHeader.Retain {
				s.Errorf("%q: %q, %+v", topics(got), pk.Payload, pk.FixedHeader)
			}
		}
		// MQTT-3.1.2-14: one without is not, and an empty one clears.
		s.client(0, "mortal", will(s.topic("will/b"), "not retained", 1)).Close()
		m.ReceivePayload("not retained")
		s.client(0, "mortal", retainedWill(s.topic("will/a"), "", 1)).Close()
		m.ReceivePayload("")
		if got := s.retained(2, "late", packets.Subscription{Filter: s.topic("will/+"), Qos: 2}); len(got) != 0 {
			s.Errorf("got %q", topics(got))
		}
	})
	everywhere(t, "MQTT-3.3.1-13 a retained will keeps RETAIN where Retain As Published is set", v5, func(s *stage) {
		m := s.subscriber()
		m.Subscribe(packets.Subscription{Filter: s.topic("will/a"), Qos: 1, RetainAsPublished: true, RetainHandling: 2})
		s.client(0, "mortal", retainedWill(s.topic("will/a"), "gone", 1)).Close()
		if !m.ReceivePayload("gone").FixedHeader.Retain {
			s.Error("without RETAIN")
		}
		s.retain(s.publisher(), s.topic("will/a"), "", 1)
	})
}

func TestWillDelay(t *testing.T) {
	t.Parallel()
	everywhere(t, "3.1.3.2.2 a will waits for its delay", v5, func(s *stage) {
		m := s.mourner()
		c := s.begin(0, "mortal", delayed(s.topic("will/a"), "late", 1))
		began := time.Now()
		c.Close()
		s.begin(1, "hasty", delayed(s.topic("will/a"), "at once", 0)).Close()
		m.ReceivePayload("at once")
		m.ReceivePayload("late")
		if took := time.Since(began); took < time.Second {
			s.Errorf("after %v", took)
		}
		s.back(2, "mortal")
		m.ExpectNothing()
	})
	everywhere(t, "MQTT-3.1.3-9 a client that continues its session in time leaves no will", v5, func(s *stage) {
		m := s.mourner()
		c := s.begin(0, "mortal", delayed(s.topic("will/a"), "wrong", 1))
		for i := range 3 { // it goes and comes back, or is taken over
			c = s.ended(1+i, c, "mortal", delayed(s.topic("will/a"), "wrong", 1))
		}
		c = s.ended(1, c, "mortal")
		// Its delay has passed when that of another has, which began later.
		s.begin(2, "other", delayed(s.topic("will/b"), "other", 1)).Close()
		m.ReceivePayload("other")
		s.serves(c)
		m.ExpectNothing()
	})
	everywhere(t, "MQTT-3.1.3-9 a will comes when the session ends, if that is before its delay", v5, func(s *stage) {
		m := s.mourner()
		began := time.Now()
		s.begin(0, "mortal", delayed(s.topic("will/a"), "ended", 3600), rawmqtt.Durable(1)).Close()
		m.ReceivePayload("ended")
		if took := time.Since(began); took < time.Second {
			s.Errorf("after %v", took)
		}
		s.begin(1, "mortal")
		m.ExpectNothing()
	})
	for _, end := range []struct {
		name string
		f    func(s *stage, c *rawmqtt.Client)
	}{
		{"a clean start after the connection", func(s *stage, c *rawmqtt.Client) {
			c.Close()
			s.client(1, "mortal")
		}},
		{"a clean start that takes over", func(s *stage, c *rawmqtt.Client) {
			s.client(1, "mortal")
			s.closes(c, 0x8e)
		}},
		{"DISCONNECT 0x04 with an expiry of 0", func(s *stage, c *rawmqtt.Client) {
			c.SendRaw(frame(packets.Disconnect<<4, u8(4), props(prop(0x11, u32(0)))))
			s.closes(c, 0)
		}},
	} {
		everywhere(t, "MQTT-3.1.3-9 a will comes at once when the session ends: "+end.name, v5, func(s *stage) {
			m := s.mourner()
			end.f(s, s.begin(0, "mortal", delayed(s.topic("will/a"), "ended", 3600)))
			m.ReceivePayload("ended")
			m.ExpectNothing()
		})
	}
	everywhere(t, "3.14.2.1 after DISCONNECT 0x04 a will waits for its delay, after 0x00 there is none", v5, func(s *stage) {
		m := s.mourner()
		for i, payload := range []string{"wrong", "right"} {
			c := s.begin(0, payload, delayed(s.topic("will/a"), payload, 1))
			c.SendRaw(frame(packets.Disconnect<<4, u8(byte(4*i))))
			s.closes(c, 0)
		}
		began := time.Now()
		m.ReceivePayload("right")
		if took := time.Since(began); took < 800*time.Millisecond {
			s.Errorf("after %v", took)
		}
		m.ExpectNothing()
	})
	everywhere(t, "3.1.3.2.4 the Message Expiry Interval of a will begins when it is published", v5, func(s *stage) {
		m := s.mourner()
		s.begin(0, "mortal", delayed(s.topic("will/a"), "gone", 1), func(p *packets.Packet) {
			p.Connect.WillProperties.MessageExpiryInterval = 100
			p.Connect.WillProperties.ContentType = "c"
		}).Close()
		got := m.ReceivePayload("gone").Properties
		if left := got.MessageExpiryInterval; left < 99 || left > 100 || got.ContentType != "c" {
			s.Errorf("%d seconds left, content type %q", left, got.ContentType)
		}
	})
	everywhere(t, "3.1.3.2.4 a will expires like any message while its receiver is away", v5, func(s *stage) {
		m := s.begin(1, "away")
		m.MustSubscribe(s.topic("will/#"), 1)
		s.leave(m)
		for i, seconds := range []uint32{1, 60} {
			s.client(0, fmt.Sprint("mortal", i), will(s.topic("will/a"), fmt.Sprint(seconds), 1), func(p *packets.Packet) {
				p.Connect.WillProperties.MessageExpiryInterval = seconds
			}).Close()
		}
		// A will that is published later than both, and takes longer than the shorter lives.
		witness := s.client(2, "witness")
		witness.MustSubscribe(s.topic("will/b"), 1)
		s.begin(0, "mortal", delayed(s.topic("will/b"), "last", 2)).Close()
		witness.ReceivePayload("last")
		m = s.back(2, "away")
		m.ReceivePayload("60")
		m.ReceivePayload("last")
		m.ExpectNothing()
	})
}
