package broker

import (
	"cmp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/turn"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// reports number the messages of a test.
type reports struct{ seq atomic.Uint64 }

func (n *reports) message(topic string, qos byte) *message.Message {
	return &message.Message{ID: message.ID{Origin: "a", Seq: 1<<32 + n.seq.Add(1)}, Topic: topic, Payload: []byte("m"), QoS: qos}
}

// report publishes m on g, and returns what gets the report.
func (g *gateway) report(m *message.Message, wait Wait, within time.Duration) <-chan Report {
	told := make(chan Report, 2)
	t := turn.Turn{Now: time.Now()}
	g.PublishReported(m, Terms{Wait: wait, Within: within}, func(r Report) { told <- r }, &t)
	t.End()
	return told
}

// wantReport waits for a report and compares it: receipts are client:outcome@holder, unanswered holders !holder.
func wantReport(t *testing.T, told <-chan Report, want ...string) Report {
	t.Helper()
	var r Report
	select {
	case r = <-told:
	case <-time.After(rawmqtt.Patience):
		t.Fatal("there is no report")
	}
	names := map[mesh.ClientOutcome]string{
		mesh.ClientQueued: "queued", mesh.ClientAcked: "acked", mesh.ClientStored: "stored", mesh.ClientEnded: "ended",
		mesh.ClientTimedOut: "timed out", mesh.ClientExpired: "expired", mesh.ClientTooLarge: "too large",
		mesh.ClientNoRoom: "no room", mesh.ClientDeclined: "declined", mesh.ClientAccepted: "accepted", mesh.ClientUnknown: "unknown",
	}
	slices.SortFunc(r.Receipts, func(a, b Receipt) int { return cmp.Compare(a.ClientID, b.ClientID) })
	var got []string
	for _, x := range r.Receipts {
		got = append(got, x.ClientID+":"+names[x.Outcome]+"@"+x.Holder)
	}
	for _, x := range r.Unanswered {
		got = append(got, "!"+x)
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Fatalf("report (-want +got):\n%s", diff)
	}
	return r
}

func TestAReportHasEverySubscriberHereAndElsewhere(t *testing.T) {
	var n reports
	g := start(t, 3, options{})
	x, y, z := g[0].connect(v5, "x"), g[1].connect(v5, "y"), g[2].connect(v5, "z")
	for _, c := range []*rawmqtt.Client{x, y, z} {
		c.MustSubscribe("t/+", 1)
	}
	wantReport(t, g[0].report(n.message("t/1", 1), UntilDelivered, rawmqtt.Patience), "x:queued@a", "y:queued@b", "z:queued@c")
	wantReport(t, g[0].report(n.message("t/1", 0), UntilAcknowledged, rawmqtt.Patience), "x:queued@a", "y:queued@b", "z:queued@c")
	wantReport(t, g[0].report(n.message("t/1", 1), UntilAccepted, rawmqtt.Patience), "x:queued@a")
	if r := wantReport(t, g[0].report(n.message("nobody", 1), UntilDelivered, rawmqtt.Patience)); r.Code != packet.NoMatchingSubscribers {
		t.Errorf("code %#x where nobody matches", byte(r.Code))
	}
	for _, c := range []*rawmqtt.Client{x, y, z} {
		c.Receive()
		c.Receive()
		c.Receive()
	}
	// One does not acknowledge.
	told := g[0].report(n.message("t/1", 1), UntilAcknowledged, 200*time.Millisecond)
	x.Receive()
	y.Expect(packets.Publish)
	z.Receive()
	wantReport(t, told, "x:acked@a", "y:timed out@b", "z:acked@c")
	// Two go away instead.
	told = g[0].report(n.message("t/1", 1), UntilAcknowledged, rawmqtt.Patience)
	x.Expect(packets.Publish)
	x.Close()
	y.Receive()
	z.Expect(packets.Publish)
	z.Disconnect()
	wantReport(t, told, "x:ended@a", "y:acked@b", "z:ended@c")
}

func TestAHolderThatDiesTakesNobodyElseWithIt(t *testing.T) {
	var n reports
	g := start(t, 3, options{})
	x, y, z := g[0].connect(v5, "x"), g[1].connect(v5, "y"), g[2].connect(v5, "z")
	for _, c := range []*rawmqtt.Client{x, y, z} {
		c.MustSubscribe("t", 1)
	}
	told := g[0].report(n.message("t", 1), UntilAcknowledged, rawmqtt.Patience)
	x.Receive()
	y.Expect(packets.Publish)
	z.Receive()
	g[0].knows(g[2])
	wantReport(t, told, "x:acked@a", "z:acked@c", "!b")
}

func TestAHolderOutOfReachIsNamedWhenTheTimeIsOver(t *testing.T) {
	var n reports
	g := start(t, 2, options{})
	x, y := g[0].connect(v5, "x"), g[1].connect(v5, "y")
	x.MustSubscribe("t", 1)
	y.MustSubscribe("t", 1)
	g[0].to(g[1]).shut()
	wantReport(t, g[0].report(n.message("t", 1), UntilDelivered, 50*time.Millisecond), "x:queued@a", "!b")
	wantReport(t, g[0].report(n.message("p2p/y/t", 1), UntilDelivered, 50*time.Millisecond), "y:timed out@b", "!b")
}

// forget has the registry forget a lease, as etcd does with those of a dead gateway.
func (r *registry) forget(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.leases, id)
}

func TestAClientWhoseHolderDiesBeforeItAnswers(t *testing.T) {
	for _, back := range []bool{false, true} {
		name := map[bool]string{false: "is gone", true: "is found where it is next"}[back]
		t.Run(name, func(t *testing.T) {
			var n reports
			g := start(t, 3, options{durable: true})
			x := g[1].connect(v5, "x")
			told := g[0].report(n.message("p2p/x/t", 1), UntilAcknowledged, rawmqtt.Patience)
			x.Expect(packets.Publish)
			if back {
				// The answer of the former holder does not get here any more.
				g[1].answers.shut()
				next := g[2].connect(v5, "x")
				g[0].knows(g[2])
				next.Receive()
				wantReport(t, told, "x:acked@c")
				return
			}
			g[0].registry.forget("x")
			g[0].knows(g[2])
			wantReport(t, told, "x:ended@")
		})
	}
}

func TestReportsOfOneClient(t *testing.T) {
	var n reports
	g := start(t, 2, options{durable: true})
	small := func(p *packets.Packet) { p.Properties.MaximumPacketSize = 20 }
	for at, id := range []string{"here", "there"} {
		c := g[at].connect(v5, id)
		holder := g[at].id
		direct := func(qos byte) *message.Message { return n.message("p2p/"+id+"/t", qos) }
		wantReport(t, g[0].report(direct(1), UntilDelivered, rawmqtt.Patience), id+":queued@"+holder)
		wantReport(t, g[0].report(direct(0), UntilAcknowledged, rawmqtt.Patience), id+":queued@"+holder)
		c.Receive()
		c.Receive()
		told := g[0].report(direct(2), UntilAcknowledged, rawmqtt.Patience)
		c.Receive()
		wantReport(t, told, id+":acked@"+holder)
		r := <-g[0].report(direct(1), UntilAccepted, rawmqtt.Patience)
		if len(r.Receipts) != 1 || r.Receipts[0].Holder != holder || r.Receipts[0].Outcome != mesh.ClientAccepted && r.Receipts[0].Outcome != mesh.ClientQueued {
			t.Errorf("accepted: %+v", r)
		}
		c.Receive()
		g[at].connect(v5, id+" small", small)
		wantReport(t, g[0].report(n.message("p2p/"+id+" small/t", 1), UntilDelivered, rawmqtt.Patience), id+" small:too large@"+holder)
	}
	wantReport(t, g[0].report(n.message("p2p/nobody/t", 1), UntilDelivered, rawmqtt.Patience), "nobody:unknown@")
	wantReport(t, g[0].report(n.message("p2p/nobody/t", 1), UntilAccepted, rawmqtt.Patience), "nobody:accepted@s")
	expired := n.message("p2p/none/t", 1)
	expired.Expires = time.Now()
	wantReport(t, g[0].report(expired, UntilDelivered, rawmqtt.Patience), "none:expired@")
	g[0].lookUps(func([]string) error { return errTest })
	wantReport(t, g[0].report(n.message("p2p/never seen/t", 1), UntilDelivered, 50*time.Millisecond), "never seen:timed out@")
}

func TestAFullQueueIsReported(t *testing.T) {
	var n reports
	g := start(t, 2, tiny)
	for at, id := range []string{"here", "there"} {
		c := g[at].connect(v5, id, receiveMaximum(1))
		topic := "p2p/" + id + "/t"
		for range 10 {
			g[at].report(n.message(topic, 1), UntilAccepted, rawmqtt.Patience)
		}
		wantReport(t, g[0].report(n.message(topic, 1), UntilDelivered, 500*time.Millisecond), id+":timed out@"+g[at].id)
		wantReport(t, g[0].report(n.message(topic, 0), UntilDelivered, rawmqtt.Patience), id+":no room@"+g[at].id)
		c.Close()
	}
}

func TestAFullLinkIsReported(t *testing.T) {
	var n reports
	g := start(t, 2, options{linkBytes: 128 << 10})
	c := g[1].connect(v5, "x")
	c.MustSubscribe("t", 1)
	wantReport(t, g[0].report(n.message("p2p/x/t", 1), UntilDelivered, rawmqtt.Patience), "x:queued@b")
	g[0].to(g[1]).shut()
	large := n.message("p2p/x/t", 1)
	large.Payload = []byte(strings.Repeat("x", 100<<10))
	waits := g[0].report(large, UntilDelivered, rawmqtt.Patience)
	again := n.message("p2p/x/t", 1)
	again.Payload = large.Payload
	wantReport(t, g[0].report(again, UntilDelivered, rawmqtt.Patience), "x:no room@")
	match := n.message("t", 1)
	match.Payload = large.Payload
	wantReport(t, g[0].report(match, UntilDelivered, rawmqtt.Patience), "!b")
	g[0].to(g[1]).open()
	wantReport(t, waits, "x:queued@b")
}

func TestAMemberOfASharedSubscriptionIsReported(t *testing.T) {
	for at, name := range []string{"here", "elsewhere"} {
		t.Run(name, func(t *testing.T) {
			var n reports
			g := start(t, 2, options{})
			w := g[at].worker("w", 1)
			told := g[0].report(n.message("jobs/x", 1), UntilDelivered, rawmqtt.Patience)
			w.Receive()
			wantReport(t, told, "w:acked@"+g[at].id)
			if r := wantReport(t, g[0].report(n.message("jobs/x", 0), UntilDelivered, rawmqtt.Patience)); len(r.Receipts) > 0 {
				t.Errorf("at QoS 0: %v", r.Receipts)
			}
		})
	}
}

func TestOfTwoReceiptsOfOneClientTheStrongerHolds(t *testing.T) {
	of := func(id string, o mesh.ClientOutcome) Receipt {
		return receiptOf(mesh.ClientReceipt{ClientID: id, Outcome: o}, "")
	}
	got := strongest([]Receipt{
		of("x", mesh.ClientQueued), of("y", mesh.ClientTimedOut), of("z", mesh.ClientEnded), of("x", mesh.ClientAcked),
		of("y", mesh.ClientStored), of("z", mesh.ClientNoRoom), of("w", mesh.ClientUnknown),
	})
	want := []Receipt{of("w", mesh.ClientUnknown), of("x", mesh.ClientAcked), of("y", mesh.ClientStored), of("z", mesh.ClientNoRoom)}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestOtherHoldersHaveLessTimeThanTheReport(t *testing.T) {
	now := time.Now()
	for left, want := range map[time.Duration]uint32{
		10 * time.Second: 9750, time.Second: 900, 10 * time.Millisecond: 9, -time.Second: 1,
	} {
		r := report{deadline: now.Add(left)}
		if got := r.within(now); got != want {
			t.Errorf("with %v left others have %d ms, want %d", left, got, want)
		}
	}
}
