package invariants

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/beeline-mqtt/beeline/test/clustertest"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// (f) A subscriber that stops reading delays nobody else: with the same load to it, the others' 99th percentile
// is within 10 % of what it is while it reads. The machine's own noise may be larger than that. So both are measured
// one right after the other, again and again, until the pairs within 10 % outnumber those beyond it as they would not
// by chance. On a machine too busy for that, those beyond may not outnumber the others so either.
func TestASubscriberThatStopsReadingDelaysNobodyElse(t *testing.T) {
	c := clustertest.Start(t, 2, nil)
	pub := rawmqtt.Connect(t, c.MQTT(0), rawmqtt.V5, "sender")
	sub := rawmqtt.Connect(t, c.MQTT(1), rawmqtt.V5, "receiver")
	sub.MustSubscribe("fast/#", 1)
	flood := rawmqtt.Connect(t, c.MQTT(0), rawmqtt.V5, "flood")
	percentile(t, pub, sub, 500) // warm
	measure := func(reads bool) time.Duration {
		return loaded(t, c, flood, sub, reads, func() time.Duration { return percentile(t, pub, sub, 1000) })
	}

	const least, most = 5, 40
	lead := 0 // of the pairs within 10 %
	var list []string
	for n := 1; n <= most; n++ {
		var reading, stuck time.Duration
		if n%2 == 0 {
			reading, stuck = measure(true), measure(false)
		} else {
			stuck, reading = measure(false), measure(true)
		}
		list = append(list, fmt.Sprintf("%v and %v", reading, stuck))
		if stuck <= reading+reading/10 {
			lead++
		} else {
			lead--
		}
		// Of n tossed coins, heads outnumber tails by 2√n once in forty times.
		chance := 2 * math.Sqrt(float64(n))
		if n >= least && float64(lead) >= chance {
			t.Logf("within 10 %%, after %d pairs", n)
			return
		}
		if n == most && float64(lead) <= -chance {
			t.Errorf("99th percentile while the other reads and while it does not, more than 10 %% apart too often:\n%s",
				strings.Join(list, "\n"))
			return
		}
	}
	t.Logf("the machine is too busy to tell: lead %d after %d pairs", lead, most)
}

// loaded runs f while another subscriber on the same gateway as sub gets 2 MB/s, and reads them or not.
func loaded(
	t *testing.T, c *clustertest.Cluster, flood, sub *rawmqtt.Client, reads bool, f func() time.Duration,
) time.Duration {
	t.Helper()
	other := rawmqtt.Connect(t, c.MQTT(1), rawmqtt.V5, "other")
	other.MustSubscribe("flood/#", 1)
	defer other.Close()
	message := rawmqtt.PublishPacket("flood/x", strings.Repeat("y", 4<<10), 0)

	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	if reads {
		wg.Go(func() {
			for ctx.Err() == nil {
				if _, err := other.Next(100 * time.Millisecond); err != nil && ctx.Err() == nil {
					continue // nothing came in the meantime
				}
			}
		})
	} else {
		dropped := func() float64 { return c.Metric(t, 1, "beeline_gateway_messages_dropped_total", "reason=queue_full") }
		before := dropped()
		clustertest.Eventually(t, "the queue of the one that does not read is full", func() bool {
			for range 200 {
				flood.Send(message)
			}
			return dropped() > before
		})
	}
	// What filled the queue is through both gateways once this is: it takes the same way behind it.
	flood.Publish("fast/filled", "filled", 1)
	sub.ReceivePayload("filled")
	wg.Go(func() {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				flood.Send(message)
			}
		}
	})
	return f()
}

// percentile returns the 99th percentile of the time from a PUBLISH to its arrival on the other gateway.
func percentile(t *testing.T, pub, sub *rawmqtt.Client, n int) time.Duration {
	t.Helper()
	took := make([]time.Duration, n)
	for i := range took {
		payload := strconv.Itoa(i)
		begin := time.Now()
		pub.Publish("fast/x", payload, 1)
		sub.ReceivePayload(payload)
		took[i] = time.Since(begin)
	}
	slices.Sort(took)
	return took[n*99/100]
}
