package packet

import (
	"bytes"
	"fmt"

	"github.com/beeline-mqtt/beeline/internal/message"
)

// property is a Property identifier (2.2.2.2). They are Variable Byte Integers, but none needs a second byte.
type property byte

// The properties that clients send.
const (
	propPayloadFormat          property = 1
	propMessageExpiry          property = 2
	propContentType            property = 3
	propResponseTopic          property = 8
	propCorrelationData        property = 9
	propSubscriptionIdentifier property = 11
	propSessionExpiry          property = 17
	propAuthMethod             property = 21
	propAuthData               property = 22
	propRequestProblemInfo     property = 23
	propWillDelay              property = 24
	propRequestResponseInfo    property = 25
	propReasonString           property = 31
	propReceiveMaximum         property = 33
	propTopicAliasMaximum      property = 34
	propTopicAlias             property = 35
	propUser                   property = 38
	propMaximumPacketSize      property = 39
)

var propertyNames = [...]string{ //nolint:gochecknoglobals // a table that nobody changes
	propPayloadFormat: "Payload Format Indicator", propMessageExpiry: "Message Expiry Interval",
	propContentType: "Content Type", propResponseTopic: "Response Topic", propCorrelationData: "Correlation Data",
	propSubscriptionIdentifier: "Subscription Identifier", propSessionExpiry: "Session Expiry Interval",
	propAuthMethod: "Authentication Method", propAuthData: "Authentication Data",
	propRequestProblemInfo: "Request Problem Information", propWillDelay: "Will Delay Interval",
	propRequestResponseInfo: "Request Response Information", propReasonString: "Reason String",
	propReceiveMaximum: "Receive Maximum", propTopicAliasMaximum: "Topic Alias Maximum",
	propTopicAlias: "Topic Alias", propUser: "User Property", propMaximumPacketSize: "Maximum Packet Size",
}

// name returns the name of a property that some packet of a client may have.
func (p property) name() string { return propertyNames[p] }

// propertySet has one bit for each identifier.
type propertySet uint64

func (s propertySet) has(p property) bool { return p < 64 && s&(1<<p) != 0 }

// Which properties a packet may have when a client sends it.
const (
	connectProperties propertySet = 1<<propSessionExpiry | 1<<propReceiveMaximum | 1<<propMaximumPacketSize |
		1<<propTopicAliasMaximum | 1<<propRequestResponseInfo | 1<<propRequestProblemInfo | 1<<propUser |
		1<<propAuthMethod | 1<<propAuthData
	willProperties propertySet = 1<<propWillDelay | 1<<propPayloadFormat | 1<<propMessageExpiry |
		1<<propContentType | 1<<propResponseTopic | 1<<propCorrelationData | 1<<propUser
	publishProperties propertySet = 1<<propPayloadFormat | 1<<propMessageExpiry | 1<<propTopicAlias |
		1<<propResponseTopic | 1<<propCorrelationData | 1<<propUser | 1<<propSubscriptionIdentifier |
		1<<propContentType
	ackProperties         propertySet = 1<<propReasonString | 1<<propUser
	subscribeProperties   propertySet = 1<<propSubscriptionIdentifier | 1<<propUser
	unsubscribeProperties propertySet = 1 << propUser
	disconnectProperties  propertySet = 1<<propSessionExpiry | 1<<propReasonString | 1<<propUser
	authProperties        propertySet = 1<<propAuthMethod | 1<<propAuthData | 1<<propReasonString | 1<<propUser
)

// properties is a checked block of properties.
type properties struct {
	block   []byte // without its length
	present propertySet
	users   int
}

// properties checks a block of properties and leaves the cursor behind it.
func (c *cursor) properties(allowed propertySet) properties {
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
		id := property(in.rest[0])
		in.rest = in.rest[1:]
		switch {
		case !allowed.has(id):
			in.fail(malformed(fmt.Sprintf("property 0x%02X is not for this packet (2.2.2.2)", byte(id))))
			continue
		case id == propUser:
			p.users++
		case p.present.has(id):
			in.fail(protocolError(id.name() + " more than once"))
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
func (c *cursor) value(id property) {
	name := id.name()
	switch id {
	case propPayloadFormat, propRequestProblemInfo, propRequestResponseInfo:
		if c.uint8(name) > 1 {
			c.fail(protocolError(name + " is neither 0 nor 1"))
		}
	case propTopicAliasMaximum:
		c.uint16(name)
	case propReceiveMaximum:
		if c.uint16(name) == 0 {
			c.fail(protocolError("Receive Maximum is 0 (3.1.2.11.3)"))
		}
	case propTopicAlias:
		if c.uint16(name) == 0 {
			c.fail(&Error{Code: TopicAliasInvalid, Detail: "Topic Alias is 0 (MQTT-3.3.2-8)"})
		}
	case propMessageExpiry, propSessionExpiry, propWillDelay:
		c.uint32(name)
	case propMaximumPacketSize:
		if c.uint32(name) == 0 {
			c.fail(protocolError("Maximum Packet Size is 0 (3.1.2.11.4)"))
		}
	case propSubscriptionIdentifier:
		if c.varint(name) == 0 {
			c.fail(protocolError("Subscription Identifier is 0 (3.8.2.1.2)"))
		}
	case propCorrelationData, propAuthData:
		c.binary(name)
	case propResponseTopic:
		topic := c.text(name)
		if len(topic) == 0 || bytes.ContainsAny(topic, "+#") {
			c.fail(protocolError("Response Topic is not a Topic Name (MQTT-3.3.2-14)"))
		}
	case propContentType, propAuthMethod, propReasonString:
		c.text(name)
	case propUser:
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
		id := property(c.uint8(""))
		if id != propUser {
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
		id := property(c.uint8(""))
		if id == propSubscriptionIdentifier {
			return uint32(c.varint(""))
		}
		c.value(id)
	}
	return 0
}
