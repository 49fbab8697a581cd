//go:build linux

package faults

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/beeline-mqtt/beeline/test/faults/ledger"
	"github.com/beeline-mqtt/beeline/test/faults/processes"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// mover is a client that stays where it is until it is sent away, and connects to another gateway then.
type mover struct {
	t         testing.TB
	id        string
	version   byte
	opts      []rawmqtt.Option
	addresses []string

	mu    sync.Mutex // guards the following
	lines []*client  // all connections, the present one last
}

// settleDown connects a mover to gateway at, and has it move until stop is closed; then it says goodbye.
func settleDown(t testing.TB, wg *sync.WaitGroup, stop <-chan struct{}, c *processes.Cluster, at int, m *mover) *mover {
	t.Helper()
	m.t, m.addresses = t, mqtt(c)
	first := connect(t, m.addresses[at], m.version, m.id, m.opts...)
	m.lines = []*client{first}
	wg.Go(func() { m.run(first, at, stop) })
	return m
}

func (m *mover) run(x *client, at int, stop <-chan struct{}) {
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		select {
		case <-x.done:
		case <-stop:
			_ = x.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}})
			x.close()
			return
		}
		for x = nil; x == nil; {
			at = (at + 1) % len(m.addresses)
			next, err := dial(m.t, m.addresses[at], m.version, m.id, 3*time.Second, m.opts...)
			if err == nil {
				x = next
				continue
			}
			select {
			case <-again.C:
			case <-stop:
				return
			}
		}
		m.mu.Lock()
		m.lines = append(m.lines, x)
		m.mu.Unlock()
	}
}

// all are the connections that it has had so far.
func (m *mover) all() []*client {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.lines)
}

// arrivals are those of all its connections.
func (m *mover) arrivals() []arrival {
	var all []arrival
	for _, x := range m.all() {
		all = append(all, x.arrivals("")...)
	}
	return all
}

// ends returns what the DISCONNECTs of its former connections said.
func (m *mover) ends() []byte {
	var all []byte
	for _, x := range m.all() {
		select {
		case <-x.done:
			_, reason := x.end(patience)
			all = append(all, reason)
		default:
		}
	}
	return all
}

// Every gateway is told to stop, and started again when it has, while regulars come and go. Nothing is lost that was
// acknowledged, and nobody dies.
func TestARollingRestartLosesNothingAndPublishesNoWill(t *testing.T) {
	c := start(t, processes.Config{})
	w := attend(t, 8, 6, seed(t), mqtt(c))
	stop := make(chan struct{})
	var moving sync.WaitGroup
	over := sync.OnceFunc(func() {
		close(stop)
		moving.Wait()
	})
	t.Cleanup(over)
	heir := settleDown(t, &moving, stop, c, 0, &mover{id: "heir", version: rawmqtt.V5, opts: []rawmqtt.Option{rawmqtt.Durable(600)}})
	heir.all()[0].subscribe("will/#", 1)
	var testators []*mover
	for i := range 24 {
		id := fmt.Sprintf("testator-%d", i)
		m := &mover{id: id, version: version(i / 2), opts: []rawmqtt.Option{will(id, 0, i%4 < 2)}}
		testators = append(testators, settleDown(t, &moving, stop, c, i%3, m))
	}
	within(t, "everything flows before anything is stopped", w.settle(4*slack), 4*slack)
	for _, g := range c.Gateways {
		t.Logf("%s: %s is told to stop", time.Now().UTC().Format(clock), g.Name)
		code, took := g.Terminate(t, 20*time.Second)
		if code != 0 {
			t.Errorf("%s: exit code %d", g.Name, code)
		}
		within(t, g.Name+" has ended", took, 5*time.Second)
		g.Start(t)
		g.WaitReady(t)
		within(t, "everything has come", w.settle(4*slack), 4*slack)
	}
	w.finish(patience, ledger.Reordered, ledger.Overtaken)

	moves := 0
	for _, m := range testators {
		for _, reason := range m.ends() {
			moves++
			want := byte(0x9C) // Use another server
			if m.version == rawmqtt.V311 {
				want = 0
			}
			if reason != want {
				t.Errorf("%q got DISCONNECT %#x, want %#x", m.id, reason, want)
			}
		}
		eventually(t, m.id+" is somewhere", func() bool { all := m.all(); return all[len(all)-1].alive() })
	}
	if moves < len(testators) {
		t.Errorf("%d moves of %d clients", moves, len(testators))
	}
	// A will would have come before what is said now.
	sender := connect(t, c.Gateways[0].MQTT, rawmqtt.V5, "sender")
	p := publish(sender, "will/marker", 1, pace)
	waitForAcks(t, 1, p)
	p.finish(patience)
	eventually(t, "the heir has the marker", func() bool {
		return slices.ContainsFunc(heir.arrivals(), func(a arrival) bool { return a.topic == "will/marker" })
	})
	over()
	for _, a := range heir.arrivals() {
		if a.topic != "will/marker" {
			t.Errorf("the will of %q was published", a.payload)
		}
	}
}
