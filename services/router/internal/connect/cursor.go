package connect

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"unicode/utf8"

	"github.com/beeline-mqtt/beeline/internal/mqtt"
)

// cursor reads the body of a packet from front to back. After the first thing that is wrong it reads zero values and
// keeps the error, which is ErrMalformed, so that err is checked once, at the end. What it returns aliases the packet.
type cursor struct {
	rest []byte
	err  error
}

func (c *cursor) fail(detail string) {
	if c.err == nil {
		c.err = fmt.Errorf("%w: %s", ErrMalformed, detail)
	}
	c.rest = nil
}

// bytes reads n bytes; they are not nil unless c has failed.
func (c *cursor) bytes(n int, what string) []byte {
	if c.err != nil || len(c.rest) < n {
		c.fail(what + " is cut short")
		return nil
	}
	b := c.rest[:n:n]
	c.rest = c.rest[n:]
	return b
}

func (c *cursor) uint8(what string) byte {
	if b := c.bytes(1, what); b != nil {
		return b[0]
	}
	return 0
}

func (c *cursor) uint16(what string) uint16 {
	if b := c.bytes(2, what); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

// binary reads Binary Data (1.5.6).
func (c *cursor) binary(what string) []byte {
	return c.bytes(int(c.uint16(what)), what)
}

// text reads a UTF-8 Encoded String (1.5.4).
func (c *cursor) text(what string) []byte {
	b := c.binary(what)
	if !utf8.Valid(b) {
		c.fail(what + " is not UTF-8 (MQTT-1.5.4-1)")
		return nil
	}
	if bytes.IndexByte(b, 0) >= 0 {
		c.fail(what + " contains U+0000 (MQTT-1.5.4-2)")
		return nil
	}
	return b
}

// end checks that nothing is left.
func (c *cursor) end() {
	if len(c.rest) > 0 {
		c.fail("bytes behind the last field")
	}
}

// maxVarint is the length of the longest Variable Byte Integer (1.5.5).
const maxVarint = 4

// varint returns the Variable Byte Integer at the start of b and how many bytes it takes: 0 when b ends within it, more
// than maxVarint when it is none.
func varint(b []byte) (n, size int) {
	for i, v := range b {
		n |= int(v&0x7f) << (7 * i)
		switch {
		case v < 0x80:
			return n, i + 1
		case i == maxVarint-1:
			return 0, maxVarint + 1
		}
	}
	return 0, 0
}

func appendVarint(dst []byte, n int) []byte {
	for n >= 0x80 {
		dst = append(dst, byte(n)|0x80)
		n >>= 7
	}
	return append(dst, byte(n))
}

// none is no property.
const none mqtt.Property = 0

// properties walks over a block of properties and returns the value of the wanted one, nil when it is not there.
func (c *cursor) properties(allowed mqtt.PropertySet, wanted mqtt.Property) (found []byte) {
	n, size := varint(c.rest)
	switch {
	case c.err != nil:
		return nil
	case size == 0 || size > maxVarint:
		c.fail("Property Length is cut short, or longer than four bytes")
		return nil
	case size > 1 && c.rest[size-1] == 0:
		c.fail("Property Length is longer than it has to be (MQTT-1.5.5-1)")
		return nil
	}
	c.rest = c.rest[size:]
	in := cursor{rest: c.bytes(n, "properties")}
	for len(in.rest) > 0 {
		id := mqtt.Property(in.uint8(""))
		if !allowed.Has(id) {
			in.fail(fmt.Sprintf("property 0x%02X is not for this packet (2.2.2.2)", byte(id)))
			break
		}
		value := in.value(id)
		switch {
		case id != wanted:
		case found != nil:
			in.fail(fmt.Sprintf("property 0x%02X more than once", byte(id)))
		default:
			found = value
		}
	}
	if c.err == nil {
		c.err = in.err
	}
	return found
}

// value reads the value of one property, of User Property the second half.
func (c *cursor) value(id mqtt.Property) []byte {
	const what = "value of a property"
	switch id {
	case mqtt.PayloadFormat, mqtt.RequestProblemInfo, mqtt.RequestResponseInfo, mqtt.MaximumQoS, mqtt.RetainAvailable,
		mqtt.WildcardAvailable, mqtt.SubIDAvailable, mqtt.SharedAvailable:
		return c.bytes(1, what)
	case mqtt.ServerKeepAlive, mqtt.ReceiveMaximum, mqtt.TopicAliasMaximum:
		return c.bytes(2, what)
	case mqtt.MessageExpiry, mqtt.SessionExpiry, mqtt.WillDelay, mqtt.MaximumPacketSize:
		return c.bytes(4, what)
	case mqtt.CorrelationData, mqtt.AuthData:
		return c.binary(what)
	case mqtt.User:
		c.text("name of a User Property")
		return c.text(what)
	default: // what else is allowed anywhere
		return c.text(what)
	}
}
