// Package packet turns the bytes of MQTT 3.1.1 and MQTT 5 connections into packets and back. It decodes what
// clients send and encodes what a server sends; nothing outside it knows what a packet looks like on the wire.
//
// It owns framing (Reader), the checks of everything that is malformed by itself, and the reason codes. It does
// not own what needs to know more than one packet: the syntax of topics and filters (internal/topic), limits,
// topic aliases, packet identifiers in use, sessions (internal/engine).
//
// Every byte of a packet is checked for bounds, types, values, duplicates, reserved bits and trailing bytes
// before anything is made of it. CONNECT, DISCONNECT and AUTH are then taken apart by the codec of
// mochi-mqtt, which also encodes CONNACK, DISCONNECT and AUTH: the packets with many properties, once per
// connection. PUBLISH, the acknowledgements, SUBSCRIBE and UNSUBSCRIBE are decoded by the code that has just
// checked them: that is shorter, allocates what the packet needs and no more, and the other codec panics on a
// truncated SUBSCRIBE, takes 100 bytes for each filter and does not tell an interval of 0 from none.
// They are encoded here too, without allocation.
//
// All of it is pure: no goroutines, no clock, no logging. Functions are safe for concurrent use; a Reader
// belongs to one goroutine.
package packet

import "strconv"

// Version is the protocol level of CONNECT (3.1.2.2).
type Version byte

// The versions that are spoken.
const (
	V311 Version = 4
	V5   Version = 5
)

// Type is an MQTT Control Packet type (2.1.2).
type Type byte

// The MQTT Control Packet types.
const (
	CONNECT Type = iota + 1
	CONNACK
	PUBLISH
	PUBACK
	PUBREC
	PUBREL
	PUBCOMP
	SUBSCRIBE
	SUBACK
	UNSUBSCRIBE
	UNSUBACK
	PINGREQ
	PINGRESP
	DISCONNECT
	AUTH
)

var typeNames = [...]string{ //nolint:gochecknoglobals // a table that nobody changes
	CONNECT: "CONNECT", CONNACK: "CONNACK", PUBLISH: "PUBLISH", PUBACK: "PUBACK", PUBREC: "PUBREC",
	PUBREL: "PUBREL", PUBCOMP: "PUBCOMP", SUBSCRIBE: "SUBSCRIBE", SUBACK: "SUBACK", UNSUBSCRIBE: "UNSUBSCRIBE",
	UNSUBACK: "UNSUBACK", PINGREQ: "PINGREQ", PINGRESP: "PINGRESP", DISCONNECT: "DISCONNECT", AUTH: "AUTH",
}

// String returns the name that the standard uses.
func (t Type) String() string {
	if t == 0 || int(t) >= len(typeNames) {
		return "packet type " + strconv.Itoa(int(t))
	}
	return typeNames[t]
}

// flags returns the lower four bits that the first byte of a packet of type t must have (2.1.3). PUBLISH is the
// only type that may choose.
func (t Type) flags() byte {
	switch t {
	case PUBREL, SUBSCRIBE, UNSUBSCRIBE:
		return 2
	default:
		return 0
	}
}

// Error says why a packet is refused. Detail never quotes what the client sent.
type Error struct {
	Code   Code
	Detail string
}

// Error returns the reason and the detail.
func (e *Error) Error() string {
	return e.Code.String() + ": " + e.Detail
}

func malformed(detail string) *Error { return &Error{Code: MalformedPacket, Detail: detail} }

func protocolError(detail string) *Error { return &Error{Code: ProtocolError, Detail: detail} }

// checkFirst checks the first byte of a packet as far as it can be wrong by itself (MQTT-2.1.3-1).
func checkFirst(first byte) *Error {
	t := Type(first >> 4)
	switch {
	case t == 0:
		return malformed("packet type 0 is reserved")
	case t != PUBLISH:
		if first&0xf != t.flags() {
			return malformed("reserved flags of " + t.String())
		}
	case first&0x6 == 0x6:
		return malformed("PUBLISH with QoS 3 (MQTT-3.3.1-4)")
	case first&0xe == 0x8:
		return malformed("PUBLISH with DUP and QoS 0 (MQTT-3.3.1-2)")
	}
	return nil
}

// expect checks that first begins a packet of type t.
func expect(first byte, t Type) *Error {
	if got := Type(first >> 4); got != t {
		return protocolError(got.String() + " in place of " + t.String())
	}
	return checkFirst(first)
}

// DecodeEmpty checks a PINGREQ, which has nothing to decode (3.12).
func DecodeEmpty(first byte, body []byte) error {
	if err := expect(first, PINGREQ); err != nil {
		return err
	}
	if len(body) > 0 {
		return malformed("PINGREQ with a body")
	}
	return nil
}

// AppendPingresp appends a PINGRESP.
func AppendPingresp(dst []byte) []byte {
	return append(dst, byte(PINGRESP)<<4, 0)
}
