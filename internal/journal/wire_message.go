package journal

import (
	"time"

	messagev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/message/v1"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/topic"
)

// MessageToWire gives an expiry as what is left of it at now, in milliseconds, rounded up.
func MessageToWire(m *message.Message, now time.Time) *messagev1.Message {
	w := messageToWire(m)
	if m.ID != (message.ID{}) {
		w.Id = idToWire(m.ID)
	}
	if !m.Expires.IsZero() {
		ms := message.LeftMs(m.Expires.Sub(now))
		w.ExpiresInMs = &ms
	}
	return w
}

// MessageFromWire is the inverse of MessageToWire. It requires an id.
func MessageFromWire(w *messagev1.Message, now time.Time) (*message.Message, error) {
	m, err := NewMessageFromWire(w, now)
	if err != nil {
		return nil, err
	}
	if m.ID, err = idFromWire(w.GetId()); err != nil {
		return nil, in("id", err)
	}
	return m, nil
}

// NewMessageFromWire is MessageFromWire for a message that has no id yet.
func NewMessageFromWire(w *messagev1.Message, now time.Time) (*message.Message, error) {
	m, left, err := messageFromWire(w)
	if err != nil {
		return nil, err
	}
	if w.ExpiresInMs != nil {
		m.Expires = now.Add(left)
	}
	return m, nil
}

// messageToWire leaves the id and the expiry out.
func messageToWire(m *message.Message) *messagev1.Message {
	w := &messagev1.Message{Publisher: m.Publisher, Topic: m.Topic, Payload: m.Payload, Qos: qosToWire(m.QoS), Retain: m.Retain}
	p := m.Props
	if p == nil {
		return w
	}
	if p.HasPayloadFormat {
		w.PayloadFormat = messagev1.PayloadFormat(p.PayloadFormat) + 1
	}
	w.ContentType, w.ResponseTopic, w.CorrelationData = p.ContentType, p.ResponseTopic, p.CorrelationData
	if len(p.User) > 0 {
		w.UserProperties = make([]*messagev1.UserProperty, len(p.User))
		for i, u := range p.User {
			w.UserProperties[i] = &messagev1.UserProperty{Name: u.Name, Value: u.Value}
		}
	}
	return w
}

// messageFromWire returns what is left until the message expires apart, and does not look at the id.
func messageFromWire(w *messagev1.Message) (m *message.Message, left time.Duration, err error) {
	if w == nil {
		return nil, 0, errMissing
	}
	if err := topic.ValidateName(w.GetTopic(), asMQTT()); err != nil {
		return nil, 0, in("topic", err)
	}
	if err := checkText("publisher", w.GetPublisher()); err != nil {
		return nil, 0, err
	}
	if w.GetExpiresInMs() > message.MaxExpiryMs {
		return nil, 0, outside("expires_in_ms", w.GetExpiresInMs())
	}
	m = &message.Message{Publisher: w.GetPublisher(), Topic: w.GetTopic(), Payload: w.GetPayload(), Retain: w.GetRetain()}
	if m.QoS, err = qosFromWire(w.GetQos()); err != nil {
		return nil, 0, err
	}
	if m.Props, err = propertiesFromWire(w); err != nil {
		return nil, 0, err
	}
	return m, time.Duration(w.GetExpiresInMs()) * time.Millisecond, nil
}

// propertiesFromWire returns nil when there are none.
func propertiesFromWire(w *messagev1.Message) (*message.Properties, error) {
	if w.GetPayloadFormat() == 0 && w.GetContentType() == "" && w.GetResponseTopic() == "" &&
		w.CorrelationData == nil && len(w.GetUserProperties()) == 0 {
		return nil, nil //nolint:nilnil // as message.Message has it
	}
	p := &message.Properties{
		ContentType: w.GetContentType(), ResponseTopic: w.GetResponseTopic(), CorrelationData: w.CorrelationData,
	}
	switch f := w.GetPayloadFormat(); f {
	case messagev1.PayloadFormat_PAYLOAD_FORMAT_UNSPECIFIED:
	case messagev1.PayloadFormat_PAYLOAD_FORMAT_BYTES, messagev1.PayloadFormat_PAYLOAD_FORMAT_UTF8:
		p.HasPayloadFormat, p.PayloadFormat = true, byte(f-1)
	default:
		return nil, outside("payload_format", int32(f))
	}
	if err := checkText("content_type", p.ContentType); err != nil {
		return nil, err
	}
	if err := checkText("response_topic", p.ResponseTopic); err != nil {
		return nil, err
	}
	if len(p.CorrelationData) > maxText {
		return nil, in("correlation_data", errTooLong)
	}
	if n := len(w.GetUserProperties()); n > 0 {
		p.User = make([]message.UserProperty, n)
	}
	for i, u := range w.GetUserProperties() {
		if err := checkText("name", u.GetName()); err != nil {
			return nil, at("user_properties", i, err)
		}
		if err := checkText("value", u.GetValue()); err != nil {
			return nil, at("user_properties", i, err)
		}
		p.User[i] = message.UserProperty{Name: u.GetName(), Value: u.GetValue()}
	}
	return p, nil
}

func idToWire(id message.ID) *messagev1.MessageId {
	return &messagev1.MessageId{Origin: id.Origin, Sequence: id.Seq}
}

func idFromWire(w *messagev1.MessageId) (message.ID, error) {
	if w == nil {
		return message.ID{}, errMissing
	}
	if err := checkName("origin", w.GetOrigin()); err != nil {
		return message.ID{}, err
	}
	if w.GetSequence() == 0 {
		return message.ID{}, outside("sequence", w.GetSequence())
	}
	return message.ID{Origin: w.GetOrigin(), Seq: w.GetSequence()}, nil
}
