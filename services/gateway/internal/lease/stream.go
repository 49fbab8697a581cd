package lease

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/internal/cluster"
)

const (
	welcomeTimeout = 3 * time.Second
	repeatInterval = time.Second
	holdingsFrame  = 1000
	keptOutbox     = 65_536
)

var (
	errNoWelcome = errors.New("no welcome in time")
	errMoved     = errors.New("another session instance is active")
	errStuck     = errors.New("the session instance does not read")
)

// outgoing is a frame that waits to be sent.
type outgoing struct {
	id   uint64
	what frame
}

// stream is one attachment. Frames that wait to be sent are dropped with it: whatever they asked for is still in
// the keeper and is asked for anew.
type stream struct {
	cancel context.CancelCauseFunc
	filled chan struct{} // signal: the outbox is not empty
	bound  int           // of loose frames
	missed missed

	mu     sync.Mutex // guards the following
	outbox []outgoing
	// loose is how many in the outbox are not requests: those are bounded where they are kept.
	loose int
}

// push sends a request.
func (s *stream) push(id uint64, what frame) {
	s.mu.Lock()
	s.outbox = append(s.outbox, outgoing{id: id, what: what})
	s.mu.Unlock()
	s.signal()
}

// tell sends a frame that is in no list of requests.
func (s *stream) tell(what frame) {
	s.mu.Lock()
	full := s.loose >= s.bound
	if !full {
		s.outbox = append(s.outbox, outgoing{what: what})
		s.loose++
	}
	s.mu.Unlock()
	if full {
		s.cancel(errStuck)
		return
	}
	s.signal()
}

func (s *stream) signal() {
	select {
	case s.filled <- struct{}{}:
	default:
	}
}

// take empties the outbox, which goes on with the room of sent.
func (s *stream) take(sent []outgoing) []outgoing {
	clear(sent)
	if cap(sent) > keptOutbox {
		sent = nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	frames := s.outbox
	s.outbox, s.loose = sent[:0], 0
	return frames
}

// attach opens a stream and serves it until it breaks.
func (k *Keeper) attach(ctx context.Context, active cluster.Member, c sessionv1.SessionServiceClient) (attached bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	early := time.AfterFunc(welcomeTimeout, func() { cancel(errNoWelcome) })
	defer early.Stop()
	rpc, err := c.Attach(ctx, callOptions()...)
	if err != nil {
		return false, fmt.Errorf("attach: %w", err)
	}
	hello := &sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Hello{
		Hello: &sessionv1.Hello{Incarnation: k.config.Incarnation, ManagedVersion: k.managedVersion()},
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
	k.resume(s, first.GetWelcome().GetManagedVersion())
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
		k.receive(s, r)
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
	var frames []outgoing
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-repeat.C:
			k.repeat(s)
		case <-s.filled:
		}
		frames = s.take(frames)
		for _, f := range frames {
			if err := rpc.Send(f.what.wire(f.id, time.Now())); err != nil {
				// The reader gets the reason.
				return nil
			}
		}
	}
}

// resume makes s the stream: it shows all holdings and asks again for what was not answered, in the old order. managed is
// in force of managed filters: without holdings nothing of it was missed.
func (k *Keeper) resume(s *stream, managed string) {
	// While there is no stream nothing is granted or evicted.
	h := &sessionv1.Holdings{}
	add := func(to *[]*sessionv1.Holding, one *sessionv1.Holding) {
		*to = append(*to, one)
		if len(h.GetHoldings())+len(h.GetGhosts()) == holdingsFrame {
			s.tell(holdings{h})
			h = &sessionv1.Holdings{}
		}
	}
	none := true
	for id, held := range k.config.Holdings() {
		none = false
		add(&h.Holdings, &sessionv1.Holding{ClientId: id, Epoch: held.Epoch, Settled: held.Settled, Username: held.Username, Durable: held.Durable})
	}
	if k.config.Ghosts != nil {
		for id, epoch := range k.config.Ghosts() {
			add(&h.Ghosts, &sessionv1.Holding{ClientId: id, Epoch: epoch})
		}
	}
	h.Last = true
	s.tell(holdings{h})

	k.mu.Lock()
	defer k.mu.Unlock()
	if none {
		k.managed = managed
	}
	for id, what := range k.requests.all() {
		if c, ok := what.(*claim); ok {
			c.sent = true
		}
		s.push(id, what)
	}
	k.refused = k.refused[:0]
	k.stream = s
	k.attached.Store(true)
	select {
	case <-k.first:
	default:
		close(k.first)
	}
}

// broke forgets the stream. What was claimed on it and is not wanted any more may have been recorded.
func (k *Keeper) broke() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.stream = nil
	k.attached.Store(false)
	for id, c := range k.claims {
		if c.abandoned {
			k.dropClaim(id)
			k.releaseStray(c.ClientID)
		}
	}
	k.rest()
}

// repeat sends releases again that were refused.
func (k *Keeper) repeat(s *stream) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, id := range k.refused {
		// One that has been withdrawn meanwhile is not there.
		if r, ok := find[*release](&k.requests, id); ok {
			s.push(id, r)
		}
	}
	k.refused = k.refused[:0]
}

func (k *Keeper) receive(s *stream, r *sessionv1.AttachResponse) {
	switch f := r.GetFrame().(type) {
	case *sessionv1.AttachResponse_Written:
		k.written(f.Written)
	case *sessionv1.AttachResponse_Claimed:
		k.granted(f.Claimed)
	case *sessionv1.AttachResponse_Refused:
		k.refuse(f.Refused.GetRequestId(), f.Refused.GetReason())
	case *sessionv1.AttachResponse_Released:
		k.released(f.Released.GetRequestId())
	case *sessionv1.AttachResponse_Evict:
		k.evict(f.Evict.GetClientId(), f.Evict.GetEpoch())
	case *sessionv1.AttachResponse_Forget:
		if k.config.OnForget != nil {
			k.config.OnForget(f.Forget.GetClientId(), f.Forget.GetEpoch())
		}
	case *sessionv1.AttachResponse_Retained:
		k.retained(f.Retained)
	case *sessionv1.AttachResponse_Publish:
		k.publish(s, f.Publish)
	case *sessionv1.AttachResponse_MembersChanged:
		k.membersChanged(s, f.MembersChanged)
	case *sessionv1.AttachResponse_ManagedClients:
		k.managedClients(s, f.ManagedClients)
	}
}

func (k *Keeper) evict(clientID string, epoch uint64) {
	k.metrics.evictions.Inc()
	k.config.OnEvict(clientID, epoch, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		// On another stream than it was asked on, it is as true.
		if k.stream != nil {
			k.stream.tell(evicted{client: clientID, epoch: epoch})
		}
	})
}

type evicted struct {
	client string
	epoch  uint64
}

func (e evicted) wire(uint64, time.Time) *sessionv1.AttachRequest {
	return &sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Evicted{
		Evicted: &sessionv1.Evicted{ClientId: e.client, Epoch: e.epoch},
	}}
}

type holdings struct{ *sessionv1.Holdings }

func (h holdings) wire(uint64, time.Time) *sessionv1.AttachRequest {
	return &sessionv1.AttachRequest{Frame: &sessionv1.AttachRequest_Holdings{Holdings: h.Holdings}}
}
