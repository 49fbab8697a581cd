package router_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/test/clustertest"
)

// BenchmarkPublishStream has one caller, the router, one gateway and its client in one process. An operation is a message
// at QoS 1 from the caller until its result is there.
func BenchmarkPublishStream(b *testing.B) {
	for _, subscribers := range []int{0, 1} {
		b.Run(fmt.Sprintf("subscribers%d", subscribers), func(b *testing.B) {
			d := begin(b, 1, nil)
			for i := range subscribers {
				c := d.connect(0, fmt.Sprint("subscriber", i))
				c.MustSubscribe("a/b/c", 0)
				go func() {
					for {
						if _, err := c.Next(clustertest.Patience); err != nil {
							return
						}
					}
				}()
			}
			s, err := d.PublishStream(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			batch := make([]*messagingv1.Message, 100)
			for i := range batch {
				batch[i] = message("a/b/c", "a payload of some forty bytes, as many are")
			}
			b.ReportAllocs()
			b.ResetTimer()
			go func() {
				for left := b.N; left > 0; left -= len(batch) {
					part := batch[:min(left, len(batch))]
					if s.Send(&messagingv1.PublishStreamRequest{Messages: part}) != nil {
						return
					}
				}
				_ = s.CloseSend()
			}()
			for got := 0; got < b.N; {
				r, err := s.Recv()
				if err != nil {
					b.Fatal(err)
				}
				got += len(r.GetResults())
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
		})
	}
}

// BenchmarkSend sends to single clients, many at once. An operation is one Send until the device has acknowledged it.
func BenchmarkSend(b *testing.B) {
	d := begin(b, 3, nil)
	const clients = 60
	for i := range clients {
		c := d.connect(i%3, fmt.Sprint("c", i))
		go func() {
			for {
				p, err := c.Next(clustertest.Patience)
				if err != nil {
					return
				}
				c.Ack(packets.Puback, p.PacketID)
			}
		}()
	}
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	next := make(chan int)
	for range 200 {
		wg.Go(func() {
			for i := range next {
				r, err := d.Send(b.Context(), to(fmt.Sprint("c", i%clients), "x"))
				if err != nil || r.GetReceipts()[0].GetOutcome() != messagingv1.Outcome_OUTCOME_ACKNOWLEDGED {
					b.Errorf("%v, %v", r, err)
				}
			}
		})
	}
	for i := range b.N {
		next <- i
	}
	close(next)
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "sends/s")
}

// BenchmarkSendToGroup sends to a group of clients that acknowledge. An operation is one Send with all its receipts.
func BenchmarkSendToGroup(b *testing.B) {
	const members = 3000
	d := begin(b, 3, nil)
	var ready sync.WaitGroup
	var ids []string
	for i := range 30 {
		for k := range members / 30 {
			ids = append(ids, fmt.Sprintf("m%d-%d", i, k))
		}
	}
	for i := range 30 {
		ready.Go(func() {
			for k := range members / 30 {
				c := d.connect((i+k)%3, fmt.Sprintf("m%d-%d", i, k))
				go func() {
					for {
						p, err := c.Next(clustertest.Patience)
						if err != nil {
							return
						}
						c.Ack(packets.Puback, p.PacketID)
					}
				}()
			}
		})
	}
	ready.Wait()
	d.group("g", ids...)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		r, err := d.Send(b.Context(), &messagingv1.SendRequest{
			Receiver: toGroup("g"), Message: message("t", "x"), Wait: messagingv1.Wait_WAIT_ACKNOWLEDGED, TimeoutMs: 20_000,
		})
		if err != nil || len(r.GetReceipts()) != members || r.GetCounts()[0].GetReceivers() != members {
			b.Fatalf("%d receipts, %v, %v", len(r.GetReceipts()), r.GetCounts(), err)
		}
	}
	b.ReportMetric(float64(b.N*members)/b.Elapsed().Seconds(), "receivers/s")
}
