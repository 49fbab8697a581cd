package packet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
)

// wire builds bytes: an int or a character is one byte, uint16 and uint32 are big-endian, a string has its length before it, and
// []byte goes in as it is.
func wire(parts ...any) []byte {
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

// props builds a block of properties with its length.
func props(parts ...any) []byte {
	b := wire(parts...)
	return append(naiveVarint(len(b)), b...)
}

// frame puts a fixed header before a body.
func frame(first byte, body []byte) []byte {
	b := append([]byte{first}, naiveVarint(len(body))...)
	return append(b, body...)
}

// naiveVarint follows the pseudocode of 1.5.5.
func naiveVarint(x int) []byte {
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

// decode sends a packet to the function for its type.
func decode(v Version, first byte, body []byte) error {
	var err error
	switch Type(first >> 4) {
	case CONNECT:
		if bad := checkFirst(first); bad != nil {
			return bad // what the Reader does
		}
		_, err = DecodeConnect(body)
	case PUBLISH:
		_, err = DecodePublish(v, first, body, false)
	case PUBACK, PUBREC, PUBREL, PUBCOMP:
		_, err = DecodeAck(v, first, body)
	case SUBSCRIBE:
		_, err = DecodeSubscribe(v, first, body)
	case UNSUBSCRIBE:
		_, err = DecodeUnsubscribe(v, first, body)
	case PINGREQ:
		err = DecodeEmpty(first, body)
	case DISCONNECT:
		_, err = DecodeDisconnect(v, first, body)
	case AUTH:
		_, err = DecodeAuth(v, first, body)
	default:
		panic("no decoder for " + Type(first>>4).String())
	}
	return err
}

// wantCode fails the test unless err is an *Error with the code.
func wantCode(t *testing.T, err error, want Code) {
	t.Helper()
	var refused *Error
	if !errors.As(err, &refused) {
		t.Fatalf("error is %v, want an *Error: %v", err, want)
	}
	if refused.Code != want {
		t.Fatalf("refused with %q, want %v", refused, want)
	}
	if refused.Detail == "" {
		t.Error("the error has no detail")
	}
}

func must[T any](t *testing.T) func(T, error) T {
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func ptr[T any](v T) *T { return &v }
