// Package away is the active session instance as the holder of durable sessions whose clients are away. It knows the
// store's record of every client, takes what the mesh brings for absent clients into their inboxes, takes over the
// sessions of holders that have died, ends sessions when their time has passed, and publishes wills.
//
// What a client is owed is in the store. In memory are the records, and of absent clients the subscriptions and the
// position that the next entry of the inbox gets. Whose turn a client is, claims decides; this package carries out what
// that decides, one operation of a client at a time.
//
// For a session that has gone on to a gateway, the former subscriptions stay in the index, as a ghost, until Settled:
// what matches them is answered with Moved. A session that comes here holds back what arrives until its routes are in
// force everywhere, so that it gets back into order what came by way of its former holder.
//
// Concurrency: all methods may be called from any goroutine, none of them waits for the store or for a peer except
// Write, Retain and those that read. done functions are called once, on another goroutine, and must not block; they are
// not called any more when Run has returned. Nothing calls out while mu is held, but for settling receipts. What the
// store is told goes through one queue, so that it has the order of the decisions that are made under mu.
package away

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/beeline-mqtt/beeline/internal/arrivals"
	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/routes"
	"github.com/beeline-mqtt/beeline/internal/subscriptions"
	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/services/session/internal/claims"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

// Mesh is what a Keeper needs of the links to the gateways; see package mesh.
type Mesh interface {
	Announce(changes []routes.Route, done func(error))
	Adopt(incarnation string, answered func(peer string), done func(error))
	SendOn(client string, patience time.Duration, done func(complete bool))
}

// Config of a Keeper. Zero fields mean the value in brackets.
type Config struct {
	// Incarnation names this instance.
	Incarnation string
	// Backlog bounds the bytes of the messages that are not stored yet (64 MiB). What comes then is Overloaded.
	Backlog int
	// HoldBytes bounds what is held back, for the sake of order, for one session, and sixteen times that from one peer
	// (256 KiB). Beyond, order is given up.
	HoldBytes int
	// Settle is how long a session that has come here holds back, after its routes are in force, for peers that do not say
	// that they have sent on what is older (3 s), AdoptTimeout how long adopted ones wait for the peers (2 s), and Late how
	// long orphans are taken after that (10 s).
	Settle       time.Duration
	AdoptTimeout time.Duration
	// GiveUp is how long a session holds back at most (6 s).
	GiveUp time.Duration
	Late   time.Duration
	// PublishRetry is the pause after a will could not be published (1 s).
	PublishRetry time.Duration
	// Deserted is how long messages of a shared subscription are kept that has no member any more, neither away nor online
	// (1 min); ShareTick is how often that is looked at, and whether there is somebody to give them to (1 s).
	Deserted  time.Duration
	ShareTick time.Duration
}

func (c Config) withDefaults() Config {
	set := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	set(&c.Settle, 3*time.Second)
	set(&c.AdoptTimeout, 2*time.Second)
	set(&c.GiveUp, 6*time.Second)
	set(&c.Late, 10*time.Second)
	set(&c.PublishRetry, time.Second)
	set(&c.Deserted, time.Minute)
	set(&c.ShareTick, time.Second)
	if c.Backlog == 0 {
		c.Backlog = 64 << 20
	}
	if c.HoldBytes == 0 {
		c.HoldBytes = 256 << 10
	}
	return c
}

// Deps are what a Keeper works with; all are required. The functions must not block.
type Deps struct {
	Store store.Store
	Mesh  Mesh
	// Members are given what was kept for shared subscriptions.
	Members Members
	// Publish has a gateway publish a message, and calls done when every receiver's holder has it, or it failed.
	Publish func(m *message.Message, done func(failed bool))
	// Managed returns the filters by which a client gets messages without having subscribed; user is its user name, empty
	// when it has none.
	Managed func(client, user string) []string
	// Forget says that nobody sends a client's former holders, under epochs older than this, its messages any more.
	Forget func(client string, epoch uint64)
	// Failed says that the store can do nothing more: the term has to end. It may be called more than once.
	Failed  func(error)
	Metrics *Metrics
	Logger  *slog.Logger
}

// workers carry out what reads the store.
const workers = 4

const (
	// dueKey separates a client id, which has no U+0000 in it, from the epoch of a will that is to be published, in
	// the name of the record that the store has of it.
	dueKey = "\x00"
	// baseKey is the name of the record whose epoch is the base.
	baseKey = "\x00base"
)

// Keeper is one term's.
type Keeper struct {
	cfg     Config
	deps    Deps
	metrics *Metrics
	// pump calls the store in order; work does whatever may take a while.
	pump, work *queue
	// wake is for the goroutine that looks at the clock, begun for Run: both hold one signal.
	wake, begun chan struct{}
	// unsaved are the bytes of the messages that wait to be stored.
	unsaved atomic.Int64
	wills   *wills
	// base is what was added to etcd's revisions so far.
	base uint64

	// announcing makes "first subscriber here, so announce" one step. It comes before mu.
	announcing sync.Mutex
	index      *subscriptions.Index[*session]

	mu      sync.Mutex
	clients map[string]*session
	timers  timers
	// holders are the clients that a gateway holds; users the clients with a session that have connected as a user.
	holders map[string]map[*session]struct{}
	users   map[string]map[*session]struct{}
	left    left
	view    view
	// noted are the gateways that the store remembers.
	noted map[string]bool
	// boot is what is to be adopted with the first view.
	boot *adoption
	// starting wait for Run; adopting hold peers back; orphans are those whose orphans are taken, by incarnation.
	starting []*adoption
	adopting []*adoption
	orphans  map[string][]*adoption
	gates    map[string]*gate
	shares   map[topic.Shared]*share
	matches  []subscriptions.Match[*session] // room for those of one message
}

// view is the last list of living gateways, complete up to an epoch.
type view struct {
	known bool
	alive map[string]bool
	epoch uint64
}

// session is what is known of one client; of most of them it is what the store knows.
type session struct {
	client string
	// rec is the store's record; stored says that there is one.
	rec    store.Record
	stored bool
	// busy: an operation is under way, and waiting ones follow it.
	busy    bool
	waiting []func(*session)

	// here: the session is held here and takes messages; next is the position of the next.
	here bool
	next journal.Position
	// subs are in the index: of a session that is here, or of a ghost, which was here at epoch ghost.
	subs  []journal.Subscription
	ghost uint64
	// settled is the epoch of the gateway whose routes for it are in force everywhere; forget says that a former holder
	// has to be told when they are.
	settled uint64
	forget  bool
	// settling is what a session that has come here a short while ago remembers.
	settling *settling
	// adopted is the adoption that it is part of, from whom with which; nil long after.
	adopted *adoption
	from    []string
}

// settling is the memory of a session that has just come.
type settling struct {
	// hold is nil when nothing is held back any more.
	hold *arrivals.Set[*entry]
	// leaving: the record by which the session leaves is being stored. What is held back goes after it.
	leaving bool
	// had are ids of messages that it was given since, until a while after, so that one that comes by two ways is taken once.
	had   map[message.ID]struct{}
	until time.Time
}

// maxHad bounds the ids that one session remembers.
const maxHad = 1024

// New loads the records. Nothing else happens before Run.
func New(c Config, d Deps) (*Keeper, error) {
	k := &Keeper{
		cfg: c.withDefaults(), deps: d, metrics: d.Metrics,
		pump: newQueue(1), work: newQueue(workers), wake: make(chan struct{}, 1), begun: make(chan struct{}, 1),
		index: subscriptions.New[*session](), clients: map[string]*session{}, holders: map[string]map[*session]struct{}{},
		users: map[string]map[*session]struct{}{}, orphans: map[string][]*adoption{}, gates: map[string]*gate{}, left: left{}, noted: map[string]bool{},
		shares: map[topic.Shared]*share{},
	}
	k.metrics.reset()
	k.wills = &wills{k: k}
	if err := k.load(); err != nil {
		return nil, err
	}
	return k, nil
}

func (k *Keeper) load() error {
	var absent []*session
	var shared []store.Record
	err := k.deps.Store.Load(func(r store.Record, _ store.Stats) error {
		if r.Client == baseKey {
			k.base = r.Epoch
			return nil
		}
		if strings.HasPrefix(r.Client, shareKey) {
			shared = append(shared, r)
			return nil
		}
		if client, _, due := strings.Cut(r.Client, dueKey); due {
			k.wills.due(client, r)
			return nil
		}
		s := &session{client: r.Client}
		k.clients[r.Client] = s
		k.set(s, r, true)
		switch {
		case r.Holder != "":
		case r.Session != 0:
			absent = append(absent, s)
		default:
			k.schedule(s)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("load sessions: %w", err)
	}
	for _, r := range shared {
		if err := k.loadShare(r); err != nil {
			return fmt.Errorf("load shared subscription: %w", err)
		}
	}
	k.boot = formers(absent, k.deps.Store.Unadopted())
	return nil
}

// Base returns what is to be added to etcd's revisions from a revision on to make epochs that are above all that the
// store knows. It changes only when etcd has lost revisions, and is stored then. It is called once, before Run.
func (k *Keeper) Base(ctx context.Context, revision int64) (uint64, error) {
	highest, former := k.deps.Store.HighestEpoch(), k.base
	if former+uint64(revision) > highest {
		return former, nil
	}
	k.base = highest - uint64(revision) + 1
	stored := make(chan error, 1)
	k.deps.Store.Put(former, store.Record{Client: baseKey, Epoch: k.base}, func(err error) { stored <- err })
	select {
	case err := <-stored:
		if err != nil {
			return 0, fmt.Errorf("store the base of epochs: %w", err)
		}
		return k.base, nil
	case <-ctx.Done():
		return 0, fmt.Errorf("store the base of epochs: %w", context.Cause(ctx))
	}
}

// Run does the work until the context is done. Whoever calls the Keeper has to stop before, or bear that nothing
// happens any more.
func (k *Keeper) Run(ctx context.Context) error {
	added := make(chan error, 1)
	k.deps.Store.AddUnadopted(ownPrefix+k.cfg.Incarnation, func(err error) { added <- err })
	select {
	case err := <-added:
		if err != nil {
			return fmt.Errorf("record this incarnation: %w", err)
		}
	case <-ctx.Done():
		return nil
	}
	var wg sync.WaitGroup
	wg.Go(func() { k.pump.run(ctx) })
	for range workers {
		wg.Go(func() { k.work.run(ctx) })
	}
	wg.Go(func() { k.tick(ctx) })
	wg.Go(func() { k.lookAfterShares(ctx) })
	k.wills.begin()
	for {
		k.mu.Lock()
		starting := k.starting
		k.starting = nil
		k.mu.Unlock()
		for _, a := range starting {
			wg.Go(func() { k.adopt(ctx, a) })
		}
		select {
		case <-ctx.Done():
			wg.Wait()
			return nil
		case <-k.begun:
		}
	}
}

// with gives f the client alone, as soon as nothing else is under way for it; f has it released.
func (k *Keeper) with(client string, f func(*session)) {
	k.mu.Lock()
	s := k.clients[client]
	if s == nil {
		s = &session{client: client}
		k.clients[client] = s
	}
	if s.busy {
		s.waiting = append(s.waiting, f)
		k.mu.Unlock()
		return
	}
	s.busy = true
	k.mu.Unlock()
	f(s)
}

// release gives the client to whoever waits for it.
func (k *Keeper) release(s *session) {
	k.mu.Lock()
	if len(s.waiting) == 0 {
		s.busy, s.waiting = false, nil
		if !s.stored && len(s.subs) == 0 && k.clients[s.client] == s {
			delete(k.clients, s.client)
		}
		k.mu.Unlock()
		return
	}
	next := s.waiting[0]
	s.waiting = s.waiting[1:]
	k.mu.Unlock()
	k.work.push(func() { next(s) })
}

// put stores r in place of the record that s has, and then does what follows, as work. A session that is to leave takes
// nothing more meanwhile: behind the record it would be refused, and that known only when everything else has gone on.
func (k *Keeper) put(s *session, r store.Record, then func(error)) {
	k.mu.Lock()
	former := uint64(0)
	if s.stored {
		former = s.rec.Epoch
	}
	if s.here && r.Holder != "" {
		s.leave()
	}
	k.mu.Unlock()
	k.pump.push(func() {
		k.deps.Store.Put(former, r, func(err error) {
			k.work.push(func() {
				if err == nil {
					k.set(s, r, true)
				}
				then(k.check("put session", err))
			})
		})
	})
}

// drop deletes the record that s has, and then does what follows, as work.
func (k *Keeper) drop(s *session, then func(error)) {
	k.mu.Lock()
	former, stored := s.rec.Epoch, s.stored
	k.mu.Unlock()
	if !stored {
		k.work.push(func() { then(nil) })
		return
	}
	k.pump.push(func() {
		k.deps.Store.Delete(s.client, former, func(err error) {
			k.work.push(func() {
				if err == nil {
					k.set(s, store.Record{}, false)
				}
				then(k.check("delete session", err))
			})
		})
	})
}

// set makes r the record of s. A session that was here and is held elsewhere is a ghost.
func (k *Keeper) set(s *session, r store.Record, stored bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if s.here && (r.Holder != "" || !stored) {
		s.here, s.ghost = false, leaseOf(s.rec)
		k.sendAfter(s)
	}
	k.metrics.change(s.rec, s.stored, -1)
	k.metrics.change(r, stored, 1)
	k.setUser(s, r.User)
	if h := s.rec.Holder; h != r.Holder {
		if delete(k.holders[h], s); len(k.holders[h]) == 0 {
			delete(k.holders, h)
		}
		if h != "" && s.stored && k.view.alive[h] {
			k.left.add(h, s, now())
		}
		if r.Holder != "" {
			if k.holders[r.Holder] == nil {
				k.holders[r.Holder] = map[*session]struct{}{}
			}
			k.holders[r.Holder][s] = struct{}{}
		}
	}
	s.rec, s.stored = r, stored
}

// check reports an error of the store to whoever has to end the term because of it.
func (k *Keeper) check(what string, err error) error {
	if err != nil {
		k.deps.Failed(fmt.Errorf("%s: %w", what, err))
	}
	return err
}

// Look is what claims asks: see claims.Config.
func (k *Keeper) Look(client string) (claims.Holder, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.clients[client]
	if s == nil || !s.stored {
		return claims.Holder{}, false
	}
	return claims.Holder{Gateway: s.rec.Holder, Epoch: s.rec.Epoch}, true
}

// Held has the clients that the store names a gateway for, with their epochs. The map is the caller's.
func (k *Keeper) Held(gateway string) map[string]uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	held := make(map[string]uint64, len(k.holders[gateway]))
	for s := range k.holders[gateway] {
		held[s.client] = s.rec.Epoch
	}
	return held
}

// sessionID is random, and never 0.
func sessionID() journal.SessionID { return journal.SessionID(rand.Uint64()) | 1<<63 }

// now is the time by the wall clock: what is stored and compared has to outlive this process.
func now() time.Time { return time.Now().Round(0) }

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
