package broker

import (
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/routes"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
)

// settleGrace is how long a session that has moved here waits, after every publisher's gateway routes to it, for older
// messages that were sent to where it was before. Then their order is given up.
const settleGrace = 100 * time.Millisecond

// ghosts are durable clients whose connection here has ended and whose subscriptions stay in the index until
// somebody else gets their messages: whatever matches them until then is answered MOVED.
type ghosts struct {
	mu sync.Mutex
	m  map[string][]*client.Client
}

func (g *ghosts) add(c *client.Client) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.m == nil {
		g.m = make(map[string][]*client.Client)
	}
	g.m[c.ID] = append(g.m[c.ID], c)
}

// take removes and returns the ghosts of a client under leases older than epoch.
func (g *ghosts) take(id string, epoch uint64) []*client.Client {
	g.mu.Lock()
	defer g.mu.Unlock()
	var taken []*client.Client
	left := slices.DeleteFunc(g.m[id], func(c *client.Client) bool {
		older := c.Epoch() < epoch
		if older {
			taken = append(taken, c)
		}
		return older
	})
	if len(left) == 0 {
		delete(g.m, id)
	} else {
		g.m[id] = left
	}
	return taken
}

// lingering is how long a ghost stays when nobody sends it messages any more. What was sent before may still be on its
// way, and would find nobody; its publisher would be told that all is well.
const lingering = time.Second

// Forget drops, after a while, what is left of a client's sessions under leases older than epoch: its messages go to its
// new holder only.
func (b *Broker) Forget(clientID string, epoch uint64) {
	time.AfterFunc(lingering, func() { b.forget(clientID, epoch) })
}

// forget is Forget at once: for a client that is here again.
func (b *Broker) forget(clientID string, epoch uint64) {
	for _, c := range b.ghosts.take(clientID, epoch) {
		for _, f := range c.Filters() {
			b.Unsubscribe(c, f)
		}
	}
}

// restore enters what a durable client is subscribed to, and returns the routes that are to be announced: before the
// client is known to be here, because what is sent after it would find nothing that matches.
func (b *Broker) restore(c *client.Client) []routes.Route {
	b.announcing.Lock()
	defer b.announcing.Unlock()
	var changes []routes.Route
	for _, s := range c.Restored() {
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
			b.deps.Leases.Settled(c.ID, c.Epoch())
			time.AfterFunc(settleGrace, c.Settled)
			time.AfterFunc(settleGrace+b.cfg.ReceiptTimeout, c.ForgetSeen)
		default:
			select {
			case <-c.Stopped():
			default:
				b.settle(c, changes)
			}
		}
	})
}
