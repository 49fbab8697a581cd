package conformance

import (
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// listen receives on a goroutine of its own, acknowledges everything, and passes on the messages that come, and the
// CONNACK if there is to be one. The channel is closed when the connection ends.
func listen(c *rawmqtt.Client) <-chan packets.Packet {
	got := make(chan packets.Packet, 4096)
	go func() {
		defer close(got)
		for {
			pk, err := c.Next(2 * rawmqtt.Patience)
			if err != nil {
				return
			}
			var reply []byte
			switch pk.FixedHeader.Type {
			case packets.Connack:
				got <- pk
			case packets.Publish:
				got <- pk
				if qos := pk.FixedHeader.Qos; qos > 0 {
					kind := [...]byte{1: packets.Puback, 2: packets.Pubrec}[qos]
					reply = frame(kind<<4, u16(pk.PacketID))
				}
			case packets.Pubrel:
				reply = frame(packets.Pubcomp<<4, u16(pk.PacketID))
			}
			_ = c.Conn().SetWriteDeadline(time.Now().Add(rawmqtt.Patience))
			if _, err := c.Conn().Write(reply); err != nil {
				return
			}
		}
	}()
	return got
}

// next returns what a listener got next.
func (s *stage) next(got <-chan packets.Packet) packets.Packet {
	s.Helper()
	select {
	case pk, open := <-got:
		if !open {
			s.Fatal("the connection has ended")
		}
		return pk
	case <-time.After(rawmqtt.Patience):
		s.Fatal("nothing came")
	}
	return packets.Packet{}
}

// window is how many messages a test has in flight at once; the server takes more.
const window = 100

// pipeline publishes many messages without waiting for each, and checks that their acknowledgements come in the
// order of the messages (MQTT-4.6.0-2, MQTT-4.6.0-3).
type pipeline struct {
	s        *stage
	c        *rawmqtt.Client
	flight   []uint16 // whose PUBACK or PUBREC has not come
	released []uint16 // whose PUBCOMP has not come
	codes    map[byte]int
}

func (s *stage) pipeline(c *rawmqtt.Client) *pipeline {
	return &pipeline{s: s, c: c, codes: make(map[byte]int)}
}

// publish sends one message, when there is room in the window.
func (p *pipeline) publish(topic, payload string, qos byte) {
	p.s.Helper()
	pk := rawmqtt.PublishPacket(topic, payload, qos)
	if qos > 0 {
		for len(p.flight)+len(p.released) >= window {
			p.step()
		}
		pk.PacketID = p.c.ID()
		p.flight = append(p.flight, pk.PacketID)
	}
	p.c.Send(pk)
}

// finish waits for all acknowledgements.
func (p *pipeline) finish() {
	p.s.Helper()
	for len(p.flight)+len(p.released) > 0 {
		p.step()
	}
}

// step takes one packet from the server.
func (p *pipeline) step() {
	p.s.Helper()
	pk, err := p.c.Next(rawmqtt.Patience)
	if err != nil {
		p.s.Fatalf("with %d messages in flight: %v", len(p.flight), err)
	}
	switch pk.FixedHeader.Type {
	case packets.Puback, packets.Pubrec:
		if len(p.flight) == 0 || p.flight[0] != pk.PacketID {
			p.s.Fatalf("acknowledgement of %d, in flight are %v", pk.PacketID, p.flight)
		}
		p.flight = p.flight[1:]
		p.codes[pk.ReasonCode]++
		if pk.FixedHeader.Type == packets.Pubrec && pk.ReasonCode < 0x80 {
			p.released = append(p.released, pk.PacketID)
			p.c.Ack(packets.Pubrel, pk.PacketID)
		}
	case packets.Pubcomp:
		if len(p.released) == 0 || p.released[0] != pk.PacketID {
			p.s.Fatalf("PUBCOMP of %d, released are %v", pk.PacketID, p.released)
		}
		p.released = p.released[1:]
	default:
		p.s.Fatalf("got %s (reason %#x), want acknowledgements", packets.PacketNames[pk.FixedHeader.Type], pk.ReasonCode)
	}
}
