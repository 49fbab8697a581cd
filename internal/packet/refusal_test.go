package packet

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/beeline-mqtt/beeline/internal/mqtt"
	"github.com/beeline-mqtt/beeline/test/wire"
)

// refusal is a packet that must be refused. Names begin with the statement or section that it breaks.
type refusal struct {
	name  string
	v     Version
	first byte
	body  []byte
	code  Code
}

func testRefusals(t *testing.T, refusals []refusal) {
	t.Helper()
	for _, r := range refusals {
		t.Run(fmt.Sprintf("v%d %s", r.v, r.name), func(t *testing.T) {
			before := slices.Clone(r.body)
			wantCode(t, decode(r.v, r.first, r.body), r.code)
			if !slices.Equal(before, r.body) {
				t.Error("the packet has been written to")
			}
		})
	}
}

func TestThePacketThatCrashedMochiIsRefused(t *testing.T) {
	raw := []byte{0x82, 0x05, 0x00, 0x01, 0x00, 0x00, 0x00}
	first, body, _, err := NewReader(strings.NewReader(string(raw))).Next(100)
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, decode(V5, first, body), MalformedPacket)
}

func TestReservedFlagsOfTheFixedHeaderAreRefused(t *testing.T) {
	allowed := map[Type][]byte{
		PUBLISH:     {0x0, 0x1, 0x2, 0x3, 0x4, 0x5, 0xa, 0xb, 0xc, 0xd}, // MQTT-3.3.1-2, MQTT-3.3.1-4
		PUBREL:      {0x2},                                              // MQTT-3.6.1-1
		SUBSCRIBE:   {0x2},                                              // MQTT-3.8.1-1
		UNSUBSCRIBE: {0x2},                                              // MQTT-3.10.1-1
	}
	for first := range 256 {
		kind, flags := Type(first>>4), byte(first&0xf)
		want := flags == 0
		if flags, ok := allowed[kind]; ok {
			want = slices.Contains(flags, byte(first&0xf))
		}
		if kind == 0 {
			want = false
		}
		err := checkFirst(byte(first))
		if want != (err == nil) {
			t.Errorf("%v with flags %x: %v, want allowed %v", kind, flags, err, want)
		}
		if err != nil && err.Code != MalformedPacket {
			t.Errorf("%v with flags %x: refused with %v", kind, flags, err.Code)
		}
	}
}

func TestDecodersRefuseReservedFlags(t *testing.T) {
	testRefusals(t, []refusal{
		{"MQTT-2.1.3-1 CONNECT with flags", V5, 0x11, validConnect(V5), MalformedPacket},
		{"MQTT-3.3.1-4 PUBLISH with QoS 3", V5, 0x36, wire.Bytes("t", uint16(1), 0), MalformedPacket},
		{"MQTT-3.3.1-4 PUBLISH with QoS 3", V311, 0x36, wire.Bytes("t", uint16(1)), MalformedPacket},
		{"MQTT-3.3.1-2 DUP with QoS 0", V5, 0x38, wire.Bytes("t", 0), MalformedPacket},
		{"MQTT-3.3.1-2 DUP with QoS 0", V311, 0x38, wire.Bytes("t"), MalformedPacket},
		{"2.1.3 PUBACK with flags", V5, 0x42, wire.Bytes(uint16(1)), MalformedPacket},
		{"2.1.3 PUBREC with flags", V311, 0x51, wire.Bytes(uint16(1)), MalformedPacket},
		{"MQTT-3.6.1-1 PUBREL without flags", V5, 0x60, wire.Bytes(uint16(1)), MalformedPacket},
		{"2.1.3 PUBCOMP with flags", V5, 0x72, wire.Bytes(uint16(1)), MalformedPacket},
		{"MQTT-3.8.1-1 SUBSCRIBE without flags", V5, 0x80, wire.Bytes(uint16(1), 0, "t", 0), MalformedPacket},
		{"MQTT-3.10.1-1 UNSUBSCRIBE without flags", V5, 0xa0, wire.Bytes(uint16(1), 0, "t"), MalformedPacket},
		{"2.1.3 PINGREQ with flags", V5, 0xc1, nil, MalformedPacket},
		{"MQTT-3.14.1-1 DISCONNECT with flags", V5, 0xe1, nil, MalformedPacket},
		{"MQTT-3.15.1-1 AUTH with flags", V5, 0xf1, wire.Bytes(0x18, wire.Props(21, "m")), MalformedPacket},
	})
}

// Each packet is whole, with nothing optional behind its last byte.
func wholePackets() []refusal {
	return []refusal{
		{name: "CONNECT", v: V311, first: 0x10, body: validConnect(V311)},
		{name: "CONNECT", v: V5, first: 0x10, body: validConnect(V5)},
		{name: "PUBLISH", v: V311, first: 0x32, body: wire.Bytes("a/b", uint16(7))},
		{name: "PUBLISH", v: V5, first: 0x32, body: wire.Bytes("a/b", uint16(7),
			wire.Props(1, 1, 2, uint32(9), 3, "text", 8, "reply", 9, "corr", 35, uint16(2), 38, "k", "v"))},
		{name: "SUBSCRIBE", v: V311, first: 0x82, body: wire.Bytes(uint16(7), "a/#", 1)},
		{name: "SUBSCRIBE", v: V5, first: 0x82, body: wire.Bytes(uint16(7), wire.Props(11, 0x81, 0x01, 38, "k", "v"), "a/#", 1)},
		{name: "UNSUBSCRIBE", v: V311, first: 0xa2, body: wire.Bytes(uint16(7), "a/#")},
		{name: "UNSUBSCRIBE", v: V5, first: 0xa2, body: wire.Bytes(uint16(7), wire.Props(38, "k", "v"), "a/#")},
		{name: "PUBACK", v: V311, first: 0x40, body: wire.Bytes(uint16(7))},
		{name: "PUBACK", v: V5, first: 0x40, body: wire.Bytes(uint16(7), 0x10, wire.Props(31, "why", 38, "k", "v"))},
		{name: "PUBREC", v: V5, first: 0x50, body: wire.Bytes(uint16(7), 0x80, wire.Props(31, "why", 38, "k", "v"))},
		{name: "PUBREL", v: V5, first: 0x62, body: wire.Bytes(uint16(7), 0x92, wire.Props(31, "why", 38, "k", "v"))},
		{name: "PUBCOMP", v: V5, first: 0x70, body: wire.Bytes(uint16(7), 0x92, wire.Props(31, "why", 38, "k", "v"))},
		{name: "DISCONNECT", v: V5, first: 0xe0, body: wire.Bytes(4, wire.Props(17, uint32(9), 31, "why", 38, "k", "v"))},
		{name: "AUTH", v: V5, first: 0xf0, body: wire.Bytes(0x18, wire.Props(21, "m", 22, "d", 31, "why", 38, "k", "v"))},
	}
}

func TestWholePacketsAreTaken(t *testing.T) {
	for _, p := range wholePackets() {
		if err := decode(p.v, p.first, p.body); err != nil {
			t.Errorf("v%d %s: %v", p.v, p.name, err)
		}
	}
}

func TestEveryTruncationIsRefused(t *testing.T) {
	short := map[Type][]int{ // what MQTT 5 lets out at the end
		PUBACK: {2, 3}, PUBREC: {2, 3}, PUBREL: {2, 3}, PUBCOMP: {2, 3}, // 3.4.2.1, 3.4.2.2.1
		DISCONNECT: {0, 1}, // 3.14.2.1, 3.14.2.2.1
	}
	for _, p := range wholePackets() {
		for n := range p.body {
			err := decode(p.v, p.first, p.body[:n:n])
			if p.v == V5 && slices.Contains(short[Type(p.first>>4)], n) {
				if err != nil {
					t.Errorf("v%d %s in its short form of %d bytes: %v", p.v, p.name, n, err)
				}
				continue
			}
			if err == nil {
				t.Errorf("v%d %s is taken when cut to %d of %d bytes", p.v, p.name, n, len(p.body))
			}
		}
	}
}

func TestTrailingBytesAreRefused(t *testing.T) {
	for _, p := range wholePackets() {
		if Type(p.first>>4) == PUBLISH {
			continue // they are its payload
		}
		for _, more := range [][]byte{{0}, {0, 1}, {0xff, 0xff, 0xff}} {
			if err := decode(p.v, p.first, append(slices.Clone(p.body), more...)); err == nil {
				t.Errorf("v%d %s is taken with %d bytes behind it", p.v, p.name, len(more))
			}
		}
	}
	testRefusals(t, []refusal{
		{"3.12 PINGREQ with a body", V311, 0xc0, wire.Bytes(0), MalformedPacket},
		{"3.14 DISCONNECT with a body", V311, 0xe0, wire.Bytes(0), MalformedPacket},
	})
}

func TestIllFormedStringsAreRefused(t *testing.T) {
	bad := []struct{ name, text string }{
		{"MQTT-1.5.4-1 a byte that is no UTF-8", "a\xff"},
		{"MQTT-1.5.4-1 an encoding that is too long", "\xc0\x80"},
		{"MQTT-1.5.4-1 a surrogate", "\xed\xa0\x80"},
		{"MQTT-1.5.4-1 a character that is cut", "\xe2\x82"},
		{"MQTT-1.5.4-2 U+0000", "a\x00b"},
	}
	for _, b := range bad {
		testRefusals(t, []refusal{
			{b.name + " as Client Identifier", V311, 0x10, wire.Bytes("MQTT", 4, 2, uint16(0), b.text), MalformedPacket},
			{b.name + " as Client Identifier", V5, 0x10, wire.Bytes("MQTT", 5, 2, uint16(0), 0, b.text), MalformedPacket},
			{b.name + " as User Name", V311, 0x10, wire.Bytes("MQTT", 4, 0x82, uint16(0), "c", b.text), MalformedPacket},
			{b.name + " as User Name", V5, 0x10, wire.Bytes("MQTT", 5, 0x82, uint16(0), 0, "c", b.text), MalformedPacket},
			{b.name + " as Will Topic", V311, 0x10, wire.Bytes("MQTT", 4, 6, uint16(0), "c", b.text, ""), MalformedPacket},
			{b.name + " as Will Topic", V5, 0x10, wire.Bytes("MQTT", 5, 6, uint16(0), 0, "c", 0, b.text, ""), MalformedPacket},
			{b.name + " as Topic Name", V311, 0x30, wire.Bytes(b.text), MalformedPacket},
			{b.name + " as Topic Name", V5, 0x30, wire.Bytes(b.text, 0), MalformedPacket},
			{b.name + " as Content Type", V5, 0x30, wire.Bytes("t", wire.Props(3, b.text)), MalformedPacket},
			{b.name + " as Response Topic", V5, 0x30, wire.Bytes("t", wire.Props(8, b.text)), MalformedPacket},
			{b.name + " as name of a User Property", V5, 0x30, wire.Bytes("t", wire.Props(38, b.text, "v")), MalformedPacket},
			{b.name + " as value of a User Property", V5, 0x30, wire.Bytes("t", wire.Props(38, "k", b.text)), MalformedPacket},
			{b.name + " as Topic Filter", V311, 0x82, wire.Bytes(uint16(1), b.text, 0), MalformedPacket},
			{b.name + " as Topic Filter", V5, 0x82, wire.Bytes(uint16(1), 0, b.text, 0), MalformedPacket},
			{b.name + " as Topic Filter", V311, 0xa2, wire.Bytes(uint16(1), b.text), MalformedPacket},
			{b.name + " as Topic Filter", V5, 0xa2, wire.Bytes(uint16(1), 0, b.text), MalformedPacket},
			{b.name + " as Reason String", V5, 0x40, wire.Bytes(uint16(1), 0, wire.Props(31, b.text)), MalformedPacket},
			{b.name + " as Authentication Method", V5, 0xf0, wire.Bytes(0x18, wire.Props(21, b.text)), MalformedPacket},
		})
	}
}

func TestAByteOrderMarkIsKept(t *testing.T) { // MQTT-1.5.4-3
	p := must[Publish](t)(DecodePublish(V311, 0x30, wire.Bytes("\ufefft"), false))
	if p.Topic != "\ufefft" {
		t.Errorf("Topic Name is %q", p.Topic)
	}
}

func TestBadPropertiesAreRefused(t *testing.T) {
	publish := func(block []byte) []byte { return wire.Bytes("t", block) }
	connect := func(block []byte) []byte { return wire.Bytes("MQTT", 5, 2, uint16(0), block, "c") }
	will := func(block []byte) []byte { return wire.Bytes("MQTT", 5, 6, uint16(0), 0, "c", block, "t", "p") }
	subscribe := func(block []byte) []byte { return wire.Bytes(uint16(1), block, "t", 0) }
	testRefusals(t, []refusal{
		{"2.2.2.2 an identifier that does not exist", V5, 0x30, publish(wire.Props(0, 0)), MalformedPacket},
		{"2.2.2.2 an identifier beyond the table", V5, 0x30, publish(wire.Props(0x7f, 0)), MalformedPacket},
		{"2.2.2.2 an identifier of two bytes", V5, 0x30, publish(wire.Props(0x81, 0, 0)), MalformedPacket},
		{"2.2.2.2 Receive Maximum in PUBLISH", V5, 0x30, publish(wire.Props(33, uint16(1))), MalformedPacket},
		{"2.2.2.2 Will Delay in PUBLISH", V5, 0x30, publish(wire.Props(24, uint32(1))), MalformedPacket},
		{"2.2.2.2 Topic Alias in CONNECT", V5, 0x10, connect(wire.Props(35, uint16(1))), MalformedPacket},
		{"2.2.2.2 Will Delay among the CONNECT's own", V5, 0x10, connect(wire.Props(24, uint32(1))), MalformedPacket},
		{"2.2.2.2 Assigned Client Identifier in CONNECT", V5, 0x10, connect(wire.Props(18, "x")), MalformedPacket},
		{"2.2.2.2 Topic Alias in a Will", V5, 0x10, will(wire.Props(35, uint16(1))), MalformedPacket},
		{"2.2.2.2 Session Expiry in a Will", V5, 0x10, will(wire.Props(17, uint32(1))), MalformedPacket},
		{"2.2.2.2 Reason String in SUBSCRIBE", V5, 0x82, subscribe(wire.Props(31, "x")), MalformedPacket},
		{"2.2.2.2 Subscription Identifier in UNSUBSCRIBE", V5, 0xa2, wire.Bytes(uint16(1), wire.Props(11, 1), "t"), MalformedPacket},
		{"2.2.2.2 Session Expiry in PUBACK", V5, 0x40, wire.Bytes(uint16(1), 0, wire.Props(17, uint32(1))), MalformedPacket},
		{"3.14.2.2.5 Server Reference from a client", V5, 0xe0, wire.Bytes(0, wire.Props(28, "x")), MalformedPacket},
		{"2.2.2.2 Session Expiry in AUTH", V5, 0xf0, wire.Bytes(0x18, wire.Props(21, "m", 17, uint32(1))), MalformedPacket},
		{"2.2.2 the length runs over the packet", V5, 0x30, wire.Bytes("t", 5, 1, 0), MalformedPacket},
		{"2.2.2 the length runs over the packet", V5, 0x10, wire.Bytes("MQTT", 5, 2, uint16(0), 9, "c"), MalformedPacket},
		{"2.2.2 no length at all", V5, 0x30, wire.Bytes("t"), MalformedPacket},
		{"2.2.2 a value runs over the block into the payload", V5, 0x30, wire.Bytes("t", 3, 2, 0, 0, 0, 0, 1, 2, 3), MalformedPacket},
		{"2.2.2 a string runs over the block into the payload", V5, 0x30, wire.Bytes("t", 4, 3, 0, 5, 'a', "bcd"), MalformedPacket},
		{"2.2.2 an identifier without a value", V5, 0x30, wire.Bytes("t", 1, 1), MalformedPacket},
		{"MQTT-1.5.5-1 a Property Length of two bytes for 0", V5, 0x30, wire.Bytes("t", 0x80, 0), MalformedPacket},
		{"1.5.5 a Property Length of five bytes", V5, 0x30, wire.Bytes("t", 0x80, 0x80, 0x80, 0x80, 1), MalformedPacket},
		{"1.5.5 a Subscription Identifier of five bytes", V5, 0x82, subscribe(wire.Props(11, 0x81, 0x80, 0x80, 0x80, 1)), MalformedPacket},
		{"MQTT-1.5.5-1 a Subscription Identifier of two bytes for 1", V5, 0x82, subscribe(wire.Props(11, 0x81, 0)), MalformedPacket},
		{"3.8.2.1.2 Subscription Identifier 0", V5, 0x82, subscribe(wire.Props(11, 0)), ProtocolError},
		{"MQTT-3.3.4-6 Subscription Identifier from a client", V5, 0x30, publish(wire.Props(11, 1)), ProtocolError},
		{"MQTT-3.3.2-8 Topic Alias 0", V5, 0x30, publish(wire.Props(35, uint16(0))), TopicAliasInvalid},
		{"MQTT-3.3.2-14 Response Topic with +", V5, 0x30, publish(wire.Props(8, "a/+")), ProtocolError},
		{"MQTT-3.3.2-14 Response Topic with #", V5, 0x30, publish(wire.Props(8, "#")), ProtocolError},
		{"MQTT-4.7.3-1 empty Response Topic", V5, 0x30, publish(wire.Props(8, "")), ProtocolError},
		{"MQTT-3.3.2-14 Response Topic of a Will with #", V5, 0x10, will(wire.Props(8, "a/#")), ProtocolError},
		{"3.3.2.3.2 Payload Format 2", V5, 0x30, publish(wire.Props(1, 2)), ProtocolError},
		{"3.1.3.2.3 Payload Format 2 of a Will", V5, 0x10, will(wire.Props(1, 2)), ProtocolError},
		{"3.1.2.11.3 Receive Maximum 0", V5, 0x10, connect(wire.Props(33, uint16(0))), ProtocolError},
		{"3.1.2.11.4 Maximum Packet Size 0", V5, 0x10, connect(wire.Props(39, uint32(0))), ProtocolError},
		{"3.1.2.11.6 Request Response Information 2", V5, 0x10, connect(wire.Props(25, 2)), ProtocolError},
		{"3.1.2.11.7 Request Problem Information 2", V5, 0x10, connect(wire.Props(23, 2)), ProtocolError},
		{"3.1.2.11.10 Authentication Data without Method", V5, 0x10, connect(wire.Props(22, "x")), ProtocolError},
	})
}

func TestPropertiesMoreThanOnceAreRefused(t *testing.T) {
	values := map[mqtt.Property][]byte{
		mqtt.PayloadFormat: wire.Bytes(1), mqtt.MessageExpiry: wire.Bytes(uint32(1)), mqtt.ContentType: wire.Bytes("x"),
		mqtt.ResponseTopic: wire.Bytes("x"), mqtt.CorrelationData: wire.Bytes("x"), mqtt.SubscriptionIdentifier: wire.Bytes(1),
		mqtt.SessionExpiry: wire.Bytes(uint32(1)), mqtt.AuthMethod: wire.Bytes("x"), mqtt.AuthData: wire.Bytes("x"),
		mqtt.RequestProblemInfo: wire.Bytes(1), mqtt.WillDelay: wire.Bytes(uint32(1)), mqtt.RequestResponseInfo: wire.Bytes(1),
		mqtt.ReasonString: wire.Bytes("x"), mqtt.ReceiveMaximum: wire.Bytes(uint16(1)), mqtt.TopicAliasMaximum: wire.Bytes(uint16(1)),
		mqtt.TopicAlias: wire.Bytes(uint16(1)), mqtt.MaximumPacketSize: wire.Bytes(uint32(1)), mqtt.User: wire.Bytes("k", "v"),
	}
	packets := []struct {
		name    string
		allowed mqtt.PropertySet
		first   byte
		body    func(block []byte) []byte
	}{
		{"CONNECT", mqtt.ConnectProperties, 0x10, func(b []byte) []byte { return wire.Bytes("MQTT", 5, 2, uint16(0), b, "c") }},
		{"Will", mqtt.WillProperties, 0x10, func(b []byte) []byte { return wire.Bytes("MQTT", 5, 6, uint16(0), 0, "c", b, "t", "p") }},
		{"PUBLISH", publishProperties, 0x30, func(b []byte) []byte { return wire.Bytes("t", b) }},
		{"PUBACK", ackProperties, 0x40, func(b []byte) []byte { return wire.Bytes(uint16(1), 0, b) }},
		{"SUBSCRIBE", subscribeProperties, 0x82, func(b []byte) []byte { return wire.Bytes(uint16(1), b, "t", 0) }},
		{"UNSUBSCRIBE", unsubscribeProperties, 0xa2, func(b []byte) []byte { return wire.Bytes(uint16(1), b, "t") }},
		{"DISCONNECT", disconnectProperties, 0xe0, func(b []byte) []byte { return wire.Bytes(0, b) }},
		{"AUTH", authProperties, 0xf0, func(b []byte) []byte { return wire.Bytes(0x18, b) }},
	}
	for _, p := range packets {
		for id, value := range values {
			// Authentication Data needs a method, and AUTH needs one in any case.
			method := wire.Bytes()
			if id != mqtt.AuthMethod && p.allowed.Has(mqtt.AuthMethod) {
				method = wire.Bytes(int(mqtt.AuthMethod), "m")
			}
			once := wire.Bytes(int(id), value)
			err := decode(V5, p.first, p.body(wire.Props(method, once)))
			refusedAlways := !p.allowed.Has(id) || p.name == "PUBLISH" && id == mqtt.SubscriptionIdentifier
			if (err != nil) != refusedAlways {
				t.Errorf("%s once in %s: %v", id.String(), p.name, err)
			}
			err = decode(V5, p.first, p.body(wire.Props(method, once, once)))
			if !p.allowed.Has(id) {
				continue
			}
			if id == mqtt.User {
				if err != nil {
					t.Errorf("two User Properties in %s: %v", p.name, err)
				}
				continue
			}
			t.Run(id.String()+" twice in "+p.name, func(t *testing.T) { wantCode(t, err, ProtocolError) })
		}
	}
}

func TestOtherTypesAreRefused(t *testing.T) {
	for name, err := range map[string]error{
		"PUBLISH":     second(DecodePublish(V5, 0x40, wire.Bytes("t", 0), false)),
		"PUBACK":      second(DecodeAck(V5, 0x30, wire.Bytes(uint16(1)))),
		"PUBCOMP":     second(DecodeAck(V5, 0x82, wire.Bytes(uint16(1)))),
		"SUBSCRIBE":   second(DecodeSubscribe(V5, 0xa2, wire.Bytes(uint16(1), 0, "t", 0))),
		"UNSUBSCRIBE": second(DecodeUnsubscribe(V5, 0x82, wire.Bytes(uint16(1), 0, "t"))),
		"DISCONNECT":  second(DecodeDisconnect(V5, 0xc0, nil)),
		"AUTH":        second(DecodeAuth(V5, 0xe0, nil)),
		"PINGREQ":     DecodeEmpty(0xd0, nil),
	} {
		t.Run(name, func(t *testing.T) { wantCode(t, err, ProtocolError) })
	}
}

func second[T any](_ T, err error) error { return err }
