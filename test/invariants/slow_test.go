package invariants

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/beeline-mqtt/beeline/test/clustertest"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// (f) A subscriber that stops reading delays nobody else: the others' 99th percentile stays within 10 %, or
// within the noise that two runs without it show.
func TestASubscriberThatStopsReadingDelaysNobodyElse(t *testing.T) {
	c := clustertest.Start(t, 2, nil)
	pub := rawmqtt.Connect(t, c.MQTT(0), rawmqtt.V5, "sender")
	sub := rawmqtt.Connect(t, c.MQTT(1), rawmqtt.V5, "receiver")
	sub.MustSubscribe("fast/#", 1)

	// The stuck one is fed by a publisher of its own, at both qualities of service.
	stuck := rawmqtt.Connect(t, c.MQTT(1), rawmqtt.V5, "stuck")
	stuck.MustSubscribe("slow/#", 1)
	flood := rawmqtt.Connect(t, c.MQTT(0), rawmqtt.V5, "flood")

	measure(t, pub, sub, 500) // warm
	before := min(measure(t, pub, sub, 3000), measure(t, pub, sub, 3000))

	stop := make(chan struct{})
	flooded := make(chan int)
	go func() {
		n := 0
		payload := strings.Repeat("y", 8<<10)
		defer func() { flooded <- n }()
		for {
			select {
			case <-stop:
				return
			default:
			}
			qos0 := rawmqtt.PublishPacket("slow/x", payload, 0)
			flood.Send(qos0)
			n++
			if n%64 == 0 {
				time.Sleep(5 * time.Millisecond) // a load, not a synchronisation: about 100 MB/s at most
			}
		}
	}()
	clustertest.Eventually(t, "the stuck client's queue is full", func() bool {
		return c.Metric(t, 1, "beeline_gateway_messages_dropped_total", "reason=queue_full") > 0
	})
	during := min(measure(t, pub, sub, 3000), measure(t, pub, sub, 3000))
	close(stop)
	t.Logf("p99 %v without, %v with a stuck subscriber fed with %d messages", before, during, <-flooded)
	// The load itself takes processor time on a small machine; that is not what is measured here.
	if limit := before + before/10 + 2*time.Millisecond; during > limit {
		t.Errorf("p99 %v with a stuck subscriber, %v without: more than %v", during, before, limit)
	}
}

// measure returns the 99th percentile of the time from PUBLISH to its arrival on the other gateway.
func measure(t *testing.T, pub, sub *rawmqtt.Client, n int) time.Duration {
	t.Helper()
	took := make([]time.Duration, n)
	for i := range took {
		payload := fmt.Sprint(i)
		begin := time.Now()
		pub.Publish("fast/x", payload, 1)
		sub.ReceivePayload(payload)
		took[i] = time.Since(begin)
	}
	slices.Sort(took)
	return took[n*99/100]
}
