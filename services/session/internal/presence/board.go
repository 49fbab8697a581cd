package presence

import (
	"slices"
	"strings"
	"time"

	"github.com/beeline-mqtt/beeline/internal/message"
)

// Board is who is connected, and the History of that. For each connected there is one disconnected, before the next
// connected of the same client.
type Board struct {
	*History

	clients  map[string]*client
	gateways map[string]*gateway
	dead     []*gateway // that have clients which are still to be told of
}

// client is one that is connected. There may be a million of them.
type client struct {
	id      string
	at      *gateway
	epoch   uint64
	place   int // among the clients of its gateway
	durable bool
}

type gateway struct {
	id      string
	seen    uint64 // the greatest epoch at which it was alive
	died    bool
	clients []*client
}

// NewBoard returns one on which nobody is connected.
func NewBoard(h *History) *Board {
	return &Board{History: h, clients: map[string]*client{}, gateways: map[string]*gateway{}}
}

// Len is how many clients are connected.
func (b *Board) Len() int { return len(b.clients) }

// Connect says that a client has been granted to a gateway. Its former connection has ended with that. Nobody is told of the
// cluster's own services.
func (b *Board) Connect(now time.Time, id string, c Connection) {
	if strings.HasPrefix(id, message.ServicePrefix) {
		return
	}
	if former := b.clients[id]; former != nil {
		if former.epoch >= c.Epoch {
			return
		}
		reason := Replaced
		if former.at.died {
			reason = GatewayDied
		}
		b.disconnect(now, former, reason)
	}
	b.put(id, c)
	b.add(Event{Connected: true, Client: id, Connection: c, Time: now})
}

// Show says that a gateway shows a client as its own, which may have connected at any time before. Nothing has changed if
// nothing else was known of it.
func (b *Board) Show(now time.Time, id string, c Connection) {
	if strings.HasPrefix(id, message.ServicePrefix) {
		return
	}
	if b.clients[id] != nil {
		b.Connect(now, id, c)
		return
	}
	b.put(id, c)
}

// Leave says that a gateway has given a client up, at an epoch; 0: whichever it had it at. Of another connection nothing is
// said. sessionEnds: no session of it is kept.
func (b *Board) Leave(now time.Time, id, from string, epoch uint64, r Reason, sessionEnds bool) {
	c := b.clients[id]
	if c == nil || c.at.id != from || epoch != 0 && epoch != c.epoch {
		return
	}
	c.durable = c.durable && !sessionEnds
	b.disconnect(now, c, r)
}

// Evicted says that a gateway has no connection of a client left that is older than an epoch.
func (b *Board) Evicted(now time.Time, id, from string, epoch uint64) {
	if c := b.clients[id]; c != nil && c.at.id == from && c.epoch < epoch {
		b.disconnect(now, c, Replaced)
	}
}

// View is a list of living gateways, complete up to an epoch. The clients of others have disconnected, which Bury is to tell
// of if there are any.
func (b *Board) View(living []string, epoch uint64) (died bool) {
	for id, g := range b.gateways {
		if epoch < g.seen || slices.Contains(living, id) {
			continue
		}
		delete(b.gateways, id)
		g.died = true
		b.dead = append(b.dead, g)
	}
	return len(b.dead) > 0
}

// Bury tells of at most so many clients of gateways that have died, and reports whether there are more.
func (b *Board) Bury(now time.Time, most int) (more bool) {
	for len(b.dead) > 0 {
		g := b.dead[0]
		for ; most > 0 && len(g.clients) > 0; most-- {
			b.disconnect(now, g.clients[len(g.clients)-1], GatewayDied)
		}
		if len(g.clients) > 0 {
			return true
		}
		b.dead = b.dead[1:]
	}
	return false
}

func (b *Board) put(id string, c Connection) {
	g := b.gateways[c.Gateway]
	if g == nil {
		g = &gateway{id: c.Gateway}
		b.gateways[c.Gateway] = g
	}
	g.seen = max(g.seen, c.Epoch)
	b.clients[id] = &client{id: id, at: g, epoch: c.Epoch, durable: c.Durable, place: len(g.clients)}
	g.clients = append(g.clients, b.clients[id])
}

func (b *Board) disconnect(now time.Time, c *client, r Reason) {
	delete(b.clients, c.id)
	last := len(c.at.clients) - 1
	c.at.clients[c.place] = c.at.clients[last]
	c.at.clients[c.place].place = c.place
	c.at.clients[last] = nil
	c.at.clients = c.at.clients[:last]
	b.add(Event{Client: c.id, Connection: Connection{Gateway: c.at.id, Epoch: c.epoch, Durable: c.durable}, Reason: r, Time: now})
}
