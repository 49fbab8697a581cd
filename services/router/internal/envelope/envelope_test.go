package envelope

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	messagev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/message/v1"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/internal/packet"
)

func TestAMessageComesOutAsItWentIn(t *testing.T) {
	expiry := uint32(60)
	for name, m := range map[string]*messagingv1.Message{
		"plain": {Topic: "t", Payload: []byte("p"), Qos: messagev1.Qos_QOS_AT_LEAST_ONCE},
		"with everything": {
			Topic: "t", Payload: []byte("p"), Qos: messagev1.Qos_QOS_EXACTLY_ONCE, Retain: true, MessageExpirySeconds: &expiry,
			PayloadFormat: messagev1.PayloadFormat_PAYLOAD_FORMAT_UTF8, ContentType: "text", ResponseTopic: "r", CorrelationData: []byte{},
			UserProperties: []*messagev1.UserProperty{{Name: "a", Value: "1"}, {Name: "a", Value: "2"}},
		},
		"of bytes": {Topic: "t", Qos: messagev1.Qos_QOS_AT_MOST_ONCE, PayloadFormat: messagev1.PayloadFormat_PAYLOAD_FORMAT_BYTES},
	} {
		now := time.Now()
		x, err := Open(m, m.GetTopic(), now)
		if err != nil {
			t.Fatal(err)
		}
		w := Wire(x, now)
		if w.GetTopic() != m.GetTopic() || w.GetQos() != m.GetQos() || w.GetPayloadFormat() != m.GetPayloadFormat() ||
			w.GetExpiresInMs() != uint64(m.GetMessageExpirySeconds())*1000 || len(w.GetUserProperties()) != len(m.GetUserProperties()) ||
			w.GetContentType() != m.GetContentType() || w.GetResponseTopic() != m.GetResponseTopic() || w.GetRetain() != m.GetRetain() {
			t.Errorf("%s: between services it is %v", name, w)
		}
		left, has := x.Remaining(now)
		got := Seal(&packet.Publish{
			Topic: x.Topic, Payload: x.Payload, QoS: x.QoS, Retain: x.Retain, Props: x.Props, Expiry: left, HasExpiry: has,
		})
		if diff := cmp.Diff(m, got, protocmp.Transform()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestWithoutAQoSItIsOne(t *testing.T) {
	if x, err := Open(&messagingv1.Message{}, "t", time.Now()); err != nil || x.QoS != 1 || x.Topic != "t" {
		t.Errorf("%+v, %v", x, err)
	}
	if _, err := Open(&messagingv1.Message{Qos: 9}, "t", time.Now()); !errors.Is(err, ErrQoS) {
		t.Errorf("QoS 9: %v, want ErrQoS", err)
	}
}

func TestWhatMQTTCannotCarryIsRefused(t *testing.T) {
	long := strings.Repeat("x", 65536)
	for name, m := range map[string]*messagingv1.Message{
		"content type":     {ContentType: "a\x00b"},
		"long":             {ContentType: long},
		"response topic":   {ResponseTopic: "a\x00b"},
		"correlation data": {CorrelationData: []byte(long)},
		"name":             {UserProperties: []*messagev1.UserProperty{{Name: "\x00"}}},
		"value":            {UserProperties: []*messagev1.UserProperty{{Value: "\xff"}}},
	} {
		if _, err := Open(m, "t", time.Now()); !errors.Is(err, ErrText) {
			t.Errorf("%s: %v, want ErrText", name, err)
		}
	}
	if _, err := Open(&messagingv1.Message{ResponseTopic: "a/#"}, "t", time.Now()); !errors.Is(err, ErrResponseTopic) {
		t.Errorf("a filter as response topic: %v, want ErrResponseTopic", err)
	}
}
