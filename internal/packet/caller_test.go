package packet

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
	"github.com/beeline-mqtt/beeline/test/wire"
)

// behind is the first byte and the body of a packet of less than 128 bytes.
func behind(b []byte) (first byte, body []byte) { return b[0], b[2:] }

func TestWhatAClientWritesIsWhatAServerReads(t *testing.T) {
	c := &Connect{
		Version: V5, ClientID: "me", CleanStart: true, KeepAlive: 300, Username: "u", HasUsername: true, Password: []byte("p"), HasPassword: true,
		SessionExpiry: 7, HasSessionExpiry: true, ReceiveMaximum: 9, MaximumPacketSize: 70_000, RequestProblemInfo: true,
	}
	_, body := behind(AppendConnect(nil, c))
	if got, err := DecodeConnect(body); err != nil || cmp.Diff(c, got) != "" {
		t.Errorf("CONNECT: %v\n%s", err, cmp.Diff(c, got))
	}
	plain := &Connect{Version: V5, ClientID: "me", ReceiveMaximum: 65535, RequestProblemInfo: true}
	_, body = behind(AppendConnect(nil, &Connect{ClientID: "me"}))
	if got, err := DecodeConnect(body); err != nil || cmp.Diff(plain, got) != "" {
		t.Errorf("CONNECT: %v\n%s", err, cmp.Diff(plain, got))
	}
	s := Subscribe{PacketID: 5, Filters: []Filter{
		{Filter: "a/+", Options: subscriptions.Options{QoS: 2, NoLocal: true, RetainAsPublished: true, RetainHandling: 2}}, {Filter: "b"},
	}}
	first, body := behind(AppendSubscribe(nil, s))
	if got, err := DecodeSubscribe(V5, first, body); err != nil || cmp.Diff(s, got) != "" {
		t.Errorf("SUBSCRIBE: %v\n%s", err, cmp.Diff(s, got))
	}
	u := Unsubscribe{PacketID: 5, Filters: []string{"a/+", "b"}}
	first, body = behind(AppendUnsubscribe(nil, u))
	if got, err := DecodeUnsubscribe(V5, first, body); err != nil || cmp.Diff(u, got) != "" {
		t.Errorf("UNSUBSCRIBE: %v\n%s", err, cmp.Diff(u, got))
	}
	first, body = behind(AppendPingreq(nil))
	if err := DecodeEmpty(first, body); err != nil {
		t.Errorf("PINGREQ: %v", err)
	}
}

func TestWhatAServerWritesIsWhatAClientReads(t *testing.T) {
	a := Connack{
		SessionPresent: true, AssignedClientID: "x", ServerKeepAlive: 3, HasServerKeepAlive: true, SessionExpiry: 1 << 20, HasSessionExpiry: true,
		ReceiveMaximum: 7, MaximumPacketSize: 99, Reason: "why", ServerReference: "there",
	}
	more := a
	more.HasMaximumQoS, more.HasRetainAvailable, more.TopicAliasMaximum, more.AuthMethod, more.AuthData = true, true, 5, "m", []byte("d")
	more.User = []message.UserProperty{{Name: "n", Value: "v"}}
	first, body := behind(AppendConnack(nil, V5, more))
	if got, err := DecodeConnack(first, body); err != nil || cmp.Diff(a, got) != "" {
		t.Errorf("CONNACK: %v\n%s", err, cmp.Diff(a, got))
	}
	d := Disconnect{Code: UseAnotherServer, Reason: "why", ServerReference: "there"}
	first, body = behind(AppendDisconnect(nil, d.Code, d))
	if got, err := DecodeServerDisconnect(first, body); err != nil || cmp.Diff(d, got) != "" {
		t.Errorf("DISCONNECT: %v\n%s", err, cmp.Diff(d, got))
	}
	codes := Codes{PacketID: 3, Codes: []Code{GrantedQoS1, NotAuthorized}}
	first, body = behind(AppendSuback(nil, V5, 3, codes.Codes))
	if got, err := DecodeCodes(first, body); err != nil || cmp.Diff(codes, got) != "" {
		t.Errorf("SUBACK: %v\n%s", err, cmp.Diff(codes, got))
	}
}

func TestAClientRefusesWhatNoServerMaySend(t *testing.T) {
	connack := func(parts ...any) []byte { return wire.Frame(0x20, append([]any{0, 0}, parts...)...) }
	for name, b := range map[string][]byte{
		"cut short":                    wire.Frame(0x20, 0),
		"without properties":           connack(),
		"properties cut short":         connack(9, 33),
		"a property cut short":         connack(2, 33, 1),
		"Receive Maximum 0":            connack(3, 33, 0, 0),
		"an unknown property":          connack(2, 99, 1),
		"bytes behind the end":         connack(0, 1),
		"no text":                      connack(4, 31, 0, 1, 0xff),
		"something else":               wire.Frame(0x40, 0, 0, 0),
		"SUBACK without an identifier": wire.Frame(0x90, 0, 0, 0),
		"SUBACK cut short":             wire.Frame(0x90, 0, 1, 9),
		"DISCONNECT cut short":         wire.Frame(0xe0, 0x80, 3, 31, 0),
	} {
		first, body := behind(b)
		var err error
		switch Type(first >> 4) {
		case SUBACK:
			_, err = DecodeCodes(first, body)
		case DISCONNECT:
			_, err = DecodeServerDisconnect(first, body)
		default:
			_, err = DecodeConnack(first, body)
		}
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestThePublisherIsTheLastUserProperty(t *testing.T) {
	forged := []message.UserProperty{{Name: message.PublisherProperty, Value: "forged"}}
	for name, m := range map[string]*message.Message{
		"without properties": {Topic: "t", Publisher: "p"},
		"with a forged one":  {Topic: "t", Publisher: "p", Props: &message.Properties{User: forged}},
	} {
		o := PublishOptions{NamePublisher: true}
		b := AppendPublish(nil, V5, m, o, deliverNow)
		if len(b) != PublishSize(V5, m, o) {
			t.Errorf("%s: %d bytes, PublishSize says %d", name, len(b), PublishSize(V5, m, o))
		}
		first, body := behind(b)
		p, err := DecodePublish(V5, first, body, false)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := TakePublisher(p.Props); got != "p" {
			t.Errorf("%s: the publisher is %q, want p", name, got)
		}
		var want []message.UserProperty
		if m.Props != nil {
			want = m.Props.User
		}
		if diff := cmp.Diff(want, p.Props.User); diff != "" {
			t.Errorf("%s: the others are (-want +got):\n%s", name, diff)
		}
	}
	for name, p := range map[string]*message.Properties{
		"nil": nil, "none": {}, "another": {User: []message.UserProperty{{Name: "a"}}},
	} {
		if got := TakePublisher(p); got != "" {
			t.Errorf("%s: the publisher is %q, want none", name, got)
		}
	}
}
