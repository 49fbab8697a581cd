package away

import (
	"testing"
	"time"

	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/services/session/internal/claims"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

// Its peers keep its routes, and whatever matches them, until somebody adopts it.
func TestADeadGatewayIsAdoptedThatHoldsNobody(t *testing.T) {
	w := newWorld(t, nil)
	w.mesh.obedient = false
	w.View([]string{"g1", "g2"}, 1)
	w.View([]string{"g2"}, w.epoch())
	a := w.adoption("g1")
	a.answered("p")
	a.done(nil)
}

// Who has left a gateway before anybody knew that it was dead gets what was on its way to it then.
func TestOrphansAreForThoseWhoHaveLeftAsWell(t *testing.T) {
	w := newWorld(t, nil)
	w.obedient, w.mesh.obedient = false, false
	w.View([]string{"g1", "g2"}, 1)
	w.connected("x", "g1", 5, sub("a", 1))
	w.open("x", "g2", 7, claims.Terms{Expiry: 3600})
	w.View([]string{"g2"}, w.epoch())
	a := w.adoption("g1")
	r := w.send("p", orphans("g1", msg("p", 1, "a", 1))).want(mesh.Moved)
	if len(r.Moved) != 1 || r.Moved[0].ClientID != "x" || r.Moved[0].Epoch >= 7 {
		t.Errorf("moved %v, it is held at 7", r.Moved)
	}
	a.answered("p")
	a.done(nil)
	if h, _ := w.Look("x"); h.Gateway != "g2" || h.Epoch != 7 {
		t.Errorf("it is held by %+v", h)
	}
}

func TestWhoHasLeftLongAgoIsForgotten(t *testing.T) {
	l := left{}
	begin := time.Now()
	stored := func(holder string) *session { return &session{stored: true, rec: store.Record{Holder: holder}} }
	old, young, back, over := stored("g2"), stored("g2"), stored("g1"), &session{}
	l.add("g1", old, begin)
	later := begin.Add(leftFor + time.Second)
	for _, s := range []*session{young, back, over} {
		l.add("g1", s, later)
	}
	for range leastSweep {
		l.add("g1", stored(""), later)
	}
	if _, there := l["g1"].at[old]; there {
		t.Error("one that has left long ago is remembered")
	}
	found := map[*session]bool{}
	for _, s := range l.take("g1", later) {
		found[s] = true
	}
	if !found[young] || found[old] || found[back] || found[over] || len(found) != leastSweep+1 {
		t.Errorf("%d have left", len(found))
	}
	if len(l.take("g1", later)) > 0 || len(l.take("g2", later)) > 0 {
		t.Error("somebody has left whom nobody held")
	}
}
