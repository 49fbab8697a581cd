package services

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"

	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
)

// BenchmarkSubscribe is how many messages in a second one stream takes and acknowledges, with publishers at the other
// gateways. The publishers, their library and the whole cluster are in the same process.
func BenchmarkSubscribe(b *testing.B) {
	for _, qos := range []byte{0, 1} {
		b.Run(fmt.Sprint("QoS", qos), func(b *testing.B) { benchmarkSubscribe(b, qos) })
	}
}

func benchmarkSubscribe(b *testing.B, qos byte) {
	const publishers, window = 8, 64
	r := start(b, 2)
	c := r.open(&messagingv1.SubscribeRequest_Open{Filters: filters("t/#"), MaxUnacknowledged: 10_000})
	ctx, cancel := context.WithCancel(context.Background())
	var left atomic.Int64
	left.Store(int64(b.N))
	var publishing sync.WaitGroup
	b.ResetTimer()
	began := time.Now()
	for i := range publishers {
		d := r.connect(fmt.Sprint("device-", i), i%2, nil)
		n := window
		if qos == 0 {
			n = 1
		}
		for range n {
			publishing.Go(func() {
				for left.Add(-1) >= 0 {
					_, err := d.Publish(ctx, &paho.Publish{Topic: fmt.Sprint("t/", i), QoS: qos, Payload: make([]byte, 100)})
					if err != nil && !errors.Is(err, context.Canceled) {
						b.Error(err)
						return
					}
				}
			})
		}
	}
	for got := 0; got+int(c.dropped) < b.N; {
		m, err := c.Recv()
		if err != nil {
			b.Fatal(err)
		}
		c.dropped += m.GetMessages().GetDropped()
		var ids []uint64
		for _, x := range m.GetMessages().GetMessages() {
			ids = append(ids, x.GetDeliveryId())
		}
		if got += len(ids); len(ids) > 0 {
			c.acknowledge(ids...)
		}
	}
	b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "messages/s")
	b.ReportMetric(float64(c.dropped), "dropped")
	cancel()
	publishing.Wait()
}
