package packet

import (
	"bytes"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/test/wire"
)

func benchmarkDecodePublish(b *testing.B, v Version, first byte, body []byte) {
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if _, err := DecodePublish(v, first, body, false); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodePublish(b *testing.B) {
	topic, payload := "sensors/kitchen/temperature", make([]byte, 64)
	b.Run("v3", func(b *testing.B) {
		benchmarkDecodePublish(b, V311, 0x32, wire.Bytes(topic, uint16(7), payload))
	})
	b.Run("v5", func(b *testing.B) {
		benchmarkDecodePublish(b, V5, 0x32, wire.Bytes(topic, uint16(7), 0, payload))
	})
	b.Run("v5 expiry and alias", func(b *testing.B) {
		benchmarkDecodePublish(b, V5, 0x32, wire.Bytes(topic, uint16(7), wire.Props(2, uint32(60), 35, uint16(3)), payload))
	})
	b.Run("v5 properties", func(b *testing.B) {
		block := wire.Props(3, "text/plain", 8, "reply/to", 9, "corr", 38, "name", "value", 38, "trace", "00-1234")
		benchmarkDecodePublish(b, V5, 0x32, wire.Bytes(topic, uint16(7), block, payload))
	})
}

func BenchmarkAppendPublish(b *testing.B) {
	now := time.Now()
	for _, props := range []*message.Properties{nil, {ContentType: "text/plain", ResponseTopic: "reply/to", User: someUser}} {
		for _, forms := range []*message.Forms{nil, {}} {
			for _, v := range []Version{V311, V5} {
				m := &message.Message{
					Topic: "sensors/kitchen/temperature", Payload: make([]byte, 64), Props: props, Forms: forms, Expires: now.Add(time.Hour),
				}
				b.Run(fmt.Sprintf("v%d properties %v forms %v", v, props != nil, forms != nil), func(b *testing.B) {
					buf := make([]byte, 0, 1024)
					b.ReportAllocs()
					for b.Loop() {
						buf = AppendPublish(buf[:0], v, m, PublishOptions{PacketID: 7, QoS: 1}, now)
					}
				})
			}
		}
	}
}

func BenchmarkPublishSize(b *testing.B) {
	m := &message.Message{Topic: "sensors/kitchen/temperature", Payload: make([]byte, 64), Props: &message.Properties{User: someUser}}
	b.ReportAllocs()
	for b.Loop() {
		PublishSize(V5, m, PublishOptions{QoS: 1})
	}
}

func BenchmarkDecodeAck(b *testing.B) {
	for _, v := range []Version{V311, V5} {
		b.Run(fmt.Sprintf("v%d", v), func(b *testing.B) {
			body := wire.Bytes(uint16(7))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := DecodeAck(v, 0x40, body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppendAck(b *testing.B) {
	buf := make([]byte, 0, 16)
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendAck(buf[:0], V5, PUBACK, 7, Success)
	}
}

func BenchmarkDecodeConnect(b *testing.B) {
	for _, v := range []Version{V311, V5} {
		b.Run(fmt.Sprintf("v%d", v), func(b *testing.B) {
			body := validConnect(v)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := DecodeConnect(body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppendConnack(b *testing.B) {
	buf := make([]byte, 0, 256)
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendConnack(buf[:0], V5, Connack{ReceiveMaximum: 100, MaximumPacketSize: 1 << 20, TopicAliasMaximum: 16})
	}
}

func BenchmarkDecodeSubscribe(b *testing.B) {
	body := wire.Bytes(uint16(7), 0, "devices/1234/commands/#", 1)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeSubscribe(V5, 0x82, body); err != nil {
			b.Fatal(err)
		}
	}
}

// forever repeats its bytes.
type forever struct {
	raw []byte
	at  int
}

func (f *forever) Read(p []byte) (int, error) {
	n := copy(p, f.raw[f.at:])
	f.at = (f.at + n) % len(f.raw)
	return n, nil
}

func BenchmarkReader(b *testing.B) {
	for _, size := range []int{64, 1000, 64 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			r := NewReader(&forever{raw: bytes.Repeat(wire.Frame(0x30, make([]byte, size)), max(1, 1<<16/size))})
			b.ReportAllocs()
			b.SetBytes(int64(size))
			for b.Loop() {
				if _, _, _, err := r.Next(1 << 20); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkNewReader(b *testing.B) {
	var r *Reader
	b.ReportAllocs()
	for b.Loop() {
		r = NewReader(io.MultiReader())
	}
	_ = r
}
