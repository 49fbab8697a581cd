package packet

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	paho "github.com/eclipse/paho.golang/packets"
	"github.com/google/go-cmp/cmp"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/test/wire"
)

func TestDisconnectIsDecoded(t *testing.T) {
	for _, c := range []struct {
		name string
		v    Version
		body []byte
		want Disconnect
	}{
		{"3.1.1", V311, nil, Disconnect{}},
		{"nothing but the header", V5, nil, Disconnect{}},
		{"a code of one byte asks for the Will", V5, wire.Bytes(4), Disconnect{Code: DisconnectWithWillMessage}},
		{"a code and empty properties", V5, wire.Bytes(0x81, 0), Disconnect{Code: MalformedPacket}},
		{"Session Expiry Interval 0 is there", V5, wire.Bytes(0, wire.Props(17, uint32(0))), Disconnect{HasSessionExpiry: true}},
		{
			"all properties", V5, wire.Bytes(4, wire.Props(38, "k", "1", 31, "why", 17, uint32(0xffffffff), 38, "k", "2")),
			Disconnect{
				Code: DisconnectWithWillMessage, SessionExpiry: 0xffffffff, HasSessionExpiry: true, Reason: "why",
				User: []message.UserProperty{{Name: "k", Value: "1"}, {Name: "k", Value: "2"}},
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := must[Disconnect](t)(DecodeDisconnect(c.v, 0xe0, c.body))
			clear(c.body)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDisconnectCodesOfServersAreRefused(t *testing.T) {
	fromClients := []Code{
		0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99,
	}
	for code := range 256 {
		_, err := DecodeDisconnect(V5, 0xe0, wire.Bytes(code))
		if slices.Contains(fromClients, Code(code)) {
			if err != nil {
				t.Errorf("MQTT-3.14.2-1 %v: %v", Code(code), err)
			}
			continue
		}
		wantCode(t, err, ProtocolError)
	}
}

func TestAuthIsDecoded(t *testing.T) {
	body := wire.Bytes(0x19, wire.Props(38, "k", "1", 21, "SCRAM", 31, "why", 22, "\x00\x01", 38, "k", "2"))
	want := Auth{
		Code: ReAuthenticate, Method: "SCRAM", Data: []byte{0, 1}, Reason: "why",
		User: []message.UserProperty{{Name: "k", Value: "1"}, {Name: "k", Value: "2"}},
	}
	got := must[Auth](t)(DecodeAuth(V5, 0xf0, body))
	clear(body)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	got = must[Auth](t)(DecodeAuth(V5, 0xf0, wire.Bytes(0x18, wire.Props(21, "m"))))
	if diff := cmp.Diff(Auth{Code: ContinueAuthentication, Method: "m"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestBadAuthsAreRefused(t *testing.T) {
	testRefusals(t, []refusal{
		{"2.2.1 AUTH", V311, 0xf0, wire.Bytes(0x18, wire.Props(21, "m")), MalformedPacket},
		{"3.15.2.1 an empty body, which says Success", V5, 0xf0, nil, ProtocolError},
		{"3.15.2.1 Success from a client", V5, 0xf0, wire.Bytes(0, wire.Props(21, "m")), ProtocolError},
		{"MQTT-3.15.2-1 another code", V5, 0xf0, wire.Bytes(0x80, wire.Props(21, "m")), ProtocolError},
		{"3.15.2.2.2 no Authentication Method", V5, 0xf0, wire.Bytes(0x18, 0), ProtocolError},
		{"3.15.2.2.3 Authentication Data without Method", V5, 0xf0, wire.Bytes(0x18, wire.Props(22, "d")), ProtocolError},
		{"3.15.2.2.1 no Property Length", V5, 0xf0, wire.Bytes(0x18), MalformedPacket},
	})
}

var someUser = []message.UserProperty{{Name: "z", Value: "1"}, {Name: "a", Value: "2"}, {Name: "z", Value: "1"}}

var pahoUser = []paho.User{{Key: "z", Value: "1"}, {Key: "a", Value: "2"}, {Key: "z", Value: "1"}}

func TestDisconnectIsEncoded(t *testing.T) {
	read := func(raw []byte) *paho.Disconnect {
		t.Helper()
		return must[*paho.ControlPacket](t)(paho.ReadPacket(bytes.NewReader(raw))).Content.(*paho.Disconnect)
	}
	for code := range codeNames {
		raw := AppendDisconnect([]byte("before"), code, Disconnect{})
		if !bytes.HasPrefix(raw, []byte("before")) || Code(read(raw[6:]).ReasonCode) != code {
			t.Errorf("%v: %x", code, raw)
		}
	}
	raw := AppendDisconnect(nil, ServerMoved, Disconnect{
		Code: MalformedPacket, SessionExpiry: 5, HasSessionExpiry: true, // not a server's to send: MQTT-3.14.2-2
		Reason: "drained", ServerReference: "other:1883", User: someUser,
	})
	want := &paho.Disconnect{ReasonCode: 0x9d, Properties: &paho.Properties{
		ReasonString: "drained", ServerReference: "other:1883", User: pahoUser,
	}}
	if diff := cmp.Diff(want, read(raw)); diff != "" {
		t.Error(diff)
	}

	d := Disconnect{Reason: "drained", ServerReference: "other:1883", User: someUser, Limit: uint32(len(raw))}
	if !slices.Equal(raw, AppendDisconnect(nil, ServerMoved, d)) {
		t.Error("a DISCONNECT that just fits has been cut")
	}
	d.Limit--
	short := AppendDisconnect([]byte("before"), ServerMoved, d)
	want.Properties.ReasonString, want.Properties.User = "", nil
	if diff := cmp.Diff(want, read(short[6:])); diff != "" || !bytes.HasPrefix(short, []byte("before")) {
		t.Errorf("MQTT-3.14.2-3, MQTT-3.14.2-4: %q %s", short, diff)
	}
}

func TestAuthIsEncoded(t *testing.T) {
	raw := AppendAuth([]byte("before"), Auth{
		Code: ContinueAuthentication, Method: "SCRAM", Data: []byte{0, 1}, Reason: "more", User: someUser,
	})
	got := must[*paho.ControlPacket](t)(paho.ReadPacket(bytes.NewReader(raw[6:]))).Content
	want := &paho.Auth{ReasonCode: 0x18, Properties: &paho.Properties{
		AuthMethod: "SCRAM", AuthData: []byte{0, 1}, ReasonString: "more", User: pahoUser,
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestTextThatMQTTCannotCarryIsCut(t *testing.T) {
	long := strings.Repeat("ü", 40_000)
	raw := AppendDisconnect(nil, ServerBusy, Disconnect{Reason: long, ServerReference: "other"})
	got := must[*paho.ControlPacket](t)(paho.ReadPacket(bytes.NewReader(raw))).Content.(*paho.Disconnect)
	if got.Properties.ReasonString != long[:65534] || got.Properties.ServerReference != "other" {
		t.Errorf("Reason String has %d bytes, Server Reference is %q", len(got.Properties.ReasonString), got.Properties.ServerReference)
	}
}
