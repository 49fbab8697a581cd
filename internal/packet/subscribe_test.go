package packet

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	paho "github.com/eclipse/paho.golang/packets"
	paho311 "github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/google/go-cmp/cmp"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
	"github.com/beeline-mqtt/beeline/test/wire"
)

func TestSubscribeIsDecoded(t *testing.T) {
	for _, c := range []struct {
		name string
		v    Version
		body []byte
		want Subscribe
	}{
		{
			"filters in their order", V311, wire.Bytes(uint16(7), "a/+", 2, "b/#", 0, "a/+", 1),
			Subscribe{PacketID: 7, Filters: []Filter{
				{"a/+", subscriptions.Options{QoS: 2}}, {"b/#", subscriptions.Options{}}, {"a/+", subscriptions.Options{QoS: 1}},
			}},
		},
		{
			"every option", V5, wire.Bytes(uint16(7), 0, "a", 0x04, "b", 0x08, "c", 0x10, "d", 0x20, "e", 0x2e),
			Subscribe{PacketID: 7, Filters: []Filter{
				{"a", subscriptions.Options{NoLocal: true}},
				{"b", subscriptions.Options{RetainAsPublished: true}},
				{"c", subscriptions.Options{RetainHandling: 1}},
				{"d", subscriptions.Options{RetainHandling: 2}},
				{"e", subscriptions.Options{QoS: 2, NoLocal: true, RetainAsPublished: true, RetainHandling: 2}},
			}},
		},
		{
			"the Subscription Identifier is in each filter", V5,
			wire.Bytes(uint16(7), wire.Props(38, "k", "1", 11, 0xff, 0xff, 0xff, 0x7f, 38, "k", "2"), "a", 0, "b", 1),
			Subscribe{
				PacketID: 7,
				Filters: []Filter{
					{"a", subscriptions.Options{ID: 268435455}}, {"b", subscriptions.Options{QoS: 1, ID: 268435455}},
				},
				User: []message.UserProperty{{Name: "k", Value: "1"}, {Name: "k", Value: "2"}},
			},
		},
		{
			"a Shared Subscription", V5, wire.Bytes(uint16(7), 0, "$share/g/a", 1),
			Subscribe{PacketID: 7, Filters: []Filter{{"$share/g/a", subscriptions.Options{QoS: 1}}}},
		},
		{
			"filters that the caller has to refuse", V311, wire.Bytes(uint16(7), "", 0, "a#", 0),
			Subscribe{PacketID: 7, Filters: []Filter{{}, {Filter: "a#"}}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, must[Subscribe](t)(DecodeSubscribe(c.v, 0x82, c.body))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestUnsubscribeIsDecoded(t *testing.T) {
	got := must[Unsubscribe](t)(DecodeUnsubscribe(V311, 0xa2, wire.Bytes(uint16(7), "a/+", "b")))
	if diff := cmp.Diff(Unsubscribe{PacketID: 7, Filters: []string{"a/+", "b"}}, got); diff != "" {
		t.Error(diff)
	}
	got = must[Unsubscribe](t)(DecodeUnsubscribe(V5, 0xa2, wire.Bytes(uint16(7), wire.Props(38, "k", "v"), "a/+")))
	want := Unsubscribe{PacketID: 7, Filters: []string{"a/+"}, User: []message.UserProperty{{Name: "k", Value: "v"}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestBadSubscribesAreRefused(t *testing.T) {
	testRefusals(t, []refusal{
		{"MQTT-2.3.1-1 Packet Identifier 0", V311, 0x82, wire.Bytes(uint16(0), "t", 0), ProtocolError},
		{"MQTT-2.2.1-3 Packet Identifier 0", V5, 0x82, wire.Bytes(uint16(0), 0, "t", 0), ProtocolError},
		{"MQTT-3.8.3-3 no Topic Filter", V311, 0x82, wire.Bytes(uint16(1)), ProtocolError},
		{"MQTT-3.8.3-2 no Topic Filter", V5, 0x82, wire.Bytes(uint16(1), 0), ProtocolError},
		{"3.8.3 a Topic Filter without options", V311, 0x82, wire.Bytes(uint16(1), "t"), MalformedPacket},
		{"3.8.3 a Topic Filter without options", V5, 0x82, wire.Bytes(uint16(1), 0, "t"), MalformedPacket},
		{"3.8.3 a second Topic Filter without options", V5, 0x82, wire.Bytes(uint16(1), 0, "t", 0, "u"), MalformedPacket},
		{"3.8.3 an empty Topic Filter without options", V5, 0x82, wire.Bytes(uint16(1), 0, ""), MalformedPacket},
		{"MQTT-3-8.3-4 QoS 3", V311, 0x82, wire.Bytes(uint16(1), "t", 3), MalformedPacket},
		{"MQTT-3-8.3-4 reserved bits", V311, 0x82, wire.Bytes(uint16(1), "t", 0x04), MalformedPacket},
		{"MQTT-3-8.3-4 a reserved bit", V311, 0x82, wire.Bytes(uint16(1), "t", 0x80), MalformedPacket},
		{"3.8.3.1 QoS 3", V5, 0x82, wire.Bytes(uint16(1), 0, "t", 3), ProtocolError},
		{"3.8.3.1 Retain Handling 3", V5, 0x82, wire.Bytes(uint16(1), 0, "t", 0x30), ProtocolError},
		{"MQTT-3.8.3-5 reserved bit 6", V5, 0x82, wire.Bytes(uint16(1), 0, "t", 0x40), MalformedPacket},
		{"MQTT-3.8.3-5 reserved bit 7 of the second", V5, 0x82, wire.Bytes(uint16(1), 0, "t", 0, "u", 0x80), MalformedPacket},
		{"MQTT-3.8.3-4 No Local on a Shared Subscription", V5, 0x82, wire.Bytes(uint16(1), 0, "$share/g/t", 0x04), ProtocolError},
		{"MQTT-2.3.1-1 UNSUBSCRIBE with Packet Identifier 0", V311, 0xa2, wire.Bytes(uint16(0), "t"), ProtocolError},
		{"MQTT-2.2.1-3 UNSUBSCRIBE with Packet Identifier 0", V5, 0xa2, wire.Bytes(uint16(0), 0, "t"), ProtocolError},
		{"MQTT-3.10.3-2 UNSUBSCRIBE without Topic Filter", V311, 0xa2, wire.Bytes(uint16(1)), ProtocolError},
		{"MQTT-3.10.3-2 UNSUBSCRIBE without Topic Filter", V5, 0xa2, wire.Bytes(uint16(1), 0), ProtocolError},
		{"MQTT-3.10.3-1 a second Topic Filter that is cut", V5, 0xa2, wire.Bytes(uint16(1), 0, "t", 0, 3, 'u'), MalformedPacket},
	})
}

func TestSubscriptionsShareNoMemoryWithTheirBytes(t *testing.T) {
	body := wire.Bytes(uint16(1), wire.Props(38, "k", "v"), "t", 0)
	s := must[Subscribe](t)(DecodeSubscribe(V5, 0x82, body))
	clear(body)
	if s.Filters[0].Filter != "t" || s.User[0].Name != "k" {
		t.Errorf("a SUBSCRIBE has changed with its bytes: %+v", s)
	}
	body = wire.Bytes(uint16(1), wire.Props(38, "k", "v"), "t")
	u := must[Unsubscribe](t)(DecodeUnsubscribe(V5, 0xa2, body))
	clear(body)
	if u.Filters[0] != "t" || u.User[0].Name != "k" {
		t.Errorf("an UNSUBSCRIBE has changed with its bytes: %+v", u)
	}
}

// A packet of the shortest filters must not cost many times its size.
func TestManyFiltersAreAllocatedOnce(t *testing.T) {
	body := wire.Bytes(uint16(1), 0, bytes.Repeat(wire.Bytes("", 0), 20_000))
	if n := testing.AllocsPerRun(10, func() {
		if s, err := DecodeSubscribe(V5, 0x82, body); err != nil || len(s.Filters) != 20_000 {
			t.Fatal(len(s.Filters), err)
		}
	}); n > 1 {
		t.Errorf("%v allocations", n)
	}
}

func TestSubacksAreEncoded(t *testing.T) {
	many := slices.Repeat([]Code{GrantedQoS2}, 300) // a Remaining Length of two bytes
	for _, codes := range [][]Code{{GrantedQoS0}, {GrantedQoS1, UnspecifiedError, NotAuthorized, TopicFilterInvalid}, many} {
		raw := AppendSuback([]byte("before"), V5, 0x1234, codes)[len("before"):]
		pk := must[*paho.ControlPacket](t)(paho.ReadPacket(bytes.NewReader(raw)))
		suback := pk.Content.(*paho.Suback)
		if suback.PacketID != 0x1234 || !slices.Equal(suback.Reasons, codeBytes(codes)) {
			t.Errorf("%v: the other codec reads %v", codes, suback)
		}

		raw = AppendSuback([]byte("before"), V311, 0x1234, codes)[len("before"):]
		pk311 := must[paho311.ControlPacket](t)(paho311.ReadPacket(bytes.NewReader(raw))).(*paho311.SubackPacket)
		want := codeBytes(codes)
		for i := range want {
			if want[i] > 2 { // MQTT-3.9.3-2
				want[i] = 0x80
			}
		}
		if pk311.MessageID != 0x1234 || !slices.Equal(pk311.ReturnCodes, want) {
			t.Errorf("%v in 3.1.1: the other codec reads %x", codes, pk311.ReturnCodes)
		}

		raw = AppendUnsuback([]byte("before"), V5, 0x1234, codes)[len("before"):]
		pk = must[*paho.ControlPacket](t)(paho.ReadPacket(bytes.NewReader(raw)))
		unsuback := pk.Content.(*paho.Unsuback)
		if unsuback.PacketID != 0x1234 || !slices.Equal(unsuback.Reasons, codeBytes(codes)) {
			t.Errorf("%v: the other codec reads %v", codes, unsuback)
		}
	}
}

func TestUnsubackOf311HasNoCodes(t *testing.T) {
	raw := AppendUnsuback([]byte("before"), V311, 0x1234, []Code{Success, NoSubscriptionExisted})
	if want := []byte("before\xb0\x02\x12\x34"); !slices.Equal(raw, want) {
		t.Errorf("UNSUBACK is %x, want %x", raw, want)
	}
}

func TestTheOtherCodecsSubscribesAreUnderstood(t *testing.T) {
	filter := strings.Repeat("long/", 100) + "#"
	var raw bytes.Buffer
	sub := &paho.Subscribe{
		PacketID: 9, Properties: &paho.Properties{SubscriptionIdentifier: ptr(300)},
		Subscriptions: []paho.SubOptions{{Topic: filter, QoS: 1, RetainHandling: 2, NoLocal: true, RetainAsPublished: true}},
	}
	if _, err := sub.WriteTo(&raw); err != nil {
		t.Fatal(err)
	}
	first, body, _, err := NewReader(&raw).Next(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	want := Subscribe{PacketID: 9, Filters: []Filter{{filter, subscriptions.Options{
		QoS: 1, NoLocal: true, RetainAsPublished: true, RetainHandling: 2, ID: 300,
	}}}}
	if diff := cmp.Diff(want, must[Subscribe](t)(DecodeSubscribe(V5, first, body))); diff != "" {
		t.Error(diff)
	}
}

func codeBytes(codes []Code) []byte {
	b := make([]byte, len(codes))
	for i, c := range codes {
		b[i] = byte(c)
	}
	return b
}
