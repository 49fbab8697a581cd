package broker

import (
	"fmt"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
)

// fails has reads of the store fail with err from now on; nil: no longer.
func (g *gateway) fails(err error) {
	g.registry.mu.Lock()
	defer g.registry.mu.Unlock()
	g.failing = err
}

func (r *registry) changes() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.written
}

func (r *registry) kept(topic string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m := r.retained[topic].Message; m != nil {
		return string(m.Payload)
	}
	return ""
}

func TestASlowReceiverIsLookedAfter(t *testing.T) {
	g := start(t, 2, options{durable: true})
	r := g[0].registry
	x := g[0].connect(v5, "x", lasting)
	x.MustSubscribe("news/#", 1)
	pub := g[1].connect(v5, "pub")
	pub.Publish("news/1", "prompt", 0)
	x.ReceivePayload("prompt")
	before := r.changes()
	for i := range 50 {
		id := send(pub, "news/1", fmt.Sprint(i), 1)
		x.ReceivePayload(fmt.Sprint(i))
		pub.ExpectAck(packets.Puback, id)
	}
	prompt := r.changes() - before

	id := send(pub, "news/1", "slow", 1)
	p := x.Expect(packets.Publish)
	pub.ExpectAck(packets.Puback, id) // it is stored, so nobody waits for x
	if got := r.inbox("x"); len(got) != 1 || got[0] != "slow" {
		t.Errorf("in the inbox: %q", got)
	}
	x.Ack(packets.Puback, p.PacketID)
	eventually(t, "it leaves the inbox", func() bool { return len(r.inbox("x")) == 0 })
	if prompt > 10 { // on a starved machine some may have taken longer than it is given
		t.Errorf("%d changes for a receiver that keeps up", prompt)
	}
}

// When the session service cannot take what may wait, messages stay where they are and publishers wait.
func TestNothingThatMayWaitIsStoredWithoutRoom(t *testing.T) {
	g := start(t, 1, options{durable: true})[0]
	x, pub := g.connect(v5, "x", lasting), g.connect(v5, "pub")
	x.MustSubscribe("news/#", 1)
	g.full.Store(true)
	id := send(pub, "news/1", "m", 1)
	p := x.Expect(packets.Publish)
	other := send(pub, "news/1", "n", 1)
	q := x.Expect(packets.Publish)
	time.Sleep(3 * g.limits.StoreAfter) // longer than it would take with room
	if got := g.registry.inbox("x"); len(got) > 0 {
		t.Errorf("in the inbox: %q", got)
	}
	pub.ExpectNothing()
	x.Ack(packets.Puback, p.PacketID)
	pub.ExpectAck(packets.Puback, id)
	g.full.Store(false)
	pub.ExpectAck(packets.Puback, other)
	if got := g.registry.inbox("x"); len(got) != 1 || got[0] != "n" {
		t.Errorf("in the inbox: %q", got)
	}
	x.Ack(packets.Puback, q.PacketID)
}

// A publisher is told when its message cannot be stored for a receiver that does not acknowledge it. Nobody else notices.
func TestAFullDiskIsToldToPublishers(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		g := start(t, 2, options{durable: true})
		r := g[0].registry
		fill := func(full bool) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.diskFull = full
		}
		x := g[0].connect(version, "x", lasting)
		x.MustSubscribe("news/#", 2)
		fill(true)
		for i, at := range g {
			pub := at.connect(v5, fmt.Sprint("pub", i))
			if ack := pub.Publish("news/1", "once", 2); ack.ReasonCode != byte(packet.QuotaExceeded) {
				t.Errorf("gateway %d: PUBREC %#x, want 0x97", i, ack.ReasonCode)
			}
			x.ExpectNothing()
			id := send(pub, "news/1", "at least once", 1)
			p := x.Expect(packets.Publish)
			if ack := pub.ExpectAck(packets.Puback, id); ack.ReasonCode != byte(packet.QuotaExceeded) {
				t.Errorf("gateway %d: PUBACK %#x, want 0x97", i, ack.ReasonCode)
			}
			x.Ack(packets.Puback, p.PacketID)
		}
		y := g[1].connect(version, "y", lasting)
		y.MustSubscribe("other", 1)
		z := g[0].connect(version, "z")
		id := send(z, "other", "prompt", 1)
		y.ReceivePayload("prompt")
		z.ExpectAck(packets.Puback, id)

		fill(false)
		if ack := g[1].connect(v5, "pub").Publish("news/1", "room", 2); ack.ReasonCode != 0 {
			t.Errorf("PUBREC %#x with room", ack.ReasonCode)
		}
		x.ReceivePayload("room")
		r.leaves(x, "x")
		if got := r.inbox("x"); len(got) > 0 {
			t.Errorf("in the inbox: %q", got)
		}
	})
}

func TestAReadOfTheStoreIsRepeatedUntilItSucceeds(t *testing.T) {
	g := start(t, 1, options{durable: true})[0]
	r := g.registry
	x := g.connect(v5, "x", lasting)
	x.MustSubscribe("news/#", 1)
	r.leaves(x, "x")
	pub := g.connect(v5, "pub")
	pub.Publish("news/1", "stored", 1)
	kept := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish, Retain: true, Qos: 1}, TopicName: "kept", Payload: []byte("kept"), PacketID: 9}
	pub.Send(kept)
	pub.ExpectAck(packets.Puback, 9)

	g.fails(errTest)
	x = g.connect(v5, "x", lasting)
	x.MustSubscribe("kept", 1)
	x.ExpectNothing()
	gone := g.connect(v5, "gone")
	gone.MustSubscribe("kept", 1)
	gone.Disconnect() // nobody reads for it any more
	g.fails(nil)
	got := map[string]bool{string(x.Receive().Payload): true, string(x.Receive().Payload): true}
	if !got["stored"] || !got["kept"] {
		t.Errorf("got %v", got)
	}
	x.ExpectNothing()
}

func TestRetainedMessagesAreForAllGateways(t *testing.T) {
	g := start(t, 2, options{})
	r := g[0].registry
	r.mostRetained = retainedPage*2 + 50
	pub := g[0].connect(v5, "pub")
	retain := func(topic, payload string) byte {
		pk := packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Publish, Retain: true, Qos: 1}, TopicName: topic, Payload: []byte(payload), PacketID: pub.ID(),
		}
		pub.Send(pk)
		return pub.ExpectAck(packets.Puback, pk.PacketID).ReasonCode
	}
	live := g[1].connect(v5, "live")
	// Nothing that is retained already: what is published while it is looked up may be found there.
	live.Subscribe(packets.Subscription{Filter: "kept/+", Qos: 1, RetainHandling: 2})
	for i := range r.mostRetained {
		if code := retain(fmt.Sprintf("kept/%03d", i), "m"); code != 0 {
			t.Fatalf("reason code %#x", code)
		}
		if p := live.ReceivePayload("m"); p.FixedHeader.Retain {
			t.Error("RETAIN on a message that has just been published")
		}
	}
	if code := retain("kept/more", "m"); code != 0x97 {
		t.Errorf("reason code %#x beyond the quota, want 0x97", code)
	}
	live.ExpectNothing()
	retain("kept/000", "")
	live.ReceivePayload("")
	late := g[1].connect(v5, "late")
	late.MustSubscribe("kept/#", 1)
	for i := 1; i < r.mostRetained; i++ {
		if p := late.ReceivePayload("m"); p.TopicName != fmt.Sprintf("kept/%03d", i) || !p.FixedHeader.Retain {
			t.Fatalf("%q, retain %v; want the %d-th", p.TopicName, p.FixedHeader.Retain, i)
		}
	}
	late.ExpectNothing()
}

func TestARetainedWillIsStored(t *testing.T) {
	g := start(t, 1, options{})[0]
	x := g.connect(v5, "x")
	x.MustSubscribe("#", 1)
	g.connect(v5, "heir")
	for _, topic := range []string{"last/words", "p2p/heir/last"} {
		m := &message.Message{ID: message.ID{Origin: "will/y", Seq: 1}, Publisher: "y", Topic: topic, Payload: []byte("gone"), QoS: 1, Retain: true}
		if topic == "last/words" {
			g.clerk.hold(true)
		}
		failed := g.published(m)
		if topic == "last/words" {
			x.ExpectNothing() // it is stored first
			g.clerk.hold(false)
			x.ReceivePayload("gone")
		}
		if receive(t, failed, "the outcome") {
			t.Error("failed")
		}
	}
	if got := g.registry.kept("last/words"); got != "gone" {
		t.Errorf("retained %q", got)
	}
	if got := g.registry.kept("p2p/heir/last"); got != "" {
		t.Errorf("a direct message is retained: %q", got)
	}
}

func TestAWillThatCannotBeDeliveredHasFailed(t *testing.T) {
	g := start(t, 2, options{config: func(c *Config) { c.ReceiptTimeout = 50 * time.Millisecond }, limits: func(l *client.Limits) {
		l.ReceiptTimeout = 50 * time.Millisecond
	}})
	g[0].lookUps(func([]string) error { return errTest })
	m := &message.Message{ID: message.ID{Origin: "will/y", Seq: 1}, Publisher: "y", Topic: "p2p/x/last", Payload: []byte("gone"), QoS: 1}
	if !receive(t, g[0].published(m), "the outcome") {
		t.Error("it has not failed")
	}
}

// A route says whether a durable session is behind it: what waits for a dead gateway is sent again then.
func TestARouteIsDurableAsLongAsADurableSessionIsBehindIt(t *testing.T) {
	g := start(t, 1, options{durable: true})[0]
	m := new(recorded)
	g.deps.Mesh = announcing{m, g.deps.Mesh}
	want := func(what string, durable bool, members uint32) {
		t.Helper()
		got := m.taken()
		if len(got) == 0 {
			t.Errorf("%s: nothing is announced", what)
			return
		}
		if r := got[len(got)-1]; r.Filter != "news/#" || r.Durable != durable || r.Members != members {
			t.Errorf("%s: %+v, want durable %v with %d members", what, r, durable, members)
		}
	}
	x, y, z := g.connect(v5, "x"), g.connect(v5, "y", lasting), g.connect(v5, "z", lasting)
	m.taken()
	x.MustSubscribe("news/#", 1)
	want("a transient one", false, 1)
	y.MustSubscribe("news/#", 1)
	want("a durable one", true, 1)
	y.MustSubscribe("news/#", 2)
	want("again", true, 1)
	z.MustSubscribe("news/#", 1)
	want("another", true, 1)
	z.Unsubscribe("news/#")
	if got := m.taken(); len(got) > 0 {
		t.Errorf("announced %+v though one is left", got)
	}
	y.Unsubscribe("news/#")
	want("none is durable any more", false, 1)
	x.Unsubscribe("news/#")
	want("none is left", false, 0)
	y.MustSubscribe("news/#", 1)
	want("a durable one alone", true, 1)
	y.Unsubscribe("news/#")
	want("nobody", false, 0)
}
