package connect

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/test/wire"
)

func FuzzRead(f *testing.F) {
	for _, level := range levels {
		f.Add(full(level), uint16(1000), uint8(0))
		f.Add(full(level), uint16(40), uint8(7))
		f.Add(append(connect(level, 2, "c"), 0xc0, 0), uint16(500), uint8(3))
		f.Add(connect(level, 0xc2, "c"), uint16(500), uint8(1))
		f.Add(connect(level|bridge, 0x82, "c", "u"), uint16(500), uint8(1))
		f.Add(connect(level, 3, "\xff"), uint16(500), uint8(1))
	}
	f.Add(wire.Frame(0x10, "MQTT", 6, 2, uint16(0), 0, "c"), uint16(500), uint8(0))
	f.Add([]byte{0x10, 0xff, 0xff, 0xff, 0x7f, 0, 4}, uint16(500), uint8(1))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), uint16(500), uint8(0))
	f.Fuzz(func(t *testing.T, raw []byte, limit uint16, piece uint8) {
		src := sent(raw)
		if piece > 0 {
			src = sent(split(raw, int(piece))...)
		}
		p, err := Read(src, int(limit))
		if src.taken > int(limit) {
			t.Fatalf("%d bytes are read under a limit of %d", src.taken, limit)
		}
		if len(p.Raw) != src.taken || !bytes.HasPrefix(raw, p.Raw) {
			t.Fatalf("keeps % x of % x", p.Raw, raw)
		}
		if err != nil {
			if kinds(err) != 1 {
				t.Fatalf("%v is of %d kinds", err, kinds(err))
			}
			if p.Level != 0 && Refusal(p.Level, ServerUnavailable) == nil {
				t.Fatalf("level %d has no answer", p.Level)
			}
			p.Level = 0
			if diff := cmp.Diff(Packet{Raw: p.Raw}, p); diff != "" {
				t.Fatalf("beside %v: %s", err, diff)
			}
		}
		whole, need, parse := Parse(raw)
		if (parse == nil && need == 0 && len(raw) <= int(limit)) && (err != nil || cmp.Diff(plain(whole), plain(p)) != "") {
			t.Fatalf("in pieces %+v, %v, at once %+v", p, err, whole)
		}
		if err == nil && parse != nil {
			t.Fatalf("is taken in pieces, and at once refused with %v", parse)
		}
		agree(t, raw)
	})
}

// kinds returns how many of the errors err is that Read may return here.
func kinds(err error) (n int) {
	for _, e := range []error{ErrNotMQTT, ErrTooLarge, ErrMalformed, ErrVersion, errNoMore} {
		if errors.Is(err, e) {
			n++
		}
	}
	return n
}

func FuzzReadConnack(f *testing.F) {
	for _, level := range levels {
		f.Add(Redirect(level, "node-2:1883"), level, uint16(500), uint8(3))
		f.Add(append(Refusal(level, ServerUnavailable), 0x30), level, uint16(500), uint8(0))
	}
	f.Add(accepts5(0x9d), Level5, uint16(500), uint8(11))
	f.Add(wire.Frame(0x20, 0, 0x9c, 0x80, 28), Level5, uint16(500), uint8(1))
	f.Fuzz(func(t *testing.T, raw []byte, level byte, limit uint16, piece uint8) {
		src := sent(raw)
		if piece > 0 {
			src = sent(split(raw, int(piece))...)
		}
		c, err := ReadConnack(src, level, int(limit))
		if src.taken > int(limit) || len(c.Raw) != src.taken || !bytes.HasPrefix(raw, c.Raw) {
			t.Fatalf("% x of % x is kept, under a limit of %d", c.Raw, raw, limit)
		}
		if err != nil || c.ServerReference == "" {
			return
		}
		b := bytes.Clone(raw)
		b[0] = 0x10 // for body
		other, _ := body(b)
		pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connack}, ProtocolVersion: Level5}
		if err := pk.ConnackDecode(other); err != nil || pk.Properties.ServerReference != c.ServerReference {
			t.Fatalf("%q, %v, want %q", pk.Properties.ServerReference, err, c.ServerReference)
		}
	})
}
