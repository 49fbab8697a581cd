package engine

import (
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
)

// world is a durable session with all that is around it: a sender that keeps each message until it has been answered
// for, a client that keeps its session, and a store that may be slow, with a way there that may break.
type world struct {
	session *Session[int]
	away    bool // suspended
	forgot  bool
	start   time.Time
	now     time.Time

	store   *fakeStore
	wire    []journal.Change // given out, not applied
	applied []journal.Change // and not confirmed
	paging  bool
	after   journal.Position

	client  *reader
	letters []*letter
	backlog []*letter       // to be offered again, before anything newer
	waiting map[int]*letter // by ticket
	tickets int
}

func newWorld(t *rapid.T) *world {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	w := &world{
		start: start, now: start, store: newFakeStore(), waiting: map[int]*letter{},
		client: &reader{letters: map[message.ID]*letter{}, held: map[uint16]*letter{}, last: map[string]int{}, resend: map[uint16]flying{}},
	}
	w.resume(t)
	return w
}

// resume gives the session to a new holder.
func (w *world) resume(t *rapid.T) {
	l := Limits{
		QueueMessages:  rapid.IntRange(1, 8).Draw(t, "queue messages"),
		QueueBytes:     rapid.IntRange(1, 3000).Draw(t, "queue bytes"),
		SendMaximum:    rapid.IntRange(1, 5).Draw(t, "send maximum"),
		ReceiveMaximum: 1,
	}
	w.session = Resume[int](l, w.store.state())
	w.away, w.forgot, w.paging = false, false, false
	w.wire, w.applied = nil, nil
	w.client.connect(l.SendMaximum)
}

func (w *world) newLetter(t *rapid.T) *letter {
	n := len(w.letters) + 1
	m := &letter{
		number: n,
		qos:    rapid.SampledFrom([]byte{0, 1, 1, 1, 2, 2}).Draw(t, "qos"),
		until:  rapid.SampledFrom([]Until{UntilSafe, UntilSafe, UntilSafe, UntilQueued, UntilAcked}).Draw(t, "until"),
		message: &message.Message{
			ID:      message.ID{Origin: "o", Seq: uint64(n)},
			Topic:   rapid.SampledFrom([]string{"a", "b"}).Draw(t, "topic"),
			Payload: make([]byte, rapid.SampledFrom([]int{0, 0, 0, 300, 1200}).Draw(t, "size")),
		},
	}
	if rapid.IntRange(0, 7).Draw(t, "expires") == 0 {
		m.message.Expires = w.now.Add(time.Duration(rapid.IntRange(1, 300).Draw(t, "in")) * time.Millisecond)
	}
	w.letters = append(w.letters, m)
	w.client.letters[m.message.ID] = m
	return m
}

func (w *world) offer(t *rapid.T) {
	switch {
	case w.away:
		w.offerToGhost(t)
	case len(w.backlog) > 0:
		m := w.backlog[0]
		w.backlog = w.backlog[1:]
		w.offerLetter(t, m)
	default:
		w.offerLetter(t, w.newLetter(t))
	}
}

func (w *world) offerLetter(t *rapid.T, m *letter) {
	d := Delivery[int]{Message: m.message, QoS: m.qos, Until: m.until}
	if m.until != UntilQueued || rapid.Bool().Draw(t, "with ticket") {
		w.tickets++
		d.Ticket = w.tickets
	}
	outcome := w.session.Offer(d, w.now)
	switch {
	case outcome == Waiting && m.qos > 0 && d.Ticket != 0:
		w.waiting[d.Ticket] = m
	case outcome == Queued && (m.qos == 0 || m.until != UntilAcked):
		m.kept = true
		m.excused = m.qos == 0 // it is nobody's
	case outcome == Dropped && m.qos == 0:
	case outcome == Ended && m.until == UntilAcked && m.qos > 0:
		m.ended = true
	default:
		t.Fatalf("offer of message %d, qos %d, until %d: %v", m.number, m.qos, m.until, outcome)
	}
	w.settle(t)
}

func (w *world) offerToGhost(t *rapid.T) {
	for qos, want := range []Outcome{Dropped, Moved, Moved} {
		if got := w.session.Offer(Delivery[int]{Message: &message.Message{}, QoS: byte(qos), Ticket: 1, Until: UntilSafe}, w.now); got != want {
			t.Fatalf("offer to a ghost at QoS %d: %v, want %v", qos, got, want)
		}
	}
}

// repeat offers something that the session has, or has had, as a sender does who has found two holders.
func (w *world) repeat(t *rapid.T) {
	if w.away || w.forgot {
		t.Skip("nobody would")
	}
	for _, ticket := range slices.Sorted(maps.Keys(w.waiting)) {
		m := w.waiting[ticket]
		if m.until != UntilSafe || rapid.Bool().Draw(t, "another") {
			continue
		}
		d := Delivery[int]{Message: m.message, QoS: m.qos, Until: m.until, Ticket: -1}
		want := Queued
		if m.qos == message.ExactlyOnce {
			want = Moved // nothing is known of the first copy yet
		}
		if got := w.session.Offer(d, w.now); got != want {
			t.Fatalf("message %d offered again at QoS %d: %v, want %v", m.number, m.qos, got, want)
		}
		return
	}
	t.Skip("nothing to repeat")
}

// settle takes what has settled.
func (w *world) settle(t *rapid.T) {
	for _, s := range w.session.Settled(nil) {
		m := w.waiting[s.Ticket]
		if m == nil {
			t.Fatalf("ticket %d settled %v though nobody waits", s.Ticket, s.Outcome)
		}
		delete(w.waiting, s.Ticket)
		w.settled(t, m, s.Outcome)
	}
}

func (w *world) settled(t *rapid.T, m *letter, o Outcome) {
	var ok bool
	switch o {
	case Acked:
		ok = m.delivered > 0
		m.kept = true
	case Declined:
		ok = m.refused || m.qos == 1 && m.delivered > 0
		m.kept = true
	case Stored:
		ok = w.store.appended[m.message.ID] && (m.until != UntilAcked || m.qos == 2)
		m.kept = true
	case Expired:
		ok = m.message.Expired(w.now)
		m.kept, m.excused = true, true
	case Queued: // the store has left it out
		ok = m.qos == 2 && w.store.appended[m.message.ID]
		m.kept = true
	case Refused:
		ok = m.unstored
	case Ended:
		ok = m.until == UntilAcked && (m.qos == 1 || m.delivered == 0)
		m.ended = true
	case Interrupted:
		ok = m.until == UntilAcked && m.qos == 2
		m.excused = true
	case Moved:
		ok = m.until != UntilAcked
		if m.until == UntilSafe {
			w.backlog = append(w.backlog, m)
		}
	}
	if !ok {
		t.Fatalf("message %d, qos %d, until %d, delivered %d: %v", m.number, m.qos, m.until, m.delivered, o)
	}
}

func (w *world) send(t *rapid.T) {
	for range rapid.IntRange(1, 4).Draw(t, "packets") {
		o, ok := w.session.Next(w.now)
		if ok && w.away {
			t.Fatalf("a ghost sends %v", o)
		}
		if !ok {
			break
		}
		w.client.receive(t, o, w.now)
	}
	w.look(t)
}

// look is what the caller does behind each step.
func (w *world) look(t *rapid.T) {
	w.wire = w.session.Changes(w.now, w.now.Add(-50*time.Millisecond), w.wire)
	if since, ok := w.session.Unsafe(); ok && w.now.Sub(since) >= 50*time.Millisecond {
		t.Fatalf("unsafe since %v", w.now.Sub(since))
	}
	if again := w.session.Changes(w.now, w.now.Add(-50*time.Millisecond), nil); len(again) > 0 {
		t.Fatalf("changes given out behind each other: %+v", again)
	}
	w.settle(t)
}

func (w *world) ack(t *rapid.T) {
	if len(w.client.answers) == 0 || w.away {
		t.Skip("nothing to acknowledge")
	}
	i := rapid.IntRange(0, len(w.client.answers)-1).Draw(t, "which")
	w.acknowledge(t, i, rapid.IntRange(0, 7).Draw(t, "refuse") == 0)
	if rapid.Bool().Draw(t, "look") {
		w.look(t)
	}
}

func (w *world) acknowledge(t *rapid.T, i int, refuse bool) {
	a := w.client.answer(i, refuse)
	reply, send, err := w.session.Acked(a)
	if send || err != nil {
		t.Fatalf("acknowledged %v: %v %v", a, reply, err)
	}
	w.settle(t)
}

func (w *world) apply(t *rapid.T) {
	w.applySome(t, rapid.IntRange(1, 4).Draw(t, "changes"))
}

func (w *world) applySome(t *rapid.T, n int) {
	n = min(n, len(w.wire))
	for _, c := range w.wire[:n] {
		w.store.apply(t, c)
		if x, left := w.store.leftOut[c.Entry.Position]; left && !x.Duplicate && c.Kind == journal.Append {
			w.lostTo(c.Entry)
		}
	}
	w.applied = append(w.applied, w.wire[:n]...)
	w.wire = w.wire[n:]
}

// lostTo is an entry for which the store has no room: it need not come, nor come again.
func (w *world) lostTo(e journal.Entry) {
	m := w.client.letters[e.Message.ID]
	m.excused, m.unstored = true, true
	for id, f := range w.client.resend {
		if f.m == m {
			delete(w.client.resend, id)
		}
	}
}

// fill makes the disk full, or gives it room.
func (w *world) fill(t *rapid.T) { w.store.full = rapid.IntRange(0, 3).Draw(t, "room") == 0 }

func (w *world) confirm(t *rapid.T) {
	if len(w.applied) == 0 {
		t.Skip("nothing to confirm")
	}
	w.confirmSome(t, rapid.IntRange(1, len(w.applied)).Draw(t, "confirmed"))
}

func (w *world) confirmSome(t *rapid.T, n int) {
	for _, c := range w.applied[:n] {
		if x, left := w.store.leftOut[c.Entry.Position]; left && c.Kind == journal.Append {
			w.session.LeftOut(x)
		}
	}
	w.applied = w.applied[n:]
	w.session.Written(n)
	w.settle(t)
}

func (w *world) ask(t *rapid.T) {
	after, want := w.session.Wanted()
	if want && (w.paging || w.away) {
		t.Fatal("a second page is wanted, or a ghost wants one")
	}
	if want {
		w.paging, w.after = true, after
	}
	w.settle(t)
}

func (w *world) page(t *rapid.T) {
	switch {
	case !w.paging:
		w.ask(t)
	case rapid.IntRange(0, 4).Draw(t, "fails") == 0:
		w.paging = false
		w.session.PageFailed()
	default:
		w.paging = false
		w.session.Page(w.store.read(w.after, rapid.IntRange(1, 4).Draw(t, "entries")))
	}
	w.settle(t)
}

func (w *world) wait(t *rapid.T) {
	w.now = w.now.Add(time.Duration(rapid.IntRange(1, 60).Draw(t, "ms")) * time.Millisecond)
}

// lose ends the connection in the ordinary way, or, when it has ended, lets the client come back once everything
// is written.
func (w *world) lose(t *rapid.T) {
	if !w.away {
		w.wire = w.session.Suspend(w.now, w.wire)
		w.away, w.paging = true, false
		w.client.lost()
		w.settle(t)
		return
	}
	w.applySome(t, len(w.wire))
	w.confirmSome(t, len(w.applied))
	if len(w.waiting) > 0 {
		t.Fatalf("everything is written, and tickets wait: %v", w.waiting)
	}
	w.resume(t)
}

// disturb ends connections and holders: seldom enough for something to happen in between.
func (w *world) disturb(t *rapid.T) {
	switch rapid.IntRange(0, 9).Draw(t, "disturbance") {
	case 0, 1:
		w.lose(t)
	case 2:
		w.fence(t)
	case 3:
		w.crash(t)
	default:
		if !w.away {
			t.Skip("nothing")
		}
		w.lose(t)
	}
}

// fence is a newer holder that did not wait for this one: of what is on its way some arrives.
func (w *world) fence(t *rapid.T) {
	w.applySome(t, rapid.IntRange(0, len(w.wire)).Draw(t, "arrive"))
	w.session.Abandon()
	w.excuse()
	before := len(w.backlog)
	rest := slices.Clone(w.backlog)
	w.backlog = nil
	w.settle(t)
	slices.SortFunc(w.backlog, func(a, b *letter) int { return a.number - b.number })
	w.backlog = append(w.backlog, rest...)
	if before > 0 && !slices.IsSortedFunc(w.backlog, func(a, b *letter) int { return a.number - b.number }) {
		t.Fatal("the test's own order is wrong")
	}
	if len(w.waiting) > 0 {
		t.Fatalf("tickets wait for an abandoned session: %v", w.waiting)
	}
	w.away = true
	w.offerToGhost(t)
	if c := w.session.Changes(w.now, w.now, nil); len(c) > 0 {
		t.Fatalf("an abandoned session writes %v", c)
	}
	w.resume(t)
}

// excuse names what may be lost or done twice with the memory of this holder: deliveries that nobody has kept
// elsewhere, and shared ones whose writing may or may not have arrived.
func (w *world) excuse() {
	for _, m := range w.letters {
		if m.until != UntilSafe {
			m.excused = true
		}
	}
	clear(w.client.resend) // nobody may know of it
}

// crash is the death of the holder. What has no receipt comes to the inbox from those who kept it.
func (w *world) crash(t *rapid.T) {
	w.applySome(t, rapid.IntRange(0, len(w.wire)).Draw(t, "arrive"))
	w.excuse()
	orphans := slices.SortedFunc(maps.Values(w.waiting), func(a, b *letter) int { return a.number - b.number })
	for _, m := range orphans {
		if m.until == UntilSafe {
			w.store.orphan(m)
			m.kept = true
		}
	}
	clear(w.waiting)
	w.resume(t)
}

func (w *world) forget(t *rapid.T) {
	if len(w.backlog) > 0 || w.away {
		t.Skip("the former holder is not forgotten")
	}
	w.session.ForgetSeen()
	w.forgot = true
}

// check looks at what holds between steps.
func (w *world) check(t *rapid.T) {
	if n := w.session.InFlight(); n > w.client.maximum {
		t.Fatalf("%d in flight, the maximum is %d", n, w.client.maximum)
	}
	if settled := w.session.Settled(nil); len(settled) > 0 {
		t.Fatalf("settled behind the test's back: %v", settled)
	}
	if w.away && len(w.wire)+len(w.applied) == 0 && len(w.waiting) > 0 {
		t.Fatal("a suspended session has nothing to write, and tickets wait")
	}
}

// finish lets everything go well from now on, and looks for what is missing.
func (w *world) finish(t *rapid.T) {
	w.store.full = false
	if w.away {
		w.lose(t)
	}
	for quiet := 0; quiet < 3; quiet++ {
		if len(w.backlog) > 0 {
			quiet = 0
			w.offer(t)
		}
		for o, ok := w.session.Next(w.now); ok; o, ok = w.session.Next(w.now) {
			quiet = 0
			w.client.receive(t, o, w.now)
		}
		for len(w.client.answers) > 0 {
			quiet = 0
			w.acknowledge(t, 0, false)
		}
		w.look(t)
		if len(w.wire)+len(w.applied) > 0 {
			quiet = 0
			w.applySome(t, len(w.wire))
			w.confirmSome(t, len(w.applied))
		}
		if w.ask(t); w.paging {
			quiet = 0
			w.paging = false
			w.session.Page(w.store.read(w.after, 3))
		}
	}
	w.missing(t)
}

func (w *world) missing(t *rapid.T) {
	if len(w.client.resend) > 0 {
		t.Errorf("what was in flight has not come again: %v", w.client.resend)
	}
	for _, m := range w.letters {
		if m.kept && m.delivered == 0 && !m.refused && !m.excused && !m.message.Expired(w.now) {
			t.Errorf("message %d at QoS %d was answered for and not delivered", m.number, m.qos)
		}
	}
	if len(w.waiting) > 0 {
		t.Errorf("tickets have not settled: %v", w.waiting)
	}
	if len(w.store.inbox) > 0 {
		t.Errorf("left in the inbox: %v", w.store.inbox)
	}
	if len(w.client.held) > 0 {
		t.Errorf("the client holds messages that were not released: %v", w.client.held)
	}
	d := w.session.durable
	if _, unsafe := w.session.Unsafe(); unsafe || w.session.Spilled() || w.session.InFlight() > 0 {
		t.Errorf("unsafe %v, spilled %v, in flight %d", unsafe, w.session.Spilled(), w.session.InFlight())
	}
	if d.records.n+d.held+d.bytes+d.tail.n+d.tailBytes+d.resends+d.staged.n+d.releases.n+d.todo.n+d.given.n != 0 {
		t.Errorf("the session keeps something of what is over: %d records, %d resends", d.records.n, d.resends)
	}
}

func TestADurableSessionLosesNothingAndDoublesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		t.Repeat(map[string]func(*rapid.T){
			"offer":       w.offer,
			"offer again": w.offer,
			"repeat":      w.repeat,
			"send":        w.send,
			"send again":  w.send,
			"ack":         w.ack,
			"ack again":   w.ack,
			"look":        w.look,
			"apply":       w.apply,
			"confirm":     w.confirm,
			"page":        w.page,
			"page again":  w.page,
			"wait":        w.wait,
			"wait again":  w.wait,
			"disturb":     w.disturb,
			"fill":        w.fill,
			"forget":      w.forget,
			"":            w.check,
		})
		w.finish(t)
	})
}
