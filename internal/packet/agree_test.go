package packet

import (
	"bytes"
	"io"
	"testing"

	paho "github.com/eclipse/paho.golang/packets"
	paho311 "github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/google/go-cmp/cmp"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/test/wire"
)

// The agreeOn functions check a packet that has been decoded against two independent codecs: they read the same in its
// bytes, and what they write of it is decoded to the same again.

func same[T any](t *testing.T, what string, want, got T) {
	t.Helper()
	// Empty and absent data are the same to the other codecs.
	if diff := cmp.Diff(want, got, cmp.Comparer(bytes.Equal)); diff != "" {
		t.Fatalf("%s: %s", what, diff)
	}
}

func readPaho(t *testing.T, first byte, body []byte) paho.Packet {
	t.Helper()
	pk := must[*paho.ControlPacket](t)(paho.ReadPacket(bytes.NewReader(wire.Frame(first, body))))
	return pk.Content
}

func readPaho311(t *testing.T, first byte, body []byte) paho311.ControlPacket {
	t.Helper()
	return must[paho311.ControlPacket](t)(paho311.ReadPacket(bytes.NewReader(wire.Frame(first, body))))
}

// rewrite returns what the other codec writes.
func rewrite(t *testing.T, write func(io.Writer) error) (first byte, body []byte) {
	t.Helper()
	var raw bytes.Buffer
	if err := write(&raw); err != nil {
		t.Fatal(err)
	}
	first, body, _, err := NewReader(&raw).Next(1 << 29)
	if err != nil {
		t.Fatal(err)
	}
	return first, bytes.Clone(body)
}

func rewritePaho(t *testing.T, pk paho.Packet) (first byte, body []byte) {
	t.Helper()
	return rewrite(t, func(w io.Writer) error { _, err := pk.WriteTo(w); return err })
}

func pahoUsers(from []message.UserProperty) (to []paho.User) {
	for _, u := range from {
		to = append(to, paho.User{Key: u.Name, Value: u.Value})
	}
	return to
}

func some[T any](has bool, v T) *T {
	if !has {
		return nil
	}
	return &v
}

// messageProps returns the properties of a message as the other codec has them.
func messageProps(p *message.Properties, hasExpiry bool, expiry uint32) *paho.Properties {
	if p == nil {
		p = &message.Properties{}
	}
	return &paho.Properties{
		PayloadFormat: some(p.HasPayloadFormat, p.PayloadFormat), MessageExpiry: some(hasExpiry, expiry),
		ContentType: p.ContentType, ResponseTopic: p.ResponseTopic, CorrelationData: p.CorrelationData, User: pahoUsers(p.User),
	}
}

// plainProps takes properties that say nothing as none.
func plainProps(p *message.Properties) *message.Properties {
	if p != nil && !p.HasPayloadFormat && p.ContentType == "" && p.ResponseTopic == "" && len(p.CorrelationData) == 0 && len(p.User) == 0 {
		return nil
	}
	return p
}

func plainPublish(p Publish) Publish {
	p.Props = plainProps(p.Props)
	return p
}

func agreeOnPublish(t *testing.T, v Version, first byte, body []byte, p Publish) {
	t.Helper()
	if v == V311 {
		pk := readPaho311(t, first, body).(*paho311.PublishPacket)
		same(t, "3.1.1 codec", Publish{
			PacketID: pk.MessageID, Dup: pk.Dup, QoS: pk.Qos, Retain: pk.Retain, Topic: pk.TopicName, Payload: pk.Payload,
		}, p)
		first, body = rewrite(t, pk.Write)
	} else {
		pk := readPaho(t, first, body).(*paho.Publish)
		want := &paho.Publish{
			Payload: p.Payload, Topic: p.Topic, Properties: messageProps(p.Props, p.HasExpiry, p.Expiry), PacketID: p.PacketID,
			QoS: p.QoS, Duplicate: p.Dup, Retain: p.Retain,
		}
		want.Properties.TopicAlias = some(p.Alias != 0, p.Alias)
		same(t, "5 codec", want, pk)
		first, body = rewritePaho(t, pk)
	}
	same(t, "written again", plainPublish(p), plainPublish(must[Publish](t)(DecodePublish(v, first, body, true))))
}

func agreeOnConnect(t *testing.T, body []byte, c *Connect) {
	t.Helper()
	if c.Version == V311 {
		agreeOnConnect311(t, body, c)
		return
	}
	pk := readPaho(t, 0x10, body).(*paho.Connect)
	want := &paho.Connect{
		ProtocolName: "MQTT", ProtocolVersion: 5, ClientID: c.ClientID, CleanStart: c.CleanStart, KeepAlive: c.KeepAlive,
		Username: c.Username, UsernameFlag: c.HasUsername, Password: c.Password, PasswordFlag: c.HasPassword,
		Properties: &paho.Properties{
			SessionExpiryInterval: some(c.HasSessionExpiry, c.SessionExpiry), AuthMethod: c.AuthMethod, AuthData: c.AuthData,
			MaximumPacketSize: some(c.MaximumPacketSize != 0, c.MaximumPacketSize), User: pahoUsers(c.User),
			// Presence is not kept of these, only what absence means.
			ReceiveMaximum:      some(pk.Properties.ReceiveMaximum != nil, c.ReceiveMaximum),
			TopicAliasMaximum:   some(pk.Properties.TopicAliasMaximum != nil, c.TopicAliasMaximum),
			RequestResponseInfo: some(pk.Properties.RequestResponseInfo != nil, bit(c.RequestResponseInfo)),
			RequestProblemInfo:  some(pk.Properties.RequestProblemInfo != nil, bit(c.RequestProblemInfo)),
		},
	}
	if pk.Properties.ReceiveMaximum == nil && c.ReceiveMaximum != 65535 ||
		pk.Properties.TopicAliasMaximum == nil && c.TopicAliasMaximum != 0 ||
		pk.Properties.RequestResponseInfo == nil && c.RequestResponseInfo || pk.Properties.RequestProblemInfo == nil && !c.RequestProblemInfo {
		t.Fatalf("wrong defaults: %+v", c)
	}
	rewritten := *c
	if w := c.Will; w != nil {
		want.WillFlag, want.WillTopic, want.WillMessage, want.WillQOS, want.WillRetain = true, w.Topic, w.Payload, w.QoS, w.Retain
		want.WillProperties = messageProps(w.Props, w.HasExpiry, w.Expiry)
		want.WillProperties.WillDelayInterval = some(pk.WillProperties.WillDelayInterval != nil, w.Delay)

		// The other codec reads all properties of a Will, but writes only these.
		will := *w
		will.Expiry, will.HasExpiry, will.Props = 0, false, nil
		if w.Props != nil {
			will.Props = plainProps(&message.Properties{User: w.Props.User})
		}
		rewritten.Will = &will
	}
	same(t, "5 codec", want, pk)
	if c.AuthMethod == "" && len(c.AuthData) > 0 {
		return // an empty method is there for us and not for the other codec
	}
	_, body = rewritePaho(t, pk)
	same(t, "written again", &rewritten, must[*Connect](t)(DecodeConnect(body)))
}

func agreeOnConnect311(t *testing.T, body []byte, c *Connect) {
	t.Helper()
	pk := readPaho311(t, 0x10, body).(*paho311.ConnectPacket)
	want := &Connect{
		Version: Version(pk.ProtocolVersion), ClientID: pk.ClientIdentifier, CleanStart: pk.CleanSession, KeepAlive: pk.Keepalive,
		Username: pk.Username, HasUsername: pk.UsernameFlag, Password: pk.Password, HasPassword: pk.PasswordFlag,
		ReceiveMaximum: 65535, RequestProblemInfo: true,
	}
	if pk.WillFlag {
		want.Will = &Will{Topic: pk.WillTopic, Payload: pk.WillMessage, QoS: pk.WillQos, Retain: pk.WillRetain}
	}
	same(t, "3.1.1 codec", want, c)
	_, body = rewrite(t, pk.Write)
	same(t, "written again", c, must[*Connect](t)(DecodeConnect(body)))
}

func agreeOnAck(t *testing.T, v Version, first byte, body []byte, a Ack) {
	t.Helper()
	if v == V311 {
		pk := readPaho311(t, first, body)
		if pk.Details().MessageID != a.PacketID || a.Type != Type(first>>4) || a.Code != Success {
			t.Fatalf("%+v, the other codec reads %v", a, pk)
		}
		first, body = rewrite(t, pk.Write)
	} else {
		pk := readPaho(t, first, body)
		first, body = rewritePaho(t, pk)
	}
	same(t, "written again", a, must[Ack](t)(DecodeAck(v, first, body)))
	raw := AppendAck(nil, v, a.Type, a.PacketID, a.Code)
	same(t, "written by ourselves", a, must[Ack](t)(DecodeAck(v, raw[0], raw[2:])))
}

func agreeOnSubscribe(t *testing.T, v Version, first byte, body []byte, s Subscribe) {
	t.Helper()
	if v == V311 {
		pk := readPaho311(t, first, body).(*paho311.SubscribePacket)
		want := Subscribe{PacketID: pk.MessageID}
		for i, topic := range pk.Topics {
			want.Filters = append(want.Filters, Filter{Filter: topic, Options: subscriptionOptions(pk.Qoss[i], 0)})
		}
		same(t, "3.1.1 codec", want, s)
		first, body = rewrite(t, pk.Write)
	} else {
		pk := readPaho(t, first, body).(*paho.Subscribe)
		id := s.Filters[0].Options.ID
		want := &paho.Subscribe{
			PacketID: s.PacketID, Properties: &paho.Properties{User: pahoUsers(s.User), SubscriptionIdentifier: some(id != 0, int(id))},
		}
		for _, f := range s.Filters {
			if f.Options.ID != id {
				t.Fatalf("two Subscription Identifiers: %+v", s)
			}
			want.Subscriptions = append(want.Subscriptions, paho.SubOptions{
				Topic: f.Filter, QoS: f.Options.QoS, RetainHandling: f.Options.RetainHandling, NoLocal: f.Options.NoLocal,
				RetainAsPublished: f.Options.RetainAsPublished,
			})
		}
		same(t, "5 codec", want, pk)
		first, body = rewritePaho(t, pk)
	}
	same(t, "written again", s, must[Subscribe](t)(DecodeSubscribe(v, first, body)))
}

func agreeOnUnsubscribe(t *testing.T, v Version, first byte, body []byte, u Unsubscribe) {
	t.Helper()
	if v == V311 {
		pk := readPaho311(t, first, body).(*paho311.UnsubscribePacket)
		want := u.Filters
		for i, filter := range want {
			if filter == "" { // the other codec stops there
				want = want[:i]
				break
			}
		}
		if pk.MessageID != u.PacketID || len(pk.Topics) != len(want) {
			t.Fatalf("%+v, the other codec reads %v", u, pk)
		}
		for i := range want {
			same(t, "3.1.1 codec", pk.Topics[i], want[i])
		}
		return
	}
	pk := readPaho(t, first, body).(*paho.Unsubscribe)
	want := &paho.Unsubscribe{PacketID: u.PacketID, Topics: u.Filters, Properties: &paho.Properties{User: pahoUsers(u.User)}}
	same(t, "5 codec", want, pk)
	first, body = rewritePaho(t, pk)
	same(t, "written again", u, must[Unsubscribe](t)(DecodeUnsubscribe(v, first, body)))
}

func agreeOnDisconnect(t *testing.T, first byte, body []byte, d Disconnect) {
	t.Helper()
	if len(body) == 0 {
		same(t, "nothing but the header", Disconnect{}, d)
		return
	}
	pk := readPaho(t, first, body).(*paho.Disconnect)
	want := &paho.Disconnect{ReasonCode: byte(d.Code), Properties: &paho.Properties{
		SessionExpiryInterval: some(d.HasSessionExpiry, d.SessionExpiry), ReasonString: d.Reason, User: pahoUsers(d.User),
	}}
	same(t, "5 codec", want, pk)
	first, body = rewritePaho(t, pk)
	same(t, "written again", d, must[Disconnect](t)(DecodeDisconnect(V5, first, body)))
}

func agreeOnAuth(t *testing.T, first byte, body []byte, a Auth) {
	t.Helper()
	pk := readPaho(t, first, body).(*paho.Auth)
	want := &paho.Auth{ReasonCode: byte(a.Code), Properties: &paho.Properties{
		AuthMethod: a.Method, AuthData: a.Data, ReasonString: a.Reason, User: pahoUsers(a.User),
	}}
	same(t, "5 codec", want, pk)
	if a.Method == "" {
		return // an empty method is there for us and not for the other codec
	}
	raw := AppendAuth(nil, a)
	_, body, _, err := NewReader(bytes.NewReader(raw)).Next(len(raw))
	if err != nil {
		t.Fatal(err)
	}
	same(t, "written by ourselves", a, must[Auth](t)(DecodeAuth(V5, raw[0], body)))
}
