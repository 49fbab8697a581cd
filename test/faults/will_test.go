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

// will is one that says the client's id, under will/ and that.
func will(id string, delay uint32, durable bool) rawmqtt.Option {
	return func(pk *packets.Packet) {
		pk.Connect.WillFlag, pk.Connect.WillQos = true, 1
		pk.Connect.WillTopic, pk.Connect.WillPayload = "will/"+id, []byte(id)
		pk.Connect.WillProperties.WillDelayInterval = delay
		if durable {
			rawmqtt.Durable(600)(pk)
		}
	}
}

// A will is with the session service from the CONNECT on: it outlives the gateway, and the session service itself.
func TestWillsSurviveWhoeverKnowsThem(t *testing.T) {
	c := start(t, processes.Config{})
	heir := connect(t, c.Gateways[0].MQTT, rawmqtt.V5, "heir").subscribe("will/#", 1)
	testators := func(gateway int, name string, delay uint32) (ids []string) {
		for i, v := range []byte{rawmqtt.V5, rawmqtt.V311, rawmqtt.V5, rawmqtt.V311} {
			id := fmt.Sprintf("%s-%d", name, i)
			connect(t, c.Gateways[gateway].MQTT, v, id, will(id, delay, i < 2))
			ids = append(ids, id)
		}
		return ids
	}

	ids := testators(2, "killed", 0)
	killed := time.Now()
	c.Gateways[2].Kill(t)
	for _, id := range ids {
		heir.receive("will/"+id, id)
	}
	within(t, "the wills of a killed gateway's clients are published", time.Since(killed), c.TTL+2*slack)

	// The gateway goes, and before that is noticed the session service; the wills are found by who comes after it.
	c.Gateways[2].Start(t)
	c.Gateways[2].WaitReady(t)
	ids = testators(2, "both", 0)
	killed = time.Now()
	c.Gateways[2].Kill(t)
	c.Sessions[0].Kill(t)
	c.Sessions[0].Start(t)
	for _, id := range ids {
		heir.receive("will/"+id, id)
	}
	within(t, "the wills are published by the session service that comes after", time.Since(killed), 2*c.TTL+4*slack)

	c.Gateways[2].Start(t)
	for _, g := range c.Gateways {
		g.WaitReady(t)
	}
	heir.mustServe()
	count := map[string]int{}
	for _, a := range heir.arrivals("") {
		count[a.payload]++
	}
	for id, n := range count {
		if n != 1 {
			t.Errorf("the will of %q came %d times", id, n)
		}
	}
	if len(count) != 8 {
		t.Errorf("%d wills, want 8: %v", len(count), count)
	}
}

// A client that has come back in time has no will that is due, whoever has counted the time.
func TestAWillThatWaitsSurvivesTheSessionService(t *testing.T) {
	c := start(t, processes.Config{})
	heir := connect(t, c.Gateways[0].MQTT, rawmqtt.V5, "heir").subscribe("will/#", 1)
	const delay = 8
	gone := connect(t, c.Gateways[1].MQTT, rawmqtt.V5, "gone", will("gone", delay, true))
	back := connect(t, c.Gateways[1].MQTT, rawmqtt.V5, "back", will("back", delay, true))
	left := time.Now()
	gone.close()
	back.close()
	c.Sessions[0].Kill(t)
	c.Sessions[0].Start(t)
	for _, g := range c.Gateways {
		g.WaitReady(t)
	}
	eventually(t, "the one that comes back is taken", func() bool {
		_, err := dial(t, c.Gateways[0].MQTT, rawmqtt.V5, "back", patience, will("back", delay, true))
		return err == nil
	})
	heir.receive("will/gone", "gone")
	if took := time.Since(left); took < delay*time.Second {
		t.Errorf("the will came after %v, want %d s at least", took, delay)
	} else {
		within(t, "the will came", took, delay*time.Second+c.TTL+2*slack)
	}
	heir.mustServe()
	if got := heir.arrivals("will/back"); len(got) > 0 {
		t.Errorf("the will of a client that is back came: %v", got)
	}
}
