// Package lease is the gateway's side of the session service: it claims clients for this gateway and gives them up,
// over one stream to the active session instance, and learns which of them another gateway has taken over.
//
// A Keeper knows which claims and releases were not answered; who is connected, the gateway knows. When its stream
// breaks, the Keeper attaches again, to whichever instance is active then, shows what the gateway holds, and
// repeats what was not answered. Its methods may be called from any goroutine.
package lease

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/internal/cluster"
)

const (
	retryLeast = 50 * time.Millisecond
	retryMost  = time.Second
)

// Why a claim was not granted.
var (
	// ErrUnavailable says that there is no answer now: no active session instance, or no etcd. The client may try
	// again later.
	ErrUnavailable = errors.New("the session service is unavailable")
	// ErrSuperseded says that a newer claim for the same client came in between.
	ErrSuperseded = errors.New("superseded by a newer claim")
	// ErrIncarnationDead says that this gateway's incarnation is over.
	ErrIncarnationDead = errors.New("the incarnation of this gateway is dead")
)

// Config of a Keeper. Incarnation, OnEvict and Holdings are required.
type Config struct {
	// Incarnation is the id of the gateway's incarnation.
	Incarnation string
	// OnEvict is called when another gateway has taken a client over: connections of the client under an epoch
	// older than this one are to end. It may be called again for the same client, and for one that is not here.
	// done is called once, from any goroutine, when they are gone. OnEvict must not block.
	OnEvict func(clientID string, epoch uint64, done func())
	// Holdings yields the clients for which a claim was granted and which were not released or evicted since.
	Holdings func() iter.Seq2[string, uint64]
	// ClaimTimeout is how long Claim waits at most: 5 s when zero.
	ClaimTimeout time.Duration
	// Waiting is how many claims, and how many releases, may be unanswered: 65,536 when zero. Beyond it a claim is
	// ErrUnavailable, and a release is left out: the record stays until the client is claimed again or the
	// incarnation ends.
	Waiting int
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

	mu sync.Mutex // guards the following; nothing waits under it
	// claims and releases are those without an answer, by request id.
	claims   map[uint64]*claim
	releases map[uint64]*release
	// strays are releases with epoch 0, by client.
	strays map[string]uint64
	// refused says that some releases have to be repeated.
	refused bool
	last    uint64  // request id
	stream  *stream // nil while not attached
	ended   bool
}

type claim struct {
	client  string
	granted func(epoch uint64)
	answer  chan error // has room for one
	sent    bool
	// abandoned: nobody waits any more. If it is granted, it is released.
	abandoned bool
}

type release struct {
	client  string
	epoch   uint64
	refused bool
}

// New returns a Keeper that is not attached before Run.
func New(c Config, d Deps) *Keeper {
	if c.ClaimTimeout == 0 {
		c.ClaimTimeout = 5 * time.Second
	}
	if c.Waiting == 0 {
		c.Waiting = 65_536
	}
	return &Keeper{
		config: c, deps: d, metrics: newMetrics(d.Metrics),
		claims: map[uint64]*claim{}, releases: map[uint64]*release{}, strays: map[string]uint64{},
	}
}

// Run keeps the keeper attached until the context is done; then every waiting claim fails. Returns nil.
func (k *Keeper) Run(ctx context.Context) error {
	defer k.end()
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
	return nil
}

func (k *Keeper) end() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ended = true
	for id, c := range k.claims {
		c.answer <- ErrUnavailable
		delete(k.claims, id)
	}
}

// Available says whether the keeper is attached to an active session instance. While it is not, claims wait.
func (k *Keeper) Available() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.stream != nil
}

// Claim takes a client for this gateway. Either granted is called with the epoch of the lease, and then nil is
// returned: the connections that other gateways had of the client are gone, or had a second to go. Or the error
// says why not, granted is never called, and whatever becomes of the claim later, nothing is held through it. The
// errors are those of this package, or the context's.
//
// granted is called before OnEvict can be called for what it grants. It must not block. The caller has ended its
// own older connection of the client before, or waited until its Claim had returned.
func (k *Keeper) Claim(ctx context.Context, clientID string, granted func(epoch uint64)) error {
	start := time.Now()
	err := k.claim(ctx, clientID, granted)
	k.metrics.claimed(time.Since(start), err)
	if err != nil {
		return fmt.Errorf("claim client %q: %w", clientID, err)
	}
	return nil
}

func (k *Keeper) claim(ctx context.Context, clientID string, granted func(epoch uint64)) error {
	id, c, err := k.startClaim(clientID, granted)
	if err != nil {
		return err
	}
	timeout := time.NewTimer(k.config.ClaimTimeout)
	defer timeout.Stop()
	select {
	case err := <-c.answer:
		return err
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-timeout.C:
		err = ErrUnavailable
	}
	if k.abandon(id, c) {
		return err
	}
	// It is being answered at this moment.
	return <-c.answer
}

func (k *Keeper) startClaim(clientID string, granted func(epoch uint64)) (uint64, *claim, error) {
	c := &claim{client: clientID, granted: granted, answer: make(chan error, 1)}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ended || len(k.claims) >= k.config.Waiting {
		return 0, nil, ErrUnavailable
	}
	// The stray record is overwritten now; released later, it would be this claim's.
	if stray, ok := k.strays[clientID]; ok {
		delete(k.releases, stray)
		delete(k.strays, clientID)
	}
	k.last++
	k.claims[k.last] = c
	if k.stream != nil {
		c.sent = true
		k.stream.push(claimFrame(k.last, clientID))
	}
	return k.last, c, nil
}

// abandon sees to it that nothing is held through a claim for which nobody waits any more. False: it has been
// answered.
func (k *Keeper) abandon(id uint64, c *claim) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.claims[id] != c {
		return false
	}
	c.abandoned = true
	if c.sent && k.stream != nil {
		// The answer will come, or the stream will break.
		return true
	}
	delete(k.claims, id)
	if c.sent {
		k.releaseStray(c.client)
	}
	return true
}

// Release gives a client up if it is still held at this epoch. It does not wait; it is repeated until the session
// service has answered.
func (k *Keeper) Release(clientID string, epoch uint64) {
	if epoch == 0 {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.release(clientID, epoch)
}

// release needs mu.
func (k *Keeper) release(clientID string, epoch uint64) {
	if len(k.releases) >= k.config.Waiting {
		k.metrics.lost.Inc()
		return
	}
	k.last++
	k.releases[k.last] = &release{client: clientID, epoch: epoch}
	if epoch == 0 {
		k.strays[clientID] = k.last
	}
	if k.stream != nil {
		k.stream.push(releaseFrame(k.last, clientID, epoch))
	}
}

// releaseStray needs mu. It releases whatever record a lost claim may have left, unless this gateway wants the
// client again. That it holds the client by a later claim is not possible: the lost one was answered before that.
func (k *Keeper) releaseStray(clientID string) {
	for _, c := range k.claims {
		if c.client == clientID && !c.abandoned {
			return
		}
	}
	k.release(clientID, 0)
}
