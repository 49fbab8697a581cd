//go:build linux

package faults

import (
	"fmt"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/test/faults/processes"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// pace is how often each publisher of a load sends.
const pace = 10 * time.Millisecond

// version alternates between the two, so that every load has both.
func version(i int) byte {
	if i%2 == 0 {
		return rawmqtt.V5
	}
	return rawmqtt.V311
}

// load is traffic between all gateways of a cluster.
type load struct {
	// subscribers of all/#, one on each gateway.
	everywhere []*client
	// subscribers of near/#, one on each gateway but the last.
	near []*client
	// subscriber of far/#, on the last gateway alone.
	far *client
	// publishers by what they publish to, in the order of the gateways, each at QoS 1 and 2.
	toAll, toNear, toFar []*publisher
}

func startLoad(t *testing.T, c *processes.Cluster) *load {
	t.Helper()
	l := &load{}
	last := len(c.Gateways) - 1
	for i, g := range c.Gateways {
		l.everywhere = append(l.everywhere, connect(t, g.MQTT, version(i), fmt.Sprintf("all-%d", i)).subscribe("all/#", 2))
		if i < last {
			l.near = append(l.near, connect(t, g.MQTT, version(i+1), fmt.Sprintf("near-%d", i)).subscribe("near/#", 2))
		}
	}
	l.far = connect(t, c.Gateways[last].MQTT, rawmqtt.V5, "far").subscribe("far/#", 2)
	for i, g := range c.Gateways {
		for qos := byte(1); qos <= 2; qos++ {
			begin := func(kind string) *publisher {
				id := fmt.Sprintf("%s/%d/%d", kind, i, qos)
				return publish(connect(t, g.MQTT, version(i+int(qos)), "publisher of "+id), id, qos, pace)
			}
			l.toAll = append(l.toAll, begin("all"))
			l.toNear = append(l.toNear, begin("near"))
			l.toFar = append(l.toFar, begin("far"))
		}
	}
	return l
}

func (l *load) publishers() []*publisher {
	return append(append(append([]*publisher(nil), l.toAll...), l.toNear...), l.toFar...)
}

// on returns those publishers of a list that are on the gateways before the last, or on the last.
func (l *load) on(last bool, list []*publisher) []*publisher {
	per := len(list) - 2
	if last {
		return list[per:]
	}
	return list[:per:per]
}

// check finishes the surviving publishers and holds what everybody got against what was acknowledged.
// survivors of all/# and near/# must have it all; the last gateway's clients are gone.
func (l *load) check(t *testing.T) {
	t.Helper()
	for _, list := range [][]*publisher{l.toAll, l.toNear, l.toFar} {
		for _, p := range l.on(false, list) {
			p.finish(patience)
			if !p.alive() {
				t.Errorf("%q has lost its connection: %v", p.id, p.err)
			}
		}
	}
	for _, c := range l.everywhere[:len(l.everywhere)-1] {
		for _, p := range l.toAll {
			checkReceived(t, p, c)
		}
		if !c.alive() {
			t.Errorf("%q has lost its connection: %v", c.id, c.err)
		}
	}
	for _, c := range l.near {
		for _, p := range l.toNear {
			checkReceived(t, p, c)
		}
	}
	// What the dead gateway's receivers had not acknowledged may be lost, but not doubled or reordered.
	for _, p := range l.toAll {
		checkOrder(t, l.everywhere[len(l.everywhere)-1], p.topic)
	}
	for _, p := range l.toFar {
		checkOrder(t, l.far, p.topic)
	}
	n := 0
	for _, p := range l.publishers() {
		n += p.acks()
	}
	t.Logf("load: %d messages acknowledged", n)
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// numbered makes n clients, alternating between the versions.
func numbered(t *testing.T, n int, addr, name string, opts ...rawmqtt.Option) (all []*client, ids []string) {
	t.Helper()
	for i := range n {
		id := fmt.Sprintf("%s-%d", name, i)
		all = append(all, connect(t, addr, version(i), id, opts...))
		ids = append(ids, id)
	}
	return all, ids
}

func TestAKilledGatewayLosesNothingThatWasAcknowledged(t *testing.T) {
	c := start(t, processes.Config{})
	contest := compete(t, 5, seed(t), mqtt(c)...)
	l := startLoad(t, c)
	_, idle := numbered(t, 5, c.Gateways[2].MQTT, "idle")
	_, back := numbered(t, 6, c.Gateways[2].MQTT, "back")
	waitForAcks(t, 100, l.publishers()...)
	if got := leases(t, c, idle...); len(got) != len(idle) {
		t.Fatalf("%d of %d clients have a lease", len(got), len(idle))
	}

	killed := time.Now()
	c.Gateways[2].Kill(t)

	// The dead gateway's clients are taken elsewhere at once, all together.
	type served struct{ connected, subscribed time.Time }
	elsewhere := make(chan served, len(back))
	for i, id := range back {
		go func() {
			var s served
			defer func() { elsewhere <- s }()
			x, err := dial(t, c.Gateways[i%2].MQTT, version(i), id, patience)
			if err != nil {
				t.Errorf("%q cannot connect to another gateway: %v", id, err)
				return
			}
			s.connected = time.Now()
			if code, err := x.trySubscribe("back/"+id, 1); code != 1 || err != nil {
				t.Errorf("%q cannot subscribe at another gateway: %#x, %v", id, code, err)
				return
			}
			s.subscribed = time.Now()
		}()
	}

	// Its leases end with its time to live.
	eventually(t, "no lease of the dead gateway is in force", func() bool { return len(leases(t, c, idle...)) == 0 })
	within(t, "no lease of the dead gateway is in force", time.Since(killed), c.TTL+slack)
	var connected, subscribed time.Time
	for range back {
		s := <-elsewhere
		connected, subscribed = latest(connected, s.connected), latest(subscribed, s.subscribed)
	}
	within(t, "all clients of the dead gateway are connected elsewhere", connected.Sub(killed), 2*slack)
	within(t, "all clients of the dead gateway have subscribed elsewhere", subscribed.Sub(killed), c.TTL+slack)
	eventually(t, "the records of the dead gateway are swept", func() bool { return len(records(t, c, idle...)) == 0 })
	t.Logf("its records are swept: %v", time.Since(killed).Round(time.Millisecond))

	// Who publishes to what only the dead gateway wanted is acknowledged again, without a failure.
	waitForAcks(t, 50, append(l.on(false, l.toFar), l.on(false, l.toAll)...)...)
	slowest := time.Duration(0)
	for _, p := range append(l.on(false, l.toFar), l.on(false, l.toAll)...) {
		took, _ := p.resumed(killed)
		slowest = max(slowest, took)
	}
	within(t, "publishers to the dead gateway's topics are acknowledged again", slowest, c.TTL+slack)
	// Others have not noticed.
	slowest = 0
	for _, p := range l.on(false, l.toNear) {
		slowest = max(slowest, p.gap(killed, time.Now().Add(-slack)))
	}
	within(t, "longest time without an acknowledgement for topics of the living", slowest, c.TTL*3/4)

	sender := connect(t, c.Gateways[0].MQTT, rawmqtt.V5, "sender")
	p := publish(sender, "back/back-1", 1, pace)
	waitForAcks(t, 10, p)
	p.finish(patience)
	l.check(t)
	contest.finish()
}

func TestAStoppedGatewaySaysGoodbye(t *testing.T) {
	c := start(t, processes.Config{})
	l := startLoad(t, c)
	watcher := connect(t, c.Gateways[0].MQTT, rawmqtt.V5, "watcher").subscribe("will/#", 1)
	will := func(pk *packets.Packet) {
		pk.Connect.WillFlag, pk.Connect.WillQos = true, 1
		pk.Connect.WillTopic, pk.Connect.WillPayload = "will/x", []byte("died")
	}
	clients, ids := numbered(t, 10, c.Gateways[2].MQTT, "leaving", will)
	waitForAcks(t, 50, l.publishers()...)

	stopped := time.Now()
	code, took := c.Gateways[2].Terminate(t, 20*time.Second)
	if code != 0 {
		t.Errorf("exit code %d", code)
	}
	within(t, "the gateway has ended", took, 5*time.Second)
	if got := records(t, c, ids...); len(got) != 0 {
		t.Errorf("%d of %d leases are still there: %v", len(got), len(ids), got)
	}
	if m, lives := c.Member(t, 2); lives {
		t.Errorf("incarnation %s of the stopped gateway still has its key", m.ID)
	}
	for _, x := range append(clients, l.far) {
		at, reason := x.end(patience)
		want := byte(0x9C) // Use another server
		if x.version == rawmqtt.V311 {
			want = 0
		}
		if reason != want {
			t.Errorf("%q got DISCONNECT %#x, want %#x", x.id, reason, want)
		}
		if d := at.Sub(stopped); d > took {
			t.Errorf("%q was disconnected %v after the end of the gateway", x.id, d-took)
		}
	}
	// Nobody waits for the time to live: routes and clients are free at once.
	waitForAcks(t, 50, append(l.on(false, l.toFar), l.on(false, l.toAll)...)...)
	slowest := time.Duration(0)
	for _, p := range append(l.on(false, l.toFar), l.on(false, l.toAll)...) {
		slowest = max(slowest, p.gap(stopped, time.Now().Add(-slack/2)))
	}
	within(t, "longest time without an acknowledgement", slowest, c.TTL*3/4)
	again := time.Now()
	connect(t, c.Gateways[1].MQTT, rawmqtt.V5, ids[0]).subscribe("again", 1)
	within(t, "a client of the stopped gateway has subscribed elsewhere", time.Since(again), slack)

	// A will would have been there before this.
	sender := connect(t, c.Gateways[1].MQTT, rawmqtt.V5, "sender")
	p := publish(sender, "will/marker", 1, pace)
	waitForAcks(t, 1, p)
	p.finish(patience)
	watcher.receive("will/marker", "0")
	if got := watcher.arrivals("will/x"); len(got) != 0 {
		t.Errorf("%d wills were published", len(got))
	}
	l.check(t)

	c.Gateways[2].Start(t)
	c.Gateways[2].WaitReady(t)
	connect(t, c.Gateways[2].MQTT, rawmqtt.V5, "newcomer").mustServe()
}
