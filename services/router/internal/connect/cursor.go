package connect

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"unicode/utf8"
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

// property is a Property identifier (2.2.2.2). They are Variable Byte Integers, but none needs a second byte.
type property byte

// none is no property.
const none property = 0

// The properties of CONNECT, of its Will, and of CONNACK.
const (
	propPayloadFormat       property = 1
	propMessageExpiry       property = 2
	propContentType         property = 3
	propResponseTopic       property = 8
	propCorrelationData     property = 9
	propSessionExpiry       property = 17
	propAssignedClientID    property = 18
	propServerKeepAlive     property = 19
	propAuthMethod          property = 21
	propAuthData            property = 22
	propRequestProblemInfo  property = 23
	propWillDelay           property = 24
	propRequestResponseInfo property = 25
	propResponseInfo        property = 26
	propServerReference     property = 28
	propReasonString        property = 31
	propReceiveMaximum      property = 33
	propTopicAliasMaximum   property = 34
	propMaximumQoS          property = 36
	propRetainAvailable     property = 37
	propUser                property = 38
	propMaximumPacketSize   property = 39
	propWildcardAvailable   property = 40
	propSubIDAvailable      property = 41
	propSharedAvailable     property = 42
)

// propertySet has one bit for each identifier; those of 64 and more are in none.
type propertySet uint64

func (s propertySet) has(p property) bool { return s&(1<<p) != 0 }

// Which properties may be where.
const (
	connectProperties propertySet = 1<<propSessionExpiry | 1<<propReceiveMaximum | 1<<propMaximumPacketSize |
		1<<propTopicAliasMaximum | 1<<propRequestResponseInfo | 1<<propRequestProblemInfo | 1<<propUser |
		1<<propAuthMethod | 1<<propAuthData
	willProperties propertySet = 1<<propWillDelay | 1<<propPayloadFormat | 1<<propMessageExpiry |
		1<<propContentType | 1<<propResponseTopic | 1<<propCorrelationData | 1<<propUser
	connackProperties propertySet = 1<<propSessionExpiry | 1<<propReceiveMaximum | 1<<propMaximumQoS |
		1<<propRetainAvailable | 1<<propMaximumPacketSize | 1<<propAssignedClientID | 1<<propTopicAliasMaximum |
		1<<propReasonString | 1<<propUser | 1<<propWildcardAvailable | 1<<propSubIDAvailable |
		1<<propSharedAvailable | 1<<propServerKeepAlive | 1<<propResponseInfo | 1<<propServerReference |
		1<<propAuthMethod | 1<<propAuthData
)

// properties walks over a block of properties and returns the value of the wanted one, nil when it is not there.
func (c *cursor) properties(allowed propertySet, wanted property) (found []byte) {
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
		id := property(in.uint8(""))
		if !allowed.has(id) {
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
func (c *cursor) value(id property) []byte {
	const what = "value of a property"
	switch id {
	case propPayloadFormat, propRequestProblemInfo, propRequestResponseInfo, propMaximumQoS, propRetainAvailable,
		propWildcardAvailable, propSubIDAvailable, propSharedAvailable:
		return c.bytes(1, what)
	case propServerKeepAlive, propReceiveMaximum, propTopicAliasMaximum:
		return c.bytes(2, what)
	case propMessageExpiry, propSessionExpiry, propWillDelay, propMaximumPacketSize:
		return c.bytes(4, what)
	case propCorrelationData, propAuthData:
		return c.binary(what)
	case propUser:
		c.text("name of a User Property")
		return c.text(what)
	default: // what else is allowed anywhere
		return c.text(what)
	}
}
