package conformance

import (
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// badPackets are packets that a connected client must not send, and the reason that it is told.
var badPackets = []struct {
	name     string
	versions []byte
	code     byte
	bytes    func(s *stage) []byte
}{
	{"MQTT-2.1.3-1 packet type 0", both, 0x81, fixed(0x00, 0)},
	{"MQTT-2.1.3-1 PINGREQ with flags", both, 0x81, fixed(0xc1, 0)},
	{"MQTT-2.1.3-1 PUBACK with flags", both, 0x81, fixed(0x42, 2, 0, 1)},
	{"MQTT-2.1.3-1 PUBREC with flags", both, 0x81, fixed(0x52, 2, 0, 1)},
	{"MQTT-2.1.3-1 PUBCOMP with flags", both, 0x81, fixed(0x78, 2, 0, 1)},
	{"MQTT-3.6.1-1 PUBREL without its flags", both, 0x81, fixed(0x60, 2, 0, 1)},
	{"MQTT-3.8.1-1 SUBSCRIBE without its flags", both, 0x81, fixed(0x80, 0)},
	{"MQTT-3.10.1-1 UNSUBSCRIBE without its flags", both, 0x81, fixed(0xa0, 0)},
	{"MQTT-3.14.1-1 DISCONNECT with flags", both, 0x81, fixed(0xe1, 0)},
	{"MQTT-3.3.1-4 PUBLISH at QoS 3", both, 0x81, fixed(0x36, 5, 0, 1, 'a', 0, 1)},
	{"MQTT-3.3.1-2 PUBLISH with DUP at QoS 0", both, 0x81, fixed(0x38, 4, 0, 1, 'a', 0)},
	{"1.5.5 a Remaining Length of five bytes", both, 0x81, fixed(0x30, 0x80, 0x80, 0x80, 0x80, 1)},

	{"3.1.1 MQTT-2.2.0-1 CONNACK from a client", both, 0x82, fixed(0x20, 2, 0, 0)},
	{"3.9 SUBACK from a client", both, 0x82, fixed(0x90, 3, 0, 1, 0)},
	{"3.11 UNSUBACK from a client", both, 0x82, fixed(0xb0, 2, 0, 1)},
	{"3.13 PINGRESP from a client", both, 0x82, fixed(0xd0, 0)},

	{"3.12 PINGREQ with a body", both, 0x81, fixed(0xc0, 1, 0)},
	{"3.3.2.1 PUBLISH without a topic", both, 0x81, fixed(0x30, 0)},
	{"3.3.2.1 PUBLISH that ends within its topic", both, 0x81, fixed(0x30, 3, 0, 9, 'a')},
	{"2.2.1 PUBLISH that ends before its identifier", both, 0x81, fixed(0x32, 3, 0, 1, 'a')},
	{"3.4.2 PUBACK without an identifier", both, 0x81, fixed(0x40, 0)},
	{"3.8.2 SUBSCRIBE that ends within its identifier", both, 0x81, fixed(0x82, 1, 0)},
	{"3.8.3 SUBSCRIBE that ends within its filter", both, 0x81, func(s *stage) []byte {
		return frame(0x82, u16(1), s.props5(), u16(9), []byte("a"))
	}},
	{"3.8.3 SUBSCRIBE without options behind its filter", both, 0x81, func(s *stage) []byte {
		return frame(0x82, u16(1), s.props5(), text(s.topic("a")))
	}},
	{"MQTT-2.2.1-3 PUBLISH at QoS 1 with identifier 0", both, 0x82, func(s *stage) []byte {
		return frame(0x32, text(s.topic("a")), u16(0), s.props5())
	}},
	{"MQTT-2.2.1-3 PUBLISH at QoS 2 with identifier 0", both, 0x82, func(s *stage) []byte {
		return frame(0x34, text(s.topic("a")), u16(0), s.props5())
	}},
	{"MQTT-2.2.1-3 SUBSCRIBE with identifier 0", both, 0x82, func(s *stage) []byte {
		return frame(0x82, u16(0), s.props5(), text(s.topic("a")), u8(0))
	}},
	{"MQTT-2.2.1-3 UNSUBSCRIBE with identifier 0", both, 0x82, func(s *stage) []byte {
		return frame(0xa2, u16(0), s.props5(), text(s.topic("a")))
	}},
	{"MQTT-3.8.3-2 SUBSCRIBE without a filter", both, 0x82, func(s *stage) []byte { return frame(0x82, u16(1), s.props5()) }},
	{"MQTT-3.10.3-2 UNSUBSCRIBE without a filter", both, 0x82, func(s *stage) []byte { return frame(0xa2, u16(1), s.props5()) }},

	{"3.1.1 MQTT-3-8.3-4 SUBSCRIBE at QoS 3", v311, 0, func(s *stage) []byte {
		return frame(0x82, u16(1), text(s.topic("a")), u8(3))
	}},
	{"3.1.1 MQTT-3-8.3-4 SUBSCRIBE with options of MQTT 5", v311, 0, func(s *stage) []byte {
		return frame(0x82, u16(1), text(s.topic("a")), u8(4))
	}},
	{"3.1.1 MQTT-3.14.1-1 DISCONNECT with a body", v311, 0, fixed(0xe0, 1, 0)},
	{"3.1.1 2.2.1 AUTH", v311, 0, fixed(0xf0, 0)},

	{"3.8.3.1 SUBSCRIBE at QoS 3", v5, 0x82, options(3)},
	{"3.8.3.1 SUBSCRIBE with Retain Handling 3", v5, 0x82, options(0x30)},
	{"MQTT-3.8.3-5 SUBSCRIBE with a reserved option", v5, 0x81, options(0x40)},
	{"MQTT-3.8.3-4 No Local on a shared subscription", v5, 0x82, func(s *stage) []byte {
		return frame(0x82, u16(1), props(), text("$share/g/"+s.topic("a")), u8(4))
	}},
	{"3.8.2.1.2 SUBSCRIBE with Subscription Identifier 0", v5, 0x82, subscribeWith(prop(0x0b, u8(0)))},
	{"3.8.2.1.2 SUBSCRIBE with two Subscription Identifiers", v5, 0x82, subscribeWith(prop(0x0b, u8(1)), prop(0x0b, u8(2)))},
	{"1.5.5 SUBSCRIBE with a Subscription Identifier of five bytes", v5, 0x81, subscribeWith(prop(0x0b, []byte{0x80, 0x80, 0x80, 0x80, 1}))},
	{"MQTT-1.5.5-1 SUBSCRIBE with a Subscription Identifier in more bytes than it needs", v5, 0x81, subscribeWith(prop(0x0b, []byte{0x81, 0}))},
	{"2.2.2.2 SUBSCRIBE with a property of PUBLISH", v5, 0x81, subscribeWith(prop(0x23, u16(1)))},

	{"MQTT-3.3.4-6 PUBLISH with a Subscription Identifier", v5, 0x82, publishWith(prop(0x0b, u8(1)))},
	{"3.3.2.3.2 PUBLISH with Payload Format Indicator 2", v5, 0x82, publishWith(prop(1, u8(2)))},
	{"3.3.2.3.2 PUBLISH with two Payload Format Indicators", v5, 0x82, publishWith(prop(1, u8(1)), prop(1, u8(1)))},
	{"3.3.2.3.3 PUBLISH with two Message Expiry Intervals", v5, 0x82, publishWith(prop(2, u32(1)), prop(2, u32(1)))},
	{"3.3.2.3.4 PUBLISH with two Topic Aliases", v5, 0x82, publishWith(prop(0x23, u16(1)), prop(0x23, u16(1)))},
	{"3.3.2.3.5 PUBLISH with two Response Topics", v5, 0x82, publishWith(prop(8, text("a")), prop(8, text("a")))},
	{"3.3.2.3.6 PUBLISH with correlation data twice", v5, 0x82, publishWith(prop(9, text("a")), prop(9, text("a")))},
	{"3.3.2.3.9 PUBLISH with two Content Types", v5, 0x82, publishWith(prop(3, text("a")), prop(3, text("a")))},
	{"MQTT-3.3.2-14 PUBLISH with a wildcard in its Response Topic", v5, 0x82, publishWith(prop(8, text("a/+")))},
	{"MQTT-3.3.2-13 PUBLISH with a Response Topic that is not UTF-8", v5, 0x81, publishWith(prop(8, text("\xff")))},
	{"MQTT-3.3.2-19 PUBLISH with a Content Type that is not UTF-8", v5, 0x81, publishWith(prop(3, text("\xff")))},
	{"MQTT-1.5.7-1 PUBLISH with a user property that is not UTF-8", v5, 0x81, publishWith(prop(0x26, concat(text("\xff"), text("a"))))},
	{"2.2.2.2 PUBLISH with a property that does not exist", v5, 0x81, publishWith(prop(0x7e, u8(1)))},
	{"2.2.2.2 PUBLISH with a property of CONNECT", v5, 0x81, publishWith(prop(0x21, u16(1)))},
	{"2.2.2.1 PUBLISH with properties that end in the middle", v5, 0x81, publishWith(prop(2, u16(1)))},
	{"2.2.2.1 PUBLISH with a Property Length beyond its end", v5, 0x81, func(s *stage) []byte {
		return frame(0x30, text(s.topic("a")), varint(100), []byte("x"))
	}},

	{"MQTT-3.4.2-1 PUBACK with a reason that it does not have", v5, 0x82, fixed(0x40, 3, 0, 1, 0x92)},
	{"MQTT-3.5.2-1 PUBREC with a reason that it does not have", v5, 0x82, fixed(0x50, 3, 0, 1, 0x01)},
	{"MQTT-3.6.2-1 PUBREL with a reason that it does not have", v5, 0x82, fixed(0x62, 3, 0, 1, 0x80)},
	{"MQTT-3.7.2-1 PUBCOMP with a reason that it does not have", v5, 0x82, fixed(0x70, 3, 0, 1, 0x80)},
	{"3.4.2.2 PUBACK with bytes behind its end", v5, 0x81, fixed(0x40, 5, 0, 1, 0, 0, 9)},
	{"MQTT-3.14.2-1 DISCONNECT with a reason that only servers have", v5, 0x82, fixed(0xe0, 1, 0x8e)},
	{"3.14.2.2.2 DISCONNECT with a Session Expiry Interval after none", v5, 0x82, func(*stage) []byte {
		return frame(0xe0, u8(0), props(prop(0x11, u32(60))))
	}},
	{"MQTT-4.12.0-7 AUTH without an authentication method", v5, 0x82, fixed(0xf0, 2, 0x19, 0)},
	{"MQTT-4.12.0-7 AUTH after a CONNECT without a method", v5, 0x82, func(*stage) []byte {
		return frame(0xf0, u8(0x18), props(prop(0x15, text("SCRAM-SHA-1"))))
	}},
	{"MQTT-4.12.0-6 re-authentication after a CONNECT without a method", v5, 0x82, func(*stage) []byte {
		return frame(0xf0, u8(0x19), props(prop(0x15, text("SCRAM-SHA-1"))))
	}},
	{"MQTT-3.15.1-1 AUTH with flags", v5, 0x81, fixed(0xf1, 0)},
}

func fixed(b ...byte) func(*stage) []byte { return func(*stage) []byte { return b } }

func options(o byte) func(*stage) []byte {
	return func(s *stage) []byte { return frame(0x82, u16(1), props(), text(s.topic("a")), u8(o)) }
}

func subscribeWith(properties ...[]byte) func(*stage) []byte {
	return func(s *stage) []byte { return frame(0x82, u16(1), props(properties...), text(s.topic("a")), u8(0)) }
}

func publishWith(properties ...[]byte) func(*stage) []byte {
	return func(s *stage) []byte { return frame(0x30, text(s.topic("a")), props(properties...), []byte("x")) }
}

func TestBadPackets(t *testing.T) {
	t.Parallel()
	for _, bad := range badPackets {
		everywhere(t, bad.name+" closes that connection and no other", bad.versions, func(s *stage) {
			c, bystander, p := s.client(1, "bad"), s.subscriber(), s.publisher()
			bystander.MustSubscribe(s.topic("a"), 1)
			c.SendRaw(bad.bytes(s))
			s.closes(c, bad.code)
			// MQTT-4.13.1-1: nothing of it has been carried out, and everybody else goes on.
			s.confirmed(p, s.topic("a"), "well", 0)
			bystander.ReceivePayload("well")
			c = s.client(1, "bad")
			s.serves(c)
		})
	}
	everywhere(t, "MQTT-4.13.1-1 what comes behind a bad packet is not carried out", both, func(s *stage) {
		c, bystander := s.client(1, "bad"), s.subscriber()
		bystander.MustSubscribe(s.topic("#"), 1)
		c.SendRaw(concat(
			frame(packets.Publish<<4, text(s.topic("before")), s.props5()),
			frame(packets.Pingresp<<4),
			frame(packets.Publish<<4, text(s.topic("behind")), s.props5()),
		))
		s.closes(c, 0x82)
		if got := bystander.Receive().TopicName; got != s.topic("before") {
			s.Errorf("topic %q", got)
		}
		bystander.ExpectNothing()
	})
	everywhere(t, "1.5.5 a Remaining Length may be longer than it has to be", both, func(s *stage) {
		c := s.subscriber()
		c.SendRaw([]byte{packets.Pingreq << 4, 0x80, 0})
		c.Expect(packets.Pingresp)
	})
	everywhere(t, "4.2 a packet may come byte by byte, and many at once", both, func(s *stage) {
		p, c := s.publisher(), s.subscriber()
		c.MustSubscribe(s.topic("a"), 0)
		one := rawmqtt.Bytes(s.T, versioned(publishPacket(s.topic("a"), "x", 0, 0), s.version))
		for _, b := range one {
			p.SendRaw([]byte{b})
		}
		c.ReceivePayload("x")
		var many []byte
		for range 100 {
			many = append(many, one...)
		}
		p.SendRaw(many)
		for range 100 {
			c.ReceivePayload("x")
		}
	})
}
