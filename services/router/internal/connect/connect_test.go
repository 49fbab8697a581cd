package connect

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/beeline-mqtt/beeline/test/wire"
)

func TestConnectsAreRead(t *testing.T) {
	for _, level := range levels {
		with := func(raw []byte, p Packet) Packet {
			p.Level, p.KeepAlive, p.Raw = level, 60, raw
			return p
		}
		least := connect(level, 2, "c")
		noID := connect(level, 0, "")
		user := connect(level, 0x82, "c", "u")
		empty := connect(level, 0xc2, "c", "", "")
		will := connect(level, 0x0e, "c", noProps(level), "t", "")
		odd := connect(level, 2, "\uFEFF\u00e4\U0001F41D\u0001")
		long := connect(level, 0xc0, strings.Repeat("i", 65535), strings.Repeat("u", 65535), strings.Repeat("p", 65535))
		overlong := append([]byte{0x10, least[1] | 0x80, 0x80, 0x80, 0}, least[2:]...)
		for _, c := range []struct {
			name string
			raw  []byte
			want Packet
		}{
			{"no more than there must be", least, with(least, Packet{ClientID: "c", CleanStart: true})},
			{"everything", full(level), with(full(level), Packet{
				ClientID: "client", CleanStart: true, Username: "user", HasUsername: true,
				Password: []byte("sec\x00ret"), HasPassword: true,
			})},
			{"an empty Client Identifier", noID, with(noID, Packet{})},
			{"a User Name alone", user, with(user, Packet{ClientID: "c", CleanStart: true, Username: "u", HasUsername: true})},
			{"User Name and Password that are empty", empty, with(empty, Packet{
				ClientID: "c", CleanStart: true, HasUsername: true, Password: []byte{}, HasPassword: true,
			})},
			{"a Will with an empty payload, QoS 1", will, with(will, Packet{ClientID: "c", CleanStart: true})},
			{"characters of all lengths", odd, with(odd, Packet{ClientID: "\uFEFF\u00e4\U0001F41D\u0001", CleanStart: true})},
			{"fields as long as they can be", long, with(long, Packet{
				ClientID: strings.Repeat("i", 65535), Username: strings.Repeat("u", 65535), HasUsername: true,
				Password: []byte(strings.Repeat("p", 65535)), HasPassword: true,
			})},
			{"a Remaining Length in more bytes than it needs", overlong, with(overlong, Packet{ClientID: "c", CleanStart: true})},
		} {
			t.Run(fmt.Sprintf("level %d, %s", level, c.name), func(t *testing.T) {
				got, err := Read(sent(c.raw), 1<<18)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(c.want, got, cmp.Comparer(bytes.Equal)); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

func TestAConnectWithPasswordAloneIsRead(t *testing.T) { // 3.1.2.9 of MQTT 5; before it the User Name must be there
	p, err := Read(sent(connect(Level5, 0x42, "c", "token")), 100)
	if err != nil || p.HasUsername || string(p.Password) != "token" {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestIn31WhatTheFlagsAnnounceMayBeMissing(t *testing.T) {
	for _, c := range []struct {
		name     string
		raw      []byte
		username bool
	}{
		{"User Name", connect(Level31, 0x82, "c"), false},
		{"User Name and Password", connect(Level31, 0xc2, "c"), false},
		{"Password", connect(Level31, 0xc2, "c", "u"), true},
		{"both behind a Will", connect(Level31, 0xc6, "c", "t", "p"), false},
	} {
		p, err := Read(sent(c.raw), 100)
		if err != nil || p.ClientID != "c" || p.HasUsername != c.username || p.HasPassword {
			t.Errorf("%s: %+v, %v", c.name, p, err)
		}
	}
}

func TestABridgeIsAClientOfItsLevel(t *testing.T) {
	for _, level := range []byte{Level31, Level311} {
		raw := full(level)
		raw[bytes.IndexByte(raw, 0xf6)-1] |= 0x80
		p, err := Read(sent(raw), 100)
		if err != nil || p.Level != level || p.ClientID != "client" || p.Username != "user" {
			t.Errorf("level %d: %+v, %v", level, p, err)
		}
		if !bytes.Equal(p.Raw, raw) {
			t.Errorf("level %d: passes on % x", level, p.Raw)
		}
	}
}

func TestEveryPropertyOfAConnectIsSkipped(t *testing.T) {
	for name, p := range map[string][]byte{
		"Session Expiry Interval":      wire.Props(17, uint32(1)),
		"Receive Maximum":              wire.Props(33, uint16(0)), // a value that is wrong is the node's to refuse
		"Maximum Packet Size":          wire.Props(39, uint32(1)),
		"Topic Alias Maximum":          wire.Props(34, uint16(1)),
		"Request Response Information": wire.Props(25, 2),
		"Request Problem Information":  wire.Props(23, 1),
		"User Property":                wire.Props(38, "", "", 38, "a", "b"),
		"Authentication Method":        wire.Props(21, "m"),
		"Authentication Data":          wire.Props(22, "\x00\xff"),
		"more than 127 bytes":          wire.Props(38, strings.Repeat("k", 200), "v"),
	} {
		got, err := Read(sent(wire.Frame(0x10, head(Level5), 2, uint16(0), p, "c")), 1000)
		if err != nil || got.ClientID != "c" {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestEveryPropertyOfAWillIsSkipped(t *testing.T) {
	for name, p := range map[string][]byte{
		"Will Delay Interval":      wire.Props(24, uint32(1)),
		"Payload Format Indicator": wire.Props(1, 1),
		"Message Expiry Interval":  wire.Props(2, uint32(1)),
		"Content Type":             wire.Props(3, "c"),
		"Response Topic":           wire.Props(8, "r"),
		"Correlation Data":         wire.Props(9, "\x00\xff"),
		"User Property":            wire.Props(38, "a", "b"),
	} {
		got, err := Read(sent(connect(Level5, 0x86, "c", p, "t", "p", "u")), 1000)
		if err != nil || got.ClientID != "c" || got.Username != "u" {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestMalformedConnectsOfEveryLevelAreRefused(t *testing.T) {
	for _, level := range levels {
		none := noProps(level)
		for name, raw := range map[string][]byte{
			"MQTT-3.1.2-3 the reserved flag":                connect(level, 3, "c"),
			"MQTT-3.1.2-12 Will QoS 3":                      connect(level, 0x1e, "c", none, "t", "p"),
			"MQTT-3.1.2-11 Will QoS 3 without Will":         connect(level, 0x1a, "c"),
			"MQTT-3.1.2-11 Will QoS 1 without Will":         connect(level, 0x0a, "c"),
			"MQTT-3.1.2-11 Will QoS 2 without Will":         connect(level, 0x12, "c"),
			"MQTT-3.1.2-13 Will Retain without Will":        connect(level, 0x22, "c"),
			"MQTT-3.1.2-9 Will without topic":               connect(level, 6, "c", none),
			"MQTT-3.1.2-9 Will without payload":             connect(level, 6, "c", none, "t"),
			"MQTT-3.1.2-9 Will payload cut short":           connect(level, 6, "c", none, "t", uint16(2), 'p'),
			"MQTT-1.5.4-1 Will topic is not UTF-8":          connect(level, 6, "c", none, "\xff", "p"),
			"MQTT-3.1.3-3 no Client Identifier":             connect(level, 2),
			"MQTT-3.1.3-3 half a length":                    connect(level, 2, 0),
			"MQTT-3.1.3-3 Client Identifier cut short":      connect(level, 2, uint16(2), 'c'),
			"MQTT-3.1.3-4 Client Identifier is not UTF-8":   connect(level, 2, "c\xc3"),
			"MQTT-3.1.3-4 Client Identifier, a surrogate":   connect(level, 2, "\xed\xa0\x80"),
			"MQTT-3.1.3-4 Client Identifier, overlong":      connect(level, 2, "\xc0\x80"),
			"MQTT-1.5.4-2 Client Identifier with U+0000":    connect(level, 2, "a\x00b"),
			"MQTT-3.1.3-11 User Name is not UTF-8":          connect(level, 0x82, "c", "\xfe"),
			"MQTT-1.5.4-2 User Name with U+0000":            connect(level, 0x82, "c", "\x00"),
			"MQTT-3.1.2-17 User Name cut short":             connect(level, 0x82, "c", uint16(2), 'u'),
			"MQTT-3.1.2-19 half a length of User Name":      connect(level, 0x82, "c", 0),
			"MQTT-3.1.2-19 Password cut short":              connect(level, 0xc2, "c", "u", uint16(9), 'p'),
			"MQTT-3.1.2-16 User Name without its flag":      connect(level, 2, "c", "u"),
			"MQTT-3.1.2-18 Password without its flag":       connect(level, 0x82, "c", "u", "p"),
			"MQTT-3.1.2-11 Will without its flag":           connect(level, 2, "c", "t", "p"),
			"a byte behind the end":                         connect(level, 2, "c", 0),
			"a byte behind the Password":                    connect(level, 0xc2, "c", "u", "p", 0),
			"nothing behind the level":                      wire.Frame(0x10, head(level)),
			"nothing behind the flags":                      wire.Frame(0x10, head(level), 2),
			"half a Keep Alive":                             wire.Frame(0x10, head(level), 2, 0),
			"nothing behind Keep Alive":                     wire.Frame(0x10, head(level), 2, uint16(0)),
			"flags that are wrong come before what is cut":  wire.Frame(0x10, head(level), 3),
			"Client Identifier longer than the whole":       connect(level, 2, uint16(65535), []byte("c")),
			"User Name longer than the whole, Will present": connect(level, 0x86, "c", none, "t", "p", uint16(65535)),
		} {
			refused(t, fmt.Sprintf("level %d, %s", level, name), raw, level, ErrMalformed)
		}
	}
	for _, level := range []byte{Level31, Level311} {
		refused(t, "MQTT-3.1.2-22 Password without User Name", connect(level, 0x42, "c", "p"), level, ErrMalformed)
	}
	for _, level := range []byte{Level311, Level5} {
		refused(t, "MQTT-3.1.2-17 no User Name", connect(level, 0x82, "c"), level, ErrMalformed)
		refused(t, "MQTT-3.1.2-19 no Password", connect(level, 0xc2, "c", "u"), level, ErrMalformed)
	}
}

func TestMalformedPropertiesAreRefused(t *testing.T) {
	inConnect := func(block ...any) []byte { return wire.Frame(0x10, head(Level5), 2, uint16(0), wire.Bytes(block...)) }
	inWill := func(block ...any) []byte { return connect(Level5, 6, "c", wire.Bytes(block...)) }
	for name, raw := range map[string][]byte{
		"no Property Length":                        inConnect(),
		"Property Length cut short":                 inConnect(0x80),
		"Property Length of five bytes":             inConnect(0x80, 0x80, 0x80, 0x80, 0x01),
		"MQTT-1.5.5-1 Property Length longer":       inConnect(0x80, 0x00, "c"),
		"more announced than there is":              inConnect(20, 17, uint32(1), "c"),
		"the last property ends in what follows":    inConnect(3, 17, uint32(1), "c"),
		"an identifier alone":                       inConnect(1, 17, "c"),
		"a byte cut short":                          inConnect(1, 25, "c"),
		"two bytes cut short":                       inConnect(2, 33, 1, "c"),
		"text cut short":                            inConnect(4, 21, uint16(5), 'm', "c"),
		"binary cut short":                          inConnect(4, 22, uint16(5), 'm', "c"),
		"a User Property without a value":           inConnect(wire.Props(38, "name"), "c"),
		"2.2.2.2 identifier 0":                      inConnect(wire.Props(0, 0), "c"),
		"2.2.2.2 an identifier that does not exist": inConnect(wire.Props(4, 0), "c"),
		"2.2.2.2 an identifier above all":           inConnect(wire.Props(0xff, 0x01, 0), "c"),
		"2.2.2.2 one of the Will":                   inConnect(wire.Props(24, uint32(1)), "c"),
		"2.2.2.2 one of CONNACK":                    inConnect(wire.Props(28, "elsewhere"), "c"),
		"2.2.2.2 one of PUBLISH":                    inConnect(wire.Props(35, uint16(1)), "c"),
		"MQTT-1.5.4-1 text is not UTF-8":            inConnect(wire.Props(21, "\xff"), "c"),
		"MQTT-1.5.4-2 text with U+0000":             inConnect(wire.Props(38, "\x00", ""), "c"),
		"Will: no Property Length":                  inWill(),
		"Will: more announced than there is":        inWill(50, "t", "p"),
		"Will: one of CONNECT":                      inWill(wire.Props(17, uint32(1)), "t", "p"),
		"Will: four bytes cut short":                inWill(4, 24, 0, 0, 0, "t", "p"),
		"Will: MQTT-1.5.4-1 text is not UTF-8":      inWill(wire.Props(3, "\xc0\x80"), "t", "p"),
	} {
		refused(t, name, raw, Level5, ErrMalformed)
	}
}

func TestOtherVersionsAreRefusedInTheNearest(t *testing.T) {
	rest := wire.Bytes(2, uint16(0), "c")
	for _, c := range []struct {
		name  string
		level int
		want  byte
	}{
		{"MQIsdp", 0, Level31},
		{"MQIsdp", 4, Level31},
		{"MQIsdp", 5, Level31},
		{"MQIsdp", 0x84, Level31},
		{"MQTT", 0, Level311},
		{"MQTT", 3, Level311},
		{"MQTT", 6, Level5},
		{"MQTT", 0x83, Level5},
		{"MQTT", 0x85, Level5}, // mosquitto has no such bit in MQTT 5
		{"MQTT", 0xff, Level5},
	} {
		refused(t, fmt.Sprintf("%s %d", c.name, c.level), wire.Frame(0x10, c.name, c.level, rest), c.want, ErrVersion)
	}
}

// refused fails the test unless raw is refused with want, in level, without a word of what it holds.
func refused(t *testing.T, name string, raw []byte, level byte, want error) {
	t.Helper()
	p, err := Read(sent(raw), 1<<17)
	if !errors.Is(err, want) {
		t.Errorf("%s: error is %v, want %v", name, err, want)
	}
	if diff := cmp.Diff(Packet{Level: level, Raw: raw}, p); diff != "" {
		t.Errorf("%s: %s", name, diff)
	}
}

func TestWhatIsNotMQTTIsRefusedWithTheByteThatShowsIt(t *testing.T) {
	for _, c := range []struct {
		name string
		raw  string
		want error
	}{
		{"TLS", "\x16", ErrNotMQTT},
		{"HTTP", "G", ErrNotMQTT},
		{"PROXY version 1", "P", ErrNotMQTT},
		{"PROXY version 2", "\r", ErrNotMQTT},
		{"zero", "\x00", ErrNotMQTT},
		{"a PUBLISH", "\x30", ErrNotMQTT},
		{"reserved flags of CONNECT", "\x11", ErrNotMQTT},
		{"an empty CONNECT", "\x10\x00", ErrNotMQTT},
		{"a name of another length", "\x10\x20\x00\x05", ErrNotMQTT},
		{"another name", "\x10\x20\x00\x04MQTS", ErrNotMQTT},
		{"the name in small letters", "\x10\x20\x00\x04m", ErrNotMQTT},
		{"another name as long as that of 3.1", "\x10\x20\x00\x06MQIsdP", ErrNotMQTT},
		{"the end within the name", "\x10\x05\x00\x04MQT", ErrNotMQTT},
		{"the end before the level", "\x10\x06\x00\x04MQTT", ErrMalformed},
		{"a Remaining Length of five bytes", "\x10\xff\xff\xff\xff", ErrMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			src := sent(split([]byte(c.raw), 1)...)
			p, err := Read(src, 1<<28)
			wantErr(t, err, c.want)
			if p.Level != 0 {
				t.Errorf("is to be answered in level %d", p.Level)
			}
			if src.reads != len(c.raw) {
				t.Errorf("refused after %d reads, want %d", src.reads, len(c.raw))
			}
		})
	}
}

// split cuts b into pieces of n bytes; the last may be shorter.
func split(b []byte, n int) (pieces [][]byte) {
	for len(b) > n {
		pieces, b = append(pieces, b[:n]), b[n:]
	}
	return append(pieces, b)
}

func TestTheLimitBoundsTheWholePacket(t *testing.T) {
	for _, level := range levels {
		raw := full(level)
		if p, err := Read(sent(raw), len(raw)); err != nil || !bytes.Equal(p.Raw, raw) {
			t.Errorf("level %d: exactly the limit: %v", level, err)
		}
		src := sent(raw)
		p, err := Read(src, len(raw)-1)
		wantErr(t, err, ErrTooLarge)
		if p.Level != level || src.taken > len(raw)-1 {
			t.Errorf("level %d: refused in level %d after %d bytes", level, p.Level, src.taken)
		}
	}
}

func TestALongPacketIsRefusedBeforeItComes(t *testing.T) {
	src := sent([]byte{0x10}, []byte{0x80}, []byte{0x80, 0x01})
	p, err := Read(src, 1000)
	wantErr(t, err, ErrTooLarge)
	if src.reads != 3 || p.Level != 0 {
		t.Errorf("%d reads, level %d", src.reads, p.Level)
	}
	for _, level := range levels { // when the level came along, there may be an answer
		p, err := Read(sent(wire.Bytes(0x10, 0xff, 0xff, 0x7f, head(level))), 1000)
		wantErr(t, err, ErrTooLarge)
		if p.Level != level {
			t.Errorf("refused in level %d, want %d", p.Level, level)
		}
	}
}

func TestWithoutALimitThatIsPositiveNothingIsRead(t *testing.T) {
	for _, limit := range []int{0, -1} {
		src := sent(full(Level5))
		_, err := Read(src, limit)
		wantErr(t, err, ErrTooLarge)
		if src.reads > 0 {
			t.Errorf("limit %d: %d reads", limit, src.reads)
		}
	}
}

func TestMemoryGrowsWithWhatComes(t *testing.T) {
	const limit = 1 << 21
	announces := wire.Bytes(0x10, 0xff, 0xff, 0x3f, head(Level5))
	for _, come := range []int{0, 600, 5000, 100_000} {
		src := &script{pieces: [][]byte{announces, make([]byte, come)}, err: os.ErrDeadlineExceeded}
		src.pieces = nonEmpty(src.pieces)
		p, err := Read(src, limit)
		wantErr(t, err, os.ErrDeadlineExceeded)
		if got := len(p.Raw); got != len(announces)+come {
			t.Errorf("%d bytes are kept of %d", got, len(announces)+come)
		}
		if got := cap(p.Raw); got > max(512, 2*len(p.Raw)) {
			t.Errorf("%d bytes of memory for %d that came", got, len(p.Raw))
		}
	}
}

func TestWhatComesBehindTheConnectIsKept(t *testing.T) {
	for _, level := range levels {
		behind := wire.Bytes(0x82, 6, uint16(1), "t", 0, 0xc0, 0)
		all := append(full(level), behind...)
		p, err := Read(sent(all), 1000)
		if err != nil || !bytes.Equal(p.Raw, all) || p.Username != "user" {
			t.Errorf("level %d: %+v, %v", level, p, err)
		}
		src := sent(all)
		p, err = Read(src, len(all)-3)
		if err != nil || !bytes.Equal(p.Raw, all[:len(all)-3]) || src.taken != len(all)-3 {
			t.Errorf("level %d: no more than the limit: %+v, %v", level, p, err)
		}
	}
}

func TestAConnectMayComeInPieces(t *testing.T) {
	for _, level := range levels {
		raw := full(level)
		want, err := Read(sent(raw), 1000)
		if err != nil {
			t.Fatal(err)
		}
		ways := map[string]io.Reader{
			"byte by byte":       sent(split(raw, 1)...),
			"with nothing ahead": &stutter{left: 90, r: sent(raw)},
			"the end with it":    iotest.DataErrReader(ended(raw)),
		}
		for at := range raw {
			ways[fmt.Sprintf("cut at %d", at)] = sent(raw[:at], raw[at:])
		}
		for name, src := range ways {
			got, err := Read(src, 1000)
			if err != nil {
				t.Fatalf("level %d, %s: %v", level, name, err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("level %d, %s: %s", level, name, diff)
			}
		}
	}
}

// stutter reads nothing for a while.
type stutter struct {
	left int
	r    io.Reader
}

func (s *stutter) Read(p []byte) (int, error) {
	if s.left == 0 {
		return s.r.Read(p)
	}
	s.left--
	return 0, nil
}

func TestTheEndOfTheConnectionIsTold(t *testing.T) {
	_, err := Read(ended(nil), 1000)
	wantErr(t, err, io.EOF)
	for _, level := range levels {
		raw := full(level)
		for at := 1; at < len(raw); at++ {
			p, err := Read(ended(raw[:at]), 1000)
			if !errors.Is(err, io.ErrUnexpectedEOF) || !bytes.Equal(p.Raw, raw[:at]) {
				t.Fatalf("level %d, cut at %d: %v with % x", level, at, err, p.Raw)
			}
		}
	}
	_, err = Read(&script{err: os.ErrDeadlineExceeded}, 1000)
	wantErr(t, err, os.ErrDeadlineExceeded)
	_, err = Read(&stutter{left: 1 << 20}, 1000)
	wantErr(t, err, io.ErrNoProgress)
}

func TestParseSaysHowMuchIsMissing(t *testing.T) {
	raw := full(Level5)
	for at := range raw {
		p, need, err := Parse(raw[:at])
		want := len(raw)
		if at < 3 { // its Remaining Length takes two bytes
			want = at + 1
		}
		if err != nil || need != want {
			t.Errorf("%d bytes: needs %d, %v, want %d", at, need, err, want)
		}
		if known := at > 9; p.Level == Level5 != known {
			t.Errorf("%d bytes: level %d", at, p.Level)
		}
	}
	if _, need, err := Parse(append(raw, 0xc0, 0)); need != 0 || err != nil {
		t.Errorf("needs %d, %v", need, err)
	}
}

func TestThePasswordCannotGrowIntoWhatFollows(t *testing.T) {
	all := append(full(Level5), 0xc0, 0)
	p, err := Read(sent(all), 1000)
	if err != nil {
		t.Fatal(err)
	}
	if _ = append(p.Password, "longer"...); !bytes.Equal(p.Raw, all) {
		t.Error("the bytes to pass on have changed")
	}
}

func TestAnErrorDoesNotQuoteTheClient(t *testing.T) {
	for _, raw := range [][]byte{
		connect(Level5, 0xc2, "c", "hunter2\xff", "hunter2"),
		connect(Level5, 0xc2, "c", "hunter2", "hunter2", "hunter2"),
		wire.Frame(0x10, "hunter2", 5, 0xc2),
		wire.Frame(0x10, "MQTT", 5, 2, uint16(0), wire.Props(38, "hunter2", "\xff"), "c"),
		[]byte("hunter2"),
	} {
		_, err := Read(sent(raw), 1000)
		if err == nil {
			t.Fatalf("%q is taken", raw)
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error quotes the packet: %v", err)
		}
	}
}
