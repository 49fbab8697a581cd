package conformance

import (
	"fmt"
	"strings"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// connectBytes is a CONNECT with the given protocol, flags and what follows the Keep Alive.
func connectBytes(protocol string, level, flags byte, rest ...[]byte) []byte {
	return frame(packets.Connect<<4, text(protocol), u8(level), u8(flags), u16(60), concat(rest...))
}

// refused expects the connection to be closed, at most with a CONNACK before, whose code it returns; -1 without one.
func refused(s *stage, c *rawmqtt.Client) int {
	s.Helper()
	pk, err := c.Next(rawmqtt.Patience)
	if err != nil {
		return -1
	}
	if pk.FixedHeader.Type != packets.Connack || pk.ReasonCode == 0 || pk.SessionPresent {
		s.Fatalf("got %s with code %#x", packets.PacketNames[pk.FixedHeader.Type], pk.ReasonCode)
	}
	c.ExpectClosed()
	return int(pk.ReasonCode)
}

func TestFirstPacket(t *testing.T) {
	t.Parallel()
	everywhere(t, "MQTT-3.1.0-1 the first packet has to be a CONNECT", both, func(s *stage) {
		for name, first := range map[string][]byte{
			"PINGREQ":    frame(packets.Pingreq << 4),
			"DISCONNECT": frame(packets.Disconnect << 4),
			"PUBLISH":    frame(packets.Publish<<4, text(s.topic("a")), s.props5(), []byte("x")),
			"SUBSCRIBE":  frame(packets.Subscribe<<4|2, u16(1), s.props5(), text(s.topic("a")), u8(0)),
			"CONNACK":    frame(packets.Connack<<4, u8(0), u8(0), s.props5()),
			"HTTP":       []byte("GET / HTTP/1.1\r\n\r\n"),
		} {
			c := s.dial(1)
			c.SendRaw(first)
			if pk, err := c.Next(rawmqtt.Patience); err == nil {
				s.Errorf("%s is answered with %s", name, packets.PacketNames[pk.FixedHeader.Type])
			}
		}
	})
	everywhere(t, "MQTT-3.1.0-2 a second CONNECT closes the connection", both, func(s *stage) {
		c := s.publisher()
		c.Send(rawmqtt.ConnectPacket(s.version, s.id("publisher")))
		s.closes(c, 0x82)
	})
	everywhere(t, "MQTT-3.1.4-6 MQTT-3.2.0-1 what is sent behind CONNECT is done after CONNACK", both, func(s *stage) {
		c := s.dial(1)
		c.SendRaw(concat(
			rawmqtt.Bytes(s.T, rawmqtt.ConnectPacket(s.version, s.id("hasty"))),
			frame(packets.Subscribe<<4|2, u16(7), s.props5(), text(s.topic("a")), u8(1)),
			frame(packets.Pingreq<<4),
		))
		if code := c.Expect(packets.Connack).ReasonCode; code != 0 {
			s.Fatalf("CONNACK %#x", code)
		}
		// Subscribing involves the whole cluster, answering a ping does not: they may overtake each other.
		seen := map[byte]bool{}
		for range 2 {
			pk, err := c.Next(rawmqtt.Patience)
			if err != nil {
				s.Fatal(err)
			}
			seen[pk.FixedHeader.Type] = true
		}
		if !seen[packets.Suback] || !seen[packets.Pingresp] {
			s.Errorf("got %v, want SUBACK and PINGRESP", seen)
		}
		s.confirmed(s.publisher(), s.topic("a"), "x", 0)
		c.ReceivePayload("x")
	})
	everywhere(t, "MQTT-3.2.0-1 CONNACK is the first packet even when messages wait for the client", both, func(s *stage) {
		s.subscriber()
		p := s.pipeline(s.publisher())
		for i := range 30 {
			for range 3 {
				p.publish("p2p/"+s.id("subscriber")+"/a", "x", 1)
			}
			s.dial(1 + i%2).Hello(s.id("subscriber"))
		}
		p.finish()
	})
}

func TestProtocolVersion(t *testing.T) {
	t.Parallel()
	everywhere(t, "MQTT-3.1.2-1 another protocol name is refused", both, func(s *stage) {
		c := s.dial(1)
		c.SendRaw(connectBytes("MQTX", s.version, 2, s.props5(), text(s.id("a"))))
		refused(s, c)
	})
	everywhere(t, "MQTT-3.1.2-2 a later version is refused with 0x84", v5, func(s *stage) {
		c := s.dial(1)
		c.SendRaw(connectBytes("MQTT", 6, 2, props(), text(s.id("a"))))
		if code := refused(s, c); code != 0x84 {
			s.Errorf("CONNACK %#x, want 0x84", code)
		}
	})
	everywhere(t, "3.1.1 MQTT-3.1.2-2 an earlier version is refused with 1", v311, func(s *stage) {
		for _, c := range []struct {
			name  string
			level byte
		}{{"MQIsdp", 3}, {"MQTT", 3}} {
			conn := s.dial(1)
			conn.SendRaw(connectBytes(c.name, c.level, 2, text(s.id("a"))))
			if code := refused(s, conn); code != 1 {
				s.Errorf("CONNACK %d for %s level %d, want 1", code, c.name, c.level)
			}
		}
	})
}

func TestClientIdentifier(t *testing.T) {
	t.Parallel()
	everywhere(t, "MQTT-3.1.3-5 identifiers of 1 to 23 letters and digits, and others, are allowed", both, func(s *stage) {
		// The shortest have no room for the name of the stage.
		one := fmt.Sprint(s.version)
		if s.at[1] != 0 {
			one = string(rune('a' + s.version))
		}
		for _, id := range []string{
			one, one + strings.Repeat("9", 22), s.id("with space"), s.id("a/b"), s.id("Ü€𝄞"), s.id("#+$"),
			s.id(strings.Repeat("x", limits.ClientIDBytes-len(s.id("")))),
		} {
			c := rawmqtt.Connect(s.T, s.address(1), s.version, id)
			s.serves(c)
			c.Disconnect()
		}
	})
	everywhere(t, "MQTT-3.1.3-8 an identifier that is too long is refused", both, func(s *stage) {
		c := s.dial(1)
		ack := c.Hello(strings.Repeat("x", limits.ClientIDBytes+1))
		if want := map[byte]byte{4: 2, 5: 0x85}[s.version]; ack.ReasonCode != want {
			s.Errorf("CONNACK %#x, want %#x", ack.ReasonCode, want)
		}
		c.ExpectClosed()
	})
	everywhere(t, "MQTT-3.1.3-6 MQTT-3.1.3-7 MQTT-3.2.2-16 a client without one is told which it has", v5, func(s *stage) {
		seen := map[string]bool{}
		for i := range 4 {
			c := s.dial(i % 2)
			id := c.Hello("").Properties.AssignedClientID
			if id == "" || seen[id] {
				s.Fatalf("assigned %q, before %v", id, seen)
			}
			seen[id] = true
			// It is a client id like any other: messages find it.
			s.confirmed(s.publisher(), "p2p/"+id+"/a", "x", 0)
			c.ReceivePayload("x")
		}
	})
	everywhere(t, "MQTT-3.1.3-6 a client without one need not ask for a clean start", v5, func(s *stage) {
		c := s.dial(1)
		if ack := c.Hello("", durable); ack.ReasonCode != 0 || ack.Properties.AssignedClientID == "" {
			s.Errorf("CONNACK %#x, assigned %q", ack.ReasonCode, ack.Properties.AssignedClientID)
		}
		s.serves(c)
	})
	everywhere(t, "3.1.1 MQTT-3.1.3-6 a client without one may connect with a clean session", v311, func(s *stage) {
		a, b := s.client(0, ""), s.dial(1)
		b.Hello("")
		s.serves(a)
		s.serves(b)
	})
	everywhere(t, "3.1.1 MQTT-3.1.3-8 MQTT-3.1.3-9 a client without one may not ask for a session", v311, func(s *stage) {
		c := s.dial(1)
		if ack := c.Hello("", durable); ack.ReasonCode != 2 || ack.SessionPresent {
			s.Errorf("CONNACK %d, want 2", ack.ReasonCode)
		}
		c.ExpectClosed()
	})
}

func TestConnectFlags(t *testing.T) {
	t.Parallel()
	type malformed struct {
		name  string
		flags byte
		rest  func(s *stage) []byte
	}
	id := func(s *stage) []byte { return concat(s.props5(), text(s.id("a"))) }
	withWill := func(s *stage) []byte {
		return concat(s.props5(), text(s.id("a")), s.props5(), text(s.topic("will")), text("x"))
	}
	for _, c := range []malformed{
		{"MQTT-3.1.2-3 the reserved flag", 0x03, id},
		{"MQTT-3.1.2-11 Will QoS without a will", 0x0a, id},
		{"MQTT-3.1.2-12 Will QoS 3", 0x1e, withWill},
		{"MQTT-3.1.2-13 Will Retain without a will", 0x22, id},
		{"MQTT-3.1.2-9 a will that is not there", 0x06, id},
		{"MQTT-3.1.2-17 a user name that is not there", 0x82, id},
		{"MQTT-3.1.2-19 a password that is not there", 0xc2, func(s *stage) []byte { return append(id(s), text("user")...) }},
		{"MQTT-3.1.2-16 a user name without its flag", 0x02, func(s *stage) []byte { return append(id(s), text("user")...) }},
		{"MQTT-3.1.3-3 no identifier at all", 0x02, func(s *stage) []byte { return s.props5() }},
		{"MQTT-3.1.3-4 an identifier that is not UTF-8", 0x02, func(s *stage) []byte { return append(s.props5(), text("\xff")...) }},
		{"MQTT-3.1.3-12 a user name that is not UTF-8", 0x82, func(s *stage) []byte { return append(id(s), text("\xc0\xaf")...) }},
	} {
		everywhere(t, c.name+" is refused", both, func(s *stage) {
			conn := s.dial(1)
			conn.SendRaw(connectBytes("MQTT", s.version, c.flags, c.rest(s)))
			if code := refused(s, conn); s.is5() && code >= 0 && code < 0x80 {
				s.Errorf("CONNACK %#x", code)
			}
		})
	}
	everywhere(t, "3.1.1 MQTT-3.1.2-22 a password without a user name is refused", v311, func(s *stage) {
		c := s.dial(1)
		c.SendRaw(connectBytes("MQTT", 4, 0x42, text(s.id("a")), text("secret")))
		refused(s, c)
	})
	everywhere(t, "MQTT-3.1.3-1 MQTT-3.1.2-17 MQTT-3.1.2-19 will, user name and password may be given together", both, func(s *stage) {
		m := s.mourner()
		c := s.publisher(will(s.topic("will/a"), "gone", 1), func(p *packets.Packet) {
			p.Connect.UsernameFlag, p.Connect.Username = true, []byte("user")
			p.Connect.PasswordFlag, p.Connect.Password = true, []byte("secret")
		})
		s.serves(c)
		c.Close()
		m.ReceivePayload("gone")
	})
	everywhere(t, "3.1.2.9 in MQTT 5 a password needs no user name", v5, func(s *stage) {
		s.serves(s.publisher(func(p *packets.Packet) {
			p.Connect.PasswordFlag, p.Connect.Password = true, []byte("secret")
		}))
	})
}

func TestConnectProperties(t *testing.T) {
	t.Parallel()
	for name, b := range map[string][]byte{
		"3.1.2.11.3 Receive Maximum 0":                           prop(0x21, u16(0)),
		"3.1.2.11.4 Maximum Packet Size 0":                       prop(0x27, u32(0)),
		"3.1.2.11.6 Request Response Information 2":              prop(0x19, u8(2)),
		"3.1.2.11.7 Request Problem Information 2":               prop(0x17, u8(2)),
		"3.1.2.11.2 Session Expiry Interval twice":               concat(prop(0x11, u32(1)), prop(0x11, u32(1))),
		"3.1.2.11.5 Topic Alias Maximum twice":                   concat(prop(0x22, u16(1)), prop(0x22, u16(1))),
		"3.1.2.11.10 Authentication Data without a method":       prop(0x16, text("x")),
		"2.2.2.2 a property of another packet":                   prop(0x23, u16(1)),
		"2.2.2.2 a property that does not exist":                 prop(0x7f, u8(1)),
		"MQTT-1.5.7-1 a user property that is not UTF-8":         prop(0x26, concat(text("a"), text("\xff"))),
		"2.2.2.1 a property that is longer than all of them are": prop(0x11, u16(1)),
	} {
		everywhere(t, name+" is refused", v5, func(s *stage) {
			c := s.dial(1)
			c.SendRaw(connectBytes("MQTT", 5, 2, props(b), text(s.id("a"))))
			if code := refused(s, c); code >= 0 && code < 0x80 {
				s.Errorf("CONNACK %#x", code)
			}
		})
	}
	everywhere(t, "2.2.2.1 a Property Length beyond the packet is refused", v5, func(s *stage) {
		c := s.dial(1)
		c.SendRaw(connectBytes("MQTT", 5, 2, varint(1000), text(s.id("a"))))
		refused(s, c)
	})
	everywhere(t, "MQTT-4.12.0-1 MQTT-4.13.2-1 an authentication method is refused with 0x8C", v5, func(s *stage) {
		c := s.dial(1)
		ack := c.Hello(s.id("a"), func(p *packets.Packet) { p.Properties.AuthenticationMethod = "SCRAM-SHA-1" })
		s.code(ack.ReasonCode, 0x8c)
		c.ExpectClosed()
	})
	everywhere(t, "MQTT-3.1.4-1 a CONNECT larger than 64 KiB is refused", both, func(s *stage) {
		c := s.dial(1)
		c.SendRaw(concat(u8(packets.Connect<<4), varint(1<<20)))
		refused(s, c)
	})
}

func TestConnack(t *testing.T) {
	t.Parallel()
	everywhere(t, "3.2.2.3 every limit is announced", v5, func(s *stage) {
		p := s.dial(1).Hello(s.id("a")).Properties
		switch {
		case int(p.ReceiveMaximum) != limits.ReceiveMaximum:
			s.Errorf("Receive Maximum %d, want %d", p.ReceiveMaximum, limits.ReceiveMaximum)
		case int(p.MaximumPacketSize) != int(limits.PacketBytes):
			s.Errorf("Maximum Packet Size %d, want %d", p.MaximumPacketSize, limits.PacketBytes)
		case int(p.TopicAliasMaximum) != limits.TopicAliases:
			s.Errorf("Topic Alias Maximum %d, want %d", p.TopicAliasMaximum, limits.TopicAliases)
		case p.RetainAvailableFlag && p.RetainAvailable != 1:
			s.Errorf("Retain Available %d, want 1", p.RetainAvailable)
		case p.MaximumQosFlag:
			s.Errorf("Maximum QoS %d, want none", p.MaximumQos)
		case p.WildcardSubAvailableFlag && p.WildcardSubAvailable == 0, p.SubIDAvailableFlag && p.SubIDAvailable == 0,
			p.SharedSubAvailableFlag && p.SharedSubAvailable == 0:
			s.Errorf("something is not available: %+v", p)
		case p.AssignedClientID != "" || p.ResponseInfo != "" || p.AuthenticationMethod != "":
			s.Errorf("what nobody asked for: %+v", p)
		}
	})
	everywhere(t, "MQTT-3.2.2-21 MQTT-3.2.2-22 a Keep Alive is taken as it is, or replaced", v5, func(s *stage) {
		most := uint16(limits.KeepAliveMaximum.Seconds())
		for asked, want := range map[uint16]uint16{0: most, 1: 0, 60: 0, most: 0, most + 1: most, 65535: most} {
			p := s.dial(1).Hello(fmt.Sprintf("%s-%d", s.name, asked), keepAlive(asked)).Properties
			if p.ServerKeepAliveFlag != (want != 0) || p.ServerKeepAlive != want {
				s.Errorf("asked for %d, got %d (there: %v), want %d", asked, p.ServerKeepAlive, p.ServerKeepAliveFlag, want)
			}
		}
	})
	everywhere(t, "MQTT-3.2.2-19 MQTT-3.1.2-24 a Reason String is left out where it would be too long", v5, func(s *stage) {
		for _, most := range []uint32{16, 1000} {
			pk := s.dial(1).Hello(strings.Repeat("x", limits.ClientIDBytes+1), maximumPacketSize(most))
			if size := 2 + pk.FixedHeader.Remaining; pk.ReasonCode != 0x85 || size > int(most) {
				s.Errorf("CONNACK %#x of %d bytes, want at most %d", pk.ReasonCode, size, most)
			}
		}
	})
}
