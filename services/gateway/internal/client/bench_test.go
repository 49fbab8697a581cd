package client_test

import (
	"context"
	"fmt"
	"io"
	"testing"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
	"github.com/beeline-mqtt/beeline/internal/turn"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// sink is a broker that costs nothing: it delivers to one client, or to nobody.
type sink struct {
	to *client.Client
}

func (s *sink) Attach(_ context.Context, c *client.Client) error {
	if c.ID == "sub" {
		s.to = c
	}
	return nil
}

func (s *sink) Detach(*client.Client) {}

func (s *sink) Publish(from *client.Client, id uint16, m *message.Message, t *turn.Turn) {
	d := client.Delivery{Message: m, QoS: m.QoS}
	if m.QoS == 0 {
		if s.to != nil {
			s.to.Deliver(d, t)
		}
		return
	}
	p := new(publication)
	p.Begin(from, id, m.QoS, m.Size(), t.Now)
	if s.to != nil {
		p.Expect()
		d.Ticket = p
		s.to.Deliver(d, t)
		p.Done(packet.Success, t)
	}
	p.Done(packet.NoMatchingSubscribers, t)
	p.Pending()
}

func (s *sink) Subscribe(_ *client.Client, _ string, _ subscriptions.Options, done func(error) bool) {
	done(nil)
}

func (s *sink) Unsubscribe(*client.Client, string) {}

// BenchmarkPublish measures what one PUBLISH costs on the way in, sixteen at a time, PUBACK included.
func BenchmarkPublish(b *testing.B) {
	const batch = 16
	for _, version := range []byte{v3, v5} {
		for _, qos := range []byte{0, 1} {
			b.Run(fmt.Sprintf("version=%d/qos=%d", version, qos), func(b *testing.B) {
				s := new(sink)
				r := newRig(b, func(r *rig) { r.deps.Broker = s })
				c := r.connect(version, "a")
				var sent []byte
				for i := range batch {
					sent = append(sent, rawmqtt.Bytes(b, withVersion(publishPacket("bench/topic", string(make([]byte, 100)), qos, uint16(i*int(qos))+uint16(qos)), version))...)
				}
				sent = append(sent, 0xC0, 0) // PINGREQ: its answer says that all of it has been handled
				answer := 2
				if qos == 1 {
					answer += batch * 4
					if version == v5 {
						answer += batch // reason code: nobody subscribes
					}
				}
				got := make([]byte, answer)
				b.ReportAllocs()
				n := 0
				for b.Loop() {
					if n%batch == 0 {
						exchange(b, c, sent, got)
					}
					n++
				}
			})
		}
	}
}

// BenchmarkDeliver measures a message from one client to another, sixteen at a time, acknowledgements included.
func BenchmarkDeliver(b *testing.B) {
	const batch = 16
	for _, qos := range []byte{0, 1} {
		b.Run(fmt.Sprintf("version=4/qos=%d", qos), func(b *testing.B) {
			s := new(sink)
			r := newRig(b, func(r *rig) { r.deps.Broker = s })
			sub, pub := r.connect(v3, "sub"), r.connect(v3, "a")
			var sent []byte
			for i := range batch {
				sent = append(sent, rawmqtt.Bytes(b, withVersion(publishPacket("bench/topic", string(make([]byte, 100)), qos, uint16(i*int(qos))+uint16(qos)), v3))...)
			}
			size := len(sent) / batch
			got, received, acks := make([]byte, batch*4*int(qos)), make([]byte, len(sent)), make([]byte, 0, batch*4)
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				if n%batch == 0 {
					exchange(b, pub, sent, got)
					readFull(b, sub, received)
					acks = acks[:0]
					for i := 0; qos > 0 && i < len(received); i += size {
						id := i + 2 + 2 + len("bench/topic") // behind the fixed header and the topic
						acks = append(acks, 0x40, 2, received[id], received[id+1])
					}
					if _, err := sub.Conn().Write(acks); err != nil {
						b.Fatal(err)
					}
				}
				n++
			}
		})
	}
}

func exchange(b *testing.B, c *rawmqtt.Client, sent, got []byte) {
	b.Helper()
	if _, err := c.Conn().Write(sent); err != nil {
		b.Fatal(err)
	}
	readFull(b, c, got)
}

func readFull(b *testing.B, c *rawmqtt.Client, got []byte) {
	b.Helper()
	if _, err := io.ReadFull(c.Conn(), got); err != nil {
		b.Fatal(err)
	}
}
