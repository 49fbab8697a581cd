// Package connect reads what a router has to know of a connection before it passes its bytes on: the CONNECT of the
// client, of MQTT 3.1, 3.1.1 or 5, and the CONNACK with which a node answers. It also writes the CONNACK of a router
// that refuses a client by itself.
//
// It owns the frame of these two packets and the text in them; what their values mean, and whether they may be as they
// are, the node decides that gets the bytes. It keeps the bytes, all that came, so that they go on unchanged. It knows
// no other packet, sets no deadline and starts no goroutine. Functions are safe for concurrent use.
package connect

import (
	"errors"
	"fmt"
	"io"

	"github.com/beeline-mqtt/beeline/internal/mqtt"
)

// The Protocol Levels that are understood (3.1.2.2).
const (
	Level31  byte = 3
	Level311 byte = 4
	Level5   byte = 5
)

// Why a connection is refused, for errors.Is. What wraps them says more, and never quotes what was received.
var (
	// ErrNotMQTT: this is no CONNECT of any MQTT. It deserves no answer.
	ErrNotMQTT = errors.New("not MQTT")
	// ErrTooLarge: the packet is longer than the limit.
	ErrTooLarge = errors.New("packet too large")
	// ErrMalformed: the packet is not as its standard wants it.
	ErrMalformed = errors.New("malformed packet")
	// ErrVersion: a CONNECT, but not of MQTT 3.1, 3.1.1 or 5.
	ErrVersion = errors.New("unsupported protocol version")
)

// Packet is a CONNECT (3.1). Beside an error only Level and Raw are set.
type Packet struct {
	// Level is Level31, Level311 or Level5, without the bit that tells a bridge. Beside an error it is the level in
	// which to answer, as far as the bytes show one that is understood or near to that; 0: there is none.
	Level    byte
	ClientID string // may be empty, also where the standard forbids it
	// Username is not empty without HasUsername. A client of 3.1 may announce a User Name and a Password and leave them
	// out: it has none then.
	Username    string
	HasUsername bool
	Password    []byte // aliases Raw
	HasPassword bool
	CleanStart  bool   // Clean Session before MQTT 5
	KeepAlive   uint16 // seconds
	// Raw is all that has been read: the CONNECT, and whatever came in the same read behind it. It is the caller's.
	Raw []byte
}

// Read reads a CONNECT from r, and in all no more than maxBytes, which bounds the CONNECT with its fixed header as well
// as what comes behind it. It returns as soon as the CONNECT is there or cannot be one any more; a packet that is
// longer than the limit is refused when its length is known. Memory grows with the bytes that come, not with the length
// that they announce.
//
// Errors are ErrNotMQTT, ErrTooLarge, ErrMalformed, ErrVersion, or those of r; the end of r is io.EOF before the first
// byte and io.ErrUnexpectedEOF after it. Refusal and CodeOf make an answer of them.
func Read(r io.Reader, maxBytes int) (Packet, error) {
	var buf []byte
	for {
		p, need, err := Parse(buf)
		if err == nil && need > maxBytes {
			err = ErrTooLarge
		}
		if err == nil && need == 0 {
			return p, nil
		}
		if err == nil {
			buf, err = more(r, buf, maxBytes)
		}
		if err != nil {
			p.Raw = buf
			return p, fmt.Errorf("read CONNECT: %w", err)
		}
	}
}

// firstRead is what the first read takes, in bytes: most CONNECTs, and little enough for a client that sends nothing.
const firstRead = 512

// more appends the next bytes of r to buf, which has fewer than limit. It grows buf at most to the limit.
func more(r io.Reader, buf []byte, limit int) ([]byte, error) {
	if len(buf) == cap(buf) {
		grown := make([]byte, len(buf), min(max(firstRead, 2*cap(buf)), limit))
		copy(grown, buf)
		buf = grown
	}
	for range 100 {
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		switch {
		case n > 0:
			return buf, nil // an error comes again with the following read, if there is one
		case errors.Is(err, io.EOF) && len(buf) > 0:
			return buf, io.ErrUnexpectedEOF
		case err != nil:
			return buf, err
		}
	}
	return buf, io.ErrNoProgress
}

// The first byte of the packets that are known here: type and flags (2.1).
const (
	firstOfConnect = 1 << 4
	firstOfConnack = 2 << 4
)

// The Protocol Names, with their lengths before them (3.1.2.1).
const (
	nameMQTT   = "\x00\x04MQTT"
	nameMQIsdp = "\x00\x06MQIsdp"
)

// bridge is what mosquitto sets in the Protocol Level of 3.1 and 3.1.1 to say that it is a broker itself.
const bridge = 0x80

// Parse looks for a CONNECT at the start of b, which holds all that a client has sent so far. need is 0 beside an error
// and when the CONNECT is there. Else it is how many bytes b must have at least before there is more to say; once the
// fixed header is there, that is the length of the packet. Then Level is set when it is known.
//
// Errors are ErrNotMQTT, as soon as a byte shows it, ErrMalformed and ErrVersion. Raw is b, and Password aliases it.
func Parse(b []byte) (p Packet, need int, err error) {
	p.Raw = b
	if len(b) > 0 && b[0] != firstOfConnect {
		return p, 0, fmt.Errorf("%w: the first byte is not that of a CONNECT", ErrNotMQTT)
	}
	head, remaining, err := fixedHeader(b)
	switch {
	case err != nil:
		return p, 0, err
	case head == 0:
		return p, len(b) + 1, nil
	}
	body := b[head:min(len(b), head+remaining)]
	name, ok := protocolName(body)
	spoken := false
	if ok && len(body) > len(name) {
		p.Level, spoken = protocolLevel(name, body[len(name)])
	}
	switch {
	case !ok:
		return p, 0, fmt.Errorf("%w: neither of its Protocol Names (3.1.2.1)", ErrNotMQTT)
	case len(body) < remaining:
		return p, head + remaining, nil
	case len(body) < len(name):
		return p, 0, fmt.Errorf("%w: ends within the Protocol Name", ErrNotMQTT)
	case len(body) == len(name):
		return p, 0, fmt.Errorf("%w: ends before the Protocol Level", ErrMalformed)
	case !spoken:
		return p, 0, fmt.Errorf("%w: the Protocol Level is not one of its Protocol Name (MQTT-3.1.2-2)", ErrVersion)
	}
	c := cursor{rest: body[len(name)+1:]}
	if got := c.connect(p.Level); c.err == nil {
		got.Raw = b
		return got, 0, nil
	}
	return p, 0, c.err
}

// fixedHeader returns the length of the fixed header at the start of b, and the Remaining Length in it. The length is 0
// while b ends within the header. A Remaining Length may take up to four bytes even when fewer would do: 3.1.1 does
// not forbid it.
func fixedHeader(b []byte) (head, remaining int, err error) {
	if len(b) < 2 {
		return 0, 0, nil
	}
	n, size := varint(b[1:])
	if size > maxVarint {
		return 0, 0, fmt.Errorf("%w: Remaining Length is longer than four bytes (2.1.4)", ErrMalformed)
	}
	if size == 0 {
		return 0, 0, nil
	}
	return 1 + size, n, nil
}

// protocolName returns which name, with its length, body begins with, or may begin with when it is shorter.
func protocolName(body []byte) (name string, ok bool) {
	for _, name := range [...]string{nameMQTT, nameMQIsdp} {
		if n := min(len(body), len(name)); string(body[:n]) == name[:n] {
			return name, true
		}
	}
	return "", false
}

// protocolLevel returns the level of a CONNECT, or else the one nearest to it that is spoken.
func protocolLevel(name string, b byte) (level byte, spoken bool) {
	switch {
	case name == nameMQIsdp:
		return Level31, b&^bridge == Level31
	case b&^bridge == Level311:
		return Level311, true
	case b < Level5:
		return Level311, false
	default:
		return Level5, b == Level5
	}
}

// connect reads what is behind the Protocol Level. The result is of no use if c has failed.
func (c *cursor) connect(level byte) Packet {
	flags := mqtt.ConnectFlags(c.uint8("Connect Flags"))
	if fault := flags.Fault(level); fault != "" {
		c.fail(fault)
	}
	p := Packet{Level: level, CleanStart: flags.CleanStart(), KeepAlive: c.uint16("Keep Alive")}
	if level == Level5 {
		c.properties(mqtt.ConnectProperties, none)
	}
	id := c.text("Client Identifier")
	if flags.Will() {
		if level == Level5 {
			c.properties(mqtt.WillProperties, none)
		}
		c.text("Will Topic")
		c.binary("Will Payload")
	}
	// The standard of 3.1 has the Remaining Length take precedence over these two flags.
	left := func() bool { return level != Level31 || len(c.rest) > 0 }
	var username []byte
	if p.HasUsername = flags.Username() && left(); p.HasUsername {
		username = c.text("User Name")
	}
	if p.HasPassword = flags.Password() && left(); p.HasPassword {
		p.Password = c.binary("Password")
	}
	c.end()
	if c.err == nil {
		p.ClientID, p.Username = string(id), string(username)
	}
	return p
}
