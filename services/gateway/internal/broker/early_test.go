package broker

import (
	"context"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/lease"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// arriving has x arrive at b, up to where others can see its lease and b has not heard of it.
func arriving(t *testing.T, b *gateway) (x *rawmqtt.Client, recorded chan struct{}, answer chan error) {
	t.Helper()
	recorded, answer = make(chan struct{}), make(chan error)
	b.records(func(string) error {
		recorded <- struct{}{}
		return <-answer
	})
	x = rawmqtt.Dial(t, b.mqtt, v5)
	x.Send(rawmqtt.ConnectPacket(v5, "x"))
	receive(t, recorded, "a claim")
	return x, recorded, answer
}

// holds waits until b holds that many messages for x.
func holds(t *testing.T, b *gateway, messages int) {
	t.Helper()
	eventually(t, "b holds them", func() bool {
		b.early.mu.Lock()
		defer b.early.mu.Unlock()
		return len(b.early.held["x"]) == messages
	})
}

func TestMessagesThatComeBeforeTheLeaseIsKnownAreNotOvertaken(t *testing.T) {
	g := start(t, 2, options{})
	pub := g[0].connect(v5, "pub")
	x, _, answer := arriving(t, g[1])
	batch(pub, 1, 10)
	holds(t, g[1], 10)
	answer <- nil
	batch(pub, 11, 20)
	x.Expect(packets.Connack)
	wantBatch(x, 1, 20)
	wantAcks(t, pub, 20, packet.Success)
	if n := g[0].metric("beeline_mesh_receipts_total", "outcome=not_holder"); n != 0 {
		t.Errorf("%v messages have been refused", n)
	}
	holds(t, g[1], 0)
}

func TestMessagesWaitForTheNewestOfSeveralConnectionsThatArrive(t *testing.T) {
	g := start(t, 2, options{})
	pub := g[0].connect(v5, "pub")
	first, recorded, answer := arriving(t, g[1])
	batch(pub, 1, 5)
	holds(t, g[1], 5)
	second := rawmqtt.Dial(t, g[1].mqtt, v5)
	second.Send(rawmqtt.ConnectPacket(v5, "x"))
	eventually(t, "the second is there", func() bool {
		e := g[1].clients.get("x")
		return e.former != nil && e.current != e.former
	})
	answer <- nil // to the first, which has been replaced
	receive(t, recorded, "the second claim")
	first.ExpectClosed()
	batch(pub, 6, 10)
	holds(t, g[1], 10)
	answer <- nil
	second.Expect(packets.Connack)
	wantBatch(second, 1, 10)
	wantAcks(t, pub, 10, packet.Success)
}

func TestMessagesForAClientThatDoesNotArriveAreRefused(t *testing.T) {
	g := start(t, 2, options{})
	pub := g[0].connect(v5, "pub")
	x, _, answer := arriving(t, g[1])
	batch(pub, 1, 3)
	holds(t, g[1], 3)
	answer <- errTest
	if ack := x.Expect(packets.Connack); ack.ReasonCode != byte(packet.ServerUnavailable) {
		t.Errorf("CONNACK %#x", ack.ReasonCode)
	}
	wantAcks(t, pub, 3, packet.NoMatchingSubscribers)
	holds(t, g[1], 0)
	if n := g[1].early.bytes; n != 0 {
		t.Errorf("%d bytes are still counted", n)
	}
}

func TestWhatIsHeldForClientsThatArriveIsBounded(t *testing.T) {
	g := start(t, 2, options{config: func(c *Config) { c.UnresolvedBytes = 100 << 10 }})
	pub := g[0].connect(v5, "pub")
	x, _, answer := arriving(t, g[1])
	big := string(make([]byte, 60<<10))
	send(pub, "p2p/x/n", big, 1)
	holds(t, g[1], 1)
	send(pub, "p2p/x/n", big, 1)
	eventually(t, "the second is refused", func() bool {
		return g[0].metric("beeline_mesh_receipts_total", "outcome=overloaded") > 0
	})
	answer <- nil
	x.Expect(packets.Connack)
	x.ReceivePayload(big)
	wantAcks(t, pub, 1, packet.Success)
	wantAcks(t, pub, 1, packet.QuotaExceeded)
}

// What was sent to a client at its former stay on a gateway goes back as a whole, also when it has returned there:
// the first of it may have been refused.
func TestMessagesForAnEarlierStayAreRefused(t *testing.T) {
	g := start(t, 2, options{})
	g[1].connect(v5, "x") // epoch 1
	g[0].connect(v5, "x") // epoch 2
	sent := func(epoch uint64) mesh.Outcome {
		in := g[1].Accept("peer")
		defer in.Close()
		defer in.Flush()
		return in.Deliver(mesh.Delivery{
			Target:  mesh.Target{Kind: mesh.TargetClient, ClientID: "x", Epoch: epoch},
			Message: &message.Message{Topic: "p2p/x/n", Payload: []byte("m"), QoS: 1},
		}, mesh.Later{}).Outcome
	}
	if got := sent(1); got != mesh.NotHolder {
		t.Errorf("while it is elsewhere: outcome %d", got)
	}
	x, _, answer := arriving(t, g[1]) // epoch 3
	if got := sent(1); got != mesh.NotHolder {
		t.Errorf("while it is coming back: outcome %d", got)
	}
	answer <- nil
	x.Expect(packets.Connack)
	if got := sent(1); got != mesh.NotHolder {
		t.Errorf("when it has come back: outcome %d", got)
	}
	if got := sent(3); got != mesh.Queued {
		t.Errorf("for its present stay: outcome %d", got)
	}
	x.ReceivePayload("m")
	x.ExpectNothing()
}

func TestMessagesAreNotHeldWhenAnotherGatewayHasHadTheClient(t *testing.T) {
	g := start(t, 2, options{})
	pub := g[0].connect(v5, "pub")
	first := g[1].connect(v5, "x") // epoch 1
	pub.Publish("p2p/x/n", "0", 1) // now a knows where x is
	first.ReceivePayload("0")

	claimed, answer := make(chan struct{}), make(chan struct{})
	g[1].claims(func(context.Context, string) error {
		claimed <- struct{}{}
		<-answer
		return nil
	})
	x := rawmqtt.Dial(t, g[1].mqtt, v5)
	x.Send(rawmqtt.ConnectPacket(v5, "x"))
	receive(t, claimed, "a claim")
	batch(pub, 1, 5)
	holds(t, g[1], 5) // the newer connection is here, too
	// Another gateway gets it in between.
	if err := g[0].Claim(t.Context(), lease.Request{ClientID: "x"}, func(lease.Grant) {}); err != nil {
		t.Fatal(err)
	}
	holds(t, g[1], 0)
	answer <- struct{}{}
	x.Expect(packets.Connack)
	batch(pub, 6, 10)
	wantBatch(x, 1, 10)
	wantAcks(t, pub, 10, packet.Success)
}

// refuseFirst answers the first message that is held for x, alone: its receipt goes out before those of the others are
// given.
func refuseFirst(g *gateway) {
	e := &g.early
	e.mu.Lock()
	defer e.mu.Unlock()
	first := e.held["x"][0]
	e.bytes -= first.d.Message.Size()
	e.keep("x", e.held["x"][1:])
	first.later.Settle(notHolder("x"))
}

func TestNothingGoesOnWhileTheFormerHolderStillHoldsSomethingBack(t *testing.T) {
	g := start(t, 3, options{})
	pub := g[0].connect(v5, "pub")
	g[1].connect(v5, "x")          // epoch 1
	pub.Publish("p2p/x/n", "0", 1) // now a knows where x is
	claimed, answer := make(chan struct{}), make(chan struct{})
	g[1].claims(func(context.Context, string) error {
		claimed <- struct{}{}
		<-answer
		return errTest
	})
	again := rawmqtt.Dial(t, g[1].mqtt, v5)
	again.Send(rawmqtt.ConnectPacket(v5, "x"))
	receive(t, claimed, "a claim")
	batch(pub, 1, 5)
	holds(t, g[1], 5)

	looking := make(chan struct{}, 100)
	g[0].lookUps(func([]string) error {
		looking <- struct{}{}
		return nil
	})
	refuseFirst(g[1])
	eventually(t, "the first comes back", func() bool { return g[0].direct.unresolved() == 1 })
	batch(pub, 6, 10)
	handled(pub)
	if len(looking) > 0 {
		t.Error("x is looked up while b has four messages for it")
	}
	sub := g[2].connect(v5, "x") // now b refuses the others
	receive(t, looking, "a look-up")
	wantBatch(sub, 1, 10)
	wantAcks(t, pub, 10, packet.Success)
	answer <- struct{}{}
}
