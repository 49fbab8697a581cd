package packet

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/iotest"
	"time"
	"unicode/utf8"

	paho "github.com/eclipse/paho.golang/packets"
	paho311 "github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/test/wire"
)

// seed adds the packets of a type, whole and in pieces, to the corpus of a target f(v5 bool, first byte, body []byte).
func seed(f *testing.F, kinds ...Type) {
	f.Helper()
	for _, p := range wholePackets() {
		if !slices.Contains(kinds, Type(p.first>>4)) {
			continue
		}
		f.Add(p.v == V5, p.first, p.body)
		f.Add(p.v != V5, p.first, p.body)
		f.Add(p.v == V5, p.first, p.body[:len(p.body)/2])
		f.Add(p.v == V5, p.first|0x0f, p.body)
	}
	f.Add(true, byte(kinds[0])<<4|kinds[0].flags(), []byte{0x00, 0x01, 0x00, 0x00, 0x00}) // crashes mochi as a SUBSCRIBE
}

func version(v5 bool) Version {
	if v5 {
		return V5
	}
	return V311
}

// refused checks that err is one that a connection may be closed with, and reports whether there is one.
func refused(t *testing.T, err error) bool {
	t.Helper()
	if err == nil {
		return false
	}
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("error is %T: %v", err, err)
	}
	if _, named := codeNames[e.Code]; !named || !e.Code.Failure() || e.Detail == "" || !utf8.ValidString(e.Detail) {
		t.Fatalf("error is %v with code 0x%02x", e, byte(e.Code))
	}
	return true
}

func FuzzDecodeConnect(f *testing.F) {
	for _, v := range []Version{V311, V5} {
		f.Add(validConnect(v))
		f.Add(validConnect(v)[:30])
	}
	f.Add(wire.Bytes("MQTT", 5, 2, uint16(0), wire.Props(17, uint32(0), 21, "m", 22, ""), "c"))
	f.Add(wire.Bytes("MQTT", 5, 6, uint16(0), 0, "", wire.Props(9, ""), "t", ""))
	f.Add(wire.Bytes("MQIsdp", 3, 2, uint16(0), "c"))
	f.Fuzz(func(t *testing.T, body []byte) {
		c, err := DecodeConnect(body)
		if answer := ConnectVersion(body); err == nil && answer != c.Version {
			t.Fatalf("version is %d, answered in %d", c.Version, answer)
		}
		if !refused(t, err) {
			agreeOnConnect(t, body, c)
		}
	})
}

func FuzzDecodePublish(f *testing.F) {
	seed(f, PUBLISH)
	f.Add(true, byte(0x30), wire.Bytes("", wire.Props(35, uint16(7), 2, uint32(0)), []byte("p")))
	f.Add(true, byte(0x3d), wire.Bytes("t", uint16(1), wire.Props(9, "", 38, "", "", 3, ""), []byte("p")))
	f.Fuzz(func(t *testing.T, v5 bool, first byte, body []byte) {
		p, err := DecodePublish(version(v5), first, body, false)
		if refused(t, err) {
			if _, err := DecodePublish(version(v5), first, bytes.Clone(body), true); err == nil {
				t.Fatal("refused, but not when owned")
			}
			return
		}
		owned := must[Publish](t)(DecodePublish(version(v5), first, bytes.Clone(body), true))
		same(t, "when owned", p, owned)
		agreeOnPublish(t, version(v5), first, body, p)

		// What a receiver gets of it means the same.
		now := time.Unix(1e9, 0)
		m := &message.Message{Topic: p.Topic, Payload: p.Payload, Props: p.Props, Forms: &message.Forms{}}
		if p.HasExpiry {
			m.Expires = now.Add(time.Duration(p.Expiry) * time.Second)
		}
		o := PublishOptions{PacketID: p.PacketID, Dup: p.Dup, QoS: p.QoS, Retain: p.Retain, Alias: p.Alias, OmitTopic: p.Topic == ""}
		raw := AppendPublish(nil, version(v5), m, o, now)
		first, body, _, err = NewReader(bytes.NewReader(raw)).Next(len(raw))
		if err != nil || PublishSize(version(v5), m, o) != len(raw) {
			t.Fatalf("sent on: %v; size is %d of %d", err, PublishSize(version(v5), m, o), len(raw))
		}
		again := must[Publish](t)(DecodePublish(version(v5), first, body, true))
		same(t, "sent on", plainPublish(p), plainPublish(again))
	})
}

func FuzzDecodeAck(f *testing.F) {
	seed(f, PUBACK, PUBREC, PUBREL, PUBCOMP)
	f.Fuzz(func(t *testing.T, v5 bool, first byte, body []byte) {
		a, err := DecodeAck(version(v5), first, body)
		if !refused(t, err) {
			agreeOnAck(t, version(v5), first, body, a)
		}
	})
}

func FuzzDecodeSubscribe(f *testing.F) {
	seed(f, SUBSCRIBE)
	f.Add(true, byte(0x82), wire.Bytes(uint16(7), wire.Props(38, "k", "1", 11, 0xff, 0xff, 0xff, 0x7f), "$share/g/a", 0x2a, "b", 0x14))
	f.Fuzz(func(t *testing.T, v5 bool, first byte, body []byte) {
		s, err := DecodeSubscribe(version(v5), first, body)
		if !refused(t, err) {
			agreeOnSubscribe(t, version(v5), first, body, s)
		}
	})
}

func FuzzDecodeUnsubscribe(f *testing.F) {
	seed(f, UNSUBSCRIBE)
	f.Add(false, byte(0xa2), wire.Bytes(uint16(7), "a", "", "b"))
	f.Fuzz(func(t *testing.T, v5 bool, first byte, body []byte) {
		u, err := DecodeUnsubscribe(version(v5), first, body)
		if !refused(t, err) {
			agreeOnUnsubscribe(t, version(v5), first, body, u)
		}
	})
}

func FuzzDecodeDisconnect(f *testing.F) {
	seed(f, DISCONNECT)
	f.Add(true, byte(0xe0), []byte{4})
	f.Add(true, byte(0xe0), []byte{})
	f.Fuzz(func(t *testing.T, v5 bool, first byte, body []byte) {
		d, err := DecodeDisconnect(version(v5), first, body)
		if !refused(t, err) {
			agreeOnDisconnect(t, first, body, d)
		}
	})
}

func FuzzDecodeAuth(f *testing.F) {
	seed(f, AUTH)
	f.Add(true, byte(0xf0), wire.Bytes(0x19, wire.Props(21, "", 22, "")))
	f.Fuzz(func(t *testing.T, v5 bool, first byte, body []byte) {
		a, err := DecodeAuth(version(v5), first, body)
		if !refused(t, err) {
			agreeOnAuth(t, first, body, a)
		}
	})
}

func FuzzDecodeEmpty(f *testing.F) {
	f.Add(byte(0xc0), []byte{})
	f.Fuzz(func(t *testing.T, first byte, body []byte) {
		if !refused(t, DecodeEmpty(first, body)) && (first != 0xc0 || len(body) > 0) {
			t.Fatalf("% x % x is taken for a PINGREQ", first, body)
		}
	})
}

func FuzzReader(f *testing.F) {
	_, raw := stream()
	f.Add(raw[:9000], uint16(5000))
	f.Add([]byte{0x82, 0x05, 0x00, 0x01, 0x00, 0x00, 0x00}, uint16(100))
	f.Add([]byte{0xc0, 0x00, 0x10, 0xff, 0xff, 0xff, 0xff, 0x7f}, uint16(100))
	f.Add(append(wire.Frame(0x30, make([]byte, 5000)), 0xc0), uint16(0xffff))
	f.Fuzz(func(t *testing.T, raw []byte, limit uint16) {
		want, wantErr := split(raw, int(limit))
		for name, r := range map[string]io.Reader{
			"at once":      bytes.NewReader(raw),
			"by halves":    iotest.HalfReader(bytes.NewReader(raw)),
			"byte by byte": iotest.OneByteReader(bytes.NewReader(raw)),
		} {
			got, err := readAll(NewReader(r), int(limit))
			if !slices.EqualFunc(want, got, func(a, b read) bool { return a.first == b.first && bytes.Equal(a.body, b.body) }) {
				t.Fatalf("%s: %d packets, want %d", name, len(got), len(want))
			}
			if errors.Is(wantErr, errRefused) {
				refused(t, err) // io.EOF is no *Error: it fails here
			} else if !errors.Is(err, wantErr) {
				t.Fatalf("%s: %v, want %v", name, err, wantErr)
			}
		}
	})
}

var errRefused = errors.New("the next packet has to be refused")

// split is the Reader in slow and simple.
func split(raw []byte, limit int) (packets []read, err error) {
	for {
		if len(raw) == 0 {
			return packets, io.EOF
		}
		if checkFirst(raw[0]) != nil {
			return packets, errRefused
		}
		length, used := 0, 1
		for {
			if used == 5 {
				return packets, errRefused
			}
			if used == len(raw) {
				return packets, io.ErrUnexpectedEOF
			}
			length += int(raw[used]&0x7f) << (7 * (used - 1))
			used++
			if raw[used-1] < 0x80 {
				break
			}
		}
		if used+length > limit {
			return packets, errRefused
		}
		if used+length > len(raw) {
			return packets, io.ErrUnexpectedEOF
		}
		packets = append(packets, read{raw[0], raw[used : used+length]})
		raw = raw[used+length:]
	}
}

func FuzzAppendPublish(f *testing.F) {
	f.Add("a/b", []byte("payload"), "text", "reply", []byte("corr"), "k", "v", uint32(60), byte(0x3f), uint16(7), uint32(5), uint16(2))
	f.Add("", []byte{}, "", "", []byte{}, "", "", uint32(0), byte(0), uint16(0), uint32(0), uint16(0))
	f.Fuzz(func(t *testing.T, topic string, payload []byte, contentType, response string, correlation []byte, name, value string,
		expiry uint32, flags byte, packetID uint16, id uint32, alias uint16,
	) {
		m := &message.Message{Topic: topic, Payload: payload}
		if flags&0x10 != 0 {
			m.Expires = deliverNow.Add(time.Duration(expiry) * time.Second)
		}
		if flags&0x20 != 0 {
			m.Props = &message.Properties{
				PayloadFormat: expiryBit(expiry), HasPayloadFormat: true, ContentType: contentType, ResponseTopic: response,
				CorrelationData: correlation, User: []message.UserProperty{{Name: name, Value: value}, {Name: value, Value: name}},
			}
		}
		o := PublishOptions{
			PacketID: packetID, Dup: flags&8 != 0, QoS: ((flags >> 1) & 3) % 3, Retain: flags&1 != 0, Alias: alias,
			OmitTopic: flags&0x40 != 0,
		}
		if id &= 1<<28 - 1; id > 0 {
			o.IDs = []uint32{id}
		}
		raw := AppendPublish(nil, V5, m, o, deliverNow)
		pk := must[*paho.ControlPacket](t)(paho.ReadPacket(bytes.NewReader(raw)))
		same(t, "the other codec", any(expected(m, o, expiry)), any(pk.Content))
		if PublishSize(V5, m, o) != len(raw) {
			t.Fatalf("size is %d, want %d", PublishSize(V5, m, o), len(raw))
		}
		m.Forms = &message.Forms{}
		for range 2 {
			if !bytes.Equal(raw, AppendPublish(nil, V5, m, o, deliverNow)) {
				t.Fatal("with forms it is another packet")
			}
		}

		raw = AppendPublish(nil, V311, m, o, deliverNow)
		old := must[paho311.ControlPacket](t)(paho311.ReadPacket(bytes.NewReader(raw))).(*paho311.PublishPacket)
		if old.TopicName != topic || !bytes.Equal(old.Payload, payload) || old.Qos != o.QoS || old.Retain != o.Retain ||
			old.Dup != (o.Dup && o.QoS > 0) || o.QoS > 0 && old.MessageID != packetID || PublishSize(V311, m, o) != len(raw) {
			t.Fatalf("in 3.1.1 the other codec reads %v", old)
		}
	})
}

func expiryBit(n uint32) byte { return byte(n & 1) }
