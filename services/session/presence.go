package session

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	messagingv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/messaging/v1"
	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/internal/lifecycle"
	"github.com/beeline-mqtt/beeline/internal/rpc"
	"github.com/beeline-mqtt/beeline/services/session/internal/claims"
	"github.com/beeline-mqtt/beeline/services/session/internal/presence"
)

const (
	// The clients of a dead gateway are told of at 50,000 a second: at once they would push everything else out of the
	// history before any watcher can have read it.
	buryAtOnce = 1000
	buryPause  = 20 * time.Millisecond
)

// watchPage bounds one response.
func watchPage() presence.Page { return presence.Page{Looked: 10_000, Events: 1000, Bytes: 256 << 10} }

var errSlowWatcher = status.Error(codes.ResourceExhausted, "the watcher does not read; it may resume at its cursor")

// board is a term's presence, which has a lock of its own, so that watchers are in nobody's way. Nothing waits under it.
type board struct {
	events prometheus.Counter

	mu    sync.RWMutex // guards the following
	board *presence.Board
	more  chan struct{} // closed and replaced when there are more events
}

func newBoard(instance string, history int, events prometheus.Counter) *board {
	return &board{
		events: events, board: presence.NewBoard(presence.NewHistory(instance, history)), more: make(chan struct{}),
	}
}

// change lets f change it, and wakes the watchers.
func (b *board) change(f func(*presence.Board)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	before := b.board.Last()
	f(b.board)
	if b.board.Last() == before {
		return
	}
	b.events.Add(float64(b.board.Last() - before))
	close(b.more)
	b.more = make(chan struct{})
}

// news returns the sequence of the newest event, and what is closed when there is a newer one.
func (b *board) news() (last uint64, more <-chan struct{}) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.board.Last(), b.more
}

// connected notes a claim that is granted. It needs mu.
func (t *term) connected(e claims.Effect) {
	t.presence.change(func(b *presence.Board) {
		b.Connect(time.Now(), e.Client, presence.Connection{Gateway: e.Gateway, Epoch: e.Epoch, Durable: e.Request.Expiry > 0})
	})
}

// left notes that a gateway has given a client up. It needs mu.
func (t *term) left(now time.Time, st *stream, r *sessionv1.Release) {
	over := r.SessionExpirySeconds != nil && r.GetSessionExpirySeconds() == 0
	t.presence.change(func(b *presence.Board) {
		b.Leave(now, r.GetClientId(), st.gateway, r.GetEpoch(), presence.ReasonOf(r.GetReason()), over)
	})
}

// gone notes that a gateway has ended what it had of a client. It needs mu.
func (t *term) gone(now time.Time, st *stream, e *sessionv1.Evicted) {
	t.presence.change(func(b *presence.Board) { b.Evicted(now, e.GetClientId(), st.gateway, e.GetEpoch()) })
}

// shown notes who is connected to a gateway that has attached. It is called in the order of the gateway's frames: whom it
// gives up next is known then.
func (t *term) shown(st *stream, h *sessionv1.Holdings) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.streams[st.gateway] != st {
		return
	}
	now := time.Now()
	t.presence.change(func(b *presence.Board) {
		for _, one := range h.GetHoldings() {
			b.Show(now, one.GetClientId(), presence.Connection{Gateway: st.gateway, Epoch: one.GetEpoch(), Durable: one.GetDurable()})
		}
	})
}

// keepBuried tells of the clients of gateways that have died.
func (t *term) keepBuried(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.bury:
		}
		for more := true; more; {
			t.presence.change(func(b *presence.Board) { more = b.Bury(time.Now(), buryAtOnce) })
			if more && !lifecycle.Pause(ctx, buryPause) {
				return
			}
		}
	}
}

// WatchPresence implements the service.
func (s *Session) WatchPresence(r *sessionv1.WatchPresenceRequest, g grpc.ServerStreamingServer[sessionv1.WatchPresenceResponse]) error {
	if err := rpc.RequireRole(g.Context(), "router"); err != nil {
		return err
	}
	t, err := s.enter()
	if err != nil {
		return err
	}
	defer s.streams.Done()
	ctx, cancel := context.WithCancelCause(g.Context())
	defer cancel(nil)
	select {
	case <-t.recovered:
	case <-t.over:
		return s.refusal()
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
	w, err := t.presence.watch(r.GetClientIdPrefix(), r.GetCursor())
	if err != nil {
		return unwatched(err)
	}
	s.metrics.watchers.Inc()
	defer s.metrics.watchers.Dec()
	// Whoever sends may be held up by the watcher until this method returns.
	out := make(chan *sessionv1.WatchPresenceResponse)
	s.streams.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case page := <-out:
				if err := g.Send(page); err != nil {
					cancel(err)
					return
				}
			}
		}
	})
	switch err := w.run(ctx, t.over, out); {
	case errors.Is(err, errTermOver):
		return s.refusal()
	case errors.Is(err, errSlowWatcher):
		s.metrics.slowWatchers.Inc()
		return err
	default:
		return unwatched(err)
	}
}

// Bounds of ListPresence.
const (
	someEvents = 10
	mostEvents = 100
)

// ListPresence implements the service.
func (s *Session) ListPresence(ctx context.Context, r *sessionv1.ListPresenceRequest) (*sessionv1.ListPresenceResponse, error) {
	if err := rpc.RequireRole(ctx, "router"); err != nil {
		return nil, err
	}
	t, err := s.enter()
	if err != nil {
		return nil, err
	}
	defer s.streams.Done()
	most := someEvents
	if n := r.GetEvents(); n > 0 {
		most = bounded(n, mostEvents)
	}
	return &sessionv1.ListPresenceResponse{Events: wire(t.presence.of(r.GetClientId(), most))}, nil
}

// of returns the last events of a client, newest first. It looks at the history bit by bit: claims wait for its lock.
func (b *board) of(client string, most int) (events []presence.Event) {
	for before := uint64(math.MaxUint64); before > 1 && len(events) < most; {
		var page []presence.Event
		b.mu.RLock()
		page, before = b.board.Before(before, client, presence.Page{Looked: watchPage().Looked, Events: most - len(events)})
		b.mu.RUnlock()
		events = append(events, page...)
	}
	return events
}

// unwatched is what a watcher is told.
func unwatched(err error) error {
	switch {
	case errors.Is(err, presence.ErrGone):
		return status.Error(codes.OutOfRange, err.Error())
	case errors.Is(err, presence.ErrCursor):
		return status.Error(codes.InvalidArgument, "cursor: "+err.Error())
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	}
	return err
}

// watcher is one that reads the history from some point on. One goroutine uses it.
type watcher struct {
	board  *board
	prefix string
	at     uint64 // sequence up to which it has looked
	told   uint64 // that of the last cursor that it has been given
}

// watch begins at a cursor, or now if it is empty. The errors are those of package presence.
func (b *board) watch(prefix, cursor string) (*watcher, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	w := &watcher{board: b, prefix: prefix, at: b.board.Last()}
	if cursor != "" {
		var err error
		if w.at, err = b.board.Find(cursor); err != nil {
			return nil, err
		}
	}
	w.told = w.at
	return w, nil
}

// run hands out responses, the first one at once, until the context is done (then the error is its cause), over is closed
// (errTermOver), the watcher is too slow (errSlowWatcher), or what it has to see next is not kept any more
// (presence.ErrGone). A watcher that takes nothing while half of the history goes by is too slow: it has the other half to
// come back in.
func (w *watcher) run(ctx context.Context, over <-chan struct{}, out chan<- *sessionv1.WatchPresenceResponse) error {
	next := &sessionv1.WatchPresenceResponse{Cursor: w.board.cursor(w.at)}
	taken, more := w.board.news()
	for {
		to := out
		if next == nil {
			to = nil
		}
		var last uint64
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-over:
			return errTermOver
		case to <- next:
			next = nil
			taken, more = w.board.news()
		case <-more:
			if last, more = w.board.news(); next != nil && last-taken > w.board.patience() {
				return errSlowWatcher
			}
		}
		if next == nil {
			var err error
			if next, more, err = w.next(); err != nil {
				return err
			}
		}
	}
}

// next returns the next response, or nil when there is none yet, and what is closed when there may be one.
func (w *watcher) next() (*sessionv1.WatchPresenceResponse, <-chan struct{}, error) {
	for {
		events, last, more, err := w.read()
		if err != nil {
			return nil, nil, err
		}
		// One who sees few of the events gets on with the others.
		if len(events) > 0 || w.at-w.told >= w.board.patience()/8 {
			w.told = w.at
			return &sessionv1.WatchPresenceResponse{Events: wire(events), Cursor: w.board.cursor(w.at)}, more, nil
		}
		if w.at == last {
			return nil, more, nil
		}
	}
}

func (w *watcher) read() (events []presence.Event, last uint64, more <-chan struct{}, err error) {
	b := w.board
	b.mu.RLock()
	defer b.mu.RUnlock()
	events, w.at, err = b.board.After(w.at, w.prefix, watchPage())
	return events, b.board.Last(), b.more, err
}

// patience is how many events may come while a watcher takes nothing.
func (b *board) patience() uint64 { return b.board.Capacity() / 2 }

// cursor is the point behind an event.
func (b *board) cursor(sequence uint64) string { return b.board.Cursor(sequence) }

func wire(events []presence.Event) []*messagingv1.PresenceEvent {
	all := make([]*messagingv1.PresenceEvent, len(events))
	for i, e := range events {
		all[i] = &messagingv1.PresenceEvent{
			Kind: messagingv1.PresenceEvent_KIND_DISCONNECTED, ClientId: e.Client, Gateway: e.Gateway, Epoch: e.Epoch,
			Sequence: e.Sequence, Time: timestamppb.New(e.Time), Reason: string(e.Reason), Durable: e.Durable,
		}
		if e.Connected {
			all[i].Kind = messagingv1.PresenceEvent_KIND_CONNECTED
		}
	}
	return all
}
