// Package envelope turns application messages of the public contract into those that MQTT carries, and back. It is pure.
package envelope

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	messagev1 "github.com/beeline-mqtt/beeline/api/gen/beeline/message/v1"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
)

// What cannot be published.
var (
	// ErrQoS: a quality of service that there is not.
	ErrQoS = errors.New("qos: not known")
	// ErrText: a text that MQTT cannot carry.
	ErrText = errors.New("must be at most 65,535 bytes of UTF-8 without NUL")
	// ErrResponseTopic: a Response Topic that is no topic name.
	ErrResponseTopic = errors.New("response_topic: must have no wildcards")
)

// QoS is the quality of service of a message or filter; QoS 1 when it is unspecified.
func QoS(q messagev1.Qos) (message.QoS, error) {
	switch q {
	case messagev1.Qos_QOS_UNSPECIFIED, messagev1.Qos_QOS_AT_LEAST_ONCE:
		return message.AtLeastOnce, nil
	case messagev1.Qos_QOS_AT_MOST_ONCE:
		return message.AtMostOnce, nil
	case messagev1.Qos_QOS_EXACTLY_ONCE:
		return message.ExactlyOnce, nil
	default:
		return 0, fmt.Errorf("%w: %d", ErrQoS, q)
	}
}

// check says whether MQTT can carry the properties of a message: one that it cannot would end the connection it is sent on.
func check(m *messagingv1.Message) error {
	text := func(s string) bool {
		return len(s) <= 65535 && utf8.ValidString(s) && strings.IndexByte(s, 0) < 0
	}
	switch {
	case !text(m.GetContentType()):
		return fmt.Errorf("content_type: %w", ErrText)
	case !text(m.GetResponseTopic()):
		return fmt.Errorf("response_topic: %w", ErrText)
	case strings.ContainsAny(m.GetResponseTopic(), "+#"):
		return ErrResponseTopic
	case len(m.GetCorrelationData()) > 65535:
		return fmt.Errorf("correlation_data: %w", ErrText)
	}
	for i, u := range m.GetUserProperties() {
		if !text(u.GetName()) || !text(u.GetValue()) {
			return fmt.Errorf("user_properties[%d]: %w", i, ErrText)
		}
	}
	return nil
}

// Open is a message as it is published, with a topic, which the caller has checked, and what it takes from now on until it
// expires. It shares memory with m. Errors name the field: ErrQoS, ErrText or ErrResponseTopic, wrapped.
func Open(m *messagingv1.Message, topic string, now time.Time) (*message.Message, error) {
	qos, err := QoS(m.GetQos())
	if err != nil {
		return nil, err
	}
	if err := check(m); err != nil {
		return nil, err
	}
	x := &message.Message{Topic: topic, Payload: m.GetPayload(), QoS: qos, Retain: m.GetRetain()}
	if m.MessageExpirySeconds != nil {
		x.Expires = now.Add(time.Duration(m.GetMessageExpirySeconds()) * time.Second)
	}
	p := message.Properties{ContentType: m.GetContentType(), ResponseTopic: m.GetResponseTopic(), CorrelationData: m.CorrelationData}
	switch m.GetPayloadFormat() {
	case messagev1.PayloadFormat_PAYLOAD_FORMAT_BYTES:
		p.HasPayloadFormat = true
	case messagev1.PayloadFormat_PAYLOAD_FORMAT_UTF8:
		p.HasPayloadFormat, p.PayloadFormat = true, 1
	default:
	}
	for _, u := range m.GetUserProperties() {
		p.User = append(p.User, message.UserProperty{Name: u.GetName(), Value: u.GetValue()})
	}
	if p.HasPayloadFormat || p.ContentType != "" || p.ResponseTopic != "" || p.CorrelationData != nil || p.User != nil {
		x.Props = &p
	}
	return x, nil
}

// Wire is a message as services hand it to each other. It shares memory with m.
func Wire(m *message.Message, now time.Time) *messagev1.Message {
	w := &messagev1.Message{Topic: m.Topic, Payload: m.Payload, Qos: messagev1.Qos(m.QoS) + 1, Retain: m.Retain}
	if !m.Expires.IsZero() {
		left := message.LeftMs(m.Expires.Sub(now))
		w.ExpiresInMs = &left
	}
	p := m.Props
	if p == nil {
		return w
	}
	if p.HasPayloadFormat {
		w.PayloadFormat = messagev1.PayloadFormat(p.PayloadFormat) + 1
	}
	w.ContentType, w.ResponseTopic, w.CorrelationData = p.ContentType, p.ResponseTopic, p.CorrelationData
	w.UserProperties = userProperties(p.User)
	return w
}

func userProperties(from []message.UserProperty) (to []*messagev1.UserProperty) {
	for _, u := range from {
		to = append(to, &messagev1.UserProperty{Name: u.Name, Value: u.Value})
	}
	return to
}

// Seal is a message that was received. It shares memory with p.
func Seal(p *packet.Publish) *messagingv1.Message {
	m := &messagingv1.Message{Topic: p.Topic, Payload: p.Payload, Qos: messagev1.Qos(p.QoS) + 1, Retain: p.Retain}
	if p.HasExpiry {
		m.MessageExpirySeconds = &p.Expiry
	}
	if p.Props == nil {
		return m
	}
	if p.Props.HasPayloadFormat {
		m.PayloadFormat = messagev1.PayloadFormat(p.Props.PayloadFormat) + 1
	}
	m.ContentType, m.ResponseTopic, m.CorrelationData = p.Props.ContentType, p.Props.ResponseTopic, p.Props.CorrelationData
	m.UserProperties = userProperties(p.Props.User)
	return m
}
