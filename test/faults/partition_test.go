//go:build linux

package faults

import (
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/beeline-mqtt/beeline/test/faults/processes"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// route and receipt time-outs are shortened, for the tests' sake.
const (
	routeTimeout   = 3 * time.Second
	receiptTimeout = 5 * time.Second
)

func TestTwoGatewaysThatCannotReachEachOther(t *testing.T) {
	wires := map[string]processes.Wire{"packets get lost": processes.Stalled, "connections are refused": processes.Refused}
	for name, wire := range wires {
		t.Run(name, func(t *testing.T) {
			c := start(t, processes.Config{
				Limits:  "receipt_timeout: " + receiptTimeout.String(),
				Gateway: "route_ack_timeout: " + routeTimeout.String(),
			})
			testPartition(t, c, wire)
		})
	}
}

// testPartition cuts the wires between gateways 0 and 1; 2 reaches both.
func testPartition(t *testing.T, c *processes.Cluster, wire processes.Wire) {
	t.Helper()
	addr := mqtt(c)
	// Traffic beside the cut: 0 to 2, 2 to 1, and within each.
	var beside []*publisher
	var listeners []*client
	for i, way := range [][2]int{{0, 2}, {2, 1}, {0, 0}, {1, 1}, {2, 0}, {1, 2}} {
		topic := fmt.Sprintf("beside/%d", i)
		x := connect(t, addr[way[1]], version(i), "listener-"+topic).subscribe(topic, 2)
		listeners = append(listeners, x)
		beside = append(beside, publish(connect(t, addr[way[0]], version(i+1), "sender-"+topic), topic, byte(1+i%2), pace))
	}
	known := connect(t, addr[0], rawmqtt.V5, "known").subscribe("known/#", 1)
	// Traffic across the cut.
	receiver := connect(t, addr[1], rawmqtt.V5, "receiver").subscribe("across/#", 2)
	across5 := connect(t, addr[0], rawmqtt.V5, "across-5")
	across311 := connect(t, addr[0], rawmqtt.V311, "across-311")
	asker := connect(t, addr[0], rawmqtt.V5, "asker")
	waitForAcks(t, 50, beside...)

	began := time.Now()
	c.Cut(0, 1, wire)
	p5 := publish(across5, "across/5", 1, pace)
	publish(across311, "across/311", 1, pace)
	var wg sync.WaitGroup
	wg.Go(func() { refusedSubscribe(t, asker) })
	// A filter that the other gateway has already does not need it.
	code, err := connect(t, addr[0], rawmqtt.V311, "late").trySubscribe("known/#", 1)
	if code != 1 || err != nil {
		t.Errorf("SUBSCRIBE to a filter that was announced before: %#x, %v", code, err)
	}
	within(t, "SUBSCRIBE to a filter that was announced before", time.Since(began), slack)
	// The gateway that reaches both is not affected, and others' takeovers are not.
	connect(t, addr[2], rawmqtt.V5, "third").subscribe("third/#", 1)
	mover := connect(t, addr[0], rawmqtt.V5, "mover")
	connect(t, addr[1], rawmqtt.V5, "mover").mustServe()
	if _, reason := mover.end(patience); reason != 0x8E {
		t.Errorf("the older connection got DISCONNECT %#x, want 0x8E", reason)
	}
	wg.Wait()

	at, _ := across311.end(2 * receiptTimeout)
	within(t, "the 3.1.1 publisher across the cut is closed", at.Sub(began), receiptTimeout+2*slack)
	eventually(t, "the v5 publisher is told", func() bool { return p5.acks() >= window })
	for n, m := range p5.history()[:window] {
		if m.code != 0x80 {
			t.Errorf("message %d across the cut was acknowledged with %#x, want 0x80", n, m.code)
		}
		if waited := m.acked.Sub(m.sent); waited < receiptTimeout || waited > receiptTimeout+2*slack {
			t.Errorf("message %d across the cut was answered after %v, want %v", n, waited, receiptTimeout)
		}
	}
	if got := len(receiver.arrivals("")); got > 0 {
		t.Errorf("%d messages got through the cut", got)
	}
	// What was refused is withdrawn: it gets nothing, wherever it is published.
	for i, a := range addr {
		x := publish(connect(t, a, rawmqtt.V5, "prober-"+strconv.Itoa(i)), "asked/x", 1, pace)
		waitForAcks(t, 5, x)
		x.finish(patience)
		for n, m := range x.history() {
			if m.code != 0x10 {
				t.Errorf("message %d for a subscription that was refused was acknowledged with %#x, want 0x10", n, m.code)
			}
		}
	}
	asker.mustServe()
	if got := len(asker.arrivals("")); got > 0 {
		t.Errorf("%d messages for a subscription that was refused", got)
	}
	longest := time.Duration(0)
	for _, p := range beside {
		longest = max(longest, p.gap(began, time.Now().Add(-slack/2)))
	}
	within(t, "longest time without an acknowledgement beside the cut", longest, routeTimeout)

	mended := time.Now()
	c.Mend()
	// Everything that was sent into the cut comes out of it, once and in order, the refused included.
	eventually(t, "acknowledgements come again", func() bool {
		h := p5.history()
		for n := len(h) - 1; n >= 0; n-- {
			if !h[n].acked.IsZero() {
				return h[n].code < 0x80
			}
		}
		return false
	})
	within(t, "publishes across the cut are acknowledged again", time.Since(mended), 4*slack)
	p5.finish(patience)
	last := len(p5.history()) - 1
	receiver.receive("across/5", strconv.Itoa(last))
	seen := checkOrder(t, receiver, "across/5")
	for n := range p5.history() {
		if !seen[n] {
			t.Errorf("message %d that was sent into the cut never came out of it", n)
		}
	}
	checkOrder(t, receiver, "across/311")
	asker.subscribe("asked/#", 1)
	known.subscribe("known/2", 1)
	p := publish(connect(t, addr[1], rawmqtt.V5, "afterwards"), "asked/y", 1, pace)
	waitForAcks(t, 5, p)
	p.finish(patience)
	asker.receive("asked/y", "4")
	for i, p := range beside {
		p.finish(patience)
		checkReceived(t, p, listeners[i])
	}
}

// refusedSubscribe fails the test unless a new filter is refused after the time-out.
func refusedSubscribe(t *testing.T, asker *client) {
	t.Helper()
	began := time.Now()
	code, err := asker.trySubscribe("asked/#", 1)
	if code != 0x80 || err != nil {
		t.Errorf("SUBSCRIBE across the cut: %#x, %v, want 0x80", code, err)
	}
	if took := time.Since(began); took < routeTimeout {
		t.Errorf("SUBSCRIBE across the cut was refused after %v already, want %v", took, routeTimeout)
	}
	within(t, "SUBSCRIBE across the cut is refused", time.Since(began), routeTimeout+slack)
}
