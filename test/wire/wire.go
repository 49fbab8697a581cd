// Package wire writes MQTT byte by byte, for tests: what a packet is made of, in the words of the standard, right or wrong.
// It shares nothing with what it tests.
package wire

import (
	"encoding/binary"
	"fmt"
)

// Bytes builds bytes: an int or a character is one byte, uint16 and uint32 are big-endian, a string has its length before
// it, and []byte goes in as it is.
func Bytes(parts ...any) []byte {
	b := []byte{}
	for _, part := range parts {
		switch p := part.(type) {
		case int:
			b = append(b, byte(p))
		case rune:
			b = append(b, byte(p))
		case uint16:
			b = binary.BigEndian.AppendUint16(b, p)
		case uint32:
			b = binary.BigEndian.AppendUint32(b, p)
		case string:
			b = binary.BigEndian.AppendUint16(b, uint16(len(p)))
			b = append(b, p...)
		case []byte:
			b = append(b, p...)
		default:
			panic(fmt.Sprintf("wire: %T", part))
		}
	}
	return b
}

// Varint is a Variable Byte Integer, by the pseudocode of 1.5.5.
func Varint(x int) []byte {
	var b []byte
	for {
		encoded := x % 128
		x /= 128
		if x > 0 {
			encoded |= 128
		}
		b = append(b, byte(encoded))
		if x == 0 {
			return b
		}
	}
}

// Props builds a block of properties with its length.
func Props(parts ...any) []byte {
	b := Bytes(parts...)
	return append(Varint(len(b)), b...)
}

// Frame puts a fixed header before a body.
func Frame(first byte, parts ...any) []byte {
	body := Bytes(parts...)
	return append(append([]byte{first}, Varint(len(body))...), body...)
}
