//go:build linux

package faults

import (
	"testing"
	"time"

	"github.com/beeline-mqtt/beeline/test/faults/processes"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

func TestTrafficGoesOnWhileThereIsNoSessionService(t *testing.T) {
	c := start(t, processes.Config{})
	contest := compete(t, 5, seed(t), mqtt(c)...)
	l := startLoad(t, c)
	_, ids := numbered(t, 4, c.Gateways[0].MQTT, "mover")
	waitForAcks(t, 50, l.publishers()...)
	before := incarnations(t, c)

	killed := time.Now()
	c.Sessions[0].Kill(t)
	eventually(t, "the gateways have noticed", func() bool {
		for _, g := range c.Gateways {
			if g.Ready(t) == nil {
				return false
			}
		}
		return true
	})
	t.Logf("the gateways have noticed: %v", time.Since(killed).Round(time.Millisecond))
	within(t, "a new client is refused", mustBeRefused(t, "refused", c.Gateways...), slack)
	waitForAcks(t, 50, l.publishers()...)

	restarted := time.Now()
	c.Sessions[0].Start(t)
	for _, g := range c.Gateways {
		g.WaitReady(t)
	}
	// The key of the dead one has to end first.
	within(t, "new clients are taken", time.Since(restarted), c.TTL+2*slack)
	mustBeTaken(t, c, "taken")
	// Who was connected before is still known, and taken over as ever.
	for i, id := range ids {
		began := time.Now()
		connect(t, c.Gateways[1+i%2].MQTT, version(i), id)
		within(t, "takeover of a client that was connected before", time.Since(began), slack)
	}
	within(t, "longest time without an acknowledgement", l.gap(killed, time.Now().Add(-slack/2)), c.TTL*3/4)
	for i, id := range incarnations(t, c) {
		if id != before[i] {
			t.Errorf("%s was incarnation %s and is %s", c.Gateways[i].Name, before[i], id)
		}
	}
	l.checkAll(t)
	contest.finish()
}

func TestAStandbyTakesThePlaceOfTheActiveSessionInstance(t *testing.T) {
	faults := map[string]func(t *testing.T, s *processes.Session){
		"killed": func(t *testing.T, s *processes.Session) { s.Kill(t) },
		"paused": func(t *testing.T, s *processes.Session) { s.Pause(t) },
		"told to stop": func(t *testing.T, s *processes.Session) {
			code, took := s.Terminate(t, 20*time.Second)
			if code != 0 {
				t.Errorf("exit code %d", code)
			}
			within(t, "the instance has ended", took, 5*time.Second)
		},
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			c := start(t, processes.Config{Sessions: 2})
			eventually(t, "an instance is active", func() bool { return c.ActiveSession(t) >= 0 })
			active := c.ActiveSession(t)
			contest := compete(t, 5, seed(t), mqtt(c)...)
			l := startLoad(t, c)
			waitForAcks(t, 50, l.publishers()...)

			began := time.Now()
			fault(t, c.Sessions[active])
			standby := c.Sessions[1-active]
			takes := c.TTL + 2*slack
			if name == "paused" {
				// It has the store open, and so nobody can take its place before it lets go. When it goes on it finds that
				// it is not the active one any more.
				time.Sleep(c.TTL + slack)
				if c.ActiveSession(t) == 1-active {
					t.Error("the standby is active while the store is open elsewhere")
				}
				c.Sessions[active].Continue(t)
				takes += c.TTL + 2*slack
			}
			eventually(t, "the standby is active", func() bool { return c.ActiveSession(t) == 1-active })
			for _, g := range c.Gateways {
				g.WaitReady(t)
			}
			mustBeTaken(t, c, "taken")
			within(t, "clients are taken by the standby "+standby.Name, time.Since(began), takes)
			within(t, "longest time without an acknowledgement", l.gap(began, time.Now().Add(-slack/2)), c.TTL*3/4)

			// The former instance comes back, and a takeover still leaves one.
			if name != "paused" {
				c.Sessions[active].Start(t)
			}
			c.Sessions[active].WaitReady(t)
			old := connect(t, c.Gateways[0].MQTT, rawmqtt.V5, "mover")
			connect(t, c.Gateways[1].MQTT, rawmqtt.V5, "mover").mustServe()
			if _, reason := old.end(patience); reason != 0x8E {
				t.Errorf("older connection got DISCONNECT %#x, want 0x8E", reason)
			}
			l.checkAll(t)
			contest.finish()
		})
	}
}
