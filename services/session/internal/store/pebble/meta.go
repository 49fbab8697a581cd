package pebble

import (
	"errors"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

// metaState is what the store knows of itself as a whole.
type metaState struct {
	epoch uint64
	// retained is how many topics have a message, version that of the newest change.
	retained, version             uint64
	epochChanged, retainedChanged bool
	unadopted                     []string // sorted
}

func (m *metaState) raise(epoch uint64) {
	if epoch > m.epoch {
		m.epoch, m.epochChanged = epoch, true
	}
}

// stageTotals puts the rows that a whole group of operations shares.
func (s *Store) stageTotals(t *stage) error {
	var errs []error
	if s.meta.epochChanged {
		s.meta.epochChanged = false
		errs = append(errs, t.set(keyMeta(metaEpoch), func(b []byte) []byte { return putNumbers(b, s.meta.epoch) }))
	}
	if s.meta.retainedChanged {
		s.meta.retainedChanged = false
		errs = append(errs, t.set(keyMeta(metaRetained), func(b []byte) []byte {
			return putNumbers(b, s.meta.retained, s.meta.version)
		}))
		s.metrics.retained.Store(int64(s.meta.retained))
	}
	return errors.Join(append(errs, s.buckets.stage(t))...)
}

// ID is store.Meta's.
func (s *Store) ID() string { return s.id }

// HighestEpoch is store.Meta's.
func (s *Store) HighestEpoch() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.meta.epoch
}

// Unadopted is store.Meta's.
func (s *Store) Unadopted() []string {
	_ = s.queue.await(lineMeta) // of a closed store: what was there at the end
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Clone(s.meta.unadopted)
}

// AddUnadopted is store.Meta's.
func (s *Store) AddUnadopted(incarnation string, done func(error)) {
	s.submit(operation{line: lineMeta, size: len(incarnation), done: done, stage: func(t *stage) error {
		at, found := slices.BinarySearch(t.s.meta.unadopted, incarnation)
		if found {
			return nil
		}
		if err := t.set(keyUnadopted(nil, incarnation), func(b []byte) []byte { return append(b, valueVersion) }); err != nil {
			return err
		}
		t.s.mu.Lock()
		defer t.s.mu.Unlock()
		t.s.meta.unadopted = slices.Insert(t.s.meta.unadopted, at, incarnation)
		return nil
	}}, false)
}

// RemoveUnadopted is store.Meta's.
func (s *Store) RemoveUnadopted(incarnation string, done func(error)) {
	s.submit(operation{line: lineMeta, size: len(incarnation), done: done, stage: func(t *stage) error {
		at, found := slices.BinarySearch(t.s.meta.unadopted, incarnation)
		if !found {
			return nil
		}
		if err := t.Delete(keyUnadopted(nil, incarnation), &pebble.WriteOptions{}); err != nil {
			return err
		}
		t.s.mu.Lock()
		defer t.s.mu.Unlock()
		t.s.meta.unadopted = slices.Delete(t.s.meta.unadopted, at, at+1)
		return nil
	}}, false)
}
