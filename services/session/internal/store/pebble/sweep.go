package pebble

import (
	"errors"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

// Message ids that inboxes had are remembered in generations, which are dropped whole: for ten minutes at least, and
// for less than fifteen.
const (
	generationLength = 5 * time.Minute
	generations      = 3
)

func generation(now time.Time) uint64 { return uint64(now.UnixNano() / int64(generationLength)) }

// sweeps looks regularly for what has become too old, and for an end of the log that nothing attests.
func (s *Store) sweeps() {
	sweep, attest := time.NewTicker(sweepEvery), time.NewTicker(attestEvery)
	defer sweep.Stop()
	defer attest.Stop()
	for {
		select {
		case <-sweep.C:
			s.sweep()
		case <-attest.C:
			if s.unattested.Load() {
				s.attest(nil)
			}
		case <-s.stop:
			return
		}
	}
}

// attest adds a mark behind the newest group of changes, if it is durable.
func (s *Store) attest(done func(error)) {
	s.submit(operation{line: lineSweep, done: done, stage: func(t *stage) error {
		t.attests = t.marked
		return nil
	}}, false)
}

// sweep drops old message ids, and what has waited for too long in inboxes.
func (s *Store) sweep() {
	now := s.o.Now()
	s.submit(operation{line: lineSweep, stage: func(t *stage) error { return s.forget(t, generation(now)) }}, false)
	limit := s.oldest(now)
	var clients []string
	s.mu.RLock()
	for client, x := range s.sessions {
		if x.inbox.messages > 0 && x.inbox.oldest < limit {
			clients = append(clients, client)
		}
	}
	s.mu.RUnlock()
	for _, client := range clients {
		s.trimOld(client)
	}
}

// forget drops the generations of message ids that are old enough.
func (s *Store) forget(t *stage, now uint64) error {
	if s.memory == now || now < generations {
		return nil
	}
	s.memory = now
	return t.DeleteRange(keyNumber(nil, spaceMemory, 0), keyNumber(nil, spaceMemory, now-generations+1), &pebble.WriteOptions{})
}

// garbage is a session that has ended and has rows left.
type garbage struct {
	id journal.SessionID
	// space is the index in garbageSpaces of where to go on, next the key, nil for the first.
	space int
	next  []byte
}

// garbageSpaces lists where a session has rows. Its key in spaceGarbage goes last.
const garbageSpaces = string(rune(spaceEntry)) + string(rune(spaceFlight)) + string(rune(spaceTwice)) +
	string(rune(spaceSubscribe)) + string(rune(spaceTaken))

// garbageRows is how many rows one commit removes: small enough that nobody waits long for it.
const garbageRows = 512

// stageGarbage removes some rows of sessions that have ended, one by one: a range for each would be cheap to write and
// make every later read slower.
func (s *Store) stageGarbage(t *stage) error {
	for rows := 0; rows < garbageRows && len(s.garbage) > 0; {
		g := &s.garbage[0]
		n, err := s.collect(t, g, garbageRows-rows)
		rows += n + 1
		if err != nil {
			if !errors.Is(err, store.ErrCorrupt) {
				return err
			}
			// They are tried again when the store is opened.
			s.o.Logger.Error("rows of an ended session cannot be removed", slog.Any("error", err))
			g.space = len(garbageSpaces) + 1
		}
		if g.space < len(garbageSpaces) {
			continue
		}
		if g.space == len(garbageSpaces) {
			if err := t.Delete(keySession(nil, spaceGarbage, g.id), nil); err != nil {
				return err
			}
		}
		s.garbage[0] = garbage{}
		if s.garbage = s.garbage[1:]; len(s.garbage) == 0 {
			s.garbage = nil
		}
	}
	return nil
}

// collect removes rows in one space, and counts them.
func (s *Store) collect(t *stage, g *garbage, limit int) (int, error) {
	prefix := keySession(nil, garbageSpaces[g.space], g.id)
	if g.next == nil {
		g.next = prefix
	}
	iter, err := t.NewIter(&pebble.IterOptions{LowerBound: g.next, UpperBound: after(prefix)})
	if err != nil {
		return 0, readError(err)
	}
	defer closeQuietly(iter)
	var keys [][]byte
	valid := iter.First()
	for ; valid && len(keys) < limit; valid = iter.Next() {
		key := append([]byte(nil), iter.Key()...)
		keys = append(keys, key)
		if key[0] != spaceEntry {
			continue
		}
		value, err := iter.ValueAndErr()
		if err != nil {
			return 0, readError(err)
		}
		// One that cannot be read is removed all the same, though its bucket stays.
		if e, err := readEntry(key, value); err == nil && e.body == bodyShared {
			s.buckets.refer(e.bucket, -1)
		}
	}
	if valid {
		g.next = append([]byte(nil), iter.Key()...)
	} else {
		g.space, g.next = g.space+1, nil
	}
	if err := iter.Error(); err != nil {
		return 0, readError(err)
	}
	for _, key := range keys {
		if err := t.Delete(key, nil); err != nil {
			return 0, err
		}
	}
	return len(keys), nil
}
