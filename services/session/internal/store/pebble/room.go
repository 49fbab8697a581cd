package pebble

import (
	"time"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

// makeRoom plans the end of the oldest entries until one of a size fits, and reports whether it does.
func (p *plan) makeRoom(size uint64) (bool, error) {
	l := &p.t.s.o.Limits
	for p.inbox.messages > 0 && (p.inbox.messages >= l.InboxMessages || p.inbox.bytes+size > l.InboxBytes) {
		reason := store.TooBig
		if p.inbox.messages >= l.InboxMessages {
			reason = store.TooMany
		}
		at, err := p.oldest()
		if err != nil {
			return false, err
		}
		p.count(reason)
		if at == 0 {
			return false, nil
		}
		if _, err := p.drop(at); err != nil {
			return false, err
		}
	}
	return true, nil
}

// count counts one that is lost to a bound.
func (p *plan) count(reason store.DropReason) {
	p.inbox.dropped++
	p.inbox.reason = reason
	p.drops[reason]++
}

// oldest returns the position of the oldest entry that is not in the middle of QoS 2, 0 if there is none. Those that
// it has passed, it does not look at again.
func (p *plan) oldest() (journal.Position, error) {
	if p.twice >= p.inbox.messages {
		return 0, nil
	}
	if p.room == nil {
		var err error
		if p.room, err = entries(p.t.Batch, p.x.id, p.inbox.first); err != nil {
			return 0, readError(err)
		}
		p.room.First()
	}
	for ; p.room.Valid(); p.room.Next() {
		n, _ := number(p.room.Key(), 1)
		at := journal.Position(n)
		if _, here := p.entries[at]; here || p.isTwice(at) {
			continue
		}
		return at, nil
	}
	if err := p.room.Error(); err != nil {
		return 0, readError(err)
	}
	for _, at := range p.order {
		if p.entries[at] != nil && !p.isTwice(at) {
			return at, nil
		}
	}
	return 0, nil
}

func (p *plan) isTwice(at journal.Position) bool {
	f, ok := p.flight(at)
	return ok && f.twice
}

// trim submits the end of entries that a reader found expired, or too old.
func (s *Store) trim(client string, session journal.SessionID, expired, old []journal.Position) {
	s.submit(operation{line: client, size: 8 * (len(expired) + len(old)), stage: func(t *stage) error {
		x := s.sessions[client]
		if x == nil || x.id != session {
			return nil
		}
		p := newPlan(t, x, s.o.Now())
		defer p.close()
		for _, at := range expired {
			if _, flies := p.flight(at); flies {
				continue // it was sent since
			}
			if done, err := p.drop(at); err != nil {
				return err
			} else if done {
				p.expired++
			}
		}
		for _, at := range old {
			if err := p.dropOld(at); err != nil {
				return err
			}
		}
		return p.apply()
	}}, false)
}

func (p *plan) dropOld(at journal.Position) error {
	if _, flies := p.flight(at); flies {
		return nil
	}
	done, err := p.drop(at)
	if done {
		p.count(store.TooOld)
	}
	return err
}

// trimmed is how many entries of a session are dropped for their age by one operation.
const trimmed = 1000

// trimOld drops what has waited for too long in one inbox, in the order of arrival, and makes its row exact.
func (s *Store) trimOld(client string) {
	s.submit(operation{line: client, stage: func(t *stage) error {
		x := s.sessions[client]
		if x == nil || x.inbox.messages == 0 {
			return nil
		}
		p := newPlan(t, x, s.o.Now())
		defer p.close()
		iter, err := entries(t.Batch, x.id, x.inbox.first)
		if err != nil {
			return readError(err)
		}
		defer closeQuietly(iter)
		limit := s.oldest(p.now)
		exact, n := false, 0
		for valid := iter.First(); valid; valid = iter.Next() {
			value, err := iter.ValueAndErr()
			if err != nil {
				return readError(err)
			}
			e, err := readEntry(iter.Key(), value)
			if err != nil {
				return err
			}
			position, _ := number(iter.Key(), 1)
			at := journal.Position(position)
			_, flies := p.flight(at)
			if !exact && (flies || e.appended >= limit) {
				p.inbox.first, p.inbox.oldest, p.inbox.exact = at, e.appended, true
				exact = true
			}
			if e.appended >= limit {
				break
			}
			if n++; n > trimmed {
				s.trimOld(client)
				break
			}
			if err := p.dropOld(at); err != nil {
				return err
			}
		}
		if err := iter.Error(); err != nil {
			return readError(err)
		}
		return p.apply()
	}}, false)
}

// oldest returns before when an entry was appended that has waited for too long, in milliseconds since 1970.
func (s *Store) oldest(now time.Time) int64 {
	return now.Add(-s.o.Limits.InboxAge).UnixMilli()
}
