//go:build linux

package faults

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/beeline-mqtt/beeline/api/beeline"
	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	"github.com/beeline-mqtt/beeline/test/faults/ledger"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// sendGrace is how long after its time a Send may be answered. It is answered before anybody knows of a death all the same.
const sendGrace = time.Second

// receipts are those of a Send by client, which has to have one for each member.
func (s *sending) receipts(t testing.TB, members []*member) map[string]*messagingv1.Receipt {
	t.Helper()
	<-s.done
	if s.err != nil {
		t.Fatalf("%q: %v", s.payload, s.err)
	}
	all := map[string]*messagingv1.Receipt{}
	counted := map[messagingv1.Outcome]uint64{}
	for _, r := range s.response.GetReceipts() {
		if all[r.GetClientId()] != nil {
			t.Errorf("%q: %q has two receipts: %v, %v", s.payload, r.GetClientId(), all[r.GetClientId()], r)
		}
		all[r.GetClientId()] = r
		counted[r.GetOutcome()]++
	}
	for _, m := range members {
		if all[m.id] == nil {
			t.Errorf("%q: %q has no receipt", s.payload, m.id)
		}
	}
	if len(all) != len(members) {
		t.Errorf("%q: %d receipts for %d members", s.payload, len(all), len(members))
	}
	for _, n := range s.response.GetCounts() {
		if counted[n.GetOutcome()] != n.GetReceivers() {
			t.Errorf("%q: %v, there are %d receipts", s.payload, n, counted[n.GetOutcome()])
		}
	}
	return all
}

// honest fails the test if a receipt claims more than what the member has seen. Of what is queued the member has to be back.
func honest(t testing.TB, payload string, m *member, r *messagingv1.Receipt) {
	t.Helper()
	came, acked := m.got(payload)
	switch o := r.GetOutcome(); {
	case o == messagingv1.Outcome_OUTCOME_ACKNOWLEDGED && acked:
	case o == messagingv1.Outcome_OUTCOME_DELIVERED && came:
	case o == messagingv1.Outcome_OUTCOME_QUEUED && came && m.durable:
	case o == messagingv1.Outcome_OUTCOME_OFFLINE && !m.durable && len(m.lines) > 1:
	case o == messagingv1.Outcome_OUTCOME_TIMED_OUT && len(m.lines) > 1:
	default:
		t.Errorf("%q of %q (durable %t, %d connections): %v; it came: %t, may be acknowledged: %t", payload, m.id, m.durable, len(m.lines), r, came, acked)
	}
}

// victims are the members on a gateway, and the others.
func victims(members []*member, gateway int) (those, others []*member) {
	for _, m := range members {
		if m.at == gateway {
			those = append(those, m)
		} else {
			others = append(others, m)
		}
	}
	return those, others
}

// A gateway is killed while it holds a third of those to whom messages are sent, and has not answered for them.
func TestAGatewayIsKilledInTheMiddleOfASend(t *testing.T) {
	b := serve(t)
	entry := b.entry()
	near := connect(t, b.c.Gateways[entry].MQTT, rawmqtt.V5, "near")
	line := b.commands(near)
	victim := slices.IndexFunc([]int{0, 1, 2}, func(i int) bool { return i != entry && i != line })
	survivors := slices.DeleteFunc([]int{0, 1, 2}, func(i int) bool { return i == victim })

	members, handful := b.members("member", 300), b.members("few", 12)
	hit, spared := victims(members, victim)
	for i, m := range hit {
		if m.mute = i%4 >= 2; m.mute {
			m.lines[0].hush()
		}
	}
	b.group("members", members...)
	b.group("few", handful...)
	others := b.others(near, survivors)
	var repeated repeatedly
	again := b.chore("Send to a group, again and again", 100*time.Millisecond, func(n int) error { return repeated.send(b, n) })
	for _, x := range append(others.chores, again) {
		x.more(5)
	}
	goroutines := b.c.Router.Metric(t, "go_goroutines")

	group := beeline.ToGroup("members")
	long := b.sendTo(group, "long", beeline.SendOptions{Wait: messagingv1.Wait_WAIT_ACKNOWLEDGED, Timeout: 4 * b.c.TTL})
	short := b.sendTo(group, "short", beeline.SendOptions{Wait: messagingv1.Wait_WAIT_ACKNOWLEDGED, Timeout: b.c.TTL / 2})
	awaitAll(t, "long", members)
	awaitAll(t, "short", members)
	long.underWay(t)
	short.underWay(t)
	killed := time.Now()
	b.c.Gateways[victim].Kill(t)

	briefly := short.receipts(t, members)
	within(t, "the Send with little time", short.took, b.c.TTL/2+sendGrace)
	known := long.receipts(t, members)
	t.Logf("with little time: %v, with much: %v", short.response.GetCounts(), long.response.GetCounts())
	within(t, "the Send with much time, after the kill", time.Since(killed), b.c.TTL+slack)
	again.more(10)
	again.untouched(time.Second + sendGrace + slack)
	others.untouched()

	// Everybody comes back.
	hitFew, _ := victims(handful, victim)
	for i, m := range append(hit, hitFew...) {
		b.come(m, survivors[i%2])
	}
	last := b.sendTo(group, "last", beeline.SendOptions{Wait: messagingv1.Wait_WAIT_ACKNOWLEDGED, Timeout: patience})
	awaitAll(t, "last", members)
	final := last.receipts(t, members)
	lastFew := b.sendTo(beeline.ToGroup("few"), "last", beeline.SendOptions{Wait: messagingv1.Wait_WAIT_ACKNOWLEDGED, Timeout: patience})
	awaitAll(t, "last", handful) // what is stored for them has come before
	lastFew.receipts(t, handful)

	for _, m := range spared {
		if at, _ := b.c.Member(t, m.at); known[m.id].GetHolder() != at.ID || known[m.id].GetEpoch() == 0 {
			t.Errorf("%q is at %s: %v", m.id, at.ID, known[m.id])
		}
		for payload, r := range map[string]*messagingv1.Receipt{"long": known[m.id], "short": briefly[m.id], "last": final[m.id]} {
			honest(t, payload, m, r)
		}
	}
	for _, m := range hit {
		honest(t, "long", m, known[m.id])
		honest(t, "short", m, briefly[m.id])
		honest(t, "last", m, final[m.id])
		b.hit(m, known[m.id], briefly[m.id])
	}
	repeated.check(t, handful, killed)
	b.settled(goroutines)
}

// hit checks what became of the messages for a member whose gateway was killed.
func (b *backend) hit(m *member, long, short *messagingv1.Receipt) {
	b.t.Helper()
	want := messagingv1.Outcome_OUTCOME_TIMED_OUT
	if m.durable {
		want = messagingv1.Outcome_OUTCOME_QUEUED
	}
	if long.GetOutcome() != want {
		b.t.Errorf("%q (durable %t, mute %t): %v, want %v", m.id, m.durable, m.mute, long, want)
	}
	if short.GetOutcome() != messagingv1.Outcome_OUTCOME_TIMED_OUT {
		b.t.Errorf("%q: %v, before anybody can know that its gateway is dead", m.id, short)
	}
	back := m.lines[1]
	for _, payload := range []string{"long", "short"} {
		n := len(back.arrivals(fmt.Sprintf("group/members/%s", payload)))
		switch {
		case m.durable && m.mute && n == 0:
			b.t.Errorf("%q has not got %q, which it had not acknowledged", m.id, payload)
		case !m.durable && n > 0, n > 1:
			b.t.Errorf("%q got %q %d times when it was back", m.id, payload, n)
		}
	}
}

// settled fails the test if the router keeps something of what is over.
func (b *backend) settled(goroutines float64) {
	b.t.Helper()
	eventually(b.t, "the router has no more goroutines than before", func() bool {
		return b.c.Router.Metric(b.t, "go_goroutines") <= goroutines+few
	})
}

// repeatedly are Sends to a group of few, one after the other.
type repeatedly struct {
	mu  sync.Mutex
	all []*sending // guarded by mu
}

func (x *repeatedly) send(b *backend, n int) error {
	s := b.sendTo(beeline.ToGroup("few"), fmt.Sprint("few-", n), beeline.SendOptions{Timeout: time.Second})
	<-s.done
	x.mu.Lock()
	defer x.mu.Unlock()
	x.all = append(x.all, s)
	return s.err
}

// check checks the receipts of all of them.
func (x *repeatedly) check(t testing.TB, members []*member, killed time.Time) {
	t.Helper()
	for _, s := range x.all {
		got := s.receipts(t, members)
		for _, m := range members {
			r := got[m.id]
			if s.began.Before(killed) && len(m.lines) > 1 && !m.durable && r.GetOutcome() == messagingv1.Outcome_OUTCOME_DELIVERED {
				continue // it may have been lost in the queue of its connection
			}
			honest(t, s.payload, m, r)
			if len(m.lines) > 1 && s.began.After(killed) && r.GetOutcome() == messagingv1.Outcome_OUTCOME_DELIVERED {
				t.Errorf("%q is delivered to %q at a gateway that is dead: %v", s.payload, m.id, r)
			}
		}
	}
}

// others are what a service does meanwhile with those on gateways that live.
type others struct {
	chores  []*chore
	book    *ledger.Ledger
	stream  *bulletin
	readers []*reader
}

func (b *backend) others(near *client, gateways []int) *others {
	far := connect(b.t, b.c.Gateways[gateways[1]].MQTT, rawmqtt.V311, "far")
	x := &others{book: ledger.New(time.Now)}
	for _, gateway := range gateways {
		x.readers = append(x.readers, b.reader(x.book, fmt.Sprint("reader-", gateway), gateway))
	}
	x.stream = b.bulletin(x.book, "stream")
	for _, id := range []string{near.id, far.id} {
		x.chores = append(x.chores, b.chore("Send to "+id, pace, func(n int) error {
			r, err := b.Send(b.within(patience), beeline.ToClient(id), text("t", fmt.Sprint(n)), beeline.SendOptions{Wait: messagingv1.Wait_WAIT_ACKNOWLEDGED})
			if err == nil && (len(r.GetReceipts()) != 1 || r.GetReceipts()[0].GetOutcome() != messagingv1.Outcome_OUTCOME_ACKNOWLEDGED) {
				err = fmt.Errorf("%v", r)
			}
			return err
		}))
	}
	x.chores = append(x.chores, b.chore("Command to near", pace, func(n int) error {
		r, err := b.Command(b.within(patience), near.id, text("c", fmt.Sprint(n)), beeline.CommandOptions{})
		if err == nil && string(r.GetMessage().GetPayload()) != fmt.Sprint(n) {
			err = fmt.Errorf("%v", r)
		}
		return err
	}))
	return x
}

func (x *others) untouched() {
	for _, c := range x.chores {
		c.untouched(slack)
	}
	x.stream.end()
	if len(x.stream.breaks) > 0 || len(x.stream.refused) > 0 {
		x.stream.b.t.Errorf("PublishStream: ended with %v, results %v", x.stream.breaks, x.stream.refused)
	}
	audit(x.stream.b.t, x.book, x.readers)
}
