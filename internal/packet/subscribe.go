package packet

import (
	"bytes"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
)

// Subscribe is a SUBSCRIBE packet (3.8). It shares no memory with the bytes that it came from.
type Subscribe struct {
	PacketID uint16
	Filters  []Filter // at least one
	User     []message.UserProperty
}

// Filter is one Topic Filter of a SUBSCRIBE, whose syntax has not been checked, with its options. The Subscription
// Identifier of the packet is in each of them.
type Filter struct {
	Filter  string
	Options subscriptions.Options
}

// Unsubscribe is an UNSUBSCRIBE packet (3.10). It shares no memory with the bytes that it came from.
type Unsubscribe struct {
	PacketID uint16
	Filters  []string // at least one
	User     []message.UserProperty
}

// Subscription Options (3.8.3.1).
const (
	optionQoS               = 3
	optionNoLocal           = 1 << 2
	optionRetainAsPublished = 1 << 3
	optionRetainHandling    = 3 << 4
	optionReserved          = 3 << 6
)

// DecodeSubscribe decodes a SUBSCRIBE. The syntax of its filters is the caller's to check.
func DecodeSubscribe(v Version, first byte, body []byte) (Subscribe, error) {
	if err := expect(first, SUBSCRIBE); err != nil {
		return Subscribe{}, err
	}
	c := cursor{rest: body}
	s := Subscribe{PacketID: c.packetID()}
	var props properties
	if v == V5 {
		props = c.properties(subscribeProperties)
	}
	filters, n := c, 0 // counted first: what is kept is then allocated once and exactly
	for ; len(c.rest) > 0; n++ {
		filter := c.text("Topic Filter")
		c.subscriptionOptions(v, filter, c.uint8("Subscription Options"))
	}
	if n == 0 {
		c.fail(protocolError("SUBSCRIBE without a Topic Filter (MQTT-3.8.3-2, in 3.1.1 MQTT-3.8.3-3)"))
	}
	if c.err != nil {
		return Subscribe{}, c.err
	}
	s.User = props.user()
	id := props.subscriptionIdentifier()
	s.Filters = make([]Filter, n)
	for i := range s.Filters {
		f := string(filters.binary("Topic Filter"))
		s.Filters[i] = Filter{Filter: f, Options: subscriptionOptions(filters.uint8("Subscription Options"), id)}
	}
	return s, nil
}

// subscriptionOptions checks the options of one filter.
func (c *cursor) subscriptionOptions(v Version, filter []byte, o byte) {
	switch {
	case v != V5 && o > 2:
		c.fail(malformed("reserved bits or QoS 3 in a SUBSCRIBE (in 3.1.1 MQTT-3-8.3-4)"))
	case o&optionReserved != 0:
		c.fail(malformed("reserved bits of the Subscription Options (MQTT-3.8.3-5)"))
	case o&optionQoS == 3:
		c.fail(protocolError("Maximum QoS 3 (3.8.3.1)"))
	case o&optionRetainHandling == optionRetainHandling:
		c.fail(protocolError("Retain Handling 3 (3.8.3.1)"))
	case o&optionNoLocal != 0 && bytes.HasPrefix(filter, []byte("$share/")):
		c.fail(protocolError("No Local on a Shared Subscription (MQTT-3.8.3-4)"))
	}
}

func subscriptionOptions(o byte, id uint32) subscriptions.Options {
	return subscriptions.Options{
		QoS:               o & optionQoS,
		NoLocal:           o&optionNoLocal != 0,
		RetainAsPublished: o&optionRetainAsPublished != 0,
		RetainHandling:    o & optionRetainHandling >> 4,
		ID:                id,
	}
}

// DecodeUnsubscribe decodes an UNSUBSCRIBE. The syntax of its filters is the caller's to check.
func DecodeUnsubscribe(v Version, first byte, body []byte) (Unsubscribe, error) {
	if err := expect(first, UNSUBSCRIBE); err != nil {
		return Unsubscribe{}, err
	}
	c := cursor{rest: body}
	u := Unsubscribe{PacketID: c.packetID()}
	var props properties
	if v == V5 {
		props = c.properties(unsubscribeProperties)
	}
	filters, n := c, 0
	for ; len(c.rest) > 0; n++ {
		c.text("Topic Filter")
	}
	if n == 0 {
		c.fail(protocolError("UNSUBSCRIBE without a Topic Filter (MQTT-3.10.3-2)"))
	}
	if c.err != nil {
		return Unsubscribe{}, c.err
	}
	u.User = props.user()
	u.Filters = make([]string, n)
	for i := range u.Filters {
		u.Filters[i] = string(filters.binary("Topic Filter"))
	}
	return u, nil
}

// AppendSuback appends a SUBACK with one code for each filter, in the order of the SUBSCRIBE. In 3.1.1 every failure
// becomes 0x80 (MQTT-3.9.3-2).
func AppendSuback(dst []byte, v Version, id uint16, codes []Code) []byte {
	if v == V5 {
		return appendCodes(dst, SUBACK, id, codes)
	}
	dst = append(dst, byte(SUBACK)<<4)
	dst = appendVarint(dst, 2+len(codes))
	dst = append(dst, byte(id>>8), byte(id))
	for _, c := range codes {
		if c.Failure() {
			c = v311SubscriptionRejected
		}
		dst = append(dst, byte(c))
	}
	return dst
}

// AppendUnsuback appends an UNSUBACK with one code for each filter, in the order of the UNSUBSCRIBE; in 3.1.1 it has
// none.
func AppendUnsuback(dst []byte, v Version, id uint16, codes []Code) []byte {
	if v == V5 {
		return appendCodes(dst, UNSUBACK, id, codes)
	}
	return append(dst, byte(UNSUBACK)<<4, 2, byte(id>>8), byte(id))
}

// appendCodes appends an MQTT 5 packet with an identifier, no properties, and codes.
func appendCodes(dst []byte, t Type, id uint16, codes []Code) []byte {
	dst = append(dst, byte(t)<<4)
	dst = appendVarint(dst, 3+len(codes))
	dst = append(dst, byte(id>>8), byte(id), 0)
	for _, c := range codes {
		dst = append(dst, byte(c))
	}
	return dst
}
