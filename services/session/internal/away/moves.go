package away

import (
	"github.com/beeline-mqtt/beeline/internal/arrivals"
	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/services/session/internal/claims"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

// Open carries out claims.Open: it gives a client's session to the gateway that etcd names as its holder, or begins a
// new one; done gets what the gateway holds from now on, nil if nothing is stored. While the client's former holder is
// being adopted it waits.
func (k *Keeper) Open(o claims.Effect, done func(*journal.State, error)) {
	k.with(o.Client, func(s *session) {
		k.mu.Lock()
		r := s.rec
		k.mu.Unlock()
		p := open(r, o, sessionID(), now())
		answer := func(st *journal.State, err error) {
			k.opened(s, o)
			if err == nil {
				k.forgetLater(s, o.Epoch, r.Session != 0, st != nil && st.Present)
			}
			k.release(s)
			done(st, err)
		}
		after := func(err error) {
			if err != nil {
				answer(nil, err)
				return
			}
			k.record(s, p, answer)
		}
		if p.fire {
			k.fire(s.client, leaseOf(r), r.Will, after)
			return
		}
		after(nil)
	})
}

// record stores what an opening has made of a record.
func (k *Keeper) record(s *session, p opened, answer func(*journal.State, error)) {
	if !p.stored {
		k.drop(s, func(err error) {
			k.forgetGhost(s)
			answer(nil, err)
		})
		return
	}
	k.put(s, p.next, func(err error) {
		switch {
		case err != nil:
			answer(nil, err)
		case p.present:
			st, err := k.deps.Store.State(s.client, p.next.Session)
			if err != nil {
				answer(nil, k.check("read session", err))
				return
			}
			answer(&st, nil)
		default:
			// Nobody waits for the former session's messages.
			k.forgetGhost(s)
			if p.next.Session == 0 {
				answer(nil, nil)
				return
			}
			answer(&journal.State{ID: p.next.Session, First: 1, Next: 1}, nil)
		}
	})
}

// opened looks whether the gateway that has opened s has died meanwhile: then it is adopted at once.
func (k *Keeper) opened(s *session, o claims.Effect) {
	k.mu.Lock()
	stray := s.stored && s.rec.Holder == o.Gateway && k.dead(o.Gateway, o.Epoch)
	k.mu.Unlock()
	if stray {
		k.mu.Lock()
		s.from = []string{o.Gateway}
		k.begin(newAdoption([]string{o.Gateway}, []*session{s}))
		k.mu.Unlock()
	}
}

// Away carries out the rest of claims.Away: it takes a client's session back from the gateway that held it last, or ends
// it; done is called when the store knows. The epoch is above that of the gateway, and below all to come. A session that
// is here already stays as it is, but for its will and its expiry, if the end of the connection was told only now.
func (k *Keeper) Away(e claims.Effect, epoch uint64, done func(error)) {
	k.with(e.Client, func(s *session) {
		finish := func(err error) {
			k.schedule(s)
			k.release(s)
			done(err)
		}
		k.mu.Lock()
		r, stored := s.rec, s.stored
		k.mu.Unlock()
		if !stored || r.Epoch > epoch {
			k.work.push(func() { finish(nil) })
			return
		}
		left, over := end(r, e.Ending, now())
		if r.Holder == "" {
			left.Away = r.Away
		}
		f := fateOf(left, now())
		f.over = f.over || over
		if r.Holder != "" {
			// Nothing more is written by the one that held it. The will is that of its connection, and keeps its id.
			left.Epoch = epoch
		}
		k.settleFate(s, left, leaseOf(r), f, finish)
	})
}

// settleFate does what is due for an absent client's record, of which r is the new state; s is locked. A will is
// published as that of the connection at epoch. An entry into the index follows when the session has just come here.
func (k *Keeper) settleFate(s *session, r store.Record, epoch uint64, f fate, then func(error)) {
	will := r.Will
	after := func(err error) {
		switch {
		case err != nil:
			then(err)
		case f.over:
			k.drop(s, func(err error) {
				if err == nil {
					k.forgetGhost(s)
				}
				then(err)
			})
		default:
			k.put(s, r, func(err error) {
				if err != nil {
					then(err)
					return
				}
				then(k.arrive(s))
			})
		}
	}
	if !f.fire {
		after(nil)
		return
	}
	r.Will = nil
	k.fire(s.client, epoch, will, after)
}

// arrive takes a session into the index that is held here from now on.
func (k *Keeper) arrive(s *session) error {
	k.mu.Lock()
	r, here := s.rec, s.here
	k.mu.Unlock()
	if here {
		return nil
	}
	st, err := k.state(r)
	if err != nil {
		return k.check("read session", err)
	}
	of := &settling{hold: new(arrivals.Set[*entry]), had: map[message.ID]struct{}{}}
	k.enter(s, st.Subscriptions, func() {
		s.here, s.next, s.settling = true, st.Next, of
		// If a peer does not acknowledge the routes, nobody can wait for it for ever.
		k.after(k.cfg.GiveUp, s, of)
	}, func() { k.inForce(s, of) })
	return nil
}
