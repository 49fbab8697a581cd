package connect

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/beeline-mqtt/beeline/internal/mqtt"
)

// Code is a Connect Reason Code (3.2.2.2), or in a CONNACK that was read the Return Code of 3.1 and 3.1.1.
type Code byte

// The Connect Reason Codes that a router has a use for.
const (
	MalformedPacket            Code = 0x81
	UnsupportedProtocolVersion Code = 0x84
	ServerUnavailable          Code = 0x88
	PacketTooLarge             Code = 0x95
	UseAnotherServer           Code = 0x9c
	ServerMoved                Code = 0x9d
)

// Return Codes of 3.1 and 3.1.1 (3.2.2.3 there).
const (
	returnUnacceptableLevel = 1
	returnUnavailable       = 3
)

// ErrNotConnack means that the node answers with something else. An AUTH is no fault of anybody: the client has asked for an
// enhanced authentication (4.12), and the CONNACK comes after it.
var ErrNotConnack = errors.New("not a CONNACK")

// CodeOf returns with which code to refuse a client that Read has returned err for, 0: with none.
func CodeOf(err error) Code {
	switch {
	case errors.Is(err, ErrVersion):
		return UnsupportedProtocolVersion
	case errors.Is(err, ErrTooLarge):
		return PacketTooLarge
	case errors.Is(err, ErrMalformed):
		return MalformedPacket
	default:
		return 0
	}
}

// Refusal returns the CONNACK that refuses a client of level for the reason code. It is nil when there is nothing to be
// said: level is none of Read's, or it has no code for this (3.1 and 3.1.1 close without a word for what is malformed
// or too large), or code is not a failure.
func Refusal(level byte, code Code) []byte {
	if level == Level5 && code >= 0x80 {
		return []byte{firstOfConnack, 3, 0, byte(code), 0}
	}
	if level != Level31 && level != Level311 {
		return nil
	}
	switch code {
	case UnsupportedProtocolVersion:
		return []byte{firstOfConnack, 2, 0, returnUnacceptableLevel}
	case ServerUnavailable, UseAnotherServer, ServerMoved:
		return []byte{firstOfConnack, 2, 0, returnUnavailable}
	default:
		return nil
	}
}

// Redirect returns the CONNACK that sends a client to another server: UseAnotherServer with the Server Reference
// (3.2.2.3.16), where a reference is one or more of host or host:port with spaces between them. It goes without a
// reference that MQTT cannot carry. A client of 3.1 or 3.1.1 is told that the server is unavailable.
func Redirect(level byte, reference string) []byte {
	n := len(reference)
	if level != Level5 || n == 0 || n >= 1<<16 || !utf8.ValidString(reference) || strings.IndexByte(reference, 0) >= 0 {
		return Refusal(level, UseAnotherServer)
	}
	properties := append([]byte{byte(mqtt.ServerReference), byte(n >> 8), byte(n)}, reference...)
	body := append(appendVarint([]byte{0, byte(UseAnotherServer)}, len(properties)), properties...)
	return append(appendVarint([]byte{firstOfConnack}, len(body)), body...)
}

// Connack is a CONNACK (3.2). Beside an error only Raw is set.
type Connack struct {
	// Code may be below 0x80 and not 0 in MQTT 5 too: a Return Code, from a node that does not speak MQTT 5.
	Code Code
	// ServerReference is that of UseAnotherServer and ServerMoved, as it came; empty when there is none.
	ServerReference string
	// Raw is all that has been read: the CONNACK, and whatever came in the same read behind it. It is the caller's.
	Raw []byte
}

// ReadConnack reads from r the CONNACK for a client of level, and in all no more than maxBytes. It judges no more of it
// than it has to return.
//
// Errors are ErrNotConnack, ErrTooLarge, ErrMalformed, or those of r; the end of r is io.EOF before the first byte and
// io.ErrUnexpectedEOF after it. Raw is what has been read beside an error as well: the answer may still be passed on.
func ReadConnack(r io.Reader, level byte, maxBytes int) (Connack, error) {
	var buf []byte
	for {
		c, need, err := ParseConnack(buf, level)
		if err == nil && need > maxBytes {
			err = ErrTooLarge
		}
		if err == nil && need == 0 {
			return c, nil
		}
		if err == nil {
			buf, err = more(r, buf, maxBytes)
		}
		if err != nil {
			return Connack{Raw: buf}, fmt.Errorf("read CONNACK: %w", err)
		}
	}
}

// ParseConnack looks for a CONNACK for a client of level at the start of b, as Parse does for a CONNECT. Errors are
// ErrNotConnack, as soon as the first byte is there, and ErrMalformed. Raw is b.
func ParseConnack(b []byte, level byte) (c Connack, need int, err error) {
	c.Raw = b
	if len(b) > 0 && b[0] != firstOfConnack {
		return c, 0, ErrNotConnack
	}
	head, remaining, err := fixedHeader(b)
	switch {
	case err != nil:
		return c, 0, err
	case head == 0:
		return c, len(b) + 1, nil
	case remaining < 2 || level != Level5 && remaining > 2:
		return c, 0, fmt.Errorf("%w: CONNACK of a wrong length", ErrMalformed)
	case len(b) < head+remaining:
		return c, head + remaining, nil
	}
	code := Code(b[head+1])
	body := cursor{rest: b[head+2 : head+remaining]}
	// A node that does not speak MQTT 5 answers without properties.
	if remaining > 2 && (code == UseAnotherServer || code == ServerMoved) {
		c.ServerReference = string(body.properties(mqtt.ConnackProperties, mqtt.ServerReference))
		body.end()
	}
	if body.err != nil {
		return Connack{Raw: b}, 0, body.err
	}
	c.Code = code
	return c, 0, nil
}
