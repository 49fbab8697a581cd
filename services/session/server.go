package session

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/rpc"
	"github.com/beeline-mqtt/beeline/services/session/internal/claims"
)

const (
	helloTimeout = 5 * time.Second
	aliveTimeout = 2 * time.Second
)

// How a stream ends, as the gateway sees it.
var (
	errNotActive = rpc.Refuse(rpc.NotActive, "this is not the active session instance")
	errDead      = rpc.Refuse(rpc.NotAlive, "the incarnation of this gateway is not alive")
	errReplaced  = status.Error(codes.Aborted, "the gateway has attached again")
	errCutOff    = status.Error(codes.ResourceExhausted, "the gateway does not read its stream")
	errStopping  = rpc.Refuse(rpc.Stopping, "the session instance is stopping")
)

// Witness implements the service.
func (s *Session) Witness(context.Context, *sessionv1.WitnessRequest) (*sessionv1.WitnessResponse, error) {
	return &sessionv1.WitnessResponse{EtcdReachable: s.probe.Reachable()}, nil
}

// Attach implements the service.
func (s *Session) Attach(g grpc.BidiStreamingServer[sessionv1.AttachRequest, sessionv1.AttachResponse]) error {
	if err := rpc.RequireRole(g.Context(), "gateway"); err != nil {
		return err
	}
	t, err := s.enter()
	if err != nil {
		return err
	}
	defer s.streams.Done()
	ctx, cancel := context.WithCancelCause(g.Context())
	defer cancel(nil)
	hello, err := s.hello(ctx, g)
	if err != nil {
		return err
	}
	gateway := hello.GetIncarnation()
	aliveAt, err := t.checkAlive(ctx, gateway)
	if err != nil {
		return err
	}
	st := &stream{
		term: t, gateway: gateway, managed: hello.GetManagedVersion(), number: s.numbers.Add(1), aliveAt: aliveAt, grpc: g,
		holdings: make(chan *sessionv1.Holdings, holdingsWaiting),
		filled:   make(chan struct{}, 1),
		cancel:   cancel, publishing: map[uint64]func(bool){},
	}
	if err := t.attach(st); err != nil {
		return err
	}
	s.metrics.attached.Inc()
	defer s.metrics.attached.Dec()
	s.deps.Logger.InfoContext(ctx, "gateway attached", slog.String("peer", gateway))
	err = st.serve(ctx, &s.streams)
	t.detach(st)
	if errors.Is(err, errCutOff) {
		s.metrics.cutOff.Inc()
	}
	s.deps.Logger.InfoContext(g.Context(), "gateway detached", slog.String("peer", gateway), slog.Any("error", err))
	return err
}

// enter counts a stream, unless it has to be refused.
func (s *Session) enter() (*term, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case closed(s.done):
		return nil, errStopping
	case s.term == nil:
		return nil, errNotActive
	}
	s.streams.Add(1)
	return s.term, nil
}

// hello receives the first frame, within its time.
func (s *Session) hello(ctx context.Context, g grpc.BidiStreamingServer[sessionv1.AttachRequest, sessionv1.AttachResponse]) (*sessionv1.Hello, error) {
	type first struct {
		r   *sessionv1.AttachRequest
		err error
	}
	// Recv ends with the stream at the latest, which ends when Attach returns.
	got := make(chan first, 1)
	s.streams.Go(func() {
		r, err := g.Recv()
		got <- first{r, err}
	})
	timeout := time.NewTimer(helloTimeout)
	defer timeout.Stop()
	select {
	case f := <-got:
		if f.err != nil {
			return nil, f.err
		}
		if f.r.GetHello().GetIncarnation() == "" {
			return nil, status.Error(codes.InvalidArgument, "the first frame is not a Hello with an incarnation")
		}
		return f.r.GetHello(), nil
	case <-timeout.C:
		return nil, status.Error(codes.DeadlineExceeded, "no Hello")
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

// checkAlive returns a revision of etcd at which the gateway was alive. It asks etcd about one that is not in the view,
// which may be behind.
func (t *term) checkAlive(ctx context.Context, gateway string) (revision int64, err error) {
	t.mu.Lock()
	_, known := t.view.Find(gateway)
	revision = t.view.Revision
	t.mu.Unlock()
	if known {
		return revision, nil
	}
	ctx, cancel := context.WithTimeout(ctx, aliveTimeout)
	defer cancel()
	d := t.session.cluster
	r, err := d.Client.Get(ctx, d.Keys.Member(cluster.Gateway, gateway))
	if err != nil {
		return 0, status.Error(codes.Unavailable, "etcd cannot be asked about the gateway")
	}
	if len(r.Kvs) == 0 {
		return 0, errDead
	}
	return r.Header.Revision, nil
}

// attach makes st the gateway's stream, in place of an older one. Without an error, detach has to follow.
func (t *term) attach(st *stream) error {
	t.mu.Lock()
	switch {
	case t.ended:
		t.mu.Unlock()
		return t.session.refusal()
	case t.outlived(st):
		t.mu.Unlock()
		return errDead
	}
	t.users.Add(1)
	older := t.streams[st.gateway]
	t.streams[st.gateway] = st
	// Or what it has seen may not be in force, and its answer is lost.
	st.outdated = st.managed != t.managedVersion() || t.members.waitsFor(st.gateway)
	st.push(&sessionv1.AttachResponse{Frame: &sessionv1.AttachResponse_Welcome{
		Welcome: &sessionv1.Welcome{Incarnation: t.instance, ManagedVersion: t.managedVersion()},
	}})
	if t.kept != nil {
		st.stored = t.kept.Held(st.gateway)
	}
	t.mu.Unlock()
	if older != nil {
		older.end(errReplaced)
	}
	t.step(func(q *claims.Queue, now time.Time) {
		q.Detached(now, st.gateway)
		q.Attached(st.gateway)
	})
	return nil
}

func (t *term) detach(st *stream) {
	defer t.users.Done()
	t.mu.Lock()
	mine := t.streams[st.gateway] == st
	if mine {
		delete(t.streams, st.gateway)
	}
	t.mu.Unlock()
	t.unpublished(st)
	if mine {
		t.step(func(q *claims.Queue, now time.Time) { q.Detached(now, st.gateway) })
	}
}

// response is the frame for an effect. It needs mu.
func (t *term) response(e claims.Effect) *sessionv1.AttachResponse {
	switch e.Kind {
	case claims.Claimed:
		c := &sessionv1.Claimed{RequestId: e.Request.ID, Epoch: e.Epoch, FormerHolder: e.Former}
		if e.Session != nil {
			c.Session = journal.StateToWire(e.Session)
		}
		c.Managed = t.managed(e.Client, e.Request.User)
		return &sessionv1.AttachResponse{Frame: &sessionv1.AttachResponse_Claimed{Claimed: c}}
	case claims.Left:
		return &sessionv1.AttachResponse{Frame: &sessionv1.AttachResponse_Released{
			Released: &sessionv1.Released{RequestId: e.Request.ID},
		}}
	case claims.Evict:
		return &sessionv1.AttachResponse{Frame: &sessionv1.AttachResponse_Evict{Evict: &sessionv1.Evict{
			ClientId: e.Client, Epoch: e.Epoch,
		}}}
	case claims.Superseded:
		return refused(e.Request.ID, sessionv1.Refusal_REFUSAL_SUPERSEDED)
	case claims.HolderDead:
		return refused(e.Request.ID, sessionv1.Refusal_REFUSAL_INCARNATION_DEAD)
	default:
		return refused(e.Request.ID, sessionv1.Refusal_REFUSAL_UNAVAILABLE)
	}
}

func refused(id uint64, why sessionv1.Refusal) *sessionv1.AttachResponse {
	return &sessionv1.AttachResponse{Frame: &sessionv1.AttachResponse_Refused{
		Refused: &sessionv1.Refused{RequestId: id, Reason: why},
	}}
}
