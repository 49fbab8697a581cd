package lease

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/internal/cluster"
)

const (
	welcomeTimeout = 3 * time.Second
	repeatInterval = time.Second
	holdingsFrame  = 1000
)

var (
	errNoWelcome = errors.New("no welcome in time")
	errMoved     = errors.New("another session instance is active")
	errStuck     = errors.New("the session instance does not read")
)

// stream is one attachment. Frames that wait to be sent are dropped with it: whatever they asked for is still in
// the keeper and is asked for anew.
type stream struct {
	cancel context.CancelCauseFunc
	filled chan struct{} // signal: the outbox is not empty
	bound  int

	mu     sync.Mutex
	outbox []*sessionv1.AttachRequest // guarded by mu
}

func (s *stream) push(r *sessionv1.AttachRequest) {
	s.mu.Lock()
	full := len(s.outbox) >= s.bound
	if !full {
		s.outbox = append(s.outbox, r)
	}
	s.mu.Unlock()
	if full {
		s.cancel(errStuck)
		return
	}
	select {
	case s.filled <- struct{}{}:
	default:
	}
}

// attach opens a stream and serves it until it breaks.
func (k *Keeper) attach(ctx context.Context, active cluster.Member, c sessionv1.SessionServiceClient) (attached bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	early := time.AfterFunc(welcomeTimeout, func() { cancel(errNoWelcome) })
	defer early.Stop()
	rpc, err := c.Attach(ctx)
	if err != nil {
		return false, fmt.Errorf("attach: %w", err)
	}
	hello := &sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Hello{
		Hello: &sessionv1.Hello{Incarnation: k.config.Incarnation},
	}}
	if err := rpc.Send(hello); err != nil {
		return false, broken(ctx, fmt.Errorf("send hello: %w", err))
	}
	first, err := rpc.Recv()
	if err != nil {
		return false, broken(ctx, fmt.Errorf("receive welcome: %w", err))
	}
	if first.GetWelcome() == nil || !early.Stop() {
		return false, errNoWelcome
	}
	k.deps.Logger.InfoContext(ctx, "attached to the session service", slog.String("peer", first.GetWelcome().GetIncarnation()))
	k.metrics.attached.Set(1)
	defer k.metrics.attached.Set(0)

	s := &stream{cancel: cancel, filled: make(chan struct{}, 1), bound: 4 * k.config.Waiting}
	k.resume(s)
	defer k.broke()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	wg.Go(func() { cancel(k.write(ctx, s, rpc)) })
	wg.Go(func() { k.watch(ctx, active.ID, cancel) })
	for {
		r, err := rpc.Recv()
		if err != nil {
			return true, broken(ctx, fmt.Errorf("receive: %w", err))
		}
		k.receive(r)
	}
}

// broken prefers the reason why this side has ended the stream.
func broken(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

// watch ends the stream when another instance has become active: this one may be paused.
func (k *Keeper) watch(ctx context.Context, id string, cancel context.CancelCauseFunc) {
	for {
		active, _, changed := k.deps.Sessions.Active()
		if active.ID != "" && active.ID != id {
			cancel(errMoved)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

func (k *Keeper) write(ctx context.Context, s *stream, rpc sessionv1.SessionService_AttachClient) error {
	repeat := time.NewTicker(repeatInterval)
	defer repeat.Stop()
	var frames []*sessionv1.AttachRequest
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-repeat.C:
			k.repeat(s)
		case <-s.filled:
		}
		s.mu.Lock()
		frames, s.outbox = s.outbox, frames[:0]
		s.mu.Unlock()
		for i, f := range frames {
			if err := rpc.Send(f); err != nil {
				// The reader gets the reason.
				return nil
			}
			frames[i] = nil
		}
	}
}

// resume makes s the stream: it shows all holdings and asks again for what was not answered, in the old order.
func (k *Keeper) resume(s *stream) {
	// While there is no stream nothing is granted or evicted.
	h := &sessionv1.Holdings{}
	for id, epoch := range k.config.Holdings() {
		h.Holdings = append(h.Holdings, &sessionv1.Holding{ClientId: id, Epoch: epoch})
		if len(h.Holdings) == holdingsFrame {
			s.push(holdingsOf(h))
			h = &sessionv1.Holdings{}
		}
	}
	h.Last = true
	s.push(holdingsOf(h))

	k.mu.Lock()
	defer k.mu.Unlock()
	ids := slices.AppendSeq(slices.Collect(maps.Keys(k.claims)), maps.Keys(k.releases))
	slices.SortFunc(ids, cmp.Compare[uint64])
	for _, id := range ids {
		if c := k.claims[id]; c != nil {
			c.sent = true
			s.push(claimFrame(id, c.client))
		} else {
			r := k.releases[id]
			r.refused = false
			s.push(releaseFrame(id, r.client, r.epoch))
		}
	}
	k.refused = false
	k.stream = s
}

// broke forgets the stream. What was claimed on it and is not wanted any more may have been recorded.
func (k *Keeper) broke() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.stream = nil
	for id, c := range k.claims {
		if c.abandoned {
			delete(k.claims, id)
			k.releaseStray(c.client)
		}
	}
}

// repeat sends releases again that were refused.
func (k *Keeper) repeat(s *stream) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.refused {
		return
	}
	k.refused = false
	for id, r := range k.releases {
		if r.refused {
			r.refused = false
			s.push(releaseFrame(id, r.client, r.epoch))
		}
	}
}

func (k *Keeper) receive(r *sessionv1.AttachResponse) {
	switch f := r.GetFrame().(type) {
	case *sessionv1.AttachResponse_Claimed:
		k.granted(f.Claimed.GetRequestId(), f.Claimed.GetEpoch())
	case *sessionv1.AttachResponse_Refused:
		k.refuse(f.Refused.GetRequestId(), f.Refused.GetReason())
	case *sessionv1.AttachResponse_Released:
		k.released(f.Released.GetRequestId())
	case *sessionv1.AttachResponse_Evict:
		k.evict(f.Evict.GetClientId(), f.Evict.GetEpoch())
	}
}

func (k *Keeper) granted(id, epoch uint64) {
	k.mu.Lock()
	c := k.claims[id]
	delete(k.claims, id)
	if c != nil && c.abandoned {
		k.release(c.client, epoch)
	}
	k.mu.Unlock()
	if c == nil || c.abandoned {
		return
	}
	c.granted(epoch)
	c.answer <- nil
}

func (k *Keeper) refuse(id uint64, why sessionv1.Refusal) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if r := k.releases[id]; r != nil {
		r.refused, k.refused = true, true
		return
	}
	c := k.claims[id]
	if c == nil {
		return
	}
	delete(k.claims, id)
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
	if r := k.releases[id]; r != nil {
		delete(k.releases, id)
		if k.strays[r.client] == id {
			delete(k.strays, r.client)
		}
	}
}

func (k *Keeper) evict(clientID string, epoch uint64) {
	k.metrics.evictions.Inc()
	k.config.OnEvict(clientID, epoch, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		// On another stream than it was asked on, it is as true.
		if k.stream != nil {
			k.stream.push(evictedFrame(clientID, epoch))
		}
	})
}

func claimFrame(id uint64, clientID string) *sessionv1.AttachRequest {
	return &sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Claim{
		Claim: &sessionv1.Claim{RequestId: id, ClientId: clientID},
	}}
}

func releaseFrame(id uint64, clientID string, epoch uint64) *sessionv1.AttachRequest {
	return &sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Release{
		Release: &sessionv1.Release{RequestId: id, ClientId: clientID, Epoch: epoch},
	}}
}

func evictedFrame(clientID string, epoch uint64) *sessionv1.AttachRequest {
	return &sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Evicted{
		Evicted: &sessionv1.Evicted{ClientId: clientID, Epoch: epoch},
	}}
}

func holdingsOf(h *sessionv1.Holdings) *sessionv1.AttachRequest {
	return &sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Holdings{Holdings: h}}
}
