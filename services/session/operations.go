package session

import (
	"errors"
	"time"

	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/services/session/internal/claims"
)

// begin starts what an effect wants done in etcd or in the store, and tells the queue how it went. The recorder may
// answer on the spot. Of one client there is only one operation under way: their order is free. That of a Release does
// not matter: it touches nothing but what is meant.
func (t *term) begin(e claims.Effect) {
	switch e.Kind {
	case claims.Record:
		t.recorder.Claim(e.Client, e.Gateway, func(c cluster.Claimed) { t.recorded(e.Client, c) })
	case claims.Release:
		t.recorder.Release(e.Client, e.Gateway, e.Epoch, func(c cluster.Claimed) { t.released(e, c) })
	case claims.Open:
		t.kept.Open(e, func(session *journal.State, err error) {
			t.step(func(q *claims.Queue, now time.Time) { q.Opened(now, e.Client, session, unavailable(err)) })
		})
	case claims.Away:
		t.recorder.Release(e.Client, e.Gateway, e.Epoch, func(c cluster.Claimed) { t.goAway(e, c) })
	case claims.Evict, claims.Claimed, claims.Left, claims.Superseded, claims.HolderDead, claims.Unavailable:
	}
}

func (t *term) recorded(client string, c cluster.Claimed) {
	o := claims.Outcome{Epoch: c.Epoch, Former: c.Former.Holder, FormerEpoch: c.Former.Epoch}
	switch {
	case errors.Is(c.Err, cluster.ErrHolderDead):
		o.Err = claims.HolderDead
	case c.Err != nil:
		o.Err = claims.Unavailable
	}
	t.step(func(q *claims.Queue, now time.Time) { q.Recorded(now, client, o) })
}

// released answers a release of which the queue keeps nothing.
func (t *term) released(e claims.Effect, c cluster.Claimed) {
	e.Kind = claims.Left
	if c.Err != nil {
		e.Kind = claims.Unavailable
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.send(e)
}

// goAway goes on when the record is gone.
func (t *term) goAway(e claims.Effect, c cluster.Claimed) {
	done := func(err error) {
		t.step(func(q *claims.Queue, now time.Time) { q.AwayDone(now, e.Client, unavailable(err)) })
	}
	if c.Err != nil {
		done(c.Err)
		return
	}
	t.kept.Away(e, c.Epoch, done)
}

// unavailable is the refusal for an error that says no more than that something could not be done.
func unavailable(err error) claims.Kind {
	if err != nil {
		return claims.Unavailable
	}
	return 0
}
