package connect

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/beeline-mqtt/beeline/test/wire"
)

// head is the Protocol Name and Level of a CONNECT.
func head(level byte) []byte {
	if level == Level31 {
		return wire.Bytes("MQIsdp", int(level))
	}
	return wire.Bytes("MQTT", int(level))
}

// connect is a CONNECT with a Keep Alive of 60 seconds; at level 5 without properties.
func connect(level byte, flags int, payload ...any) []byte {
	body := wire.Bytes(head(level), flags, uint16(60))
	if level == Level5 {
		body = append(body, 0)
	}
	return wire.Frame(0x10, body, wire.Bytes(payload...))
}

// noProps is the block of properties that is empty, where level has one.
func noProps(level byte) []byte {
	if level == Level5 {
		return []byte{0}
	}
	return nil
}

var levels = []byte{Level31, Level311, Level5}

// full is a CONNECT with everything in it.
func full(level byte) []byte {
	if level != Level5 {
		return connect(level, 0xf6, "client", "will/topic", "\x00gone", "user", "sec\x00ret")
	}
	return wire.Frame(0x10, "MQTT", 5, 0xf6, uint16(60),
		wire.Props(17, uint32(3600), 33, uint16(10), 39, uint32(70000), 34, uint16(5), 25, 1, 23, 0,
			38, "k", "1", 21, "SCRAM", 38, "k", "2", 22, "\x00\xff"),
		"client",
		wire.Props(24, uint32(30), 1, 1, 2, uint32(0), 3, "text/plain", 8, "reply", 9, "\x00\x01", 38, "b", "1", 38, "a", "2"),
		"will/topic", "\x00gone", "user", "sec\x00ret")
}

// script is a connection that delivers what it holds, one piece with each read, and then err. It keeps count.
type script struct {
	pieces [][]byte
	err    error
	reads  int
	taken  int
}

func (s *script) Read(p []byte) (int, error) {
	s.reads++
	if len(s.pieces) == 0 {
		return 0, s.err
	}
	n := copy(p, s.pieces[0])
	s.taken += n
	if s.pieces[0] = s.pieces[0][n:]; len(s.pieces[0]) == 0 {
		s.pieces = s.pieces[1:]
	}
	return n, nil
}

// errNoMore is what a script says that must not be read to its end.
var errNoMore = errors.New("read once too often")

// sent is a connection on which pieces have come, and nothing follows.
func sent(pieces ...[]byte) *script {
	return &script{pieces: nonEmpty(pieces), err: errNoMore}
}

// ended is a connection that is closed behind b.
func ended(b []byte) *script {
	return &script{pieces: nonEmpty([][]byte{b}), err: io.EOF}
}

// nonEmpty leaves out the pieces that are empty.
func nonEmpty(pieces [][]byte) (full [][]byte) {
	for _, p := range pieces {
		if len(p) > 0 {
			full = append(full, bytes.Clone(p))
		}
	}
	return full
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error is %v, want %v", err, want)
	}
}
