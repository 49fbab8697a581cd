package away

import (
	"sync/atomic"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

// Managed subscriptions, those of groups, are not stored with a session: they follow from the groups of its client and of
// its user.

// state reads what is stored of a session, with the subscriptions that are managed for its client.
func (k *Keeper) state(r store.Record) (journal.State, error) {
	st, err := k.deps.Store.State(r.Client, r.Session)
	if err != nil {
		return st, err
	}
	for _, f := range k.deps.Managed(r.Client, r.User) {
		st.Subscriptions = append(st.Subscriptions, journal.Subscription{Filter: f, Options: ManagedOptions()})
	}
	return st, nil
}

// ManagedOptions are those of every managed subscription: a member gets what others publish, as they published it.
func ManagedOptions() subscriptions.Options {
	return subscriptions.Options{QoS: message.ExactlyOnce, NoLocal: true}
}

// setUser notes the user of s. With mu held.
func (k *Keeper) setUser(s *session, user string) {
	was := s.rec.User
	if was == user {
		return
	}
	if delete(k.users[was], s); len(k.users[was]) == 0 {
		delete(k.users, was)
	}
	if user == "" {
		return
	}
	if k.users[user] == nil {
		k.users[user] = map[*session]struct{}{}
	}
	k.users[user][s] = struct{}{}
}

// UserClients returns the clients with a session that have connected as a user last, wherever they are.
func (k *Keeper) UserClients(user string) []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var clients []string
	for s := range k.users[user] {
		if s.rec.Session != 0 {
			clients = append(clients, s.client)
		}
	}
	return clients
}

// Manage is called when Managed has begun to answer differently for members: the sessions among them that are here get
// what they are to get from now on. done is called once, when the whole cluster routes accordingly.
func (k *Keeper) Manage(members []store.Member, done func()) {
	var concerned []string
	k.mu.Lock()
	note := func(s *session) {
		// One about which something is under way may be here when that is over.
		if s != nil && (s.here || s.busy) {
			concerned = append(concerned, s.client)
		}
	}
	for _, m := range members {
		if !m.User {
			note(k.clients[m.Name])
			continue
		}
		for s := range k.users[m.Name] {
			note(s)
		}
	}
	k.mu.Unlock()
	var left atomic.Int64
	left.Store(int64(len(concerned)) + 1)
	one := func() {
		if left.Add(-1) == 0 {
			done()
		}
	}
	for _, client := range concerned {
		k.with(client, func(s *session) { k.work.push(func() { k.manage(s, one) }) })
	}
	one()
}

// manage enters a session that is here anew; s is locked.
func (k *Keeper) manage(s *session, done func()) {
	k.mu.Lock()
	r, here := s.rec, s.here
	k.mu.Unlock()
	if !here {
		k.release(s)
		done()
		return
	}
	st, err := k.state(r)
	if k.check("read session", err) != nil {
		k.release(s)
		done()
		return
	}
	k.enter(s, st.Subscriptions, func() {}, done)
	k.release(s)
}
