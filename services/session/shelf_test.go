package session_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/pages"
	"github.com/beeline-mqtt/beeline/services/session"
	"github.com/beeline-mqtt/beeline/services/session/internal/away"
	"github.com/beeline-mqtt/beeline/services/session/internal/claims"
	"github.com/beeline-mqtt/beeline/services/session/internal/groups"
	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

// shelf keeps sessions in memory, over the terms of an instance, and writes down what it is asked. Its answers come
// from goroutines of its own.
type shelf struct {
	t    testing.TB
	base uint64

	mu       sync.Mutex
	desk     session.Desk
	holders  map[string]claims.Holder
	log      chan string
	refuse   error // of Open, Away, Write and Retain
	version  uint64
	closed   bool
	answers  sync.WaitGroup
	failOpen error // of the whole
	book     *groups.Book
	changes  []store.GroupChange // stored
	managed  [][]store.Member    // for which Manage was called
}

func newShelf(t testing.TB) *shelf {
	t.Helper()
	return &shelf{t: t, holders: map[string]claims.Holder{}, log: make(chan string, 1000)}
}

func (s *shelf) keep(_ context.Context, d session.Desk, _ int64) (session.Kept, uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.desk, s.closed = d, false
	book, err := groups.Open(groups.DefaultLimits(), (*shelvedGroups)(s))
	if err != nil {
		s.t.Error(err)
	}
	s.book = book
	return s, s.base, s.failOpen
}

func (s *shelf) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// did says what is done, and returns what it is answered with.
func (s *shelf) did(format string, args ...any) error {
	if s.closed {
		s.t.Errorf("after Close: "+format, args...)
	}
	s.log <- fmt.Sprintf(format, args...)
	return s.refuse
}

func (s *shelf) later(f func()) { s.answers.Go(f) }

func (s *shelf) Look(client string) (claims.Holder, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, stored := s.holders[client]
	return h, stored
}

func (s *shelf) Held(gateway string) map[string]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := map[string]uint64{}
	for client, h := range s.holders {
		if h.Gateway == gateway {
			held[client] = h.Epoch
		}
	}
	return held
}

func (s *shelf) Groups() *groups.Book { return s.book }

func (s *shelf) Manage(members []store.Member, done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.managed = append(s.managed, members)
	s.later(done)
}

func (s *shelf) UserClients(user string) []string { return []string{"away-of-" + user} }

// shelvedGroups is the store of a shelf's groups, called with mu free, but for the visit.
type shelvedGroups shelf

func (g *shelvedGroups) ChangeGroup(c store.GroupChange, done func(error)) {
	s := (*shelf)(g)
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.refuse
	if err == nil {
		s.changes = append(s.changes, c)
	}
	s.later(func() { done(err) })
}

func (g *shelvedGroups) LoadGroups(visit func(store.GroupChange) error) error {
	for _, c := range g.changes {
		if err := visit(c); err != nil {
			return err
		}
	}
	return nil
}

func (s *shelf) View([]string, uint64) {}

func (s *shelf) Open(e claims.Effect, done func(*journal.State, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	what := fmt.Sprintf("open %s, former %s", e.Client, e.Former)
	if e.Request.CleanStart {
		what += ", clean"
	}
	what += fmt.Sprintf(", expiry %d", e.Request.Expiry)
	if w := e.Request.Will; w != nil {
		what += fmt.Sprintf(", will %s after %v", w.Message.Topic, w.Delay)
	}
	if err := s.did("%s", what); err != nil {
		s.later(func() { done(nil, err) })
		return
	}
	_, present := s.holders[e.Client]
	s.holders[e.Client] = claims.Holder{Gateway: e.Gateway, Epoch: e.Epoch}
	s.later(func() { done(&journal.State{ID: 7, Present: present, First: 1, Next: 3}, nil) })
}

func (s *shelf) Away(e claims.Effect, epoch uint64, done func(error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if epoch <= e.Epoch {
		s.t.Errorf("%s is away at %d, and was held at %d", e.Client, epoch, e.Epoch)
	}
	what := "away " + e.Client
	if e.Ending != nil {
		what += fmt.Sprintf(": %+v", *e.Ending)
	}
	err := s.did("%s", what)
	if err == nil {
		s.holders[e.Client] = claims.Holder{Epoch: epoch}
	}
	s.later(func() { done(err) })
}

func (s *shelf) Write(w journal.Write, done func([]journal.LeftOut, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.did("write %d of %s", len(w.Changes), w.Client)
	if err == nil && s.holders[w.Client].Epoch != w.Epoch {
		err = store.ErrFenced
	}
	s.later(func() { done(nil, err) })
}

func (s *shelf) Retain(m *message.Message, done func(uint64, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.did("retain %s", m.Topic)
	s.version++
	v := s.version
	s.later(func() { done(v, err) })
}

func (s *shelf) Settled(client string, epoch uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.did("settled %s at %v", client, s.holders[client].Epoch == epoch)
}

func (s *shelf) Ghost(client string, epoch uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.did("ghost of %s at %d", client, epoch)
}

func (s *shelf) Close() error {
	s.answers.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.did("close")
	s.closed = true
	return nil
}

func (s *shelf) Inbox(r away.Reading) ([]journal.Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.holders[r.Client].Epoch != r.Epoch {
		return nil, store.ErrFenced
	}
	return nil, s.did("read %d entries and %d bytes behind %d", r.MaxEntries, r.MaxBytes, r.After)
}

func (s *shelf) Retained(filter string, _ []byte, limit int) (store.RetainedPage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return store.RetainedPage{}, s.did("read %d retained under %s", limit, filter)
}

func (s *shelf) Inspect(client string) (i away.Inspection, known bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, known := s.holders[client]
	i.Record.Holder, i.Record.Epoch = h.Gateway, h.Epoch
	return i, known, s.did("inspect %s", client)
}

// List, Receivers, Peek and Remove: nobody looks.
func (*shelf) List(pages.Range, int) ([]away.Absent, string)                { return nil, "" }
func (*shelf) Receivers(string, int) ([]away.Receiver, int)                 { return nil, 0 }
func (*shelf) Peek(string, journal.SessionID, int) ([]journal.Entry, error) { return nil, nil }
func (*shelf) Remove(_ string, done func(error))                            { done(away.ErrNoSession) }
