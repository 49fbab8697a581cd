package packet

import (
	"bytes"
	"slices"
	"testing"

	paho "github.com/eclipse/paho.golang/packets"
	paho311 "github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/beeline-mqtt/beeline/test/wire"
)

func TestAcksAreDecoded(t *testing.T) {
	for _, c := range []struct {
		name  string
		v     Version
		first byte
		body  []byte
		want  Ack
	}{
		{"PUBACK", V311, 0x40, wire.Bytes(uint16(1)), Ack{PUBACK, 1, Success}},
		{"PUBREC", V311, 0x50, wire.Bytes(uint16(0x1234)), Ack{PUBREC, 0x1234, Success}},
		{"PUBREL", V311, 0x62, wire.Bytes(uint16(65535)), Ack{PUBREL, 65535, Success}},
		{"PUBCOMP", V311, 0x70, wire.Bytes(uint16(1)), Ack{PUBCOMP, 1, Success}},
		{"without code", V5, 0x40, wire.Bytes(uint16(1)), Ack{PUBACK, 1, Success}},
		{"with code, without properties", V5, 0x40, wire.Bytes(uint16(1), 0x10), Ack{PUBACK, 1, NoMatchingSubscribers}},
		{"with empty properties", V5, 0x50, wire.Bytes(uint16(1), 0x97, 0), Ack{PUBREC, 1, QuotaExceeded}},
		{"with properties", V5, 0x62, wire.Bytes(uint16(1), 0x92, wire.Props(31, "why", 38, "k", "v")), Ack{PUBREL, 1, PacketIdentifierNotFound}},
	} {
		if got := must[Ack](t)(DecodeAck(c.v, c.first, c.body)); got != c.want {
			t.Errorf("v%d %s: %+v, want %+v", c.v, c.name, got, c.want)
		}
	}
}

func TestBadAcksAreRefused(t *testing.T) {
	for first, name := range map[byte]string{0x40: "PUBACK", 0x50: "PUBREC", 0x62: "PUBREL", 0x70: "PUBCOMP"} {
		testRefusals(t, []refusal{
			{"MQTT-2.2.1-5 " + name + " with Packet Identifier 0", V5, first, wire.Bytes(uint16(0)), ProtocolError},
			{"MQTT-2.3.1-6 " + name + " with Packet Identifier 0", V311, first, wire.Bytes(uint16(0)), ProtocolError},
			{"3.4 " + name + " with a code", V311, first, wire.Bytes(uint16(1), 0), MalformedPacket},
			{"3.4 " + name + " without Packet Identifier", V311, first, nil, MalformedPacket},
			{"3.4 " + name + " with half a Packet Identifier", V5, first, wire.Bytes(1), MalformedPacket},
			{"MQTT-3.4.2-1 " + name + " with Granted QoS 1", V5, first, wire.Bytes(uint16(1), 1), ProtocolError},
			{"MQTT-3.4.2-1 " + name + " with a code that does not exist", V5, first, wire.Bytes(uint16(1), 0xff), ProtocolError},
		})
	}
	testRefusals(t, []refusal{
		{"MQTT-3.6.2-1 PUBREL with No matching subscribers", V5, 0x62, wire.Bytes(uint16(1), 0x10), ProtocolError},
		{"MQTT-3.7.2-1 PUBCOMP with Unspecified error", V5, 0x70, wire.Bytes(uint16(1), 0x80), ProtocolError},
		{"MQTT-3.4.2-1 PUBACK with Packet Identifier not found", V5, 0x40, wire.Bytes(uint16(1), 0x92), ProtocolError},
	})
}

// Every code goes out as the independent codecs, and this one, understand it.
func TestAcksAreEncoded(t *testing.T) {
	for _, kind := range []Type{PUBACK, PUBREC, PUBREL, PUBCOMP} {
		for code := range codeNames {
			if !ackCode(kind, code) {
				continue
			}
			raw := AppendAck([]byte("before"), V5, kind, 0x1234, code)[len("before"):]
			if got := must[Ack](t)(DecodeAck(V5, raw[0], raw[2:])); got != (Ack{kind, 0x1234, code}) {
				t.Errorf("%v with %v comes back as %+v", kind, code, got)
			}
			if short := code == Success; short != (len(raw) == 4) {
				t.Errorf("%v with %v has %d bytes", kind, code, len(raw))
			}
			pk := must[*paho.ControlPacket](t)(paho.ReadPacket(bytes.NewReader(raw)))
			var id uint16
			var reason byte
			switch p := pk.Content.(type) {
			case *paho.Puback:
				id, reason = p.PacketID, p.ReasonCode
			case *paho.Pubrec:
				id, reason = p.PacketID, p.ReasonCode
			case *paho.Pubrel:
				id, reason = p.PacketID, p.ReasonCode
			case *paho.Pubcomp:
				id, reason = p.PacketID, p.ReasonCode
			}
			if Type(pk.Type) != kind || pk.Flags != kind.flags() || id != 0x1234 || Code(reason) != code {
				t.Errorf("%v with %v: the other codec reads %v", kind, code, pk)
			}
		}
		raw := AppendAck(nil, V311, kind, 0x1234, NotAuthorized)
		pk := must[paho311.ControlPacket](t)(paho311.ReadPacket(bytes.NewReader(raw)))
		if len(raw) != 4 || pk.Details().MessageID != 0x1234 {
			t.Errorf("%v in 3.1.1: %x, read as %v", kind, raw, pk)
		}
		var again bytes.Buffer
		if err := pk.Write(&again); err != nil || !slices.Equal(again.Bytes(), raw) {
			t.Errorf("%v in 3.1.1: %x, the other codec writes %x", kind, raw, again.Bytes())
		}
	}
}

func TestAcksDoNotAllocate(t *testing.T) {
	body := wire.Bytes(uint16(7), 0x10, wire.Props(31, "why", 38, "k", "v"))
	buf := make([]byte, 0, 16)
	if n := testing.AllocsPerRun(100, func() {
		buf = AppendAck(buf[:0], V5, PUBREC, 7, QuotaExceeded)
		if _, err := DecodeAck(V5, 0x40, body); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestPingsAreAnswered(t *testing.T) {
	for _, v := range []Version{V311, V5} {
		if err := decode(v, 0xc0, nil); err != nil {
			t.Error(err)
		}
	}
	raw := AppendPingresp([]byte("before"))
	if !slices.Equal(raw, []byte("before\xd0\x00")) {
		t.Errorf("PINGRESP is %x", raw)
	}
}
