package away

import (
	"errors"
	"fmt"
	"slices"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/pages"
	"github.com/beeline-mqtt/beeline/internal/topic"
)

// Why a session cannot be removed.
var (
	// ErrNoSession: the client has no durable session.
	ErrNoSession = errors.New("the client has no durable session")
	// ErrHeld: a gateway holds it.
	ErrHeld = errors.New("a gateway holds the session")
)

// atOnce is how many sessions are looked at with the lock held: some hundred microseconds.
const atOnce = 1024

// Absent is the durable session of a client that is away.
type Absent struct {
	Client        string
	Subscriptions int
}

// List returns the sessions of absent clients, by client id: those of a range, at most so many. complete is the id up to
// which there are no others; empty: there are none at all.
func (k *Keeper) List(r pages.Range, most int) (sessions []Absent, complete string) {
	lowest := pages.NewLowest[[]journal.Subscription](most)
	k.each(func(s *session) {
		if s.stored && s.rec.Session != 0 && s.rec.Holder == "" && r.Has(s.client) {
			lowest.Offer(s.client, s.subs) // replaced, never changed
		}
	})
	found, more := lowest.Take()
	for _, e := range found {
		sessions = append(sessions, Absent{Client: e.ID, Subscriptions: len(e.Value) - len(groupsOf(e.Value))})
	}
	if more {
		complete = found[len(found)-1].ID
	}
	return sessions, complete
}

// groupsOf are the groups whose messages a session gets by subscriptions that are kept for its client.
func groupsOf(subs []journal.Subscription) (groups []string) {
	for _, s := range subs {
		if group, err := topic.ParseGroup(s.Filter); err == nil {
			groups = append(groups, group)
		}
	}
	slices.Sort(groups)
	return groups
}

// each calls f for every client, with mu held, which others get in between: of those that come and go meanwhile some are
// left out.
func (k *Keeper) each(f func(*session)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := 0
	for _, s := range k.clients {
		if n++; n%atOnce == 0 {
			k.mu.Unlock()
			k.mu.Lock()
		}
		f(s)
	}
}

// Receiver is an absent client for which a message would be kept.
type Receiver struct {
	Client string
	// Filters that match, as the client wrote them; none: the topic names the client.
	Filters []string
	QoS     byte
}

// Receivers returns for whom a message on a topic would be kept, by client id: at most so many, and how many there are.
func (k *Keeper) Receivers(name string, most int) (all []Receiver, total int) {
	if topic.IsDirect(name) {
		id, err := topic.ParseDirect(name)
		if err != nil || !k.isHere(id) {
			return nil, 0
		}
		return []Receiver{{Client: id, QoS: message.ExactlyOnce}}, 1
	}
	lowest := pages.NewLowest[[]journal.Subscription](most)
	for matches := range slices.Chunk(k.index.Match(name, nil, nil), atOnce) {
		k.mu.Lock()
		for i := range matches {
			if s := matches[i].Key; s.here && s.stored && matches[i].QoS > message.AtMostOnce {
				total++
				lowest.Offer(s.client, s.subs) // replaced, never changed
			}
		}
		k.mu.Unlock()
	}
	found, _ := lowest.Take()
	for _, e := range found {
		r := Receiver{Client: e.ID}
		for _, sub := range e.Value {
			if ordinary(sub) && topic.Match(sub.Filter, name) {
				r.Filters = append(r.Filters, sub.Filter)
				r.QoS = max(r.QoS, sub.Options.QoS)
			}
		}
		slices.Sort(r.Filters)
		all = append(all, r)
	}
	return all, total
}

// isHere reports whether the session of a client is held here.
func (k *Keeper) isHere(client string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.clients[client]
	return s != nil && s.here && s.stored
}

// peekBytes bounds the messages that are read to be shown.
const peekBytes = 1 << 20

// Peek returns the oldest entries of a client's inbox, at most so many. It fails with store.ErrFenced when the client has no
// such session.
func (k *Keeper) Peek(client string, id journal.SessionID, most int) ([]journal.Entry, error) {
	entries, err := k.deps.Store.Inbox(client, id, 0, most, peekBytes)
	if err != nil {
		return nil, fmt.Errorf("peek into inbox: %w", err)
	}
	return entries, nil
}

// Remove ends the session of an absent client, as if its time had passed: its will is published, and everything is
// forgotten that was kept. done gets ErrNoSession, ErrHeld, or an error of the store.
func (k *Keeper) Remove(client string, done func(error)) {
	k.with(client, func(s *session) {
		finish := func(err error) {
			k.release(s)
			done(err)
		}
		k.mu.Lock()
		r, stored := s.rec, s.stored
		k.mu.Unlock()
		switch {
		case !stored || r.Session == 0:
			k.work.push(func() { finish(ErrNoSession) })
		case r.Holder != "":
			k.work.push(func() { finish(ErrHeld) })
		default:
			k.settleFate(s, r, leaseOf(r), fate{over: true, fire: r.Will != nil}, finish)
		}
	})
}
