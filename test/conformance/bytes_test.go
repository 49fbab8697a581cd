package conformance

import (
	"encoding/binary"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// Packets byte by byte, for those that no codec would make.

// frame is a packet with the given first byte and body.
func frame(first byte, body ...[]byte) []byte {
	b := concat(body...)
	return append(append([]byte{first}, varint(len(b))...), b...)
}

func concat(parts ...[]byte) []byte {
	var b []byte
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

func varint(n int) []byte { return binary.AppendUvarint(nil, uint64(n)) }

func u8(n byte) []byte { return []byte{n} }

func u16(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }

func u32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

// text is a string with its length.
func text(s string) []byte { return append(u16(uint16(len(s))), s...) }

// props is a block of properties with its length.
func props(parts ...[]byte) []byte {
	b := concat(parts...)
	return append(varint(len(b)), b...)
}

// prop is one property.
func prop(id byte, value []byte) []byte { return append([]byte{id}, value...) }

// props5 is a block of properties in MQTT 5 and nothing in 3.1.1.
func (s *stage) props5(parts ...[]byte) []byte {
	if !s.is5() {
		return nil
	}
	return props(parts...)
}

// Packets that the tests change before they send them.

// publishPacket is a PUBLISH with all properties at its disposal.
func publishPacket(topic, payload string, qos byte, id uint16) packets.Packet {
	p := rawmqtt.PublishPacket(topic, payload, qos)
	p.PacketID = id
	p.Mods.AllowResponseInfo = true
	return p
}

func pingreq() packets.Packet {
	return packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pingreq}}
}

// ack is a PUBACK, PUBREC, PUBREL or PUBCOMP with a reason code.
func ack(kind byte, id uint16, code byte) packets.Packet {
	return packets.Packet{FixedHeader: packets.FixedHeader{Type: kind}, PacketID: id, ReasonCode: code}
}
