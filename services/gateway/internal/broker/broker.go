// Package broker is what the clients of one gateway have in common: who is connected, who subscribes to what
// here, and how a message gets to everybody it is for, here and on other gateways.
//
// Nothing in it blocks but Attach: publishing, delivering and settling run on the reading goroutines of
// clients and links and only ever append to queues. Locks are held for look-ups and never while another
// client's or link's lock is taken, except where a comment says why.
package broker

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/mesh"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/routes"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
	"github.com/beeline-mqtt/beeline/internal/trace"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/lease"
)

// Mesh is what the broker needs of the links to other processes.
type Mesh interface {
	// Announce changes this process's routes and calls done once: with nil when every peer that counts has them.
	Announce(changes []routes.Route, done func(error))
	// Link returns the link to an incarnation, nil when it is not a peer.
	Link(incarnation string) *mesh.Link
	// Reachable returns the links to the peers that there has been a stream to within a while, and whether these are all.
	Reachable(while time.Duration) (links []*mesh.Link, all bool)
	// SendOn calls done once: with true when every gateway has sent on what is older than the routes that are in force now
	// for a durable session that has come here, with false when patience is over.
	SendOn(client string, patience time.Duration, done func(complete bool))
}

// Leases is what the broker needs of the session service to hold clients.
type Leases interface {
	// Claim takes a client. granted is called, before any later eviction is told, with its lease and its session.
	Claim(ctx context.Context, r lease.Request, granted func(lease.Grant)) error
	// Release gives a client up, if it is still held at that epoch. It does not wait.
	Release(clientID string, epoch uint64, e lease.Ending)
	// Settled says that the whole cluster routes to a client that was claimed. It does not wait.
	Settled(clientID string, epoch uint64)
}

// Store is what the broker needs of the session service to keep what outlives connections. See lease.Keeper.
type Store interface {
	// Room says whether what need not be written yet may be.
	Room() bool
	Write(w journal.Write, done func(leftOut []journal.LeftOut, err error))
	Retain(m *message.Message, done func(version uint64, err error))
	ReadInbox(
		ctx context.Context, clientID string, id journal.SessionID, epoch uint64, after journal.Position, maxEntries, maxBytes uint32,
	) ([]journal.Entry, error)
	ReadRetained(ctx context.Context, filter string, cursor []byte, most uint32) ([]lease.Retained, []byte, error)
}

// Config sets a broker's bounds.
type Config struct {
	// Incarnation names this gateway.
	Incarnation string
	// MaxClients bounds the clients connected at once.
	MaxClients int
	// GroupMembers bounds the members of one shared subscription on this gateway.
	GroupMembers int
	// CachedLeases bounds the cache of holders for direct addressing.
	CachedLeases int
	// UnresolvedBytes bounds the messages that wait for their receiver's holder to be found, and apart from them
	// those that wait for their receiver to be attached here.
	UnresolvedBytes int
	// ReceiptTimeout is when nobody waits for a message any more.
	ReceiptTimeout time.Duration
	// Linger is how long a message may be on its way to where a session was. Shorter than ReceiptTimeout, it may be lost
	// although its publisher is told that all is well.
	Linger time.Duration
	// StoreAfter is how long a message for a durable session waits for its acknowledgement before it is stored.
	StoreAfter time.Duration
	// Settle is how long a session that has come here waits for older messages, when a gateway does not say that it has sent
	// them on; then their order is given up. 0 is 3 s. This gateway says so itself after four fifths of it.
	Settle time.Duration
}

// Deps are what a broker works with.
type Deps struct {
	// Mesh, Leases and Store may be given later, with Use.
	Mesh   Mesh
	Leases Leases
	Store  Store
	// Keeper returns the incarnation of the active session instance, which holds the durable sessions of clients that
	// are away; empty when there is none. nil: nobody does.
	Keeper func() string
	// Routes is the table that the mesh fills with the routes of all peers.
	Routes *routes.Table[*mesh.Link]
	// LookUp reads leases from etcd; what it does not return has no valid lease.
	LookUp  func(ctx context.Context, clientIDs []string) (map[string]cluster.Lease, error)
	Metrics *Metrics
	Logger  *slog.Logger
	// Trace shows what becomes of messages to whoever follows them; nil: nobody can.
	Trace *trace.Tap
}

// Broker is safe for concurrent use.
type Broker struct {
	cfg     Config
	deps    Deps
	self    *mesh.Link // stands for this gateway among the holders of shared subscriptions; nothing is sent on it
	clients directory
	subs    *subscriptions.Index[*client.Client]
	groups  groups
	direct  *direct
	early   early
	ghosts  ghosts
	// durable are the durable subscribers of each ordinary filter, lingering those of them that linger; guarded by
	// announcing.
	durable   map[string]int
	lingering map[string]int
	watch     watch
	reading   chan struct{} // has room for as many reads of the store as may be under way
	scratch   sync.Pool

	// announcing makes "first subscriber here, so announce" one step: routes reach the mesh in the order in
	// which they changed. It is held over calls into the route tables, which do not block.
	announcing sync.Mutex
	underway   underway
	background sync.WaitGroup
}

// New makes a broker. Run has to run for time-outs and direct addressing to work.
func New(cfg Config, deps Deps) *Broker {
	cfg.Settle = cmp.Or(cfg.Settle, 3*time.Second)
	b := &Broker{cfg: cfg, deps: deps, self: new(mesh.Link), subs: subscriptions.New[*client.Client]()}
	b.clients.init()
	b.direct = newDirect(b)
	b.early = early{b: b, held: make(map[string][]heldBack)}
	b.durable, b.lingering = make(map[string]int), make(map[string]int)
	b.watch.init()
	b.reading = make(chan struct{}, readsAtOnce)
	b.scratch.New = func() any { return &scratch{underway: b.underway.one()} }
	return b
}

// Use gives the broker its mesh and the session service, which in turn need the broker to be made. It is called once,
// before anything else.
func (b *Broker) Use(m Mesh, l Leases, s Store) { b.deps.Mesh, b.deps.Leases, b.deps.Store = m, l, s }

// Run looks after what time brings until ctx ends. The clients have to be gone by then, or be about to.
func (b *Broker) Run(ctx context.Context) error {
	var own sync.WaitGroup
	own.Go(func() { b.direct.run(ctx) })
	own.Go(func() { b.watch.run(ctx, b.deps.Store.Room) })
	b.sweep(ctx)
	own.Wait()
	b.background.Wait()
	return nil
}

// sweep visits every client about once a second, a part of them at a time: not all at once, and not so few that an
// idle gateway is for ever woken up.
func (b *Broker) sweep(ctx context.Context) {
	const steps = 4
	tick := time.NewTicker(time.Second / steps)
	defer tick.Stop()
	last := time.Now()
	heldUp := last
	for step := 0; ; step = (step + 1) % steps {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		if now.Sub(last) > time.Second {
			// The process was stopped or starved: what clients sent meanwhile may not have been read yet.
			heldUp = now
		}
		last = now
		late := now.Sub(heldUp) < 2*time.Second
		for i := step; i < shards; i += steps {
			b.clients.each(i, func(e entry) { e.current.Sweep(now, late) })
		}
	}
}
