package away

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/routes"
	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

// What is published to a shared subscription while none of its members is online is kept once, and not for each of them:
// in an inbox that belongs to the shared subscription, for whichever member is there first. Gateways send it here as long
// as one durable member is away.

const (
	// shareKey begins the name of the record of a shared subscription; that follows, as clients write it.
	shareKey = "\x00share/"
	// shareEpoch is that of all these records: nobody else ever holds them.
	shareEpoch = 1
	// sharePageBytes bounds what is read at once of such an inbox.
	sharePageBytes = 1 << 20
	// tiredFor is how long a gateway is not asked that had no member with room.
	tiredFor = 50 * time.Millisecond
)

// Members are the members of shared subscriptions that are online, at any gateway.
type Members interface {
	// Online reports whether there are any.
	Online(s topic.Shared) bool
	// Deserted reports whether it is known that there are none, and none either that have gone a moment ago.
	Deserted(s topic.Shared) bool
	// Give sends m to one, at a gateway that except does not rule out; false: there is none. answered is called once,
	// possibly before Give returns, with that gateway and the outcome, when the member has acknowledged the message or nobody
	// has it; it must not block. m must not change.
	Give(s topic.Shared, m *message.Message, except func(gateway string) bool, answered func(gateway string, o mesh.Outcome)) bool
}

// share is a shared subscription with durable members that are away, or with messages from when it had some. The Keeper's mu
// guards it.
type share struct {
	topic.Shared

	// members are sessions that are here, and ghosts of such. Messages at QoS 0 are kept for nobody.
	members map[*session]struct{}
	// session is that of the record; 0: nothing has been kept yet.
	session journal.SessionID
	giving  giving
	// ended are entries whose end is to be written.
	ended []journal.Position
	// tired are gateways that are not asked before a time.
	tired map[string]time.Time
	// running: somebody gives; again: something has happened since that one looked; retrying: it is kicked in a while.
	running, again, retrying bool
	// deserted is since when it has had no member, here or online; over says that it has been dropped.
	deserted time.Time
	over     bool
}

// record names the record of a shared subscription.
func (sh *share) record() string { return shareKey + sh.String() }

// sharedBy returns the shared subscription of s; false: it is not one for which anything is kept.
func sharedBy(s journal.Subscription) (topic.Shared, bool) {
	x, shared, err := topic.ParseShared(s.Filter)
	return x, shared && err == nil && s.Options.QoS > message.AtMostOnce
}

// loadShare takes a record of a former instance.
func (k *Keeper) loadShare(r store.Record) error {
	name, _, err := topic.ParseShared(strings.TrimPrefix(r.Client, shareKey))
	if err != nil {
		return fmt.Errorf("%q: %w", r.Client, err)
	}
	st, err := k.deps.Store.State(r.Client, r.Session)
	if err != nil {
		return err
	}
	k.shares[name] = &share{Shared: name, session: r.Session, giving: begin(st.First, st.Next)}
	return nil
}

// join makes s a member of the shared subscriptions among subs, and of no others among old, and appends the routes. With mu
// held.
func (k *Keeper) join(changes []routes.Route, s *session, old, subs []journal.Subscription) []routes.Route {
	keep := make(map[topic.Shared]struct{})
	for _, sub := range subs {
		x, kept := sharedBy(sub)
		if !kept {
			continue
		}
		keep[x] = struct{}{}
		sh := k.shares[x]
		if sh == nil {
			sh = &share{Shared: x, giving: begin(1, 1)}
			k.shares[x] = sh
		}
		if sh.members == nil {
			sh.members = make(map[*session]struct{})
		}
		sh.members[s] = struct{}{}
		changes = append(changes, sh.route())
	}
	for _, sub := range old {
		x, kept := sharedBy(sub)
		if _, still := keep[x]; kept && !still {
			changes = k.part(changes, x, s)
		}
	}
	return changes
}

// part ends a membership and appends the route, if there was one. With mu held.
func (k *Keeper) part(changes []routes.Route, x topic.Shared, s *session) []routes.Route {
	sh := k.shares[x]
	if sh == nil {
		return changes
	}
	if _, was := sh.members[s]; !was {
		return changes
	}
	delete(sh.members, s)
	if len(sh.members) > 0 {
		return changes
	}
	if sh.session == 0 {
		delete(k.shares, x)
	}
	return append(changes, sh.route())
}

// route is what the gateways are to know. With mu held.
func (sh *share) route() routes.Route {
	return routes.Route{Group: sh.Group, Filter: sh.Filter, Durable: len(sh.members) > 0}
}

// online: the routes of s at its gateway are in force everywhere. What is published is for it from now on, and so is what
// was kept.
func (k *Keeper) online(s *session) {
	k.announcing.Lock()
	defer k.announcing.Unlock()
	var changes []routes.Route
	k.mu.Lock()
	if s.here {
		k.mu.Unlock()
		return
	}
	for _, sub := range s.subs {
		x, _ := sharedBy(sub)
		changes = k.part(changes, x, s)
		if sh := k.shares[x]; sh != nil {
			k.kick(sh)
		}
	}
	k.mu.Unlock()
	if len(changes) > 0 {
		k.announce(changes, func() {})
	}
}

// keepShared stores a message for members who are away; false: there are none. With mu held.
func (k *Keeper) keepShared(d mesh.Delivery, a *arrival) bool {
	sh := k.shares[topic.Shared{Group: d.Target.Group, Filter: d.Target.Filter}]
	if sh == nil || len(sh.members) == 0 || d.Message.QoS == message.AtMostOnce {
		return false
	}
	name := sh.record()
	if sh.session == 0 {
		sh.session = sessionID()
		r := store.Record{Client: name, Session: sh.session, Epoch: shareEpoch, Expiry: journal.Never}
		k.pump.push(func() {
			k.deps.Store.Put(0, r, func(err error) { _ = k.check("put shared subscription", err) })
		})
	}
	at := sh.giving.next
	sh.giving.next++
	w := journal.Write{Client: name, Session: sh.session, Epoch: shareEpoch, Changes: []journal.Change{{
		Kind: journal.Append, Entry: journal.Entry{Position: at, Message: d.Message, QoS: d.Message.QoS, Retain: d.Message.Retain},
	}}}
	a.mu.Lock()
	a.waiting++
	a.mu.Unlock()
	k.pump.push(func() {
		k.deps.Store.Write(w, func(left []journal.LeftOut, err error) {
			a.kept(left, err)
			k.work.push(func() { k.stored(sh, at) })
		})
	})
	return true
}

// kept is what has become of the message in the inbox of a shared subscription.
func (a *arrival) kept(left []journal.LeftOut, err error) {
	if err != nil {
		// As in appended: there is no receipt.
		_ = a.k.check("append to the inbox of a shared subscription", err)
		return
	}
	room := len(left) == 0 || left[0].Duplicate
	a.mu.Lock()
	a.stored, a.refused = a.stored || room, a.refused || !room
	a.mu.Unlock()
	if room {
		a.k.metrics.appended.Inc()
	} else {
		a.k.metrics.dropped(dropInbox)
	}
	a.settled()
}

// stored: everything up to a position is in the inbox.
func (k *Keeper) stored(sh *share, at journal.Position) {
	k.mu.Lock()
	defer k.mu.Unlock()
	sh.giving.stored = max(sh.giving.stored, at)
	k.kick(sh)
}

// kick has what is kept given to members who are online. With mu held.
func (k *Keeper) kick(sh *share) {
	if sh.running || sh.over {
		sh.again = true
		return
	}
	sh.running = true
	k.work.push(func() { k.run(sh) })
}

// run gives what there is. In between it lets others have the worker.
func (k *Keeper) run(sh *share) {
	for range givenAtOnce {
		if !k.step(sh) {
			return
		}
	}
	k.work.push(func() { k.run(sh) })
}

// step reads some of what is kept, or gives one message; false: there is nothing more to be done until the next kick.
func (k *Keeper) step(sh *share) bool {
	if !k.deps.Members.Online(sh.Shared) {
		return k.rest(sh)
	}
	k.mu.Lock()
	after, most, wanted := sh.giving.wants()
	id, stored, over := sh.session, sh.giving.stored, sh.over
	var e journal.Entry
	var give bool
	if !wanted && !over {
		e, give = sh.giving.take()
	}
	k.mu.Unlock()
	switch {
	case over:
		return k.rest(sh)
	case wanted:
		entries, err := k.deps.Store.Inbox(sh.record(), id, after, most, sharePageBytes)
		if errors.Is(err, store.ErrFenced) || k.check("read the inbox of a shared subscription", err) != nil {
			return k.rest(sh)
		}
		k.mu.Lock()
		sh.giving.page(entries, stored)
		k.mu.Unlock()
		return true
	case give:
		return k.hand(sh, e) || k.rest(sh)
	}
	return k.rest(sh)
}

// rest ends giving, unless something has happened since it began: then it reports true.
func (k *Keeper) rest(sh *share) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	again := sh.again && !sh.over
	sh.again, sh.running = false, again
	return again
}

// hand gives an entry to a member; false: at no gateway is one that had room just now.
func (k *Keeper) hand(sh *share, e journal.Entry) bool {
	m := *e.Message
	m.QoS, m.Retain = e.QoS, e.Retain
	now := time.Now()
	tired := func(gateway string) bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return now.Before(sh.tired[gateway])
	}
	sent := k.deps.Members.Give(sh.Shared, &m, tired, func(gateway string, o mesh.Outcome) { k.handed(sh, e.Position, gateway, o) })
	if sent {
		return true
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	sh.giving.back(e.Position)
	if !sh.retrying {
		sh.retrying = true
		time.AfterFunc(tiredFor, func() {
			k.mu.Lock()
			defer k.mu.Unlock()
			sh.retrying = false
			k.kick(sh)
		})
	}
	return false
}

// handed is what has become of an entry at a gateway.
func (k *Keeper) handed(sh *share, at journal.Position, gateway string, o mesh.Outcome) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch o {
	case mesh.Acked, mesh.Stored, mesh.Queued, mesh.Refused:
		if o == mesh.Refused {
			k.metrics.dropped(dropRefused)
		}
		sh.giving.done(at)
		if sh.ended = append(sh.ended, at); len(sh.ended) == 1 {
			k.pump.push(func() { k.writeEnds(sh) })
		}
	default:
		sh.giving.back(at)
		if sh.tired == nil {
			sh.tired = make(map[string]time.Time)
		}
		sh.tired[gateway] = time.Now().Add(tiredFor)
	}
	k.kick(sh)
}

// writeEnds has the store forget what members have acknowledged.
func (k *Keeper) writeEnds(sh *share) {
	k.mu.Lock()
	w := journal.Write{Client: sh.record(), Session: sh.session, Epoch: shareEpoch}
	for _, at := range sh.ended {
		w.Changes = append(w.Changes, journal.Change{Kind: journal.Done, Position: at})
	}
	sh.ended = nil
	over := sh.over
	k.mu.Unlock()
	if !over {
		k.deps.Store.Write(w, func(_ []journal.LeftOut, err error) { _ = k.check("write to the inbox of a shared subscription", err) })
	}
}

// lookAfterShares gives what is kept and nothing else has given, and drops what nobody is left for, until the context is done.
func (k *Keeper) lookAfterShares(ctx context.Context) {
	tick := time.NewTicker(k.cfg.ShareTick)
	defer tick.Stop()
	for {
		k.mu.Lock()
		all := make([]*share, 0, len(k.shares))
		for _, sh := range k.shares {
			if sh.session != 0 {
				all = append(all, sh)
			}
		}
		k.mu.Unlock()
		for _, sh := range all {
			k.lookAfter(sh, time.Now())
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// lookAfter does what time brings for one. Nobody is left for it only when all are known who could be: those that are being
// adopted, and those that gateways have, or are about to hand over.
func (k *Keeper) lookAfter(sh *share, now time.Time) {
	online, deserted := k.deps.Members.Online(sh.Shared), k.deps.Members.Deserted(sh.Shared)
	k.mu.Lock()
	defer k.mu.Unlock()
	for gateway, until := range sh.tired {
		if !now.Before(until) {
			delete(sh.tired, gateway)
		}
	}
	if online && !sh.giving.empty() {
		k.kick(sh)
	}
	switch {
	case !deserted || len(sh.members) > 0 || !k.view.known || len(k.orphans) > 0:
		sh.deserted = time.Time{}
	case sh.deserted.IsZero():
		sh.deserted = now
	case now.Sub(sh.deserted) >= k.cfg.Deserted && k.shares[sh.Shared] == sh:
		sh.over = true
		delete(k.shares, sh.Shared)
		k.pump.push(func() { k.dropShare(sh.record()) })
	}
}

// dropShare deletes what was kept of a shared subscription.
func (k *Keeper) dropShare(record string) {
	lost, err := k.deps.Store.Stats(record)
	if k.check("look at the inbox of a shared subscription", err) != nil {
		return
	}
	if lost.Messages > 0 {
		k.metrics.drops.WithLabelValues(dropDeserted).Add(float64(lost.Messages))
		k.deps.Logger.Warn("messages of a shared subscription are dropped: nobody is left who could get them",
			slog.String("share", strings.TrimPrefix(record, shareKey)), slog.Uint64("messages", lost.Messages))
	}
	k.deps.Store.Delete(record, shareEpoch, func(err error) { _ = k.check("delete shared subscription", err) })
}
