package broker

import (
	"context"
	"errors"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/routes"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/lease"
)

// managedOptions are those of every managed subscription: a member gets what others publish, as they published it.
func managedOptions() subscriptions.Options {
	return subscriptions.Options{QoS: message.ExactlyOnce, NoLocal: true}
}

// membershipOf is what a managed filter comes from.
func membershipOf(m lease.Managed) client.Membership {
	var by client.Membership
	if m.ByClient {
		by |= client.ByClient
	}
	if m.ByUser {
		by |= client.ByUser
	}
	return by
}

// manage gives a client that is about to be granted what it gets without having subscribed, and returns that as
// subscriptions.
func manage(c *client.Client, all []lease.Managed) []journal.Subscription {
	var subs []journal.Subscription
	for _, m := range all {
		if c.Join(m.Filter, membershipOf(m)) {
			subs = append(subs, journal.Subscription{Filter: m.Filter, Options: managedOptions()})
		}
	}
	return subs
}

// awaitRoutes returns when the cluster routes to a client that is being attached, or ctx has ended.
func (b *Broker) awaitRoutes(ctx context.Context, changes []routes.Route) {
	done := make(chan struct{})
	b.announceUntil(changes, func() { close(done) })
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// announceUntil announces routes until every peer that counts has them, and calls done then; it does not when the mesh
// closes. Somebody may have given a filter up in the meantime: what is announced again is what holds then.
func (b *Broker) announceUntil(changes []routes.Route, done func()) {
	b.deps.Mesh.Announce(changes, func(err error) {
		switch {
		case err == nil:
			done()
		case errors.Is(err, mesh.ErrClosed):
		default:
			b.announcing.Lock()
			defer b.announcing.Unlock()
			for i := range changes {
				changes[i] = b.still(changes[i])
			}
			b.announceUntil(changes, done)
		}
	})
}

// ChangeMembers has members of a group that are connected here get its messages, or not any more. done is called when
// every other gateway routes accordingly. See lease.Config.OnMembers.
func (b *Broker) ChangeMembers(m lease.MembersChange, done func()) {
	var concerned []*client.Client
	for _, id := range m.Clients {
		if c := b.clients.get(id).current; c != nil {
			concerned = append(concerned, c)
		}
	}
	changed := b.changeMembers(m.Filter, m.Joined, client.ByClient, concerned)
	if len(m.Users) > 0 {
		users := make(map[string]struct{}, len(m.Users))
		for _, u := range m.Users {
			users[u] = struct{}{}
		}
		concerned = concerned[:0]
		for c := range b.Clients() {
			if _, is := users[c.Identity.Username]; is && c.Identity.Username != "" {
				concerned = append(concerned, c)
			}
		}
		changed = b.changeMembers(m.Filter, m.Joined, client.ByUser, concerned) || changed
	}
	if !m.Joined || !changed {
		done()
		return
	}
	b.announcing.Lock()
	defer b.announcing.Unlock()
	b.announceUntil([]routes.Route{b.route(m.Filter)}, done)
}

// changeMembers changes what clients get, and reports whether that has changed anything. One whose lease has not been
// granted yet learns it with the grant.
func (b *Broker) changeMembers(filter string, joined bool, by client.Membership, clients []*client.Client) (changed bool) {
	b.announcing.Lock()
	defer b.announcing.Unlock()
	for _, c := range clients {
		switch {
		case c.Epoch() == 0:
		case joined:
			if c.Join(filter, by) {
				b.enter(c, filter, managedOptions())
				changed = true
			}
		case c.Part(filter, by):
			b.unsubscribe(c, filter)
			changed = true
		}
	}
	return changed
}

// SetManaged has clients that are here get exactly this without having subscribed. done is called when every other gateway
// routes accordingly. See lease.Config.OnManaged.
func (b *Broker) SetManaged(clients []lease.ManagedClient, done func()) {
	b.announcing.Lock()
	defer b.announcing.Unlock()
	filters := make(map[string]struct{})
	for _, x := range clients {
		if c := b.clients.get(x.ClientID).current; c != nil && c.Epoch() != 0 {
			b.setManaged(c, x.Managed, filters)
		}
	}
	changes := make([]routes.Route, 0, len(filters))
	for f := range filters {
		changes = append(changes, b.route(f))
	}
	b.announceUntil(changes, done)
}

// setManaged is SetManaged for one client; it notes the filters that it gets. With b.announcing held.
func (b *Broker) setManaged(c *client.Client, all []lease.Managed, filters map[string]struct{}) {
	keep := make(map[string]client.Membership, len(all))
	for _, m := range all {
		keep[m.Filter] = membershipOf(m)
		filters[m.Filter] = struct{}{}
	}
	for filter, by := range c.Memberships() {
		if c.Part(filter, by&^keep[filter]) {
			b.unsubscribe(c, filter)
		}
	}
	for filter, by := range keep {
		if c.Join(filter, by) {
			b.enter(c, filter, managedOptions())
		}
	}
}
