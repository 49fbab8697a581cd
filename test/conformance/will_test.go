package conformance

import (
	"testing"

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
