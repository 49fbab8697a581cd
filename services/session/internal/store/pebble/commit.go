package pebble

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

// group is what one sync makes durable.
type group struct {
	ops []operation
	// batch is nil when there is nothing to make durable.
	batch  *pebble.Batch
	staged time.Time
}

// stage is the batch that is being made up. Reads through it see what was staged before.
type stage struct {
	*pebble.Batch
	s *Store
	// key and value are room for rows.
	key, value []byte
	// marked says that the batch begins with a mark, attests that it is wanted even if there is nothing else.
	marked, attests bool
}

// mark is what a group begins with when all groups before it were durable: checkLogs looks for it.
const mark = "beeline: durable up to here"

// set puts a row. put appends the version and body of its value.
func (t *stage) set(key []byte, put func([]byte) []byte) error {
	t.value = put(t.value[:0])
	t.value = seal(t.value, 0, key)
	return t.Set(key, t.value, nil)
}

// get returns a value that is valid until the next call of the stage; nil if there is none.
func (t *stage) get(key []byte) ([]byte, error) {
	value, closer, err := t.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, readError(err)
	}
	t.value = append(t.value[:0], value...)
	if err := closer.Close(); err != nil {
		return nil, readError(err)
	}
	return t.value, nil
}

// commits is the committer.
func (s *Store) commits() {
	defer close(s.answers)
	for {
		if len(s.garbage) > 0 {
			s.queue.nudge()
		}
		<-s.queue.wake
		ops, end := s.queue.take(groupBytes)
		g := s.commit(ops)
		if len(ops) > 0 || g.batch != nil {
			s.answers <- g
		}
		if end {
			return
		}
	}
}

// commit stages ops and hands them to Pebble.
func (s *Store) commit(ops []operation) (g *group) {
	g = &group{ops: ops}
	defer s.queue.stagedAll(ops)
	defer func() {
		if p := recover(); p != nil {
			s.fail(fmt.Errorf("commit: %v", p))
			g.batch = nil
		}
		if err := s.failed(); err != nil {
			for i := range ops {
				ops[i].err = err
			}
		}
	}()
	if s.failed() != nil {
		return g
	}
	s.checkSpace()
	t := &stage{Batch: s.db.NewIndexedBatch(), s: s, marked: s.handed.Load() == s.synced.Load()}
	if t.marked {
		if err := t.LogData([]byte(mark), nil); err != nil {
			s.fail(err)
			return g
		}
	}
	for i := range ops {
		if op := &ops[i]; op.adds && s.space.full {
			s.metrics.refused.Inc()
			op.err = store.ErrFull
		} else {
			op.err = op.stage(t)
		}
	}
	if err := errors.Join(s.stageGarbage(t), s.stageTotals(t)); err != nil {
		s.fail(err)
		return g
	}
	if t.Count() == 0 && !t.attests {
		closeQuietly(t.Batch)
		return g
	}
	s.unattested.Store(t.Count() > 0)
	g.staged = time.Now()
	if err := s.db.ApplyNoSyncWait(t.Batch, pebble.Sync); err != nil {
		s.fail(fmt.Errorf("commit: %w", err))
	}
	if s.failed() != nil {
		return g // nobody may ever wake who waits for this batch
	}
	s.handed.Add(1)
	g.batch = t.Batch
	return g
}

// answersAll waits for the disk and answers, group by group.
func (s *Store) answersAll() {
	for g := range s.answers {
		if g.batch != nil {
			err := g.batch.SyncWait()
			if err != nil {
				s.fail(fmt.Errorf("sync: %w", err))
			}
			s.metrics.commits.Inc()
			s.metrics.operations.Observe(float64(len(g.ops)))
			s.metrics.sync.Observe(time.Since(g.staged).Seconds())
			if err == nil {
				s.synced.Add(1)
				closeQuietly(g.batch)
			}
		}
		// Pebble does not say of a failed sync which of the batches before it are durable.
		failed := s.failed()
		for i := range g.ops {
			op := &g.ops[i]
			if op.err == nil {
				op.err = failed
			}
			op.done(op.err)
		}
	}
}

// space is what is known of the room on the disk.
type space struct {
	checked time.Time
	full    bool
}

// checkSpace looks once a second.
func (s *Store) checkSpace() {
	if now := time.Now(); s.o.Reserve > 0 && now.Sub(s.space.checked) >= time.Second {
		s.space.checked = now
		s.lookForSpace()
	}
}

// openReserve is how many bytes have to be free for an open: Pebble writes then, and may wait for ever when it cannot.
const openReserve = 4 << 20

// roomToOpen fails with store.ErrFull when so little is free that the store had better not be opened.
func (s *Store) roomToOpen() error {
	usage, err := s.o.FS.GetDiskUsage(s.o.Dir)
	if err != nil || s.o.Reserve <= 0 || usage.AvailBytes >= openReserve {
		return nil //nolint:nilerr // not to know is no reason not to try
	}
	return fmt.Errorf("open store %q: %w: %d KiB are free, %d are needed", s.o.Dir, store.ErrFull, usage.AvailBytes>>10, openReserve>>10)
}

func (s *Store) lookForSpace() {
	usage, err := s.o.FS.GetDiskUsage(s.o.Dir)
	if err != nil {
		if !errors.Is(err, vfs.ErrUnsupported) {
			s.o.Logger.Warn("space on the disk of the store is not known", slog.Any("error", err))
		}
		return
	}
	full := usage.AvailBytes < uint64(s.o.Reserve)
	if full && !s.space.full {
		s.o.Logger.Error("disk of the store is all but full: nothing more is stored")
	}
	if !full && s.space.full {
		s.o.Logger.Info("disk of the store has room again")
	}
	s.space.full = full
}
