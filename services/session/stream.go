package session

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	sessionv1 "github.com/beeline-mqtt/beeline/api/gen/beeline/session/v1"
	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/lifecycle"
	"github.com/beeline-mqtt/beeline/services/session/internal/claims"
)

const (
	// outboxFrames may wait to be sent to one gateway. One that has more to read is cut off and attaches again: by
	// then its answers are worth less than those of the others.
	outboxFrames = 65_536
	// holdingsWaiting frames may wait to be compared; then the stream is not read for a while.
	holdingsWaiting = 4
	compareRetry    = time.Second
)

// stream is one attached gateway. One goroutine reads, one writes, one compares holdings.
type stream struct {
	term     *term
	gateway  string
	number   uint64
	managed  string // the version of managed filters that the gateway has seen last
	outdated bool   // that was another one; does not change once the stream is attached
	shown    bool   // it has shown holdings; of the goroutine that compares
	aliveAt  int64  // revision of etcd at which the gateway was seen alive
	grpc     grpc.BidiStreamingServer[sessionv1.AttachRequest, sessionv1.AttachResponse]
	holdings chan *sessionv1.Holdings
	// stored is what the store named the gateway for when the stream began, less what it has shown. It belongs to
	// whoever compares.
	stored map[string]uint64
	cancel context.CancelCauseFunc
	filled chan struct{} // signal: the outbox is not empty

	// publishing are the messages that the gateway was given and has not answered for. The term's mu guards it.
	publishing map[uint64]func(failed bool)

	mu     sync.Mutex
	outbox []*sessionv1.AttachResponse // guarded by mu
	// durable and fenced are writes that have not been answered yet, leftOut what was left out of them; guarded by mu.
	durable, fenced []uint64
	leftOut         []*sessionv1.LeftOut
}

// end makes Attach return the error. It does not wait.
func (st *stream) end(err error) { st.cancel(err) }

// push hands a frame to the writer and never waits.
func (st *stream) push(r *sessionv1.AttachResponse) {
	st.mu.Lock()
	full := len(st.outbox) >= st.term.session.outbox
	if !full {
		st.outbox = append(st.outbox, r)
	}
	st.mu.Unlock()
	if full {
		st.end(errCutOff)
		return
	}
	signal(st.filled)
}

// serve runs the stream until it breaks or is ended, and returns what the gateway is told.
func (st *stream) serve(ctx context.Context, streams *sync.WaitGroup) error {
	for _, f := range []func(){
		func() { st.cancel(st.read(ctx)) },
		func() { st.cancel(st.write(ctx)) },
		func() { st.compare(ctx) },
	} {
		st.term.users.Add(1)
		streams.Go(func() {
			defer st.term.users.Done()
			f()
		})
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

func (st *stream) write(ctx context.Context) error {
	var frames []*sessionv1.AttachResponse
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-st.filled:
		}
		st.mu.Lock()
		frames, st.outbox = append(st.outbox, st.answers()...), frames[:0]
		st.mu.Unlock()
		for i, f := range frames {
			if err := st.grpc.Send(f); err != nil {
				return fmt.Errorf("send to gateway: %w", err)
			}
			frames[i] = nil
		}
	}
}

func (st *stream) read(ctx context.Context) error {
	m := st.term.session.metrics
	for {
		r, err := st.grpc.Recv()
		if err != nil {
			return err
		}
		switch f := r.GetFrame().(type) {
		case *sessionv1.AttachRequest_Claim:
			m.claims.Inc()
			if err := st.claim(f.Claim); err != nil {
				return err
			}
		case *sessionv1.AttachRequest_Release:
			m.releases.Inc()
			st.release(f.Release)
		case *sessionv1.AttachRequest_Evicted:
			st.term.step(func(q *claims.Queue, now time.Time) {
				st.term.gone(now, st, f.Evicted)
				q.Evicted(now, f.Evicted.GetClientId(), st.gateway, f.Evicted.GetEpoch())
			})
		case *sessionv1.AttachRequest_Holdings:
			st.term.shown(st, f.Holdings)
			select {
			case st.holdings <- f.Holdings:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		case *sessionv1.AttachRequest_Write, *sessionv1.AttachRequest_Settled,
			*sessionv1.AttachRequest_Retain, *sessionv1.AttachRequest_Published, *sessionv1.AttachRequest_MembersApplied:
			if err := st.receive(r); err != nil {
				return err
			}
		default:
			return status.Error(codes.InvalidArgument, "frame of unknown kind")
		}
	}
}

func (st *stream) claim(c *sessionv1.Claim) error {
	if c.GetClientId() == "" {
		return status.Error(codes.InvalidArgument, "claim without a client id")
	}
	r := claims.Request{Gateway: st.gateway, Stream: st.number, ID: c.GetRequestId()}
	r.CleanStart, r.Expiry, r.User = c.GetCleanStart(), c.GetSessionExpirySeconds(), c.GetUsername()
	if c.GetWill() != nil {
		var err error
		if r.Will, err = journal.WillFromWire(c.GetWill()); err != nil {
			return status.Errorf(codes.InvalidArgument, "will: %v", err)
		}
	}
	st.term.step(func(q *claims.Queue, now time.Time) { q.Claim(now, c.GetClientId(), r) })
	return nil
}

func (st *stream) release(r *sessionv1.Release) {
	e := claims.Ending{
		WithoutWill: r.GetEnding() == sessionv1.Ending_ENDING_WITHOUT_WILL,
		Expiry:      r.GetSessionExpirySeconds(), HasExpiry: r.SessionExpirySeconds != nil,
	}
	st.term.step(func(q *claims.Queue, now time.Time) {
		st.term.left(now, st, r)
		q.Leave(now, r.GetClientId(), claims.Request{Gateway: st.gateway, Stream: st.number, ID: r.GetRequestId()}, r.GetEpoch(), e)
	})
}

// compare looks up what the gateway says that it holds, and evicts what it does not hold any more.
func (st *stream) compare(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case h := <-st.holdings:
			for !st.compareFrame(ctx, h) {
				if !lifecycle.Pause(ctx, compareRetry) {
					return
				}
			}
			if !h.GetLast() {
				continue
			}
			st.term.step(func(q *claims.Queue, now time.Time) { q.Compared(now, st.gateway) })
			st.missing(ctx)
		}
	}
}

// missing puts away what the store names the gateway for and it has not shown: neither of them knows then that nobody
// holds it. It waits until the gateway has had the time to repeat what was not answered, because that says more.
func (st *stream) missing(ctx context.Context) {
	if len(st.stored) == 0 || !lifecycle.Pause(ctx, st.term.session.config.EvictTimeout) {
		return
	}
	st.term.step(func(q *claims.Queue, now time.Time) {
		for client, epoch := range st.stored {
			st.term.left(now, st, &sessionv1.Release{ClientId: client, Epoch: epoch})
			q.Leave(now, client, claims.Request{Gateway: st.gateway}, epoch, claims.Ending{})
		}
	})
	st.stored = nil
}

func (st *stream) compareFrame(ctx context.Context, h *sessionv1.Holdings) bool {
	ids := make([]string, len(h.GetHoldings()))
	for i, one := range h.GetHoldings() {
		ids[i] = one.GetClientId()
	}
	records, err := st.term.directory.Records(ctx, ids)
	if err != nil {
		if ctx.Err() == nil {
			st.term.session.deps.Logger.WarnContext(ctx, "holdings not compared yet", slog.String("peer", st.gateway), slog.Any("error", err))
		}
		return false
	}
	for _, one := range h.GetHoldings() {
		if stored, named := st.stored[one.GetClientId()]; named && one.GetEpoch() >= stored {
			delete(st.stored, one.GetClientId())
		}
	}
	for _, one := range h.GetHoldings() {
		if one.GetSettled() {
			st.term.kept.Settled(one.GetClientId(), one.GetEpoch())
		}
	}
	st.term.hold(st, h)
	for _, ghost := range h.GetGhosts() {
		st.term.kept.Ghost(ghost.GetClientId(), ghost.GetEpoch())
	}
	st.term.step(func(q *claims.Queue, now time.Time) {
		for _, one := range h.GetHoldings() {
			if epoch, stale := newer(st.gateway, one.GetEpoch(), records[one.GetClientId()]); stale {
				q.Stale(now, one.GetClientId(), st.gateway, one.GetEpoch(), epoch)
			}
		}
	})
	return true
}

// newer says whether a holding has ended, and the epoch before which its connections have to go.
func newer(gateway string, epoch uint64, record cluster.Lease) (uint64, bool) {
	switch {
	case record.Holder == gateway && record.Epoch >= epoch:
		// A younger record of its own is a claim that it is about to repeat.
		return 0, false
	case record.Holder == gateway || record.Holder == "":
		return epoch + 1, true
	}
	return max(record.Epoch, epoch+1), true
}
