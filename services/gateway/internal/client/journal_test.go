package client_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/beeline-mqtt/beeline/internal/journal"
	"github.com/beeline-mqtt/beeline/internal/message"
	"github.com/beeline-mqtt/beeline/internal/topic"
	"github.com/beeline-mqtt/beeline/services/gateway/internal/client"
)

// shelf is a client.Journal in memory. It confirms writes in order on a goroutine of its own, at once or, while it is
// held, when it is let go.
type shelf struct {
	work chan func()
	done sync.WaitGroup

	mu       sync.Mutex // guards the following
	sessions map[string]*kept
	retained map[string]*message.Message
	fenced   map[string]bool
	holding  bool
	waiting  []func()
	writes   []journal.Write
	last     journal.SessionID
	pageSize int
	reads    int // pages of retained messages
	quota    int // retained messages that there may be; 0: any number
}

// kept is what the shelf has of one session.
type kept struct {
	id      journal.SessionID
	filters map[string]journal.Subscription
	entries []journal.Entry
	taken   map[uint16]message.ID
	next    journal.Position
}

func newShelf(t testing.TB) *shelf {
	s := &shelf{
		work: make(chan func(), 10_000), sessions: make(map[string]*kept), retained: make(map[string]*message.Message),
		fenced: make(map[string]bool), pageSize: 10,
	}
	s.done.Go(func() {
		for f := range s.work {
			f()
		}
	})
	t.Cleanup(func() {
		close(s.work)
		s.done.Wait()
	})
	return s
}

// open is what the session service does with a claim: the session that the client has from now on, nil for none.
func (s *shelf) open(id string, terms client.Terms) *journal.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.sessions[id]
	if terms.CleanStart {
		k = nil
		delete(s.sessions, id)
	}
	present := k != nil
	if k == nil {
		if terms.Expiry == 0 {
			return nil
		}
		s.last++
		k = &kept{id: s.last, filters: make(map[string]journal.Subscription), taken: make(map[uint16]message.ID), next: 1}
		s.sessions[id] = k
	}
	st := &journal.State{ID: k.id, Present: present, Taken: make(map[uint16]message.ID), First: k.next, Next: k.next}
	for _, f := range k.filters {
		st.Subscriptions = append(st.Subscriptions, f)
	}
	for p, m := range k.taken {
		st.Taken[p] = m
	}
	if len(k.entries) > 0 {
		st.First = k.entries[0].Position
	}
	return st
}

// confirm has f called on the shelf's goroutine. With s.mu held.
func (s *shelf) confirm(f func()) {
	if s.holding {
		s.waiting = append(s.waiting, f)
		return
	}
	s.work <- f
}

// hold keeps answers back until letGo.
func (s *shelf) hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holding = true
}

// fence refuses everything that is written for a session, or read of it, from now on.
func (s *shelf) fence(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fenced[id] = true
}

func (s *shelf) letGo() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holding = false
	for _, f := range s.waiting {
		s.work <- f
	}
	s.waiting = nil
}

func (s *shelf) Write(w journal.Write, done func([]journal.LeftOut, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.sessions[w.Client]
	if k == nil || k.id != w.Session || s.fenced[w.Client] {
		s.confirm(func() { done(nil, client.ErrFenced) })
		return
	}
	s.writes = append(s.writes, w)
	for _, c := range w.Changes {
		k.apply(c)
	}
	s.confirm(func() { done(nil, nil) })
}

func (k *kept) apply(c journal.Change) {
	at := slices.IndexFunc(k.entries, func(e journal.Entry) bool { return e.Position == c.Position })
	switch c.Kind {
	case journal.Append:
		k.entries = append(k.entries, c.Entry)
		k.next = c.Entry.Position + 1
	case journal.Sent:
		if at >= 0 {
			k.entries[at].PacketID = c.PacketID
		}
	case journal.Released:
		if at >= 0 {
			k.entries[at].Released = true
		}
	case journal.Done:
		if at >= 0 {
			k.entries = slices.Delete(k.entries, at, at+1)
		}
	case journal.Taken:
		k.taken[c.PacketID] = c.Message
	case journal.Completed:
		delete(k.taken, c.PacketID)
	case journal.Subscribed:
		k.filters[c.Filter] = journal.Subscription{Filter: c.Filter, Options: c.Options}
	case journal.Unsubscribed:
		delete(k.filters, c.Filter)
	}
}

func (s *shelf) ReadInbox(c *client.Client, after journal.Position, done func([]journal.Entry, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fenced[c.ID] {
		s.confirm(func() { done(nil, client.ErrFenced) })
		return
	}
	var page []journal.Entry
	for _, e := range s.sessions[c.ID].entries {
		if e.Position > after && len(page) < s.pageSize {
			page = append(page, e)
		}
	}
	s.confirm(func() { done(page, nil) })
}

// Watch calls Look when the message is due: there is no time in tests but what synctest makes.
func (s *shelf) Watch(c *client.Client) {
	time.AfterFunc(51*time.Millisecond, func() { c.Look(time.Now()) })
}

func (s *shelf) Retain(m *message.Message, done func(error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.quota > 0 && len(s.retained) >= s.quota {
		s.confirm(func() { done(client.ErrQuota) })
		return
	}
	if len(m.Payload) == 0 {
		delete(s.retained, m.Topic)
	} else {
		s.retained[m.Topic] = m
	}
	s.confirm(func() { done(nil) })
}

func (s *shelf) ReadRetained(_ *client.Client, filter string, cursor []byte, done func([]*message.Message, []byte)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	var names []string
	for name := range s.retained {
		if topic.Match(filter, name) && name > string(cursor) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var next []byte
	if len(names) > s.pageSize {
		names = names[:s.pageSize]
		next = []byte(names[s.pageSize-1])
	}
	var page []*message.Message
	for _, name := range names {
		page = append(page, s.retained[name])
	}
	s.confirm(func() { done(page, next) })
}

// written returns the changes of a client's session so far.
func (s *shelf) written(id string) []journal.Change {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []journal.Change
	for _, w := range s.writes {
		if w.Client == id {
			all = append(all, w.Changes...)
		}
	}
	return all
}

// entries returns what is in the inbox of a client's session, and how much of it has been given a packet identifier.
func (s *shelf) entries(id string) []journal.Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := s.sessions[id]; k != nil {
		return slices.Clone(k.entries)
	}
	return nil
}

// kinds returns the kinds of the changes of a client's session so far.
func (s *shelf) kinds(id string) []journal.Kind {
	var kinds []journal.Kind
	for _, c := range s.written(id) {
		kinds = append(kinds, c.Kind)
	}
	return kinds
}

// keep puts n retained messages on the shelf: t/000000 and so on.
func (s *shelf) keep(n int, qos byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range n {
		name := fmt.Sprintf("t/%06d", i)
		s.retained[name] = &message.Message{Topic: name, Payload: []byte(name), QoS: qos, Retain: true}
	}
}

func (s *shelf) pages() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads
}
