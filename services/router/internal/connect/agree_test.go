package connect

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/internal/packet"
)

// encoded is what the other codec makes of a CONNECT.
func encoded(t *testing.T, pk *packets.Packet) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := pk.ConnectEncode(&buf); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// others returns a CONNECT of the other codec for every combination of what a CONNECT may have.
func others(yield func(*packets.Packet) bool) {
	for _, level := range levels {
		name := "MQTT"
		if level == Level31 {
			name = "MQIsdp"
		}
		for bits := range 1 << 6 {
			has := func(bit int) bool { return bits&(1<<bit) != 0 }
			if !has(0) && has(1) && level != Level5 {
				continue // no Password without a User Name
			}
			pk := &packets.Packet{
				FixedHeader: packets.FixedHeader{Type: packets.Connect}, ProtocolVersion: level,
				Mods: packets.Mods{AllowResponseInfo: true},
				Connect: packets.ConnectParams{
					ProtocolName: []byte(name), Clean: has(3), Keepalive: uint16(bits) << 8,
					UsernameFlag: has(0), PasswordFlag: has(1), WillFlag: has(2),
				},
			}
			if has(0) {
				pk.Connect.Username = []byte("us\u00e9r")
			}
			if has(1) {
				pk.Connect.Password = []byte("\x00\xff")
			}
			if has(2) {
				pk.Connect.WillTopic, pk.Connect.WillPayload = "a/b", []byte{0xff, 0}
				pk.Connect.WillQos, pk.Connect.WillRetain = byte(bits%3), has(3)
			}
			if has(4) {
				pk.Connect.ClientIdentifier = "client-\u4e16"
			}
			if has(5) {
				pk.Properties, pk.Connect.WillProperties = otherProperties()
			}
			if !yield(pk) {
				return
			}
		}
	}
}

func otherProperties() (of, will packets.Properties) {
	users := []packets.UserProperty{{Key: "k", Val: "v"}, {Key: "k", Val: ""}}
	of = packets.Properties{
		SessionExpiryInterval: 1, SessionExpiryIntervalFlag: true, ReceiveMaximum: 2, MaximumPacketSize: 300,
		TopicAliasMaximum: 4, RequestResponseInfo: 1, RequestProblemInfoFlag: true, AuthenticationMethod: "m",
		AuthenticationData: []byte{0}, User: users,
	}
	will = packets.Properties{
		WillDelayInterval: 1, PayloadFormat: 1, PayloadFormatFlag: true, MessageExpiryInterval: 2, ContentType: "c",
		ResponseTopic: "r", CorrelationData: []byte{0xff}, User: users,
	}
	return of, will
}

func TestTheOtherCodecsConnectsAreUnderstood(t *testing.T) {
	n := 0
	for pk := range others {
		n++
		raw := encoded(t, pk)
		got, err := Read(sent(raw), 1000)
		if err != nil {
			t.Fatalf("% x: %v", raw, err)
		}
		want := Packet{
			Level: pk.ProtocolVersion, ClientID: pk.Connect.ClientIdentifier, CleanStart: pk.Connect.Clean,
			KeepAlive: pk.Connect.Keepalive, Username: string(pk.Connect.Username), HasUsername: pk.Connect.UsernameFlag,
			Password: pk.Connect.Password, HasPassword: pk.Connect.PasswordFlag, Raw: raw,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("% x: %s", raw, diff)
		}
		agree(t, raw)
	}
	if want := 48 + 48 + 64; n != want {
		t.Errorf("%d packets, want %d", n, want)
	}
}

func TestTheOtherCodecUnderstandsRefusals(t *testing.T) {
	for _, level := range levels {
		for _, code := range []Code{UnsupportedProtocolVersion, ServerUnavailable, UseAnotherServer} {
			raw := Refusal(level, code)
			if code == UseAnotherServer {
				raw = Redirect(level, "node-2:1883")
			}
			pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connack}, ProtocolVersion: level}
			if err := pk.ConnackDecode(raw[2:]); err != nil || pk.SessionPresent {
				t.Errorf("level %d, code 0x%02x: %v", level, code, err)
			}
			if level == Level5 && (Code(pk.ReasonCode) != code ||
				code == UseAnotherServer && pk.Properties.ServerReference != "node-2:1883") {
				t.Errorf("code 0x%02x: is read as 0x%02x, %q", code, pk.ReasonCode, pk.Properties.ServerReference)
			}
		}
	}
}

func TestTheOtherCodecsConnacksAreUnderstood(t *testing.T) {
	of, _ := otherProperties()
	of.ServerReference, of.ReasonString, of.AssignedClientID, of.ResponseInfo = "node-2", "why", "id", "info"
	of.ServerKeepAliveFlag, of.MaximumQosFlag, of.RetainAvailableFlag = true, true, true
	of.WildcardSubAvailableFlag, of.SubIDAvailableFlag, of.SharedSubAvailableFlag = true, true, true
	for _, level := range levels {
		for _, code := range []byte{0, 3, 0x88, 0x9c, 0x9d} {
			pk := packets.Packet{
				FixedHeader: packets.FixedHeader{Type: packets.Connack}, ProtocolVersion: level, ReasonCode: code,
				SessionPresent: true, Properties: of, Mods: packets.Mods{AllowResponseInfo: true},
			}
			var buf bytes.Buffer
			if err := pk.ConnackEncode(&buf); err != nil {
				t.Fatal(err)
			}
			want := Connack{Code: Code(code), Raw: buf.Bytes()}
			if level == Level5 && code >= 0x9c {
				want.ServerReference = "node-2"
			}
			got, err := ReadConnack(sent(buf.Bytes()), level, 1000)
			if diff := cmp.Diff(want, got); err != nil || diff != "" {
				t.Errorf("level %d, code 0x%02x: %v %s", level, code, err, diff)
			}
		}
	}
}

// agree compares what is made of the packet at the start of raw with what the codecs make of it that brokers use: that
// of mochi has to understand what is taken, and what our gateways take must not be refused.
func agree(t *testing.T, raw []byte) {
	t.Helper()
	p, need, err := Parse(raw)
	if err != nil {
		if bodyOf, ok := body(raw); ok {
			if c, other := packet.DecodeConnect(bodyOf); other == nil {
				t.Fatalf("refused with %v, but a gateway takes it: %+v", err, c)
			}
		}
		return
	}
	if need > 0 {
		return
	}
	asOther, _ := body(raw)
	asOther = tamed(asOther, p)
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connect, Remaining: len(asOther)}}
	if err := pk.ConnectDecode(asOther); err != nil {
		t.Fatalf("is taken, but not by the other codec: %v", err)
	}
	if diff := cmp.Diff(plain(p), Packet{
		Level: pk.ProtocolVersion, ClientID: pk.Connect.ClientIdentifier, CleanStart: pk.Connect.Clean,
		KeepAlive: pk.Connect.Keepalive, Username: string(pk.Connect.Username), HasUsername: pk.Connect.UsernameFlag,
		Password: pk.Connect.Password, HasPassword: pk.Connect.PasswordFlag,
	}); diff != "" {
		t.Fatal(diff)
	}
	c, err := packet.DecodeConnect(asOther)
	if err != nil {
		return // it knows more rules, and no 3.1
	}
	if diff := cmp.Diff(plain(p), Packet{
		Level: byte(c.Version), ClientID: c.ClientID, CleanStart: c.CleanStart, KeepAlive: c.KeepAlive,
		Username: c.Username, HasUsername: c.HasUsername, Password: c.Password, HasPassword: c.HasPassword,
	}); diff != "" {
		t.Fatal(diff)
	}
}

// plain is p without what the other codecs do not have.
func plain(p Packet) Packet {
	p.Raw = nil
	return p
}

// tamed is a body without what only this package understands: the bridge bit, and the flags that 3.1 allows to be in
// vain.
func tamed(body []byte, p Packet) []byte {
	body = bytes.Clone(body)
	at := 2 + int(body[1]) // of the level
	body[at] = p.Level
	if !p.HasUsername {
		body[at+1] &^= 0x80
	}
	if !p.HasPassword {
		body[at+1] &^= 0x40
	}
	return body
}

// body returns the body of the packet at the start of raw, by the pseudocode of 1.5.5.
func body(raw []byte) (b []byte, ok bool) {
	if len(raw) < 2 || raw[0] != 0x10 {
		return nil, false
	}
	n := 0
	for i, v := range raw[1:min(len(raw), 5)] {
		n += int(v&127) << (7 * i)
		if v < 128 {
			rest := raw[2+i:]
			return rest[:min(n, len(rest))], n <= len(rest)
		}
	}
	return nil, false
}
