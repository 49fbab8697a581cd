package broker

import (
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"
	"pgregory.net/rapid"

	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

func sharedOf(group, filter string) topic.Shared { return topic.Shared{Group: group, Filter: filter} }

func (g *groups) names(s topic.Shared) []string {
	var names []string
	for m := range g.inTurn(s) {
		names = append(names, m.c.ID)
	}
	return names
}

func TestEachMemberHasItsTurn(t *testing.T) {
	var g groups
	s := sharedOf("g", "a/+")
	if names := g.names(s); names != nil {
		t.Errorf("members of an unknown group: %v", names)
	}
	for i, id := range []string{"a", "b", "c"} {
		if r, ok := g.join(s, &client.Client{ID: id}, subscriptions.Options{}, 1000); !ok || r.Members != uint32(i+1) {
			t.Errorf("%d members after %s", r.Members, id)
		}
	}
	g.join(sharedOf("g", "b"), &client.Client{ID: "of another filter"}, subscriptions.Options{}, 1000)
	g.join(sharedOf("h", "a/+"), &client.Client{ID: "of another group"}, subscriptions.Options{}, 3)
	var got [][]string
	for range 4 {
		got = append(got, g.names(s))
	}
	want := [][]string{{"b", "c", "a"}, {"c", "a", "b"}, {"a", "b", "c"}, {"b", "c", "a"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestJoiningAgainChangesTheOptions(t *testing.T) {
	var g groups
	s, c := sharedOf("g", "a"), &client.Client{ID: "c"}
	g.join(s, c, subscriptions.Options{QoS: 1}, 1000)
	if r, ok := g.join(s, c, subscriptions.Options{QoS: 2, ID: 7}, 1000); !ok || r.Members != 1 {
		t.Errorf("%d members", r.Members)
	}
	for m := range g.inTurn(s) {
		if m.o.QoS != 2 || m.o.ID != 7 {
			t.Errorf("options %+v", m.o)
		}
	}
}

func TestMembersThatComeAndGo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var g groups
		s := sharedOf("g", "a")
		all := []*client.Client{{ID: "0"}, {ID: "1"}, {ID: "2"}, {ID: "3"}, {ID: "4"}, {ID: "5"}}
		in := map[string]bool{}
		t.Repeat(map[string]func(*rapid.T){
			"join": func(t *rapid.T) {
				c := rapid.SampledFrom(all).Draw(t, "client")
				in[c.ID] = true
				if r, ok := g.join(s, c, subscriptions.Options{}, 1000); !ok || int(r.Members) != len(in) {
					t.Fatalf("%d members, want %d", r.Members, len(in))
				}
			},
			"leave": func(t *rapid.T) {
				c := rapid.SampledFrom(all).Draw(t, "client")
				was := in[c.ID]
				delete(in, c.ID)
				r, ok := g.leave(s, c, rapid.Bool().Draw(t, "its session goes on"))
				if ok != was || was && int(r.Members) != len(in) || r.Durable {
					t.Fatalf("leave = %+v, %v; want %d, %v", r, ok, len(in), was)
				}
			},
			"": func(t *rapid.T) {
				names := g.names(s)
				slices.Sort(names)
				if len(names) != len(in) || len(slices.Compact(names)) != len(in) {
					t.Fatalf("members %v, want those of %v once", names, in)
				}
				if (g.m[s] != nil) != (len(in) > 0) {
					t.Fatal("an empty group is kept")
				}
			},
		})
	})
}

func TestALookAtTheMembersOutlivesTheirLeaving(t *testing.T) {
	var g groups
	s := sharedOf("g", "a")
	all := []*client.Client{{ID: "a"}, {ID: "b"}, {ID: "c"}}
	for _, c := range all {
		g.join(s, c, subscriptions.Options{}, 1000)
	}
	n := 0
	for range g.inTurn(s) {
		n++
		for _, c := range all {
			g.leave(s, c, false)
		}
	}
	if n != 1 {
		t.Errorf("%d members after all had left", n)
	}
}

const job = "$share/workers/jobs/+"

// worker connects a member of the shared subscription.
func (g *gateway) worker(id string, qos byte, opts ...rawmqtt.Option) *rawmqtt.Client {
	g.t.Helper()
	c := g.connect(v5, id, opts...)
	c.MustSubscribe(job, qos)
	return c
}

// clog fills a worker's queue, which has to be as small as tiny makes it, so that it has no room for more.
// Acknowledging its first message makes room.
func clog(g *gateway, worker *rawmqtt.Client) (firstID uint16) {
	g.t.Helper()
	worker.MustSubscribe("clog", 1)
	pub := g.connect(v5, "clogger")
	for i := range 3 { // one in flight, one queued, one waiting for room
		send(pub, "clog", strconv.Itoa(i), 1)
	}
	handledAfter(pub, 2)
	return worker.Expect(packets.Publish).PacketID
}

// handledAfter returns when the gateway has handled what c has sent, expecting n PUBACKs.
func handledAfter(c *rawmqtt.Client, n int) {
	for range n {
		c.Expect(packets.Puback)
	}
	c.ExpectNothing()
}

var tiny = options{limits: func(l *client.Limits) { l.QueueMessages = 1 }}

func TestMembersOnAllGatewaysTakeTurns(t *testing.T) {
	for qos := range byte(3) {
		t.Run(strconv.Itoa(int(qos)), func(t *testing.T) {
			g := start(t, 3, options{})
			workers := []*rawmqtt.Client{g[0].worker("a1", qos), g[1].worker("b1", qos), g[1].worker("b2", qos), g[2].worker("c1", qos)}
			pub := g[0].connect(v5, "pub")
			const rounds = 5
			// Members acknowledge as they receive, so everything is sent before anything is received.
			for i := range rounds * len(workers) {
				send(pub, "jobs/x", strconv.Itoa(i), qos)
			}
			seen := make(map[string]int)
			for _, w := range workers {
				for range rounds {
					seen[string(w.Receive().Payload)]++
				}
				w.ExpectNothing()
			}
			if len(seen) != rounds*len(workers) {
				t.Errorf("%d different messages, want %d", len(seen), rounds*len(workers))
			}
		})
	}
}

func TestAHolderWithoutRoomPassesAMessageOn(t *testing.T) {
	g := start(t, 3, tiny)
	full := g[1].worker("full", 1, receiveMaximum(1))
	clog(g[1], full)
	free := g[2].worker("free", 1)
	pub := g[0].connect(v5, "pub")
	for i := range 4 {
		id := send(pub, "jobs/x", strconv.Itoa(i), 1)
		free.ReceivePayload(strconv.Itoa(i))
		if ack := pub.ExpectAck(packets.Puback, id); ack.ReasonCode != 0 {
			t.Errorf("PUBACK %#x", ack.ReasonCode)
		}
	}
	if n := g[0].metric("beeline_mesh_receipts_total", "outcome=no_member"); n == 0 {
		t.Error("the full holder was never asked: the test shows nothing")
	}
	full.ExpectNothing()
}

func TestAMessageThatNobodyHasRoomForIsOfferedAgain(t *testing.T) {
	for _, at := range []string{"here", "elsewhere"} {
		t.Run(at, func(t *testing.T) {
			g := start(t, 2, tiny)
			home := g[0]
			if at == "elsewhere" {
				home = g[1]
			}
			full := home.worker("full", 1, receiveMaximum(1))
			first := clog(home, full)
			pub := g[0].connect(v5, "pub")
			id := send(pub, "jobs/x", "m", 1)
			handled(pub)
			answered(g[0], home)
			handled(pub) // it has been refused, and there is no PUBACK
			full.Ack(packets.Puback, first)
			full.ReceivePayload("1")
			full.ReceivePayload("2")
			full.ReceivePayload("m")
			if ack := pub.ExpectAck(packets.Puback, id); ack.ReasonCode != 0 {
				t.Errorf("PUBACK %#x", ack.ReasonCode)
			}
		})
	}
}

func TestAMessageForWhichThereIsNeverRoomIsAnError(t *testing.T) {
	o := tiny
	o.limits = func(l *client.Limits) {
		tiny.limits(l)
		l.ReceiptTimeout = l.SlowTimeout / 20
	}
	g := start(t, 2, o)
	clog(g[1], g[1].worker("full", 1, receiveMaximum(1)))
	pub := g[0].connect(v5, "pub")
	if ack := pub.Publish("jobs/x", "m", 1); ack.ReasonCode != byte(packet.UnspecifiedError) {
		t.Errorf("PUBACK %#x, want 0x80", ack.ReasonCode)
	}
}

func TestAMemberThatLeavesBeforeItAcknowledgesIsReplaced(t *testing.T) {
	for _, at := range []string{"here", "elsewhere"} {
		t.Run(at, func(t *testing.T) {
			g := start(t, 3, options{})
			home := g[0]
			if at == "elsewhere" {
				home = g[1]
			}
			first := home.worker("first", 1)
			pub := g[0].connect(v5, "pub")
			id := send(pub, "jobs/x", "m", 1)
			if pk := first.Expect(packets.Publish); string(pk.Payload) != "m" {
				t.Errorf("payload %q", pk.Payload)
			}
			second := g[2].worker("second", 1)
			answered(g[0], home)
			handled(pub) // no PUBACK yet: nobody has acknowledged
			first.Close()
			second.ReceivePayload("m")
			if ack := pub.ExpectAck(packets.Puback, id); ack.ReasonCode != 0 {
				t.Errorf("PUBACK %#x", ack.ReasonCode)
			}
		})
	}
}

func TestAHolderThatDiesIsReplaced(t *testing.T) {
	g := start(t, 3, options{})
	first := g[1].worker("first", 1)
	pub := g[0].connect(v5, "pub")
	id := send(pub, "jobs/x", "m", 1)
	first.Expect(packets.Publish)
	second := g[2].worker("second", 1)
	g[0].knows(g[2])
	second.ReceivePayload("m")
	pub.ExpectAck(packets.Puback, id)
}

func TestWhenTheLastMemberLeavesNobodyMatches(t *testing.T) {
	g := start(t, 2, options{})
	only := g[1].worker("only", 1)
	pub := g[0].connect(v5, "pub")
	id := send(pub, "jobs/x", "m", 1)
	only.Expect(packets.Publish)
	only.Close()
	if ack := pub.ExpectAck(packets.Puback, id); ack.ReasonCode != byte(packet.NoMatchingSubscribers) {
		t.Errorf("PUBACK %#x, want 0x10", ack.ReasonCode)
	}
	if ack := pub.Publish("jobs/x", "m", 1); ack.ReasonCode != byte(packet.NoMatchingSubscribers) {
		t.Errorf("PUBACK %#x, want 0x10", ack.ReasonCode)
	}
}

func TestAQoS0MemberAcknowledgesNothing(t *testing.T) {
	for n, at := range []string{"here", "elsewhere"} {
		t.Run(at, func(t *testing.T) {
			g := start(t, 2, options{})
			w := g[n].worker("w", 0)
			pub := g[0].connect(v5, "pub")
			if ack := pub.Publish("jobs/x", "m", 1); ack.ReasonCode != 0 {
				t.Errorf("PUBACK %#x", ack.ReasonCode)
			}
			if pk := w.ReceivePayload("m"); pk.FixedHeader.Qos != 0 {
				t.Errorf("QoS %d", pk.FixedHeader.Qos)
			}
		})
	}
}

func TestAQoS0MessageWithoutAMemberWithRoomIsCounted(t *testing.T) {
	for n, at := range []string{"here", "elsewhere"} {
		t.Run(at, func(t *testing.T) {
			g := start(t, 2, tiny)
			clog(g[n], g[n].worker("full", 1, receiveMaximum(1)))
			pub := g[0].connect(v5, "pub")
			pub.Publish("jobs/x", "m", 0)
			eventually(t, "it is counted where the members are", func() bool {
				return g[n].metric("beeline_gateway_forwards_dropped_total", "reason=no_member") == 1
			})
		})
	}
}

func TestAGroupTakesNoMoreMembersThanItsLimit(t *testing.T) {
	var g groups
	s := sharedOf("g", "a")
	first, second, third := &client.Client{ID: "1"}, &client.Client{ID: "2"}, &client.Client{ID: "3"}
	g.join(s, first, subscriptions.Options{}, 2)
	g.join(s, second, subscriptions.Options{}, 2)
	if r, ok := g.join(s, third, subscriptions.Options{}, 2); ok || r.Members != 2 {
		t.Errorf("a third of two: %d, %v", r.Members, ok)
	}
	if r, ok := g.join(s, first, subscriptions.Options{QoS: 1}, 2); !ok || r.Members != 2 {
		t.Errorf("a member that changes its options: %d, %v", r.Members, ok)
	}
	g.leave(s, second, false)
	if r, ok := g.join(s, third, subscriptions.Options{}, 2); !ok || r.Members != 2 {
		t.Errorf("after one has left: %d, %v", r.Members, ok)
	}
}
