package pebble

import (
	"bytes"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

// Retain is store.Retained's.
func (s *Store) Retain(m *message.Message, done func(version uint64, err error)) {
	var version uint64
	op := operation{line: lineRetained, adds: len(m.Payload) > 0, done: func(err error) {
		if done != nil {
			done(version, err)
		}
	}}
	key := keyRetained(nil, m.Topic)
	if len(m.Payload) == 0 {
		op.stage = func(t *stage) error {
			if err := t.unretain(key); err != nil {
				return err
			}
			version = t.s.meta.version
			return nil
		}
		s.submit(op, true)
		return
	}
	row := putMessage(make([]byte, 0, messageBound(m)), m)
	op.size = len(row) + len(key)
	op.stage = func(t *stage) error {
		there, err := t.get(key)
		if err != nil {
			return err
		}
		if there == nil && t.s.meta.retained >= t.s.o.Limits.Retained {
			return store.ErrQuota
		}
		v := t.s.meta.version + 1
		err = t.set(key, func(b []byte) []byte {
			return append(putNumber(putInstant(append(b, valueVersion), m.Expires), v), row...)
		})
		if err != nil {
			return err
		}
		if there == nil {
			t.countRetained(1)
		} else {
			t.countRetained(0)
		}
		version = v
		return nil
	}
	s.submit(op, true)
}

// countRetained counts a change, after which there are more topics by delta.
func (t *stage) countRetained(delta int) {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	t.s.meta.version++
	t.s.meta.retained += uint64(delta)
	t.s.meta.retainedChanged = true
}

func (t *stage) unretain(key []byte) error {
	there, err := t.get(key)
	if there == nil || err != nil {
		return err
	}
	if err := t.Delete(key, nil); err != nil {
		return err
	}
	t.countRetained(-1)
	return nil
}

// RetainedCount is store.Retained's.
func (s *Store) RetainedCount() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.meta.retained
}

const (
	// retainedSteps is how many keys one page looks at: it takes about a millisecond, whatever the filter.
	retainedSteps = 2000
	// retainedBytes is after how many bytes of messages a page ends.
	retainedBytes = 1 << 20
)

// lapsed is a retained message that has expired, and which one it was.
type lapsed struct {
	key     []byte
	version uint64
}

// Retained is store.Retained's.
func (s *Store) Retained(filter string, cursor []byte, limit int) (result store.RetainedPage, err error) {
	var over []lapsed
	err = s.read(lineRetained, func() error {
		w, ok := newWalk(filter)
		if len(cursor) > 0 {
			if cursor[0] != spaceRetained || ok && bytes.Compare(cursor, w.lower) < 0 {
				return fmt.Errorf("%w: not a cursor", store.ErrInvalid)
			}
			w.lower = cursor
		}
		if !ok {
			return nil
		}
		result, over, err = readRetained(s.db, &w, limit, s.o.Now())
		return err
	})
	if err != nil {
		return store.RetainedPage{}, fmt.Errorf("read retained messages: %w", err)
	}
	if len(over) > 0 {
		s.submit(operation{line: lineRetained, stage: func(t *stage) error { return t.unretainAll(over) }}, false)
	}
	return result, nil
}

// unretainAll removes messages that have not been replaced since they were read.
func (t *stage) unretainAll(over []lapsed) error {
	for _, o := range over {
		value, err := t.get(o.key)
		if err != nil {
			return err
		}
		if value == nil {
			continue
		}
		r, err := open(o.key, value)
		if err != nil {
			return err
		}
		r.instant()
		if r.number() != o.version {
			continue
		}
		if err := t.unretain(o.key); err != nil {
			return err
		}
	}
	return nil
}

func readRetained(db pebble.Reader, w *walk, limit int, now time.Time) (result store.RetainedPage, over []lapsed, err error) {
	iter, err := db.NewIter(&pebble.IterOptions{LowerBound: w.lower, UpperBound: w.upper})
	if err != nil {
		return result, nil, err
	}
	defer closeQuietly(iter)
	size := 0
	valid := iter.First()
	for steps := 0; valid; steps++ {
		key := iter.Key()
		if steps >= retainedSteps || len(result.Messages) >= max(1, limit) || size >= retainedBytes {
			result.Cursor = append([]byte(nil), key...)
			return result, over, nil
		}
		matches, next := w.step(key)
		if matches {
			value, err := iter.ValueAndErr()
			if err != nil {
				return result, nil, err
			}
			r, err := open(key, value)
			if err != nil {
				return result, nil, err
			}
			expires, version := r.instant(), r.number()
			if !expires.IsZero() && !now.Before(expires) {
				over = append(over, lapsed{key: append([]byte(nil), key...), version: version})
			} else {
				m := readMessage(&r, true)
				if r.bad {
					return result, nil, r.err()
				}
				result.Messages = append(result.Messages, store.RetainedMessage{Message: m, Version: version})
				size += len(value)
			}
		}
		if next == nil {
			valid = iter.Next()
		} else {
			valid = iter.SeekGE(next)
		}
	}
	return result, over, iter.Error()
}
