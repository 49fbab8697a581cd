package bench

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	beeline "github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
)

// The other side of these tests is Beeline's own codec, which shares nothing with this one.

var levels = []level{v311, v5}

// only cuts the one packet off b that it is to be.
func only(t rapid.TB, b []byte) received {
	t.Helper()
	p, n, err := cut(b)
	if err != nil || n == 0 || n != len(b) {
		t.Fatalf("cut %d bytes of %x: %v", n, b, err)
	}
	return p
}

func TestAConnectSaysWhoComes(t *testing.T) {
	for _, v := range levels {
		for _, l := range []Login{{}, {Username: "ann"}, {Username: "ann", Password: []byte("secret")}, {Username: "ann", durable: true}} {
			p := only(t, appendConnect(nil, v, "client", l))
			got, err := packet.DecodeConnect(p.body)
			if err != nil || p.first != connect {
				t.Fatalf("first byte %#x: %v", p.first, err)
			}
			expires := l.durable && v == v5
			if got.HasSessionExpiry != expires || expires && got.SessionExpiry != sessionExpiry {
				t.Errorf("%v: session expiry %d", v, got.SessionExpiry)
			}
			want := []any{packet.Version(v), "client", !l.durable, l.Username, l.Username != "", string(l.Password), l.Password != nil}
			is := []any{got.Version, got.ClientID, got.CleanStart, got.Username, got.HasUsername, string(got.Password), got.HasPassword}
			if diff := cmp.Diff(want, is); diff != "" || got.KeepAlive != 0 || got.Will != nil {
				t.Errorf("%v: keep alive %d, will %v (-want +got):\n%s", v, got.KeepAlive, got.Will, diff)
			}
		}
	}
}

func TestASubscribeHasOneFilter(t *testing.T) {
	for _, v := range levels {
		for qos := range byte(3) {
			p := only(t, appendSubscribe(nil, v, 7, "a/b", qos))
			got, err := packet.DecodeSubscribe(packet.Version(v), p.first, p.body)
			if err != nil {
				t.Fatal(err)
			}
			want := packet.Subscribe{PacketID: 7, Filters: []packet.Filter{{Filter: "a/b", Options: subscriptions.Options{QoS: qos}}}}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%v (-want +got):\n%s", v, diff)
			}
		}
	}
}

func TestAPublishIsWhatTheBrokerReads(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v, qos := rapid.SampledFrom(levels).Draw(t, "version"), rapid.ByteMax(2).Draw(t, "qos")
		topic := rapid.StringMatching(`[a-z/]{1,150}`).Draw(t, "topic")
		id := rapid.Uint16Min(1).Draw(t, "id")
		payload := rapid.SliceOfN(rapid.Byte(), 0, 20000).Draw(t, "payload")
		p := only(t, appendPublish(nil, v, topic, qos, id, payload))
		got, err := packet.DecodePublish(packet.Version(v), p.first, p.body, false)
		if err != nil {
			t.Fatal(err)
		}
		if qos == 0 {
			id = 0
		}
		if got.Topic != topic || got.QoS != qos || got.PacketID != id || !bytes.Equal(got.Payload, payload) || got.Retain || got.Dup {
			t.Errorf("%+v", got)
		}
	})
}

func TestAPublishOfTheBrokerIsRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.SampledFrom(levels).Draw(t, "version")
		m := beeline.Message{
			Topic: rapid.StringMatching(`[a-z/]{1,150}`).Draw(t, "topic"), Payload: rapid.SliceOf(rapid.Byte()).Draw(t, "payload"),
		}
		if rapid.Bool().Draw(t, "properties") {
			m.Props = &beeline.Properties{ContentType: rapid.StringMatching(`[a-z]{1,200}`).Draw(t, "content type")}
		}
		o := packet.PublishOptions{QoS: rapid.ByteMax(2).Draw(t, "qos"), PacketID: rapid.Uint16Min(1).Draw(t, "id"), Dup: rapid.Bool().Draw(t, "dup")}
		p := only(t, packet.AppendPublish(nil, packet.Version(v), &m, o, time.Now()))
		if kind(p.first) != publish {
			t.Errorf("kind %#x", kind(p.first))
		}
		got, err := parsePublish(v, p)
		if err != nil {
			t.Fatal(err)
		}
		want := message{topic: []byte(m.Topic), payload: m.Payload, qos: o.QoS}
		if o.QoS > 0 {
			want.id = o.PacketID
		}
		if string(got.topic) != m.Topic || !bytes.Equal(got.payload, want.payload) || got.id != want.id || got.qos != want.qos {
			t.Errorf("%+v, want %+v", got, want)
		}
	})
}

func TestAcknowledgementsBothWays(t *testing.T) {
	for _, v := range levels {
		for _, first := range []byte{puback, pubrec, pubrel, pubcomp} {
			p := only(t, appendAck(nil, first, 300))
			got, err := packet.DecodeAck(packet.Version(v), p.first, p.body)
			if err != nil || got.PacketID != 300 || got.Code != packet.Success || got.Type != packet.Type(first>>4) {
				t.Errorf("%v: sent %#x, the broker reads %+v, %v", v, first, got, err)
			}
			for _, code := range []packet.Code{packet.Success, packet.QuotaExceeded} {
				p = only(t, packet.AppendAck(nil, packet.Version(v), packet.Type(first>>4), 300, code))
				id, is, err := parseAck(v, p)
				if want := byte(code); err != nil || p.first != first || id != 300 || v == v5 && is != want {
					t.Errorf("%v: the broker sends %#x with %v, read as %d, %#x, %v", v, p.first, code, id, is, err)
				}
			}
		}
	}
}

func TestASubackSaysWhatWasGranted(t *testing.T) {
	for _, v := range levels {
		for _, code := range []packet.Code{packet.GrantedQoS0, packet.GrantedQoS1, packet.GrantedQoS2, packet.UnspecifiedError} {
			id, got, err := parseSuback(v, only(t, packet.AppendSuback(nil, packet.Version(v), 7, []packet.Code{code})))
			if id != 7 || got != byte(code) || err != nil {
				t.Errorf("%v: %d, %#x, %v", v, id, got, err)
			}
		}
		if _, _, err := parseSuback(v, only(t, packet.AppendSuback(nil, packet.Version(v), 7, make([]packet.Code, 2)))); !errors.Is(err, errMalformed) {
			t.Errorf("%v: two codes for one filter: %v", v, err)
		}
	}
}

func TestAConnackSaysWhatIsAllowed(t *testing.T) {
	plain := limits{receiveMaximum: 65535, maximumQoS: 2}
	everything := packet.Connack{
		SessionPresent: true, AssignedClientID: "someone", ServerKeepAlive: 3, HasServerKeepAlive: true, SessionExpiry: 5, HasSessionExpiry: true,
		ReceiveMaximum: 17, MaximumQoS: 1, HasMaximumQoS: true, RetainAvailable: true, HasRetainAvailable: true,
		MaximumPacketSize: 1000, TopicAliasMaximum: 9, WildcardAvailable: true, HasWildcardAvailable: true,
		SubscriptionIDAvailable: true, HasSubscriptionIDAvailable: true, SharedAvailable: true, HasSharedAvailable: true,
		ResponseInfo: "r", ServerReference: "other", Reason: "why", AuthMethod: "m", AuthData: []byte("data"),
		User: []beeline.UserProperty{{Name: "a", Value: "b"}},
	}
	for _, tt := range []struct {
		name string
		v    level
		c    packet.Connack
		want limits
	}{
		{"3.1.1", v311, packet.Connack{}, plain},
		{"3.1.1, refused", v311, packet.Connack{Code: packet.NotAuthorized}, limits{5, 65535, 2, false}},
		{"5", v5, packet.Connack{}, plain},
		{"5, refused", v5, packet.Connack{Code: packet.Banned}, limits{0x8A, 65535, 2, false}},
		{"5 with everything", v5, everything, limits{0, 17, 1, true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseConnack(tt.v, only(t, packet.AppendConnack(nil, packet.Version(tt.v), tt.c)))
			if err != nil || got != tt.want {
				t.Errorf("%+v, %v; want %+v", got, err, tt.want)
			}
		})
	}
	if got, err := parseConnack(v5, received{connack, []byte{0, 1}}); err != nil || got.code != 1 {
		t.Errorf("the answer of a broker that speaks 3.1.1 only: %+v, %v", got, err)
	}
}

func TestPacketsAreCutWhereTheyEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []byte
		var want [][]byte
		for range rapid.IntRange(1, 4).Draw(t, "packets") {
			p := appendPublish(nil, v311, "t", 0, 0, make([]byte, rapid.SampledFrom([]int{0, 1, 124, 125, 16380, 70000}).Draw(t, "size")))
			all, want = append(all, p...), append(want, p)
		}
		for len(want) > 0 {
			have := rapid.IntRange(0, len(all)).Draw(t, "have")
			_, n, err := cut(all[:have])
			if err != nil || n != 0 && n != len(want[0]) || (n == 0) != (have < len(want[0])) {
				t.Fatalf("%d of %d bytes there: cut %d, %v", have, len(want[0]), n, err)
			}
			all, want = all[n:], want[min(n, 1):]
		}
	})
}

func TestWhatIsNoMQTTIsRefused(t *testing.T) {
	if _, _, err := cut([]byte{0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01}); !errors.Is(err, errMalformed) {
		t.Errorf("a length of five bytes: %v", err)
	}
	parse := map[string]func(v level, b []byte) error{
		"PUBLISH": func(v level, b []byte) error { _, err := parsePublish(v, received{0x32, b}); return err },
		"PUBACK":  func(v level, b []byte) error { _, _, err := parseAck(v, received{puback, b}); return err },
		"SUBACK":  func(v level, b []byte) error { _, _, err := parseSuback(v, received{suback, b}); return err },
		"CONNACK": func(v level, b []byte) error { _, err := parseConnack(v, received{connack, b}); return err },
	}
	for _, tt := range []struct {
		kind string
		v    level
		body []byte
	}{
		{"PUBLISH", v311, nil},
		{"PUBLISH", v311, []byte{0, 2, 'a'}},
		{"PUBLISH", v311, []byte{0, 1, 'a', 0}},
		{"PUBLISH", v5, []byte{0, 1, 'a', 0, 1}},
		{"PUBLISH", v5, []byte{0, 1, 'a', 0, 1, 3, 0}},
		{"PUBLISH", v5, []byte{0, 1, 'a', 0, 1, 0xFF, 0xFF, 0xFF, 0xFF}},
		{"PUBACK", v311, []byte{0}},
		{"PUBACK", v311, []byte{0, 1, 0}},
		{"SUBACK", v311, []byte{0, 1}},
		{"SUBACK", v5, []byte{0, 1, 9, 0}},
		{"CONNACK", v311, []byte{0}},
		{"CONNACK", v5, []byte{0, 0, 5, 0x21}},
		{"CONNACK", v5, []byte{0, 0, 2, 0x21, 0}},
		{"CONNACK", v5, []byte{0, 0, 2, 0x26, 0}},
		{"CONNACK", v5, []byte{0, 0, 4, 0x1F, 0, 9, 0}},
		{"CONNACK", v5, []byte{0, 0, 1, 0x7E}},
	} {
		if err := parse[tt.kind](tt.v, tt.body); !errors.Is(err, errMalformed) {
			t.Errorf("%s %x in %v: %v", tt.kind, tt.body, tt.v, err)
		}
	}
	if _, err := parsePublish(v311, received{0x36, []byte{0, 1, 'a', 0, 1}}); !errors.Is(err, errMalformed) {
		t.Errorf("QoS 3: %v", err)
	}
}

// FuzzPackets: whatever a broker sends is cut and read, or refused.
func FuzzPackets(f *testing.F) {
	f.Add(packet.AppendConnack(nil, packet.V5, packet.Connack{ReceiveMaximum: 9, Reason: "why"}), true)
	f.Add(packet.AppendSuback(nil, packet.V311, 1, []packet.Code{1}), false)
	f.Add(appendPublish(nil, v5, "topic", 1, 7, []byte("payload")), true)
	f.Add(appendAck(nil, puback, 7), false)
	f.Fuzz(func(t *testing.T, b []byte, five bool) {
		v := v311
		if five {
			v = v5
		}
		for len(b) > 0 {
			p, n, err := cut(b)
			if err != nil || n == 0 {
				return
			}
			if n > len(b) || len(p.body) >= n {
				t.Fatalf("cut %d bytes, %d of them body, of %d", n, len(p.body), len(b))
			}
			if m, err := parsePublish(v, p); err == nil && len(m.topic)+len(m.payload) > len(p.body) {
				t.Errorf("%+v of %x", m, p.body)
			}
			_, _, _ = parseAck(v, p)
			_, _, _ = parseSuback(v, p)
			_, _ = parseConnack(v, p)
			b = b[n:]
		}
	})
}
