package pebble

import (
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

// schema is the version of the rows. A store of a higher one is refused.
const schema = 1

// load reads what is kept in memory, or makes a new store. No other goroutine is there yet.
func (s *Store) load() error {
	known, err := s.loadMeta()
	if err != nil {
		return err
	}
	if !known {
		return s.create()
	}
	return errors.Join(s.loadSessions(), s.loadInboxes(), s.loadFlights(), s.loadBuckets(), s.loadGarbage())
}

func (s *Store) create() error {
	iter, err := s.db.NewIter(nil)
	if err != nil {
		return fmt.Errorf("look for rows: %w", err)
	}
	defer closeQuietly(iter)
	if iter.First() {
		return fmt.Errorf("%w: store has rows, but no schema", store.ErrCorrupt)
	}
	if err := iter.Error(); err != nil {
		return fmt.Errorf("look for rows: %w", readError(err))
	}
	s.id = rand.Text()
	t := &stage{Batch: s.db.NewBatch(), s: s}
	err = errors.Join(
		t.set(keyMeta(metaSchema), func(b []byte) []byte { return putNumbers(b, schema) }),
		t.set(keyMeta(metaID), func(b []byte) []byte { return putText(append(b, valueVersion), s.id) }),
		t.Commit(pebble.Sync),
		s.failed(),
	)
	if err != nil {
		return fmt.Errorf("make store: %w", err)
	}
	return nil
}

// scan visits the rows of a space in order. key and value are valid during the visit.
func scan(db pebble.Reader, space byte, visit func(key, value []byte) error) error {
	return scanRange(db, []byte{space}, visit)
}

func scanRange(db pebble.Reader, prefix []byte, visit func(key, value []byte) error) error {
	name := spaceName(prefix[0])
	iter, err := db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return fmt.Errorf("read %s: %w", name, readError(err))
	}
	defer closeQuietly(iter)
	for valid := iter.First(); valid; valid = iter.Next() {
		value, err := iter.ValueAndErr()
		if err == nil {
			err = visit(iter.Key(), value)
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", name, readError(err))
		}
	}
	if err := iter.Error(); err != nil {
		return fmt.Errorf("read %s: %w", name, readError(err))
	}
	return nil
}

func (s *Store) loadMeta() (known bool, err error) {
	err = scan(s.db, spaceMeta, func(key, value []byte) error {
		switch string(key[1:]) {
		case metaSchema:
			known = true
			var version uint64
			if err := readNumbers(key, value, &version); err != nil {
				return err
			}
			if version > schema {
				return fmt.Errorf("%w: it has schema %d, this program knows %d", store.ErrFuture, version, schema)
			}
		case metaID:
			r, err := open(key, value)
			if err != nil {
				return err
			}
			s.id = r.text()
			return r.err()
		case metaEpoch:
			return readNumbers(key, value, &s.meta.epoch)
		case metaRetained:
			return readNumbers(key, value, &s.meta.retained, &s.meta.version)
		}
		return nil
	})
	if err != nil {
		return known, err
	}
	s.metrics.retained.Store(int64(s.meta.retained))
	return known, scan(s.db, spaceUnadopted, func(key, value []byte) error {
		_, err := open(key, value)
		s.meta.unadopted = append(s.meta.unadopted, string(key[1:]))
		return err
	})
}

func (s *Store) loadSessions() error {
	return scan(s.db, spaceRecord, func(key, value []byte) error {
		r, err := open(key, value)
		if err != nil {
			return err
		}
		x := &session{client: string(key[1:]), id: journal.SessionID(r.number()), epoch: r.number()}
		s.sessions[x.client] = x
		if x.id != 0 {
			s.byID[x.id] = x
		}
		return r.err()
	})
}

func (s *Store) loadInboxes() error {
	rows := 0
	err := scan(s.db, spaceQueue, func(key, value []byte) error {
		n, _ := number(key, 0)
		x := s.byID[journal.SessionID(n)]
		if x == nil {
			return corrupt(spaceQueue, "inbox without a session")
		}
		rows++
		var err error
		x.inbox, err = readInbox(key, value)
		s.metrics.inboxMessages.Add(int64(x.inbox.messages))
		s.metrics.inboxBytes.Add(int64(x.inbox.bytes))
		return err
	})
	if err == nil && rows != len(s.byID) {
		return corrupt(spaceQueue, "session without an inbox")
	}
	return err
}

func (s *Store) loadFlights() error {
	return scan(s.db, spaceFlight, func(key, value []byte) error {
		n, _ := number(key, 0)
		x := s.byID[journal.SessionID(n)]
		if x == nil {
			return nil // of a session that has ended
		}
		f, err := readFlight(key, value)
		if err != nil {
			return err
		}
		position, ok := number(key, 1)
		if !ok {
			return corrupt(spaceFlight, "key is malformed")
		}
		x.setFlight(journal.Position(position), f)
		return nil
	})
}

func (s *Store) loadBuckets() error {
	return scan(s.db, spaceBucket, func(key, value []byte) error {
		n, _ := number(key, 0)
		var references uint64
		if err := readNumbers(key, value, &references); err != nil {
			return err
		}
		s.buckets.all[n] = &bucket{references: int64(references)}
		s.buckets.newest = max(s.buckets.newest, n)
		s.metrics.buckets.Add(1)
		if references == 0 {
			// It was the newest when the store was closed.
			s.buckets.change(n)
		}
		return nil
	})
}

func (s *Store) loadGarbage() error {
	return scan(s.db, spaceGarbage, func(key, value []byte) error {
		n, _ := number(key, 0)
		s.garbage = append(s.garbage, garbage{id: journal.SessionID(n)})
		_, err := open(key, value)
		return err
	})
}
