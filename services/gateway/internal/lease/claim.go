package lease

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/internal/journal"
)

// Request says for which client a claim is, and what its CONNECT said of its session.
type Request struct {
	ClientID string
	// Username is that of the client; empty: none.
	Username string
	// CleanStart: the session that the client has, if any, ends and is not continued.
	CleanStart bool
	// Expiry is the Session Expiry Interval in seconds. 0: the session is transient, nothing of it is stored.
	Expiry uint32
	// Will is that of the connection, nil for none. It is stored when the claim is granted.
	Will *journal.Will
}

// Grant is what a claim has brought.
type Grant struct {
	// Epoch of the lease.
	Epoch uint64
	// Session is the durable session that this gateway holds from now on, nil for a transient one.
	Session *journal.State
	// Managed is what the client gets without having subscribed.
	Managed []Managed
}

// Ending says how a connection has ended.
type Ending struct {
	// WithoutWill: the client has said goodbye, or the gateway ends in order. The will is forgotten.
	WithoutWill bool
	// Expiry is the Session Expiry Interval that DISCONNECT gave, nil if it gave none. Nobody changes what it
	// points to.
	Expiry *uint32
	// Reason is why it has ended, one of those of PresenceEvent in beeline.messaging.v1; empty: it is not known.
	Reason string
}

type claim struct {
	Request
	granted func(Grant)
	answer  chan error // has room for one
	// The following are guarded by Keeper.mu.
	sent bool
	// abandoned: nobody waits any more. If it is granted, it is released.
	abandoned bool
}

func (c *claim) wire(id uint64, _ time.Time) *sessionv1.AttachRequest {
	w := &sessionv1.Claim{RequestId: id, ClientId: c.ClientID, CleanStart: c.CleanStart, SessionExpirySeconds: c.Expiry, Username: c.Username}
	if c.Will != nil {
		w.Will = journal.WillToWire(c.Will)
	}
	return &sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Claim{Claim: w}}
}

// release with epoch 0 is a stray's: see Keeper.releaseStray.
type release struct {
	client string
	epoch  uint64
	ending Ending
}

func (r *release) wire(id uint64, _ time.Time) *sessionv1.AttachRequest {
	w := &sessionv1.Release{RequestId: id, ClientId: r.client, Epoch: r.epoch, SessionExpirySeconds: r.ending.Expiry, Reason: r.ending.Reason}
	if r.ending.WithoutWill {
		w.Ending = sessionv1.Ending_ENDING_WITHOUT_WILL
	}
	return &sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Release{Release: w}}
}

// Claim takes a client for this gateway. Either granted is called with what it has brought, and then nil is
// returned: the connections that other gateways had of the client are gone, or had a second to go. Or the error
// says why not, granted is never called, and whatever becomes of the claim later, nothing is held through it. The
// errors are those of this package, or the context's.
//
// granted is called before OnEvict can be called for what it grants. It must not block. The caller has ended its
// own older connection of the client before, what that had to write included, or waited until its Claim had returned.
func (k *Keeper) Claim(ctx context.Context, r Request, granted func(Grant)) error {
	start := time.Now()
	err := k.claim(ctx, &claim{Request: r, granted: granted, answer: make(chan error, 1)})
	k.metrics.claimed(time.Since(start), err)
	if err != nil {
		return fmt.Errorf("claim client %q: %w", r.ClientID, err)
	}
	return nil
}

func (k *Keeper) claim(ctx context.Context, c *claim) error {
	id, err := k.startClaim(c)
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

func (k *Keeper) startClaim(c *claim) (uint64, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ended || len(k.claims) >= k.config.Waiting {
		return 0, ErrUnavailable
	}
	// The stray record is overwritten now; released later, it would be this claim's.
	if stray, ok := k.strays[c.ClientID]; ok {
		k.answered(stray)
		delete(k.strays, c.ClientID)
	}
	c.sent = k.stream != nil
	id := k.ask(c)
	k.claims[id] = c
	return id, nil
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
	k.dropClaim(id)
	if c.sent {
		k.releaseStray(c.ClientID)
	}
	return true
}

// dropClaim needs mu.
func (k *Keeper) dropClaim(id uint64) {
	delete(k.claims, id)
	k.answered(id)
}

// Release gives a client up if it is still held at this epoch, behind everything that was written for it before. It
// does not wait; it is repeated until the session service has answered.
//
// No more of them wait than clients were held: none is ever left out, because a durable session whose holder does
// not say that it has let go gets its messages nowhere.
func (k *Keeper) Release(clientID string, epoch uint64, ending Ending) {
	if epoch == 0 {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ask(&release{client: clientID, epoch: epoch, ending: ending})
}

// releaseStray needs mu. It releases whatever record a lost claim may have left, unless this gateway wants the
// client again. That it holds the client by a later claim is not possible: the lost one was answered before that.
func (k *Keeper) releaseStray(clientID string) {
	for _, c := range k.claims {
		if c.ClientID == clientID && !c.abandoned {
			return
		}
	}
	if len(k.strays) >= k.config.Waiting {
		k.metrics.lost.Inc()
		return
	}
	k.strays[clientID] = k.ask(&release{client: clientID, ending: neverWas()})
}

// neverWas is the ending of a connection that has not come to be.
func neverWas() Ending { return Ending{WithoutWill: true} }

func (k *Keeper) granted(g *sessionv1.Claimed) {
	id, grant := g.GetRequestId(), Grant{Epoch: g.GetEpoch(), Managed: managedOf(g.GetManaged())}
	var err error
	if g.GetSession() != nil {
		grant.Session, err = journal.StateFromWire(g.GetSession())
	}
	k.mu.Lock()
	k.requests.heard(id)
	c := k.claims[id]
	abandoned := c == nil || c.abandoned
	if c != nil {
		k.dropClaim(id)
		if abandoned || err != nil {
			k.ask(&release{client: c.ClientID, epoch: grant.Epoch, ending: neverWas()})
		}
	}
	k.mu.Unlock()
	switch {
	case abandoned:
	case err != nil:
		// It stays in the store as it is; another version may be able to read it.
		k.deps.Logger.Error("stored session cannot be read", slog.String("client_id", c.ClientID), slog.Any("error", err))
		c.answer <- ErrUnavailable
	default:
		c.granted(grant)
		c.answer <- nil
	}
}

func (k *Keeper) refuse(id uint64, why sessionv1.Refusal) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.requests.heard(id)
	if _, ok := find[*release](&k.requests, id); ok {
		k.refused = append(k.refused, id)
		return
	}
	c := k.claims[id]
	if c == nil {
		return
	}
	k.dropClaim(id)
	if c.abandoned {
		return
	}
	switch why {
	case sessionv1.Refusal_REFUSAL_SUPERSEDED:
		c.answer <- ErrSuperseded
	case sessionv1.Refusal_REFUSAL_INCARNATION_DEAD:
		c.answer <- ErrIncarnationDead
	default:
		c.answer <- ErrUnavailable
	}
}

func (k *Keeper) released(id uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.requests.heard(id)
	r, ok := find[*release](&k.requests, id)
	if !ok {
		return
	}
	if k.strays[r.client] == id {
		delete(k.strays, r.client)
	}
	k.answered(id)
}
