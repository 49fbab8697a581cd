package broker

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/turn"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// unresolved is how many clients are being looked up.
func (d *direct) unresolved() int {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return len(d.waiting)
}

// batch publishes the messages from..to to x, at QoS 1, without waiting for anything.
func batch(pub *rawmqtt.Client, from, to int) {
	for i := from; i <= to; i++ {
		send(pub, "p2p/x/n", strconv.Itoa(i), 1)
	}
}

// wantBatch expects the messages from..to in order.
func wantBatch(sub *rawmqtt.Client, from, to int) {
	for i := from; i <= to; i++ {
		sub.ReceivePayload(strconv.Itoa(i))
	}
}

// wantAcks expects n PUBACKs with a reason code.
func wantAcks(t testing.TB, pub *rawmqtt.Client, n int, reason packet.Code) {
	t.Helper()
	for range n {
		if ack := pub.Expect(packets.Puback); ack.ReasonCode != byte(reason) {
			t.Errorf("PUBACK of %d with %#x, want %#x", ack.PacketID, ack.ReasonCode, byte(reason))
		}
	}
}

func TestADirectMessageFindsItsReceiverWhereverItIs(t *testing.T) {
	for qos := range byte(3) {
		t.Run(fmt.Sprintf("QoS %d", qos), func(t *testing.T) {
			g := start(t, 2, options{})
			here, there := g[0].connect(v5, "here"), g[1].connect(v3, "there/1")
			pub := g[0].connect(v5, "pub")
			for i := range 3 {
				pub.Publish("p2p/here/n", strconv.Itoa(i), qos)
				if pk := here.ReceivePayload(strconv.Itoa(i)); pk.TopicName != "p2p/here/n" || pk.FixedHeader.Qos != qos {
					t.Errorf("%q at QoS %d", pk.TopicName, pk.FixedHeader.Qos)
				}
				pub.Publish("p2p/there%2F1/n", strconv.Itoa(i), qos)
				if pk := there.ReceivePayload(strconv.Itoa(i)); pk.TopicName != "p2p/there%2F1/n" || pk.FixedHeader.Qos != qos {
					t.Errorf("%q at QoS %d", pk.TopicName, pk.FixedHeader.Qos)
				}
			}
			if n := g[0].metric("beeline_gateway_lease_lookups_total"); n != 1 {
				t.Errorf("%v look-ups for one receiver that stays where it is", n)
			}
		})
	}
}

func TestNobodyOfThatNameIsNotAnError(t *testing.T) {
	g := start(t, 1, options{})
	pub := g[0].connect(v5, "pub")
	if ack := pub.Publish("p2p/nobody/n", "m", 1); ack.ReasonCode != byte(packet.NoMatchingSubscribers) {
		t.Errorf("PUBACK with %#x, want 0x10", ack.ReasonCode)
	}
	pub.Publish("p2p/nobody/n", "m", 0)
	eventually(t, "a QoS 0 message is counted", func() bool {
		return g[0].metric("beeline_gateway_forwards_dropped_total", "reason=unknown_client") == 1
	})
}

// The messages of one publisher to one client keep their order when the client moves from gateway b to c while
// they are on their way: those that b answers with NOT_HOLDER go before those that were published later.
func TestOrderIsKeptWhenTheReceiverMovesToAThirdGateway(t *testing.T) {
	g := start(t, 3, options{})
	pub := g[0].connect(v5, "pub")
	g[1].connect(v5, "x")
	pub.Publish("p2p/x/n", "0", 1) // now a knows where x is

	g[0].to(g[1]).shut()
	batch(pub, 1, 10)
	handled(pub)
	looking, look := make(chan struct{}, 10), make(chan struct{})
	g[0].lookUps(func([]string) error {
		looking <- struct{}{}
		<-look
		return nil
	})
	sub := g[2].connect(v5, "x")
	g[0].to(g[1]).open()
	receive(t, looking, "a look-up after b has said no")
	batch(pub, 11, 20)
	handled(pub)
	close(look)
	wantBatch(sub, 1, 20)
	wantAcks(t, pub, 20, packet.Success)
	if n := g[0].metric("beeline_gateway_unresolved_bytes"); n != 0 {
		t.Errorf("%v bytes are left", n)
	}
}

// A holder's first answer does not open the way while other messages are on their way to it.
func TestNothingGoesOnWhileTheFormerHolderHasNotAnsweredAll(t *testing.T) {
	g := start(t, 3, options{})
	pub := g[0].connect(v5, "pub")
	g[1].connect(v5, "x")
	pub.Publish("p2p/x/n", "0", 1)
	sub := g[2].connect(v5, "x")

	g[1].answers.shut()
	batch(pub, 1, 1) // b's NOT_HOLDER is held up
	handled(pub)
	eventually(t, "b has it", func() bool { return g[1].metric("beeline_mesh_deliveries_total", "direction=in") == 2 })
	g[0].to(g[1]).shut()
	batch(pub, 2, 2) // does not get to b
	handled(pub)
	g[1].answers.open()
	eventually(t, "a has b's answer", func() bool {
		return g[0].metric("beeline_mesh_receipts_total", "outcome=not_holder") == 1
	})
	batch(pub, 3, 3)
	handled(pub)
	if n := g[0].metric("beeline_gateway_lease_lookups_total"); n != 1 {
		t.Errorf("%v look-ups, want only the first", n)
	}
	g[0].to(g[1]).open()
	wantBatch(sub, 1, 3)
	wantAcks(t, pub, 3, packet.Success)
}

// The same when it moves to the publisher's own gateway, which could deliver later messages at once.
func TestOrderIsKeptWhenTheReceiverMovesHere(t *testing.T) {
	g := start(t, 2, options{})
	g[0].direct.patience = time.Minute
	pub := g[0].connect(v5, "pub")
	g[1].connect(v5, "x")
	pub.Publish("p2p/x/n", "0", 1)

	g[0].to(g[1]).shut()
	batch(pub, 1, 10)
	handled(pub)
	sub := g[0].connect(v5, "x")
	batch(pub, 11, 20)
	handled(pub)
	sub.ExpectNothing()
	g[0].to(g[1]).open()
	wantBatch(sub, 1, 20)
	wantAcks(t, pub, 20, packet.Success)
}

func TestAReceiverThatHasComeHereDoesNotWaitForAGatewayOutOfReach(t *testing.T) {
	g := start(t, 2, options{})
	g[0].direct.patience = time.Millisecond
	pub := g[0].connect(v5, "pub")
	g[1].connect(v5, "x")
	pub.Publish("p2p/x/n", "0", 1)

	g[0].to(g[1]).shut()
	lost := send(pub, "p2p/x/n", "1", 1)
	handled(pub)
	sub := g[0].connect(v5, "x")
	later := send(pub, "p2p/x/n", "2", 1)
	sub.ReceivePayload("2")
	g[0].to(g[1]).open()
	sub.ReceivePayload("1")
	// Acknowledgements keep the order of the PUBLISHes.
	pub.ExpectAck(packets.Puback, lost)
	pub.ExpectAck(packets.Puback, later)
}

func TestOrderIsKeptWhenTheHolderDies(t *testing.T) {
	g := start(t, 3, options{})
	pub := g[0].connect(v5, "pub")
	g[1].connect(v5, "x")
	pub.Publish("p2p/x/n", "0", 1)

	g[0].to(g[1]).shut()
	batch(pub, 1, 10)
	handled(pub)
	sub := g[2].connect(v5, "x") // b's side of it ends; a has not heard
	g[0].knows(g[2])
	batch(pub, 11, 20)
	handled(pub)
	g[0].to(g[1]).open()
	wantBatch(sub, 1, 20)
	wantAcks(t, pub, 20, packet.Success)
}

// With a dead holder in the cache, the first message after its death waits for what was sent to it before.
func TestWhatComesAfterADeathWaitsForWhatWasSentBefore(t *testing.T) {
	g := start(t, 3, options{})
	pub := g[0].connect(v5, "pub")
	g[1].connect(v5, "x")
	pub.Publish("p2p/x/n", "0", 1)
	at, ok := g[0].direct.cache.GetIfPresent("x")
	if !ok || at.lease.Holder != "b" || at.link == nil {
		t.Fatalf("cache: %+v, %v", at, ok)
	}
	sub := g[2].connect(v5, "x")
	g[0].knows(g[2])
	pub.Publish("p2p/x/n", "1", 1)
	sub.ReceivePayload("1")
	if at, ok := g[0].direct.cache.GetIfPresent("x"); !ok || at.lease.Holder != "c" {
		t.Errorf("cache: %+v, %v", at, ok)
	}
}

func TestQoS0IsSentAfterAReceiverThatHasMoved(t *testing.T) {
	g := start(t, 3, options{})
	pub := g[0].connect(v5, "pub")
	g[1].connect(v5, "x")
	pub.Publish("p2p/x/n", "0", 1)
	sub := g[2].connect(v5, "x")
	for i := range 5 {
		pub.Publish("p2p/x/n", strconv.Itoa(i), 0)
	}
	for i := range 5 {
		sub.ReceivePayload(strconv.Itoa(i))
	}
}

func TestALookUpThatFailsIsNotAnAnswer(t *testing.T) {
	g := start(t, 2, options{})
	failures := 3
	g[0].lookUps(func([]string) error {
		if failures == 0 {
			return nil
		}
		failures--
		return errTest
	})
	sub, pub := g[1].connect(v5, "x"), g[0].connect(v5, "pub")
	batch(pub, 1, 3)
	wantBatch(sub, 1, 3)
	wantAcks(t, pub, 3, packet.Success)
}

func TestAReceiverThatIsNotFoundInTimeIsAnError(t *testing.T) {
	tests := []struct {
		name    string
		arrange func(g *gateway)
	}{
		{"etcd is away", func(g *gateway) {
			g.lookUps(func([]string) error { return errTest })
		}},
		{"its holder is no peer", func(g *gateway) {
			g.registry.leases["x"] = leaseOf("stranger", 7)
		}},
		{"this gateway is said to hold it and does not", func(g *gateway) {
			g.registry.leases["x"] = leaseOf("a", 7)
		}},
		{"its holder says no", func(g *gateway) {
			g.registry.leases["x"] = leaseOf("b", 7)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			brief := options{
				limits: func(l *client.Limits) { l.ReceiptTimeout = 200 * time.Millisecond },
			}
			g := start(t, 2, brief)
			tt.arrange(g[0])
			pub := g[0].connect(v5, "pub")
			if ack := pub.Publish("p2p/x/n", "m", 1); ack.ReasonCode != byte(packet.UnspecifiedError) {
				t.Errorf("PUBACK with %#x, want 0x80", ack.ReasonCode)
			}
			eventually(t, "nothing waits any more", func() bool { return g[0].direct.unresolved() == 0 })
			old := g[0].connect(v3, "old")
			send(old, "p2p/x/n", "m", 1)
			old.ExpectClosed() // 3.1.1 cannot say no
			eventually(t, "nothing waits any more", func() bool { return g[0].direct.unresolved() == 0 })
		})
	}
}

// A will, and the message of a publisher that has gone, have nobody who gives them up.
func TestAMessageWithoutPublisherIsLookedUpForAsLongAsAnyOther(t *testing.T) {
	g := start(t, 1, options{
		limits: func(l *client.Limits) { l.ReceiptTimeout = 50 * time.Millisecond },
	})
	g[0].lookUps(func([]string) error { return errTest })
	will := g[0].connect(v5, "will", func(p *packets.Packet) {
		p.Connect.WillFlag, p.Connect.WillQos = true, 1
		p.Connect.WillTopic, p.Connect.WillPayload = "p2p/x/n", []byte("m")
	})
	will.Close()
	pub := g[0].connect(v5, "pub")
	batch(pub, 1, 3)
	pub.Disconnect()
	eventually(t, "they wait", func() bool { return g[0].direct.unresolved() == 1 })
	eventually(t, "they are given up", func() bool { return g[0].direct.unresolved() == 0 })
	if n := g[0].metric("beeline_gateway_unresolved_bytes"); n != 0 {
		t.Errorf("%v bytes are left", n)
	}
}

func TestQoS0IsShedWhileItsReceiverCannotBeLookedUp(t *testing.T) {
	g := start(t, 2, options{})
	failing := make(chan error)
	g[0].lookUps(func([]string) error { return <-failing })
	sub, pub := g[1].connect(v5, "x"), g[0].connect(v5, "pub")
	send(pub, "p2p/x/n", "0", 0)
	send(pub, "p2p/x/n", "1", 1)
	handled(pub)
	failing <- errTest
	failing <- errTest
	eventually(t, "the QoS 0 message is dropped at the second failure", func() bool {
		return g[0].metric("beeline_gateway_forwards_dropped_total", "reason=unresolved") == 1
	})
	close(failing)
	sub.ReceivePayload("1")
	pub.Expect(packets.Puback)
}

func TestMessagesThatWaitForALookUpAreBound(t *testing.T) {
	payload := string(make([]byte, 1000))
	size := (&message.Message{Topic: "p2p/x/n", Payload: []byte(payload)}).Size()
	tests := []struct {
		name             string
		bound            int
		quiet, wantQuiet int // QoS 0 messages sent first, and delivered
		acked, wantAcked int // QoS 1
	}{
		{"within", 4 * size, 2, 2, 2, 2},
		{"QoS 0 may have half of the room", 4 * size, 4, 2, 2, 2},
		{"beyond", 4 * size, 0, 0, 6, 4},
		{"one message may exceed the bound", size / 10, 0, 0, 2, 1},
		{"one QoS 0 message, too", size / 10, 2, 1, 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := start(t, 2, options{config: func(c *Config) { c.UnresolvedBytes = tt.bound }})
			look := make(chan struct{})
			g[0].lookUps(func([]string) error { <-look; return nil })
			sub, pub := g[1].connect(v5, "x"), g[0].connect(v5, "pub")
			for range tt.quiet {
				send(pub, "p2p/x/n", payload, 0)
			}
			for range tt.acked {
				send(pub, "p2p/x/n", payload, 1)
			}
			handled(pub) // refusals wait for the acknowledgements of what was taken before them
			held := float64((tt.wantQuiet + tt.wantAcked) * size)
			if n := g[0].metric("beeline_gateway_unresolved_bytes"); n != held {
				t.Errorf("%v bytes wait, want %v", n, held)
			}
			if n := g[0].metric("beeline_gateway_forwards_dropped_total", "reason=unresolved"); int(n) != tt.quiet-tt.wantQuiet {
				t.Errorf("%v dropped, want %d", n, tt.quiet-tt.wantQuiet)
			}
			close(look)
			wantAcks(t, pub, tt.wantAcked, packet.Success)
			wantAcks(t, pub, tt.acked-tt.wantAcked, packet.QuotaExceeded)
			for range tt.wantQuiet + tt.wantAcked {
				sub.ReceivePayload(payload)
			}
			sub.ExpectNothing()
			eventually(t, "nothing is counted that does not wait", func() bool {
				return g[0].metric("beeline_gateway_unresolved_bytes") == 0
			})
		})
	}
}

func TestAMessageThatExpiresWhileItsReceiverIsLookedUpIsNotSent(t *testing.T) {
	g := start(t, 1, options{})
	b := g[0]
	look := make(chan struct{})
	b.lookUps(func([]string) error { <-look; return nil })
	sub := b.connect(v5, "x")
	c := b.client("x")
	c.Granted(0) // as before its claim was granted
	now := time.Now()
	tn := turn.Turn{Now: now}
	for _, m := range []*message.Message{
		{ID: message.ID{Seq: 1}, Topic: "p2p/x/n", Payload: []byte("late"), Expires: now},
		{ID: message.ID{Seq: 2}, Topic: "p2p/x/n", Payload: []byte("in time"), Expires: now.Add(time.Hour)},
	} {
		b.Publish(nil, 0, m, &tn)
	}
	tn.End()
	c.Granted(1)
	close(look)
	sub.ReceivePayload("in time")
	sub.ExpectNothing()
}

func TestWhatStillWaitsAtTheEndIsGivenUp(t *testing.T) {
	g := start(t, 1, options{})
	b := g[0]
	b.lookUps(func([]string) error { return errTest })
	pub := b.connect(v5, "pub")
	batch(pub, 1, 3)
	handled(pub)
	b.direct.close()
	wantAcks(t, pub, 3, packet.UnspecifiedError)
	if ack := pub.Publish("p2p/x/n", "m", 1); ack.ReasonCode != byte(packet.QuotaExceeded) {
		t.Errorf("PUBACK with %#x after the end", ack.ReasonCode)
	}
	if n := b.metric("beeline_gateway_unresolved_bytes"); n != 0 || b.direct.unresolved() != 0 {
		t.Errorf("%v bytes are left", n)
	}
}

func TestMessagesThatComeBackArePutInTheirOrder(t *testing.T) {
	g := start(t, 1, options{})
	d := g[0].direct
	u := new(unresolved)
	for _, m := range []*message.Message{
		{ID: message.ID{Seq: 5}},
		{ID: message.ID{Seq: 9}},
		{ID: message.ID{Seq: 2}},
		{ID: message.ID{Seq: 7}},
		{ID: message.ID{Seq: 10}},
		{ID: message.ID{Origin: "before", Seq: 99}, Order: &message.ID{Seq: 1}},
	} {
		d.mu.Lock()
		for range 2 { // as from two former holders of one session
			if x := (unsent{m, new(publication)}); !d.insert(u, x) || d.insert(u, x) {
				t.Errorf("%v is not taken once", m.ID)
			}
		}
		d.mu.Unlock()
	}
	var got []uint64
	for _, x := range u.items {
		got = append(got, x.m.Place().Seq)
	}
	if !slices.Equal(got, []uint64{1, 1, 2, 2, 5, 5, 7, 7, 9, 9, 10, 10}) {
		t.Errorf("order %v", got)
	}
}
