package away

import (
	"slices"
	"testing"
	"time"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/services/session/internal/claims"
)

func willID(client string, epoch uint64) message.ID {
	return message.ID{Origin: "will/" + client, Seq: epoch}
}

func (w *world) wantWills(ids ...message.ID) {
	w.t.Helper()
	w.wait("as many wills are published", func() bool { return len(w.wills()) >= len(ids) })
	if got := w.wills(); !slices.Equal(got, ids) {
		w.t.Errorf("published %v, want %v", got, ids)
	}
}

// wantNothingDue waits until the store has no will that is to be published.
func (w *world) wantNothingDue(client string, epoch uint64) {
	w.t.Helper()
	w.wait("the will is removed", func() bool {
		_, ok, err := w.store.Get(client + dueKey + "5")
		return err == nil && !ok
	})
}

func TestAWillIsPublishedWhenAConnectionIsLost(t *testing.T) {
	w := newWorld(t, nil)
	wish := will("gone", 0)
	wish.HasExpiry, wish.Expiry = true, time.Hour
	w.open("x", "g1", 5, claims.Terms{Expiry: 60, Will: wish})
	w.leave("x", "g1", 5, nil)
	w.wantWills(willID("x", 5))
	w.wantNothingDue("x", 5)
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.published[0].m
	if m.Topic != "gone" || m.QoS != 1 || time.Until(m.Expires) < 59*time.Minute {
		t.Errorf("published %+v", m)
	}
	if r, _, _ := w.store.Get("x"); r.Will != nil {
		t.Error("the session still has it")
	}
}

func TestAWillIsForgottenAfterGoodbye(t *testing.T) {
	w := newWorld(t, nil)
	w.open("x", "g1", 5, claims.Terms{Expiry: 60, Will: will("gone", 0)})
	w.open("y", "g1", 6, claims.Terms{Will: will("gone", 0)})
	w.leave("x", "g1", 5, &claims.Ending{WithoutWill: true})
	w.leave("y", "g1", 6, &claims.Ending{WithoutWill: true})
	w.open("x", "g1", 7, claims.Terms{CleanStart: true})
	if got := w.wills(); len(got) > 0 {
		t.Errorf("published %v", got)
	}
	if _, ok := w.Look("y"); ok {
		t.Error("a client without session and will is known")
	}
}

func TestAWillWaitsForItsDelayAndIsCancelledByTheReturn(t *testing.T) {
	w := newWorld(t, nil)
	w.open("x", "g1", 5, claims.Terms{Expiry: 60, Will: will("late", 50*time.Millisecond)})
	w.open("y", "g1", 6, claims.Terms{Expiry: 60, Will: will("never", 200*time.Millisecond)})
	w.leave("x", "g1", 5, nil)
	left := time.Now()
	w.leave("y", "g1", 6, nil)
	if st := w.open("y", "g1", 8, claims.Terms{Expiry: 60}); !st.Present {
		t.Error("it has another session")
	}
	w.wantWills(willID("x", 6))
	if d := time.Since(left); d < 50*time.Millisecond {
		t.Errorf("published after %v", d)
	}
	time.Sleep(200 * time.Millisecond) // there is nothing to wait for: nothing is to happen
	w.wantWills(willID("x", 6))
	if h, _ := w.Look("x"); h.Epoch != 6 {
		t.Error("its session has ended")
	}
}

func TestAWillIsPublishedAtATakeover(t *testing.T) {
	w := newWorld(t, nil)
	w.open("x", "g1", 5, claims.Terms{Expiry: 60, Will: will("first", 0)})
	w.open("x", "g2", 6, claims.Terms{Expiry: 60, Will: will("second", time.Minute)})
	w.wantWills(willID("x", 5))
	w.open("x", "g2", 7, claims.Terms{Expiry: 60, Will: will("third", time.Minute)})
	w.open("x", "g2", 8, claims.Terms{CleanStart: true, Will: will("fourth", time.Minute)})
	w.wantWills(willID("x", 5), willID("x", 7))
	// Without a session there is nothing to wait for.
	w.leave("x", "g2", 8, nil)
	w.wantWills(willID("x", 5), willID("x", 7), willID("x", 8))
	if _, ok := w.Look("x"); ok {
		t.Error("it is still known")
	}
}

func TestAWillIsGivenToAnotherGatewayWhenOneFails(t *testing.T) {
	w := newWorld(t, nil)
	w.lose = 3
	w.open("x", "g1", 5, claims.Terms{Will: will("gone", 0)})
	w.leave("x", "g1", 5, nil)
	w.wantWills(willID("x", 5))
	w.wantNothingDue("x", 5)
}

func TestASuccessorRepeatsWhatIsDueAndNothingElse(t *testing.T) {
	w := newWorld(t, nil)
	w.mute = true // gateways do not answer
	w.open("x", "g1", 5, claims.Terms{Expiry: 60, Will: will("x", 0)})
	w.open("y", "g1", 6, claims.Terms{Expiry: 60, Will: will("y", time.Hour)})
	w.open("z", "g1", 7, claims.Terms{Will: will("z", time.Hour)})
	w.leave("x", "g1", 5, nil)
	w.leave("y", "g1", 6, nil)
	w.wantWills(willID("x", 5))
	// It comes back and has another will, while the first is still to be published.
	w.open("x", "g2", 8, claims.Terms{Expiry: 60, Will: will("x", time.Hour)})
	w.mute = false
	w.restart("ss-2", "g1", "g2")
	w.wantWills(willID("x", 5), willID("x", 5))
	w.wantNothingDue("x", 5)
	w.restart("ss-3", "g1", "g2")
	if h, ok := w.Look("z"); !ok || h.Gateway != "g1" {
		t.Errorf("z is held by %v, %v", h, ok)
	}
	w.wantWills(willID("x", 5), willID("x", 5))
}

func TestManyWillsArePublishedAFewAtATime(t *testing.T) {
	w := newWorld(t, nil)
	w.mute = true
	const many = 2*publishing + 5
	for i := range uint64(many) {
		c := string(rune('A' + i))
		w.open(c, "g1", 5+i, claims.Terms{Will: will("w", 0)})
		w.leave(c, "g1", 5+i, nil)
	}
	w.wait("as many are under way as may be", func() bool { return len(w.wills()) == publishing })
	w.mu.Lock()
	first := slices.Clone(w.published)
	w.mute = false
	w.mu.Unlock()
	for _, p := range first {
		p.done(false)
	}
	w.wait("all are published", func() bool { return len(w.wills()) == many })
}

func TestAnExpiredSessionsWillIsPublished(t *testing.T) {
	w := newWorld(t, nil)
	w.open("x", "g1", 5, claims.Terms{Expiry: 60, Will: will("gone", time.Hour)})
	w.leave("x", "g1", 5, &claims.Ending{HasExpiry: true, Expiry: 1})
	w.wantWills(willID("x", 6))
	w.wait("the session is over", func() bool { _, ok := w.Look("x"); return !ok })
	if _, err := w.store.State("x", journal.SessionID(1)); err == nil {
		t.Error("there is a session")
	}
}
