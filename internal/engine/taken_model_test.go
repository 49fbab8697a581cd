package engine

import (
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
)

// errand is a QoS 2 message of a client that sends it until it is done with.
type errand struct {
	received, released bool // PUBREC has come, PUBREL has been sent
	here               bool // its PUBLISH was sent on this connection
	ids                map[message.ID]bool
	refused, done      bool
}

// author is a client that publishes at QoS 2, the session that takes its messages, and those to whom they are sent on.
type author struct {
	session *Session[int]
	now     time.Time
	store   *fakeStore
	wire    []journal.Change
	applied int

	errands   map[uint16]*errand // by packet identifier
	all       []*errand
	taken     map[uint16]message.ID // on this connection: to be sent on when ready
	unsettled []uint16
	sequence  uint64
	maximum   int
}

func newAuthor(t *rapid.T) *author {
	a := &author{
		now: noon, store: newFakeStore(), errands: map[uint16]*errand{},
		maximum: rapid.IntRange(1, 4).Draw(t, "receive maximum"),
	}
	a.resume(t)
	return a
}

// resume begins a connection: what has no PUBREC is sent again, and what has is released again.
func (a *author) resume(t *rapid.T) {
	a.session = Resume[int](Limits{ReceiveMaximum: a.maximum}, a.store.state())
	a.wire, a.applied, a.unsettled = nil, 0, nil
	a.taken = map[uint16]message.ID{}
	for _, e := range a.errands {
		e.here = false
	}
	for _, id := range slices.Sorted(maps.Keys(a.errands)) {
		if e := a.errands[id]; e.received {
			a.release(t, id)
		} else if a.outstanding() < a.maximum {
			a.send(t, id)
		}
	}
}

// outstanding is how many messages count against Receive Maximum.
func (a *author) outstanding() (n int) {
	for _, e := range a.errands {
		if e.here {
			n++
		}
	}
	return n
}

func (a *author) publish(t *rapid.T) {
	id := rapid.Uint16Range(1, 6).Draw(t, "id")
	e := a.errands[id]
	switch {
	case e == nil && a.outstanding() < a.maximum:
		a.errands[id] = &errand{ids: map[message.ID]bool{}}
		a.all = append(a.all, a.errands[id])
	case e == nil || e.received || !e.here && a.outstanding() == a.maximum:
		t.Skip("a client must not")
	}
	a.send(t, id)
}

func (a *author) send(t *rapid.T, id uint16) {
	e := a.errands[id]
	verdict := a.session.Published(id, 2)
	switch {
	case verdict == Forward && !e.here:
		a.sequence++
		a.taken[id] = message.ID{Origin: "o", Seq: a.sequence}
		a.session.Taken(id, a.taken[id])
		a.session.Taken(id, message.ID{Origin: "o"}) // once is enough
	case verdict == Again && !e.here:
		m, ok := a.session.TakenID(id)
		if !ok || a.store.taken[id] != m {
			t.Fatalf("%d again as %v, %v", id, m, ok)
		}
		a.forward(t, id, m)
	case verdict == Duplicate && e.here:
	default:
		t.Fatalf("PUBLISH %d: %v", id, verdict)
	}
	e.here = true
}

func (a *author) forward(t *rapid.T, id uint16, m message.ID) {
	e := a.errands[id]
	e.ids[m] = true
	if len(e.ids) > 1 && !e.refused {
		t.Fatalf("one message was sent on as %v", e.ids)
	}
	if a.store.taken[id] != m {
		t.Fatalf("message %v was sent on before it was taken", m)
	}
	for _, other := range a.all {
		if other != e && other.ids[m] {
			t.Fatalf("two messages were sent on as %v", m)
		}
	}
	a.unsettled = append(a.unsettled, id)
}

// look is what the caller does behind each step.
func (a *author) look(t *rapid.T) {
	a.wire = a.session.Changes(a.now, a.now, a.wire)
	for _, id := range a.session.Ready(nil) {
		a.forward(t, id, a.taken[id])
	}
	for {
		ack, ok := a.session.NextAck()
		if !ok {
			break
		}
		a.answered(t, ack)
	}
	if got := a.session.Unacknowledged(); got != a.outstanding() {
		t.Fatalf("%d unacknowledged, want %d", got, a.outstanding())
	}
}

// answered is the client that gets a PUBREC or PUBCOMP.
func (a *author) answered(t *rapid.T, ack packet.Ack) {
	e := a.errands[ack.PacketID]
	switch {
	case e != nil && ack.Type == packet.PUBREC && ack.Code.Failure():
		e.done = true
		delete(a.errands, ack.PacketID)
	case e != nil && ack.Type == packet.PUBREC:
		e.received = true
		return
	case e != nil && ack.Type == packet.PUBCOMP && e.released:
		e.done = true
		delete(a.errands, ack.PacketID)
	default:
		t.Fatalf("%v for nothing", ack)
	}
	if m, still := a.store.taken[ack.PacketID]; still {
		t.Fatalf("%v while the store has %v", ack, m)
	}
}

func (a *author) settle(t *rapid.T) {
	if len(a.unsettled) == 0 {
		t.Skip("nothing was sent on")
	}
	i := rapid.IntRange(0, len(a.unsettled)-1).Draw(t, "which")
	code := packet.Success
	id := a.unsettled[i]
	if rapid.IntRange(0, 3).Draw(t, "refuse") == 0 {
		code = packet.QuotaExceeded
		a.errands[id].refused = true
	}
	a.session.Forwarded(id, 2, code)
	a.session.Forwarded(id, 2, packet.Success) // once is enough
	a.unsettled = slices.Delete(a.unsettled, i, i+1)
	a.look(t)
}

func (a *author) pubrel(t *rapid.T) {
	for _, id := range slices.Sorted(maps.Keys(a.errands)) {
		if a.errands[id].received && rapid.Bool().Draw(t, "this one") {
			a.release(t, id)
			return
		}
	}
	t.Skip("nothing to release")
}

func (a *author) release(t *rapid.T, id uint16) {
	e := a.errands[id]
	e.released = true
	reply, send := a.session.Release(id)
	if !send {
		return
	}
	// The session does not know it: it was released durably, and the PUBCOMP was lost.
	if _, still := a.store.taken[id]; still || reply.Code != packet.PacketIdentifierNotFound {
		t.Fatalf("PUBREL %d: %v", id, reply)
	}
	a.answered(t, packet.Ack{Type: packet.PUBCOMP, PacketID: id})
}

func (a *author) apply(t *rapid.T, most int) {
	n := min(most, len(a.wire))
	for _, c := range a.wire[:n] {
		a.store.apply(t, c)
	}
	a.wire = a.wire[n:]
	a.applied += n
}

func (a *author) confirm(t *rapid.T) {
	n := rapid.IntRange(0, a.applied).Draw(t, "confirmed")
	a.session.Written(n)
	a.applied -= n
	a.look(t)
}

// end ends the connection: in order, or with the holder.
func (a *author) end(t *rapid.T) {
	most := rapid.IntRange(0, len(a.wire)).Draw(t, "arrive")
	if rapid.Bool().Draw(t, "in order") {
		a.wire = a.session.Suspend(a.now, a.wire)
		most = len(a.wire)
	}
	a.apply(t, most)
	if rapid.Bool().Draw(t, "confirmed late") {
		a.session.Written(a.applied)
		if ready := a.session.Ready(nil); len(ready) > 0 && !a.session.over() {
			for _, id := range ready {
				a.forward(t, id, a.taken[id])
			}
		}
	}
	a.resume(t)
}

func (a *author) finish(t *rapid.T) {
	for range 100 {
		a.look(t)
		a.apply(t, len(a.wire))
		a.session.Written(a.applied)
		a.applied = 0
		a.look(t)
		for _, id := range a.unsettled {
			a.session.Forwarded(id, 2, packet.Success)
		}
		a.unsettled = nil
		a.look(t)
		for _, id := range slices.Sorted(maps.Keys(a.errands)) {
			switch e := a.errands[id]; {
			case e.received && !e.released:
				a.release(t, id)
			case !e.here && !e.received && a.outstanding() < a.maximum:
				a.send(t, id)
			}
		}
	}
	if len(a.errands)+len(a.store.taken)+len(a.session.durable.ids) > 0 {
		t.Fatalf("unfinished: client %v, store %v, session %v", a.errands, a.store.taken, a.session.durable.ids)
	}
	for i, e := range a.all {
		if !e.done || len(e.ids) != 1 && !e.refused {
			t.Fatalf("message %d: %+v", i+1, e)
		}
	}
}

func TestADurableSessionSendsTheClientsMessagesOnOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := newAuthor(t)
		t.Repeat(map[string]func(*rapid.T){
			"publish":       a.publish,
			"publish again": a.publish,
			"settle":        a.settle,
			"settle again":  a.settle,
			"pubrel":        a.pubrel,
			"apply":         func(t *rapid.T) { a.apply(t, rapid.IntRange(1, 3).Draw(t, "changes")) },
			"confirm":       a.confirm,
			"confirm again": a.confirm,
			"end":           a.end,
			"":              a.look,
		})
		a.finish(t)
	})
}
