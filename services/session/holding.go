package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/beeline-mqtt/beeline/internal/cluster"
	"github.com/beeline-mqtt/beeline/internal/lifecycle"
	"github.com/beeline-mqtt/beeline/services/session/internal/away"
	"github.com/beeline-mqtt/beeline/services/session/internal/groups"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
	"github.com/beeline-mqtt/beeline/services/session/internal/store/pebble"
)

// lockRetry is the pause before a store is tried again that somebody else has open.
const lockRetry = 100 * time.Millisecond

// claimTimeout bounds the question to etcd whose store is the cluster's.
const claimTimeout = 2 * time.Second

// holding is what a term keeps in a store.
type holding struct {
	*away.Keeper

	life    *life
	groups  *groups.Book
	store   *pebble.Store
	running sync.WaitGroup
}

var _ kept = (*holding)(nil)

// keep opens the store of a term. While a former active instance has it open still, it waits: until then nobody is
// served.
func (l *life) keep(ctx context.Context, d desk, revision int64) (kept, uint64, error) {
	h := &holding{life: l}
	base, err := h.open(ctx, d, revision)
	if err != nil {
		if h.store != nil {
			err = errors.Join(err, h.store.Close())
		}
		l.session.inTrouble(ctx, err)
		return nil, 0, err
	}
	l.session.trouble.Store(nil)
	h.running.Go(func() {
		if err := h.Run(ctx); err != nil {
			d.Fail(err)
		}
	})
	l.holder.Store(h.Keeper)
	l.session.store.Store(h.store)
	return h, base, nil
}

func (h *holding) open(ctx context.Context, d desk, revision int64) (base uint64, err error) {
	s := h.life.session
	if err := h.openStore(ctx, d); err != nil {
		return 0, err
	}
	if err := h.claimStore(ctx, revision); err != nil {
		return 0, err
	}
	if h.groups, err = groups.Open(groups.DefaultLimits(), h.store); err != nil {
		return 0, err
	}
	h.Keeper, err = away.New(away.Config{Incarnation: h.life.id}, away.Deps{
		Store: h.store, Mesh: h.life.mesh, Publish: d.Publish, Forget: d.Forget, Failed: d.Fail,
		Managed: h.managed, Members: sharers{h.life.mesh, h.life.routes},
		Metrics: s.holders, Logger: s.deps.Logger,
	})
	if err != nil {
		return 0, err
	}
	return h.Base(ctx, revision)
}

func (h *holding) openStore(ctx context.Context, d desk) error {
	s := h.life.session
	for waiting := false; ; waiting = true {
		st, err := pebble.Open(pebble.Options{
			Dir: s.config.Data, Limits: s.config.limits(), Logger: s.deps.Logger, Metrics: s.deps.Metrics, Failed: d.Fail,
		})
		switch {
		case err == nil:
			h.store = st
			return nil
		case !errors.Is(err, store.ErrLocked):
			return fmt.Errorf("open store: %w", err)
		case !waiting:
			s.deps.Logger.WarnContext(ctx, "the store is open elsewhere: waiting for it", slog.String("data", s.config.Data))
			err = fmt.Errorf("waiting: %w", err)
			s.trouble.Store(&err)
		}
		if !lifecycle.Pause(ctx, lockRetry) {
			return fmt.Errorf("open store: %w", context.Cause(ctx))
		}
	}
}

// Groups implements kept.
func (h *holding) Groups() *groups.Book { return h.groups }

// managed is away.Deps.Managed.
func (h *holding) managed(client, user string) []string {
	var names []string
	for _, f := range h.groups.Filters(client, user) {
		names = append(names, f.Name)
	}
	return names
}

// claimStore refuses a store that is not the cluster's: one in another directory would begin without the sessions.
func (h *holding) claimStore(ctx context.Context, revision int64) error {
	s := h.life.session
	for {
		asking, cancel := context.WithTimeout(ctx, claimTimeout)
		owner, err := cluster.ClaimStore(asking, s.cluster, revision, h.store.ID())
		cancel()
		switch {
		case err == nil && owner == h.store.ID():
			return nil
		case err == nil:
			return fmt.Errorf("this is store %s, but the cluster's is %s; to begin with this one, delete the key %s in etcd",
				h.store.ID(), owner, s.cluster.Keys.Store())
		}
		// etcd is away, or the term is over: that ends the context.
		s.deps.Logger.WarnContext(ctx, "not known yet whether this is the cluster's store", slog.Any("error", err))
		if !lifecycle.Pause(ctx, lockRetry) {
			return fmt.Errorf("claim store: %w", context.Cause(ctx))
		}
	}
}

// inTrouble remembers why the store could not be opened, for whoever asks what is not ready. That a term ended meanwhile
// is no trouble.
func (s *Session) inTrouble(ctx context.Context, err error) {
	if ctx.Err() != nil {
		s.trouble.Store(nil)
		return
	}
	if former := s.trouble.Swap(&err); former == nil || (*former).Error() != err.Error() {
		s.deps.Logger.ErrorContext(ctx, "the store cannot be used", slog.String("data", s.config.Data), slog.Any("error", err))
	}
}

// Close implements kept.
func (h *holding) Close() error {
	h.life.session.store.CompareAndSwap(h.store, nil)
	h.life.holder.CompareAndSwap(h.Keeper, nil)
	h.running.Wait()
	if err := h.store.Close(); err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}
