package packet

import (
	"bytes"
	"slices"
	"testing"

	paho "github.com/eclipse/paho.golang/packets"
	paho311 "github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/google/go-cmp/cmp"
)

func readConnack(t *testing.T, raw []byte) *paho.Connack {
	t.Helper()
	return must[*paho.ControlPacket](t)(paho.ReadPacket(bytes.NewReader(raw))).Content.(*paho.Connack)
}

func TestConnackOf5IsEncoded(t *testing.T) {
	for _, c := range []struct {
		name string
		c    Connack
		want *paho.Connack
	}{
		{"nothing announced", Connack{}, &paho.Connack{Properties: &paho.Properties{}}},
		{"Session Present", Connack{SessionPresent: true}, &paho.Connack{SessionPresent: true, Properties: &paho.Properties{}}},
		{
			"MQTT-3.2.2-6 no Session Present with a failure",
			Connack{SessionPresent: true, Code: ServerBusy},
			&paho.Connack{ReasonCode: 0x89, Properties: &paho.Properties{}},
		},
		{
			"everything",
			Connack{
				AssignedClientID: "auto-1", ServerKeepAlive: 300, HasServerKeepAlive: true, SessionExpiry: 7200,
				HasSessionExpiry: true, ReceiveMaximum: 100, MaximumQoS: 1, HasMaximumQoS: true, RetainAvailable: true,
				HasRetainAvailable: true, MaximumPacketSize: 1 << 20, TopicAliasMaximum: 16, WildcardAvailable: true,
				HasWildcardAvailable: true, SubscriptionIDAvailable: true, HasSubscriptionIDAvailable: true,
				SharedAvailable: true, HasSharedAvailable: true, ResponseInfo: "resp/", ServerReference: "other:1883",
				Reason: "welcome", AuthMethod: "SCRAM", AuthData: []byte{0, 1}, User: someUser,
			},
			&paho.Connack{Properties: &paho.Properties{
				AssignedClientID: "auto-1", ServerKeepAlive: ptr(uint16(300)), SessionExpiryInterval: ptr(uint32(7200)),
				ReceiveMaximum: ptr(uint16(100)), MaximumQOS: ptr(byte(1)), RetainAvailable: ptr(byte(1)),
				MaximumPacketSize: ptr(uint32(1 << 20)), TopicAliasMaximum: ptr(uint16(16)), WildcardSubAvailable: ptr(byte(1)),
				SubIDAvailable: ptr(byte(1)), SharedSubAvailable: ptr(byte(1)), ResponseInfo: "resp/",
				ServerReference: "other:1883", ReasonString: "welcome", AuthMethod: "SCRAM", AuthData: []byte{0, 1},
				User: pahoUser,
			}},
		},
		{
			"what is not available, and intervals of 0",
			Connack{
				HasServerKeepAlive: true, HasSessionExpiry: true, HasMaximumQoS: true, HasRetainAvailable: true,
				HasWildcardAvailable: true, HasSubscriptionIDAvailable: true, HasSharedAvailable: true,
			},
			&paho.Connack{Properties: &paho.Properties{
				ServerKeepAlive: ptr(uint16(0)), SessionExpiryInterval: ptr(uint32(0)), MaximumQOS: ptr(byte(0)),
				RetainAvailable: ptr(byte(0)), WildcardSubAvailable: ptr(byte(0)), SubIDAvailable: ptr(byte(0)),
				SharedSubAvailable: ptr(byte(0)),
			}},
		},
		{
			"3.2.2.3.4 Maximum QoS 2 is not announced",
			Connack{MaximumQoS: 2, HasMaximumQoS: true},
			&paho.Connack{Properties: &paho.Properties{}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			raw := AppendConnack([]byte("before"), V5, c.c)
			if diff := cmp.Diff(c.want, readConnack(t, raw[len("before"):])); diff != "" {
				t.Error(diff)
			}
			if !bytes.HasPrefix(raw, []byte("before")) {
				t.Error("what was there before has changed")
			}
		})
	}
}

func TestConnackStaysWithinTheClientsMaximumPacketSize(t *testing.T) { // MQTT-3.2.2-19, MQTT-3.2.2-20
	c := Connack{Code: UseAnotherServer, ServerReference: "other:1883", Reason: "drained", User: someUser}
	whole := AppendConnack(nil, V5, c)
	c.Limit = uint32(len(whole))
	if !slices.Equal(whole, AppendConnack(nil, V5, c)) {
		t.Error("a CONNACK that just fits has been cut")
	}
	c.Limit--
	got := readConnack(t, AppendConnack(nil, V5, c))
	want := &paho.Connack{ReasonCode: 0x9c, Properties: &paho.Properties{ServerReference: "other:1883"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestConnackOf311IsEncoded(t *testing.T) {
	for code := range codeNames {
		for _, present := range []bool{false, true} {
			raw := AppendConnack([]byte("before"), V311, Connack{
				Code: code, SessionPresent: present, Reason: "not in 3.1.1", AssignedClientID: "x", User: someUser,
			})
			pk := must[paho311.ControlPacket](t)(paho311.ReadPacket(bytes.NewReader(raw[6:]))).(*paho311.ConnackPacket)
			if len(raw) != len("before")+4 || pk.ReturnCode != V311ConnackCode(code) {
				t.Errorf("%v: %x", code, raw)
			}
			if want := present && pk.ReturnCode == 0; pk.SessionPresent != want { // MQTT-3.2.2-4
				t.Errorf("%v: Session Present is %v", code, pk.SessionPresent)
			}
		}
	}
}
