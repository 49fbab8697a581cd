package mesh

import (
	"errors"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// errMalformed is wrapped by every error about bytes that are not a frame of this protocol.
var errMalformed = errors.New("malformed frame")

// cursor reads protobuf wire format. The first thing that is wrong empties it and sets bad, so that loops over
// it end and the error is looked at once.
type cursor struct {
	b   []byte
	bad bool
}

// more reports whether there is another field, and reads its tag.
func (c *cursor) more() (num protowire.Number, typ protowire.Type, ok bool) {
	if len(c.b) == 0 {
		return 0, 0, false
	}
	if t := c.b[0]; t < 0x80 && t >= 8 {
		c.b = c.b[1:]
		return protowire.Number(t >> 3), protowire.Type(t & 7), true
	}
	num, typ, n := protowire.ConsumeTag(c.b)
	if n < 0 || num > protowire.MaxValidNumber {
		c.fail()
		return 0, 0, false
	}
	c.b = c.b[n:]
	return num, typ, true
}

func (c *cursor) varint(typ protowire.Type) uint64 {
	if typ != protowire.VarintType {
		c.fail()
		return 0
	}
	if len(c.b) > 0 && c.b[0] < 0x80 {
		v := c.b[0]
		c.b = c.b[1:]
		return uint64(v)
	}
	v, n := protowire.ConsumeVarint(c.b)
	if n < 0 {
		c.fail()
		return 0
	}
	c.b = c.b[n:]
	return v
}

// bytes returns a part of the cursor's own bytes, never nil when all is well.
func (c *cursor) bytes(typ protowire.Type) []byte {
	if typ != protowire.BytesType {
		c.fail()
		return nil
	}
	n := c.varint(protowire.VarintType)
	if c.bad || n > uint64(len(c.b)) {
		c.fail()
		return nil
	}
	v := c.b[:n:n]
	c.b = c.b[n:]
	return v
}

// text is bytes for a string field, whose UTF-8 is checked as the generated code does.
func (c *cursor) text(typ protowire.Type) []byte {
	v := c.bytes(typ)
	if !utf8.Valid(v) {
		c.fail()
		return nil
	}
	return v
}

// skip passes over a field that this version does not know.
func (c *cursor) skip(num protowire.Number, typ protowire.Type) {
	n := protowire.ConsumeFieldValue(num, typ, c.b)
	if n < 0 {
		c.fail()
		return
	}
	c.b = c.b[n:]
}

func (c *cursor) fail() {
	c.b, c.bad = nil, true
}

// tag is the first byte of a field whose number is below 16.
func tag(num protowire.Number, typ protowire.Type) byte {
	return byte(num)<<3 | byte(typ)
}

// sizeField is the size of a length-delimited field of n bytes with a one-byte tag.
func sizeField(n int) int { return 1 + protowire.SizeBytes(n) }

// sizeText is the size of a string or bytes field that is left out when it is empty.
func sizeText(n int) int {
	if n == 0 {
		return 0
	}
	return sizeField(n)
}

// sizeUint is the size of a number that is left out when it is 0.
func sizeUint(v uint64) int {
	if v == 0 {
		return 0
	}
	return 1 + protowire.SizeVarint(v)
}

func appendText(dst []byte, num protowire.Number, s string) []byte {
	if s == "" {
		return dst
	}
	dst = append(dst, tag(num, protowire.BytesType))
	return protowire.AppendString(dst, s)
}

func appendUint(dst []byte, num protowire.Number, v uint64) []byte {
	if v == 0 {
		return dst
	}
	dst = append(dst, tag(num, protowire.VarintType))
	return protowire.AppendVarint(dst, v)
}
