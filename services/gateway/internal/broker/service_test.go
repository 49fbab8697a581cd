package broker

import (
	"context"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/routes"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/lease"
	"github.com/beeline-mqtt/beeline/test/rawmqtt"
)

// service is the session service as the holder of those who are away: a real peer of the gateways.
type service struct {
	r        *registry
	mesh     *mesh.Mesh
	rpc      string
	revision int64

	announcing sync.Mutex     // makes a change of present and what is announced of it one step
	filters    map[string]int // how many of present have it

	// kept is what came for members of shared subscriptions who are all away; guarded by r.mu.
	kept map[topic.Shared][]*message.Message

	// present are the clients whose sessions are here, and its ghosts; guarded by r.mu.
	present map[string]presence
}

// presence is what the service knows of a client that is, or was, away since that epoch.
type presence struct {
	epoch   uint64
	filters map[string]subscriptions.Options
}

// kept is what the service has stored of a session. Registry.mu guards it.
type kept struct {
	client  string
	id      journal.SessionID
	holder  string // empty: it is away
	epoch   uint64
	expiry  uint32
	filters map[string]subscriptions.Options
	entries []journal.Entry
	taken   map[uint16]message.ID
	next    journal.Position
	seen    map[message.ID]bool // the ids of all that was ever appended
}

// serve runs the service's mesh until the test ends.
func (r *registry) serve(t testing.TB, revision int64) *service {
	t.Helper()
	s := &service{r: r, revision: revision, present: make(map[string]presence), filters: make(map[string]int), kept: make(map[topic.Shared][]*message.Message)}
	logger := discard()
	var err error
	s.mesh, err = mesh.New(mesh.Config{Incarnation: "s", Revision: revision, ReconnectMin: time.Millisecond}, mesh.Deps{
		Logger: logger, Metrics: prometheus.NewRegistry(), Routes: routes.NewTable[*mesh.Link](),
		Accept: func(string) mesh.Inbound { return desk{s} }, Dial: dialPlain, Serving: func() bool { return true },
	})
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(mesh.ServerOptions()...)
	s.mesh.Register(server)
	var serving sync.WaitGroup
	s.rpc = listen(t, &serving, func(l net.Listener) { _ = server.Serve(l) })
	ctx, stop := context.WithCancel(context.Background())
	serving.Go(func() { _ = s.mesh.Run(ctx) })
	t.Cleanup(func() {
		server.Stop()
		serving.Wait()
	})
	t.Cleanup(stop)
	return s
}

// desk is the receiving end for one gateway.
type desk struct{ s *service }

func (d desk) Flush() {}
func (d desk) Close() {}

func (d desk) Deliver(x mesh.Delivery, _ mesh.Later) mesh.Receipt {
	r := d.s.r
	r.mu.Lock()
	defer r.mu.Unlock()
	switch x.Target.Kind {
	case mesh.TargetMatch:
		return d.s.match(x.Message)
	case mesh.TargetShare:
		return d.s.keep(topic.Shared{Group: x.Target.Group, Filter: x.Target.Filter}, x.Message)
	}
	k := r.sessions[x.Target.ClientID]
	switch {
	case x.Target.Kind != mesh.TargetClient:
		return mesh.Receipt{Outcome: mesh.Refused}
	case k != nil && k.holder == "":
		k.append(x.Message)
		return mesh.Receipt{Outcome: mesh.Stored}
	case k != nil:
		return mesh.Receipt{Outcome: mesh.NotHolder, ClientID: k.client, Epoch: k.epoch}
	}
	return mesh.Receipt{Outcome: mesh.NotHolder, ClientID: x.Target.ClientID, Epoch: r.leases[x.Target.ClientID].Epoch}
}

// keep needs r.mu.
func (s *service) keep(x topic.Shared, m *message.Message) mesh.Receipt {
	for _, p := range s.present {
		if o, member := p.filters[x.String()]; member && o.QoS > 0 {
			s.kept[x] = append(s.kept[x], m)
			return mesh.Receipt{Outcome: mesh.Stored}
		}
	}
	return mesh.Receipt{Outcome: mesh.NoMember}
}

// payloads of what is kept for a shared subscription.
func (s *service) payloads(x topic.Shared) (all []string) {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	for _, m := range s.kept[x] {
		all = append(all, string(m.Payload))
	}
	return all
}

// match needs r.mu.
func (s *service) match(m *message.Message) mesh.Receipt {
	var moved []mesh.MovedClient
	for id, p := range s.present {
		if _, wanted := delivered(id, p.filters, m); !wanted || m.QoS == 0 {
			continue
		}
		if k := s.r.sessions[id]; k != nil && k.holder == "" {
			k.append(m)
		} else if k != nil {
			moved = append(moved, mesh.MovedClient{ClientID: id, Epoch: p.epoch})
		}
	}
	if len(moved) > 0 {
		return mesh.Receipt{Outcome: mesh.Moved, Moved: moved}
	}
	return mesh.Receipt{Outcome: mesh.Stored}
}

// delivered is m as it stands in the inbox of a client with those subscriptions.
func delivered(id string, filters map[string]subscriptions.Options, m *message.Message) (e journal.Entry, wanted bool) {
	e.Message = m
	if topic.IsDirect(m.Topic) {
		e.QoS = m.QoS
		return e, true
	}
	for f, o := range filters {
		if _, shared, _ := topic.ParseShared(f); shared || !topic.Match(f, m.Topic) || o.NoLocal && m.Publisher == id {
			continue
		}
		wanted = true
		e.QoS = max(e.QoS, min(o.QoS, m.QoS))
		e.Retain = e.Retain || m.Retain && o.RetainAsPublished
		if o.ID > 0 {
			e.IDs = append(e.IDs, o.ID)
		}
	}
	return e, wanted
}

// append stores m for a session that is away, if it is for it and has not come before.
func (k *kept) append(m *message.Message) {
	e, wanted := delivered(k.client, k.filters, m)
	if !wanted || e.QoS == 0 || k.seen[m.ID] {
		return
	}
	k.seen[m.ID] = true
	e.Position = k.next
	k.next++
	k.entries = append(k.entries, e)
}

// apply makes a change, unless it is a message at QoS 2 that the inbox has, or had: then it is left out.
func (k *kept) apply(c journal.Change) (leftOut bool) {
	at := slices.IndexFunc(k.entries, func(e journal.Entry) bool { return e.Position == c.Position })
	switch c.Kind {
	case journal.Append:
		k.next = c.Entry.Position + 1
		if c.Entry.QoS == message.ExactlyOnce && k.seen[c.Entry.Message.ID] {
			return true
		}
		k.entries = append(k.entries, c.Entry)
		k.seen[c.Entry.Message.ID] = true
	case journal.Sent:
		if at >= 0 {
			k.entries[at].PacketID = c.PacketID
		}
	case journal.Released:
		if at >= 0 {
			k.entries[at].Released = true
		}
	case journal.Done:
		if at >= 0 {
			k.entries = slices.Delete(k.entries, at, at+1)
		}
	case journal.Taken:
		k.taken[c.PacketID] = c.Message
	case journal.Completed:
		delete(k.taken, c.PacketID)
	case journal.Subscribed:
		k.filters[c.Filter] = c.Options
	case journal.Unsubscribed:
		delete(k.filters, c.Filter)
	}
	return false
}

// state is what the next holder gets.
func (k *kept) state(present bool) *journal.State {
	st := &journal.State{ID: k.id, Present: present, Taken: make(map[uint16]message.ID), First: k.next, Next: k.next}
	for f, o := range k.filters {
		st.Subscriptions = append(st.Subscriptions, journal.Subscription{Filter: f, Options: o})
	}
	for p, m := range k.taken {
		st.Taken[p] = m
	}
	if len(k.entries) > 0 {
		st.First = k.entries[0].Position
	}
	return st
}

// evictHolder ends the connection that another gateway has of a durable client, before anything is recorded.
func (r *registry) evictHolder(id, claimant string) {
	r.mu.Lock()
	k := r.sessions[id]
	if k == nil || k.holder == "" || k.holder == claimant {
		r.mu.Unlock()
		return
	}
	holder, epoch := r.gateways[k.holder], k.epoch+1
	r.mu.Unlock()
	gone := make(chan struct{})
	holder.Evict(id, epoch, sync.OnceFunc(func() { close(gone) }))
	<-gone
}

// open is what the service does with a claim that it has recorded: the session that the client has from now on, nil for
// none. With r.mu held.
func (r *registry) open(q lease.Request, holder string, epoch uint64) *journal.State {
	k := r.sessions[q.ClientID]
	if q.CleanStart {
		k = nil
		delete(r.sessions, q.ClientID)
	}
	present := k != nil
	if k == nil {
		if q.Expiry == 0 {
			return nil
		}
		r.lastSession++
		k = &kept{
			client: q.ClientID, id: r.lastSession, filters: make(map[string]subscriptions.Options),
			taken: make(map[uint16]message.ID), seen: make(map[message.ID]bool), next: 1,
		}
		r.sessions[q.ClientID] = k
	}
	k.holder, k.epoch, k.expiry = holder, epoch, q.Expiry
	return k.state(present)
}

// away takes over a session whose connection has ended, or ends it with that. It reports whether it goes on. With r.mu
// held.
func (r *registry) away(id string, epoch uint64, e lease.Ending) bool {
	k := r.sessions[id]
	if k == nil || k.epoch != epoch {
		return false
	}
	if e.Expiry != nil {
		k.expiry = *e.Expiry
	}
	if k.expiry == 0 {
		delete(r.sessions, id)
		return false
	}
	r.epoch++
	k.holder, k.epoch = "", r.epoch
	return true
}

// enter announces a session that is away. When that is in force everywhere the gateways forget what they have of it.
func (s *service) enter(id string) {
	s.announcing.Lock()
	defer s.announcing.Unlock()
	s.r.mu.Lock()
	k := s.r.sessions[id]
	if k == nil || k.holder != "" {
		s.r.mu.Unlock()
		return
	}
	was, now := s.present[id], presence{epoch: k.epoch, filters: make(map[string]subscriptions.Options)}
	for f, o := range k.filters {
		now.filters[f] = o
	}
	s.present[id] = now
	s.r.mu.Unlock()
	s.mesh.Announce(s.change(was.filters, now.filters), func(err error) {
		if err != nil {
			return
		}
		for _, g := range s.r.gateways {
			g.Forget(id, now.epoch)
		}
	})
}

// leave drops what the service has of a client whose session has settled somewhere else.
func (s *service) leave(id string, epoch uint64) {
	s.announcing.Lock()
	defer s.announcing.Unlock()
	s.r.mu.Lock()
	was := s.present[id]
	if was.epoch >= epoch {
		s.r.mu.Unlock()
		return
	}
	delete(s.present, id)
	s.r.mu.Unlock()
	s.mesh.Announce(s.change(was.filters, nil), notAwaited)
}

// change returns the routes that change with the filters of one client. With s.announcing held.
func (s *service) change(was, now map[string]subscriptions.Options) []routes.Route {
	var changes []routes.Route
	count := func(f string, o subscriptions.Options, n int) {
		x, shared, _ := topic.ParseShared(f)
		if shared && o.QoS == 0 {
			return
		}
		s.filters[f] += n
		there := s.filters[f] > 0
		switch {
		case shared:
			changes = append(changes, routes.Route{Group: x.Group, Filter: x.Filter, Durable: there})
		case there && n > 0:
			changes = append(changes, routes.Route{Filter: f, Members: 1, Durable: true})
		case !there:
			changes = append(changes, routes.Route{Filter: f})
		}
		if !there {
			delete(s.filters, f)
		}
	}
	for f, o := range now {
		count(f, o, 1)
	}
	for f, o := range was {
		count(f, o, -1)
	}
	return changes
}

// holder is who has the session of a client; "s" when it is away, empty when there is none.
func (r *registry) holder(id string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch k := r.sessions[id]; {
	case k == nil:
		return ""
	case k.holder == "":
		return "s"
	default:
		return k.holder
	}
}

// inbox is the payloads that are stored for a client.
func (r *registry) inbox(id string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var payloads []string
	if k := r.sessions[id]; k != nil {
		for _, e := range k.entries {
			payloads = append(payloads, string(e.Message.Payload))
		}
	}
	return payloads
}

// leaves has a durable client disconnect, and returns when its session is held by the service and nobody else has
// anything of it.
func (r *registry) leaves(c *rawmqtt.Client, id string) {
	g := r.gateways[r.holder(id)]
	g.t.Helper()
	c.Disconnect()
	eventually(g.t, id+" is away", func() bool { return r.holder(id) == "s" })
	r.forgotten(g.t, id)
}

// forgotten waits until no gateway has a ghost of a client.
func (r *registry) forgotten(t testing.TB, id string) {
	t.Helper()
	for _, g := range r.gateways {
		eventually(t, g.id+" has forgotten "+id, func() bool {
			g.ghosts.mu.Lock()
			defer g.ghosts.mu.Unlock()
			return len(g.ghosts.m[id]) == 0
		})
	}
}
