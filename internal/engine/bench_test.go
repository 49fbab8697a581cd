package engine

import (
	"fmt"
	"testing"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
)

// deliver offers n messages, sends them, and acknowledges them as a client does.
func deliver(tb testing.TB, s *Session[*int], m *message.Message, ticket *int, qos byte, n int, settled []Settlement[*int]) {
	for range n {
		s.Offer(Delivery[*int]{Message: m, QoS: qos, Ticket: ticket, Until: UntilAcked}, noon)
	}
	for {
		o, ok := s.Next(noon)
		if !ok {
			break
		}
		switch qos {
		case 1:
			acknowledge(tb, s, packet.PUBACK, o.PacketID)
		case 2:
			acknowledge(tb, s, packet.PUBREC, o.PacketID)
			acknowledge(tb, s, packet.PUBCOMP, o.PacketID)
		}
	}
	s.Settled(settled[:0])
}

func acknowledge(tb testing.TB, s *Session[*int], kind packet.Type, id uint16) {
	if _, _, err := s.Acked(packet.Ack{Type: kind, PacketID: id}); err != nil {
		tb.Fatal(err)
	}
}

func publish(s *Session[*int], qos byte, n int) {
	for id := range n {
		s.Published(uint16(id+1), qos)
	}
	for id := range n {
		s.Forwarded(uint16(id+1), qos, packet.Success)
	}
	for range n {
		if ack, _ := s.NextAck(); qos == 2 {
			s.Release(ack.PacketID)
		}
	}
}

func busy() (s *Session[*int], m *message.Message, ticket *int, settled []Settlement[*int]) {
	s = New[*int](Limits{QueueMessages: 1000, QueueBytes: 1 << 20, SendMaximum: 32, ReceiveMaximum: 64})
	return s, &message.Message{Topic: "a/b", Payload: make([]byte, 64)}, new(int), make([]Settlement[*int], 0, 64)
}

func TestSteadyStateDoesNotAllocate(t *testing.T) {
	for qos := range byte(3) {
		t.Run(fmt.Sprintf("delivering at QoS %d", qos), func(t *testing.T) {
			s, m, ticket, settled := busy()
			deliver(t, s, m, ticket, qos, 32, settled)
			if n := testing.AllocsPerRun(1000, func() { deliver(t, s, m, ticket, qos, 32, settled) }); n > 0 {
				t.Errorf("%v allocations for 32 deliveries", n)
			}
		})
	}
	for qos := byte(1); qos < 3; qos++ {
		t.Run(fmt.Sprintf("taking messages at QoS %d", qos), func(t *testing.T) {
			s, _, _, _ := busy()
			publish(s, qos, 32)
			if n := testing.AllocsPerRun(1000, func() { publish(s, qos, 32) }); n > 0 {
				t.Errorf("%v allocations for 32 messages", n)
			}
		})
	}
}

func BenchmarkDeliver(b *testing.B) {
	for qos := range byte(3) {
		for _, n := range []int{1, 32} {
			b.Run(fmt.Sprintf("qos=%d/batch=%d", qos, n), func(b *testing.B) {
				s, m, ticket, settled := busy()
				b.ReportAllocs()
				for b.Loop() {
					deliver(b, s, m, ticket, qos, n, settled)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/delivery")
			})
		}
	}
}

func BenchmarkPublished(b *testing.B) {
	for qos := byte(1); qos < 3; qos++ {
		for _, n := range []int{1, 32} {
			b.Run(fmt.Sprintf("qos=%d/batch=%d", qos, n), func(b *testing.B) {
				s, _, _, _ := busy()
				b.ReportAllocs()
				for b.Loop() {
					publish(s, qos, n)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/message")
			})
		}
	}
}

// BenchmarkPublishedCycling is a client that keeps many messages unacknowledged and uses all packet identifiers in turn.
func BenchmarkPublishedCycling(b *testing.B) {
	s := New[*int](Limits{ReceiveMaximum: 1024})
	newest, oldest := uint16(0), uint16(1)
	for newest < 1000 {
		newest++
		s.Published(newest, 1)
	}
	b.ReportAllocs()
	for b.Loop() {
		newest = newest%65535 + 1
		s.Published(newest, 1)
		s.Forwarded(oldest, 1, packet.Success)
		if ack, ok := s.NextAck(); !ok || ack.PacketID != oldest {
			b.Fatalf("acknowledged %d, want %d", ack.PacketID, oldest)
		}
		oldest = oldest%65535 + 1
	}
}

// BenchmarkShed offers QoS 1 messages to a queue that is full of QoS 0.
func BenchmarkShed(b *testing.B) {
	s, m, _, _ := busy()
	b.ReportAllocs()
	for b.Loop() {
		s.Offer(Delivery[*int]{Message: m}, noon)
		if o := s.Offer(Delivery[*int]{Message: m, QoS: 1}, noon); o == Waiting {
			b.StopTimer()
			s, m, _, _ = busy()
			b.StartTimer()
		}
	}
}

// BenchmarkHeldIdentifier is a client that keeps half of a large window unacknowledged for ever.
func BenchmarkHeldIdentifier(b *testing.B) {
	s := New[*int](Limits{QueueMessages: 1 << 16, QueueBytes: 1 << 30, SendMaximum: 2048})
	m := &message.Message{Topic: "a/b"}
	for range 1024 {
		s.Offer(Delivery[*int]{Message: m, QoS: 1}, noon)
		s.Next(noon)
	}
	b.ReportAllocs()
	for b.Loop() {
		s.Offer(Delivery[*int]{Message: m, QoS: 1}, noon)
		o, _ := s.Next(noon)
		acknowledge(b, s, packet.PUBACK, o.PacketID)
	}
}

var sink []*Session[*int]

// BenchmarkMemory reports what a session costs: idle, and after it has been used once in both directions.
func BenchmarkMemory(b *testing.B) {
	b.Run("idle", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			sink = append(sink[:0], New[*int](Limits{}))
		}
	})
	b.Run("used", func(b *testing.B) {
		_, m, ticket, settled := busy()
		b.ReportAllocs()
		for b.Loop() {
			s := New[*int](Limits{QueueMessages: 1000, QueueBytes: 1 << 20, SendMaximum: 32})
			deliver(b, s, m, ticket, 1, 1, settled)
			publish(s, 1, 1)
			sink = append(sink[:0], s)
		}
	})
}
