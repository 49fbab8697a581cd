package away

import (
	"errors"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/routes"
	"github.com/beeline-mqtt/beeline/internal/topic"
)

// ordinary says whether the index takes a subscription: what members of shared ones get when they are away is not theirs
// alone; see share.
func ordinary(s journal.Subscription) bool {
	_, shared, _ := topic.ParseShared(s.Filter)
	return !shared
}

// keeps reports whether r is still so.
func (k *Keeper) keeps(r routes.Route) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	sh := k.shares[topic.Shared{Group: r.Group, Filter: r.Filter}]
	return sh != nil && len(sh.members) > 0
}

// enter puts s into the index with these subscriptions, in place of those that it has there, and announces them until
// they are in force everywhere. With none it is taken out of the index. and, called with mu held, is done in one step
// with that: a session that comes here may be given messages from then on that its former holder has sent on, and has to
// know what it subscribes to.
func (k *Keeper) enter(s *session, subs []journal.Subscription, and, inForce func()) {
	k.announcing.Lock()
	changes := k.subscribe(nil, s, subs, and)
	k.announce(changes, inForce)
	k.announcing.Unlock()
}

// subscribe changes the index and returns what that means for the routes; and is done in one step with the first half of
// it. With announcing held.
func (k *Keeper) subscribe(changes []routes.Route, s *session, subs []journal.Subscription, and func()) []routes.Route {
	k.mu.Lock()
	old := s.subs
	s.subs = subs
	changes = k.join(changes, s, old, subs)
	and()
	k.mu.Unlock()
	keep := make(map[string]struct{}, len(subs))
	for _, n := range subs {
		if ordinary(n) {
			k.index.Subscribe(n.Filter, s, n.Options)
			changes = append(changes, routes.Route{Filter: n.Filter, Members: 1, Durable: true})
			keep[n.Filter] = struct{}{}
		}
	}
	for _, o := range old {
		if _, kept := keep[o.Filter]; kept || !ordinary(o) {
			continue
		}
		if last, _ := k.index.Unsubscribe(o.Filter, s); last {
			changes = append(changes, routes.Route{Filter: o.Filter})
		}
	}
	return changes
}

// announce tells the peers of routes, again and again until all have them in force. With announcing held.
func (k *Keeper) announce(changes []routes.Route, inForce func()) {
	if len(changes) == 0 {
		k.work.push(inForce)
		return
	}
	k.deps.Mesh.Announce(changes, func(err error) {
		switch {
		case err == nil:
			k.work.push(inForce)
		case errors.Is(err, mesh.ErrClosed):
			// So is everything.
		default:
			// Somebody may have given a filter up in the meantime. Then it is withdrawn behind this, or was before.
			k.work.push(func() {
				k.announcing.Lock()
				defer k.announcing.Unlock()
				k.announce(k.current(changes), inForce)
			})
		}
	})
}

// current returns those of changes that are still as the index is. With announcing held.
func (k *Keeper) current(changes []routes.Route) []routes.Route {
	var still []routes.Route
	for _, c := range changes {
		if c.Members > 0 && k.index.Has(c.Filter) || c.Keeps() && k.keeps(c) {
			still = append(still, c)
		}
	}
	return still
}

// forgetGhost takes a session out of the index that is not here.
func (k *Keeper) forgetGhost(s *session) {
	k.mu.Lock()
	subs, here := len(s.subs), s.here
	k.mu.Unlock()
	if subs > 0 && !here {
		k.enter(s, nil, func() {}, func() {})
	}
}

// inForce: nobody sends to the former holder of s any more. What it holds back is let go when the peers have sent on what is
// older.
func (k *Keeper) inForce(s *session, of *settling) {
	k.mu.Lock()
	still := s.here && s.settling == of
	epoch := leaseOf(s.rec) + 1
	k.mu.Unlock()
	if still {
		k.deps.Mesh.SendOn(s.client, k.cfg.Settle, func(complete bool) {
			k.work.push(func() { k.sentOn(s, of, complete) })
		})
		k.deps.Forget(s.client, epoch)
	}
}

// sentOn: nothing older can come for s any more, or, if it is not complete, it has taken too long.
func (k *Keeper) sentOn(s *session, of *settling, complete bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if s.settling == of {
		if !complete && of.hold != nil {
			k.metrics.unordered.Inc()
		}
		k.letGo(s)
	}
}
