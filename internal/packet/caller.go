package packet

import (
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/mqtt"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
)

// This file is the other half, for those of our processes that are clients themselves: what a client of MQTT 5 writes, and
// what it reads. PUBLISH and the acknowledgements are the same both ways, with the exception that a server may send
// Subscription Identifiers: DecodePublish refuses them, so a client that uses it asks for none.

// AppendConnect appends a CONNECT of MQTT 5. Version, Will and the enhanced authentication of c are not used.
func AppendConnect(dst []byte, c *Connect) []byte {
	flags := mqtt.FlagsOf(c.CleanStart, c.HasUsername, c.HasPassword)
	var props []byte
	if c.HasSessionExpiry {
		props = appendUint32(append(props, byte(mqtt.SessionExpiry)), c.SessionExpiry)
	}
	if c.ReceiveMaximum != 0 {
		props = append(props, byte(mqtt.ReceiveMaximum), byte(c.ReceiveMaximum>>8), byte(c.ReceiveMaximum))
	}
	if c.MaximumPacketSize != 0 {
		props = appendUint32(append(props, byte(mqtt.MaximumPacketSize)), c.MaximumPacketSize)
	}
	body := appendText(nil, "MQTT")
	body = append(body, byte(V5), byte(flags), byte(c.KeepAlive>>8), byte(c.KeepAlive))
	body = append(appendVarint(body, len(props)), props...)
	body = appendText(body, c.ClientID)
	if c.HasUsername {
		body = appendText(body, c.Username)
	}
	if c.HasPassword {
		body = appendText(body, c.Password)
	}
	return appendPacket(dst, CONNECT, body)
}

// AppendSubscribe appends a SUBSCRIBE of MQTT 5, without its User Properties. The Subscription Identifiers of the filters
// are not used.
func AppendSubscribe(dst []byte, s Subscribe) []byte {
	body := []byte{byte(s.PacketID >> 8), byte(s.PacketID), 0}
	for _, f := range s.Filters {
		body = append(appendText(body, f.Filter), optionsByte(f.Options))
	}
	return appendPacket(dst, SUBSCRIBE, body)
}

func optionsByte(o subscriptions.Options) byte {
	b := o.QoS | o.RetainHandling<<4
	if o.NoLocal {
		b |= optionNoLocal
	}
	if o.RetainAsPublished {
		b |= optionRetainAsPublished
	}
	return b
}

// AppendUnsubscribe appends an UNSUBSCRIBE of MQTT 5, without its User Properties.
func AppendUnsubscribe(dst []byte, u Unsubscribe) []byte {
	body := []byte{byte(u.PacketID >> 8), byte(u.PacketID), 0}
	for _, f := range u.Filters {
		body = appendText(body, f)
	}
	return appendPacket(dst, UNSUBSCRIBE, body)
}

// AppendPingreq appends a PINGREQ.
func AppendPingreq(dst []byte) []byte { return append(dst, byte(PINGREQ)<<4, 0) }

func appendPacket(dst []byte, t Type, body []byte) []byte {
	dst = append(dst, byte(t)<<4|t.flags())
	return append(appendVarint(dst, len(body)), body...)
}

func appendUint32(dst []byte, n uint32) []byte {
	return append(dst, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
}

// DecodeConnack decodes the CONNACK of an MQTT 5 server. ReceiveMaximum is 65535 when it is absent, MaximumPacketSize 0. What
// a client of ours does not ask for is not kept.
func DecodeConnack(first byte, body []byte) (Connack, error) {
	if err := expect(first, CONNACK); err != nil {
		return Connack{}, err
	}
	c := cursor{rest: body}
	a := Connack{SessionPresent: c.uint8("Connect Acknowledge Flags")&1 != 0, Code: Code(c.uint8("Reason Code")), ReceiveMaximum: 1<<16 - 1}
	c.serverProperties(func(id mqtt.Property, number uint32, text string) {
		switch id {
		case mqtt.AssignedClientID:
			a.AssignedClientID = text
		case mqtt.ServerKeepAlive:
			a.ServerKeepAlive, a.HasServerKeepAlive = uint16(number), true
		case mqtt.SessionExpiry:
			a.SessionExpiry, a.HasSessionExpiry = number, true
		case mqtt.ReceiveMaximum:
			a.ReceiveMaximum = uint16(number)
		case mqtt.MaximumPacketSize:
			a.MaximumPacketSize = number
		case mqtt.ReasonString:
			a.Reason = text
		case mqtt.ServerReference:
			a.ServerReference = text
		default:
		}
	})
	c.end(CONNACK)
	if a.ReceiveMaximum == 0 {
		c.fail(protocolError("Receive Maximum is 0 (3.2.2.3.3)"))
	}
	if c.err != nil {
		return Connack{}, c.err
	}
	return a, nil
}

// DecodeServerDisconnect decodes the DISCONNECT of an MQTT 5 server.
func DecodeServerDisconnect(first byte, body []byte) (Disconnect, error) {
	if err := expect(first, DISCONNECT); err != nil {
		return Disconnect{}, err
	}
	var d Disconnect
	c := cursor{rest: body}
	if len(body) > 0 {
		d.Code = Code(c.uint8("Reason Code"))
	}
	if len(body) > 1 {
		c.serverProperties(func(id mqtt.Property, _ uint32, text string) {
			switch id {
			case mqtt.ReasonString:
				d.Reason = text
			case mqtt.ServerReference:
				d.ServerReference = text
			default:
			}
		})
	}
	c.end(DISCONNECT)
	if c.err != nil {
		return Disconnect{}, c.err
	}
	return d, nil
}

// Codes are a SUBACK or an UNSUBACK: one code for each filter of what it answers, in their order.
type Codes struct {
	PacketID uint16
	Codes    []Code
}

// DecodeCodes decodes a SUBACK or an UNSUBACK of an MQTT 5 server.
func DecodeCodes(first byte, body []byte) (Codes, error) {
	t := Type(first >> 4)
	if t != SUBACK && t != UNSUBACK {
		return Codes{}, protocolError(t.String() + " in place of SUBACK or UNSUBACK")
	}
	c := cursor{rest: body}
	a := Codes{PacketID: c.packetID()}
	c.serverProperties(func(mqtt.Property, uint32, string) {})
	if c.err != nil {
		return Codes{}, c.err
	}
	for _, b := range c.rest {
		a.Codes = append(a.Codes, Code(b))
	}
	return a, nil
}

// serverProperties reads a block of properties of a server and yields those that are one number or one text.
func (c *cursor) serverProperties(yield func(id mqtt.Property, number uint32, text string)) {
	n := c.varint("Property Length")
	if n > len(c.rest) {
		c.fail(malformed("properties are cut short"))
	}
	if c.err != nil {
		return
	}
	rest := c.rest[n:]
	in := cursor{rest: c.rest[:n]}
	for len(in.rest) > 0 {
		id := mqtt.Property(in.rest[0])
		in.rest = in.rest[1:]
		var number uint32
		var text string
		switch id {
		case mqtt.MaximumQoS, mqtt.RetainAvailable, mqtt.WildcardAvailable, mqtt.SubIDAvailable, mqtt.SharedAvailable:
			number = uint32(in.uint8("property"))
		case mqtt.ServerKeepAlive, mqtt.ReceiveMaximum, mqtt.TopicAliasMaximum:
			number = uint32(in.uint16("property"))
		case mqtt.SessionExpiry, mqtt.MaximumPacketSize:
			number = in.uint32("property")
		case mqtt.AssignedClientID, mqtt.ResponseInfo, mqtt.ServerReference, mqtt.ReasonString, mqtt.AuthMethod:
			text = string(in.text("property"))
		case mqtt.AuthData:
			in.binary("property")
		case mqtt.User:
			in.text("User Property")
			in.text("User Property")
		default:
			in.fail(malformed("a property that no server sends here"))
		}
		if in.err == nil {
			yield(id, number, text)
		}
	}
	if in.err != nil {
		c.fail(in.err)
		return
	}
	c.rest = rest
}

// TakePublisher takes message.PublisherProperty off the properties of a message that came through a tunnel: it is the last
// user property. It returns "" when there is none. It changes p, and sets its User to nil when nothing is left.
func TakePublisher(p *message.Properties) (publisher string) {
	if p == nil || len(p.User) == 0 {
		return ""
	}
	last := p.User[len(p.User)-1]
	if last.Name != message.PublisherProperty {
		return ""
	}
	p.User = p.User[:len(p.User)-1]
	if len(p.User) == 0 {
		p.User = nil
	}
	return last.Value
}
