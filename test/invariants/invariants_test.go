// Package invariants holds the promises of docs/guarantees.md against a whole cluster in one process. The tests
// with separate processes that are killed are in test/faults.
package invariants

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"go.uber.org/goleak"

	"github.com/beeline-mqtt/beeline/test/clustertest"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// (a) A gateway that is not the target receives nothing.
func TestAGatewayThatIsNotTheTargetReceivesNothing(t *testing.T) {
	c := clustertest.Start(t, 3, nil)
	sub := rawmqtt.Connect(t, c.MQTT(1), rawmqtt.V5, "receiver")
	sub.MustSubscribe("load/+", 1)
	pub := rawmqtt.Connect(t, c.MQTT(0), rawmqtt.V5, "sender")
	const each = 500
	for i := range each {
		pub.Publish("load/x", strconv.Itoa(i), 1)
		sub.ReceivePayload(strconv.Itoa(i))
		pub.Publish("p2p/receiver/x", strconv.Itoa(i), 1)
		sub.ReceivePayload(strconv.Itoa(i))
	}
	for _, name := range []string{"deliveries", "payload_bytes", "batches"} {
		metric := "beeline_mesh_" + name + "_total"
		if got := c.Metric(t, 2, metric, "direction=in"); got != 0 {
			t.Errorf("gateway 3: %s in = %v, want 0", name, got)
		}
		if got := c.Metric(t, 1, metric, "direction=in"); got < each {
			t.Errorf("gateway 2: %s in = %v: the load did not go there", name, got)
		}
	}
}

// (b) SUBACK means that the whole cluster routes here.
func TestAPublishAnywhereAfterSubackIsReceived(t *testing.T) {
	c := clustertest.Start(t, 3, nil)
	pubs := []*rawmqtt.Client{
		rawmqtt.Connect(t, c.MQTT(0), rawmqtt.V311, "p0"),
		rawmqtt.Connect(t, c.MQTT(1), rawmqtt.V5, "p1"),
		rawmqtt.Connect(t, c.MQTT(2), rawmqtt.V5, "p2"),
	}
	subs := []*rawmqtt.Client{
		rawmqtt.Connect(t, c.MQTT(1), rawmqtt.V5, "s1"),
		rawmqtt.Connect(t, c.MQTT(2), rawmqtt.V311, "s2"),
		rawmqtt.Connect(t, c.MQTT(0), rawmqtt.V5, "s0"),
	}
	for i := range 1000 {
		sub, pub := subs[i%3], pubs[(i+i/3)%3]
		filter := fmt.Sprintf("round/%d/+", i)
		sub.MustSubscribe(filter, 0)
		pub.Publish(fmt.Sprintf("round/%d/x", i), strconv.Itoa(i), 0)
		sub.ReceivePayload(strconv.Itoa(i))
		sub.Unsubscribe(filter)
	}
}

// (d) There are never two live connections of one client id after the second CONNACK.
func TestATakeoverLeavesOneConnection(t *testing.T) {
	c := clustertest.Start(t, 3, nil)
	const (
		clients = 50
		moves   = 40 // of each: 2,000 in all
		pace    = 2 * time.Millisecond
	)
	tick := time.NewTicker(pace)
	defer tick.Stop()
	turns := make(chan struct{})
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case <-tick.C:
			case <-done:
				return
			}
			select {
			case turns <- struct{}{}:
			case <-done:
				return
			}
		}
	}()
	var wg sync.WaitGroup
	begin := time.Now()
	for n := range clients {
		wg.Go(func() {
			id := fmt.Sprintf("mover-%d", n)
			var old *rawmqtt.Client
			for i := range moves {
				<-turns
				next := rawmqtt.Connect(t, c.MQTT((n+i)%3), rawmqtt.V5, id)
				if old != nil {
					// The older connection has been ended before the newer one was accepted: its end is there to be
					// read, after at most a DISCONNECT.
					if reason := old.ExpectClosed(); reason != packets.ErrSessionTakenOver.Code {
						t.Errorf("%s: older connection ended with %#x, want 0x8E", id, reason)
					}
				}
				old = next
			}
			old.ExpectNothing()
		})
	}
	wg.Wait()
	t.Logf("%d takeovers in %v", clients*(moves-1), time.Since(begin).Round(time.Millisecond))
	if got := c.Metric(t, 0, "beeline_gateway_clients") + c.Metric(t, 1, "beeline_gateway_clients") +
		c.Metric(t, 2, "beeline_gateway_clients"); got != clients {
		t.Errorf("%v clients are connected, want %d", got, clients)
	}
}

// (d) However many connect with one id at once, on however many gateways, one is left.
func TestOfManyConnectionsAtOnceWithOneIDOneIsLeft(t *testing.T) {
	c := clustertest.Start(t, 3, nil)
	const rounds, each = 10, 30
	for r := range rounds {
		var wg sync.WaitGroup
		all := make([]*rawmqtt.Client, each)
		for i := range each {
			wg.Go(func() {
				all[i] = rawmqtt.Dial(t, c.MQTT(i%3), rawmqtt.V5)
				all[i].Send(rawmqtt.ConnectPacket(rawmqtt.V5, "contested"))
			})
		}
		wg.Wait()
		// Each is accepted, perhaps to be ended again, or ended at once. When that is known of all, all takeovers are
		// over.
		var accepted []*rawmqtt.Client
		for _, x := range all {
			if pk, err := x.Next(rawmqtt.Patience); err == nil && pk.FixedHeader.Type == packets.Connack && pk.ReasonCode == 0 {
				accepted = append(accepted, x)
			}
		}
		live := 0
		for _, x := range accepted {
			if alive(x) {
				live++
			}
		}
		if live != 1 {
			t.Fatalf("round %d: %d live connections, want 1", r, live)
		}
	}
}

// alive reports whether an accepted client is still served.
func alive(x *rawmqtt.Client) bool {
	_, _ = x.Conn().Write([]byte{0xC0, 0}) // PINGREQ; that it fails shows in the read
	pk, err := x.Next(rawmqtt.Patience)
	return err == nil && pk.FixedHeader.Type == packets.Pingresp
}

// (e) A link that is cut a hundred times in the middle of batches loses, doubles and reorders nothing.
func TestALinkThatIsCutLosesDoublesAndReordersNothing(t *testing.T) {
	for _, qos := range []byte{1, 2} {
		t.Run(fmt.Sprintf("QoS %d", qos), func(t *testing.T) {
			c := clustertest.Start(t, 2, nil)
			sub := rawmqtt.Connect(t, c.MQTT(1), rawmqtt.V5, "receiver")
			sub.MustSubscribe("cut/#", qos)
			pub := rawmqtt.Connect(t, c.MQTT(0), rawmqtt.V5, "sender")
			const cuts, links = 100, 2 // to the other gateway, and to the session instance
			stop := make(chan struct{})
			published := make(chan int, 1)
			// No more are published than the receiver's queue takes: they are acknowledged without its doing.
			credit := make(chan struct{}, 128)
			go func() { published <- publishUntil(t, pub, qos, credit, stop) }()
			received := 0
			receive := func() {
				pk := sub.Receive()
				if want := strconv.Itoa(received) + padding; string(pk.Payload) != want {
					t.Fatalf("message %d: got %.12q", received, pk.Payload)
				}
				received++
				<-credit
			}
			reconnects := func() int { return int(c.Metric(t, 0, "beeline_mesh_reconnects_total")) }
			for n := range cuts {
				// The window is full of messages whenever the link is up.
				for range 20 + n%7 {
					receive()
				}
				if c.CutLinks(0) == 0 {
					t.Fatal("there was no link to cut")
				}
				for reconnects() < links*(n+1) {
					receive()
				}
			}
			close(stop)
			for n := <-published; received < n; {
				receive()
			}
			sub.ExpectNothing()
			t.Logf("%d messages over %d reconnects", received, reconnects())
		})
	}
}

// padding makes messages large enough for a batch to be cut in its middle.
var padding = strings.Repeat(" ", 200)

// publishUntil publishes numbered messages, 64 in flight and as many ahead of the receiver as credit has room for,
// until stop is closed, and checks that they are acknowledged in order. It returns how many there were.
func publishUntil(t *testing.T, pub *rawmqtt.Client, qos byte, credit, stop chan struct{}) int {
	window := make(chan uint16, 64)
	acked := make(chan struct{})
	go func() {
		defer close(acked)
		for id := range window {
			if !expectAck(t, pub, qos, id) {
				return
			}
		}
	}()
	defer func() { <-acked }()
	defer close(window)
	for n := 0; ; n++ {
		id := uint16(n%65535 + 1)
		select {
		case <-stop:
			return n
		case <-acked:
			return n
		case credit <- struct{}{}:
		}
		select {
		case <-acked:
			return n
		case window <- id:
		}
		pk := rawmqtt.PublishPacket("cut/x", strconv.Itoa(n)+padding, qos)
		pk.PacketID = id
		pub.Send(pk)
	}
}

// expectAck expects the PUBACK or PUBREC for id as the next of its kind.
func expectAck(t *testing.T, pub *rawmqtt.Client, qos byte, id uint16) bool {
	kind := packets.Puback
	if qos == 2 {
		kind = packets.Pubrec
	}
	pk, err := pub.Next(rawmqtt.Patience)
	for err == nil && pk.FixedHeader.Type == packets.Pubcomp {
		pk, err = pub.Next(rawmqtt.Patience)
	}
	if err != nil || pk.FixedHeader.Type != kind || pk.PacketID != id || pk.ReasonCode >= 0x80 {
		t.Errorf("acknowledgement: type %d id %d reason %#x, %v; want id %d", pk.FixedHeader.Type, pk.PacketID, pk.ReasonCode, err, id)
		return false
	}
	if qos == 2 {
		pub.Ack(packets.Pubrel, id)
	}
	return true
}
