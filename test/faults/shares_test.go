//go:build linux

package faults

import (
	"fmt"
	"testing"
	"time"

	"github.com/beeline-mqtt/beeline/test/faults/processes"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// crew are the durable members of a shared subscription, over all their connections.
type crew struct {
	t   testing.TB
	all []*client
	now []*client // those that are connected
}

// come connects members to a gateway.
func (w *crew) come(addr string, ids ...int) {
	w.t.Helper()
	for _, i := range ids {
		var c *client
		eventually(w.t, fmt.Sprintf("member %d is taken", i), func() bool {
			var err error
			c, err = dial(w.t, addr, version(i), fmt.Sprintf("member-%d", i), patience, rawmqtt.Durable(600))
			return err == nil
		})
		w.all, w.now = append(w.all, c), append(w.now, c)
	}
}

// leave has all members lose their connections.
func (w *crew) leave() {
	for _, c := range w.now {
		c.close()
	}
	w.now = nil
}

// missing returns what was acknowledged with success and no member has got.
func (w *crew) missing(p *publisher) (missing []int) {
	got := map[int]bool{}
	for _, c := range w.all {
		for _, a := range c.arrivals(p.topic) {
			got[a.n] = true
		}
	}
	for n, m := range p.history() {
		if !m.acked.IsZero() && m.code < 0x80 && !got[n] {
			missing = append(missing, n)
		}
	}
	return missing
}

// Durable members of a shared subscription come and go, all of them at times, while those die who keep for them.
func TestWhatIsKeptForASharedSubscriptionSurvivesWhoeverKnowsIt(t *testing.T) {
	c := start(t, processes.Config{})
	w := &crew{t: t}
	w.come(c.Gateways[2].MQTT, 0, 1)
	for _, m := range w.now {
		m.subscribe("$share/g/jobs/#", 2)
	}
	var publishers []*publisher
	for i, g := range c.Gateways[:2] {
		for qos := byte(1); qos <= 2; qos++ {
			id := fmt.Sprintf("jobs/%d/%d", i, qos)
			publishers = append(publishers, publish(connect(t, g.MQTT, rawmqtt.V5, "publisher of "+id), id, qos, pace))
		}
	}
	flows := func(what string) {
		t.Helper()
		began := time.Now()
		waitForAcks(t, 50, publishers...)
		t.Logf("%s: acknowledgements go on after %v", what, time.Since(began).Round(time.Millisecond))
	}
	flows("two members")
	w.leave()
	flows("nobody is there")

	c.Sessions[0].Kill(t)
	c.Sessions[0].Start(t)
	flows("the session service was killed while nobody was there")
	w.come(c.Gateways[2].MQTT, 0)
	flows("one is back")

	c.Gateways[2].Kill(t)
	flows("the gateway of the only member was killed")
	w.leave()
	c.Gateways[2].Start(t)
	c.Gateways[2].WaitReady(t)
	w.come(c.Gateways[2].MQTT, 1)
	c.Sessions[0].Kill(t)
	c.Sessions[0].Start(t)
	flows("the session service was killed as it gave what was kept")
	w.leave()
	flows("nobody is there again")

	for _, p := range publishers {
		p.finish(patience)
	}
	w.come(c.Gateways[0].MQTT, 0)
	w.come(c.Gateways[1].MQTT, 1)
	eventually(t, "everything that was acknowledged has come", func() bool {
		for _, p := range publishers {
			if len(w.missing(p)) > 0 {
				return false
			}
		}
		return true
	})
	for _, p := range publishers {
		codes := map[byte]int{}
		for _, m := range p.history() {
			codes[m.code]++
		}
		t.Logf("%s: %d messages, by reason code %v", p.topic, len(p.history()), codes)
		if codes[0x10] > 0 {
			t.Errorf("%s: %d messages were for nobody", p.topic, codes[0x10])
		}
	}
}
