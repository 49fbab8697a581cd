package packet

import (
	"encoding/binary"
	"slices"
	"time"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/mqtt"
)

// PublishOptions are what differs between the receivers of one message.
type PublishOptions struct {
	PacketID uint16 // not used with QoS 0
	Dup      bool   // not used with QoS 0 (MQTT-3.3.1-2)
	QoS      byte
	Retain   bool

	// The rest is MQTT 5, and not used in 3.1.1. IDs are the Subscription Identifiers that matched, 1 to
	// 268,435,455. Alias is the Topic Alias, 0 for none; with it, OmitTopic sends the empty Topic Name. NamePublisher
	// adds message.PublisherProperty behind all other User Properties.
	IDs           []uint32
	Alias         uint16
	OmitTopic     bool
	NamePublisher bool
}

// omitTopic reports whether the Topic Name goes out empty.
func (o *PublishOptions) omitTopic(v Version) bool { return v == V5 && o.OmitTopic && o.Alias != 0 }

// shared reports whether the head of the packet is the same for all receivers, but for what patch fills in.
func (o *PublishOptions) shared(v Version) bool {
	return v != V5 || len(o.IDs) == 0 && o.Alias == 0 && !o.NamePublisher
}

// form returns the slot of Forms for a head: it depends on the version and on whether there is a Packet Identifier.
func (o *PublishOptions) form(v Version) int {
	slot := 0
	if v == V5 {
		slot = 2
	}
	if o.QoS > 0 {
		slot++
	}
	return slot
}

// AppendPublish appends a PUBLISH that takes m to one receiver. It does not allocate when dst has room, and does not
// keep dst. now decides what is left of the Message Expiry Interval.
//
// When m has Forms, everything before the payload is encoded once, kept there, and then copied and patched. Receivers
// with Subscription Identifiers or a Topic Alias, or that are told the publisher, get a head of their own.
//
// The packet must not be longer than MQTT allows, 268,435,455 bytes behind its fixed header: see PublishSize.
func AppendPublish(dst []byte, v Version, m *message.Message, o PublishOptions, now time.Time) []byte {
	at := len(dst)
	if m.Forms == nil || !o.shared(v) {
		n := publishLengths(v, m, &o)
		dst = appendHead(slices.Grow(dst, n.packet()), v, m, &o, n)
	} else {
		head := sharedHead(v, m, &o)
		dst = append(slices.Grow(dst, len(head)+len(m.Payload)), head...)
	}
	patch(dst[at:], v, m, &o, now)
	return append(dst, m.Payload...)
}

// sharedHead returns the head that m.Forms keeps, and puts it there when it is the first to need it.
func sharedHead(v Version, m *message.Message, o *PublishOptions) []byte {
	kept := &m.Forms[o.form(v)]
	if head := kept.Load(); head != nil {
		return *head
	}
	n := publishLengths(v, m, o)
	head := appendHead(make([]byte, 0, n.packet()-len(m.Payload)), v, m, o, n)
	kept.Store(&head) // two goroutines may both come here: what they store is the same
	return head
}

// PublishSize returns the exact size of the packet that AppendPublish would append, in bytes.
func PublishSize(v Version, m *message.Message, o PublishOptions) int {
	return publishLengths(v, m, &o).packet()
}

// lengths are the two that a PUBLISH announces; 3.1.1 has no Property Length.
type lengths struct{ props, remaining int }

// packet returns the size of the whole packet.
func (n lengths) packet() int { return 1 + varintSize(n.remaining) + n.remaining }

func publishLengths(v Version, m *message.Message, o *PublishOptions) lengths {
	remaining := 2 + len(m.Payload)
	if !o.omitTopic(v) {
		remaining = textSize(m.Topic) + len(m.Payload)
	}
	if o.QoS > 0 {
		remaining += 2
	}
	if v != V5 {
		return lengths{remaining: remaining}
	}
	props := 0
	if !m.Expires.IsZero() {
		props += 5
	}
	if m.Props != nil {
		props += messagePropertiesSize(m.Props)
	}
	for _, id := range o.IDs {
		props += 1 + varintSize(int(id))
	}
	if o.Alias != 0 {
		props += 3
	}
	if o.NamePublisher {
		props += 1 + textSize(message.PublisherProperty) + textSize(m.Publisher)
	}
	return lengths{props: props, remaining: remaining + varintSize(props) + props}
}

// appendHead appends a PUBLISH without its payload. What patch fills in is 0: the flags, the Packet Identifier and the
// Message Expiry Interval, which comes first among the properties so that patch finds it.
func appendHead(dst []byte, v Version, m *message.Message, o *PublishOptions, n lengths) []byte {
	dst = append(dst, byte(PUBLISH)<<4)
	dst = appendVarint(dst, n.remaining)
	if o.omitTopic(v) {
		dst = append(dst, 0, 0)
	} else {
		dst = appendText(dst, m.Topic)
	}
	if o.QoS > 0 {
		dst = append(dst, 0, 0)
	}
	if v != V5 {
		return dst
	}
	dst = appendVarint(dst, n.props)
	if !m.Expires.IsZero() {
		dst = append(dst, byte(mqtt.MessageExpiry), 0, 0, 0, 0)
	}
	for _, id := range o.IDs {
		dst = append(dst, byte(mqtt.SubscriptionIdentifier))
		dst = appendVarint(dst, int(id))
	}
	if o.Alias != 0 {
		dst = append(dst, byte(mqtt.TopicAlias), byte(o.Alias>>8), byte(o.Alias))
	}
	if m.Props != nil {
		dst = appendMessageProperties(dst, m.Props)
	}
	if o.NamePublisher {
		dst = appendText(append(dst, byte(mqtt.User)), message.PublisherProperty)
		dst = appendText(dst, m.Publisher)
	}
	return dst
}

// patch fills in what appendHead has left out.
func patch(head []byte, v Version, m *message.Message, o *PublishOptions, now time.Time) {
	head[0] |= o.QoS << 1
	if o.Retain {
		head[0] |= 1
	}
	at := 2 // behind the fixed header
	for head[at-1] >= 0x80 {
		at++
	}
	at += 2 + int(binary.BigEndian.Uint16(head[at:])) // behind the Topic Name
	if o.QoS > 0 {
		if o.Dup {
			head[0] |= 8
		}
		binary.BigEndian.PutUint16(head[at:], o.PacketID)
		at += 2
	}
	if v != V5 || m.Expires.IsZero() {
		return
	}
	for head[at] >= 0x80 {
		at++
	}
	left, _ := m.Remaining(now)
	binary.BigEndian.PutUint32(head[at+2:], left) // behind the Property Length and the identifier
}

func messagePropertiesSize(p *message.Properties) int {
	n := 0
	if p.HasPayloadFormat {
		n += 2
	}
	if p.ContentType != "" {
		n += 1 + textSize(p.ContentType)
	}
	if p.ResponseTopic != "" {
		n += 1 + textSize(p.ResponseTopic)
	}
	if p.CorrelationData != nil {
		n += 1 + textSize(p.CorrelationData)
	}
	for i := range p.User {
		n += 1 + textSize(p.User[i].Name) + textSize(p.User[i].Value)
	}
	return n
}

// appendMessageProperties appends properties unaltered, the User Properties in their order (MQTT-3.3.2-4,
// MQTT-3.3.2-15, MQTT-3.3.2-16, MQTT-3.3.2-17, MQTT-3.3.2-18, MQTT-3.3.2-20).
func appendMessageProperties(dst []byte, p *message.Properties) []byte {
	if p.HasPayloadFormat {
		dst = append(dst, byte(mqtt.PayloadFormat), p.PayloadFormat)
	}
	if p.ContentType != "" {
		dst = appendText(append(dst, byte(mqtt.ContentType)), p.ContentType)
	}
	if p.ResponseTopic != "" {
		dst = appendText(append(dst, byte(mqtt.ResponseTopic)), p.ResponseTopic)
	}
	if p.CorrelationData != nil {
		dst = appendText(append(dst, byte(mqtt.CorrelationData)), p.CorrelationData)
	}
	for i := range p.User {
		dst = appendText(append(dst, byte(mqtt.User)), p.User[i].Name)
		dst = appendText(dst, p.User[i].Value)
	}
	return dst
}
