package client_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/internal/engine"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

func TestADeliveryGoesThroughTheHandshakeOfItsQoS(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		r := newRig(t)
		c, attached := r.attached(version, "a")
		for qos := byte(0); qos <= 2; qos++ {
			d := delivery("t", fmt.Sprint("QoS ", qos), qos)
			k := newTicket()
			d.Ticket, d.Until = k, engine.UntilAcked
			d.Retain = true
			want := engine.Waiting
			if qos == 0 {
				want = engine.Queued
			}
			if o := deliver(attached, d); o != want {
				t.Fatalf("%v at QoS %d", o, qos)
			}
			p := c.ReceivePayload(fmt.Sprint("QoS ", qos))
			if p.FixedHeader.Qos != qos || p.FixedHeader.Dup || !p.FixedHeader.Retain || p.TopicName != "t" {
				t.Fatalf("got %+v", p.FixedHeader)
			}
			if qos > 0 {
				if o := receive(t, k, "the acknowledgement"); o != engine.Acked {
					t.Fatalf("settled as %v", o)
				}
			}
		}
	})
}

func TestSubscriptionIdentifiersGoOutWithTheMessage(t *testing.T) {
	r := newRig(t)
	c, attached := r.attached(v5, "a")
	d := delivery("t", "x", 0)
	d.IDs = []uint32{3, 300}
	deliver(attached, d)
	if diff := cmp.Diff([]int{3, 300}, c.Receive().Properties.SubscriptionIdentifier); diff != "" {
		t.Fatal(diff)
	}
}

func TestNoMoreThanBothSidesAllowAreInFlight(t *testing.T) {
	cases := []struct {
		name    string
		version byte
		ours    int
		opts    []rawmqtt.Option
		want    int
	}{
		{"the client's Receive Maximum", v5, 32, []rawmqtt.Option{receiveMaximum(2)}, 2},
		{"our own maximum", v5, 3, []rawmqtt.Option{receiveMaximum(1000)}, 3},
		{"3.1.1 has ours alone", v3, 3, nil, 3},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, limit(func(l *client.Limits) { l.SendMaximum = tc.ours }))
			c, attached := r.attached(tc.version, "a", tc.opts...)
			const n = 10
			for i := range n {
				deliver(attached, delivery("t", fmt.Sprint(i), 1+byte(i%2)))
			}
			var flight []packets.Packet
			for i := range n {
				if len(flight) == tc.want {
					c.ExpectNothing()
					complete(c, flight[0])
					flight = flight[1:]
				}
				p := c.Expect(packets.Publish)
				if string(p.Payload) != fmt.Sprint(i) {
					t.Fatalf("payload %q, want %d", p.Payload, i)
				}
				flight = append(flight, p)
			}
		})
	}
}

// complete acknowledges p to the end.
func complete(c *rawmqtt.Client, p packets.Packet) {
	if p.FixedHeader.Qos == 1 {
		c.Ack(packets.Puback, p.PacketID)
		return
	}
	c.Ack(packets.Pubrec, p.PacketID)
	c.ExpectAck(packets.Pubrel, p.PacketID)
	c.Ack(packets.Pubcomp, p.PacketID)
}

func TestTheTwoDirectionsHavePacketIdentifiersOfTheirOwn(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		r := newRig(t)
		c, attached := r.attached(version, "a")
		for range 3 {
			deliver(attached, delivery("t", "to the client", 2))
		}
		first := c.Expect(packets.Publish)
		c.Expect(packets.Publish)
		c.Expect(packets.Publish)
		// The client numbers from where it likes: its own message, and its SUBSCRIBE, have identifiers that we use.
		c.Send(publishPacket("from/the/client", "x", 2, first.PacketID))
		c.ExpectAck(packets.Pubrec, first.PacketID)
		c.Send(packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: first.PacketID + 1,
			Filters: packets.Subscriptions{{Filter: "s"}},
		})
		c.Expect(packets.Suback)
		c.Ack(packets.Pubrec, first.PacketID)
		c.ExpectAck(packets.Pubrel, first.PacketID)
		c.Ack(packets.Pubrel, first.PacketID)
		c.ExpectAck(packets.Pubcomp, first.PacketID)
		c.Ack(packets.Pubcomp, first.PacketID)
		c.ExpectNothing()
	})
}

func TestAnAcknowledgementOfTheWrongKindIsAProtocolError(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		r := newRig(t)
		c, attached := r.attached(version, "a")
		deliver(attached, delivery("t", "x", 1))
		p := c.Expect(packets.Publish)
		c.Ack(packets.Pubrec, p.PacketID)
		if got := c.ExpectClosed(); version == v5 && got != 0x82 {
			t.Fatalf("DISCONNECT %#x", got)
		}
	})
}

func TestAcknowledgementsOfNothingDoNoHarm(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		r := newRig(t)
		c := r.connect(version, "a")
		c.Ack(packets.Puback, 7)
		c.Ack(packets.Pubcomp, 7)
		c.ExpectNothing()
		c.Ack(packets.Pubrec, 7)
		if p := c.ExpectAck(packets.Pubrel, 7); version == v5 && p.ReasonCode != 0x92 {
			t.Fatalf("PUBREL %#x", p.ReasonCode)
		}
		c.ExpectNothing()
	})
}

func TestAMessageThatIsTooLargeForTheClientIsLeftOutAndCounted(t *testing.T) {
	const most = 100
	r := newRig(t)
	c, attached := r.attached(v5, "a", maximumPacketSize(most))
	fits := strings.Repeat("x", most-8) // fixed header 2, topic 2+1, packet identifier 2, properties 1
	deliver(attached, delivery("t", fits, 1))
	c.ReceivePayload(fits)
	for _, qos := range []byte{0, 1, 2} {
		d := delivery("t", fits+"yyy", qos)
		d.Message.Publisher = "x"
		d.Ticket, d.Until = newTicket(), engine.UntilAcked
		if o := deliver(attached, d); o != engine.Queued {
			t.Fatalf("%v; it counts as delivered", o)
		}
	}
	deliver(attached, delivery("t", "after", 1))
	c.ReceivePayload("after")
	if n := r.metric("beeline_gateway_messages_dropped_total", "reason=packet_too_large"); n != 3 {
		t.Errorf("%v drops counted, want 3", n)
	}
	wantDrops(t, attached, "t 2 packet_too_large by x", "t 1 packet_too_large by x", "t 0 packet_too_large by x")
}

// wantDrops sees what the client's last drops are, the newest first.
func wantDrops(t *testing.T, c *client.Client, want ...string) {
	t.Helper()
	shown, _ := c.Inspect(time.Now())
	var got []string
	for _, d := range shown.Drops {
		if time.Since(d.Time) > time.Minute {
			t.Errorf("a drop at %s", d.Time)
		}
		got = append(got, fmt.Sprintf("%s %d %s by %s", d.Topic, d.QoS, d.Reason, d.Publisher))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("drops differ (-want +got):\n%s", diff)
	}
}

func TestADisconnectThatIsTooLargeForTheClientGoesWithoutItsReason(t *testing.T) {
	r := newRig(t)
	c := r.connect(v5, "a", maximumPacketSize(30))
	c.Send(rawmqtt.ConnectPacket(v5, "a"))
	got := c.Expect(packets.Disconnect)
	if got.ReasonCode != 0x82 || got.Properties.ReasonString != "" {
		t.Fatalf("DISCONNECT %#x with %q", got.ReasonCode, got.Properties.ReasonString)
	}
}

func TestWhatIsDeliveredWhileTheClientIsAttachedComesBehindConnack(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		r := newRig(t, func(r *rig) {
			r.broker.onAttach = func(_ context.Context, c *client.Client) error {
				deliver(c, delivery("t", "early", 1))
				if c.HasRoom() {
					t.Error("chosen for shared subscriptions before it is connected")
				}
				return nil
			}
		})
		c := rawmqtt.Dial(t, r.addr, version)
		c.Hello("a")
		c.ReceivePayload("early")
	})
}

// stuff fills the client's socket and queue until a delivery has to wait, and returns that one's ticket.
func stuff(t *testing.T, c *client.Client) ticket {
	t.Helper()
	payload := strings.Repeat("x", 100_000)
	for range 1000 {
		d := delivery("t", payload, 1)
		k := newTicket()
		d.Ticket = k
		if deliver(c, d) == engine.Waiting {
			return k
		}
	}
	t.Fatal("100 MB have been taken for a client that does not read")
	return nil
}

// shallow keeps at most ten messages for a client, and as many in flight as it likes.
func shallow(r *rig) {
	r.limits.QueueMessages, r.limits.SendMaximum, r.limits.QueueBytes = 10, 1000, 32<<20
}

func TestAReceiverWhoseQueueStaysFullIsClosedAndItsPublishersReleased(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		r := newRig(t, shallow)
		_, attached := r.attached(version, "slow")
		k := stuff(t, attached)
		if attached.HasRoom() {
			t.Error("has room")
		}
		full := time.Now()
		attached.Sweep(full.Add(r.limits.SlowTimeout-time.Minute), false)
		attached.Sweep(full.Add(r.limits.SlowTimeout/2), false)
		select {
		case o := <-k:
			t.Fatalf("settled as %v before its time", o)
		case <-attached.Stopped():
			t.Fatal("closed before its time")
		default:
		}
		attached.Sweep(full.Add(r.limits.SlowTimeout+time.Second), false)
		if o := receive(t, k, "the receipt"); o != engine.Ended {
			t.Errorf("settled as %v", o)
		}
		receive(t, attached.Gone(), "its end")
		if o := deliver(attached, delivery("t", "x", 1)); o != engine.Ended {
			t.Errorf("%v after the end", o)
		}
		r.awaitServed(1)
		if r.metric("beeline_gateway_clients_closed_total", "reason=slow") != 1 {
			t.Error("not counted as slow")
		}
		if r.metric("beeline_gateway_messages_dropped_total", "reason=session_ended") < 10 {
			t.Error("what was queued is not counted")
		}
	})
}

func TestAReceiverThatReadsAgainGetsEverythingInOrder(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		r := newRig(t, shallow)
		c, attached := r.attached(version, "a")
		k := stuff(t, attached)
		n := 0
		for settled := false; !settled; n++ {
			if p := c.Receive(); len(p.Payload) != 100_000 {
				t.Fatalf("message %d has %d bytes", n, len(p.Payload))
			}
			select {
			case o := <-k:
				if o != engine.Queued {
					t.Fatalf("settled as %v", o)
				}
				settled = true
			default:
			}
		}
		deliver(attached, delivery("last", "", 1))
		for c.Receive().TopicName != "last" {
			n++
		}
		if !attached.HasRoom() {
			t.Error("still no room")
		}
	})
}
