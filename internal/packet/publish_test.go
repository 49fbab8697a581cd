package packet

import (
	"bytes"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/test/wire"
)

func TestPublishIsDecoded(t *testing.T) {
	for _, c := range []struct {
		name  string
		v     Version
		first byte
		body  []byte
		want  Publish
	}{
		{"QoS 0", V311, 0x30, wire.Bytes("a/b", []byte("hi")), Publish{Topic: "a/b", Payload: []byte("hi")}},
		{"QoS 0", V5, 0x30, wire.Bytes("a/b", 0, []byte("hi")), Publish{Topic: "a/b", Payload: []byte("hi")}},
		{
			"QoS 1 with DUP and RETAIN", V311, 0x3b, wire.Bytes("a", uint16(65535), 0),
			Publish{Topic: "a", PacketID: 65535, QoS: 1, Dup: true, Retain: true, Payload: []byte{0}},
		},
		{"QoS 2", V5, 0x34, wire.Bytes("a", uint16(1), 0), Publish{Topic: "a", PacketID: 1, QoS: 2, Payload: []byte{}}},
		{"an empty payload", V311, 0x31, wire.Bytes("a"), Publish{Topic: "a", Retain: true, Payload: []byte{}}},
		{
			"Message Expiry Interval 0 is there", V5, 0x30, wire.Bytes("a", wire.Props(2, uint32(0))),
			Publish{Topic: "a", HasExpiry: true, Payload: []byte{}},
		},
		{
			"only a Topic Alias", V5, 0x30, wire.Bytes("", wire.Props(35, uint16(7)), []byte("p")),
			Publish{Alias: 7, Payload: []byte("p")},
		},
		{
			"all properties, those of the user in their order", V5, 0x32,
			wire.Bytes("a", uint16(3), wire.Props(38, "z", "1", 1, 0, 2, uint32(77), 38, "a", "2", 3, "json", 8, "r/1",
				9, "\x00\xff", 35, uint16(65535), 38, "z", "1"), []byte("p")),
			Publish{
				Topic: "a", PacketID: 3, QoS: 1, Payload: []byte("p"), Alias: 65535, Expiry: 77, HasExpiry: true,
				Props: &message.Properties{
					HasPayloadFormat: true, ContentType: "json", ResponseTopic: "r/1", CorrelationData: []byte{0, 0xff},
					User: []message.UserProperty{{Name: "z", Value: "1"}, {Name: "a", Value: "2"}, {Name: "z", Value: "1"}},
				},
			},
		},
		{
			"empty Correlation Data is there", V5, 0x30, wire.Bytes("a", wire.Props(9, "")),
			Publish{Topic: "a", Payload: []byte{}, Props: &message.Properties{CorrelationData: []byte{}}},
		},
		{
			"a User Property with an empty name and value", V5, 0x30, wire.Bytes("a", wire.Props(38, "", "")),
			Publish{Topic: "a", Payload: []byte{}, Props: &message.Properties{User: []message.UserProperty{{}}}},
		},
		{
			"a payload that looks like properties", V5, 0x30, wire.Bytes("a", 0, wire.Props(2, uint32(1))),
			Publish{Topic: "a", Payload: wire.Props(2, uint32(1))},
		},
		{"a topic that the caller has to refuse", V311, 0x30, wire.Bytes("a/#"), Publish{Topic: "a/#", Payload: []byte{}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, owned := range []bool{false, true} {
				got := must[Publish](t)(DecodePublish(c.v, c.first, bytes.Clone(c.body), owned))
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Errorf("owned %v: %s", owned, diff)
				}
			}
		})
	}
}

func TestBadPublishesAreRefused(t *testing.T) {
	testRefusals(t, []refusal{
		{"MQTT-2.3.1-1 QoS 1 with Packet Identifier 0", V311, 0x32, wire.Bytes("t", uint16(0)), ProtocolError},
		{"MQTT-2.2.1-3 QoS 2 with Packet Identifier 0", V5, 0x34, wire.Bytes("t", uint16(0), 0), ProtocolError},
		{"MQTT-2.3.1-1 QoS 1 without Packet Identifier", V311, 0x32, wire.Bytes("t"), MalformedPacket},
		{"MQTT-2.2.1-3 QoS 1 with half a Packet Identifier", V5, 0x32, wire.Bytes("t", 1), MalformedPacket},
		{"MQTT-3.3.2-1 no Topic Name", V311, 0x30, nil, MalformedPacket},
		{"MQTT-3.3.2-1 a Topic Name that is cut", V5, 0x30, wire.Bytes(uint16(5), []byte("four")), MalformedPacket},
		{"MQTT-4.7.3-1 an empty Topic Name", V311, 0x30, wire.Bytes("", []byte("p")), ProtocolError},
		{"3.3.2.1 neither Topic Name nor Topic Alias", V5, 0x30, wire.Bytes("", 0), ProtocolError},
		{"3.3.2.1 an expiry is no Topic Alias", V5, 0x30, wire.Bytes("", wire.Props(2, uint32(1))), ProtocolError},
	})
}

func TestAPublishDoesNotAliasTheReadersBuffer(t *testing.T) {
	body := wire.Bytes("a/b", uint16(9), wire.Props(3, "text", 8, "reply", 9, "corr", 38, "k", "v"), []byte("payload"))
	want := must[Publish](t)(DecodePublish(V5, 0x32, bytes.Clone(body), false))
	got := must[Publish](t)(DecodePublish(V5, 0x32, body, false))
	for i := range body {
		body[i] = '!'
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAPublishAliasesWhatItOwns(t *testing.T) {
	body := wire.Bytes("a/b", []byte("payload"))
	p := must[Publish](t)(DecodePublish(V311, 0x30, body, true))
	if unsafe.StringData(p.Topic) != &body[2] || &p.Payload[0] != &body[5] {
		t.Error("a body that was given away has been copied")
	}
}

func TestThePartsOfAPublishCannotGrowIntoEachOther(t *testing.T) {
	p := must[Publish](t)(DecodePublish(V5, 0x30, wire.Bytes("a", wire.Props(9, "corr", 3, "text"), []byte("payload")), false))
	_ = append(p.Props.CorrelationData, "XXXXXX"...)
	_ = append(p.Payload, "XXXXXX"...)
	if p.Props.ContentType != "text" || string(p.Payload) != "payload" {
		t.Errorf("appending to one part has changed another: %q %q", p.Props.ContentType, p.Payload)
	}
}

func TestDecodingAPublishAllocatesOnceIn311(t *testing.T) {
	body := wire.Bytes("sensors/kitchen/temperature", uint16(7), []byte(strings.Repeat("x", 64)))
	if n := testing.AllocsPerRun(100, func() {
		if _, err := DecodePublish(V311, 0x32, body, false); err != nil {
			t.Fatal(err)
		}
	}); n > 1 {
		t.Errorf("%v allocations", n)
	}
	if n := testing.AllocsPerRun(100, func() {
		if _, err := DecodePublish(V311, 0x32, body, true); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations when owned", n)
	}
}
