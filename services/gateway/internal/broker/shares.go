package broker

import (
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/beeline-mqtt/beeline/internal/engine"
	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/packet"
	"github.com/beeline-mqtt/beeline/internal/routes"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/internal/turn"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
)

// shareRetry is how long a message waits before it is offered again to a shared subscription of which no
// member had room, and for which nobody could keep it.
const shareRetry = 50 * time.Millisecond

// groups are the shared subscriptions with members on this gateway, or ghosts of some.
type groups struct {
	mu sync.Mutex
	m  map[topic.Shared]*group
}

// group is the local part of one shared subscription. Its members are in no particular order.
type group struct {
	members []member
	places  map[*client.Client]int // in members
	next    int
	lasting int // how many members last
	// away are ghosts: members that lasted and whose session nobody is known to keep messages for yet.
	away map[*client.Client]struct{}
}

type member struct {
	c *client.Client
	o subscriptions.Options
}

// lasts reports whether messages are kept for the member when it is away: those of QoS 0 never are.
func (m member) lasts() bool { return m.o.QoS > message.AtMostOnce && m.c.Durable() }

// route is what the peers are to know.
func (x *group) route(s topic.Shared) routes.Route {
	r := routes.Route{Filter: s.Filter, Group: s.Group}
	if x != nil {
		r.Members, r.Durable = uint32(len(x.members)), x.lasting+len(x.away) > 0
	}
	return r
}

// join adds or changes a member and returns the route from then on; false when there are limit members already.
func (g *groups) join(s topic.Shared, c *client.Client, o subscriptions.Options, limit int) (r routes.Route, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.m == nil {
		g.m = make(map[topic.Shared]*group)
	}
	x := g.m[s]
	if x == nil {
		x = &group{places: make(map[*client.Client]int)}
		g.m[s] = x
	}
	now := member{c, o}
	i, is := x.places[c]
	switch {
	case is:
		x.count(x.members[i], -1)
		x.members[i] = now
	case len(x.members) >= limit:
		return x.route(s), false
	default:
		x.places[c] = len(x.members)
		x.members = append(x.members, now)
	}
	x.count(now, 1)
	return x.route(s), true
}

// count counts a member that comes or goes, if it lasts.
func (x *group) count(m member, by int) {
	if m.lasts() {
		x.lasting += by
	}
}

// leave removes a member and returns the route from then on, and whether it was one. goesOn says that its session outlives
// its connection: if the member lasts, the group has a ghost of it then, until forget.
func (g *groups) leave(s topic.Shared, c *client.Client, goesOn bool) (r routes.Route, was bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	x := g.m[s]
	if x == nil {
		return x.route(s), false
	}
	i, was := x.places[c]
	if !was {
		return x.route(s), false
	}
	gone, last := x.members[i], len(x.members)-1
	x.members[i] = x.members[last]
	x.places[x.members[i].c] = i
	x.members[last] = member{}
	x.members = x.members[:last]
	delete(x.places, c)
	x.count(gone, -1)
	if goesOn && gone.lasts() {
		if x.away == nil {
			x.away = make(map[*client.Client]struct{})
		}
		x.away[c] = struct{}{}
	}
	return g.tidy(s, x), true
}

// forget drops a ghost and returns the route from then on, and whether there was one.
func (g *groups) forget(s topic.Shared, c *client.Client) (r routes.Route, was bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	x := g.m[s]
	if x == nil {
		return x.route(s), false
	}
	if _, was = x.away[c]; was {
		delete(x.away, c)
	}
	return g.tidy(s, x), was
}

// route returns what the peers are to know.
func (g *groups) route(s topic.Shared) routes.Route {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.m[s].route(s)
}

// tidy drops a group that has nobody, and returns its route. With mu held.
func (g *groups) tidy(s topic.Shared, x *group) routes.Route {
	if len(x.members)+len(x.away) == 0 {
		delete(g.m, s)
	}
	return x.route(s)
}

// inTurn yields the members, beginning with the one whose turn it is. One that joins or leaves meanwhile may make
// it miss another.
func (g *groups) inTurn(s topic.Shared) iter.Seq[member] {
	return func(yield func(member) bool) {
		first := g.turn(s)
		for i := 0; ; i++ {
			m, ok := g.member(s, first, i)
			if !ok || !yield(m) {
				return
			}
		}
	}
}

// turn moves the turn on and returns whose it is.
func (g *groups) turn(s topic.Shared) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	x := g.m[s]
	if x == nil || len(x.members) == 0 {
		return 0
	}
	x.next = (x.next + 1) % len(x.members)
	return x.next
}

// member returns the i-th member from first on; false when that is beyond all of them.
func (g *groups) member(s topic.Shared, first, i int) (member, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	x := g.m[s]
	if x == nil || i >= len(x.members) {
		return member{}, false
	}
	return x.members[(first+i)%len(x.members)], true
}

// publishShared gives m to one member of a shared subscription, on whatever gateway.
func (b *Broker) publishShared(s *routes.Share[*mesh.Link], m *message.Message, p *publication, t *turn.Turn) {
	if p == nil || m.QoS == message.AtMostOnce {
		b.offerOnce(s, m, t)
		return
	}
	p.Expect()
	o := &offer{b: b, share: s, m: m, p: p}
	o.choose(t)
}

// offerOnce gives a QoS 0 message to a member. There is no second try: nobody waits for it.
func (b *Broker) offerOnce(s *routes.Share[*mesh.Link], m *message.Message, t *turn.Turn) {
	l, ok := s.Pick(nil)
	switch {
	case !ok:
		b.deps.Metrics.dropped(dropNoMember) // those who are away are not kept messages of QoS 0
	case l != b.self:
		d := mesh.Delivery{Target: mesh.Target{Kind: mesh.TargetShare, Group: s.Group(), Filter: s.Filter()}, Message: m}
		b.forward(l, d, nil, t)
	case !b.deliverShared(topic.Shared{Group: s.Group(), Filter: s.Filter()}, m, nil, nil, t):
		b.deps.Metrics.dropped(dropNoMember)
	}
}

// deliverShared gives m to the local member whose turn it is and that has room, and reports whether there was
// one. ticket, which may be nil, is told when the member has acknowledged it, or its session has ended before; y, which is
// nil when m is not reported, which member that is.
func (b *Broker) deliverShared(s topic.Shared, m *message.Message, ticket client.Ticket, y *tally, t *turn.Turn) bool {
	for x := range b.groups.inTurn(s) {
		if !x.c.HasRoom() {
			continue
		}
		d := client.Delivery{Message: m, QoS: min(m.QoS, x.o.QoS), Retain: m.Retain && x.o.RetainAsPublished, Until: engine.UntilAcked}
		if x.o.ID != 0 {
			d.IDs = []uint32{x.o.ID}
		}
		if m.QoS > 0 {
			d.Ticket = ticket
			if y != nil {
				d.Ticket = &memberReport{Ticket: ticket, y: y, c: x.c}
			}
		}
		switch x.c.Deliver(d, t) {
		case engine.Queued:
			// A subscription at QoS 0 acknowledges nothing.
			if d.Ticket != nil {
				d.Ticket.Settle(engine.Queued, t)
			}
			return true
		case engine.Waiting:
			return true
		}
	}
	return false
}

// offer is a message on its way to a member of a shared subscription: it goes from holder to holder until one
// member has acknowledged it, or the session service keeps it. MQTT 5, 4.8.2.
type offer struct {
	b     *Broker
	share *routes.Share[*mesh.Link]
	m     *message.Message
	p     *publication
	tried []*mesh.Link
}

// choose picks the next holder: one with members online, and when none of them takes the message, a session instance that
// keeps it for those who are away. A gateway is asked in vain: it is about to hand that over. When all have refused, it
// begins again a little later.
func (o *offer) choose(t *turn.Turn) {
	tried := func(l *mesh.Link) bool { return slices.Contains(o.tried, l) }
	for !o.p.over(t.Now) {
		l, ok := o.share.Pick(tried)
		if !ok {
			l, ok = o.share.Keeper(func(l *mesh.Link) bool { return !l.Peer().Quiet || tried(l) })
		}
		if !ok {
			o.wait(t)
			return
		}
		o.tried = append(o.tried, l)
		if l == o.b.self {
			if o.b.deliverShared(topic.Shared{Group: o.share.Group(), Filter: o.share.Filter()}, o.m, o, o.p.here(), t) {
				return
			}
			continue
		}
		d := mesh.Delivery{Target: mesh.Target{Kind: mesh.TargetShare, Group: o.share.Group(), Filter: o.share.Filter()}, Message: o.m}
		o.p.reportOn(l, &d, t.Now)
		if l.SendInTurn(t, d, o) {
			return
		}
		o.p.report.unasked(l, false)
	}
	o.p.Done(packet.UnspecifiedError, t)
}

// wait begins again a little later, unless there is nobody left.
func (o *offer) wait(t *turn.Turn) {
	if o.share.Empty() {
		o.p.Done(packet.NoMatchingSubscribers, t)
		return
	}
	o.tried = nil
	time.AfterFunc(shareRetry, func() {
		again := turn.Turn{Now: time.Now()}
		o.choose(&again)
		again.End()
	})
}

// Settle is the receipt of a local member. One that was interrupted at QoS 2 may have the message: nobody else gets
// it.
func (o *offer) Settle(out engine.Outcome, t *turn.Turn) {
	if out == engine.Ended || out == engine.Moved {
		o.tried = nil
		o.choose(t)
		return
	}
	o.p.Done(packet.Success, t)
}

// Settled is the receipt of another holder.
func (o *offer) Settled(l *mesh.Link, d mesh.Delivery, r mesh.Receipt, t *turn.Turn) {
	o.p.report.answered(l, &d, &r)
	switch r.Outcome {
	case mesh.Acked, mesh.Stored, mesh.Queued:
		o.p.Done(packet.Success, t)
	case mesh.Refused:
		o.p.Done(packet.ImplementationSpecificError, t)
	default:
		o.choose(t)
	}
}
