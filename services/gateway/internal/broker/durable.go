package broker

import (
	"errors"
	"time"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/routes"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
)

// restore enters what a client came with, its session's or managed, and returns the routes that are to be announced: before the
// client is known to be here, because what is sent after it would find nothing that matches.
func (b *Broker) restore(c *client.Client, subs []journal.Subscription) []routes.Route {
	if len(subs) == 0 {
		return nil
	}
	b.announcing.Lock()
	defer b.announcing.Unlock()
	var changes []routes.Route
	for _, s := range subs {
		if r, ok := b.enter(c, s.Filter, s.Options); ok {
			changes = append(changes, r)
		}
	}
	return changes
}

// settle announces the routes of a durable client until they are in force, and tells the session service, unless c has
// gone by then.
func (b *Broker) settle(c *client.Client, changes []routes.Route) {
	b.deps.Mesh.Announce(changes, func(err error) {
		switch {
		case errors.Is(err, mesh.ErrClosed):
		case err == nil:
			b.forget(c.ID, c.Epoch())
			c.SetRoutesInForce()
			b.deps.Leases.Settled(c.ID, c.Epoch())
			b.deps.Mesh.SendOn(c.ID, b.cfg.Settle, c.Settled)
			time.AfterFunc(b.cfg.Settle+b.cfg.ReceiptTimeout+b.cfg.Linger, c.ForgetSeen)
		default:
			select {
			case <-c.Stopped():
			default:
				b.announcing.Lock()
				defer b.announcing.Unlock()
				for i := range changes {
					changes[i] = b.still(changes[i])
				}
				b.settle(c, changes)
			}
		}
	})
}
