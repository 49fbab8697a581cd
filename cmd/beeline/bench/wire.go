package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// level is the protocol level of a CONNECT.
type level byte

const (
	v311 level = 4
	v5   level = 5
)

// The first bytes of the packets that are used here, flags included where they are fixed.
const (
	connect    byte = 0x10
	connack    byte = 0x20
	publish    byte = 0x30
	puback     byte = 0x40
	pubrec     byte = 0x50
	pubrel     byte = 0x62
	pubcomp    byte = 0x70
	subscribe  byte = 0x82
	suback     byte = 0x90
	pingreq    byte = 0xC0
	pingresp   byte = 0xD0
	disconnect byte = 0xE0
)

// kind is the first byte without the flags of a PUBLISH, which are the only ones that vary.
func kind(first byte) byte {
	if first&0xF0 == publish {
		return publish
	}
	return first
}

// received is a control packet that was received. body is what follows the fixed header; it is part of the buffer
// that it was cut from.
type received struct {
	first byte
	body  []byte
}

var errMalformed = errors.New("malformed packet")

// cut takes the first packet off b and says how many bytes it has. 0: it is not all there yet.
func cut(b []byte) (received, int, error) {
	if len(b) < 2 {
		return received{}, 0, nil
	}
	n, size, err := varint(b[1:])
	if err != nil || size == 0 || len(b) < 1+size+n {
		return received{}, 0, err
	}
	return received{first: b[0], body: b[1+size : 1+size+n]}, 1 + size + n, nil
}

// varint reads a variable byte integer and says how long it is. 0: it is not all there.
func varint(b []byte) (n, size int, err error) {
	for i := 0; i < len(b); i++ {
		if i == 4 {
			return 0, 0, fmt.Errorf("length of more than 4 bytes: %w", errMalformed)
		}
		n |= int(b[i]&0x7F) << (7 * i)
		if b[i] < 0x80 {
			return n, i + 1, nil
		}
	}
	if len(b) >= 4 {
		return 0, 0, fmt.Errorf("length of more than 4 bytes: %w", errMalformed)
	}
	return 0, 0, nil
}

func appendHeader(dst []byte, first byte, n int) []byte {
	dst = append(dst, first)
	for n >= 0x80 {
		dst = append(dst, byte(n)|0x80)
		n >>= 7
	}
	return append(dst, byte(n))
}

func appendString[T string | []byte](dst []byte, s T) []byte {
	dst = append(dst, byte(len(s)>>8), byte(len(s)))
	return append(dst, s...)
}

// sessionExpiry is how long a durable session is kept in MQTT 5, in seconds: a day. In 3.1.1 it is kept for ever.
const sessionExpiry = 86400

// appendConnect appends a CONNECT without a keep alive: nobody here sends pings. It has a clean start, unless the
// session is durable.
func appendConnect(dst []byte, v level, id string, l Login) []byte {
	n, flags := 10+2+len(id), byte(2)
	var properties []byte // behind their length
	if v == v5 {
		properties = []byte{0}
		if l.durable {
			properties = binary.BigEndian.AppendUint32([]byte{5, 0x11}, sessionExpiry)
		}
		n += len(properties)
	}
	if l.durable {
		flags = 0
	}
	if l.Username != "" {
		n, flags = n+2+len(l.Username), flags|0x80
	}
	if l.Password != nil {
		n, flags = n+2+len(l.Password), flags|0x40
	}
	dst = appendHeader(dst, connect, n)
	dst = append(appendString(dst, "MQTT"), byte(v), flags, 0, 0)
	dst = append(dst, properties...)
	dst = appendString(dst, id)
	if l.Username != "" {
		dst = appendString(dst, l.Username)
	}
	if l.Password != nil {
		dst = appendString(dst, l.Password)
	}
	return dst
}

// appendSubscribe appends a SUBSCRIBE for one filter.
func appendSubscribe(dst []byte, v level, id uint16, filter string, qos byte) []byte {
	n := 2 + 2 + len(filter) + 1
	if v == v5 {
		n++
	}
	dst = appendHeader(dst, subscribe, n)
	dst = binary.BigEndian.AppendUint16(dst, id)
	if v == v5 {
		dst = append(dst, 0)
	}
	return append(appendString(dst, filter), qos)
}

// appendPublish appends a PUBLISH. id is not used at QoS 0.
func appendPublish(dst []byte, v level, topic string, qos byte, id uint16, payload []byte) []byte {
	n := 2 + len(topic) + len(payload)
	if qos > 0 {
		n += 2
	}
	if v == v5 {
		n++
	}
	dst = appendString(appendHeader(dst, publish|qos<<1, n), topic)
	if qos > 0 {
		dst = binary.BigEndian.AppendUint16(dst, id)
	}
	if v == v5 {
		dst = append(dst, 0)
	}
	return append(dst, payload...)
}

// appendAck appends a PUBACK, PUBREC, PUBREL or PUBCOMP that says success.
func appendAck(dst []byte, first byte, id uint16) []byte {
	return append(dst, first, 2, byte(id>>8), byte(id))
}

// appendReceipt appends what is answered to a message: nothing at QoS 0.
func appendReceipt(dst []byte, m message) []byte {
	switch m.qos {
	case 1:
		return appendAck(dst, puback, m.id)
	case 2:
		return appendAck(dst, pubrec, m.id)
	}
	return dst
}

// message is a PUBLISH that was received; its slices are parts of the packet.
type message struct {
	topic   []byte
	payload []byte
	id      uint16
	qos     byte
}

func parsePublish(v level, p received) (message, error) {
	m := message{qos: p.first >> 1 & 3}
	b := p.body
	if m.qos > 2 || len(b) < 2 || len(b) < 2+int(binary.BigEndian.Uint16(b)) {
		return m, fmt.Errorf("PUBLISH: %w", errMalformed)
	}
	n := int(binary.BigEndian.Uint16(b))
	m.topic, b = b[2:2+n], b[2+n:]
	if m.qos > 0 {
		if len(b) < 2 {
			return m, fmt.Errorf("PUBLISH: %w", errMalformed)
		}
		m.id, b = binary.BigEndian.Uint16(b), b[2:]
	}
	if v == v5 {
		_, rest, err := properties(b)
		if err != nil {
			return m, fmt.Errorf("PUBLISH: %w", err)
		}
		b = rest
	}
	m.payload = b
	return m, nil
}

// properties splits what b begins with, properties behind their length, from what follows them.
func properties(b []byte) (props, rest []byte, err error) {
	n, size, err := varint(b)
	if err != nil {
		return nil, nil, err
	}
	if size == 0 || len(b) < size+n {
		return nil, nil, fmt.Errorf("properties: %w", errMalformed)
	}
	return b[size : size+n], b[size+n:], nil
}

// parseAck reads a PUBACK, PUBREC, PUBREL or PUBCOMP.
func parseAck(v level, p received) (id uint16, code byte, err error) {
	if len(p.body) < 2 || v == v311 && len(p.body) > 2 {
		return 0, 0, fmt.Errorf("acknowledgement: %w", errMalformed)
	}
	if len(p.body) > 2 {
		code = p.body[2]
	}
	return binary.BigEndian.Uint16(p.body), code, nil
}

// parseSuback reads the SUBACK of one filter.
func parseSuback(v level, p received) (id uint16, code byte, err error) {
	b := p.body
	if len(b) < 3 {
		return 0, 0, fmt.Errorf("SUBACK: %w", errMalformed)
	}
	id, b = binary.BigEndian.Uint16(b), b[2:]
	if v == v5 {
		if _, b, err = properties(b); err != nil {
			return 0, 0, fmt.Errorf("SUBACK: %w", err)
		}
	}
	if len(b) != 1 {
		return 0, 0, fmt.Errorf("SUBACK with %d codes for one filter: %w", len(b), errMalformed)
	}
	return id, b[0], nil
}

// limits are what a CONNACK says that matters here.
type limits struct {
	code           byte
	receiveMaximum int
	maximumQoS     byte
	present        bool // the broker has had the session before
}

func parseConnack(v level, p received) (limits, error) {
	l := limits{receiveMaximum: 65535, maximumQoS: 2}
	if len(p.body) < 2 {
		return l, fmt.Errorf("CONNACK: %w", errMalformed)
	}
	l.code, l.present = p.body[1], p.body[0]&1 == 1
	if v == v311 || len(p.body) == 2 { // a broker that knows no MQTT 5 refuses in 3.1.1
		return l, nil
	}
	props, _, err := properties(p.body[2:])
	for err == nil && len(props) > 0 {
		var n int
		if n, err = connackProperty(props); err != nil {
			break
		}
		switch props[0] {
		case 0x21:
			l.receiveMaximum = int(binary.BigEndian.Uint16(props[1:]))
		case 0x24:
			l.maximumQoS = props[1]
		}
		props = props[n:]
	}
	if err != nil {
		return l, fmt.Errorf("CONNACK: %w", err)
	}
	return l, nil
}

// connackProperty is the length of the property that b begins with, its identifier included (MQTT 5, 2.2.2.2).
func connackProperty(b []byte) (int, error) {
	str := func(at int) int { // where the string that begins there ends
		if len(b) < at+2 {
			return len(b) + 1
		}
		return at + 2 + int(binary.BigEndian.Uint16(b[at:]))
	}
	var n int
	switch b[0] {
	case 0x24, 0x25, 0x28, 0x29, 0x2A:
		n = 2
	case 0x13, 0x21, 0x22:
		n = 3
	case 0x11, 0x27:
		n = 5
	case 0x12, 0x15, 0x16, 0x1A, 0x1C, 0x1F:
		n = str(1)
	case 0x26:
		n = str(str(1))
	default:
		return 0, fmt.Errorf("property 0x%02X: %w", b[0], errMalformed)
	}
	if len(b) < n {
		return 0, fmt.Errorf("property 0x%02X is cut off: %w", b[0], errMalformed)
	}
	return n, nil
}
