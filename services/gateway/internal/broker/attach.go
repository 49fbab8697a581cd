package broker

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/lease"
)

// Attach makes c the connection of its client id: the one before on this gateway ends, the session service
// ends the one on any other gateway and records the lease. See client.Broker.
func (b *Broker) Attach(ctx context.Context, c *client.Client) error {
	if b.clients.count.Load() >= int64(b.cfg.MaxClients) && b.clients.get(c.ID).current == nil {
		return client.ErrTooManyClients
	}
	former := b.clients.put(c)
	if former != nil {
		former.Stop(client.TakenOver())
		// Even when c itself is to end: whoever replaces c waits for c alone, and so for everybody before it. It
		// does not take long, because former has been told.
		<-former.Gone()
	}
	err := b.deps.Leases.Claim(ctx, c.ID, c.SetEpoch)
	switch {
	case b.clients.get(c.ID).current != c:
		// A newer connection on this gateway waits for this one to be gone; it takes the lease over.
		return client.ErrReplaced
	case errors.Is(err, lease.ErrSuperseded):
		b.clients.remove(c)
		return client.ErrReplaced
	case err != nil:
		b.clients.remove(c)
		if former != nil && former.Epoch() > 0 {
			b.deps.Leases.Release(c.ID, former.Epoch())
		}
		return fmt.Errorf("claim %q: %w", c.ID, err)
	}
	return nil
}

// Detach drops what c subscribed to and gives its lease up, unless a newer connection has taken it over.
func (b *Broker) Detach(c *client.Client) {
	for _, f := range c.Filters() {
		b.Unsubscribe(c, f)
	}
	if b.clients.remove(c) {
		b.deps.Leases.Release(c.ID, c.Epoch())
	}
}

// Evict ends the connection of a client whose lease another gateway has taken at epoch, and calls done when
// it is gone. It does not wait.
func (b *Broker) Evict(clientID string, epoch uint64, done func()) {
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
	c.Stop(client.TakenOver())
	b.background.Go(func() {
		<-c.Gone()
		done()
	})
}

// Holdings yields the clients held here with their epochs.
func (b *Broker) Holdings() iter.Seq2[string, uint64] {
	return func(yield func(string, uint64) bool) {
		for i := range shards {
			var all []*client.Client
			b.clients.each(i, func(c *client.Client) { all = append(all, c) })
			for _, c := range all {
				if e := c.Epoch(); e > 0 && !yield(c.ID, e) {
					return
				}
			}
		}
	}
}
