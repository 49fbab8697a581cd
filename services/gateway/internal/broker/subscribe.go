package broker

import (
	"errors"

	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/routes"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
)

// Subscribe adds a subscription and calls done once: with nil when every other process that could publish
// routes to this gateway. See client.Broker.
func (b *Broker) Subscribe(c *client.Client, filter string, o subscriptions.Options, done func(error) (withdraw bool)) {
	inForce := func(err error) {
		if err == nil || errors.Is(err, mesh.ErrClosed) {
			// When the mesh has closed the gateway is going away, and nobody is told of routes any more.
			done(err)
			return
		}
		// Under the lock, so that the client cannot subscribe again between its decision and what follows from it.
		b.announcing.Lock()
		defer b.announcing.Unlock()
		if done(err) {
			b.unsubscribe(c, filter)
		}
	}
	b.announcing.Lock()
	defer b.announcing.Unlock()
	r, ok := b.enter(c, filter, o)
	if !ok {
		done(client.ErrTooManyMembers)
		return
	}
	b.deps.Mesh.Announce([]routes.Route{r}, inForce)
}

// enter adds a subscription here and returns the route that is to be announced; false when its shared subscription has
// as many members as it may. With b.announcing held.
func (b *Broker) enter(c *client.Client, filter string, o subscriptions.Options) (routes.Route, bool) {
	s, shared, _ := topic.ParseShared(filter) // valid: the client has checked it
	if !shared {
		if _, had := b.subs.Subscribe(filter, c, o); !had && c.Durable() {
			count(b.durable, filter, 1)
		}
		return b.route(filter), true
	}
	r, ok := b.groups.join(s, c, o, b.cfg.GroupMembers)
	if !ok {
		return routes.Route{}, false
	}
	b.deps.Routes.Announce(b.self, r)
	return r, true
}

// Unsubscribe drops a subscription, and its route with the last one.
func (b *Broker) Unsubscribe(c *client.Client, filter string) {
	b.announcing.Lock()
	defer b.announcing.Unlock()
	b.unsubscribe(c, filter)
}

// unsubscribe is Unsubscribe with b.announcing held.
func (b *Broker) unsubscribe(c *client.Client, filter string) {
	s, shared, _ := topic.ParseShared(filter)
	if !shared {
		b.unsubscribeOrdinary(c, filter)
		return
	}
	if r, was := b.groups.leave(s, c, false); was {
		b.announceShared(r)
	}
}

// announceShared tells this gateway and the peers about a shared subscription whose members have changed. With
// b.announcing held.
func (b *Broker) announceShared(r routes.Route) {
	b.deps.Routes.Announce(b.self, r)
	b.deps.Mesh.Announce([]routes.Route{r}, notAwaited)
}

// unsubscribeOrdinary drops a subscription that is not shared. With b.announcing held.
func (b *Broker) unsubscribeOrdinary(c *client.Client, filter string) {
	before := b.route(filter)
	if _, found := b.subs.Unsubscribe(filter, c); !found {
		return
	}
	if c.Durable() {
		count(b.durable, filter, -1)
	}
	if b.route(filter) != before {
		b.announce(filter)
	}
}

// notAwaited is for withdrawals: a peer that does not know of one yet sends in vain, no more.
func notAwaited(error) {}
