package broker

import (
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/beeline-mqtt/beeline/internal/routes"
	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
)

// ghosts are durable clients whose connection here has ended and whose subscriptions stay in the index until
// somebody else gets their messages: whatever matches them until then is answered MOVED. Their shared subscriptions take
// nothing, and are announced as those of members who are away, so that whoever publishes waits until somebody keeps it.
type ghosts struct {
	mu sync.Mutex
	m  map[string][]ghost
}

// ghost is one of them. It lingers when nobody sends it anything any more: what was sent before may still be on its way.
type ghost struct {
	c       *client.Client
	lingers bool
}

func (g *ghosts) add(c *client.Client) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.m == nil {
		g.m = make(map[string][]ghost)
	}
	g.m[c.ID] = append(g.m[c.ID], ghost{c: c})
}

// linger marks the ghosts of a client under leases older than epoch, and returns those that were not marked before.
func (g *ghosts) linger(id string, epoch uint64) []*client.Client {
	g.mu.Lock()
	defer g.mu.Unlock()
	var marked []*client.Client
	for i := range g.m[id] {
		if x := &g.m[id][i]; !x.lingers && x.c.Epoch() < epoch {
			x.lingers = true
			marked = append(marked, x.c)
		}
	}
	return marked
}

// take removes and returns the ghosts of a client under leases older than epoch.
func (g *ghosts) take(id string, epoch uint64) []ghost {
	g.mu.Lock()
	defer g.mu.Unlock()
	var taken []ghost
	left := slices.DeleteFunc(g.m[id], func(x ghost) bool {
		older := x.c.Epoch() < epoch
		if older {
			taken = append(taken, x)
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

// all yields the clients of which there is a ghost that does not linger, with its epoch.
func (g *ghosts) all() iter.Seq2[string, uint64] {
	return func(yield func(string, uint64) bool) {
		g.mu.Lock()
		defer g.mu.Unlock()
		for id, list := range g.m {
			for _, x := range list {
				if !x.lingers && !yield(id, x.c.Epoch()) {
					return
				}
			}
		}
	}
}

// Ghosts yields the durable clients for which this gateway answers MOVED and has not been told to forget them, with the
// epochs at which it held them. The broker is not to be called meanwhile.
func (b *Broker) Ghosts() iter.Seq2[string, uint64] { return b.ghosts.all() }

// Forget withdraws the routes of what is left of a client's sessions under leases older than epoch: its messages go to
// its new holder only. What publishers at peers sent here before, and still wait for, is answered MOVED for as long as they
// do; what is published here from now on goes by the routes, which its new holder has announced to this gateway too.
func (b *Broker) Forget(clientID string, epoch uint64) {
	marked := b.ghosts.linger(clientID, epoch)
	if len(marked) == 0 {
		return
	}
	b.announcing.Lock()
	defer b.announcing.Unlock()
	for _, c := range marked {
		c.SetForgotten()
		b.forgetShared(c)
		for _, filter := range ordinary(c) {
			b.lingering[filter]++
			b.announce(filter)
		}
	}
	time.AfterFunc(b.cfg.Linger, func() { b.forget(clientID, epoch) })
}

// forget drops the ghosts of a client under leases older than epoch. The client is here again, or nobody waits for what
// was sent to them.
func (b *Broker) forget(clientID string, epoch uint64) {
	taken := b.ghosts.take(clientID, epoch)
	b.announcing.Lock()
	defer b.announcing.Unlock()
	for _, x := range taken {
		b.forgetShared(x.c)
		for _, filter := range ordinary(x.c) {
			if x.lingers {
				count(b.lingering, filter, -1)
			}
			b.unsubscribe(x.c, filter)
		}
	}
}

// forgetShared drops a ghost from its shared subscriptions: the session service keeps their messages, or the client is
// online again. With b.announcing held.
func (b *Broker) forgetShared(c *client.Client) {
	for _, filter := range c.Filters() {
		if s, shared, _ := topic.ParseShared(filter); shared {
			if r, was := b.groups.forget(s, c); was {
				b.announceShared(r)
			}
		}
	}
}

// ordinary are the filters of a client but those of shared subscriptions, which are not in the index.
func ordinary(c *client.Client) []string {
	return slices.DeleteFunc(c.Filters(), func(filter string) bool {
		_, shared, _ := topic.ParseShared(filter) // valid: the client has checked it
		return shared
	})
}

// route is that of an ordinary filter, as it is to be announced. With b.announcing held.
func (b *Broker) route(filter string) routes.Route {
	lingering := b.lingering[filter]
	r := routes.Route{Filter: filter, Durable: b.durable[filter] > lingering}
	if b.subs.Count(filter) > lingering {
		r.Members = 1
	}
	return r
}

// still is r as it is to be announced by now. With b.announcing held.
func (b *Broker) still(r routes.Route) routes.Route {
	if r.Group == "" {
		return b.route(r.Filter)
	}
	return b.groups.route(topic.Shared{Group: r.Group, Filter: r.Filter})
}

// announce tells the peers about an ordinary filter whose subscribers have changed. With b.announcing held.
func (b *Broker) announce(filter string) {
	b.deps.Mesh.Announce([]routes.Route{b.route(filter)}, notAwaited)
}

// count adds n to a filter's count, and keeps no zero.
func count(counts map[string]int, filter string, n int) {
	counts[filter] += n
	if counts[filter] == 0 {
		delete(counts, filter)
	}
}
