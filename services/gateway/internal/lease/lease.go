// Package lease is the gateway's side of the session service: it claims clients for this gateway and gives them up,
// over one stream to the active session instance, and learns which of them another gateway has taken over. Over the
// same stream it has durable sessions and retained messages stored.
//
// A Keeper knows which requests were not answered; who is connected, the gateway knows. When its stream breaks, the
// Keeper attaches again, to whichever instance is active then, shows what the gateway holds, and repeats what was not
// answered, in the order in which it was asked. Frames leave in the order of the calls. Its methods may be called
// from any goroutine.
package lease

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/message"
)

const (
	retryLeast = 50 * time.Millisecond
	retryMost  = time.Second
)

// Why something could not be done.
var (
	// ErrUnavailable says that there is no answer now: no active session instance, or no etcd. The client may try
	// again later.
	ErrUnavailable = errors.New("the session service is unavailable")
	// ErrSuperseded says that a newer claim for the same client came in between.
	ErrSuperseded = errors.New("superseded by a newer claim")
	// ErrIncarnationDead says that this gateway's incarnation is over.
	ErrIncarnationDead = errors.New("the incarnation of this gateway is dead")
	// ErrFenced says that a durable session has ended or has a newer holder: nothing can be read or written any more.
	ErrFenced = errors.New("the session has a newer holder")
	// ErrQuota says that there are as many retained messages as there may be.
	ErrQuota = errors.New("too many retained messages")
)

// Config of a Keeper. Incarnation, OnEvict and Holdings are required.
type Config struct {
	// Incarnation is the id of the gateway's incarnation.
	Incarnation string
	// OnEvict is called when another gateway has taken a client over: connections of the client under an epoch
	// older than this one are to end. It may be called again for the same client, and for one that is not here.
	// done is called once, from any goroutine, when they are gone. OnEvict must not block.
	OnEvict func(clientID string, epoch uint64, done func())
	// OnForget is called when nobody sends this gateway messages any more for what it held of a durable client under
	// epochs older than this one: what it still answers with MOVED can be dropped. It must not block.
	OnForget func(clientID string, epoch uint64)
	// OnPublish is called with a message that the session service wants published: a will. done is called once, from
	// any goroutine, when all receipts are there; with true when it has to be given to a gateway again. OnPublish must
	// not block.
	OnPublish func(m *message.Message, done func(failed bool))
	// OnMembers is called when members have joined or left a group, and done is to be called once, from any goroutine, when
	// every other gateway routes accordingly. OnManaged is called with all that clients get without having subscribed, when
	// something may have been missed; done likewise. Neither may block, and both come in order with the claims that are granted. nil: nobody
	// is told.
	OnMembers func(c MembersChange, done func())
	OnManaged func(clients []ManagedClient, done func())
	// Holdings yields the clients for which a claim was granted and which were not released or evicted since.
	Holdings func() iter.Seq2[string, Held]
	// Ghosts yields the durable clients for which OnForget is waited for, with the epochs at which they were held here; it
	// may be nil. The keeper is not to be called meanwhile.
	Ghosts func() iter.Seq2[string, uint64]
	// ClaimTimeout is how long Claim waits at most: 5 s when zero.
	ClaimTimeout time.Duration
	// Waiting is how many claims may be unanswered: 65,536 when zero. Beyond it a claim is ErrUnavailable. Releases
	// of claims whose answers were lost with a stream are bounded by it too. Beyond it one is left out: the record
	// stays until the client is claimed again or the incarnation ends.
	Waiting int
	// Room is the backlog in bytes beyond which there is no Room: 64 MiB when zero.
	Room int
	// Linger is how long the keeper waits for answers at the end: 2 s when zero.
	Linger time.Duration
}

// Held is how a client is held.
type Held struct {
	Epoch uint64
	// Settled says that Settled has been called for it.
	Settled bool
	// Username is that of the client; empty: none.
	Username string
	// Durable: it has a session that outlives its connection.
	Durable bool
}

// Deps are what a Keeper works with; all are required.
type Deps struct {
	// Sessions is run by the caller, for as long as the Keeper at least.
	Sessions *cluster.Sessions
	Logger   *slog.Logger
	Metrics  prometheus.Registerer
}

// Keeper holds this gateway's leases.
type Keeper struct {
	config  Config
	deps    Deps
	metrics *metrics
	// attached, and what is written and not answered: how many frames, how many bytes. They change under mu.
	attached       atomic.Bool
	first          chan struct{} // closed when it has been attached once
	fullUntil      atomic.Int64  // Unix time in ns until which the store is taken for full
	waiting, bytes atomic.Int64

	mu       sync.Mutex // guards the following; nothing waits under it
	requests requests
	// claims are those among the requests, by id.
	claims map[uint64]*claim
	// strays are releases with epoch 0, by client.
	strays map[string]uint64
	// refused are ids of releases that have to be repeated.
	refused []uint64
	stream  *stream // nil while not attached
	// managed names what is known of managed filters.
	managed string
	// rested is closed when a keeper that is to end has nothing to wait for any more; nil otherwise.
	rested chan struct{}
	ended  bool
}

// New returns a Keeper that is not attached before Run.
func New(c Config, d Deps) *Keeper {
	if c.ClaimTimeout == 0 {
		c.ClaimTimeout = 5 * time.Second
	}
	if c.Waiting == 0 {
		c.Waiting = 65_536
	}
	if c.Room == 0 {
		c.Room = defaultRoom
	}
	if c.Linger == 0 {
		c.Linger = 2 * time.Second
	}
	k := &Keeper{config: c, deps: d, first: make(chan struct{}), claims: map[uint64]*claim{}, strays: map[string]uint64{}}
	k.metrics = newMetrics(d.Metrics, k)
	return k
}

// Run keeps the keeper attached until the context is done; then it waits a moment for the answers to what was
// written and released, every claim that waits fails, and what is not answered never is. Returns nil.
func (k *Keeper) Run(ctx context.Context) error {
	defer k.end()
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		defer stop()
		<-ctx.Done()
		k.linger()
	})
	k.serve(serving)
	return nil
}

func (k *Keeper) serve(ctx context.Context) {
	wait := retryLeast
	for ctx.Err() == nil {
		active, conn, changed := k.deps.Sessions.Active()
		if conn == nil {
			select {
			case <-ctx.Done():
			case <-changed:
			}
			continue
		}
		attached, err := k.attach(ctx, active, sessionv1.NewSessionServiceClient(conn))
		if ctx.Err() != nil {
			continue
		}
		level := slog.LevelInfo // to begin with, the instance may only be about to become the active one
		if attached {
			wait, level = retryLeast, slog.LevelWarn
		}
		k.deps.Logger.Log(ctx, level, "not attached to the session service", slog.String("peer", active.ID), slog.Any("error", err))
		again := time.NewTimer(wait/2 + rand.N(wait))
		select {
		case <-ctx.Done():
		case <-changed:
			// A fresh instance waits for this gateway, but not for long.
			wait = retryLeast
		case <-again.C:
			wait = min(2*wait, retryMost)
		}
		again.Stop()
	}
}

func (k *Keeper) end() {
	k.mu.Lock()
	k.ended = true
	open := k.requests
	k.requests, k.claims = requests{last: open.last}, map[uint64]*claim{}
	k.mu.Unlock()
	for _, what := range open.all() {
		switch r := what.(type) {
		case *claim:
			if !r.abandoned {
				r.answer <- ErrUnavailable
			}
		case *write:
			k.backlog(-1, -r.size)
			if r.whole.left--; r.whole.left == 0 {
				r.whole.done(nil, ErrUnavailable)
			}
		case *retain:
			k.backlog(-1, -r.message.Size())
			r.done(0, ErrUnavailable)
		}
	}
}

// Attached is closed when the keeper has been attached to an active session instance for the first time.
func (k *Keeper) Attached() <-chan struct{} { return k.first }

// Available says whether the keeper is attached to an active session instance. While it is not, claims wait.
func (k *Keeper) Available() bool { return k.attached.Load() }

// ask needs mu. It sends a request now or on the next stream, and returns its id.
func (k *Keeper) ask(what frame) uint64 {
	id := k.requests.add(what)
	k.push(id, what)
	return id
}

// push needs mu.
func (k *Keeper) push(id uint64, what frame) {
	if k.stream != nil {
		k.stream.push(id, what)
	}
}

// answered needs mu. It drops a request: it is not repeated any more.
func (k *Keeper) answered(id uint64) {
	k.requests.remove(id)
	k.rest()
}

// linger waits, at the end, for what was written and released to be answered, as long as somebody is there who can.
func (k *Keeper) linger() {
	timeout := time.NewTimer(k.config.Linger)
	defer timeout.Stop()
	rested := make(chan struct{})
	k.mu.Lock()
	k.rested = rested
	k.rest()
	k.mu.Unlock()
	select {
	case <-rested:
	case <-timeout.C:
	}
}

// rest needs mu. It ends linger when there is nothing to wait for.
func (k *Keeper) rest() {
	if k.rested == nil {
		return
	}
	q := &k.requests
	if k.stream == nil || len(q.byID) == len(k.claims)+len(q.told) {
		close(k.rested)
		k.rested = nil
	}
}
