package mesh

import (
	"fmt"
	"time"
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/beeline-mqtt/beeline/internal/message"
)

// Field numbers of beeline.message.v1.Message.
const (
	msgID             = 1
	msgPublisher      = 2
	msgTopic          = 3
	msgPayload        = 4
	msgQoS            = 5
	msgRetain         = 6
	msgExpiresInMs    = 7
	msgPayloadFormat  = 8
	msgContentType    = 9
	msgResponseTopic  = 10
	msgCorrelation    = 11
	msgUserProperties = 12
	msgOrder          = 13
)

// clock looks at the time once for a whole batch, and only when a message in it has an expiry.
type clock struct{ at time.Time }

func (c *clock) now() time.Time {
	if c.at.IsZero() {
		c.at = time.Now()
	}
	return c.at
}

// messageForm is what encoding a message needs beside the message: its origin as it goes on the wire, its time
// left, and the sizes of the parts.
type messageForm struct {
	origin    string
	expiresMs uint64
	idSize    int
	size      int
}

// measure sizes m for a stream of the process self.
func measure(m *message.Message, self string, c *clock) messageForm {
	var f messageForm
	if m.Origin != self {
		f.origin = m.Origin
	}
	f.idSize = sizeText(len(f.origin)) + sizeUint(m.Seq)
	f.size = sizeField(f.idSize) + sizeText(len(m.Publisher)) + sizeText(len(m.Topic)) + sizeText(len(m.Payload)) + 2
	if m.Retain {
		f.size += 2
	}
	if !m.Expires.IsZero() {
		f.expiresMs = message.LeftMs(m.Expires.Sub(c.now()))
		f.size += 1 + protowire.SizeVarint(f.expiresMs)
	}
	if p := m.Props; p != nil {
		f.size += sizeProperties(p)
	}
	if m.Order != nil {
		f.size += 1 + protowire.SizeVarint(m.Order.Seq)
	}
	return f
}

func sizeProperties(p *message.Properties) int {
	n := sizeText(len(p.ContentType)) + sizeText(len(p.ResponseTopic))
	if p.HasPayloadFormat {
		n += 2
	}
	if p.CorrelationData != nil {
		n += sizeField(len(p.CorrelationData))
	}
	for i := range p.User {
		n += sizeField(sizeUser(&p.User[i]))
	}
	return n
}

func sizeUser(u *message.UserProperty) int { return sizeText(len(u.Name)) + sizeText(len(u.Value)) }

// appendMessage appends the fields of m, in the order of their numbers.
func appendMessage(dst []byte, m *message.Message, f messageForm) []byte {
	dst = append(dst, tag(msgID, protowire.BytesType))
	dst = protowire.AppendVarint(dst, uint64(f.idSize))
	dst = appendText(dst, 1, f.origin)
	dst = appendUint(dst, 2, m.Seq)
	dst = appendText(dst, msgPublisher, m.Publisher)
	dst = appendText(dst, msgTopic, m.Topic)
	if len(m.Payload) > 0 {
		dst = append(dst, tag(msgPayload, protowire.BytesType))
		dst = protowire.AppendBytes(dst, m.Payload)
	}
	dst = append(dst, tag(msgQoS, protowire.VarintType), m.QoS+1)
	if m.Retain {
		dst = append(dst, tag(msgRetain, protowire.VarintType), 1)
	}
	if !m.Expires.IsZero() {
		dst = append(dst, tag(msgExpiresInMs, protowire.VarintType))
		dst = protowire.AppendVarint(dst, f.expiresMs)
	}
	if p := m.Props; p != nil {
		dst = appendProperties(dst, p)
	}
	if m.Order != nil {
		dst = append(dst, tag(msgOrder, protowire.VarintType))
		dst = protowire.AppendVarint(dst, m.Order.Seq)
	}
	return dst
}

func appendProperties(dst []byte, p *message.Properties) []byte {
	if p.HasPayloadFormat {
		dst = append(dst, tag(msgPayloadFormat, protowire.VarintType), p.PayloadFormat+1)
	}
	dst = appendText(dst, msgContentType, p.ContentType)
	dst = appendText(dst, msgResponseTopic, p.ResponseTopic)
	if p.CorrelationData != nil {
		dst = append(dst, tag(msgCorrelation, protowire.BytesType))
		dst = protowire.AppendBytes(dst, p.CorrelationData)
	}
	for i := range p.User {
		u := &p.User[i]
		dst = append(dst, tag(msgUserProperties, protowire.BytesType))
		dst = protowire.AppendVarint(dst, uint64(sizeUser(u)))
		dst = appendText(dst, 1, u.Name)
		dst = appendText(dst, 2, u.Value)
	}
	return dst
}

// decodeMessage reads a message whose strings and payload alias b, which must never change again. origin is
// the process at the other end of the stream.
func decodeMessage(b []byte, origin string, clk *clock) (*message.Message, error) {
	m := &message.Message{}
	qos, seenID := uint64(0), false
	c := cursor{b: b}
	for {
		num, typ, ok := c.more()
		if !ok {
			break
		}
		switch num {
		case msgID:
			if seenID {
				c.fail() // would have to be merged; no encoder writes it
				break
			}
			seenID = true
			decodeID(&c, typ, &m.ID)
		case msgPublisher:
			m.Publisher = text(c.text(typ))
		case msgTopic:
			m.Topic = text(c.text(typ))
		case msgPayload:
			m.Payload = c.bytes(typ)
		case msgQoS:
			qos = c.varint(typ)
		case msgRetain:
			m.Retain = c.varint(typ) != 0
		case msgExpiresInMs:
			ms := min(c.varint(typ), message.MaxExpiryMs)
			m.Expires = clk.now().Add(time.Duration(ms) * time.Millisecond)
		case msgOrder:
			m.Order = &message.ID{Origin: origin, Seq: c.varint(typ)}
		default:
			decodeProperty(&c, num, typ, m)
		}
	}
	if c.bad || qos < 1 || qos > 3 {
		return nil, fmt.Errorf("%w: message", errMalformed)
	}
	m.QoS = byte(qos - 1)
	if m.Origin == "" {
		m.Origin = origin
	}
	return m, nil
}

func decodeID(c *cursor, typ protowire.Type, id *message.ID) {
	in := cursor{b: c.bytes(typ)}
	for {
		num, typ, ok := in.more()
		if !ok {
			break
		}
		switch num {
		case 1:
			id.Origin = text(in.text(typ))
		case 2:
			id.Seq = in.varint(typ)
		default:
			in.skip(num, typ)
		}
	}
	if in.bad {
		c.fail()
	}
}

// decodeProperty reads one of the fields that few messages have.
func decodeProperty(c *cursor, num protowire.Number, typ protowire.Type, m *message.Message) {
	if num < msgPayloadFormat || num > msgUserProperties {
		c.skip(num, typ)
		return
	}
	if m.Props == nil {
		m.Props = &message.Properties{}
	}
	p := m.Props
	switch num {
	case msgPayloadFormat:
		v := c.varint(typ)
		if v > 2 {
			c.fail()
		}
		p.HasPayloadFormat = v > 0
		p.PayloadFormat = byte(max(v, 1) - 1)
	case msgContentType:
		p.ContentType = text(c.text(typ))
	case msgResponseTopic:
		p.ResponseTopic = text(c.text(typ))
	case msgCorrelation:
		p.CorrelationData = c.bytes(typ)
	case msgUserProperties:
		in := cursor{b: c.bytes(typ)}
		p.User = append(p.User, decodeUser(&in))
		if in.bad {
			c.fail()
		}
	}
}

func decodeUser(in *cursor) (u message.UserProperty) {
	for {
		num, typ, ok := in.more()
		if !ok {
			return u
		}
		switch num {
		case 1:
			u.Name = text(in.text(typ))
		case 2:
			u.Value = text(in.text(typ))
		default:
			in.skip(num, typ)
		}
	}
}

// text makes a string of bytes that never change again, without a copy.
func text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
