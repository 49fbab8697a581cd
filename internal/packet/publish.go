package packet

import (
	"unsafe"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/mqtt"
)

// Publish is a PUBLISH packet of a client (3.3), whose topic has not been checked beyond UTF-8. Topic, Payload and
// Props share one allocation and are read-only.
type Publish struct {
	PacketID  uint16 // 0 with QoS 0
	Dup       bool
	QoS       byte
	Retain    bool
	Topic     string // empty only with an Alias
	Payload   []byte
	Alias     uint16 // Topic Alias, 0 for none
	Expiry    uint32 // Message Expiry Interval in seconds
	HasExpiry bool
	Props     *message.Properties // nil when there are none
}

// messageProperties are the ones that travel with a message.
const messageProperties mqtt.PropertySet = 1<<mqtt.PayloadFormat | 1<<mqtt.ContentType | 1<<mqtt.ResponseTopic |
	1<<mqtt.CorrelationData | 1<<mqtt.User

// DecodePublish decodes a PUBLISH. If owned, body is given away to the result, which aliases it; else it is copied,
// once, after it has been checked.
func DecodePublish(v Version, first byte, body []byte, owned bool) (Publish, error) {
	if err := expect(first, PUBLISH); err != nil {
		return Publish{}, err
	}
	p := Publish{Dup: first&8 != 0, QoS: first >> 1 & 3, Retain: first&1 != 0}
	c := cursor{rest: body}
	topic := len(c.text("Topic Name"))
	if p.QoS > 0 {
		p.PacketID = c.packetID()
	}
	var props properties
	if v == V5 {
		props = c.properties(publishProperties)
	}
	if props.present.Has(mqtt.SubscriptionIdentifier) {
		c.fail(protocolError("a Subscription Identifier from a client (MQTT-3.3.4-6)"))
	}
	if topic == 0 && !props.present.Has(mqtt.TopicAlias) {
		c.fail(protocolError("neither Topic Name nor Topic Alias (3.3.2.1, in 3.1.1 MQTT-4.7.3-1)"))
	}
	if c.err != nil {
		return Publish{}, c.err
	}
	payload := len(body) - len(c.rest)
	if !owned {
		body = append(make([]byte, 0, len(body)), body...)
	}
	p.Topic = alias(body[2 : 2+topic])
	p.Payload = body[payload:len(body):len(body)]
	if props.present != 0 {
		props.block = body[payload-len(props.block) : payload : payload]
		p.take(props)
	}
	return p, nil
}

// take fills in properties that have been checked. The results alias their block.
func (p *Publish) take(props properties) {
	var m *message.Properties
	if props.present&messageProperties != 0 {
		m = &message.Properties{}
		p.Props = m
	}
	if props.users > 0 {
		m.User = make([]message.UserProperty, 0, props.users)
	}
	c := cursor{rest: props.block}
	for len(c.rest) > 0 {
		switch mqtt.Property(c.uint8("")) {
		case mqtt.MessageExpiry:
			p.Expiry, p.HasExpiry = c.uint32(""), true
		case mqtt.TopicAlias:
			p.Alias = c.uint16("")
		case mqtt.PayloadFormat:
			m.PayloadFormat, m.HasPayloadFormat = c.uint8(""), true
		case mqtt.ContentType:
			m.ContentType = alias(c.binary(""))
		case mqtt.ResponseTopic:
			m.ResponseTopic = alias(c.binary(""))
		case mqtt.CorrelationData:
			m.CorrelationData = c.binary("")
		case mqtt.User:
			name := alias(c.binary(""))
			m.User = append(m.User, message.UserProperty{Name: name, Value: alias(c.binary(""))})
		default: // the check has let nothing else through
		}
	}
}

// alias returns b as a string without copying. Nothing may write to b from then on: a PUBLISH is copied once as a
// whole, and three copies for each message are what this saves.
func alias(b []byte) string {
	return unsafe.String(unsafe.SliceData(b), len(b))
}
