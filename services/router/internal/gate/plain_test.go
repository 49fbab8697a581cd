package gate

import (
	"strings"
	"testing"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	messagev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/message/v1"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
)

// text draws texts at and around a bound.
func text(bound int) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		n := rapid.SampledFrom([]int{0, 1, 7, bound - 1, bound, bound + 1}).Draw(t, "length")
		return strings.Repeat("x", n)
	})
}

func TestThePlainCheckAndProtovalidateAgree(t *testing.T) {
	valid, err := protovalidate.New()
	if err != nil {
		t.Fatal(err)
	}
	message := rapid.Custom(func(t *rapid.T) *messagingv1.Message {
		m := &messagingv1.Message{
			Topic: "a", Qos: messagev1.Qos(rapid.IntRange(-1, 4).Draw(t, "qos")), PayloadFormat: messagev1.PayloadFormat(rapid.IntRange(-1, 3).Draw(t, "format")),
		}
		switch rapid.IntRange(0, 7).Draw(t, "what is odd") {
		case 0:
			m.Topic = text(mostText).Draw(t, "topic")
		case 1:
			m.ContentType = text(mostText).Draw(t, "content type")
		case 2:
			m.ResponseTopic = text(mostText).Draw(t, "response topic")
		case 3:
			m.CorrelationData = []byte(text(mostText).Draw(t, "correlation data"))
		case 4:
			n := rapid.SampledFrom([]int{0, 1, mostProperties, mostProperties + 1}).Draw(t, "properties")
			for range n {
				m.UserProperties = append(m.UserProperties, &messagev1.UserProperty{Name: "n"})
			}
		}
		return m
	})
	rapid.Check(t, func(t *rapid.T) {
		r := &messagingv1.PublishStreamRequest{}
		for range rapid.IntRange(0, 3).Draw(t, "messages") {
			r.Messages = append(r.Messages, message.Draw(t, "message"))
		}
		if err := valid.Validate(r); plain(r) != (err == nil) {
			t.Fatalf("plain says %v, protovalidate %v", plain(r), err)
		}
	})
	for n, want := range map[int]bool{0: false, 1: true, mostMessages: true, mostMessages + 1: false} {
		if r := request(n); plain(r) != want || (valid.Validate(r) == nil) != want {
			t.Errorf("%d messages: plain says %v, protovalidate %v", n, plain(r), valid.Validate(r))
		}
	}
	// The rules of the proto are all there are: whoever adds a field looks here.
	if n := (&messagingv1.Message{}).ProtoReflect().Descriptor().Fields().Len(); n != 10 {
		t.Errorf("a message has %d fields", n)
	}
}

func request(messages int) *messagingv1.PublishStreamRequest {
	r := &messagingv1.PublishStreamRequest{}
	for range messages {
		r.Messages = append(r.Messages, &messagingv1.Message{
			Topic: "sensors/hall-7/temperature", Payload: make([]byte, 100), Qos: messagev1.Qos_QOS_AT_LEAST_ONCE,
			UserProperties: []*messagev1.UserProperty{{Name: "unit", Value: "C"}},
		})
	}
	return r
}

func BenchmarkPublishStreamRequestOfAThousand(b *testing.B) {
	r := request(1000)
	valid, err := protovalidate.New()
	if err != nil {
		b.Fatal(err)
	}
	text, err := proto.Marshal(r)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("protovalidate", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := valid.Validate(r); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("plain", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if !plain(r) {
				b.Fatal("no")
			}
		}
	})
	b.Run("unmarshal, to compare", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := proto.Unmarshal(text, new(messagingv1.PublishStreamRequest)); err != nil {
				b.Fatal(err)
			}
		}
	})
}
