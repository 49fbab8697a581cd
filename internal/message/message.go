// Package message holds the one representation of an application message that travels through Beeline: from
// the packet that a publisher sent, over the mesh, to the packets that its receivers get.
//
// It owns no behaviour beyond identity and expiry. MQTT bytes are made and read in internal/packet, mesh
// bytes in internal/mesh. A Message is immutable once it has been handed on: it is shared, without copying,
// between the queues of all its receivers.
package message

import (
	"sync/atomic"
	"time"
)

// QoS is the MQTT quality of service of a message or a subscription: 0, 1 or 2.
type QoS = byte

// The three levels of MQTT 4.3.
const (
	AtMostOnce  QoS = 0
	AtLeastOnce QoS = 1
	ExactlyOnce QoS = 2
)

// ID names a message across the cluster.
type ID struct {
	// Origin is the incarnation id of the process that took the message from its publisher.
	Origin string
	// Seq counts the messages of that incarnation, from 1.
	Seq uint64
}

// UserProperty is one name-value pair of MQTT 5 (3.3.2.3.7). Names may repeat and order counts.
type UserProperty struct {
	Name  string
	Value string
}

// Properties are the MQTT 5 properties that belong to a message and travel with it to its receivers.
// Topic Alias and Subscription Identifier belong to a connection and a subscription; they are not here.
type Properties struct {
	// PayloadFormat is 0 or 1; HasPayloadFormat says whether the publisher sent it.
	PayloadFormat    byte
	HasPayloadFormat bool
	ContentType      string
	ResponseTopic    string
	// CorrelationData is nil when absent; empty but not nil when present and empty.
	CorrelationData []byte
	User            []UserProperty
}

// ServicePrefix begins the client ids of the cluster's own services, and no others.
const ServicePrefix = "$service-"

// AnswerPrefix begins the ids of those among them that devices answer to.
const AnswerPrefix = ServicePrefix + "router-"

// PublisherProperty is the name of the user property that the cluster's own services get with every message, behind all
// others: its value is the client id of the publisher.
const PublisherProperty = "beeline-publisher"

// Message is one application message. The zero Expires means that it never expires.
type Message struct {
	ID
	// Order is nil for nearly all messages: ID says which comes first. A message that its publisher has sent again over
	// another connection keeps its ID, and has its place among what its gateway sends on here.
	Order *ID
	// Publisher is the client id of the publisher, for No Local (MQTT-3.8.3-3).
	Publisher string
	Topic     string
	Payload   []byte
	QoS       QoS
	Retain    bool
	// Expires is when the Message Expiry Interval ends, on this process's clock.
	Expires time.Time
	// Props is nil when the message has no properties.
	Props *Properties
	// Forms, when not nil, caches encodings of the message, because it is about to be written to several
	// connections. Set it before the message is handed on, never after.
	Forms *Forms
}

// Place is what messages are ordered by: the process that sends the message on, and its place among what that sends on.
func (m *Message) Place() ID {
	if m.Order != nil {
		return *m.Order
	}
	return m.ID
}

// Expired reports whether the Message Expiry Interval has passed (MQTT-3.3.2-5).
func (m *Message) Expired(now time.Time) bool {
	return !m.Expires.IsZero() && !now.Before(m.Expires)
}

// Remaining returns what is left of the Message Expiry Interval in whole seconds, rounded up so that a
// message that has not expired never goes out with 0, and whether there is an interval at all.
func (m *Message) Remaining(now time.Time) (seconds uint32, ok bool) {
	if m.Expires.IsZero() {
		return 0, false
	}
	left := m.Expires.Sub(now)
	if left <= 0 {
		return 0, true
	}
	s := (left + time.Second - 1) / time.Second
	if s > 1<<32-1 {
		s = 1<<32 - 1
	}
	return uint32(s), true
}

// MaxExpiryMs is the largest Message Expiry Interval that MQTT can express, in milliseconds.
const MaxExpiryMs = (1<<32 - 1) * 1000

// LeftMs is what is left of a Message Expiry Interval in milliseconds, at most MaxExpiryMs; rounded up, so that a message
// that has not expired is never sent as if it had.
func LeftMs(left time.Duration) uint64 {
	if left <= 0 {
		return 0
	}
	// The clock may have been set back since.
	return min(uint64((left-1)/time.Millisecond)+1, MaxExpiryMs)
}

// Size is what a queue that holds the message is charged for it, in bytes: its variable parts and a constant
// for the rest.
func (m *Message) Size() int {
	n := overhead + len(m.Topic) + len(m.Payload)
	if p := m.Props; p != nil {
		n += len(p.ContentType) + len(p.ResponseTopic) + len(p.CorrelationData)
		for _, u := range p.User {
			n += len(u.Name) + len(u.Value) + 32
		}
	}
	return n
}

// overhead is the size of the struct and its queue entry, rounded.
const overhead = 200

// Forms caches the encoded forms of one message for a fan-out. The zero value is ready; it is safe for
// concurrent use. What a slot means is the encoder's business.
type Forms [4]atomic.Pointer[[]byte]
