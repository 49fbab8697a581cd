package invariants

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/cmd/beeline/local"
	"github.com/beeline-mqtt/beeline/services/gateway"
	"github.com/beeline-mqtt/beeline/test/clustertest"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// A topic with many subscribers costs one delivery for each gateway that has any.
func TestAMessageForManyGoesOnceToEachGateway(t *testing.T) {
	c := clustertest.Start(t, 3, nil)
	const subscribers, messages = 60, 50
	var subs []*rawmqtt.Client
	for i := range subscribers {
		version := rawmqtt.V5
		if i%3 == 0 {
			version = rawmqtt.V311
		}
		s := rawmqtt.Connect(t, c.MQTT(1+i%2), version, fmt.Sprintf("member-%d", i))
		s.MustSubscribe("room/1", byte(i%3))
		subs = append(subs, s)
	}
	pub := rawmqtt.Connect(t, c.MQTT(0), rawmqtt.V5, "speaker")
	for i := range messages {
		pub.Publish("room/1", strconv.Itoa(i), 1)
	}
	for _, s := range subs {
		for i := range messages {
			s.ReceivePayload(strconv.Itoa(i))
		}
		s.ExpectNothing()
	}
	for _, g := range []int{1, 2} {
		if got := c.Metric(t, g, "beeline_mesh_deliveries_total", "direction=in"); got != messages {
			t.Errorf("gateway %d got %v deliveries for %d messages", g+1, got, messages)
		}
	}
}

// The acknowledgement of a message whose receiver's queue is full waits. The receiver is ended when its queue has
// been full for too long, which releases the publisher; the publisher's pings are answered all the time.
func TestAStuckReceiverHoldsItsPublisherUpUntilItIsEnded(t *testing.T) {
	const patience = 3 * time.Second
	c := clustertest.Start(t, 2, func(cfg *local.Config) {
		cfg.Gateway = func(_ int, g *gateway.Config) {
			g.Limits.SlowTimeout = patience
			g.Limits.QueueMessages = 10
		}
	})
	stuck := rawmqtt.Connect(t, c.MQTT(1), rawmqtt.V5, "stuck")
	stuck.MustSubscribe("to/stuck", 1)
	pub := rawmqtt.Connect(t, c.MQTT(0), rawmqtt.V5, "publisher")
	// 32 in flight, because it acknowledges nothing, and 10 in the queue.
	const taken, waiting = 42, 20
	begin := time.Now()
	for i := range taken + waiting {
		pk := rawmqtt.PublishPacket("to/stuck", "x", 1)
		pk.PacketID = uint16(i + 1)
		pub.Send(pk)
	}
	for i := range taken {
		pub.ExpectAck(packets.Puback, uint16(i+1))
	}
	pub.ExpectNothing() // but the PINGRESP
	for i := range waiting {
		if ack := pub.ExpectAck(packets.Puback, uint16(taken+i+1)); ack.ReasonCode >= 0x80 {
			t.Fatalf("PUBACK %#x after the receiver has ended", ack.ReasonCode)
		}
	}
	if d := time.Since(begin); d < patience {
		t.Errorf("released after %v: the receiver was ended too early, or nobody waited", d)
	}
	for range 32 {
		stuck.Expect(packets.Publish)
	}
	if reason := stuck.ExpectClosed(); reason != packets.ErrQuotaExceeded.Code {
		t.Errorf("the stuck receiver was ended with %#x, want 0x97", reason)
	}
}

// Everything at once: publishers and subscribers of both versions and all qualities of service on all gateways,
// by topic, by shared subscription and by client id; at QoS 1 and 2 nothing is lost, doubled or reordered.
func TestTrafficOfAllKindsAtOnce(t *testing.T) {
	c := clustertest.Start(t, 3, nil)
	const pairs, each = 18, 150
	payload := strings.Repeat("p", 100)
	var wg sync.WaitGroup
	for n := range pairs {
		version, qos, direct := rawmqtt.V311, byte(n%3), n%2 == 0
		if n%4 < 2 {
			version = rawmqtt.V5
		}
		id := fmt.Sprintf("sub-%d", n)
		sub := rawmqtt.Connect(t, c.MQTT(n%3), version, id)
		topic := fmt.Sprintf("pair/%d", n)
		if direct {
			topic = "p2p/" + id + "/x"
		} else {
			sub.MustSubscribe(topic, 2)
		}
		pub := rawmqtt.Connect(t, c.MQTT((n+n/3)%3), version, fmt.Sprintf("pub-%d", n))
		wg.Go(func() {
			for i := range each {
				pub.Publish(topic, strconv.Itoa(i)+payload, qos)
			}
		})
		wg.Go(func() {
			for i := range each {
				if pk := sub.Receive(); string(pk.Payload) != strconv.Itoa(i)+payload || pk.FixedHeader.Qos != qos {
					t.Errorf("%s: got %.8q at QoS %d, want message %d at QoS %d", topic, pk.Payload, pk.FixedHeader.Qos, i, qos)
					return
				}
			}
			sub.ExpectNothing()
		})
	}
	wg.Wait()
}
