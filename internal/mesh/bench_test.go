package mesh

import (
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/turn"
)

func benchDelivery(qos byte) Delivery {
	return Delivery{Message: &message.Message{
		ID: message.ID{Origin: "gateway-a", Seq: 123456}, Publisher: "publisher-17", Topic: "bench/pair/17",
		Payload: []byte(strings.Repeat("x", 64)), QoS: qos,
	}}
}

func BenchmarkEncodeBatch(b *testing.B) {
	w := batchWriter{self: "gateway-a"}
	d := benchDelivery(1)
	buf := make([]byte, 0, 64<<10)
	b.ReportAllocs()
	for b.Loop() {
		w.begin(buf)
		for range 64 {
			w.add(&d)
		}
		w.finish(1, 1)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/64, "ns/msg")
}

func BenchmarkDecodeBatch(b *testing.B) {
	w := batchWriter{self: "gateway-a"}
	d := benchDelivery(1)
	w.begin(nil)
	for range 64 {
		w.add(&d)
	}
	frame := w.buf[w.finish(1, 1):]
	b.ReportAllocs()
	for b.Loop() {
		_, body, err := only(frame)
		if err != nil {
			b.Fatal(err)
		}
		r, err := readBatch(body)
		if err != nil {
			b.Fatal(err)
		}
		var clk clock
		for {
			raw, err := r.delivery()
			if err != nil {
				b.Fatal(err)
			}
			if raw == nil {
				break
			}
			if _, err := decodeDelivery(raw, "gateway-a", &clk); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/64, "ns/msg")
}

// sink counts and forgets.
type sink struct{ n atomic.Int64 }

func (s *sink) Deliver(Delivery, Later) Receipt { s.n.Add(1); return Receipt{Outcome: Queued} }
func (s *sink) Flush()                          {}
func (s *sink) Close()                          {}

// tokens lets a benchmark have so many deliveries unsettled.
type tokens chan struct{}

func (k tokens) Settled(*Link, Delivery, Receipt, *turn.Turn) { k <- struct{}{} }

func benchLink(b *testing.B) *Link {
	y := startNode(b, "y", nodeOptions{revision: 1, accept: func(string) Inbound { return &sink{} }})
	x := startNode(b, "x", nodeOptions{revision: 2})
	introduce(x, y)
	synced(b, x)
	return x.link(b, "y")
}

// BenchmarkLinkQoS1 sends from one goroutine over loopback, with so many deliveries on the way.
func BenchmarkLinkQoS1(b *testing.B) {
	for _, window := range []int{1, 64, 1024} {
		b.Run(fmt.Sprintf("window%d", window), func(b *testing.B) {
			l := benchLink(b)
			k := make(tokens, window)
			for range window {
				k <- struct{}{}
			}
			d := benchDelivery(1)
			b.ReportAllocs()
			for b.Loop() {
				<-k
				if !l.Send(d, k) {
					b.Fatal("bound reached")
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
		})
	}
}

// BenchmarkLinkQoS0 sends from one goroutine over loopback, as fast as the link takes it: alone, and gathered in
// turns.
func BenchmarkLinkQoS0(b *testing.B) {
	for _, gathered := range []int{1, 16} {
		b.Run(fmt.Sprintf("turn%d", gathered), func(b *testing.B) {
			l := benchLink(b)
			d := benchDelivery(0)
			var now turn.Turn
			n := 0
			b.ReportAllocs()
			for b.Loop() {
				for !l.SendInTurn(&now, d, nil) {
					now.End()
					runtime.Gosched()
				}
				if n++; n%gathered == 0 {
					now.End()
				}
			}
			now.End()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
		})
	}
}
