package conformance

import (
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

func TestDisconnect(t *testing.T) {
	t.Parallel()
	everywhere(t, "MQTT-3.14.4-2 the server closes after DISCONNECT, and says nothing more", both, func(s *stage) {
		c := s.subscriber()
		c.SendRaw(frame(packets.Disconnect << 4))
		s.closes(c, 0)
	})
	everywhere(t, "3.14.2.1 any reason that a client may have ends the connection without an answer", v5, func(s *stage) {
		for _, code := range []byte{0, 4, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99} {
			c := s.subscriber()
			c.Send(disconnectWith(code))
			if got := c.ExpectClosed(); got != 0 {
				s.Errorf("answered with DISCONNECT %#x to %#x", got, code)
			}
		}
	})
	everywhere(t, "MQTT-3.14.4-1 what comes behind DISCONNECT is not carried out", both, func(s *stage) {
		c, other := s.subscriber(), s.client(2, "other")
		other.MustSubscribe(s.topic("#"), 1)
		c.SendRaw(concat(
			frame(packets.Publish<<4, text(s.topic("before")), s.props5()),
			frame(packets.Disconnect<<4),
			frame(packets.Publish<<4, text(s.topic("behind")), s.props5()),
		))
		c.ExpectClosed()
		if got := other.Receive().TopicName; got != s.topic("before") {
			s.Errorf("topic %q", got)
		}
		s.confirmed(s.publisher(), s.topic("last"), "x", 0)
		if got := other.Receive().TopicName; got != s.topic("last") {
			s.Errorf("topic %q", got)
		}
	})
	everywhere(t, "3.14.4 what the client published before DISCONNECT is delivered", both, func(s *stage) {
		other := s.client(2, "other")
		other.MustSubscribe(s.topic("#"), 2)
		for qos := range byte(3) {
			c := s.subscriber()
			c.SendRaw(concat(
				rawmqtt.Bytes(s.T, versioned(publishPacket(s.topic("a"), "x", qos, 1), s.version)),
				frame(packets.Disconnect<<4),
			))
			other.ReceivePayload("x")
		}
	})
	everywhere(t, "MQTT-4.13.1-1 a DISCONNECT of the server tells why, unless the client did not ask", v5, func(s *stage) {
		for _, ask := range []bool{true, false} {
			c := s.subscriber(func(p *packets.Packet) {
				p.Properties.RequestProblemInfoFlag = true
				if ask {
					p.Properties.RequestProblemInfo = 1
				}
			})
			c.SendRaw(frame(packets.Pingresp << 4))
			pk := c.Expect(packets.Disconnect)
			if pk.Properties.SessionExpiryIntervalFlag { // MQTT-3.14.2-2
				s.Error("a Session Expiry Interval from the server")
			}
			if pk.ReasonCode != 0x82 || (pk.Properties.ReasonString != "") != ask {
				s.Errorf("DISCONNECT %#x %q, asked: %v", pk.ReasonCode, pk.Properties.ReasonString, ask)
			}
		}
	})
	everywhere(t, "MQTT-3.1.2-29 without Request Problem Information acknowledgements have neither reason nor user properties", v5, func(s *stage) {
		c := s.subscriber(func(p *packets.Packet) { p.Properties.RequestProblemInfoFlag = true })
		for _, got := range []packets.Packet{
			c.Subscribe(packets.Subscription{Filter: "a#"}),
			c.Unsubscribe("a#"),
			c.Publish("p2p/"+s.id("nobody")+"/a", "x", 1),
			c.Publish("p2p/"+s.id("nobody")+"/a", "x", 2),
		} {
			if p := got.Properties; p.ReasonString != "" || p.User != nil {
				s.Errorf("%s has %q and %v", packets.PacketNames[got.FixedHeader.Type], p.ReasonString, p.User)
			}
		}
		// Those of messages are no business of the server's.
		pk := publishPacket("p2p/"+s.id("subscriber")+"/a", "x", 0, 0)
		pk.Properties.User = []packets.UserProperty{{Key: "a", Val: "b"}}
		c.Send(pk)
		if got := c.ReceivePayload("x").Properties.User; len(got) != 1 {
			s.Errorf("user properties %v", got)
		}
	})
	everywhere(t, "MQTT-3.1.2-28 Response Information only if asked for", v5, func(s *stage) {
		if got := s.dial(1).Hello(s.id("a")).Properties.ResponseInfo; got != "" {
			s.Errorf("Response Information %q", got)
		}
		s.dial(1).Hello(s.id("a"), func(p *packets.Packet) { p.Properties.RequestResponseInfo = 1 })
	})
}

func versioned(pk packets.Packet, version byte) packets.Packet {
	pk.ProtocolVersion = version
	return pk
}
