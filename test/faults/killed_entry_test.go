//go:build linux

package faults

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/beeline-mqtt/beeline/api/beeline"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/test/faults/ledger"
)

// unknownOutcome is what a service is told of what a gateway had not answered when it was lost.
const unknownOutcome = "the outcome is not known"

// The gateway is killed at which what services publish enters the cluster, while there are Sends, Publishes and
// PublishStreams without an answer.
func TestTheGatewayWhereMessagesEnterIsKilled(t *testing.T) {
	b := serve(t)
	entry := b.entry()
	survivors := slices.DeleteFunc([]int{0, 1, 2}, func(i int) bool { return i == entry })
	book := ledger.New(time.Now)
	readers := []*reader{b.reader(book, "moves", entry), b.reader(book, "stays", survivors[0]), b.reader(book, "stays too", survivors[1])}

	// Those to whom something is sent are elsewhere, and do not acknowledge it.
	var silent []*member
	for i, gateway := range survivors {
		m := &member{id: fmt.Sprint("silent-", i), number: i, mute: true}
		b.come(m, gateway)
		silent = append(silent, m)
	}
	b.group("silent", silent...)
	goroutines := b.c.Router.Metric(t, "go_goroutines")

	var streams []*bulletin
	var single []*chore
	for i := range 3 {
		streams = append(streams, b.bulletin(book, fmt.Sprint("stream-", i)))
		single = append(single, b.publishing(book, fmt.Sprint("single-", i)))
	}
	for i := range 3 {
		streams[i].more(20)
		single[i].more(20)
	}
	options := beeline.SendOptions{Wait: messagingv1.Wait_WAIT_ACKNOWLEDGED, Timeout: patience}
	sends := []*sending{b.sendTo(beeline.ToGroup("silent"), "all", options), b.sendTo(beeline.ToClient(silent[0].id), "one", options)}
	awaitAll(t, "all", silent)
	awaitAll(t, "one", silent[:1])
	for _, s := range sends {
		s.underWay(t)
	}
	killed := time.Now()
	b.c.Gateways[entry].Kill(t)

	for _, s := range sends {
		<-s.done
		hasStatus(t, "Send "+s.payload, s.err, codes.Unavailable, unknownOutcome)
	}
	within(t, "those who sent are told, after the kill", time.Since(killed), slack)
	if at := b.entry(); at == entry {
		t.Error("what is published enters at a gateway that is dead")
	}
	within(t, "somebody publishes elsewhere, after the kill", time.Since(killed), slack)
	for i := range 3 {
		streams[i].more(1)
		single[i].more(1)
	}
	within(t, "all publish elsewhere, after the kill", time.Since(killed), b.c.TTL+2*slack)
	b.move(readers[0], survivors[0])
	for i := range 3 {
		streams[i].more(20)
		single[i].more(20)
		streams[i].end()
		if len(streams[i].breaks) != 1 || len(streams[i].refused) > 0 {
			t.Errorf("%q: ended with %v, results %v", streams[i].Publisher, streams[i].breaks, streams[i].refused)
			continue
		}
		hasStatus(t, streams[i].Publisher, streams[i].breaks[0], codes.Unavailable, unknownOutcome)
	}
	for _, x := range single {
		errs := x.end()
		if len(errs) > 1 {
			t.Errorf("%s: %v", x.name, errs)
		}
		for _, err := range errs {
			hasStatus(t, x.name, err, codes.Unavailable, unknownOutcome)
		}
	}
	audit(t, book, readers, "moves")
	b.settled(goroutines)
}

// publishing is a chore that publishes news, one after the other. What goes wrong is not published again.
func (b *backend) publishing(book *ledger.Ledger, name string) *chore {
	s := ledger.Stream{Publisher: name, Topic: "news/" + name, QoS: 1}
	connection := 1
	return b.chore(name, pace, func(int) error {
		m := book.Send(s, connection)
		matched, err := b.Publish(b.within(patience), text(m.Topic, m.Payload()))
		switch {
		case err != nil:
			connection++
		case matched:
			book.Acknowledge(m, 0)
		default:
			err = fmt.Errorf("nobody gets %q", m.Payload())
		}
		return err
	})
}
