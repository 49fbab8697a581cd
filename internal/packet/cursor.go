package packet

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"
)

// cursor reads a packet from front to back. After the first thing that is wrong it reads zero values and keeps
// the error, so that a decoder checks err once, at the end.
type cursor struct {
	rest []byte
	err  *Error
}

func (c *cursor) fail(err *Error) {
	if c.err == nil {
		c.err = err
	}
	c.rest = nil
}

func (c *cursor) uint8(what string) byte {
	if len(c.rest) < 1 {
		c.fail(malformed(what + " is cut short"))
		return 0
	}
	b := c.rest[0]
	c.rest = c.rest[1:]
	return b
}

func (c *cursor) uint16(what string) uint16 {
	if len(c.rest) < 2 {
		c.fail(malformed(what + " is cut short"))
		return 0
	}
	n := binary.BigEndian.Uint16(c.rest)
	c.rest = c.rest[2:]
	return n
}

func (c *cursor) uint32(what string) uint32 {
	if len(c.rest) < 4 {
		c.fail(malformed(what + " is cut short"))
		return 0
	}
	n := binary.BigEndian.Uint32(c.rest)
	c.rest = c.rest[4:]
	return n
}

// varint reads a Variable Byte Integer of one to four bytes, no longer than it has to be (MQTT-1.5.5-1).
func (c *cursor) varint(what string) int {
	n := 0
	for i := range 4 {
		b := c.uint8(what)
		if c.err != nil {
			return 0
		}
		n |= int(b&0x7f) << (7 * i)
		if b < 0x80 {
			if b == 0 && i > 0 {
				c.fail(malformed(what + " is longer than it has to be (MQTT-1.5.5-1)"))
				return 0
			}
			return n
		}
	}
	c.fail(malformed(what + " is longer than four bytes"))
	return 0
}

// binary reads Binary Data (1.5.6). The result aliases the packet and is not nil unless c has failed.
func (c *cursor) binary(what string) []byte {
	n := int(c.uint16(what))
	if c.err != nil {
		return nil
	}
	if len(c.rest) < n {
		c.fail(malformed(what + " is cut short"))
		return nil
	}
	b := c.rest[:n:n]
	c.rest = c.rest[n:]
	return b
}

// text reads a UTF-8 Encoded String (1.5.4). The result aliases the packet.
func (c *cursor) text(what string) []byte {
	b := c.binary(what)
	if !utf8.Valid(b) {
		c.fail(malformed(what + " is not UTF-8 (MQTT-1.5.4-1)"))
		return nil
	}
	if bytes.IndexByte(b, 0) >= 0 {
		c.fail(malformed(what + " contains U+0000 (MQTT-1.5.4-2)"))
		return nil
	}
	return b
}

// packetID reads a Packet Identifier, which is never 0 (MQTT-2.2.1-3, in 3.1.1 MQTT-2.3.1-1).
func (c *cursor) packetID() uint16 {
	id := c.uint16("Packet Identifier")
	if id == 0 && c.err == nil {
		c.fail(protocolError("Packet Identifier is 0 (MQTT-2.2.1-3)"))
	}
	return id
}

// end checks that nothing is left.
func (c *cursor) end(t Type) {
	if len(c.rest) > 0 {
		c.fail(malformed("bytes behind the end of " + t.String()))
	}
}

// appendVarint appends a Variable Byte Integer; n is at most 268,435,455.
func appendVarint(dst []byte, n int) []byte {
	for n >= 0x80 {
		dst = append(dst, byte(n)|0x80)
		n >>= 7
	}
	return append(dst, byte(n))
}

func varintSize(n int) int {
	switch {
	case n < 1<<7:
		return 1
	case n < 1<<14:
		return 2
	case n < 1<<21:
		return 3
	default:
		return 4
	}
}

// maxText is the longest string or binary that MQTT can carry. What is longer cannot come out of a packet, but
// it can come from another process: it is cut, because a wrong length would let its rest pose as packets.
const maxText = 1<<16 - 1

func clip[T string | []byte](s T) T {
	if len(s) <= maxText {
		return s
	}
	n := maxText
	for n > maxText-utf8.UTFMax && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// appendText appends a UTF-8 Encoded String or Binary Data.
func appendText[T string | []byte](dst []byte, s T) []byte {
	s = clip(s)
	dst = append(dst, byte(len(s)>>8), byte(len(s)))
	return append(dst, s...)
}

// textSize is what appendText appends.
func textSize[T string | []byte](s T) int {
	return 2 + len(clip(s))
}
