package invariants

import (
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/test/clustertest"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// durable asks for a session that outlives its connection.
func durable(p *packets.Packet) { rawmqtt.Durable(3600)(p) }

// come connects a client with a durable session and says whether it was there.
func come(t testing.TB, addr string, version byte, id string) (c *rawmqtt.Client, present bool) {
	t.Helper()
	return rawmqtt.Come(t, addr, version, id, durable)
}

// take reads and acknowledges n messages with the payloads first, first+1, ...
func take(t testing.TB, c *rawmqtt.Client, first, n int) {
	t.Helper()
	for i := first; i < first+n; i++ {
		c.ReceivePayload(strconv.Itoa(i))
	}
}

// What is published while a durable client is away is there when it returns, on whatever gateway, in order.
func TestADurableClientThatReturnsElsewhereGetsWhatItMissed(t *testing.T) {
	c := clustertest.Start(t, 3, nil)
	for _, version := range []byte{rawmqtt.V311, rawmqtt.V5} {
		for qos := byte(1); qos <= 2; qos++ {
			name := fmt.Sprintf("v%d/qos%d", version, qos)
			t.Run(name, func(t *testing.T) {
				id, topic := "away-"+name, name+"/x"
				sub, present := come(t, c.MQTT(0), version, id)
				if present {
					t.Fatal("a first session is present")
				}
				sub.MustSubscribe(name+"/#", qos)
				pub := rawmqtt.Connect(t, c.MQTT(1), version, "pub-"+id)
				pub.Publish(topic, "0", qos)
				take(t, sub, 0, 1)
				sub.Disconnect()
				const n = 100
				for i := 1; i <= n; i++ {
					if ack := pub.Publish(topic, strconv.Itoa(i), qos); ack.ReasonCode != 0 {
						t.Fatalf("message %d is acknowledged with %#x", i, ack.ReasonCode)
					}
				}
				sub, present = come(t, c.MQTT(2), version, id)
				if !present {
					t.Fatal("the session is not present")
				}
				take(t, sub, 1, n)
				pub.Publish(topic, "live", qos)
				sub.ReceivePayload("live")
				sub.ExpectNothing()
			})
		}
	}
}

// A durable client that is taken over while its old connection does not read loses nothing and gets it in order.
func TestADurableClientThatIsTakenOverLosesNothing(t *testing.T) {
	c := clustertest.Start(t, 3, nil)
	old, _ := come(t, c.MQTT(0), rawmqtt.V5, "mover")
	old.MustSubscribe("over/#", 1)
	pub := rawmqtt.Connect(t, c.MQTT(1), rawmqtt.V5, "pub")
	const n = 200
	for i := range n {
		if ack := pub.Publish("over/x", strconv.Itoa(i), 1); ack.ReasonCode != 0 {
			t.Fatalf("message %d is acknowledged with %#x", i, ack.ReasonCode)
		}
	}
	sub, present := come(t, c.MQTT(2), rawmqtt.V5, "mover")
	if !present {
		t.Fatal("the session is not present")
	}
	take(t, sub, 0, n)
	sub.ExpectNothing()
}

// A receiver that goes from gateway to gateway under load gets everything once at QoS 2, and in order.
func TestAWanderingReceiverGetsEverythingInOrder(t *testing.T) {
	c := clustertest.Start(t, 3, nil)
	for qos := byte(1); qos <= 2; qos++ {
		t.Run(fmt.Sprintf("qos%d", qos), func(t *testing.T) { wander(t, c, qos) })
	}
}

func wander(t *testing.T, c *clustertest.Cluster, qos byte) {
	topic := fmt.Sprintf("wander/%d", qos)
	id := fmt.Sprintf("wanderer-%d", qos)
	sub, _ := come(t, c.MQTT(0), rawmqtt.V5, id)
	sub.MustSubscribe(topic, qos)
	const messages, stations = 2000, 20
	var wg sync.WaitGroup
	wg.Go(func() {
		pub := rawmqtt.Connect(t, c.MQTT(1), rawmqtt.V5, "pub-"+id)
		for i := range messages {
			if t.Failed() {
				return
			}
			if ack := pub.Publish(topic, strconv.Itoa(i), qos); ack.ReasonCode != 0 {
				t.Errorf("message %d is acknowledged with %#x", i, ack.ReasonCode)
				return
			}
		}
	})
	next := 0
	for station := 1; next < messages; station++ {
		until := min(messages, next+messages/stations)
		next = read(t, sub, next, until, qos)
		if next >= messages {
			break
		}
		if station%2 == 0 {
			sub.Close() // else the next connection takes this one over
		}
		sub, _ = come(t, c.MQTT(station%3), rawmqtt.V5, id)
	}
	wg.Wait()
}

// read takes messages until one with the number until-1 has come, and returns the number that is next. QoS 1 may bring
// one again that was read before.
func read(t *testing.T, sub *rawmqtt.Client, next, until int, qos byte) int {
	t.Helper()
	for next < until {
		pk := sub.Receive()
		n, err := strconv.Atoi(string(pk.Payload))
		switch {
		case err != nil || n > next:
			t.Fatalf("message %q where %d was next", pk.Payload, next)
		case n < next && qos == 2:
			t.Fatalf("message %d again where %d was next (dup %v)", n, next, pk.FixedHeader.Dup)
		case n == next:
			next++
		}
	}
	return next
}

// The session service's process may end and begin again: what it keeps is there.
func TestAwayMessagesOutliveTheSessionService(t *testing.T) {
	c := clustertest.Start(t, 2, nil)
	sub, _ := come(t, c.MQTT(0), rawmqtt.V5, "patient")
	sub.MustSubscribe("p/#", 1)
	sub.Disconnect()
	pub := rawmqtt.Connect(t, c.MQTT(1), rawmqtt.V5, "pub")
	for i := range 10 {
		pub.Publish("p/x", strconv.Itoa(i), 1)
	}
	if err := c.Sessions()[0].Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.AddSession(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := 10; i < 20; i++ {
		if ack := pub.Publish("p/x", strconv.Itoa(i), 1); ack.ReasonCode != 0 {
			t.Fatalf("message %d is acknowledged with %#x", i, ack.ReasonCode)
		}
	}
	var present bool
	clustertest.Eventually(t, "the client is let in again", func() bool {
		sub = rawmqtt.Dial(t, c.MQTT(1), rawmqtt.V5)
		ack := sub.Hello("patient", durable)
		present = ack.SessionPresent
		return ack.ReasonCode == 0
	})
	if !present {
		t.Fatal("the session is not present")
	}
	take(t, sub, 0, 20)
}

// A gateway that ends takes no durable session with it: the receiver finds everything elsewhere.
func TestADurableSessionOutlivesItsGateway(t *testing.T) {
	c := clustertest.Start(t, 3, nil)
	sub, _ := come(t, c.MQTT(0), rawmqtt.V5, "survivor")
	sub.MustSubscribe("s/#", 1)
	pub := rawmqtt.Connect(t, c.MQTT(1), rawmqtt.V5, "pub")
	for i := range 50 {
		pub.Publish("s/x", strconv.Itoa(i), 1) // not acknowledged by the receiver: stored
	}
	if err := c.Gateways()[0].Stop(); err != nil {
		t.Fatal(err)
	}
	for i := 50; i < 100; i++ {
		if ack := pub.Publish("s/x", strconv.Itoa(i), 1); ack.ReasonCode != 0 {
			t.Fatalf("message %d is acknowledged with %#x", i, ack.ReasonCode)
		}
	}
	back, present := come(t, c.MQTT(2), rawmqtt.V5, "survivor")
	if !present {
		t.Fatal("the session is not present")
	}
	take(t, back, 0, 100)
}

// A retained message is got by whoever subscribes later, on any gateway, and is gone everywhere when it is cleared.
func TestRetainedMessagesAreTheSameEverywhere(t *testing.T) {
	c := clustertest.Start(t, 3, nil)
	pub := rawmqtt.Connect(t, c.MQTT(0), rawmqtt.V5, "pub")
	pk := rawmqtt.PublishPacket("state/lamp", "on", 1)
	pk.FixedHeader.Retain = true
	pk.PacketID = pub.ID()
	pub.Send(pk)
	pub.ExpectAck(packets.Puback, pk.PacketID)
	for i := range 3 {
		sub := rawmqtt.Connect(t, c.MQTT(i), rawmqtt.V5, "sub"+strconv.Itoa(i))
		sub.MustSubscribe("state/+", 1)
		if got := sub.ReceivePayload("on"); !got.FixedHeader.Retain {
			t.Error("a retained message comes without RETAIN")
		}
	}
	pk.Payload, pk.PacketID = nil, pub.ID()
	pub.Send(pk)
	pub.ExpectAck(packets.Puback, pk.PacketID)
	late := rawmqtt.Connect(t, c.MQTT(1), rawmqtt.V5, "late")
	late.MustSubscribe("state/+", 1)
	late.ExpectNothing()
}

// A will waits for its delay, and is not published when the session goes on meanwhile.
func TestAWillWaitsForItsDelay(t *testing.T) {
	c := clustertest.Start(t, 2, nil)
	sub := rawmqtt.Connect(t, c.MQTT(1), rawmqtt.V5, "heir")
	sub.MustSubscribe("will/#", 1)
	mortal := func(id string, delay uint32) *rawmqtt.Client {
		m := rawmqtt.Dial(t, c.MQTT(0), rawmqtt.V5)
		ack := m.Hello(id, durable, func(p *packets.Packet) {
			p.Connect.WillFlag, p.Connect.WillTopic, p.Connect.WillQos = true, "will/"+id, 1
			p.Connect.WillPayload = []byte("last words of " + id)
			p.Connect.WillProperties.WillDelayInterval = delay
		})
		if ack.ReasonCode != 0 {
			t.Fatalf("CONNACK %#x", ack.ReasonCode)
		}
		return m
	}
	returns := mortal("returns", 1)
	returns.Close()
	clustertest.Eventually(t, "the session goes on", func() bool {
		_, present := come(t, c.MQTT(1), rawmqtt.V5, "returns")
		return present
	})
	began := time.Now()
	mortal("late", 1).Close()
	mortal("now", 0).Close()
	sub.ReceivePayload("last words of now")
	sub.ReceivePayload("last words of late")
	if took := time.Since(began); took < time.Second {
		t.Errorf("a will with a delay of 1 s comes after %v", took)
	}
	sub.ExpectNothing()
}
