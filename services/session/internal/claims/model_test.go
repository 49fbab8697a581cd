package claims

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/beeline-mqtt/beeline/internal/journal"
)

// Whatever happens to a client of whom the store keeps something, in any order: there is at most one holder, epochs
// grow, every claim and leave is answered once, no two operations overlap; and when everything has run its course the
// store names who serves the client, or nobody.
func TestTheStoreIsRightInTheEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newStage(t)
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			w.step(rapid.SampledFrom([]string{
				"claim", "claim", "leave", "deliver", "deliver", "deliver", "operate", "operate", "operate",
				"tick", "break", "attach", "die", "view", "adopted",
			}).Draw(t, "step"))
		}
		w.finish()
	})
}

// actor is a gateway with one client x, which behaves as it should.
type actor struct {
	id     string
	alive  bool
	stream uint64 // 0: it is not attached
	// inbox has what the queue told it and it has not read. It goes with the stream.
	inbox   []Effect
	serving uint64 // epoch; 0: it does not serve x
	late    bool   // it serves x although its time to go has passed
	claim   *Request
	// leaving are the leaves without an answer.
	leaving []parting
}

type parting struct{ id, epoch uint64 }

// operation is what the queue wants done; the store may be changed before the queue is told.
type operation struct {
	Effect
	committed bool
	failed    bool
	epoch     uint64
	former    Holder
}

// stage is the client, etcd, the store and the gateways.
type stage struct {
	t        *rapid.T
	q        *Queue
	now      time.Time
	revision uint64
	record   Holder
	stored   *Holder
	doing    []*operation
	adopting bool
	gateways []*actor
	last     uint64
	born     int
	claimed  uint64            // the last epoch answered
	asked    map[uint64]string // claims and leaves without an answer: the gateway that waits, by number
}

func newStage(t *rapid.T) *stage {
	w := &stage{t: t, now: time.Unix(0, 0), revision: 1, asked: map[uint64]string{}}
	c := config()
	c.FlapLimit = 5
	c.Look = func(string) (Holder, bool) {
		if w.stored == nil {
			return Holder{}, false
		}
		return *w.stored, true
	}
	w.q = New(w.now, c, nil, 1)
	for range 3 {
		w.bear()
	}
	w.view()
	return w
}

func (w *stage) bear() {
	w.born++
	w.revision++
	g := &actor{id: fmt.Sprintf("G%d", w.born), alive: true}
	w.gateways = append(w.gateways, g)
	w.attach(g)
}

func (w *stage) step(what string) {
	w.now = w.now.Add(time.Millisecond)
	g := w.gateways[rapid.IntRange(0, len(w.gateways)-1).Draw(w.t, "gateway")]
	w.t.Logf("%v %s %s", w.now.Sub(time.Unix(0, 0)), what, g.id)
	switch what {
	case "claim":
		w.claim(g)
	case "leave":
		w.leave(g)
	case "deliver":
		w.deliver(g)
	case "operate":
		w.operate(rapid.SampledFrom([]string{"commit", "done", "done", "fail"}).Draw(w.t, "how"))
	case "tick":
		w.tick()
	case "break":
		w.detach(g)
	case "attach":
		w.attach(g)
	case "die":
		w.die(g)
	case "view":
		w.view()
	case "adopted":
		w.adopted()
	}
	w.effects()
}

func (w *stage) claim(g *actor) {
	if g.stream == 0 || !g.alive {
		return
	}
	w.last++
	r := &Request{Gateway: g.id, Stream: g.stream, ID: w.last}
	r.Expiry = rapid.SampledFrom([]uint32{0, 60, 60}).Draw(w.t, "expiry")
	r.CleanStart = rapid.Bool().Draw(w.t, "clean")
	// It ends its own connection first.
	g.serving, g.late, g.claim = 0, false, r
	w.asked[r.ID] = g.id
	w.q.Claim(w.now, "x", *r)
}

func (w *stage) leave(g *actor) {
	if g.serving == 0 {
		return
	}
	epoch := g.serving
	g.serving, g.late = 0, false
	w.part(g, epoch)
}

// part has a gateway leave, now or when it attaches.
func (w *stage) part(g *actor, epoch uint64) {
	w.last++
	g.leaving = append(g.leaving, parting{id: w.last, epoch: epoch})
	if g.stream != 0 {
		w.sendLeave(g, g.leaving[len(g.leaving)-1])
	}
}

func (w *stage) sendLeave(g *actor, p parting) {
	w.asked[p.id] = g.id
	w.q.Leave(w.now, "x", Request{Gateway: g.id, Stream: g.stream, ID: p.id}, p.epoch, Ending{})
}

func (w *stage) deliver(g *actor) {
	if len(g.inbox) == 0 {
		return
	}
	e := g.inbox[0]
	g.inbox = g.inbox[1:]
	own := g.claim != nil && e.Request.ID == g.claim.ID
	switch e.Kind {
	case Evict:
		g.late = g.late && slices.ContainsFunc(g.inbox, func(e Effect) bool { return e.Kind == Evict })
		if g.serving < e.Epoch {
			g.serving = 0
		}
		w.q.Evicted(w.now, "x", g.id, e.Epoch)
	case Claimed:
		if own {
			g.claim, g.serving = nil, e.Epoch
			w.check()
		} else {
			w.part(g, e.Epoch)
		}
	case Left:
		g.leaving = slices.DeleteFunc(g.leaving, func(p parting) bool { return p.id == e.Request.ID })
	default:
		if own {
			g.claim = nil
		}
		for _, p := range g.leaving {
			if p.id == e.Request.ID {
				w.sendLeave(g, p)
				break
			}
		}
	}
}

// check that there is one holder, apart from those that have not read yet that they have to go.
func (w *stage) check() {
	var serving []string
	for _, g := range w.gateways {
		if g.alive && g.serving > 0 && !g.late {
			serving = append(serving, fmt.Sprintf("%s@%d", g.id, g.serving))
		}
	}
	if len(serving) > 1 {
		w.t.Fatalf("served by %v", serving)
	}
}

func (w *stage) alive(id string) bool {
	return slices.ContainsFunc(w.gateways, func(g *actor) bool { return g.id == id && g.alive })
}

// operate goes on with the operation under way.
func (w *stage) operate(how string) {
	if len(w.doing) == 0 {
		return
	}
	o := w.doing[0]
	if !o.committed {
		w.commit(o, how == "fail")
	}
	if how == "commit" {
		return
	}
	w.doing = nil
	err := Kind(0)
	if o.failed {
		err = Unavailable
	}
	switch o.Kind {
	case Record:
		out := Outcome{Epoch: o.epoch, Former: o.former.Gateway, FormerEpoch: o.former.Epoch, Err: err}
		if o.epoch == 0 && !o.failed {
			out.Err = HolderDead
		}
		w.q.Recorded(w.now, "x", out)
	case Open:
		w.q.Opened(w.now, "x", &journal.State{}, err)
	case Away:
		w.q.AwayDone(w.now, "x", err)
	}
}

func (w *stage) commit(o *operation, fail bool) {
	o.committed = true
	if o.failed = fail; fail {
		return
	}
	switch o.Kind {
	case Record:
		if w.alive(o.Gateway) {
			w.revision++
			o.epoch, o.former = w.revision, w.record
			w.record = Holder{Gateway: o.Gateway, Epoch: o.epoch}
		}
	case Open:
		if w.stored != nil && o.Epoch <= w.stored.Epoch {
			w.t.Fatalf("opened at %d, the store has %v", o.Epoch, *w.stored)
		}
		w.stored = &Holder{Gateway: o.Gateway, Epoch: o.Epoch}
		if o.Request.Expiry == 0 {
			w.stored = nil
		}
	case Away:
		w.revision++
		if w.record == (Holder{Gateway: o.Gateway, Epoch: o.Epoch}) {
			w.record = Holder{}
		}
		if w.stored != nil {
			w.stored = &Holder{Epoch: w.revision}
		}
	}
}

// tick goes on to when the queue wants it.
func (w *stage) tick() {
	at, due := w.q.Next()
	if !due {
		return
	}
	if at.After(w.now) {
		w.now = at
	}
	w.q.Tick(w.now)
	if w.q.Counters().EvictTimeouts == 0 {
		return
	}
	for _, g := range w.gateways {
		// What it has not read may let it serve x before it tells it to go.
		g.late = g.late || g.stream == 0 && g.serving > 0 ||
			slices.ContainsFunc(g.inbox, func(e Effect) bool { return e.Kind == Evict && e.Epoch > g.serving })
	}
}

func (w *stage) detach(g *actor) {
	if g.stream == 0 {
		return
	}
	maps.DeleteFunc(w.asked, func(_ uint64, gateway string) bool { return gateway == g.id })
	w.q.Detached(w.now, g.id)
	g.stream, g.inbox = 0, nil
}

// attach shows what the gateway holds, and repeats what was not answered.
func (w *stage) attach(g *actor) {
	if g.stream != 0 || !g.alive {
		return
	}
	w.last++
	g.stream = w.last
	w.q.Attached(g.id)
	if w.stored != nil && w.stored.Gateway == g.id && g.serving != w.stored.Epoch {
		w.q.Leave(w.now, "x", Request{Gateway: g.id}, w.stored.Epoch, Ending{})
	}
	if g.serving > 0 && (w.record.Gateway != g.id || w.record.Epoch < g.serving) {
		w.q.Stale(w.now, "x", g.id, g.serving, max(g.serving+1, w.record.Epoch))
	}
	for _, p := range g.leaving {
		w.sendLeave(g, p)
	}
	if g.claim == nil {
		return
	}
	if rapid.Bool().Draw(w.t, "repeats") {
		g.claim.Stream = g.stream
		w.asked[g.claim.ID] = g.id
		w.q.Claim(w.now, "x", *g.claim)
		return
	}
	g.claim = nil
	w.part(g, 0)
}

func (w *stage) die(g *actor) {
	if !g.alive {
		return
	}
	w.detach(g)
	w.revision++
	*g = actor{id: g.id}
	w.bear()
}

// view tells the queue who lives, after it has been told what is adopted.
func (w *stage) view() {
	if w.stored != nil && w.stored.Gateway != "" && !w.alive(w.stored.Gateway) {
		if len(w.q.Adopt("x")) == 0 {
			w.begin("adoption")
			w.adopting = true
		}
	}
	var ids []string
	w.gateways = slices.DeleteFunc(w.gateways, func(g *actor) bool { return !g.alive })
	for _, g := range w.gateways {
		ids = append(ids, g.id)
	}
	w.q.View(w.now, ids, int64(w.revision))
}

func (w *stage) adopted() {
	if !w.adopting {
		return
	}
	w.adopting = false
	w.revision++
	w.stored = &Holder{Epoch: w.revision}
	w.q.Adopted(w.now, "x")
}

func (w *stage) begin(what string) {
	if len(w.doing) > 0 || w.adopting {
		w.t.Fatalf("%s begins while something is under way", what)
	}
}

func (w *stage) effects() {
	for _, e := range w.q.Effects() {
		w.t.Logf("    %s", show(e))
		switch e.Kind {
		case Record, Open, Away:
			w.begin(fmt.Sprint("operation ", e.Kind))
			w.doing = append(w.doing, &operation{Effect: e})
			continue
		case Release:
			if w.record.Gateway == e.Gateway && (e.Epoch == 0 || e.Epoch == w.record.Epoch) {
				w.revision++
				w.record = Holder{}
			}
			e.Kind = Left
		case Claimed:
			if e.Epoch <= w.claimed {
				w.t.Fatalf("claimed at %d after %d", e.Epoch, w.claimed)
			}
			w.claimed = e.Epoch
		}
		at := slices.IndexFunc(w.gateways, func(g *actor) bool { return g.id == e.Gateway })
		if at < 0 || w.gateways[at].stream == 0 {
			continue
		}
		if e.Kind != Evict {
			if e.Request.Stream != w.gateways[at].stream {
				continue
			}
			if w.asked[e.Request.ID] != e.Gateway {
				w.t.Fatalf("answered twice or unasked: %+v", e)
			}
			delete(w.asked, e.Request.ID)
		}
		w.gateways[at].inbox = append(w.gateways[at].inbox, e)
	}
}

// finish lets everything run its course.
func (w *stage) finish() {
	w.view()
	w.effects()
	for range 200 {
		for _, g := range w.gateways {
			w.attach(g)
			w.effects()
			w.deliver(g)
			w.effects()
		}
		w.operate("done")
		w.effects()
		w.adopted()
		w.effects()
		w.tick()
		w.effects()
	}
	if w.q.Len() != 0 || w.q.Busy("x") || len(w.asked) != 0 {
		w.t.Fatalf("%d clients left, unanswered: %v", w.q.Len(), w.asked)
	}
	w.check()
	if w.stored == nil || w.stored.Gateway == "" {
		for _, g := range w.gateways {
			if g.serving > 0 && w.stored != nil {
				w.t.Fatalf("%s serves at %d, the store has %v", g.id, g.serving, *w.stored)
			}
		}
		return
	}
	at := slices.IndexFunc(w.gateways, func(g *actor) bool { return g.id == w.stored.Gateway })
	if at < 0 || w.gateways[at].serving != w.stored.Epoch || w.record != *w.stored {
		w.t.Fatalf("the store has %v, etcd %v", *w.stored, w.record)
	}
}
