//go:build linux

package faults

import (
	"slices"
	"testing"
	"time"

	"github.com/beeline-mqtt/beeline/api/beeline"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/test/faults/ledger"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// A gateway is killed while it holds single clients to whom is sent, and a reader of what services publish.
func TestAGatewayIsKilledInTheMiddleOfAPublishStream(t *testing.T) {
	b := serve(t)
	entry := b.entry()
	near := connect(t, b.c.Gateways[entry].MQTT, rawmqtt.V5, "near")
	line := b.commands(near)
	victim := slices.IndexFunc([]int{0, 1, 2}, func(i int) bool { return i != entry && i != line })

	book := ledger.New(time.Now)
	readers := []*reader{b.reader(book, "moves", victim), b.reader(book, "stays", entry)}
	durable, transient := &member{id: "durable", durable: true, mute: true}, &member{id: "transient", mute: true}
	members := []*member{durable, transient}
	for _, m := range members {
		b.come(m, victim)
	}
	goroutines := b.c.Router.Metric(t, "go_goroutines")
	stream, single := b.bulletin(book, "stream"), b.publishing(book, "single")
	other := b.chore("Send to near", pace, func(int) error {
		_, err := b.Send(b.within(patience), beeline.ToClient("near"), text("t", ""), beeline.SendOptions{Wait: messagingv1.Wait_WAIT_ACKNOWLEDGED})
		return err
	})
	stream.more(20)
	single.more(20)
	sends := map[*member][]*sending{}
	for _, m := range members {
		for payload, limit := range map[string]time.Duration{"short": b.c.TTL / 2, "long": 4 * b.c.TTL} {
			s := b.sendTo(beeline.ToClient(m.id), payload, beeline.SendOptions{Wait: messagingv1.Wait_WAIT_ACKNOWLEDGED, Timeout: limit})
			awaitAll(t, payload, []*member{m})
			s.underWay(t)
			sends[m] = append(sends[m], s)
		}
	}
	killed := time.Now()
	b.c.Gateways[victim].Kill(t)

	stream.more(50) // for as long as nobody knows of the death there are few
	single.more(20)
	within(t, "publishers are answered, after the kill", time.Since(killed), b.c.TTL+2*slack)
	other.untouched(slack)
	b.move(readers[0], line)
	single.more(20)
	stream.end()
	if len(stream.breaks) > 0 || len(stream.refused) > 0 {
		t.Errorf("PublishStream: ended with %v, results %v", stream.breaks, stream.refused)
	}
	single.untouched(b.c.TTL + slack)
	audit(t, book, readers, "moves")

	for _, m := range members {
		b.come(m, line)
		last := b.sendTo(beeline.ToClient(m.id), "last", beeline.SendOptions{Wait: messagingv1.Wait_WAIT_ACKNOWLEDGED, Timeout: patience})
		honest(t, "last", m, last.receipts(t, []*member{m})[m.id]) // what is stored for it has come before
		for _, s := range sends[m] {
			got := s.receipts(t, []*member{m})[m.id]
			limit, want := b.c.TTL+slack, messagingv1.Outcome_OUTCOME_OFFLINE
			switch {
			case s.payload == "short": // nobody can know yet that its gateway is dead
				limit, want = b.c.TTL/2+sendGrace, messagingv1.Outcome_OUTCOME_TIMED_OUT
			case m.durable:
				want = messagingv1.Outcome_OUTCOME_QUEUED
			}
			within(t, s.payload+" to "+m.id, s.took, limit)
			if got.GetOutcome() != want {
				t.Errorf("%q to %q: %v, want %v", s.payload, m.id, got, want)
			}
			honest(t, s.payload, m, got)
			if n := len(m.lines[1].arrivals("p2p/" + m.id + "/" + s.payload)); m.durable && n != 1 || !m.durable && n != 0 {
				t.Errorf("%q came to %q %d times when it was back", s.payload, m.id, n)
			}
		}
	}
	b.settled(goroutines)
}
