//go:build linux

package faults

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/test/faults/processes"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

func TestAPausedGatewayDoesNothingFromBefore(t *testing.T) {
	c := start(t, processes.Config{})
	paused := c.Gateways[2]
	contest := compete(t, 5, seed(t), mqtt(c)...)
	l := startLoad(t, c)
	mine, ids := numbered(t, 6, paused.MQTT, "mine")
	outsider := connect(t, c.Gateways[0].MQTT, rawmqtt.V5, "outsider").subscribe("from/#", 1)
	inside := connect(t, paused.MQTT, rawmqtt.V5, "inside")
	waitForAcks(t, 100, l.publishers()...)
	before, lives := c.Member(t, 2)
	if !lives {
		t.Fatal("the gateway is no member")
	}

	begin := time.Now()
	paused.Pause(t)
	// What is sent to it now waits in its sockets.
	for n := range 20 {
		pk := rawmqtt.PublishPacket("from/inside", strconv.Itoa(n), 1)
		pk.PacketID = uint16(n + 1)
		if err := inside.send(pk); err != nil {
			t.Fatal(err)
		}
	}
	for _, x := range mine {
		if err := x.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pingreq}}); err != nil {
			t.Fatal(err)
		}
	}
	// Its clients go elsewhere, before it is known to be dead and after.
	var moved []*client
	for i, id := range ids[:3] {
		moved = append(moved, connect(t, c.Gateways[i%2].MQTT, version(i), id))
	}
	eventually(t, "no lease of the paused gateway is in force", func() bool { return len(leases(t, c, ids[3:]...)) == 0 })
	within(t, "no lease of the paused gateway is in force", time.Since(begin), c.TTL+slack)
	for i, id := range ids[3:] {
		moved = append(moved, connect(t, c.Gateways[i%2].MQTT, version(i), id))
	}
	waitForAcks(t, 50, append(l.on(false, l.toFar), l.on(false, l.toAll)...)...)

	// Whatever it had sent before has long been read.
	mark := markAll(append(mine, inside))
	loaded := markAll(append(clientsOf(l.on(true, l.toAll), l.on(true, l.toNear), l.on(true, l.toFar)), l.far, l.everywhere[2]))
	continued := time.Now()
	paused.Continue(t)
	slowest, caught := time.Duration(0), 0
	for x, m := range mark {
		slowest = max(slowest, x.mustHaveBeenClosed(continued))
		if got := m.more(x); len(got) > 0 {
			t.Errorf("%q got %v from an incarnation that was over", x.id, got)
		}
	}
	// Of those under load, one may have been caught between the look at the clock and the write.
	for x, m := range loaded {
		slowest = max(slowest, x.mustHaveBeenClosed(continued))
		if got := m.more(x); len(got) > 0 {
			t.Logf("%q got %v from an incarnation that was over", x.id, got)
			caught++
		}
	}
	if caught > 1 {
		t.Errorf("%d connections were served by an incarnation that was over", caught)
	}
	within(t, "all old connections are gone", slowest, 2*slack)
	paused.WaitReady(t)
	t.Logf("it serves again: %v", time.Since(continued).Round(time.Millisecond))
	after, _ := c.Member(t, 2)
	if after.ID == before.ID {
		t.Errorf("it has come back as the same incarnation, %s", after.ID)
	}

	// Nothing of what it was sent during the pause has got out. What had would be here before the marker.
	p := publish(connect(t, paused.MQTT, rawmqtt.V5, "newcomer"), "from/new", 1, pace)
	waitForAcks(t, 10, p)
	p.finish(patience)
	outsider.receive("from/new", "9")
	if got := outsider.arrivals("from/inside"); len(got) > 0 {
		t.Errorf("%d messages that were sent to the paused gateway were delivered", len(got))
	}
	connect(t, paused.MQTT, rawmqtt.V311, "receiver").subscribe("far/new", 1)
	for _, x := range moved {
		x.mustServe()
	}
	// Each client has grown a newer lease, and only that.
	now := leases(t, c, ids...)
	for _, id := range ids {
		if now[id].Holder == "" || now[id].Holder == before.ID {
			t.Errorf("%q is held by %q", id, now[id].Holder)
		}
	}
	l.check(t)
	contest.finish()
}

// marked is what a client had got at one moment.
type marked struct{ kinds map[byte]int }

func markAll(clients []*client) map[*client]marked {
	all := map[*client]marked{}
	for _, x := range clients {
		all[x] = marked{kinds: x.packets()}
	}
	return all
}

// more returns what the client got since, but for DISCONNECTs.
func (m marked) more(x *client) []string {
	var got []string
	for kind, n := range x.packets() {
		if kind != packets.Disconnect && n > m.kinds[kind] {
			got = append(got, fmt.Sprintf("%d %s", n-m.kinds[kind], packets.PacketNames[kind]))
		}
	}
	return got
}

// mustHaveBeenClosed waits for the end of a connection, and fails the test when an MQTT 5 client is not told a
// reason that has to do with its gateway's end. It returns how long after a moment it ended.
func (c *client) mustHaveBeenClosed(since time.Time) time.Duration {
	c.t.Helper()
	at, reason := c.end(patience)
	if c.version == rawmqtt.V5 && reason != 0x8B && reason != 0x8E {
		c.t.Errorf("%q got DISCONNECT %#x, want 0x8B or 0x8E", c.id, reason)
	}
	return at.Sub(since)
}

func clientsOf(lists ...[]*publisher) []*client {
	var all []*client
	for _, list := range lists {
		for _, p := range list {
			all = append(all, p.client)
		}
	}
	return all
}
