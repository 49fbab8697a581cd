package conformance

import (
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

func TestTakeover(t *testing.T) {
	t.Parallel()
	everywhere(t, "MQTT-3.1.4-3 the older connection ends with 0x8E", both, func(s *stage) {
		old := s.client(0, "twin")
		old.MustSubscribe(s.topic("a"), 1)
		twin := s.dial(1)
		if ack := twin.Hello(s.id("twin")); ack.ReasonCode != 0 || ack.SessionPresent {
			s.Fatalf("CONNACK %#x, session present: %v", ack.ReasonCode, ack.SessionPresent)
		}
		s.closes(old, 0x8e)
		// MQTT-3.1.2-4: nothing of the old session is left.
		s.confirmed(s.publisher(), s.topic("a"), "x", 0x10)
		twin.MustSubscribe(s.topic("a"), 1)
		s.confirmed(s.client(0, "other"), s.topic("a"), "y", 0)
		twin.ReceivePayload("y")
	})
	everywhere(t, "MQTT-3.1.4-3 between the versions of the protocol", both, func(s *stage) {
		old := s.client(0, "twin")
		twin := rawmqtt.Connect(s.T, s.address(1), rawmqtt.V311+rawmqtt.V5-s.version, s.id("twin"))
		s.closes(old, 0x8e)
		s.serves(twin)
	})
	everywhere(t, "MQTT-3.1.4-3 again and again: after CONNACK the connection before has been told", both, func(s *stage) {
		old := s.client(0, "twin")
		for i := range 25 {
			twin := s.dial((i + 1) % gateways)
			if ack := twin.Hello(s.id("twin")); ack.ReasonCode != 0 {
				s.Fatalf("round %d: CONNACK %#x", i, ack.ReasonCode)
			}
			s.closes(old, 0x8e)
			old = twin
		}
		s.serves(old)
	})
	everywhere(t, "MQTT-3.1.4-3 of many that connect at once one is left", both, func(s *stage) {
		const n = 9
		connect := rawmqtt.Bytes(s.T, rawmqtt.ConnectPacket(s.version, s.id("twin")))
		var conns [n]*rawmqtt.Client
		for i := range conns {
			conns[i] = s.dial(i % gateways)
		}
		over := make(chan int, n)
		var got [n]chan packets.Packet
		for i, c := range conns {
			got[i] = make(chan packets.Packet, 8)
			c.SendRaw(connect)
			go func() {
				for {
					pk, err := c.Next(2 * rawmqtt.Patience)
					if err != nil {
						over <- i
						return
					}
					got[i] <- pk
				}
			}()
		}
		left := (n - 1) * n / 2
		for range n - 1 {
			select {
			case i := <-over:
				left -= i
			case <-time.After(rawmqtt.Patience):
				s.Fatal("more than one connection is open")
			}
		}
		if _, err := conns[left].Conn().Write(frame(packets.Pingreq << 4)); err != nil {
			s.Fatal(err)
		}
		if pk := s.next(got[left]); pk.FixedHeader.Type != packets.Connack || pk.ReasonCode != 0 {
			s.Errorf("the last connection got %s with %#x", packets.PacketNames[pk.FixedHeader.Type], pk.ReasonCode)
		}
		if pk := s.next(got[left]); pk.FixedHeader.Type != packets.Pingresp {
			s.Errorf("the last connection got %s, want PINGRESP", packets.PacketNames[pk.FixedHeader.Type])
		}
	})
}
