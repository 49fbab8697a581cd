package client_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/internal/engine"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

func TestAClientWhoseSessionSomebodyElseHoldsIsTakenOver(t *testing.T) {
	// What it was that the session service refused.
	for name, provoke := range map[string]func(c *rawmqtt.Client, a *client.Client){
		"a message of the client's": func(c *rawmqtt.Client, _ *client.Client) { c.Send(publishPacket("t", "x", 2, 1)) },
		"a message for it": func(_ *rawmqtt.Client, a *client.Client) {
			deliver(a, numbered("h", 1, 2))
		},
		"a SUBSCRIBE": func(c *rawmqtt.Client, _ *client.Client) {
			c.Send(packets.Packet{
				FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: 1, Filters: packets.Subscriptions{{Filter: "t"}},
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			versions(t, func(t *testing.T, version byte) {
				r := newRig(t)
				c, attached := r.attached(version, "a", lasting)
				inFlight, lent := numbered("g", 1, 1), numbered("g", 2, 1)
				lent.Until = engine.UntilAcked
				waits(t, attached, inFlight)
				waits(t, attached, lent)
				c.Expect(packets.Publish)
				c.Expect(packets.Publish)
				r.shelf.fence("a")
				provoke(c, attached)
				if got := c.ExpectClosed(); version == v5 && got != 0x8E {
					t.Errorf("DISCONNECT %#x, want 0x8E", got)
				}
				c.Close()
				receive(t, attached.Gone(), "its being gone")
				wantOutcome(t, inFlight, engine.Moved)
				wantOutcome(t, lent, engine.Ended)
				if o := deliver(attached, numbered("g", 3, 1)); o != engine.Moved {
					t.Errorf("%v afterwards, want moved", o)
				}
				if !attached.LeaseLost() {
					t.Error("it would give up a lease that it has lost")
				}
				if len(r.broker.published) > 0 {
					t.Error("the message was sent on all the same")
				}
				if n := r.metric("beeline_gateway_clients_closed_total", "reason=taken_over"); n != 1 {
					t.Errorf("%v counted as taken over", n)
				}
			})
		})
	}
}

// The last write of a connection may be refused as well: what it was to store goes after the session.
func TestWhatCannotBeStoredAtTheEndHasMoved(t *testing.T) {
	r := newRig(t)
	c, attached := r.attached(v5, "a", lasting)
	d := numbered("g", 1, 1)
	waits(t, attached, d)
	c.Expect(packets.Publish)
	r.shelf.fence("a")
	c.Close()
	receive(t, attached.Gone(), "its being gone")
	wantOutcome(t, d, engine.Moved)
}

func TestAPageThatIsRefusedEndsTheConnection(t *testing.T) {
	r := newRig(t)
	c, attached := r.attached(v5, "a", lasting)
	waits(t, attached, numbered("g", 1, 1))
	c.Close()
	receive(t, attached.Gone(), "its being gone")
	r.shelf.fence("a")
	c = rawmqtt.Dial(t, r.addr, v5)
	c.Hello("a", lasting)
	if got := c.ExpectClosed(); got != 0x8E {
		t.Errorf("DISCONNECT %#x, want 0x8E", got)
	}
}

func TestSubscriptionsAreDurableBeforeTheyAreAcknowledged(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		r := newRig(t)
		c := r.connect(version, "a", lasting)
		r.shelf.hold()
		c.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: 1, Filters: packets.Subscriptions{
			{Filter: "t/+", Qos: 1}, {Filter: "t/#/bad"}, {Filter: "$share/g/t", Qos: 2},
		}})
		c.ExpectNothing()
		r.shelf.letGo()
		want := []byte{1, 0x80, 2}
		if version == v5 {
			want[1] = 0x8F
		}
		if p := c.ExpectAck(packets.Suback, 1); !slices.Equal(p.ReasonCodes, want) {
			t.Errorf("SUBACK % x, want % x", p.ReasonCodes, want)
		}
		r.shelf.hold()
		c.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Unsubscribe}, PacketID: 2, Filters: packets.Subscriptions{
			{Filter: "t/+"}, {Filter: "never/had"},
		}})
		c.ExpectNothing()
		r.shelf.letGo()
		c.ExpectAck(packets.Unsuback, 2)

		// Nothing to store, nothing to wait for.
		r.shelf.hold()
		c.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Unsubscribe}, PacketID: 3, Filters: packets.Subscriptions{{Filter: "x"}}})
		c.ExpectAck(packets.Unsuback, 3)
		c.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: 4, Filters: packets.Subscriptions{{Filter: "#/bad"}}})
		c.ExpectAck(packets.Suback, 4)
		r.shelf.letGo()

		c.Close()
		r.awaitServed(1)
		_, attached := r.resume(version, "a")
		if diff := cmp.Diff([]string{"$share/g/t"}, attached.Filters()); diff != "" {
			t.Errorf("filters of the session: %s", diff)
		}
	})
}

func TestASubscriptionThatIsRefusedIsNotKept(t *testing.T) {
	for name, err := range map[string]error{"too many members": client.ErrTooManyMembers, "not announced": errTest} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, func(r *rig) {
				r.broker.onSubscribe = func(_ string, done func(error) bool) bool {
					if !done(err) {
						t.Error("it is not to be withdrawn")
					}
					return true
				}
			})
			c := r.connect(v5, "a", lasting)
			if p := c.Subscribe(packets.Subscription{Filter: "$share/g/t", Qos: 1}); p.ReasonCodes[0] < 0x80 {
				t.Errorf("SUBACK % x", p.ReasonCodes)
			}
			c.Close()
			r.awaitServed(1)
			if _, attached := r.resume(v5, "a"); len(attached.Filters()) > 0 {
				t.Errorf("filters of the session: %q", attached.Filters())
			}
		})
	}
}

func TestDisconnectMayEndTheSession(t *testing.T) {
	r := newRig(t)
	c, attached := r.attached(v5, "a", lasting)
	c.MustSubscribe("t", 1)
	inFlight := numbered("g", 1, 1)
	waits(t, attached, inFlight)
	c.Expect(packets.Publish)
	writes := len(r.shelf.written("a"))
	c.SendRaw([]byte{0xE0, 7, 0, 5, 0x11, 0, 0, 0, 0})
	c.ExpectClosed()
	c.Close()
	receive(t, attached.Gone(), "its being gone")
	wantOutcome(t, inFlight, engine.Ended)
	if attached.Continues() {
		t.Error("the session goes on")
	}
	if o := deliver(attached, numbered("g", 2, 1)); o != engine.Ended {
		t.Errorf("%v afterwards, want ended", o)
	}
	if n := len(r.shelf.written("a")) - writes; n > 0 {
		t.Errorf("%d changes of a session that is over", n)
	}
}

func TestSessionPresentSaysWhetherThereWasOne(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		r := newRig(t)
		for i, tc := range []struct {
			opts    []rawmqtt.Option
			present bool
		}{
			{[]rawmqtt.Option{lasting}, false},
			{[]rawmqtt.Option{lasting}, true},
			{[]rawmqtt.Option{sessionExpiry(300)}, false}, // a clean start; in 3.1.1 it is the end as well
			{[]rawmqtt.Option{lasting}, version == v5},
			{nil, false},
			{[]rawmqtt.Option{lasting}, false},
		} {
			c := rawmqtt.Dial(t, r.addr, version)
			if ack := c.Hello("a", tc.opts...); ack.SessionPresent != tc.present || ack.ReasonCode != 0 {
				t.Errorf("connect %d: session present: %v, want %v", i, ack.SessionPresent, tc.present)
			}
			if !tc.present && len(r.broker.client("a").Filters()) > 0 {
				t.Errorf("connect %d: a new session has %q", i, r.broker.client("a").Filters())
			}
			c.MustSubscribe(fmt.Sprint("t/", i), 1)
			c.Close()
			r.awaitServed(1)
		}
	})
}

// A new connection waits until the former one has written what it owes.
func TestATakeoverOnTheSameGatewayLosesNothing(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		r := newRig(t)
		c, attached := r.attached(version, "a", lasting)
		for i := range 5 {
			waits(t, attached, numbered("g", i, 2))
		}
		first := c.Expect(packets.Publish)
		second, _ := r.resume(version, "a")
		for i := range 5 {
			p := second.Receive()
			if string(p.Payload) != fmt.Sprint("g", i) {
				t.Errorf("%q, want g%d", p.Payload, i)
			}
			if i == 0 && (p.PacketID != first.PacketID || !p.FixedHeader.Dup) {
				t.Errorf("%d, %+v: it was sent as %d", p.PacketID, p.FixedHeader, first.PacketID)
			}
		}
		second.ExpectNothing()
	})
}

// A receiver that is slower than its publishers has the rest in its inbox, and the publishers do not wait for it.
func TestWhatAFullReceiverDoesNotTakeIsInItsInbox(t *testing.T) {
	inTime(t, func(t *testing.T, version byte) {
		r := quiet(t, limit(func(l *client.Limits) { l.SendMaximum, l.QueueMessages = 2, 10 }))
		slow := r.pipe(version)
		slow.Hello("slow", lasting)
		attached := r.broker.client("slow")
		const n = 100
		began := time.Now()
		for i := range n {
			waits(t, attached, numbered("g", i, 1))
		}
		last := numbered("g", n, 1)
		waits(t, attached, last)
		wantOutcome(t, last, engine.Stored)
		if took := time.Since(began); took > r.limits.StoreAfter {
			t.Errorf("it took %v", took)
		}
		lent := numbered("h", 1, 1)
		lent.Until = engine.UntilAcked
		if o := deliver(attached, lent); o != engine.Ended || attached.HasRoom() {
			t.Errorf("for a shared subscription: %v, has room: %v", o, attached.HasRoom())
		}
		attached.Sweep(time.Now().Add(time.Hour), true)
		for i := range n + 1 {
			p := slow.Receive()
			if string(p.Payload) != fmt.Sprint("g", i) || p.FixedHeader.Dup {
				t.Fatalf("%q (DUP %v), want g%d", p.Payload, p.FixedHeader.Dup, i)
			}
		}
		slow.ExpectNothing()
		synctest.Wait()
		if left := len(r.shelf.entries("slow")); left > 0 || !attached.HasRoom() {
			t.Errorf("%d are left in the inbox, has room: %v", left, attached.HasRoom())
		}
		writes := len(r.shelf.written("slow"))
		waits(t, attached, numbered("g", n+1, 1))
		slow.ReceivePayload(fmt.Sprint("g", n+1))
		synctest.Wait()
		if got := len(r.shelf.written("slow")); got > writes {
			t.Errorf("%d changes of a session that keeps up again", got-writes)
		}
	})
}

// A PUBREL that becomes due while the output is full goes out when there is room.
func TestAPubrelIsNotForgottenBehindAFullOutput(t *testing.T) {
	inTime(t, func(t *testing.T, version byte) {
		r := quiet(t)
		c := r.pipe(version)
		c.Hello("a", lasting)
		attached := r.broker.client("a")
		waits(t, attached, numbered("g", 1, 2))
		p := c.Expect(packets.Publish)
		r.shelf.hold()
		c.Ack(packets.Pubrec, p.PacketID)
		synctest.Wait()
		big := strings.Repeat("x", 100_000)
		for range 2 { // one is being written, one fills the output, and nothing is left in the queue
			deliver(attached, delivery("t", big, 0))
			synctest.Wait()
		}
		r.shelf.letGo()
		synctest.Wait()
		c.ReceivePayload(big)
		c.ReceivePayload(big)
		c.ExpectAck(packets.Pubrel, p.PacketID)
		c.Ack(packets.Pubcomp, p.PacketID)
		c.ExpectNothing()
	})
}

func TestNothingIsWrittenForASessionThatEndsWithItsConnection(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		r := newRig(t)
		c, attached := r.attached(version, "a")
		c.MustSubscribe("t", 2)
		r.connect(version, "b").Publish("t", "x", 2)
		c.ReceivePayload("x")
		c.Publish("u", "x", 2)
		waits := numbered("g", 1, 1)
		if o := deliver(attached, waits); o != engine.Queued {
			t.Errorf("%v", o)
		}
		c.Close()
		r.awaitServed(1)
		if got := r.shelf.kinds("a"); len(got) > 0 {
			t.Errorf("%v", got)
		}
	})
}
