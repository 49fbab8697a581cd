package packet

import (
	"bytes"
	"fmt"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/mqtt"
)

// Which properties a packet may have when a client sends it; those of CONNECT and its Will are in package mqtt.
const (
	publishProperties mqtt.PropertySet = 1<<mqtt.PayloadFormat | 1<<mqtt.MessageExpiry | 1<<mqtt.TopicAlias |
		1<<mqtt.ResponseTopic | 1<<mqtt.CorrelationData | 1<<mqtt.User | 1<<mqtt.SubscriptionIdentifier |
		1<<mqtt.ContentType
	ackProperties         mqtt.PropertySet = 1<<mqtt.ReasonString | 1<<mqtt.User
	subscribeProperties   mqtt.PropertySet = 1<<mqtt.SubscriptionIdentifier | 1<<mqtt.User
	unsubscribeProperties mqtt.PropertySet = 1 << mqtt.User
	disconnectProperties  mqtt.PropertySet = 1<<mqtt.SessionExpiry | 1<<mqtt.ReasonString | 1<<mqtt.User
	authProperties        mqtt.PropertySet = 1<<mqtt.AuthMethod | 1<<mqtt.AuthData | 1<<mqtt.ReasonString | 1<<mqtt.User
)

// properties is a checked block of properties.
type properties struct {
	block   []byte // without its length
	present mqtt.PropertySet
	users   int
}

// properties checks a block of properties and leaves the cursor behind it.
func (c *cursor) properties(allowed mqtt.PropertySet) properties {
	n := c.varint("Property Length")
	if n > len(c.rest) {
		c.fail(malformed("properties are cut short"))
	}
	if c.err != nil || n == 0 {
		return properties{}
	}
	p := properties{block: c.rest[:n:n]}
	rest := c.rest[n:]
	in := cursor{rest: p.block}
	for len(in.rest) > 0 {
		id := mqtt.Property(in.rest[0])
		in.rest = in.rest[1:]
		switch {
		case !allowed.Has(id):
			in.fail(malformed(fmt.Sprintf("property 0x%02X is not for this packet (2.2.2.2)", byte(id))))
			continue
		case id == mqtt.User:
			p.users++
		case p.present.Has(id):
			in.fail(protocolError(id.String() + " more than once"))
			continue
		}
		p.present |= 1 << id
		in.value(id)
	}
	if in.err != nil {
		c.fail(in.err)
		return properties{}
	}
	c.rest = rest
	return p
}

// value checks the value of one property.
func (c *cursor) value(id mqtt.Property) {
	name := id.String()
	switch id {
	case mqtt.PayloadFormat, mqtt.RequestProblemInfo, mqtt.RequestResponseInfo:
		if c.uint8(name) > 1 {
			c.fail(protocolError(name + " is neither 0 nor 1"))
		}
	case mqtt.TopicAliasMaximum:
		c.uint16(name)
	case mqtt.ReceiveMaximum:
		if c.uint16(name) == 0 {
			c.fail(protocolError("Receive Maximum is 0 (3.1.2.11.3)"))
		}
	case mqtt.TopicAlias:
		if c.uint16(name) == 0 {
			c.fail(&Error{Code: TopicAliasInvalid, Detail: "Topic Alias is 0 (MQTT-3.3.2-8)"})
		}
	case mqtt.MessageExpiry, mqtt.SessionExpiry, mqtt.WillDelay:
		c.uint32(name)
	case mqtt.MaximumPacketSize:
		if c.uint32(name) == 0 {
			c.fail(protocolError("Maximum Packet Size is 0 (3.1.2.11.4)"))
		}
	case mqtt.SubscriptionIdentifier:
		if c.varint(name) == 0 {
			c.fail(protocolError("Subscription Identifier is 0 (3.8.2.1.2)"))
		}
	case mqtt.CorrelationData, mqtt.AuthData:
		c.binary(name)
	case mqtt.ResponseTopic:
		topic := c.text(name)
		if len(topic) == 0 || bytes.ContainsAny(topic, "+#") {
			c.fail(protocolError("Response Topic is not a Topic Name (MQTT-3.3.2-14)"))
		}
	case mqtt.ContentType, mqtt.AuthMethod, mqtt.ReasonString:
		c.text(name)
	case mqtt.User:
		c.text(name)
		c.text(name)
	}
}

// user returns copies of the User Properties of a checked block, in their order (MQTT-3.3.2-18).
func (p properties) user() []message.UserProperty {
	if p.users == 0 {
		return nil
	}
	users := make([]message.UserProperty, 0, p.users)
	c := cursor{rest: p.block}
	for len(c.rest) > 0 {
		id := mqtt.Property(c.uint8(""))
		if id != mqtt.User {
			c.value(id)
			continue
		}
		name := string(c.binary(""))
		users = append(users, message.UserProperty{Name: name, Value: string(c.binary(""))})
	}
	return users
}

// subscriptionIdentifier returns the Subscription Identifier of a checked block, 0 when it has none.
func (p properties) subscriptionIdentifier() uint32 {
	c := cursor{rest: p.block}
	for len(c.rest) > 0 {
		id := mqtt.Property(c.uint8(""))
		if id == mqtt.SubscriptionIdentifier {
			return uint32(c.varint(""))
		}
		c.value(id)
	}
	return 0
}
