package broker

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// A durable client moves from gateway to gateway while others publish on all of them, to its filter and to itself.
func TestNothingIsLostDoubledOrReorderedWhenAReceiverMoves(t *testing.T) {
	for qos := byte(1); qos <= 2; qos++ {
		for _, topic := range []string{"news/x", "p2p/x/n"} {
			t.Run(fmt.Sprint(topic, " QoS ", qos), func(t *testing.T) {
				versions(t, func(t *testing.T, version byte) {
					g := start(t, 3, options{durable: true})
					d := newDevice(t, version, "x")
					d.connect(g[0])
					d.conn.MustSubscribe("news/#", qos)
					d.run()
					stop := make(chan struct{})
					var all []*publisher
					for i, at := range g {
						all = append(all, at.publish(fmt.Sprint("p", i), topic, qos, stop))
					}
					const moves = 12
					for i := range moves {
						eventually(t, "some messages", func() bool { return d.count() > 20*(i+1) })
						switch rand.IntN(3) {
						case 0: // it is lost, and away for a while
							d.close()
							time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
						case 1: // it is lost
							d.close()
						} // or it is taken over
						if !d.connect(g[rand.IntN(3)]) {
							t.Fatal("its session is lost")
						}
						d.run()
					}
					close(stop)
					for _, p := range all {
						p.done.Wait()
					}
					d.wantAll(all)
					d.close()
					g[0].registry.forgotten(t, "x")
				})
			})
		}
	}
}

func TestASessionThatIsAwayGetsItsMessagesWhenItComesBack(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		g := start(t, 3, options{durable: true})
		r := g[0].registry
		x := g[0].connect(version, "x", lasting)
		x.MustSubscribe("news/#", 2)
		x.MustSubscribe("quiet", 0)
		r.leaves(x, "x")
		pub := g[1].connect(v5, "pub")
		for i, topic := range []string{"news/1", "p2p/x/n", "news/1", "p2p/x/n"} {
			if ack := pub.Publish(topic, fmt.Sprint(i), 1+byte(i)%2); ack.ReasonCode != 0 {
				t.Errorf("%s: reason code %#x", topic, ack.ReasonCode)
			}
		}
		pub.Publish("quiet", "nobody stores QoS 0", 1)
		if n := len(r.inbox("x")); n != 4 {
			t.Errorf("%d messages in the inbox, want 4: %q", n, r.inbox("x"))
		}
		c := rawmqtt.Dial(t, g[2].mqtt, version)
		if ack := c.Hello("x", lasting); !ack.SessionPresent {
			t.Fatal("no session present")
		}
		for i := range 4 {
			c.ReceivePayload(fmt.Sprint(i))
		}
		pub.Publish("news/2", "live", 1)
		c.ReceivePayload("live")
		c.ExpectNothing()
		if got := r.holder("x"); got != "c" {
			t.Errorf("held by %q", got)
		}
	})
}

func TestNobodyHasASessionOfThatName(t *testing.T) {
	g := start(t, 2, options{durable: true})
	pub := g[0].connect(v5, "pub")
	for range 2 { // and what is known of it by then
		if ack := pub.Publish("p2p/nobody/n", "m", 1); ack.ReasonCode != byte(packet.NoMatchingSubscribers) {
			t.Errorf("reason code %#x, want 0x10", ack.ReasonCode)
		}
	}
	x := g[1].connect(v5, "nobody", lasting) // somebody, now
	pub.Publish("p2p/nobody/n", "m", 1)
	x.ReceivePayload("m")
}

func TestADirectMessageAtQoS0ForAClientThatIsAwayIsDropped(t *testing.T) {
	g := start(t, 2, options{durable: true})
	g[0].registry.leaves(g[0].connect(v5, "x", lasting), "x")
	pub := g[1].connect(v5, "pub")
	for i := range 2 {
		pub.Publish("p2p/x/n", "m", 0)
		eventually(t, "it is counted", func() bool {
			return g[1].metric("beeline_gateway_forwards_dropped_total", "reason=client_away") == float64(i+1)
		})
	}
	if got := g[0].registry.inbox("x"); len(got) > 0 {
		t.Errorf("in the inbox: %q", got)
	}
}

// A former holder answers MOVED until it is told to forget: here, and to peers.
func TestAFormerHolderSendsMessagesAfterTheSession(t *testing.T) {
	for n, at := range []string{"published there", "published elsewhere"} {
		t.Run(at, func(t *testing.T) {
			g := start(t, 3, options{durable: true})
			r := g[0].registry
			x := g[0].connect(v5, "x", lasting)
			x.MustSubscribe("news/#", 1)
			pub := g[2*n].connect(v5, "pub")
			pub.Publish("news/1", "before", 1)
			x.ReceivePayload("before")

			// What b announces reaches nobody: x is at b and everybody still routes to a.
			for _, other := range []*gateway{g[0], g[2]} {
				g[1].to(other).shut()
			}
			defer func() {
				for _, other := range []*gateway{g[0], g[2]} {
					g[1].to(other).open()
				}
			}()
			y := g[1].connect(v5, "x", lasting)
			if reason := x.ExpectClosed(); reason != byte(packet.SessionTakenOver) {
				t.Errorf("closed with %#x, want 0x8E", reason)
			}
			for i := range 5 {
				send(pub, "news/2", fmt.Sprint(i), 1)
			}
			handled(pub)
			if len(g[0].ghosts.m["x"]) != 1 {
				t.Errorf("%d ghosts", len(g[0].ghosts.m["x"]))
			}
			y.ExpectNothing() // they wait for what may be older
			for _, other := range []*gateway{g[0], g[2]} {
				g[1].to(other).open()
			}
			for i := range 5 {
				y.ReceivePayload(fmt.Sprint(i))
			}
			wantAcks(t, pub, 5, packet.Success)
			y.ExpectNothing()
			r.forgotten(t, "x")
			eventually(t, "no subscription is left at the former holder", func() bool { return g[0].subs.Len() == 0 })
		})
	}
}

// While a ghost waits for what peers have sent, what is published beside it goes to where the session is, and there only once.
func TestWhatIsPublishedBesideAForgottenGhostIsSentOnce(t *testing.T) {
	g := start(t, 1, options{durable: true, config: func(c *Config) { c.Linger = time.Hour }})[0]
	x := g.connect(v5, "x", lasting)
	x.MustSubscribe("news/#", 1)
	c := g.client("x")
	x.Disconnect()
	eventually(t, "it is forgotten", c.Forgotten)
	pub := g.connect(v5, "pub")
	want := []string{"0", "1", "2"}
	for _, payload := range want {
		pub.Publish("news/1", payload, 1)
	}
	if diff := cmp.Diff(want, g.registry.inbox("x")); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
	if n := g.metric("beeline_mesh_deliveries_total", "direction=out"); n != 3 {
		t.Errorf("%v deliveries for three messages", n)
	}
}

func TestForgetDropsGhostsOfOlderLeasesOnly(t *testing.T) {
	g := start(t, 1, options{durable: true})[0]
	g.registry.silent = true
	x := g.connect(v5, "x", lasting)
	x.MustSubscribe("news/#", 1)
	x.MustSubscribe("$share/g/jobs", 1)
	c := g.client("x")
	c.LoseLease() // as if another gateway had taken it
	x.Disconnect()
	eventually(t, "its ghost", func() bool {
		g.ghosts.mu.Lock()
		defer g.ghosts.mu.Unlock()
		return len(g.ghosts.m["x"]) == 1
	})
	g.forget("x", c.Epoch())
	g.forget("y", 1000)
	if g.subs.Len() != 1 {
		t.Errorf("%d subscriptions are left, want its one", g.subs.Len())
	}
	if s := g.table.Share("g", "jobs"); s == nil || s.Online() || s.Empty() {
		t.Error("a ghost is online in a shared subscription, or not away")
	}
	g.forget("x", c.Epoch()+1)
	if g.subs.Len() != 0 || len(g.ghosts.m) != 0 || len(g.groups.m) != 0 {
		t.Errorf("%d subscriptions, %d ghosts and %d groups are left", g.subs.Len(), len(g.ghosts.m), len(g.groups.m))
	}
	if g.table.Share("g", "jobs") != nil {
		t.Error("the shared subscription has somebody still")
	}
}

// A SUBSCRIBE may fail when its connection is over. It must not change what the ghost has, by which the routes are
// reckoned: whoever subscribes to the same filter later would get nothing from peers.
func TestASubscribeThatFailsBehindItsConnectionTakesNothingFromTheGhost(t *testing.T) {
	g := start(t, 2, options{durable: true, routeAck: 300 * time.Millisecond})
	g[0].registry.silent = true
	x := g[0].connect(v5, "x", lasting)
	c := g[0].client("x")
	y := g[0].connect(v5, "y")
	g[1].answers.shut()
	subscribe := func(c *rawmqtt.Client, filter string) {
		c.Send(packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 1,
			Filters: packets.Subscriptions{{Filter: filter, Qos: 1}},
		})
	}
	subscribe(x, "news/#")
	eventually(t, "it is in the index", func() bool { return g[0].subs.Count("news/#") == 1 })
	c.LoseLease()
	x.Disconnect()
	receive(t, c.Gone(), "its being gone")
	g[0].Forget("x", c.Epoch()+1)
	subscribe(y, "other")
	if code := y.Expect(packets.Suback).ReasonCodes[0]; code < 0x80 { // and so is the older one
		t.Fatalf("SUBACK %#x without peers", code)
	}
	g[1].answers.open()

	z := g[0].connect(v5, "z")
	z.MustSubscribe("news/#", 1)
	pub := g[1].connect(v5, "pub")
	pub.Publish("news/1", "beside the ghost", 0)
	z.ReceivePayload("beside the ghost")
	eventually(t, "the ghost is gone", func() bool { return g[0].subs.Count("news/#") == 1 })
	pub.Publish("news/1", "after it", 1)
	z.ReceivePayload("after it")
}

func TestASessionThatEndsWithItsConnectionLeavesNoGhost(t *testing.T) {
	g := start(t, 1, options{durable: true})[0]
	x := g.connect(v5, "x", lasting)
	x.MustSubscribe("news/#", 1)
	x.SendRaw([]byte{0xE0, 7, 0, 5, 0x11, 0, 0, 0, 0})
	x.ExpectClosed()
	x.Close()
	eventually(t, "it is gone", func() bool { return g.clients.count.Load() == 0 && g.subs.Len() == 0 })
	if len(g.ghosts.m) != 0 || g.registry.holder("x") != "" {
		t.Errorf("%d ghosts, held by %q", len(g.ghosts.m), g.registry.holder("x"))
	}
}

// Members of shared subscriptions that are away get nothing while others are online; what they have not acknowledged goes to those.
func TestADurableMemberThatLeavesIsReplaced(t *testing.T) {
	g := start(t, 2, options{durable: true})
	x, y := g[0].connect(v5, "x", lasting), g[1].connect(v5, "y", lasting)
	x.MustSubscribe("$share/g/jobs/+", 1)
	pub := g[1].connect(v5, "pub")
	id := send(pub, "jobs/1", "job", 1)
	x.Expect(packets.Publish)
	y.MustSubscribe("$share/g/jobs/+", 1)
	x.Close()
	y.ReceivePayload("job")
	pub.ExpectAck(packets.Puback, id)
	eventually(t, "x is away", func() bool { return g[0].registry.holder("x") == "s" })
	id = send(pub, "jobs/2", "next", 1)
	y.ReceivePayload("next")
	pub.ExpectAck(packets.Puback, id)
	if got := g[0].registry.inbox("x"); len(got) > 0 {
		t.Errorf("in the inbox: %q", got)
	}
}

// What comes for a session before its new holder knows of the lease is for its subscriptions, too.
func TestWhatIsHeldForASessionThatArrivesMatchesItsSubscriptions(t *testing.T) {
	g := start(t, 2, options{durable: true})
	r := g[0].registry
	x := g[0].connect(v5, "x", lasting)
	x.MustSubscribe("news/#", 1)
	r.leaves(x, "x")
	pub := g[0].connect(v5, "pub")
	recorded, answer := make(chan struct{}), make(chan struct{})
	g[1].records(func(string) error {
		close(recorded)
		<-answer
		return nil
	})
	x = rawmqtt.Dial(t, g[1].mqtt, v5)
	x.Send(rawmqtt.ConnectPacket(v5, "x", lasting))
	receive(t, recorded, "the record of its lease")
	var ids []uint16
	for i := range 5 {
		ids = append(ids, send(pub, "news/1", fmt.Sprint(i), 1))
	}
	holds(t, g[1], 5)
	close(answer)
	if ack := x.Expect(packets.Connack); !ack.SessionPresent {
		t.Error("no session present")
	}
	for i := range 5 {
		x.ReceivePayload(fmt.Sprint(i))
	}
	for _, id := range ids {
		if ack := pub.ExpectAck(packets.Puback, id); ack.ReasonCode != 0 {
			t.Errorf("reason code %#x", ack.ReasonCode)
		}
	}
}

// A connection that got the lease and was replaced before it was welcome leaves a ghost: its successor has the session.
func TestAConnectionThatIsReplacedAsItArrivesLosesNothing(t *testing.T) {
	g := start(t, 1, options{durable: true})[0]
	x := g.connect(v5, "x", lasting)
	x.MustSubscribe("news/#", 1)
	g.registry.leaves(x, "x")
	pub := g.connect(v5, "pub")
	recorded, answer := make(chan struct{}, 2), make(chan struct{})
	g.records(func(string) error {
		recorded <- struct{}{}
		<-answer
		return nil
	})
	first := rawmqtt.Dial(t, g.mqtt, v5)
	first.Send(rawmqtt.ConnectPacket(v5, "x", lasting))
	receive(t, recorded, "the first claim")
	c := g.client("x")
	second := rawmqtt.Dial(t, g.mqtt, v5)
	second.Send(rawmqtt.ConnectPacket(v5, "x", lasting))
	g.replaced(c)
	answer <- struct{}{}
	first.ExpectClosed()
	receive(t, recorded, "the second claim")
	id := send(pub, "news/1", "m", 1)
	handled(pub)
	answer <- struct{}{}
	second.Expect(packets.Connack)
	second.ReceivePayload("m")
	pub.ExpectAck(packets.Puback, id)
	second.ExpectNothing()
	g.registry.forgotten(t, "x")
	if g.subs.Len() != 1 {
		t.Errorf("%d subscriptions are left, want one", g.subs.Len())
	}
}
