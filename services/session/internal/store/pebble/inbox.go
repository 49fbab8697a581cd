package pebble

import (
	"fmt"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

// State is store.Inboxes's.
func (s *Store) State(client string, session journal.SessionID) (state journal.State, err error) {
	err = s.read(client, func() error {
		id, q := s.look(client)
		if id == 0 || id != session {
			return store.ErrFenced
		}
		state = journal.State{ID: id, Present: true, Taken: make(map[uint16]message.ID), First: q.next, Next: q.next}
		if q.messages > 0 {
			if err := seekFirst(s.db, id, &q); err != nil {
				return err
			}
			state.First = q.first
		}
		err := scanRange(s.db, keySession(nil, spaceSubscribe, id), func(key, value []byte) error {
			o, err := readOptions(key, value)
			state.Subscriptions = append(state.Subscriptions, journal.Subscription{Filter: string(key[9:]), Options: o})
			return err
		})
		if err != nil {
			return err
		}
		return scanRange(s.db, keySession(nil, spaceTaken, id), func(key, value []byte) error {
			r, err := open(key, value)
			if err != nil || len(key) != 11 {
				return corrupt(spaceTaken, "row is malformed")
			}
			state.Taken[uint16(key[9])<<8|uint16(key[10])] = r.id()
			return r.err()
		})
	})
	if err != nil {
		return journal.State{}, fmt.Errorf("read session of %q: %w", client, err)
	}
	return state, nil
}

// page is one page of an inbox in the making.
type page struct {
	s           *Store
	id          journal.SessionID
	snapshot    *pebble.Snapshot
	flights     *pebble.Iterator
	now         time.Time
	entries     []journal.Entry
	bytes       int
	expired     []journal.Position
	old         []journal.Position
	key         []byte
	flightsOver bool
}

// Inbox is store.Inboxes's.
func (s *Store) Inbox(client string, session journal.SessionID, after journal.Position, maxEntries, maxBytes int) ([]journal.Entry, error) {
	p := page{s: s, id: session, now: s.o.Now()}
	err := s.read(client, func() error {
		id, q := s.look(client)
		if id == 0 || id != session {
			return store.ErrFenced
		}
		if q.messages == 0 || after+1 >= q.next {
			return nil
		}
		p.snapshot = s.db.NewSnapshot()
		defer closeQuietly(p.snapshot)
		return p.read(max(after+1, q.first), maxEntries, maxBytes)
	})
	if err != nil {
		return nil, fmt.Errorf("read inbox of %q: %w", client, err)
	}
	if len(p.expired)+len(p.old) > 0 {
		s.trim(client, session, p.expired, p.old)
	}
	return p.entries, nil
}

// passedOver is how many expired entries one page passes over at most, unless it would be empty.
const passedOver = 10_000

func (p *page) read(from journal.Position, maxEntries, maxBytes int) error {
	iter, err := entries(p.snapshot, p.id, from)
	if err != nil {
		return err
	}
	defer closeQuietly(iter)
	p.flights, err = p.snapshot.NewIter(&pebble.IterOptions{
		LowerBound: keyPosition(nil, spaceFlight, p.id, from),
		UpperBound: after(keySession(nil, spaceFlight, p.id)),
	})
	if err != nil {
		return err
	}
	defer closeQuietly(p.flights)
	p.flightsOver = !p.flights.First()
	for valid := iter.First(); valid; valid = iter.Next() {
		value, err := iter.ValueAndErr()
		if err != nil {
			return err
		}
		more, err := p.entry(iter.Key(), value, maxBytes)
		if err != nil {
			return err
		}
		if !more || len(p.entries) >= max(1, maxEntries) ||
			len(p.entries) > 0 && len(p.expired)+len(p.old) >= passedOver {
			return nil
		}
	}
	return iter.Error()
}

// entry adds an entry to the page, and reports whether there was room.
func (p *page) entry(key, value []byte, maxBytes int) (bool, error) {
	n, _ := number(key, 1)
	at := journal.Position(n)
	f, flies, err := p.flight(at)
	if err != nil {
		return false, err
	}
	e, err := readEntry(key, value)
	if err != nil {
		return false, err
	}
	if !flies && e.expired(p.now.UnixNano()) {
		p.expired = append(p.expired, at)
		return true, nil
	}
	if !flies && e.appended < p.s.oldest(p.now) {
		p.old = append(p.old, at)
		return true, nil
	}
	if len(p.entries) > 0 && p.bytes+int(e.size) > maxBytes {
		return false, nil
	}
	je := journal.Entry{Position: at, QoS: e.qos, Retain: e.retain, IDs: e.ids, PacketID: f.packet, Released: f.released}
	if je.Message, err = p.message(&e, at); err != nil {
		return false, err
	}
	p.s.lately.add(p.id, at, e)
	p.entries = append(p.entries, je)
	p.bytes += int(e.size)
	return true, nil
}

// flight returns what happened to an entry. Positions ascend from call to call.
func (p *page) flight(at journal.Position) (flight, bool, error) {
	for !p.flightsOver {
		n, _ := number(p.flights.Key(), 1)
		if journal.Position(n) > at {
			return flight{}, false, nil
		}
		if journal.Position(n) == at {
			value, err := p.flights.ValueAndErr()
			if err != nil {
				return flight{}, false, err
			}
			f, err := readFlight(p.flights.Key(), value)
			return f, true, err
		}
		p.flightsOver = !p.flights.Next()
	}
	return flight{}, false, p.flights.Error()
}

func (p *page) message(e *entry, at journal.Position) (*message.Message, error) {
	switch e.body {
	case bodyNone:
		return nil, nil //nolint:nilnil // an entry that was released needs none
	case bodyInline:
		r := e.inline
		r.b = slices.Clone(r.b)
		return readMessage(&r, false), r.err()
	}
	p.key = keyMessage(p.key[:0], e.bucket, e.id, e.sum)
	value, found, err := get(p.snapshot, p.key)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, corrupt(spaceMessage, fmt.Sprintf("message of an entry at position %d is missing", at))
	}
	r, err := open(p.key, value)
	if err != nil {
		return nil, err
	}
	if sum(r.b) != e.sum {
		return nil, corrupt(spaceMessage, "another message is in its place")
	}
	return readMessage(&r, false), r.err()
}
