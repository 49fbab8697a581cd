package client_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/internal/engine"
	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// lasting asks for the session that the client has, or a new one that outlives the connection.
func lasting(p *packets.Packet) { rawmqtt.Durable(3600)(p) }

// numbered is a delivery of the n-th message of an origin, with that as its payload, as the broker makes it.
func numbered(origin string, n int, qos byte) client.Delivery {
	d := delivery("t", fmt.Sprint(origin, n), qos)
	d.Message.ID = message.ID{Origin: origin, Seq: uint64(n)}
	d.Ticket = newTicket()
	return d
}

// outcome is what d settles as.
func outcome(t testing.TB, d client.Delivery) engine.Outcome {
	t.Helper()
	return receive(t, d.Ticket.(ticket), fmt.Sprintf("the receipt of %q", d.Message.Payload))
}

func wantOutcome(t testing.TB, d client.Delivery, want engine.Outcome) {
	t.Helper()
	if o := outcome(t, d); o != want {
		t.Errorf("%q settled as %v, want %v", d.Message.Payload, o, want)
	}
}

// unsettled expects that d has not settled.
func unsettled(t testing.TB, d client.Delivery) {
	t.Helper()
	select {
	case o := <-d.Ticket.(ticket):
		t.Errorf("%q settled as %v", d.Message.Payload, o)
	default:
	}
}

// waits offers d to c, which has to keep its ticket.
func waits(t testing.TB, c *client.Client, d client.Delivery) {
	t.Helper()
	if o := deliver(c, d); o != engine.Waiting {
		t.Fatalf("%q: %v, want waiting", d.Message.Payload, o)
	}
}

func TestAReceiverThatAcknowledgesInTimeCostsNoWrite(t *testing.T) {
	inTime(t, func(t *testing.T, version byte) {
		r := quiet(t)
		c := r.pipe(version)
		c.Hello("a", lasting)
		attached := r.broker.client("a")
		for i := range 200 {
			d := numbered("g", i, 1)
			waits(t, attached, d)
			p := c.Expect(packets.Publish)
			time.Sleep(r.limits.StoreAfter - time.Millisecond)
			unsettled(t, d)
			c.Ack(packets.Puback, p.PacketID)
			wantOutcome(t, d, engine.Acked)
		}
		time.Sleep(time.Minute)
		if n := len(r.shelf.written("a")); n > 0 {
			t.Errorf("%d changes were written", n)
		}
	})
}

func TestWhatAReceiverDoesNotAcknowledgeInTimeIsStored(t *testing.T) {
	inTime(t, func(t *testing.T, version byte) {
		r := quiet(t)
		slow, pub := r.pipe(version), r.pipe(version)
		slow.Hello("slow", lasting)
		pub.Hello("pub")
		slow.MustSubscribe("t", 1)
		began := time.Now()
		pub.Send(publishPacket("t", "first", 1, 1))
		pub.Send(publishPacket("t", "second", 1, 2))
		first, second := slow.Expect(packets.Publish), slow.Expect(packets.Publish)
		slow.Ack(packets.Puback, second.PacketID) // out of order
		pub.ExpectAck(packets.Puback, 1)
		pub.ExpectAck(packets.Puback, 2)
		if took := time.Since(began); took < r.limits.StoreAfter || took > r.limits.StoreAfter+5*time.Millisecond {
			t.Errorf("the publisher was released after %v, want %v", took, r.limits.StoreAfter)
		}
		entries := r.shelf.entries("slow")
		if len(entries) != 1 || string(entries[0].Message.Payload) != "first" || entries[0].PacketID != first.PacketID {
			t.Errorf("in the inbox: %+v", entries)
		}
		slow.Ack(packets.Puback, first.PacketID)
		synctest.Wait()
		if entries := r.shelf.entries("slow"); len(entries) != 0 {
			t.Errorf("in the inbox after its acknowledgement: %+v", entries)
		}
	})
}

func TestAStepOfQoS2IsStoredBeforeItIsTaken(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		r := newRig(t)
		c, attached := r.attached(version, "a", lasting)
		r.shelf.hold()
		d := numbered("g", 1, 2)
		waits(t, attached, d)
		c.ExpectNothing()
		unsettled(t, d)
		r.shelf.letGo()
		p := c.Expect(packets.Publish)
		if p.FixedHeader.Dup || p.FixedHeader.Qos != 2 {
			t.Errorf("%+v", p.FixedHeader)
		}
		wantOutcome(t, d, engine.Stored)

		r.shelf.hold()
		c.Ack(packets.Pubrec, p.PacketID)
		c.ExpectNothing()
		c.Ack(packets.Pubrec, p.PacketID)
		c.ExpectNothing()
		r.shelf.letGo()
		c.ExpectAck(packets.Pubrel, p.PacketID)
		c.Ack(packets.Pubrec, p.PacketID) // once more: it is answered
		c.ExpectAck(packets.Pubrel, p.PacketID)
		c.Ack(packets.Pubcomp, p.PacketID)
		c.ExpectNothing()
		want := []journal.Kind{journal.Append, journal.Released, journal.Done}
		if diff := cmp.Diff(want, r.shelf.kinds("a")); diff != "" {
			t.Error(diff)
		}
		if entries := r.shelf.entries("a"); len(entries) != 0 {
			t.Errorf("left in the inbox: %+v", entries)
		}
	})
}

func TestAMessageOfTheClientsIsKnownBeforeItIsSentOn(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		r := newRig(t)
		c := r.connect(version, "a", lasting)
		r.shelf.hold()
		c.Send(publishPacket("t", "x", 2, 7))
		c.Send(publishPacket("t", "behind it", 0, 0))
		c.ExpectNothing()
		if n := len(r.broker.published); n > 0 {
			t.Fatalf("%d were sent on", n)
		}
		r.shelf.letGo()
		c.ExpectAck(packets.Pubrec, 7)
		if m := receive(t, r.broker.published, "the message"); string(m.Payload) != "x" {
			t.Errorf("%q overtook it", m.Payload)
		}
		receive(t, r.broker.published, "the message behind it")

		r.shelf.hold()
		c.Ack(packets.Pubrel, 7)
		c.ExpectNothing()
		r.shelf.letGo()
		c.ExpectAck(packets.Pubcomp, 7)
		c.Ack(packets.Pubrel, 7) // of one that is not known
		if p := c.ExpectAck(packets.Pubcomp, 7); version == v5 && p.ReasonCode != 0x92 {
			t.Errorf("PUBCOMP %#x", p.ReasonCode)
		}
		if diff := cmp.Diff([]journal.Kind{journal.Taken, journal.Completed}, r.shelf.kinds("a")); diff != "" {
			t.Error(diff)
		}
	})
}

// A message that the client sends again goes out under the id that it had, as long as the client has not released it.
func TestAMessageThatIsSentAgainKeepsItsID(t *testing.T) {
	for _, tc := range []struct {
		name    string
		seen    bool // it was sent on before the connection was lost
		settled bool // and acknowledged
		held    int  // how often it waits for its receipts in the end
	}{{"stored", false, false, 1}, {"sent on", true, false, 2}, {"acknowledged", true, true, 0}} {
		t.Run(tc.name, func(t *testing.T) {
			versions(t, func(t *testing.T, version byte) {
				r := newRig(t)
				c, attached := r.attached(version, "a", lasting)
				topic := "held/t"
				if tc.settled {
					topic = "t"
				}
				if !tc.seen {
					r.shelf.hold()
				}
				c.Send(publishPacket(topic, "x", 2, 7))
				if tc.settled {
					c.ExpectAck(packets.Pubrec, 7)
				} else {
					c.ExpectNothing()
				}
				var first *message.Message
				if tc.seen {
					first = receive(t, r.broker.published, "the message")
				}
				c.Close()
				receive(t, attached.Gone(), "its being gone")
				r.shelf.letGo()

				c = r.connect(version, "a", lasting)
				again := publishPacket(topic, "x", 2, 7)
				again.FixedHeader.Dup = true
				c.Send(again)
				second := receive(t, r.broker.published, "the message, again")
				for range tc.held {
					receive(t, r.broker.held, "a publication").settle(0)
				}
				c.ExpectAck(packets.Pubrec, 7)
				if tc.seen && first.ID != second.ID {
					t.Errorf("sent on as %v and as %v", first.ID, second.ID)
				}
				if tc.seen && second.Place().Seq <= first.Seq {
					t.Errorf("%v has its place at %v", first.ID, second.Place())
				}
				c.Ack(packets.Pubrel, 7)
				c.ExpectAck(packets.Pubcomp, 7)
				c.Send(publishPacket("t", "another", 2, 7))
				c.ExpectAck(packets.Pubrec, 7)
				if third := receive(t, r.broker.published, "another"); third.ID == second.ID {
					t.Errorf("another message is %v as well", third.ID)
				}
			})
		})
	}
}

// What has become of the message is not known: to say no would end it, and the client could not know that it has.
func TestAMessageWithoutAnOutcomeIsNotEndedByTheSession(t *testing.T) {
	r := newRig(t)
	c, attached := r.attached(v5, "a", lasting)
	c.Send(publishPacket("held/t", "x", 2, 7))
	first := receive(t, r.broker.published, "the message")
	receive(t, r.broker.held, "its publication").settle(packet.UnspecifiedError)
	if reason := c.ExpectClosed(); reason != byte(packet.UnspecifiedError) {
		t.Errorf("closed with %#x", reason)
	}
	receive(t, attached.Gone(), "its being gone")
	if diff := cmp.Diff([]journal.Kind{journal.Taken}, r.shelf.kinds("a")); diff != "" {
		t.Error(diff)
	}

	c = r.connect(v5, "a", lasting)
	c.Send(publishPacket("held/t", "x", 2, 7))
	second := receive(t, r.broker.published, "the message, again")
	if first.ID != second.ID {
		t.Errorf("sent on as %v and as %v", first.ID, second.ID)
	}
	receive(t, r.broker.held, "its publication").settle(packet.QuotaExceeded) // which is known
	if p := c.ExpectAck(packets.Pubrec, 7); p.ReasonCode != byte(packet.QuotaExceeded) {
		t.Errorf("PUBREC %#x", p.ReasonCode)
	}
}

func TestAPubrelAfterTheConnectionIsAnsweredOverTheNext(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		r := newRig(t)
		c, attached := r.attached(version, "a", lasting)
		c.Send(publishPacket("t", "x", 2, 7))
		c.ExpectAck(packets.Pubrec, 7)
		c.Close()
		receive(t, attached.Gone(), "its being gone")
		c = r.connect(version, "a", lasting)
		c.Ack(packets.Pubrel, 7)
		if p := c.ExpectAck(packets.Pubcomp, 7); p.ReasonCode != 0 {
			t.Errorf("PUBCOMP %#x", p.ReasonCode)
		}
		if n := len(r.broker.published); n != 1 {
			t.Errorf("sent on %d times", n)
		}
	})
}

func TestTheEndOfAConnectionStoresWhatItOwes(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		r := newRig(t, limit(func(l *client.Limits) { l.SendMaximum = 3 }))
		c, attached := r.attached(version, "a", lasting)
		var all []client.Delivery
		for i := range 6 {
			all = append(all, numbered("g", i, 1))
			waits(t, attached, all[i])
		}
		deliver(attached, delivery("t", "QoS 0", 0))
		c.Expect(packets.Publish)
		c.Expect(packets.Publish)
		c.Expect(packets.Publish)
		c.ReceivePayload("QoS 0") // it overtakes
		c.Close()
		receive(t, attached.Gone(), "its being gone")
		for _, d := range all {
			wantOutcome(t, d, engine.Stored)
		}
		var got []string
		for _, e := range r.shelf.entries("a") {
			got = append(got, fmt.Sprintf("%s %d", e.Message.Payload, e.PacketID))
		}
		want := []string{"g0 1", "g1 2", "g2 3", "g3 0", "g4 0", "g5 0"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		if o := deliver(attached, numbered("g", 7, 1)); o != engine.Moved {
			t.Errorf("%v at QoS 1, want moved", o)
		}
		if o := deliver(attached, numbered("g", 8, 0)); o != engine.Dropped {
			t.Errorf("%v at QoS 0, want dropped", o)
		}
		if n := r.metric("beeline_gateway_messages_dropped_total", "reason=session_ended"); n != 1 {
			t.Errorf("%v drops counted", n)
		}
		if !attached.Continues() || attached.HasRoom() {
			t.Errorf("goes on: %v, has room: %v", attached.Continues(), attached.HasRoom())
		}
	})
}

// resume connects a client whose former connection has gone, and expects its session to be there.
func (r *rig) resume(version byte, id string, opts ...rawmqtt.Option) (*rawmqtt.Client, *client.Client) {
	r.t.Helper()
	c := rawmqtt.Dial(r.t, r.addr, version)
	if ack := c.Hello(id, append([]rawmqtt.Option{lasting}, opts...)...); ack.ReasonCode != 0 || !ack.SessionPresent {
		r.t.Fatalf("CONNACK %#x, session present: %v", ack.ReasonCode, ack.SessionPresent)
	}
	return c, r.broker.client(id)
}

func TestASessionGoesOnWhereItsLastConnectionEnded(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		r := newRig(t, limit(func(l *client.Limits) { l.SendMaximum, l.QueueMessages = 4, 12 }))
		c, attached := r.attached(version, "a", lasting)
		qos := func(i int) byte { return 1 + byte(i%2) }
		const n = 35 // more than the queue takes, and several pages
		for i := range n {
			waits(t, attached, numbered("g", i, qos(i)))
		}
		var ids []uint16
		for range 3 {
			ids = append(ids, c.Expect(packets.Publish).PacketID)
		}
		c.Ack(packets.Pubrec, ids[1]) // g1 is released, whether its PUBREL comes or not
		c.Close()
		receive(t, attached.Gone(), "its being gone")

		c, attached = r.resume(version, "a")
		attached.Settled(true)
		waits(t, attached, numbered("h", 0, 1)) // live, while the inbox is read
		if p := c.Expect(packets.Publish); !p.FixedHeader.Dup || p.PacketID != ids[0] || string(p.Payload) != "g0" {
			t.Fatalf("first: %+v %d %q", p.FixedHeader, p.PacketID, p.Payload)
		}
		c.Ack(packets.Puback, ids[0])
		c.ExpectAck(packets.Pubrel, ids[1])
		c.Ack(packets.Pubcomp, ids[1])
		for i := 2; i < n; i++ {
			p := c.Expect(packets.Publish)
			if string(p.Payload) != fmt.Sprint("g", i) || p.FixedHeader.Qos != qos(i) {
				t.Fatalf("%q at QoS %d, want g%d", p.Payload, p.FixedHeader.Qos, i)
			}
			if i == 2 && (!p.FixedHeader.Dup || p.PacketID != ids[2]) {
				t.Errorf("%+v %d: it has been sent before as %d", p.FixedHeader, p.PacketID, ids[2])
			}
			if i > 4 && p.FixedHeader.Dup {
				t.Errorf("%q has never been sent before", p.Payload)
			}
			complete(c, p)
		}
		c.ReceivePayload("h0")
		waits(t, attached, numbered("h", 1, 1))
		c.ReceivePayload("h1")
		c.ExpectNothing()
		if entries := r.shelf.entries("a"); len(entries) != 0 {
			t.Errorf("left in the inbox: %d", len(entries))
		}
	})
}

// What senders sent to where the session was comes later than what they send here; the order of each is kept all the
// same.
func TestWhatComesEarlyWaitsForWhatIsOlder(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		r := newRig(t)
		c, attached := r.attached(version, "a", lasting)
		waits(t, attached, numbered("g", 1, 1))
		c.Expect(packets.Publish)
		c.Close()
		receive(t, attached.Gone(), "its being gone")

		c, attached = r.resume(version, "a")
		c.ReceivePayload("g1")
		late := []client.Delivery{numbered("g", 4, 1), numbered("h", 9, 1), numbered("g", 2, 2), numbered("g", 3, 1), numbered("h", 8, 1)}
		for _, d := range late {
			waits(t, attached, d)
		}
		if o := deliver(attached, numbered("g", 3, 1)); o != engine.Queued {
			t.Errorf("%v the second time, want queued", o)
		}
		again := numbered("g", 2, 2)
		waits(t, attached, again) // until the first is safe
		deliver(attached, delivery("t", "QoS 0", 0))
		c.ReceivePayload("QoS 0")
		c.ExpectNothing()
		attached.Settled(true)
		for _, want := range []string{"g2", "g3", "g4", "h8", "h9"} {
			c.ReceivePayload(want)
		}
		for _, d := range append(late, again) {
			if o := outcome(t, d); o != engine.Acked && o != engine.Stored {
				t.Errorf("%q settled as %v", d.Message.Payload, o)
			}
		}
		for _, d := range []client.Delivery{numbered("g", 2, 2), numbered("h", 9, 1)} {
			if o := deliver(attached, d); o != engine.Queued {
				t.Errorf("%v the second time, want queued", o)
			}
		}
		c.ExpectNothing()
		attached.ForgetSeen()
		waits(t, attached, numbered("h", 9, 1))
		c.ReceivePayload("h9")
	})
}

func TestWhatComesEarlyIsBounded(t *testing.T) {
	r := newRig(t, limit(func(l *client.Limits) { l.QueueBytes = 2500 }))
	c, attached := r.attached(v5, "a", lasting)
	c.Close()
	receive(t, attached.Gone(), "its being gone")
	c, attached = r.resume(v5, "a")
	for n := 3; n > 0; n-- {
		d := numbered("g", n, 1)
		d.Message.Payload = append(d.Message.Payload, strings.Repeat("x", 900)...)
		waits(t, attached, d)
	}
	c.ExpectNothing()
	waits(t, attached, numbered("g", 4, 1))
	for n := 1; n <= 4; n++ {
		if p := c.Receive(); !strings.HasPrefix(string(p.Payload), fmt.Sprint("g", n)) {
			t.Errorf("%.10q, want g%d", p.Payload, n)
		}
	}
	attached.Settled(true)
	c.ExpectNothing()
}

func TestWhatIsHeldBackForTooLongIsTaken(t *testing.T) {
	r := newRig(t)
	c, attached := r.attached(v5, "a", lasting)
	c.Close()
	receive(t, attached.Gone(), "its being gone")
	c, attached = r.resume(v5, "a")
	waits(t, attached, numbered("g", 2, 1))
	c.ExpectNothing()
	attached.Settled(false)
	c.ReceivePayload("g2")
	attached.Settled(false) // nothing is held back any more
	if n := r.metric("beeline_gateway_order_given_up_total"); n != 1 {
		t.Errorf("order was given up %v times, want once", n)
	}
}

// Something older may still be on its way: stored here, what is held back would overtake it.
func TestWhatWasHeldBackGoesAfterTheSessionWhenTheConnectionEnds(t *testing.T) {
	r := newRig(t)
	c, attached := r.attached(v5, "a", lasting)
	c.Close()
	receive(t, attached.Gone(), "its being gone")
	c, attached = r.resume(v5, "a")
	second, third := numbered("g", 2, 1), numbered("g", 3, 2)
	waits(t, attached, third)
	waits(t, attached, second)
	c.Close()
	receive(t, attached.Gone(), "its being gone")
	attached.Settled(true) // too late
	wantOutcome(t, second, engine.Moved)
	wantOutcome(t, third, engine.Moved)
	c, attached = r.resume(v5, "a")
	for _, d := range []client.Delivery{third, numbered("g", 1, 1), second} {
		d.Ticket = numbered("g", 0, 1).Ticket
		waits(t, attached, d)
	}
	attached.Settled(true)
	for _, want := range []string{"g1", "g2", "g3"} {
		c.ReceivePayload(want)
	}
	c.ExpectNothing()
}
