package pebble

import (
	"fmt"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

// setFlight stores what happened to an entry.
func (x *session) setFlight(p journal.Position, f flight) {
	x.dropFlight(p)
	if x.flights == nil {
		x.flights = make(map[journal.Position]flight)
	}
	x.flights[p] = f
	if f.twice {
		x.twice++
	}
}

func (x *session) dropFlight(p journal.Position) {
	if f, ok := x.flights[p]; ok {
		if f.twice {
			x.twice--
		}
		delete(x.flights, p)
	}
}

// Put is store.Sessions's.
func (s *Store) Put(ifEpoch uint64, r store.Record, done func(error)) {
	row := putRecord(nil, &r)
	s.submit(operation{line: r.Client, size: len(row), done: done, stage: func(t *stage) error {
		return t.putRow(ifEpoch, &r, row)
	}}, false)
}

func (t *stage) putRow(ifEpoch uint64, r *store.Record, row []byte) error {
	x := t.s.sessions[r.Client]
	if err := checkEpoch(x, ifEpoch); err != nil {
		return err
	}
	if r.Epoch == 0 || r.Epoch < ifEpoch {
		return fmt.Errorf("%w: epoch %d after %d", store.ErrInvalid, r.Epoch, ifEpoch)
	}
	former := journal.SessionID(0)
	if x != nil {
		former = x.id
	}
	if r.Session != former && r.Session != 0 {
		used, err := t.used(r.Session)
		if err != nil {
			return err
		}
		if used {
			return fmt.Errorf("%w: session id is in use", store.ErrInvalid)
		}
	}
	t.key = keyRecord(t.key[:0], r.Client)
	if err := t.Set(t.key, seal(row, 0, t.key), nil); err != nil {
		return err
	}
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	t.s.meta.raise(r.Epoch)
	if x == nil {
		x = &session{client: r.Client}
		t.s.sessions[r.Client] = x
	}
	x.epoch = r.Epoch
	if r.Session == former {
		return nil
	}
	if err := t.discard(x); err != nil {
		return err
	}
	if r.Session == 0 {
		return nil
	}
	x.id, x.inbox = r.Session, inbox{next: 1, first: 1}
	x.newest.known = true // there is nothing to know
	t.s.byID[x.id] = x
	return t.putInbox(x)
}

// checkEpoch compares the record that is there with the one that the caller expects.
func checkEpoch(x *session, ifEpoch uint64) error {
	switch {
	case x == nil && ifEpoch != 0:
		return fmt.Errorf("%w: there is none, and not one of epoch %d", store.ErrConflict, ifEpoch)
	case x != nil && x.epoch != ifEpoch:
		return fmt.Errorf("%w: its epoch is %d, and not %d", store.ErrConflict, x.epoch, ifEpoch)
	}
	return nil
}

// used reports whether there are, or may be, rows of a session.
func (t *stage) used(id journal.SessionID) (bool, error) {
	if t.s.byID[id] != nil {
		return true, nil
	}
	value, err := t.get(keySession(t.key[:0], spaceGarbage, id))
	return value != nil, err
}

func (t *stage) putInbox(x *session) error {
	t.key = keySession(t.key[:0], spaceQueue, x.id)
	return t.set(t.key, func(b []byte) []byte { return putInbox(b, &x.inbox) })
}

// discard ends the session of x, if it has one: it is gone with this commit, and its rows are removed bit by bit.
func (t *stage) discard(x *session) error {
	if x.id == 0 {
		return nil
	}
	t.key = keySession(t.key[:0], spaceGarbage, x.id)
	if err := t.set(t.key, func(b []byte) []byte { return append(b, valueVersion) }); err != nil {
		return err
	}
	t.key = keySession(t.key[:0], spaceQueue, x.id)
	if err := t.Delete(t.key, nil); err != nil {
		return err
	}
	t.s.garbage = append(t.s.garbage, garbage{id: x.id})
	t.s.metrics.inboxMessages.Add(-int64(x.inbox.messages))
	t.s.metrics.inboxBytes.Add(-int64(x.inbox.bytes))
	delete(t.s.byID, x.id)
	x.id, x.inbox, x.flights, x.twice, x.newest = 0, inbox{}, nil, 0, newest{}
	return nil
}

// Delete is store.Sessions's.
func (s *Store) Delete(client string, ifEpoch uint64, done func(error)) {
	s.submit(operation{line: client, done: done, stage: func(t *stage) error {
		x := t.s.sessions[client]
		if x == nil {
			return nil
		}
		if err := checkEpoch(x, ifEpoch); err != nil {
			return err
		}
		t.key = keyRecord(t.key[:0], client)
		if err := t.Delete(t.key, nil); err != nil {
			return err
		}
		t.s.mu.Lock()
		defer t.s.mu.Unlock()
		delete(t.s.sessions, client)
		return t.discard(x)
	}}, false)
}

// Get is store.Sessions's.
func (s *Store) Get(client string) (r store.Record, ok bool, err error) {
	err = s.read(client, func() error {
		key := keyRecord(nil, client)
		value, found, err := get(s.db, key)
		if err != nil || !found {
			return err
		}
		ok = true
		r, err = readRecord(key, value)
		return err
	})
	if err != nil {
		return store.Record{}, false, fmt.Errorf("read record of %q: %w", client, err)
	}
	return r, ok, nil
}

// get returns a value of the caller's own.
func get(db pebble.Reader, key []byte) (value []byte, found bool, err error) {
	v, closer, err := db.Get(key)
	if err == pebble.ErrNotFound { //nolint:errorlint // returned as it is, and asked for all the time
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("%s: %w", spaceName(key[0]), err)
	}
	value = slices.Clone(v)
	return value, true, closer.Close()
}

// Load is store.Sessions's.
func (s *Store) Load(visit func(store.Record, store.Stats) error) error {
	return s.read(lineAll, func() error {
		return scan(s.db, spaceRecord, func(key, value []byte) error {
			r, err := readRecord(key, value)
			if err != nil {
				return err
			}
			stats, err := s.stats(r.Client)
			if err != nil {
				return err
			}
			return visit(r, stats)
		})
	})
}

// Stats is store.Sessions's.
func (s *Store) Stats(client string) (stats store.Stats, err error) {
	err = s.read(client, func() error {
		stats, err = s.stats(client)
		return err
	})
	return stats, err
}

func (s *Store) stats(client string) (store.Stats, error) {
	id, q := s.look(client)
	if id == 0 {
		return store.Stats{}, nil
	}
	stats := store.Stats{Messages: q.messages, Bytes: q.bytes, Dropped: q.dropped, LastDropReason: q.reason}
	if q.messages == 0 {
		return stats, nil
	}
	if !q.exact {
		if err := seekFirst(s.db, id, &q); err != nil {
			return store.Stats{}, err
		}
	}
	if q.first < q.next {
		stats.Oldest = time.UnixMilli(q.oldest)
	}
	return stats, nil
}

// look returns the session that a client has and how its inbox is filled.
func (s *Store) look(client string) (journal.SessionID, inbox) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if x := s.sessions[client]; x != nil {
		return x.id, x.inbox
	}
	return 0, inbox{}
}

// seekFirst makes q exact, if there is an entry.
func seekFirst(db pebble.Reader, id journal.SessionID, q *inbox) error {
	iter, err := entries(db, id, q.first)
	if err != nil {
		return err
	}
	defer closeQuietly(iter)
	if !iter.First() {
		q.first = q.next
		return iter.Error()
	}
	value, err := iter.ValueAndErr()
	if err != nil {
		return err
	}
	e, err := readEntry(iter.Key(), value)
	if err != nil {
		return err
	}
	n, _ := number(iter.Key(), 1)
	q.first, q.oldest, q.exact = journal.Position(n), e.appended, true
	return nil
}

// entries iterates over the entries of a session from a position on.
func entries(db pebble.Reader, id journal.SessionID, from journal.Position) (*pebble.Iterator, error) {
	return db.NewIter(&pebble.IterOptions{
		LowerBound: keyPosition(nil, spaceEntry, id, from),
		UpperBound: after(keySession(nil, spaceEntry, id)),
	})
}
