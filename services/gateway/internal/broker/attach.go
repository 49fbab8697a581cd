package broker

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"

	"github.com/beeline-mqtt/beeline/internal/routes"
	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/lease"
)

// Attach makes c the connection of its client id: the one before on this gateway ends, the session service
// ends the one on any other gateway and records the lease. See client.Broker.
func (b *Broker) Attach(ctx context.Context, c *client.Client) error {
	former, ok := b.clients.put(c, b.cfg.MaxClients)
	if !ok {
		return client.ErrTooManyClients
	}
	if former != nil {
		former.Stop(client.TakenOver())
		// Even when c itself is to end: whoever replaces c waits for c alone, and so for everybody before it. It
		// does not take long, because former has been told.
		<-former.Gone()
		b.clients.ended(former)
		b.releaseEnded(former)
	}
	terms := c.Terms()
	request := lease.Request{ClientID: c.ID, Username: c.Identity.Username, CleanStart: terms.CleanStart, Expiry: terms.Expiry, Will: terms.Will}
	var restored []routes.Route
	err := b.deps.Leases.Claim(ctx, request, func(g lease.Grant) {
		b.direct.arrived(c.ID)
		c.Open(g.Epoch, g.Session)
		subs := manage(c, g.Managed)
		if c.Durable() {
			subs = append(subs, g.Session.Subscriptions...)
		}
		restored = b.restore(c, subs)
		b.early.granted(c, g.Epoch)
	})
	switch {
	case b.clients.get(c.ID).current != c:
		// A newer connection on this gateway waits for this one to be gone; it takes the lease over.
		b.withdraw(c)
		return client.ErrReplaced
	case errors.Is(err, lease.ErrSuperseded):
		b.clients.remove(c)
		b.early.refuse(c.ID)
		return client.ErrReplaced
	case err != nil:
		b.leave(c)
		return fmt.Errorf("claim %q: %w", c.ID, err)
	}
	if !c.Continued() && len(restored) > 0 {
		// Nobody else gets its messages until the cluster routes to it.
		b.awaitRoutes(ctx, restored)
	}
	if c.Durable() {
		b.settle(c, restored)
	}
	return nil
}

// releaseEnded gives up the lease of a connection that had ended by itself before somebody newer came for its client, if
// the session service has to know how: otherwise it would take the newer one's claim for a takeover, which publishes
// the will. That may be a claim of another gateway, which this one has heard of already: the lease counts as lost then,
// and is given up all the same. It reports whether it has been.
func (b *Broker) releaseEnded(c *client.Client) bool {
	e := c.Ending()
	said := e.NewExpiry != nil || e.WithoutWill && c.Terms().Will != nil
	if !said || c.Epoch() == 0 {
		return false
	}
	b.release(c, c.Epoch())
	return true
}

func (b *Broker) release(c *client.Client, epoch uint64) {
	e := c.Ending()
	b.deps.Leases.Release(c.ID, epoch, lease.Ending{WithoutWill: e.WithoutWill, Expiry: e.NewExpiry, Reason: e.Reason})
}

// leave drops c and the lease that it holds, or has inherited, unless a newer connection has taken it over.
func (b *Broker) leave(c *client.Client) {
	// Before it is dropped: nobody is told that c is gone before the session service has been told how it went.
	released := b.clients.get(c.ID).current == c && b.releaseEnded(c)
	epoch, was := b.clients.remove(c)
	if !was {
		return
	}
	b.early.refuse(c.ID)
	if epoch > 0 && !released && !c.LeaseLost() {
		b.release(c, epoch)
	}
}

// Detach drops what c subscribed to and gives its lease up, unless a newer connection has taken it over. What a
// session that goes on subscribes to stays until Forget.
func (b *Broker) Detach(c *client.Client) {
	b.withdraw(c)
	b.leave(c)
}

// withdraw drops what c subscribed to, or makes a ghost of it if its session goes on.
func (b *Broker) withdraw(c *client.Client) {
	goesOn := c.Continues()
	for _, f := range c.Filters() {
		s, shared, _ := topic.ParseShared(f)
		switch {
		case !goesOn:
			b.Unsubscribe(c, f)
		case shared:
			b.announcing.Lock()
			if r, was := b.groups.leave(s, c, true); was {
				b.announceShared(r)
			}
			b.announcing.Unlock()
		}
	}
	if goesOn {
		b.ghosts.add(c)
	}
}

// Evict ends the connection of a client whose lease another gateway has taken at epoch, and calls done when
// it is gone. It does not wait.
func (b *Broker) Evict(clientID string, epoch uint64, done func()) {
	b.early.evicted(clientID, epoch)
	e := b.clients.get(clientID)
	c := e.current
	if c != nil && c.Epoch() == 0 {
		// Its own claim is still on its way and will be newer than epoch, or it would have been granted before this
		// eviction was told. But the connection that it replaces may still be ending.
		c = e.former
	}
	if c == nil || c.Epoch() >= epoch {
		done()
		return
	}
	c.LoseLease()
	c.Stop(client.TakenOver())
	b.background.Go(func() {
		<-c.Gone()
		done()
	})
}

// Clients yields the connections that are here, attached or about to be, beginning anywhere. Those that come or go
// meanwhile may be left out.
func (b *Broker) Clients() iter.Seq[*client.Client] {
	return func(yield func(*client.Client) bool) {
		first := rand.IntN(shards) // whoever takes only some does not always take the same
		for i := range shards {
			var all []*client.Client
			b.clients.each((first+i)%shards, func(e entry) { all = append(all, e.current) })
			for _, c := range all {
				if !yield(c) {
					return
				}
			}
		}
	}
}

// Len is how many clients are here, or are about to be, without the cluster's own services.
func (b *Broker) Len() int { return int(b.clients.count.Load()) }

// Holdings yields the clients held here with their leases, those among them whose connection is being replaced.
func (b *Broker) Holdings() iter.Seq2[string, lease.Held] {
	return func(yield func(string, lease.Held) bool) {
		for i := range shards {
			var all []entry
			b.clients.each(i, func(e entry) { all = append(all, e) })
			for _, e := range all {
				held := lease.Held{Epoch: e.epoch(), Username: e.current.Identity.Username, Durable: e.current.Ending().Expiry > 0}
				held.Settled = held.Epoch == e.current.Epoch() && e.current.RoutesInForce()
				if held.Epoch > 0 && !yield(e.current.ID, held) {
					return
				}
			}
		}
	}
}
