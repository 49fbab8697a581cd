package client_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/internal/engine"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

func retainedPacket(topic, payload string, qos byte, id uint16) packets.Packet {
	p := publishPacket(topic, payload, qos, id)
	p.FixedHeader.Retain = true
	return p
}

func TestARetainedMessageIsStoredBeforeItIsSentOn(t *testing.T) {
	for qos := range byte(3) {
		t.Run(fmt.Sprint("QoS ", qos), func(t *testing.T) {
			versions(t, func(t *testing.T, version byte) {
				r := newRig(t)
				c := r.connect(version, "a")
				r.shelf.hold()
				c.Send(retainedPacket("t", "kept", qos, uint16(qos)))
				c.Send(publishPacket("t", "behind it", qos, 3*uint16(qos)))
				c.ExpectNothing()
				if n := len(r.broker.published); n > 0 {
					t.Fatalf("%d messages were sent on", n)
				}
				r.shelf.letGo()
				for _, want := range []string{"kept", "behind it"} {
					m := receive(t, r.broker.published, want)
					if string(m.Payload) != want || m.Retain != (want == "kept") {
						t.Errorf("%q, retain %v; want %q", m.Payload, m.Retain, want)
					}
				}
				if qos > 0 {
					c.ExpectAck(ackFor(qos), uint16(qos))
					c.ExpectAck(ackFor(qos), 3*uint16(qos))
				}
			})
		})
	}
}

func TestDirectMessagesAreNotRetained(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		r := newRig(t)
		c := r.connect(version, "a")
		r.shelf.hold()
		c.Send(retainedPacket("p2p/b/n", "x", 1, 1))
		c.ExpectAck(packets.Puback, 1)
		if len(r.shelf.retained) > 0 {
			t.Error("it is on the shelf")
		}
		r.shelf.letGo()
	})
}

func TestMoreRetainedMessagesThanTheClusterTakesAreRefused(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		r := newRig(t, func(r *rig) { r.shelf.quota = 1 })
		c := r.connect(version, "a")
		c.Send(retainedPacket("t/1", "x", 1, 1))
		c.ExpectAck(packets.Puback, 1)
		c.Send(retainedPacket("t/2", "x", 0, 0))
		c.ExpectNothing()
		receive(t, r.broker.published, "the first")
		for qos := byte(1); qos <= 2; qos++ {
			c.Send(retainedPacket("t/2", "x", qos, 7))
			if version == v3 {
				c.ExpectClosed() // it has no way to say no
				break
			}
			if p := c.ExpectAck(ackFor(qos), 7); p.ReasonCode != 0x97 {
				t.Errorf("reason code %#x, want 0x97", p.ReasonCode)
			}
		}
		want := 3.0
		if version == v3 {
			want = 2
		}
		if n := r.metric("beeline_gateway_messages_dropped_total", "reason=retained_quota"); n != want {
			t.Errorf("%v drops are counted, want %v", n, want)
		}
		if len(r.broker.published) > 0 {
			t.Error("sent on all the same")
		}
	})
}

// subscribe sends a SUBSCRIBE and returns what comes up to and behind its SUBACK: SUBACK first, or it is an error.
func subscribe(t testing.TB, c *rawmqtt.Client, id int, s packets.Subscription) {
	t.Helper()
	p := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: c.ID(), Filters: packets.Subscriptions{s}}
	if id > 0 {
		p.Properties.SubscriptionIdentifier = []int{id}
	}
	c.Send(p)
	if ack := c.ExpectAck(packets.Suback, p.PacketID); ack.ReasonCodes[0] >= 0x80 {
		t.Fatalf("SUBACK % x", ack.ReasonCodes)
	}
}

func TestRetainedMessagesFollowTheSuback(t *testing.T) {
	for qos := range byte(3) {
		for granted := range byte(3) {
			t.Run(fmt.Sprintf("QoS %d, subscribed at %d", qos, granted), func(t *testing.T) {
				versions(t, func(t *testing.T, version byte) {
					r := newRig(t)
					c, attached := r.attached(version, "a", lasting)
					r.shelf.keep(25, qos)
					r.shelf.retained["other"] = &message.Message{Topic: "other", Payload: []byte("x"), Retain: true}
					id := 0
					if version == v5 {
						id = 77
					}
					subscribe(t, c, id, packets.Subscription{Filter: "t/+", Qos: granted})
					for i := range 25 {
						p := c.ReceivePayload(fmt.Sprintf("t/%06d", i))
						if !p.FixedHeader.Retain || p.FixedHeader.Dup || p.FixedHeader.Qos != min(qos, granted) {
							t.Errorf("%+v", p.FixedHeader)
						}
						if ids := p.Properties.SubscriptionIdentifier; version == v5 && !slices.Equal(ids, []int{77}) {
							t.Errorf("subscription identifiers %v", ids)
						}
					}
					c.ExpectNothing()
					deliver(attached, delivery("t/1", "live", 1))
					if p := c.ReceivePayload("live"); p.FixedHeader.Retain {
						t.Error("RETAIN on a message that has just been published")
					}
				})
			})
		}
	}
}

func TestRetainHandling(t *testing.T) {
	for handling, want := range [][2]bool{{true, true}, {true, false}, {false, false}} { // the first time, and again
		t.Run(fmt.Sprint(handling), func(t *testing.T) {
			r := newRig(t)
			r.shelf.keep(1, 1)
			c := r.connect(v5, "a", lasting)
			s := packets.Subscription{Filter: "t/#", Qos: 1, RetainHandling: byte(handling)}
			expect := func(what string, want bool) {
				t.Helper()
				subscribe(t, c, 0, s)
				if want {
					c.ReceivePayload("t/000000")
				}
				c.ExpectNothing()
			}
			expect("first", want[0])
			expect("again", want[1])
			c.Unsubscribe("t/#")
			expect("anew", want[0])
			c.Close()
			r.awaitServed(1)
			c, _ = r.resume(v5, "a")
			c.ExpectNothing() // resuming is not subscribing
			expect("again, after a resume", want[1])
		})
	}
}

func TestSharedSubscriptionsGetNoRetainedMessages(t *testing.T) {
	r := newRig(t)
	r.shelf.keep(3, 1)
	c := r.connect(v5, "a")
	subscribe(t, c, 0, packets.Subscription{Filter: "$share/g/t/#", Qos: 1})
	c.ExpectNothing()
	if n := r.shelf.pages(); n > 0 {
		t.Errorf("%d pages were read", n)
	}
}

func TestEachFilterOfASubscribeBringsItsRetainedMessages(t *testing.T) {
	r := newRig(t)
	r.shelf.keep(15, 1)
	c := r.connect(v5, "a")
	c.Subscribe(
		packets.Subscription{Filter: "t/000001", Qos: 0},
		packets.Subscription{Filter: "t/#", Qos: 1, RetainHandling: 2},
		packets.Subscription{Filter: "#/bad", Qos: 1},
		packets.Subscription{Filter: "t/+", Qos: 1},
	)
	var got []string
	for range 16 {
		p := c.Receive()
		got = append(got, fmt.Sprint(string(p.Payload), " ", p.FixedHeader.Qos))
	}
	want := []string{"t/000001 0"}
	for i := range 15 {
		want = append(want, fmt.Sprintf("t/%06d 1", i))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	c.ExpectNothing()
}

// A message that is published when SUBACK has gone out may be stored before the retained messages are read, and come live
// when it has been given as one of them.
func TestAMessageThatWasGivenAsRetainedDoesNotComeLiveAsWell(t *testing.T) {
	live := func(qos byte, until engine.Until, ids ...uint32) client.Delivery {
		d := delivery("t/000003", "live", qos)
		d.Message.ID, d.Message.Retain = message.ID{Origin: "g", Seq: 7}, true
		d.IDs, d.Until = ids, until
		return d
	}
	tests := []struct {
		name string
		d    client.Delivery
		want bool
	}{
		{"the same", live(1, engine.UntilQueued, 77), false},
		{"at a lower QoS", live(0, engine.UntilQueued, 77), false},
		{"at a higher QoS", live(2, engine.UntilQueued, 77), true},
		{"for another subscription", live(1, engine.UntilQueued, 78), true},
		{"for another subscription as well", live(1, engine.UntilQueued, 77, 78), true},
		{"for a subscription without an identifier", live(1, engine.UntilQueued), true},
		{"for a shared subscription", live(1, engine.UntilAcked, 77), true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			r.shelf.keep(5, 1)
			r.shelf.retained["t/000003"].ID = message.ID{Origin: "g", Seq: 7}
			c, attached := r.attached(v5, "a")
			subscribe(t, c, 77, packets.Subscription{Filter: "t/#", Qos: 1})
			for i := range 5 {
				c.ReceivePayload(fmt.Sprintf("t/%06d", i))
			}
			o := deliver(attached, tt.d)
			if tt.want {
				c.ReceivePayload("live")
			} else if o != engine.Queued {
				t.Errorf("%v, want queued", o)
			}
			deliver(attached, delivery("t/000003", "another", 1))
			c.ReceivePayload("another")
			c.ExpectNothing()
			// Nothing of it is on its way any more.
			attached.Sweep(time.Now().Add(r.limits.ReceiptTimeout), false)
			deliver(attached, live(1, engine.UntilQueued, 77))
			c.ReceivePayload("live")
		})
	}
}

// What was published while the retained messages were read is newer than what is read of its topic.
func TestANewerRetainedMessageIsNotFollowedByTheOlder(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		r := newRig(t)
		r.shelf.keep(15, 1)
		c, attached := r.attached(version, "a")
		r.shelf.hold()
		subscribe(t, c, 0, packets.Subscription{Filter: "t/#", Qos: 1})
		c.ExpectNothing()
		newer := delivery("t/000003", "newer", 1)
		newer.Message.Retain = true
		deliver(attached, newer)
		deliver(attached, delivery("t/000004", "not retained", 1))
		c.ReceivePayload("newer")
		c.ReceivePayload("not retained")
		r.shelf.letGo()
		for i := range 15 {
			if i != 3 {
				c.ReceivePayload(fmt.Sprintf("t/%06d", i))
			}
		}
		c.ExpectNothing()
		// When all has been read, nothing of it is remembered.
		subscribe(t, c, 0, packets.Subscription{Filter: "t/000003", Qos: 1})
		c.ReceivePayload("t/000003")
	})
}

func TestARetainedMessageThatIsTooLargeForTheClientIsLeftOut(t *testing.T) {
	r := newRig(t)
	r.shelf.keep(3, 1)
	r.shelf.retained["t/000001"].Payload = []byte(strings.Repeat("x", 200))
	c := r.connect(v5, "a", maximumPacketSize(100))
	subscribe(t, c, 0, packets.Subscription{Filter: "t/#", Qos: 1})
	c.ReceivePayload("t/000000")
	c.ReceivePayload("t/000002")
	c.ExpectNothing()
	if n := r.metric("beeline_gateway_messages_dropped_total", "reason=packet_too_large"); n != 1 {
		t.Errorf("%v drops counted, want 1", n)
	}
}

func TestRetainedMessagesAreReadAsTheClientTakesThem(t *testing.T) {
	const n = 100_000
	for name, opts := range map[string][]rawmqtt.Option{"clean": nil, "lasting": {lasting}} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, limit(func(l *client.Limits) { l.QueueMessages = 100 }), func(r *rig) { r.shelf.pageSize = 20 })
			r.shelf.keep(n, 1)
			c, attached := r.attached(v5, "a", opts...)
			subscribe(t, c, 0, packets.Subscription{Filter: "t/#", Qos: 1})
			var flight []uint16
			for range r.limits.SendMaximum {
				flight = append(flight, c.Expect(packets.Publish).PacketID)
			}
			c.ExpectNothing()
			pages := r.shelf.pages()
			if most := (100/2+r.limits.SendMaximum)/20 + 2; pages > most {
				t.Errorf("%d pages were read for a client that takes nothing, want %d at most", pages, most)
			}
			c.Unsubscribe("t/#")
			deliver(attached, delivery("live", "live", 1)) // there is room for others
			for _, id := range flight {
				c.Ack(packets.Puback, id)
			}
			for string(c.Receive().Payload) != "live" { // what was on its way
			}
			c.ExpectNothing()
			if more := r.shelf.pages() - pages; more > 4 {
				t.Errorf("%d pages were read after UNSUBSCRIBE", more)
			}
		})
	}
}

func TestAllRetainedMessagesComeInTheEnd(t *testing.T) {
	const n = 2000
	for name, opts := range map[string][]rawmqtt.Option{"clean": nil, "lasting": {lasting}} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, limit(func(l *client.Limits) { l.QueueMessages = 100 }), func(r *rig) { r.shelf.pageSize = 20 })
			r.shelf.keep(n, 1)
			c, attached := r.attached(v5, "a", opts...)
			subscribe(t, c, 0, packets.Subscription{Filter: "t/#", Qos: 1})
			live := 0
			for i := 0; i < n; {
				if i%100 == 99 {
					if o := deliver(attached, numbered("g", i, 1)); o == engine.Ended || o == engine.Dropped {
						t.Fatalf("a live one: %v", o)
					}
				}
				p := c.Receive()
				if !p.FixedHeader.Retain {
					live++
					continue
				}
				if string(p.Payload) != fmt.Sprintf("t/%06d", i) {
					t.Fatalf("%q, want the %d-th", p.Payload, i)
				}
				i++
			}
			for ; live < n/100; live++ {
				c.Receive()
			}
			c.ExpectNothing()
		})
	}
}

func TestAClientThatEndsIsNotReadFor(t *testing.T) {
	inTime(t, func(t *testing.T, version byte) {
		r := quiet(t)
		r.shelf.keep(1000, 1)
		c := r.pipe(version)
		c.Hello("a")
		attached := r.broker.client("a")
		r.shelf.hold()
		subscribe(t, c, 0, packets.Subscription{Filter: "t/#", Qos: 1})
		c.Close()
		<-attached.Gone()
		r.shelf.letGo()
		time.Sleep(time.Second)
		if n := r.shelf.pages(); n != 1 {
			t.Errorf("%d pages were read", n)
		}
	})
}
