package broker

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/routes"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/lease"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// jobs is the shared subscription of workers.
var jobs = sharedOf("workers", "jobs/+")

// lastingWorker connects a member whose session outlives its connection.
func (g *gateway) lastingWorker(id string, qos byte) *rawmqtt.Client {
	g.t.Helper()
	return g.worker(id, qos, lasting)
}

func TestWhatIsAnnouncedOfASharedSubscription(t *testing.T) {
	g := start(t, 1, options{durable: true})[0]
	g.connect(v5, "d", lasting)
	g.connect(v5, "e", lasting)
	g.connect(v5, "t")
	all := map[string]*client.Client{"d": g.client("d"), "e": g.client("e"), "t": g.client("t")}
	type step struct {
		do     string // join, leave, go on without a connection, forget
		client string
		qos    byte
		want   routes.Route
	}
	route := func(members uint32, durable bool) routes.Route {
		return routes.Route{Group: "g", Filter: "f", Members: members, Durable: durable}
	}
	cases := map[string][]step{
		"transient members": {
			{"join", "t", 1, route(1, false)},
			{"go on", "t", 1, route(0, false)},
		},
		"a durable member is away until it is forgotten": {
			{"join", "d", 1, route(1, true)},
			{"go on", "d", 1, route(0, true)},
			{"forget", "d", 1, route(0, false)},
		},
		"a durable member unsubscribes": {
			{"join", "d", 1, route(1, true)},
			{"join", "t", 1, route(2, true)},
			{"leave", "d", 1, route(1, false)},
		},
		"a member of QoS 0 is kept nothing": {
			{"join", "d", 0, route(1, false)},
			{"go on", "d", 0, route(0, false)},
		},
		"a member changes its QoS": {
			{"join", "d", 2, route(1, true)},
			{"join", "d", 0, route(1, false)},
			{"join", "d", 1, route(1, true)},
		},
		"one is away, another online": {
			{"join", "d", 1, route(1, true)},
			{"join", "t", 1, route(2, true)},
			{"go on", "d", 1, route(1, true)},
			{"leave", "t", 1, route(0, true)},
			{"forget", "d", 1, route(0, false)},
		},
		"two are away": {
			{"join", "d", 1, route(1, true)},
			{"join", "e", 1, route(2, true)},
			{"go on", "d", 1, route(1, true)},
			{"go on", "e", 1, route(0, true)},
			{"forget", "d", 1, route(0, true)},
			{"forget", "e", 1, route(0, false)},
		},
	}
	for name, steps := range cases {
		t.Run(name, func(t *testing.T) {
			var x groups
			s := sharedOf("g", "f")
			for i, step := range steps {
				c, ok := all[step.client], false
				var got routes.Route
				switch step.do {
				case "join":
					got, ok = x.join(s, c, subscriptions.Options{QoS: step.qos}, 100)
				case "leave":
					got, ok = x.leave(s, c, false)
				case "go on":
					got, ok = x.leave(s, c, true)
				case "forget":
					got, ok = x.forget(s, c)
				}
				if diff := cmp.Diff(step.want, got); diff != "" || !ok {
					t.Errorf("%d: %s %s: %v (-want +got):\n%s", i, step.do, step.client, ok, diff)
				}
			}
			last := steps[len(steps)-1].want
			if (x.m[s] != nil) != (last.Members > 0 || last.Durable) {
				t.Errorf("the group is there: %v, behind %+v", x.m[s] != nil, last)
			}
		})
	}
}

func TestAMessageForMembersWhoAreAllAwayIsKept(t *testing.T) {
	for n, at := range []string{"here", "elsewhere"} {
		t.Run(at, func(t *testing.T) {
			g := start(t, 2, options{durable: true})
			r := g[0].registry
			r.leaves(g[n].lastingWorker("x", 1), "x")
			pub := g[0].connect(v5, "pub")
			var want []string
			for i := range 5 {
				want = append(want, fmt.Sprint(i))
				if ack := pub.Publish("jobs/x", fmt.Sprint(i), 1+byte(i)%2); ack.ReasonCode != 0 {
					t.Errorf("reason code %#x", ack.ReasonCode)
				}
			}
			if got := r.service.payloads(jobs); !slices.Equal(got, want) {
				t.Errorf("kept: %q", got)
			}
			if got := r.inbox("x"); len(got) > 0 {
				t.Errorf("in its own inbox: %q", got)
			}
			pub.Publish("jobs/x", "nobody stores QoS 0", 0)
			eventually(t, "it is counted", func() bool {
				return g[0].metric("beeline_gateway_forwards_dropped_total", "reason=no_member") == 1
			})
		})
	}
}

func TestWhoIsOnlineComesBeforeWhoKeeps(t *testing.T) {
	g := start(t, 2, tinyDurable())
	r := g[0].registry
	r.leaves(g[0].lastingWorker("away", 1), "away")
	online := g[1].worker("online", 1, receiveMaximum(1))
	pub := g[0].connect(v5, "pub")
	id := send(pub, "jobs/x", "m", 1)
	online.ReceivePayload("m")
	pub.ExpectAck(packets.Puback, id)
	if got := r.service.payloads(jobs); len(got) > 0 {
		t.Errorf("kept: %q", got)
	}
	clog(g[1], online)
	if ack := pub.Publish("jobs/x", "nobody online has room for it", 1); ack.ReasonCode != 0 {
		t.Errorf("reason code %#x", ack.ReasonCode)
	}
	if got := r.service.payloads(jobs); len(got) != 1 {
		t.Errorf("kept: %q", got)
	}
}

func tinyDurable() options {
	o := tiny
	o.durable = true
	return o
}

// A message that its last member has not acknowledged is kept when that goes, once there is somebody who keeps it.
func TestAMessageWaitsUntilSomebodyKeepsIt(t *testing.T) {
	for n, at := range []string{"here", "elsewhere"} {
		t.Run(at, func(t *testing.T) {
			g := start(t, 2, options{durable: true})
			r := g[0].registry
			r.silent = true
			x := g[n].lastingWorker("x", 1)
			pub := g[0].connect(v5, "pub")
			first := send(pub, "jobs/x", "given", 1)
			x.Expect(packets.Publish)
			x.Close()
			eventually(t, "x is away", func() bool { return r.holder("x") == "s" })
			second := send(pub, "jobs/x", "not given", 1)
			handled(pub)
			answered(g[0], g[n])
			handled(pub) // nobody has it, and there is no PUBACK that would say so
			r.service.enter("x")
			for _, id := range []uint16{first, second} {
				if ack := pub.ExpectAck(packets.Puback, id); ack.ReasonCode != 0 {
					t.Errorf("reason code %#x", ack.ReasonCode)
				}
			}
			got := r.service.payloads(jobs)
			if slices.Sort(got); !slices.Equal(got, []string{"given", "not given"}) {
				t.Errorf("kept: %q", got)
			}
		})
	}
}

func TestTheMembersOfADeadGatewayAreAway(t *testing.T) {
	g := start(t, 2, options{durable: true})
	r := g[0].registry
	r.silent = true
	x := g[1].lastingWorker("x", 1)
	c := g[1].client("x")
	pub := g[0].connect(v5, "pub")
	id := send(pub, "jobs/x", "m", 1)
	x.Expect(packets.Publish)
	g[0].knows() // b has died
	handled(pub)
	g[1].Release("x", c.Epoch(), lease.Ending{}) // the service finds that out, too
	r.service.enter("x")
	r.service.mesh.Adopt("b", func(string) {}, func(error) {})
	if ack := pub.ExpectAck(packets.Puback, id); ack.ReasonCode != 0 {
		t.Errorf("reason code %#x", ack.ReasonCode)
	}
	if got := r.service.payloads(jobs); !slices.Equal(got, []string{"m"}) {
		t.Errorf("kept: %q", got)
	}
}

func TestWhenTheLastDurableMemberHasUnsubscribedNobodyMatches(t *testing.T) {
	g := start(t, 2, options{durable: true})
	x := g[1].lastingWorker("x", 1)
	x.Unsubscribe(job)
	pub := g[0].connect(v5, "pub")
	pub.Publish("jobs/x", "the withdrawal may be on its way", 1)
	eventually(t, "it is known", func() bool { return g[0].table.Share("workers", "jobs/+") == nil })
	if ack := pub.Publish("jobs/x", "m", 1); ack.ReasonCode != byte(packet.NoMatchingSubscribers) {
		t.Errorf("reason code %#x, want 0x10", ack.ReasonCode)
	}
}
