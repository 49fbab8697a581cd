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

// BenchmarkSubscribe is how many messages of QoS 1 in a second one stream takes and acknowledges, with publishers at two
// gateways. The publishers, their library and the whole cluster are in the same process.
func BenchmarkSubscribe(b *testing.B) {
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
		for range window {
			publishing.Go(func() {
				for left.Add(-1) >= 0 {
					_, err := d.Publish(ctx, &paho.Publish{Topic: fmt.Sprint("t/", i), QoS: 1, Payload: make([]byte, 100)})
					if err != nil && !errors.Is(err, context.Canceled) {
						b.Error(err)
						return
					}
				}
			})
		}
	}
	for got := 0; got < b.N; {
		m, err := c.Recv()
		if err != nil {
			b.Fatal(err)
		}
		var ids []uint64
		for _, x := range m.GetMessages().GetMessages() {
			ids = append(ids, x.GetDeliveryId())
		}
		if got += len(ids); len(ids) > 0 {
			c.acknowledge(ids...)
		}
	}
	b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "messages/s")
	cancel()
	publishing.Wait()
}
