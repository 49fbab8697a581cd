package connect

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/beeline-mqtt/beeline/test/wire"
)

func TestRefusalsAreThoseOfTheStandards(t *testing.T) {
	for _, c := range []struct {
		name   string
		code   Code
		before []byte // in 3.1 and 3.1.1
		in5    []byte
	}{
		{"server unavailable", ServerUnavailable, []byte{0x20, 2, 0, 3}, []byte{0x20, 3, 0, 0x88, 0}},
		{"unsupported version", UnsupportedProtocolVersion, []byte{0x20, 2, 0, 1}, []byte{0x20, 3, 0, 0x84, 0}},
		{"malformed", MalformedPacket, nil, []byte{0x20, 3, 0, 0x81, 0}},
		{"too large", PacketTooLarge, nil, []byte{0x20, 3, 0, 0x95, 0}},
		{"use another server", UseAnotherServer, []byte{0x20, 2, 0, 3}, []byte{0x20, 3, 0, 0x9c, 0}},
		{"server moved", ServerMoved, []byte{0x20, 2, 0, 3}, []byte{0x20, 3, 0, 0x9d, 0}},
		{"success is no refusal", 0, nil, nil},
		{"nor is a return code", 3, nil, nil},
	} {
		for level, want := range map[byte][]byte{0: nil, 6: nil, Level31: c.before, Level311: c.before, Level5: c.in5} {
			if got := Refusal(level, c.code); !bytes.Equal(got, want) || (got == nil) != (want == nil) {
				t.Errorf("%s at level %d: % x, want % x", c.name, level, got, want)
			}
		}
	}
}

func TestEveryErrorHasItsCode(t *testing.T) {
	for _, c := range []struct {
		err  error
		want Code
	}{
		{ErrNotMQTT, 0},
		{io.EOF, 0},
		{os.ErrDeadlineExceeded, 0},
		{nil, 0},
		{ErrVersion, UnsupportedProtocolVersion},
		{ErrMalformed, MalformedPacket},
		{ErrTooLarge, PacketTooLarge},
	} {
		if got := CodeOf(errors.Join(errors.New("read CONNECT"), c.err)); got != c.want {
			t.Errorf("%v: 0x%02x, want 0x%02x", c.err, got, c.want)
		}
	}
}

func TestARefusedConnectIsAnsweredInItsLevel(t *testing.T) {
	for _, c := range []struct {
		name  string
		sent  []byte
		limit int
		want  []byte
	}{
		{"no MQTT", []byte("GET / HTTP/1.1\r\n"), 100, nil},
		{"MQTT 6", wire.Frame(0x10, "MQTT", 6, 2, uint16(0), 0, "c"), 100, []byte{0x20, 3, 0, 0x84, 0}},
		{"MQTT before 3.1", wire.Frame(0x10, "MQIsdp", 2, 2, uint16(0), "c"), 100, []byte{0x20, 2, 0, 1}},
		{"malformed in 3.1.1", connect(Level311, 3, "c"), 100, nil},
		{"malformed in 5", connect(Level5, 3, "c"), 100, []byte{0x20, 3, 0, 0x81, 0}},
		{"too large in 3.1.1", full(Level311), 20, nil},
		{"too large in 5", full(Level5), 20, []byte{0x20, 3, 0, 0x95, 0}},
		{"too large before the level is known", full(Level5), 5, nil},
	} {
		p, err := Read(sent(c.sent), c.limit)
		if err == nil {
			t.Fatalf("%s: is taken", c.name)
		}
		if got := Refusal(p.Level, CodeOf(err)); !bytes.Equal(got, c.want) {
			t.Errorf("%s: % x, want % x", c.name, got, c.want)
		}
	}
}

func TestARedirectIsReadAsItIsWritten(t *testing.T) {
	for _, reference := range []string{
		"b", "node-2:1883", "a.example b.example:8883 [fe80::1]:1883", "b\u00fccher.example",
		strings.Repeat("x", 121), strings.Repeat("x", 122), strings.Repeat("x", 124), strings.Repeat("x", 125),
		strings.Repeat("x", 16378), strings.Repeat("x", 16384), strings.Repeat("x", 65535),
	} {
		raw := Redirect(Level5, reference)
		if want := wire.Frame(0x20, 0, 0x9c, wire.Props(28, reference)); !bytes.Equal(raw, want) {
			t.Fatalf("%d bytes: % x, want % x", len(reference), raw, want)
		}
		c, err := ReadConnack(sent(raw), Level5, 1<<17)
		if err != nil || c.Code != UseAnotherServer || c.ServerReference != reference || !bytes.Equal(c.Raw, raw) {
			t.Errorf("%d bytes: code 0x%x, %v", len(reference), c.Code, err)
		}
	}
}

func TestARedirectGoesWithoutWhatMQTTCannotCarry(t *testing.T) {
	for _, reference := range []string{"", "\xff", "a\x00b", strings.Repeat("x", 65536)} {
		if got := Redirect(Level5, reference); !bytes.Equal(got, []byte{0x20, 3, 0, 0x9c, 0}) {
			t.Errorf("%.10q: % x", reference, got)
		}
	}
	for _, level := range []byte{Level31, Level311} {
		if got := Redirect(level, "node-2"); !bytes.Equal(got, []byte{0x20, 2, 0, 3}) {
			t.Errorf("level %d: % x", level, got)
		}
	}
	if got := Redirect(0, "node-2"); got != nil {
		t.Errorf("no level: % x", got)
	}
}

// accepts5 is a CONNACK with every property that there is.
func accepts5(code int) []byte {
	return wire.Frame(0x20, 1, code, wire.Props(17, uint32(1), 33, uint16(1), 36, 1, 37, 1, 39, uint32(1), 18, "id", 34, uint16(1),
		31, "why", 38, "k", "v", 38, "k", "v", 40, 1, 41, 1, 42, 1, 19, uint16(1), 26, "info", 28, "node-2:1883",
		21, "m", 22, "\x00\xff"))
}

func TestConnacksAreRead(t *testing.T) {
	for _, c := range []struct {
		name      string
		level     byte
		raw       []byte
		code      Code
		reference string
	}{
		{"accepted in 3.1", Level31, []byte{0x20, 2, 0, 0}, 0, ""},
		{"accepted in 3.1 with a reserved byte", Level31, []byte{0x20, 2, 0xff, 0}, 0, ""},
		{"accepted in 3.1.1 with a session", Level311, []byte{0x20, 2, 1, 0}, 0, ""},
		{"refused in 3.1.1", Level311, []byte{0x20, 2, 0, 5}, 5, ""},
		{"accepted in 5", Level5, []byte{0x20, 3, 0, 0, 0}, 0, ""},
		{"accepted in 5 with everything", Level5, accepts5(0), 0, ""},
		{"refused in 5", Level5, wire.Frame(0x20, 0, 0x87, wire.Props(31, "no")), 0x87, ""},
		{"another server", Level5, accepts5(0x9c), UseAnotherServer, "node-2:1883"},
		{"moved", Level5, wire.Frame(0x20, 0, 0x9d, wire.Props(28, "a b:1")), ServerMoved, "a b:1"},
		{"another server, not said which", Level5, []byte{0x20, 3, 0, 0x9c, 0}, UseAnotherServer, ""},
		{"another server, an empty reference", Level5, wire.Frame(0x20, 0, 0x9c, wire.Props(28, "")), UseAnotherServer, ""},
		{"by a node that does not speak 5", Level5, []byte{0x20, 2, 0, 1}, 1, ""},
		{"properties that nobody asks for are not looked at", Level5, wire.Frame(0x20, 0, 0, 9, 0xff), 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			behind := append(bytes.Clone(c.raw), 0x30, 3, 0, 1, 't')
			ways := map[string]*script{"at once": sent(c.raw), "byte by byte": sent(split(c.raw, 1)...)}
			for at := range c.raw {
				ways[fmt.Sprintf("cut at %d", at)] = sent(c.raw[:at], c.raw[at:])
			}
			for way, src := range ways {
				got, err := ReadConnack(src, c.level, 200)
				if err != nil {
					t.Fatalf("%s: %v", way, err)
				}
				if diff := cmp.Diff(Connack{Code: c.code, ServerReference: c.reference, Raw: c.raw}, got); diff != "" {
					t.Errorf("%s: %s", way, diff)
				}
			}
			if got, err := ReadConnack(sent(behind), c.level, 200); err != nil || !bytes.Equal(got.Raw, behind) {
				t.Errorf("with a packet behind it: %+v, %v", got, err)
			}
		})
	}
}

func TestWhatIsNoConnackIsRefusedAndKept(t *testing.T) {
	for _, c := range []struct {
		name  string
		level byte
		raw   []byte
		want  error
	}{
		{"AUTH", Level5, wire.Frame(0xf0, 0x18, wire.Props(21, "SCRAM", 22, "x")), ErrNotConnack},
		{"reserved flags", Level5, []byte{0x21, 3, 0, 0, 0}, ErrNotConnack},
		{"no MQTT", Level5, []byte("HTTP/1.1 400 Bad Request\r\n"), ErrNotConnack},
		{"a Remaining Length of five bytes", Level5, []byte{0x20, 0xff, 0xff, 0xff, 0xff, 0}, ErrMalformed},
		{"empty", Level311, []byte{0x20, 0}, ErrMalformed},
		{"a byte short", Level5, []byte{0x20, 1, 0}, ErrMalformed},
		{"a byte too many in 3.1", Level31, []byte{0x20, 3, 0, 0, 0}, ErrMalformed},
		{"a byte too many in 3.1.1", Level311, []byte{0x20, 3, 0, 0, 0}, ErrMalformed},
		{"properties cut short", Level5, wire.Frame(0x20, 0, 0x9c, 9, 28, "b"), ErrMalformed},
		{"a reference cut short", Level5, wire.Frame(0x20, 0, 0x9c, 3, 28, uint16(2), 'b'), ErrMalformed},
		{"a reference that is not UTF-8", Level5, wire.Frame(0x20, 0, 0x9c, wire.Props(28, "\xff")), ErrMalformed},
		{"two references", Level5, wire.Frame(0x20, 0, 0x9c, wire.Props(28, "a", 28, "b")), ErrMalformed},
		{"two references, the first empty", Level5, wire.Frame(0x20, 0, 0x9c, wire.Props(28, "", 28, "b")), ErrMalformed},
		{"a property of CONNECT", Level5, wire.Frame(0x20, 0, 0x9c, wire.Props(25, 1)), ErrMalformed},
		{"a byte behind the properties", Level5, wire.Frame(0x20, 0, 0x9d, wire.Props(28, "a"), 0), ErrMalformed},
		{"longer than the limit", Level5, wire.Frame(0x20, 0, 0, wire.Props(31, strings.Repeat("x", 300))), ErrTooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			src := sent(c.raw)
			got, err := ReadConnack(src, c.level, 200)
			wantErr(t, err, c.want)
			if diff := cmp.Diff(Connack{Raw: c.raw[:src.taken]}, got); diff != "" {
				t.Error(diff)
			}
			if src.taken > 200 || src.reads > 1 {
				t.Errorf("%d bytes in %d reads", src.taken, src.reads)
			}
			if got, _, err := ParseConnack(c.raw, c.level); err != nil && (got.Code != 0 || got.ServerReference != "") {
				t.Errorf("beside %v: %+v", err, got)
			}
		})
	}
}

func TestTheEndOfANodeIsTold(t *testing.T) {
	_, err := ReadConnack(ended(nil), Level5, 100)
	wantErr(t, err, io.EOF)
	raw := accepts5(0x9c)
	for at := 1; at < len(raw); at++ {
		c, err := ReadConnack(ended(raw[:at]), Level5, 200)
		if !errors.Is(err, io.ErrUnexpectedEOF) || !bytes.Equal(c.Raw, raw[:at]) || c.ServerReference != "" {
			t.Fatalf("cut at %d: %+v, %v", at, c, err)
		}
	}
	_, err = ReadConnack(&script{err: os.ErrDeadlineExceeded}, Level5, 100)
	wantErr(t, err, os.ErrDeadlineExceeded)
	_, err = ReadConnack(sent(raw), Level5, 0)
	wantErr(t, err, ErrTooLarge)
}
