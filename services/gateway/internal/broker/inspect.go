package broker

import (
	"slices"
	"strings"

	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/pages"
	"github.com/beeline-mqtt/beeline/internal/routes"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
)

// What operators ask about the clients of one gateway. Nothing here is in the way of messages for long: locks are held
// over one part of the directory, or one walk through an index, at a time.

// Incarnation names this gateway.
func (b *Broker) Incarnation() string { return b.cfg.Incarnation }

// List returns clients that hold their leases, by client id: those of a range, of a user unless it is empty, at most so
// many. complete is the id up to which there are no others; empty: there are none at all.
func (b *Broker) List(r pages.Range, username string, most int) (clients []*client.Client, complete string) {
	lowest := pages.NewLowest[*client.Client](most)
	for i := range shards {
		b.clients.scan(i, func(id string, c *client.Client) {
			if r.Has(id) && c.Epoch() != 0 && (username == "" || c.Identity.Username == username) {
				lowest.Offer(id, c)
			}
		})
	}
	found, more := lowest.Take()
	for _, e := range found {
		clients = append(clients, e.Value)
	}
	if more {
		complete = found[len(found)-1].ID
	}
	return clients, complete
}

// scan calls f for every connection in part i, with its lock held: f must be quick, and call nobody.
func (d *directory) scan(i int, f func(id string, c *client.Client)) {
	p := &d.parts[i]
	p.mu.RLock()
	defer p.mu.RUnlock()
	for id, e := range p.m {
		if e.current != nil {
			f(id, e.current)
		}
	}
}

// Find returns the connection of a client that holds its lease here; nil: there is none.
func (b *Broker) Find(clientID string) *client.Client {
	c := b.clients.get(clientID).current
	if c == nil || c.Epoch() == 0 {
		return nil
	}
	return c
}

// Subscription is one filter as a client wrote it, with its options.
type Subscription struct {
	Filter  string
	Options subscriptions.Options
}

// Subscriptions returns what a client subscribes to, by filter, and the groups that it is a member of. Those that come or
// go meanwhile may be left out.
func (b *Broker) Subscriptions(c *client.Client) (all []Subscription, groups []string) {
	for _, f := range c.Filters() {
		if group, err := topic.ParseGroup(f); err == nil {
			groups = append(groups, group)
			continue
		}
		s, shared, _ := topic.ParseShared(f)
		var o subscriptions.Options
		var ok bool
		if shared {
			o, ok = b.groups.options(s, c)
		} else {
			o, ok = b.subs.Get(f, c)
		}
		if ok {
			all = append(all, Subscription{f, o})
		}
	}
	slices.SortFunc(all, func(x, y Subscription) int { return strings.Compare(x.Filter, y.Filter) })
	slices.Sort(groups)
	return all, groups
}

// options of a member of a shared subscription.
func (g *groups) options(s topic.Shared, c *client.Client) (subscriptions.Options, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	x := g.m[s]
	if x == nil {
		return subscriptions.Options{}, false
	}
	i, ok := x.places[c]
	if !ok {
		return subscriptions.Options{}, false
	}
	return x.members[i].o, true
}

// all returns the members of a shared subscription.
func (g *groups) all(s topic.Shared) []member {
	g.mu.Lock()
	defer g.mu.Unlock()
	if x := g.m[s]; x != nil {
		return slices.Clone(x.members)
	}
	return nil
}

// Receiver is a client here that a message would go to.
type Receiver struct {
	ClientID string
	// Filters that match, as the client wrote them; none: the topic names the client.
	Filters []string
	QoS     byte
	// OneOfMany: the filter is that of a shared subscription, and one of its members gets the message.
	OneOfMany bool
}

// Receivers returns who would get a message on a topic here, by client id: at most so many, and how many there are. A client
// that would get it by its own subscriptions and as a member of shared ones is there once for each.
func (b *Broker) Receivers(name string, most int) (all []Receiver, total int) {
	if topic.IsDirect(name) {
		id, err := topic.ParseDirect(name)
		if err != nil || b.Find(id) == nil {
			return nil, 0
		}
		return []Receiver{{ClientID: id, QoS: 2}}, 1
	}
	lowest := pages.NewLowest[Receiver](most)
	filters := b.subs.Filters(name)
	slices.Sort(filters)
	matches := b.subs.Match(name, nil, nil)
	for i := range matches {
		c := matches[i].Key
		if b.Find(c.ID) != c {
			continue // what a session that has gone on has left behind
		}
		total++
		lowest.Offer(c.ID, Receiver{ClientID: c.ID, QoS: matches[i].QoS})
	}
	found, _ := lowest.Take()
	for _, e := range found {
		r := e.Value
		c := b.Find(r.ClientID)
		for _, f := range filters {
			if _, ok := b.subs.Get(f, c); c != nil && ok {
				r.Filters = append(r.Filters, f)
			}
		}
		if len(r.Filters) > 0 { // else it has just gone
			all = append(all, r)
		}
	}
	shared := b.sharers(name)
	all = append(all, shared...)
	slices.SortStableFunc(all, func(x, y Receiver) int { return strings.Compare(x.ClientID, y.ClientID) })
	return all[:min(len(all), most)], total + len(shared)
}

// sharers are the members here of the shared subscriptions that match.
func (b *Broker) sharers(name string) (all []Receiver) {
	for _, share := range b.deps.Routes.Shares(name, nil) {
		s := topic.Shared{Group: share.Group(), Filter: share.Filter()}
		for _, m := range b.groups.all(s) {
			all = append(all, Receiver{ClientID: m.c.ID, Filters: []string{s.String()}, QoS: m.o.QoS, OneOfMany: true})
		}
	}
	return all
}

// Route is a route with the incarnation that wants it.
type Route struct {
	Incarnation string
	routes.Route
}

// Routes returns the routes that a message on a topic takes from here, this gateway's own among them, at most so many.
func (b *Broker) Routes(name string, most int) (all []Route) {
	for _, r := range b.deps.Routes.Explain(name, most) {
		all = append(all, Route{b.incarnation(r.Peer), r.Route})
	}
	if topic.IsDirect(name) {
		return all
	}
	b.announcing.Lock()
	for _, f := range b.subs.Filters(name) {
		if r := b.route(f); r.Members > 0 && len(all) < most {
			all = append(all, Route{b.cfg.Incarnation, r})
		}
	}
	b.announcing.Unlock()
	slices.SortFunc(all, func(x, y Route) int {
		return strings.Compare(x.Incarnation+" "+x.Group+" "+x.Filter, y.Incarnation+" "+y.Group+" "+y.Filter)
	})
	return all
}

// incarnation names the process at the other end of a link; the broker's own link stands for this one.
func (b *Broker) incarnation(l *mesh.Link) string {
	if l == b.self {
		return b.cfg.Incarnation
	}
	return l.Peer().ID
}
