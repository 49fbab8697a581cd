package packet

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/test/wire"
)

// validConnect is a CONNECT with everything in it.
func validConnect(v Version) []byte {
	if v == V311 {
		return wire.Bytes("MQTT", 4, 0xf6, uint16(60), "client", "will/topic", "gone", "user", "secret")
	}
	return wire.Bytes("MQTT", 5, 0xf6, uint16(60),
		wire.Props(17, uint32(3600), 33, uint16(10), 39, uint32(70000), 34, uint16(5), 25, 1, 23, 0,
			38, "k", "1", 21, "SCRAM", 38, "k", "2", 22, "\x00\xff"),
		"client",
		wire.Props(24, uint32(30), 1, 1, 2, uint32(0), 3, "text/plain", 8, "reply", 9, "\x00\x01", 38, "b", "1", 38, "a", "2"),
		"will/topic", "gone", "user", "sec\x00ret")
}

func TestConnectOf311IsDecoded(t *testing.T) {
	got := must[*Connect](t)(DecodeConnect(validConnect(V311)))
	want := &Connect{
		Version: V311, ClientID: "client", CleanStart: true, KeepAlive: 60,
		Username: "user", HasUsername: true, Password: []byte("secret"), HasPassword: true,
		Will:           &Will{Topic: "will/topic", Payload: []byte("gone"), QoS: 2, Retain: true},
		ReceiveMaximum: 65535, RequestProblemInfo: true,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestConnectOf5IsDecoded(t *testing.T) {
	got := must[*Connect](t)(DecodeConnect(validConnect(V5)))
	want := &Connect{
		Version: V5, ClientID: "client", CleanStart: true, KeepAlive: 60,
		Username: "user", HasUsername: true, Password: []byte("sec\x00ret"), HasPassword: true,
		Will: &Will{
			Topic: "will/topic", Payload: []byte("gone"), QoS: 2, Retain: true, Delay: 30, Expiry: 0, HasExpiry: true,
			Props: &message.Properties{
				PayloadFormat: 1, HasPayloadFormat: true, ContentType: "text/plain", ResponseTopic: "reply",
				CorrelationData: []byte{0, 1}, User: []message.UserProperty{{Name: "b", Value: "1"}, {Name: "a", Value: "2"}},
			},
		},
		SessionExpiry: 3600, HasSessionExpiry: true, ReceiveMaximum: 10, MaximumPacketSize: 70000, TopicAliasMaximum: 5,
		RequestResponseInfo: true, RequestProblemInfo: false, AuthMethod: "SCRAM", AuthData: []byte{0, 0xff},
		User: []message.UserProperty{{Name: "k", Value: "1"}, {Name: "k", Value: "2"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestConnectDefaultsAndCornersAreTaken(t *testing.T) {
	base := func(v Version) *Connect {
		return &Connect{Version: v, ClientID: "c", CleanStart: true, ReceiveMaximum: 65535, RequestProblemInfo: true}
	}
	with := func(c *Connect, change func(*Connect)) *Connect { change(c); return c }
	for _, c := range []struct {
		name string
		body []byte
		want *Connect
	}{
		{"nothing optional in 3.1.1", wire.Bytes("MQTT", 4, 2, uint16(0), "c"), base(V311)},
		{"nothing optional in 5", wire.Bytes("MQTT", 5, 2, uint16(0), 0, "c"), base(V5)},
		{
			"MQTT-3.1.3-6 an empty Client Identifier with Clean Session", wire.Bytes("MQTT", 4, 2, uint16(0), ""),
			with(base(V311), func(c *Connect) { c.ClientID = "" }),
		},
		{
			"MQTT-3.1.3-6 an empty Client Identifier without Clean Start", wire.Bytes("MQTT", 5, 0, uint16(0), 0, ""),
			with(base(V5), func(c *Connect) { c.ClientID, c.CleanStart = "", false }),
		},
		{
			"Keep Alive beyond what one and a half of it fits into 16 bits", wire.Bytes("MQTT", 4, 2, uint16(65535), "c"),
			with(base(V311), func(c *Connect) { c.KeepAlive = 65535 }),
		},
		{
			"an empty Will Payload", wire.Bytes("MQTT", 4, 6, uint16(0), "c", "t", ""),
			with(base(V311), func(c *Connect) { c.Will = &Will{Topic: "t", Payload: []byte{}} }),
		},
		{
			"a Will without properties", wire.Bytes("MQTT", 5, 6, uint16(0), 0, "c", 0, "t", "p"),
			with(base(V5), func(c *Connect) { c.Will = &Will{Topic: "t", Payload: []byte("p")} }),
		},
		{
			"a Will with Message Expiry Interval 0", wire.Bytes("MQTT", 5, 6, uint16(0), 0, "c", wire.Props(2, uint32(0)), "t", "p"),
			with(base(V5), func(c *Connect) { c.Will = &Will{Topic: "t", Payload: []byte("p"), HasExpiry: true} }),
		},
		{
			"a Will with empty Correlation Data", wire.Bytes("MQTT", 5, 6, uint16(0), 0, "c", wire.Props(9, ""), "t", "p"),
			with(base(V5), func(c *Connect) {
				c.Will = &Will{Topic: "t", Payload: []byte("p"), Props: &message.Properties{CorrelationData: []byte{}}}
			}),
		},
		{
			"an empty User Name and an empty Password", wire.Bytes("MQTT", 4, 0xc2, uint16(0), "c", "", ""),
			with(base(V311), func(c *Connect) { c.HasUsername, c.HasPassword, c.Password = true, true, []byte{} }),
		},
		{
			"a Password without User Name in 5", wire.Bytes("MQTT", 5, 0x42, uint16(0), 0, "c", "token"),
			with(base(V5), func(c *Connect) { c.HasPassword, c.Password = true, []byte("token") }),
		},
		{
			"Session Expiry Interval 0 is there", wire.Bytes("MQTT", 5, 2, uint16(0), wire.Props(17, uint32(0)), "c"),
			with(base(V5), func(c *Connect) { c.HasSessionExpiry = true }),
		},
		{
			"Request Problem Information 1", wire.Bytes("MQTT", 5, 2, uint16(0), wire.Props(23, 1), "c"), base(V5),
		},
		{
			"empty Authentication Data is there", wire.Bytes("MQTT", 5, 2, uint16(0), wire.Props(21, "m", 22, ""), "c"),
			with(base(V5), func(c *Connect) { c.AuthMethod, c.AuthData = "m", []byte{} }),
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, must[*Connect](t)(DecodeConnect(c.body))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestBadConnectsAreRefused(t *testing.T) {
	connect := func(level, flags int, rest ...any) []byte {
		body := wire.Bytes("MQTT", level, flags, uint16(0))
		if level == 5 {
			body = append(body, 0)
		}
		return append(body, wire.Bytes(rest...)...)
	}
	testRefusals(t, []refusal{
		{"MQTT-3.1.2-1 another Protocol Name", V311, 0x10, wire.Bytes("MQTS", 4, 2, uint16(0), "c"), UnsupportedProtocolVersion},
		{"MQTT-3.1.2-1 the Protocol Name in small letters", V5, 0x10, wire.Bytes("mqtt", 5, 2, uint16(0), 0, "c"), UnsupportedProtocolVersion},
		{"MQTT-3.1.2-1 an empty Protocol Name", V5, 0x10, wire.Bytes("", 5, 2, uint16(0), 0, "c"), UnsupportedProtocolVersion},
		{"MQTT-3.1.2-2 MQTT 3.1", V311, 0x10, wire.Bytes("MQIsdp", 3, 2, uint16(0), "c"), UnsupportedProtocolVersion},
		{"MQTT-3.1.2-2 level 3 under the name MQTT", V311, 0x10, connect(3, 2, "c"), UnsupportedProtocolVersion},
		{"MQTT-3.1.2-2 level 6", V5, 0x10, connect(6, 2, "c"), UnsupportedProtocolVersion},
		{"MQTT-3.1.2-2 the bridge bit", V311, 0x10, connect(0x84, 2, "c"), UnsupportedProtocolVersion},
		{"3.1.2.1 a Protocol Name that is cut", V311, 0x10, wire.Bytes(0, 4, 'M', 'Q'), MalformedPacket},
		{"MQTT-3.1.2-3 the reserved flag", V311, 0x10, connect(4, 3, "c"), MalformedPacket},
		{"MQTT-3.1.2-3 the reserved flag", V5, 0x10, connect(5, 3, "c"), MalformedPacket},
		{"MQTT-3.1.2-13 Will QoS without Will", V311, 0x10, connect(4, 0x0a, "c"), MalformedPacket},
		{"MQTT-3.1.2-11 Will QoS without Will", V5, 0x10, connect(5, 0x12, "c"), MalformedPacket},
		{"MQTT-3.1.2-14 Will QoS 3", V311, 0x10, connect(4, 0x1e, "c", "t", "p"), MalformedPacket},
		{"MQTT-3.1.2-12 Will QoS 3", V5, 0x10, connect(5, 0x1e, "c", 0, "t", "p"), MalformedPacket},
		{"MQTT-3.1.2-15 Will Retain without Will", V311, 0x10, connect(4, 0x22, "c"), MalformedPacket},
		{"MQTT-3.1.2-13 Will Retain without Will", V5, 0x10, connect(5, 0x22, "c"), MalformedPacket},
		{"MQTT-3.1.2-22 Password without User Name", V311, 0x10, connect(4, 0x42, "c", "p"), MalformedPacket},
		{"MQTT-3.1.2-9 Will without Will Topic", V311, 0x10, connect(4, 6, "c"), MalformedPacket},
		{"MQTT-3.1.2-9 Will without Will Payload", V5, 0x10, connect(5, 6, "c", 0, "t"), MalformedPacket},
		{"MQTT-3.1.2-11 Will Topic without Will", V311, 0x10, connect(4, 2, "c", "t", "p"), MalformedPacket},
		{"MQTT-3.1.2-17 User Name flag without User Name", V5, 0x10, connect(5, 0x82, "c"), MalformedPacket},
		{"MQTT-3.1.2-16 User Name without its flag", V5, 0x10, connect(5, 2, "c", "u"), MalformedPacket},
		{"MQTT-3.1.2-19 Password flag without Password", V5, 0x10, connect(5, 0xc2, "c", "u"), MalformedPacket},
		{"MQTT-3.1.2-18 Password without its flag", V5, 0x10, connect(5, 0x82, "c", "u", "p"), MalformedPacket},
		{"MQTT-3.1.3-3 no Client Identifier", V311, 0x10, connect(4, 2), MalformedPacket},
		{"MQTT-3.1.3-3 no Client Identifier", V5, 0x10, connect(5, 2), MalformedPacket},
		{"MQTT-3.1.3-8 empty Client Identifier without Clean Session", V311, 0x10, connect(4, 0, ""), ClientIdentifierNotValid},
		{"MQTT-3.1.3-8 does not hide what is malformed", V311, 0x10, connect(4, 0, "", 0), MalformedPacket},
	})
}

func TestARefusedConnectIsAnsweredInTheNearestVersion(t *testing.T) {
	for _, c := range []struct {
		name string
		body []byte
		want Version
	}{
		{"MQTT 3.1", wire.Bytes("MQIsdp", 3), V311},
		{"3.1 as a later level", wire.Bytes("MQIsdp", 5), V311},
		{"3.1.1, malformed", wire.Bytes("MQTT", 4, 1), V311},
		{"5, malformed", wire.Bytes("MQTT", 5, 1), V5},
		{"a later version", wire.Bytes("MQTT", 6), V5},
		{"no MQTT", wire.Bytes("HTTP", 5), 0},
		{"cut within the name", wire.Bytes(0, 4, 'M'), 0},
		{"cut before the level", wire.Bytes("MQTT"), 0},
		{"nothing", nil, 0},
	} {
		if got := ConnectVersion(c.body); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

func TestAConnectSharesNoMemoryWithItsBytes(t *testing.T) {
	for _, v := range []Version{V311, V5} {
		body := validConnect(v)
		got := must[*Connect](t)(DecodeConnect(body))
		want := must[*Connect](t)(DecodeConnect(bytes.Clone(body)))
		for i := range body {
			body[i] = '!'
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("v%d: %s", v, diff)
		}
	}
}

func TestAnErrorDoesNotQuoteTheClient(t *testing.T) {
	for _, body := range [][]byte{
		wire.Bytes("MQTT", 5, 0xc2, uint16(0), 0, "c", "hunter2\xff", "hunter2"),
		wire.Bytes("MQTT", 5, 0xc2, uint16(0), 0, "c", "hunter2", "hunter2", "hunter2"),
		wire.Bytes("hunter2", 5, 0xc2),
		wire.Bytes("MQTT", 5, 2, uint16(0), wire.Props(38, "hunter2", "\xff"), "c"),
	} {
		_, err := DecodeConnect(body)
		if err == nil {
			t.Fatalf("%q is taken", body)
		}
		if bytes.Contains([]byte(err.Error()), []byte("hunter2")) {
			t.Errorf("the error quotes the packet: %v", err)
		}
	}
}
