package claims

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Whatever happens, in any order: at most one gateway at a time believes that it may serve a client, provided that
// all evictions are answered; every claim is answered once; and nothing is left when nothing is under way.
func TestAtMostOneHolderAndOneAnswer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			w.step(rapid.IntRange(0, 5).Draw(t, "step"))
		}
		w.finish()
	})
}

// world is one client x, etcd's record of it, and gateways that answer as they should.
type world struct {
	t        *rapid.T
	q        *Queue
	now      time.Time
	record   string
	epoch    uint64
	toRecord []string
	toEvict  []Effect
	next     uint64
	asked    map[Request]bool
	latest   map[string]uint64
	// serving has the epoch at which a gateway was told that it may serve.
	serving map[string]uint64
}

func newWorld(t *rapid.T) *world {
	w := &world{t: t, now: time.Unix(0, 0), asked: map[Request]bool{}, latest: map[string]uint64{}, serving: map[string]uint64{}, epoch: 1}
	w.q = New(w.now, config(), nil, 1)
	w.q.View(w.now, []string{"A", "B", "C"}, 1)
	for _, g := range []string{"A", "B", "C"} {
		w.q.Attached(g)
	}
	return w
}

func (w *world) step(what int) {
	w.now = w.now.Add(time.Millisecond)
	switch {
	case what <= 2:
		w.claim([]string{"A", "B", "C"}[what])
	case what == 3:
		w.recordOne()
	case what == 4:
		w.evictOne()
	case what == 5:
		if at, due := w.q.Next(); due && len(w.toEvict) == 0 {
			w.now = at
			w.q.Tick(w.now)
		}
	}
	w.effects()
}

func (w *world) claim(g string) {
	w.next++
	r := Request{Gateway: g, ID: w.next}
	// A gateway ends its own connection first.
	delete(w.serving, g)
	w.asked[r], w.latest[g] = true, w.next
	w.q.Claim(w.now, "x", r)
}

func (w *world) recordOne() {
	if len(w.toRecord) == 0 {
		return
	}
	g := w.toRecord[0]
	w.toRecord = w.toRecord[1:]
	o := Outcome{Former: w.record, FormerEpoch: w.epoch}
	if w.record == "" {
		o.FormerEpoch = 0
	}
	w.epoch++
	w.record, o.Epoch = g, w.epoch
	w.q.Recorded(w.now, "x", o)
}

func (w *world) evictOne() {
	if len(w.toEvict) == 0 {
		return
	}
	e := w.toEvict[0]
	w.toEvict = w.toEvict[1:]
	if w.serving[e.Gateway] < e.Epoch {
		delete(w.serving, e.Gateway)
	}
	w.q.Evicted(w.now, "x", e.Gateway, e.Epoch)
}

func (w *world) effects() {
	for _, e := range w.q.Effects() {
		switch e.Kind {
		case Record:
			w.toRecord = append(w.toRecord, e.Gateway)
			if len(w.toRecord) > 1 {
				w.t.Fatal("two records of one client under way")
			}
		case Evict:
			w.toEvict = append(w.toEvict, e)
		case Claimed, Superseded:
			if !w.asked[e.Request] {
				w.t.Fatalf("answered twice or unasked: %+v", e)
			}
			delete(w.asked, e.Request)
			// One that has claimed again meanwhile has no use for the older claim, and gives it up.
			if e.Kind == Claimed && e.Request.ID == w.latest[e.Gateway] {
				w.serving[e.Gateway] = e.Epoch
			}
		}
		if len(w.serving) > 1 {
			w.t.Fatalf("two holders: %v", w.serving)
		}
	}
}

func (w *world) finish() {
	for range 1000 {
		if w.q.Len() == 0 {
			break
		}
		w.step(3)
		w.step(4)
		w.step(5)
	}
	if w.q.Len() != 0 || len(w.asked) != 0 {
		w.t.Fatalf("%d clients left, unanswered: %v", w.q.Len(), w.asked)
	}
	if len(w.serving) == 1 && w.serving[w.record] != w.epoch {
		w.t.Fatalf("%v serve, recorded is %s at %d", w.serving, w.record, w.epoch)
	}
}
