package engine

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
)

// naive is the outbound half of a session, written for the eye: one list in arrival order, and everything is
// found by looking through it.
type naive struct {
	limits  Limits
	queue   []*item
	flying  map[uint16]*item
	settled []Settlement[int]
	counted Counters
}

type item struct {
	message *message.Message
	qos     byte
	ticket  int
	until   Until
	beyond  bool      // waits for room
	offered time.Time // when it began to
	pubrec  bool
}

// first returns the index of the first queued item that ok accepts, or -1.
func (n *naive) first(ok func(*item) bool) int { return slices.IndexFunc(n.queue, ok) }

func unordered(i *item) bool { return i.qos == 0 }
func ordered(i *item) bool   { return i.qos > 0 }
func beyond(i *item) bool    { return i.beyond }

func (n *naive) room(size int) bool {
	messages, bytes := 0, 0
	for _, i := range n.queue {
		if !i.beyond {
			messages++
			bytes += i.message.Size()
		}
	}
	return messages == 0 || messages+1 <= n.limits.QueueMessages && bytes+size <= n.limits.QueueBytes
}

func (n *naive) settle(i *item, o Outcome) {
	if i.ticket != 0 {
		n.settled = append(n.settled, Settlement[int]{i.ticket, o})
		i.ticket = 0
	}
}

// remove removes the item at k and lets in whoever has room then.
func (n *naive) remove(k int) *item {
	i := n.queue[k]
	n.queue = slices.Delete(n.queue, k, k+1)
	for {
		w := n.first(beyond)
		if w < 0 || !n.room(n.queue[w].message.Size()) {
			return i
		}
		n.queue[w].beyond = false
		if n.queue[w].until == UntilQueued {
			n.settle(n.queue[w], Queued)
		}
	}
}

func (n *naive) expire(now time.Time) {
	for _, class := range []func(*item) bool{unordered, ordered} {
		for k := n.first(class); k >= 0 && n.queue[k].message.Expired(now); k = n.first(class) {
			n.settle(n.remove(k), Expired)
			n.counted.Expired++
		}
	}
}

func (n *naive) offer(d Delivery[int], now time.Time) Outcome {
	i := &item{message: d.Message, qos: d.QoS, ticket: d.Ticket, until: d.Until, offered: now}
	fits := func() bool { return n.first(beyond) < 0 && n.room(d.Message.Size()) }
	if !fits() {
		n.expire(now)
	}
	if d.QoS == 0 && !fits() {
		n.counted.Dropped++
		return Dropped
	}
	for !fits() && n.first(unordered) >= 0 {
		n.remove(n.first(unordered))
		n.counted.Shed++
	}
	i.beyond = !fits()
	n.queue = append(n.queue, i)
	if i.beyond || d.QoS > 0 && d.Until == UntilAcked && d.Ticket != 0 {
		return Waiting
	}
	i.ticket = 0
	return Queued
}

// next returns the item to send, or nil.
func (n *naive) next(now time.Time) *item {
	n.expire(now)
	bytes := 0
	for _, i := range n.flying {
		if !i.pubrec {
			bytes += i.message.Size()
		}
	}
	k := n.first(ordered)
	if k >= 0 {
		full := bytes+n.queue[k].message.Size() > n.limits.QueueBytes && len(n.flying) > 0
		if full || len(n.flying) == n.limits.SendMaximum {
			k = -1
		}
	}
	if u := n.first(unordered); u >= 0 && (k < 0 || u < k) {
		k = u
	}
	if k < 0 {
		return nil
	}
	n.counted.Sent++
	return n.remove(k)
}

func (n *naive) acked(a packet.Ack) (reply packet.Ack, send, wrong bool) {
	i, known := n.flying[a.PacketID]
	if !known {
		n.counted.Unmatched++
		if a.Type == packet.PUBREC && a.Code < 0x80 {
			return packet.Ack{Type: packet.PUBREL, PacketID: a.PacketID, Code: 0x92}, true, false
		}
		return packet.Ack{}, false, false
	}
	right := map[packet.Type]bool{
		packet.PUBACK:  i.qos == 1,
		packet.PUBREC:  i.qos == 2,
		packet.PUBCOMP: i.qos == 2 && i.pubrec,
	}
	if !right[a.Type] {
		return packet.Ack{}, false, true
	}
	outcome := Acked
	if a.Code >= 0x80 && a.Type != packet.PUBCOMP {
		outcome = Declined
	}
	n.settle(i, outcome)
	if a.Type == packet.PUBREC && a.Code < 0x80 {
		i.pubrec = true
		return packet.Ack{Type: packet.PUBREL, PacketID: a.PacketID}, true, false
	}
	if a.Code >= 0x80 && a.Type != packet.PUBCOMP {
		n.counted.Refused++
	} else {
		n.counted.Acknowledged++
	}
	delete(n.flying, a.PacketID)
	return packet.Ack{}, false, false
}

// rig runs a session and the naive one side by side, and writes down what an onlooker sees.
type rig struct {
	session  *Session[int]
	naive    *naive
	start    time.Time
	now      time.Time
	offered  int
	tickets  map[int]int               // ticket -> how often settled
	position map[*message.Message]int  // message -> place in arrival order
	sent     map[*message.Message]bool // what has been sent
	last     [2]int                    // place of the last message sent at QoS 0, and above
}

func newRig(t *rapid.T) *rig {
	l := Limits{
		QueueMessages:  rapid.IntRange(1, 6).Draw(t, "queue messages"),
		QueueBytes:     rapid.IntRange(1, 3000).Draw(t, "queue bytes"),
		SendMaximum:    rapid.IntRange(1, 5).Draw(t, "send maximum"),
		ReceiveMaximum: 1,
	}
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	return &rig{
		session: New[int](l), naive: &naive{limits: l, flying: map[uint16]*item{}},
		start: start, now: start,
		tickets: map[int]int{}, position: map[*message.Message]int{}, sent: map[*message.Message]bool{},
	}
}

func (r *rig) offer(t *rapid.T) {
	r.offered++
	m := &message.Message{Payload: make([]byte, rapid.IntRange(0, 1200).Draw(t, "size"))}
	if rapid.IntRange(0, 3).Draw(t, "expires") == 0 {
		m.Expires = r.now.Add(time.Duration(rapid.IntRange(1, 10).Draw(t, "in")) * time.Second)
	}
	d := Delivery[int]{
		Message: m,
		QoS:     rapid.ByteRange(0, 2).Draw(t, "qos"),
		Until:   Until(rapid.ByteRange(0, 1).Draw(t, "until")),
	}
	if rapid.Bool().Draw(t, "with ticket") {
		d.Ticket = r.offered
	}
	r.position[m] = r.offered
	got, want := r.session.Offer(d, r.now), r.naive.offer(d, r.now)
	if got != want {
		t.Fatalf("offer: %v, want %v", got, want)
	}
	if got == Waiting && d.Ticket != 0 {
		r.tickets[d.Ticket] = 0
	}
}

func (r *rig) send(t *rapid.T) {
	got, ok := r.session.Next(r.now)
	want := r.naive.next(r.now)
	if !ok || want == nil {
		if ok || want != nil {
			t.Fatalf("next: %v, want %v", got, want)
		}
		return
	}
	if got.Message != want.message || got.QoS != want.qos || got.Type != packet.PUBLISH || got.Dup {
		t.Fatalf("next: %v, want %v", got, want)
	}
	r.witness(t, got)
	if got.QoS > 0 {
		if _, taken := r.naive.flying[got.PacketID]; taken || got.PacketID == 0 {
			t.Fatalf("packet identifier %d is in flight or zero", got.PacketID)
		}
		r.naive.flying[got.PacketID] = want
	}
}

// witness checks what must hold for a packet whatever the queue's rules are.
func (r *rig) witness(t *rapid.T, o Outgoing) {
	if r.sent[o.Message] {
		t.Fatal("a message was sent twice")
	}
	if o.Message.Expired(r.now) {
		t.Fatal("an expired message was sent")
	}
	r.sent[o.Message] = true
	class := min(int(o.QoS), 1)
	if r.position[o.Message] < r.last[class] {
		t.Fatal("a message was overtaken by a later one of its class")
	}
	r.last[class] = r.position[o.Message]
}

func (r *rig) ack(t *rapid.T) {
	a := packet.Ack{
		Type:     rapid.SampledFrom([]packet.Type{packet.PUBACK, packet.PUBREC, packet.PUBCOMP}).Draw(t, "type"),
		PacketID: rapid.Uint16Range(1, 12).Draw(t, "any id"),
	}
	if ids := slices.Sorted(maps.Keys(r.naive.flying)); len(ids) > 0 && rapid.IntRange(0, 9).Draw(t, "stray") > 0 {
		a.PacketID = rapid.SampledFrom(ids).Draw(t, "id")
	}
	if rapid.IntRange(0, 4).Draw(t, "refuse") == 0 {
		a.Code = 0x80
	}
	r.acked(t, a)
}

func (r *rig) acked(t *rapid.T, a packet.Ack) {
	reply, send, err := r.session.Acked(a)
	wantReply, wantSend, wrong := r.naive.acked(a)
	if reply != wantReply || send != wantSend || (err != nil) != wrong {
		t.Fatalf("acked %v: %v %v %v, want %v %v %v", a, reply, send, err, wantReply, wantSend, wrong)
	}
}

func (r *rig) check(t *rapid.T) {
	settled := r.session.Settled(nil)
	if diff := cmp.Diff(r.naive.settled, settled); diff != "" {
		t.Fatalf("settled (-want +got):\n%s", diff)
	}
	r.naive.settled = nil
	for _, s := range settled {
		if n, waiting := r.tickets[s.Ticket]; !waiting || n > 0 {
			t.Fatalf("ticket %d settled %v though it was not waiting", s.Ticket, s.Outcome)
		}
		r.tickets[s.Ticket]++
	}
	if got := r.session.InFlight(); got != len(r.naive.flying) || got > r.naive.limits.SendMaximum {
		t.Fatalf("%d in flight, want %d", got, len(r.naive.flying))
	}
	bytes := 0
	var longest time.Time
	for _, i := range r.naive.queue {
		bytes += i.message.Size()
		if i.beyond && longest.IsZero() {
			longest = i.offered
		}
	}
	if gotMessages, gotBytes := r.session.QueueLen(); gotMessages != len(r.naive.queue) || gotBytes != bytes {
		t.Fatalf("queued %d, %d bytes; want %d, %d", gotMessages, gotBytes, len(r.naive.queue), bytes)
	}
	if since := r.session.FullSince(); !longest.IsZero() && (since.IsZero() || since.After(longest)) {
		t.Fatalf("full since %v, but somebody has waited since %v", since, longest)
	}
	if diff := cmp.Diff(r.naive.counted, r.session.Counters()); diff != "" {
		t.Fatalf("counters (-want +got):\n%s", diff)
	}
}

// finish lets a good client take everything, and looks for what is missing.
func (r *rig) finish(t *rapid.T) {
	for {
		sent := r.naive.counted.Sent
		r.send(t)
		ids := slices.Sorted(maps.Keys(r.naive.flying))
		for _, id := range ids {
			switch i := r.naive.flying[id]; {
			case i.qos == 1:
				r.acked(t, packet.Ack{Type: packet.PUBACK, PacketID: id})
			case !i.pubrec:
				r.acked(t, packet.Ack{Type: packet.PUBREC, PacketID: id})
				fallthrough
			default:
				r.acked(t, packet.Ack{Type: packet.PUBCOMP, PacketID: id})
			}
		}
		r.check(t)
		if sent == r.naive.counted.Sent && len(ids) == 0 {
			break
		}
	}
	for ticket, n := range r.tickets {
		if n != 1 {
			t.Fatalf("ticket %d settled %d times", ticket, n)
		}
	}
	c := r.session.Counters()
	if all := c.Sent + c.Dropped + c.Shed + c.Expired; all != uint64(r.offered) {
		t.Fatalf("%d messages offered, %d accounted for: %+v", r.offered, all, c)
	}
	if !r.session.FullSince().IsZero() && c.Dropped == 0 {
		t.Fatal("an empty queue says that it is full")
	}
}

func TestOutboundDoesWhatTheNaiveModelDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newRig(t)
		t.Repeat(map[string]func(*rapid.T){
			"offer":       r.offer,
			"offer again": r.offer,
			"send":        r.send,
			"ack":         r.ack,
			"wait":        func(*rapid.T) { r.now = r.now.Add(time.Second) },
			"":            r.check,
		})
		r.finish(t)
	})
}

func TestEndSettlesEveryTicketThatIsStillWaiting(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newRig(t)
		t.Repeat(map[string]func(*rapid.T){
			"offer": r.offer,
			"send":  r.send,
			"ack":   r.ack,
			"":      r.check,
		})
		// What was sent at QoS 2 and has no PUBREC is interrupted, everything else has ended.
		want := map[int]Outcome{}
		for _, i := range r.naive.flying {
			if i.qos == message.ExactlyOnce && !i.pubrec {
				want[i.ticket] = Interrupted
			}
		}
		r.session.End()
		last := 0
		for _, s := range r.session.Settled(nil) {
			if outcome, ok := want[s.Ticket]; ok != (s.Outcome == Interrupted) || !ok && s.Outcome != Ended || ok && outcome != s.Outcome {
				t.Fatalf("ticket %d: %v", s.Ticket, s.Outcome)
			}
			if s.Ticket < last {
				t.Fatalf("ticket %d after ticket %d", s.Ticket, last)
			}
			last = s.Ticket
			r.tickets[s.Ticket]++
		}
		for ticket, n := range r.tickets {
			if n != 1 {
				t.Fatalf("ticket %d settled %d times", ticket, n)
			}
		}
		c := r.session.Counters()
		done := c.Acknowledged + c.Refused + c.Dropped + c.Shed + c.Expired + c.Ended
		if unaccounted := uint64(r.offered) - done; unaccounted > c.Sent {
			t.Fatalf("%d of %d messages are unaccounted for: %+v", unaccounted, r.offered, c)
		}
	})
}
