package away

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/services/session/internal/claims"
)

// connected makes a client that a gateway holds.
func (w *world) connected(client, gateway string, epoch uint64, subs ...journal.Subscription) *journal.State {
	w.t.Helper()
	st := w.open(client, gateway, epoch, claims.Terms{Expiry: 3600})
	w.subscribe(client, st, epoch, subs...)
	return st
}

func TestTheSessionsOfADeadGatewayAreAdopted(t *testing.T) {
	w := newWorld(t, nil)
	w.obedient, w.mesh.obedient = false, false
	w.View([]string{"g1", "g2"}, 1)
	x := w.connected("x", "g1", 5, sub("a", 1))
	w.connected("y", "g2", 6, sub("a", 1))
	if err := w.write("x", x, 5, journal.Change{Kind: journal.Append, Entry: journal.Entry{Position: 1, Message: msg("g1", 1, "a", 1), QoS: 1}}); err != nil {
		t.Fatal(err)
	}
	w.View([]string{"g2"}, w.epoch())
	a := w.adoption("g1")
	if !w.mesh.has("a") {
		t.Error("its routes are not announced")
	}
	if got := w.store.Unadopted(); !slices.Contains(got, "g1") {
		t.Errorf("the store remembers %v", got)
	}

	// Nothing live before what the peer has kept.
	second := w.send("p", match(msg("p", 2, "a", 1)))
	claimed := make(chan *journal.State, 1)
	w.Open(opening("x", "g2", w.epoch(), claims.Terms{Expiry: 60}), func(st *journal.State, err error) {
		if err != nil {
			t.Error(err)
		}
		claimed <- st
	})
	w.send("p", orphans("g1", msg("p", 1, "a", 1))).want(mesh.Stored)
	second.none()
	a.answered("p")
	second.want(mesh.Stored)
	select {
	case <-claimed:
		t.Fatal("it is claimed before the adoption is over")
	default:
	}
	if err := w.write("x", x, 5, journal.Change{Kind: journal.Done, Position: 1}); err == nil {
		t.Error("the dead gateway writes")
	}
	w.wantInbox("x", 1, 1, 2)
	a.done(nil)
	st := <-claimed
	if !st.Present || st.ID != x.ID || st.Next != 4 {
		t.Errorf("opened %+v", st)
	}
	// What comes late finds it where it is now.
	r := w.send("q", orphans("g1", msg("q", 1, "a", 1))).want(mesh.Moved)
	h, _ := w.Look("x")
	if len(r.Moved) != 1 || r.Moved[0].ClientID != "x" || r.Moved[0].Epoch >= h.Epoch {
		t.Errorf("moved %v, it is held at %d", r.Moved, h.Epoch)
	}
	w.wait("the adoption is over", func() bool { return !slices.Contains(w.store.Unadopted(), "g1") })
	w.send("q", orphans("g1", msg("q", 2, "a", 1))).want(mesh.Queued)
	w.wantInbox("y")
}

func TestWhatCameLiveIsNotTakenAgainAsAnOrphan(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.AdoptTimeout = time.Millisecond })
	w.mesh.obedient = false
	w.connected("x", "g1", 5, sub("a", 1))
	w.View(nil, w.epoch())
	a := w.adoption("g1")
	// The peer does not answer in time: order is given up, and no message.
	w.send("p", match(msg("p", 2, "a", 1))).want(mesh.Stored)
	w.send("p", orphans("g1", msg("p", 1, "a", 1))).want(mesh.Stored)
	w.send("p", orphans("g1", msg("p", 2, "a", 1))).want(mesh.Queued)
	w.wantInbox("x", 2, 1)
	if n := testutil.ToFloat64(w.Keeper.metrics.unordered); n != 1 {
		t.Errorf("order was given up %v times, want once", n)
	}
	a.answered("p")
	a.done(nil)
}

func TestASuccessorAdoptsWhatItsPredecessorHeld(t *testing.T) {
	w := newWorld(t, nil)
	w.View([]string{"g1", "g2"}, 1)
	w.absent("x", 5, sub("a", 1))
	w.connected("y", "g1", 6, sub("a", 1), sub("b", 1))
	w.connected("z", "g2", 7, sub("a", 1))
	w.obedient = false
	w.stop()
	w.start("ss-2", nil)
	if w.mesh.has("a") {
		t.Error("announced before anybody knows who lives")
	}
	w.View([]string{"g2"}, w.epoch())
	first, second := w.adoption("ss-1"), w.adoption("g1")
	w.mesh.mu.Lock()
	asked := slices.Clone(w.mesh.asked)
	w.mesh.mu.Unlock()
	if !slices.Equal(asked, []string{"ss-1", "g1"}) {
		t.Errorf("asked about %v", asked)
	}
	if got := w.store.Unadopted(); !slices.Contains(got, ownPrefix+"ss-2") {
		t.Errorf("the store remembers %v", got)
	}
	live := w.send("p", match(msg("p", 9, "a", 1)))
	w.send("p", orphans("ss-1", msg("p", 1, "a", 1))).want(mesh.Stored) // x's alone
	w.send("p", orphans("g1", msg("p", 1, "a", 1))).want(mesh.Stored)   // y's alone
	w.send("p", orphans("g1", msg("p", 2, "b", 1))).want(mesh.Stored)
	w.send("p", orphans("g9", msg("p", 2, "b", 1))).want(mesh.Queued)
	first.answered("p")
	live.none()
	second.answered("p")
	live.want(mesh.Stored)
	first.done(nil)
	second.done(nil)
	w.wantInbox("x", 1, 9)
	w.wantInbox("y", 1, 2, 9)
	w.wantInbox("z")
	// Whoever lives is remembered, too.
	w.wait("the adoption is over", func() bool {
		left := w.store.Unadopted()
		slices.Sort(left)
		return slices.Equal(left, []string{"g2", ownPrefix + "ss-2"})
	})
}

func TestASuccessorAdoptsAGatewayThatDiedMeanwhileAndHeldNobody(t *testing.T) {
	w := newWorld(t, nil)
	w.View([]string{"g1", "g2"}, 1)
	w.wait("the gateways are noted", func() bool { return len(w.store.Unadopted()) == 3 })
	w.obedient = false
	w.stop()
	w.start("ss-2", nil)
	w.View([]string{"g2"}, w.epoch())
	w.adoption("ss-1").done(nil)
	w.adoption("g1").done(nil)
	w.wait("the adoption is over", func() bool {
		left := w.store.Unadopted()
		slices.Sort(left)
		return slices.Equal(left, []string{"g2", ownPrefix + "ss-2"})
	})
}

func TestAnAdoptionThatWasBrokenOffIsBroughtToItsEnd(t *testing.T) {
	w := newWorld(t, nil)
	w.mesh.obedient, w.obedient = false, false
	w.connected("x", "g1", 5, sub("a", 1))
	w.absent("y", 6, sub("a", 1))
	w.View(nil, w.epoch())
	w.adoption("g1")
	w.stop()
	w.start("ss-2", nil)
	w.View(nil, w.epoch())
	for _, h := range []string{"ss-1", "g1"} {
		defer w.adoption(h).done(nil)
	}
	w.send("p", orphans("g1", msg("p", 1, "a", 1))).want(mesh.Stored)
	w.wantInbox("x", 1)
	w.wantInbox("y")
	w.send("p", orphans("ss-1", msg("p", 1, "a", 1))).want(mesh.Stored)
	w.wantInbox("x", 1)
	w.wantInbox("y", 1)
}

func TestAGatewayThatDiesWhileItIsGivenASessionLosesIt(t *testing.T) {
	w := newWorld(t, nil)
	w.absent("x", 5, sub("a", 1))
	w.View([]string{"g1"}, w.epoch())
	// It was recorded before the view in which it is not.
	w.View(nil, w.epoch())
	w.open("x", "g1", w.epoch()-5, claims.Terms{Expiry: 60})
	w.wait("it is back", func() bool {
		h, ok := w.Look("x")
		return ok && h.Gateway == ""
	})
	w.wait("it takes messages", func() bool {
		return w.send("p", match(msg("p", 1, "a", 1))).final().Outcome == mesh.Stored
	})
}

func TestWillsAndExpiryOfAdoptedSessions(t *testing.T) {
	w := newWorld(t, nil)
	w.open("ends", "g1", 5, claims.Terms{CleanStart: true, Expiry: 60, Will: will("w", time.Hour)})
	w.open("ends", "g1", 6, claims.Terms{Will: will("w", time.Hour)})
	w.open("stays", "g1", 7, claims.Terms{Expiry: 60, Will: will("w", 0)})
	w.open("waits", "g1", 8, claims.Terms{Expiry: 60, Will: will("w", time.Hour)})
	w.open("transient", "g1", 9, claims.Terms{Will: will("w", time.Hour)})
	w.View(nil, w.epoch())
	w.wait("three wills are published", func() bool { return len(w.wills()) == 3 })
	got := w.wills()
	for _, want := range []struct {
		client string
		epoch  uint64
	}{{"ends", 6}, {"stays", 7}, {"transient", 9}} {
		if !slices.Contains(got, willID(want.client, want.epoch)) {
			t.Errorf("published %v, not that of %s", got, want.client)
		}
	}
	for client, known := range map[string]bool{"ends": false, "stays": true, "waits": true, "transient": false} {
		w.wait(client+" is as it should be", func() bool { _, ok := w.Look(client); return ok == known })
	}
	// Word of a goodbye comes late.
	w.leave("waits", "g1", 8, &claims.Ending{WithoutWill: true})
	if r, _, _ := w.store.Get("waits"); r.Will != nil || r.Holder != "" {
		t.Errorf("its record: %+v", r)
	}
}

func TestWhatAPeerSendsDuringAnAdoptionIsBounded(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.HoldBytes = 50 })
	w.mesh.obedient = false
	w.connected("x", "g1", 5, sub("a", 1))
	w.View(nil, w.epoch())
	a := w.adoption("g1")
	for seq := range uint64(10) {
		w.send("p", match(msg("p", seq+1, "a", 1)))
	}
	w.wait("most of it is stored", func() bool { return len(w.inbox("x")) > 3 })
	a.done(nil)
	w.wait("all of it is stored", func() bool { return len(w.inbox("x")) == 10 })
	w.wantInbox("x", 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
}

func TestAnAdoptionRemembersSoManyIDs(t *testing.T) {
	a := newAdoption([]string{"g"}, nil)
	s := &session{from: []string{"g"}}
	for seq := range uint64(maxIDs + 10) {
		a.note(msg("p", seq, "a", 1).ID, live)
	}
	a.note(msg("p", 1, "a", 1).ID, "g")
	if len(a.had) != maxIDs || !a.gave(s, msg("p", 1, "a", 1).ID) || a.gave(s, msg("p", maxIDs+1, "a", 1).ID) {
		t.Errorf("it remembers %d", len(a.had))
	}
}

func TestManySessionsAreAdopted(t *testing.T) {
	w := newWorld(t, nil)
	const many = 3*page + 7
	done := make(chan error, many)
	for i := range uint64(many) {
		w.Open(opening(fmt.Sprintf("c%d", i), "g1", 5+i, claims.Terms{Expiry: 60}),
			func(_ *journal.State, err error) { done <- err })
	}
	for range many {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	w.View(nil, w.epoch())
	w.wait("nobody holds any of them", func() bool {
		for i := range many {
			if h, ok := w.Look(fmt.Sprintf("c%d", i)); !ok || h.Gateway != "" {
				return false
			}
		}
		return true
	})
}
